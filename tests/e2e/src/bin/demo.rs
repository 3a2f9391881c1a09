//! The part of `cargo xtask demo` with real containers: one step after the other, timed.

use nydus_e2e::containerd::VERSIONS;
use nydus_e2e::image::Rafs;
use nydus_e2e::node::{Case, LIMIT, Node};
use nydus_e2e::stage::Stage;
use nydus_e2e::{machines, programs, service};
use nydus_mount_slice::ExtraOption;
use std::process::{Command, ExitCode};
use std::time::Instant;

fn main() -> ExitCode {
    let Some(stage) = Stage::of_a_node() else {
        println!("  not run: containers need root of the machine");
        return ExitCode::SUCCESS;
    };
    let (containerd, mode, rafs) = (VERSIONS[0], "dedicated", Rafs::V6);
    let case = Case { containerd, mode, rafs, helper: "nydus-overlayfs", more: "" };
    let start = step("start docker-registry, containerd-nydus-grpc and containerd 1.6");
    let Some(mut node) = Node::start(stage, case) else {
        println!("  not run: a program could not be fetched");
        return ExitCode::SUCCESS;
    };
    done(start);
    match std::env::args().nth(1).as_deref() {
        Some("guest") => show_guest(&node),
        _ => show(&mut node),
    }
    ExitCode::SUCCESS
}

/// A container whose snapshot is then run in a guest.
fn show_guest(node: &Node) {
    let start = step("build a Nydus image, push and pull it, and run a container under runc");
    let Some((_, reference)) = node.pulled() else { return println!("  not run: no nydus-image") };
    let shell = "echo mine > /data/new; sleep 1000";
    let ran = node.containerd.start_container(&[], &reference, "demo", &["sh", "-c", shell]);
    node.done(&ran);
    let written = || node.containerd.exec("demo", &["cat", "/data/new"]).ok();
    assert!(service::until(LIMIT, written), "{}", node.logs());
    node.done(&node.containerd.ctr(&["tasks", "rm", "--force", "demo"]));
    done(start);
    guest(node);
    node.done(&node.containerd.ctr(&["containers", "rm", "demo"]));
    remove(node, &reference);
}

fn remove(node: &Node, reference: &str) {
    let start = step("containers and image are removed; nothing is left");
    node.remove(reference);
    done(start);
    assert_eq!(service::naming(&node.snapshotter.root().join("socket")), []);
}

fn show(node: &mut Node) {
    let start =
        step("build a Nydus image of two layers (RAFS v6), push it, and pull it as kubelet does");
    let Some((image, reference)) = node.pulled() else {
        return println!("  not run: no nydus-image");
    };
    done(start);
    let whole: u64 = image.data().map(|blob| blob.size).sum();
    let served =
        |node: &Node| -> u64 { image.data().map(|blob| node.proxy.served(&blob.digest)).sum() };
    println!(
        "    the registry has {whole} bytes of data; containerd pulled {} of them",
        served(node)
    );

    let start =
        step("stack 2: containerd -> containerd-shim-runc-v2 -> mount.fuse -> nydus-overlayfs");
    let shell =
        "echo hello from the lazily read image; cat /data/both; echo mine > /data/new; sleep 1000";
    let ran = node.containerd.start_container(&[], &reference, "demo", &["sh", "-c", shell]);
    node.done(&ran);
    done(start);
    slice(node);
    println!("    {} of {whole} bytes are read by now", served(node));

    let start = step(
        "stack 1: containerd -> mount.fuse -> nydus-overlayfs, to compare container and image",
    );
    let diff = ["snapshots", "--snapshotter", "nydus", "diff", "--keep", "demo"];
    let ran = node.containerd.ctr(&diff);
    node.done(&ran);
    done(start);

    let written = || node.containerd.exec("demo", &["cat", "/data/new"]).ok();
    assert!(service::until(LIMIT, written), "{}", node.logs());
    let start = step("the snapshotter is killed (-9) and started again; the container goes on");
    node.snapshotter.service().kill();
    node.snapshotter.restart();
    node.wait_for_snapshotter();
    let ran = node.containerd.exec("demo", &["cat", "/data/lower", "/data/new"]);
    assert_eq!(ran.stdout, b"lower\nmine\n", "{ran}\n{}", node.logs());
    done(start);
    status(node);

    let start = step("a second container reads all of the large file");
    let ran = node.containerd.run(&[], &reference, "all", &["wc", "-c", "/data/big"]);
    node.done(&ran);
    done(start);
    println!("    {} of {whole} bytes are read by now", served(node));

    node.done(&node.containerd.ctr(&["tasks", "rm", "--force", "demo"]));
    native(node, &reference);
    remove(node, &reference);
}

/// The image is completed; then the kernel serves it, and no daemon runs.
fn native(node: &Node, reference: &str) {
    let memory = || -> u64 { node.daemons().iter().filter_map(|pid| resident(*pid)).sum() };
    let before = memory();
    let start = step("containerd-nydus-grpc warm: the rest is read, and every chunk is verified");
    let mut command = Command::new(programs::ours("containerd-nydus-grpc"));
    command.args(["warm", reference, "--address"]).arg(node.snapshotter.socket());
    let ran = nydus_e2e::run::run(&mut command);
    if !ran.ok() {
        println!("  not run: {}", String::from_utf8_lossy(&ran.stderr).trim());
        return node.done(&node.containerd.ctr(&["containers", "rm", "demo"]));
    }
    done(start);
    let start = step("the first container goes, the last one on nydusd's mount; so nydusd ends");
    node.done(&node.containerd.ctr(&["containers", "rm", "demo"]));
    node.containerd.gc();
    assert!(service::until(LIMIT, || node.daemons().is_empty()), "{}", node.logs());
    done(start);
    println!("    nydusd had {} MiB, now {} MiB", before >> 20, memory() >> 20);
    let start = step("the same container again, from the kernel's EROFS: no daemon");
    let shell = "echo hello from the kernel; cat /data/both; wc -c < /data/big";
    let ran = node.containerd.run(&[], reference, "native", &["sh", "-c", shell]);
    node.done(&ran);
    String::from_utf8_lossy(&ran.stdout).lines().for_each(|line| println!("    | {line}"));
    done(start);
    assert_eq!(node.daemons(), []);
    status(node);
}

/// Bytes of memory that a process has.
fn resident(pid: rustix::process::Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

/// What runc has run, now in a virtual machine, and back.
fn guest(node: &Node) {
    let Some(settings) = machines::settings("guest-6.1", &node.stage.join("vm")) else {
        return println!("  not run: stack 3: no QEMU or no kernel for a guest");
    };
    node.containerd.has_machines(&settings);
    let shell = "uname -r; cat /data/new; echo of a guest >> /data/new";
    for (what, id, runtime, shell) in [
        (
            "stack 3: containerd -> containerd-shim-nydusvm-v2 -> nydusd: the first one's snapshot",
            "guest",
            machines::RUNTIME,
            shell,
        ),
        ("the same snapshot under runc again", "again", "io.containerd.runc.v2", "cat /data/new"),
    ] {
        let start = step(what);
        node.containerd.beside("demo", id, runtime, &["sh", "-c", shell]);
        let ran = node.containerd.start_task(id);
        node.done(&ran);
        String::from_utf8_lossy(&ran.stdout).lines().for_each(|line| println!("    | {line}"));
        node.done(&node.containerd.ctr(&["containers", "rm", "--keep-snapshot", id]));
        done(start);
    }
}

fn step(what: &str) -> Instant {
    println!("  {what}");
    Instant::now()
}

fn done(start: Instant) {
    println!("    took {:.0} ms", start.elapsed().as_secs_f64() * 1000.0);
}

/// The mount slice, what it carries for a guest named but not shown: it holds credentials.
fn slice(node: &Node) {
    let ran =
        node.containerd.ctr(&["snapshots", "--snapshotter", "nydus", "mounts", "/rootfs", "demo"]);
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    let (before, value) = text.trim().split_once("extraoption=").unwrap_or((text.trim(), ""));
    println!("    its slice: {before}extraoption=…({} bytes)", value.len());
    let value = value.split([',', ' ']).next().unwrap_or_default();
    if let Ok(slice) = ExtraOption::from_options(&[format!("extraoption={value}")]) {
        println!("    carries: bootstrap {}, {:?}", slice.value.source, slice.value.fs_version);
    }
}

fn status(node: &Node) {
    let mut command = Command::new(programs::ours("containerd-nydus-grpc"));
    command.arg("status").arg("--address").arg(node.snapshotter.socket());
    let ran = nydus_e2e::run::run(&mut command);
    node.done(&ran);
    println!("    $ containerd-nydus-grpc status");
    String::from_utf8_lossy(&ran.stdout).lines().for_each(|line| println!("      {line}"));
}
