//! Stack 3 through containerd itself: the reference runtime takes the slice of our snapshotter
//! into a virtual machine.

use containerd_proto::snapshots as proto;
use nydus_e2e::bare;
use nydus_e2e::client::upper;
use nydus_e2e::containerd::VERSIONS;
use nydus_e2e::image::Rafs;
use nydus_e2e::machines::{self, Machine, RUNTIME as VM};
use nydus_e2e::node::{BIG, Case, LIMIT, Node};
use nydus_e2e::rootfs::{self, noise};
use nydus_e2e::run::run;
use nydus_e2e::stage::Stage;
use nydus_e2e::tree::tree;
use nydus_e2e::{not_run, programs, service};
use nydus_mount_slice::Mount;
use rustix::mount::UnmountFlags;
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use tokio::runtime::Runtime;
use vm_shim::protocol::Frame;
use vm_shim::shim::settings::Settings;
use vm_shim::vm::Accelerator;

const RUNC: &str = "io.containerd.runc.v2";

/// Runs `test` on a node whose containerd has the runtime; afterwards nothing is left of it.
fn on(containerd: &'static str, rafs: Rafs, test: impl FnOnce(&mut Node, &str)) {
    let Some(stage) = Stage::of_a_node() else { return not_run!("not root of the machine") };
    let place = stage.path().to_owned();
    let case = Case { containerd, mode: "dedicated", rafs, helper: "nydus-overlayfs", more: "" };
    let Some(mut node) = Node::start(stage, case) else {
        return not_run!("{containerd}: a program is missing");
    };
    let Some(settings) = machines::settings("guest-6.1", &node.stage.join("vm")) else {
        return not_run!("no QEMU or no guest kernel");
    };
    node.containerd.has_machines(&settings);
    let Some((_, reference)) = node.pulled() else { return not_run!("no nydus-image") };
    test(&mut node, &reference);
    nothing_is_left(&node);
    node.remove(&reference);
    let Node { stage, containerd, snapshotter, proxy, registry, .. } = node;
    drop((containerd, snapshotter, proxy, registry));
    assert_eq!(service::naming(&place), [], "{case:?}");
    drop(stage);
}

/// Where the runtime keeps the sockets and shares of its machines.
fn state(node: &Node) -> PathBuf {
    node.stage.join("vm/k8s.io")
}

/// No machine, no nydusd of one, no mount, no directory.
fn nothing_is_left(node: &Node) {
    let state = state(node);
    let left = || fs::read_dir(&state).into_iter().flatten().flatten().map(|entry| entry.path());
    let gone = service::until(LIMIT, || left().next().is_none());
    assert!(gone, "{:?}\n{}", left().collect::<Vec<_>>(), node.logs());
    assert_eq!(service::naming(&state), [], "{}", node.logs());
    let mounts = nydus_e2e::mounts::mounts();
    assert!(!mounts.iter().any(|mount| mount.point.starts_with(&state)), "{mounts:?}");
}

#[test]
fn a_container_runs_in_a_guest() {
    for (containerd, rafs) in
        [(VERSIONS[0], Rafs::V6), (VERSIONS[1], Rafs::V5), (VERSIONS[2], Rafs::V6)]
    {
        on(containerd, rafs, |node, reference| {
            let vm = ["--runtime", VM].as_slice();
            let shell =
                "uname -r; cat /data/both /data/lower /data/upper; cat /data/removed || echo gone";
            let ran = node.containerd.run(vm, reference, "reads", &["sh", "-c", shell]);
            let said = String::from_utf8_lossy(&ran.stdout).into_owned();
            let host = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
            assert!(said.ends_with("two\nlower\nupper\ngone\n"), "{ran}\n{}", node.logs());
            assert!(said.contains("cloud-amd64") && !said.starts_with(&host), "{ran}");
            assert!(ran.shows(b"removed"), "standard error too: {ran}");

            // All of what it prints, and of what it reads; input that it never reads stops nothing.
            let ran = node.containerd.run(vm, reference, "prints", &["cat", rootfs::BIG]);
            assert!(ran.stdout == noise(BIG), "{} bytes\n{}", ran.stdout.len(), node.logs());
            let input = noise(1 << 20);
            let ran = node.containerd.run_with(&input, vm, reference, &["cat"]);
            assert!(ran.stdout == input, "{} bytes\n{}", ran.stdout.len(), node.logs());
            let shell = ["sh", "-c", "head -c 3; echo"];
            let ran = node.containerd.run_with(&input, vm, reference, &shell);
            assert_eq!(ran.stdout, [&input[..3], b"\n"].concat(), "{ran}");

            let ran = node.containerd.run(vm, reference, "code", &["sh", "-c", "exit 7"]);
            assert_eq!(ran.code(), Some(7), "{ran}\n{}", node.logs());
            let ran = node.containerd.run(vm, reference, "none", &["no-such-program"]);
            assert!(ran.said().contains("no-such-program"), "{ran}\n{}", node.logs());
        });
    }
}

/// The slice that our snapshotter makes for a new container of its image.
fn prepared(node: &bare::Node, key: &str) -> (proto::Mount, Mount) {
    let entry = node.container(key, &node.unpack());
    let proto::Mount { r#type: fs_type, source, target, options } = entry.clone();
    (entry, Mount { fs_type, source, target, options })
}

/// Kernels of guests, newest last; the others are for `--full`.
fn kernels() -> &'static [&'static str] {
    let full = std::env::var_os("NYDUS_FULL").is_some();
    if full { &["guest-6.1", "guest-5.10", "guest-6.12", "guest-7"] } else { &["guest-6.1"] }
}

/// What is done to a root file system.
const WORK: &str = "set -e
cat /data/both /data/lower /data/upper
echo new > /data/new; echo more >> /data/both; chmod 4711 /data/lower; mv /data/upper /data/moved
mkdir /data/dir; echo x > /data/dir/x; mv /data/dir /data/dir2
rm /etc/group; rm -r /tmp; mkdir /tmp; ln -s both /data/link; ln /data/new /data/hard
mknod /data/fifo p; setfattr /data/both user.note hello; setfattr /data/dir2 trusted.note hello
head -c 300000 /data/big > /data/copy; sync";

/// All that there is, in any order.
const LIST: &str = "find /bin /data /etc /tmp -exec stat -c '%A %u:%g %n' {} +
find /data /etc -type f -exec sha256sum {} +; find /data -type l -exec ls -l {} + | tr -s ' '";

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// An image is read lazily, a snapshot written, by a guest; host and guest see the same.
#[test]
fn a_guest_works_on_a_snapshot() {
    for kernel in kernels() {
        for rafs in [Rafs::V5, Rafs::V6] {
            let Some(node) = bare::Node::start("dedicated", rafs) else { return };
            let state = node.stage.join("vm");
            let Some(settings) = machines::settings(kernel, &state) else {
                return not_run!("no QEMU or no {kernel}");
            };
            let runtime = Runtime::new().expect("a runtime");
            works(&node, &runtime, &settings, kernel);
            if *kernel == "guest-7" {
                refuses(&node, &runtime, &settings);
            }
            assert_eq!(service::naming(&state), [], "{kernel} {rafs:?}");
            node.clear();
        }
    }
}

fn works(node: &bare::Node, runtime: &Runtime, settings: &Settings, kernel: &str) {
    let (entry, slice) = prepared(node, "work");
    let machine = Machine::start(runtime, settings, &slice, WORK).expect(kernel);
    assert_eq!(machine.output(), "two\nlower\nupper\n", "{kernel}");
    runtime.block_on(machine.sandbox.remove("c1")).expect("nothing is left");
    let blob = &node.image.layers[0];
    let served = node.proxy.as_ref().expect("a registry").served(&blob.digest);
    assert!(0 < served && served < blob.size / 2, "{kernel}: {served} of {}", blob.size);

    // What the guest wrote is in the snapshot as a host's overlayfs would have written it.
    let upper = tree(&upper(&entry));
    for expected in [
        "100644 0:0 /data/new new\\n",
        "100644 0:0 /data/both two\\nmore\\n ",
        "104711 0:0 /data/lower lower\\n",
        "20000 0:0 /data/upper ",
        "20000 0:0 /etc/group ",
        "100644 0:0 /data/dir2/x x\\n",
        "10644 0:0 /data/fifo ",
    ] {
        let found = upper.iter().any(|line| line.starts_with(expected));
        assert!(found, "{kernel}: {expected}\n{}", upper.join("\n"));
    }
    let opaque = upper.iter().find(|line| line.contains("0:0 /tmp "));
    assert!(opaque.is_some_and(|line| line.contains("trusted.overlay.opaque")), "{opaque:?}");
    for (file, attribute) in [("both", "user.note=hello"), ("dir2", "trusted.note=hello")] {
        let found = upper.iter().find(|line| line.contains(&format!("0:0 /data/{file} ")));
        assert!(found.is_some_and(|line| line.contains(attribute)), "{file}: {found:?}");
    }

    // Mounted by our helper on the host, the same tree as in another guest.
    let machine = Machine::start(runtime, settings, &slice, LIST).expect(kernel);
    let guest = machine.output();
    runtime.block_on(machine.sandbox.remove("c1")).expect("nothing is left");
    let root = node.mount(&entry, "host");
    let mut list = std::process::Command::new("chroot");
    let host = run(list.arg(&root).args(["/bin/sh", "-c", LIST]));
    let host_says = String::from_utf8_lossy(&host.stdout).into_owned();
    assert_eq!(sorted(&guest), sorted(&host_says), "{kernel}\n{host}");
    assert!(guest.contains("/data/dir2/x") && !guest.contains("/data/upper"), "{guest}");
    bare::unmount(&root);
}

/// Kernels from 7.1 on refuse the answers of a `nydusd` that does not tell their length. It is said.
fn refuses(node: &bare::Node, runtime: &Runtime, settings: &Settings) {
    let (_, slice) = prepared(node, "refused");
    let nydusd = programs::tool("nydusd/bin/nydusd").expect("nydusd");
    let settings = Settings { nydusd, ..settings.clone() };
    let error =
        Machine::start(runtime, &settings, &slice, "true").err().expect("refused").to_string();
    assert!(error.contains("virtio-fs: response too short (0)"), "{error}");
}

/// What Kata's Rust runtime does when a sandbox stops empties a snapshot: `nydusd` holds what the
/// guest remembers, so the plain unmount fails, and the removal goes down through the mount. Ours
/// keeps every byte in the same situation.
#[test]
fn clean_up_keeps_the_snapshot() {
    let Some(node) = bare::Node::start("dedicated", Rafs::V6) else { return };
    let state = node.stage.join("vm");
    let Some(mut settings) = machines::settings("guest-6.1", &state) else {
        return not_run!("no QEMU or no guest kernel");
    };
    let runtime = Runtime::new().expect("a runtime");
    for theirs in [true, false] {
        let (entry, slice) = prepared(&node, if theirs { "theirs" } else { "ours" });
        let shell = "mkdir /data/new; echo kept > /data/new/kept; cat /data/new/kept; sleep 1000";
        let machine = Machine::start(&runtime, &settings, &slice, shell).expect("a guest");
        assert_eq!(machine.vm.receive().expect("a frame"), Frame::Stdout(b"kept\n".to_vec()));
        let kept = upper(&entry).join("data/new/kept");
        assert!(kept.exists());
        if theirs {
            let share = settings.directory("test", "c1").join("share/mounts/c1");
            let snapshot = share.join("snapshotdir");
            let unmounted = rustix::mount::unmount(&snapshot, UnmountFlags::empty());
            assert_eq!(unmounted, Err(rustix::io::Errno::BUSY), "the guest remembers nothing");
            let removed = fs::remove_dir_all(&share).expect_err("the mount stays");
            assert!(!kept.exists(), "{removed}");
            // Our snapshotter makes the directories again, so that another container starts.
            node.expect(node.client.mounts("theirs"));
            assert!(upper(&entry).exists());
        }
        // The guest still runs.
        runtime.block_on(machine.sandbox.remove("c1")).expect("nothing is left");
        assert_eq!(kept.exists(), !theirs);
        machine.vm.kill();
        assert!(!settings.directory("test", "c1").exists());
        // The other one finds out by itself what executes a guest fast.
        settings.accelerator = Accelerator::Auto;
    }
    assert_eq!(state.join("test/.kvm").exists(), Path::new("/dev/kvm").exists());
    assert_eq!(service::naming(&state), []);
    node.clear();
}

/// Signals reach the process; what it makes of them is its matter.
#[test]
fn a_container_is_killed() {
    on(VERSIONS[0], Rafs::V6, |node, reference| {
        for (signal, code) in [("TERM", "3"), ("KILL", "137")] {
            let shell = "trap 'exit 3' TERM; echo > /data/kept; while :; do sleep 0.05; done";
            let words = ["sh", "-c", shell];
            let vm = ["--runtime", VM];
            node.done(&node.containerd.start_container(&vm, reference, signal, &words));
            let trapped = kept(node, signal);
            assert!(service::until(LIMIT, || trapped.exists()), "{}", node.logs());
            node.done(&node.containerd.ctr(&["tasks", "kill", "--signal", signal, signal]));
            let stopped = || node.containerd.ctr(&["tasks", "ls"]).shows(b"STOPPED");
            assert!(service::until(LIMIT, stopped), "{}", node.logs());
            let ran = node.containerd.ctr(&["tasks", "rm", signal]);
            assert!(ran.said().contains(code) || ran.code() == code.parse().ok(), "{ran}");
            node.done(&node.containerd.ctr(&["containers", "rm", signal]));
        }
    });
}

/// One snapshot: runc, the machine, runc again; each sees what the one before did.
#[test]
fn one_snapshot_serves_both_kinds_of_runtime() {
    on(VERSIONS[0], Rafs::V6, |node, reference| {
        let create = ["containers", "create", "--snapshotter", "nydus", reference, "c0", "true"];
        node.done(&node.containerd.ctr(&create));
        let steps = [
            (RUNC, "echo runc > /data/step; rm /data/lower; cat /data/both", "two\n"),
            (
                VM,
                "cat /data/step; cat /data/lower 2>/dev/null || echo gone; echo vm >> /data/step; \
                 mv /data/upper /data/moved; mkdir /data/new; chmod 4711 /data/both; ln -s x /data/l",
                "runc\ngone\n",
            ),
            (
                RUNC,
                "cat /data/step /data/moved; cat /data/upper 2>/dev/null || echo gone; \
                 stat -c '%a %n' /data/new /data/both; ls -l /data/l | wc -l",
                "runc\nvm\nupper\ngone\n755 /data/new\n4711 /data/both\n1\n",
            ),
            (VM, "cat /data/step; head -c 3 /data/moved", "runc\nvm\nupp"),
        ];
        for (number, (runtime, shell, expected)) in steps.into_iter().enumerate() {
            let id = format!("c{}", number + 1);
            node.containerd.beside("c0", &id, runtime, &["sh", "-c", shell]);
            let ran = node.containerd.start_task(&id);
            assert_eq!(
                String::from_utf8_lossy(&ran.stdout),
                expected,
                "{id} {ran}\n{}",
                node.logs()
            );
        }
        for id in ["c1", "c2", "c3", "c4"] {
            node.done(&node.containerd.ctr(&["containers", "rm", "--keep-snapshot", id]));
        }
        node.done(&node.containerd.ctr(&["containers", "rm", "c0"]));
    });
}

/// Whatever dies, containerd learns it, nothing hangs, and what was written is there.
#[test]
fn a_part_dies() {
    on(VERSIONS[0], Rafs::V6, |node, reference| {
        for part in ["nydusd", "qemu-system", "containerd-shim-nydusvm"] {
            let shell = "echo kept > /data/kept; sync; sleep 1000";
            let ran = node.containerd.start_container(
                &["--runtime", VM],
                reference,
                part,
                &["sh", "-c", shell],
            );
            node.done(&ran);
            let kept = kept(node, part);
            let written = || fs::read_to_string(&kept).is_ok_and(|text| text == "kept\n");
            assert!(service::until(LIMIT, written), "{}\n{}", kept.display(), node.logs());
            let found = named(&state(node), part);
            assert!(!found.is_empty(), "{part}\n{}", node.logs());
            service::signal(&found, Signal::KILL);
            let stopped = || {
                let list = node.containerd.ctr(&["tasks", "ls"]);
                !String::from_utf8_lossy(&list.stdout).contains("RUNNING")
            };
            assert!(service::until(LIMIT, stopped), "{part}\n{}", node.logs());
            let _ = node.containerd.ctr(&["tasks", "rm", "--force", part]);
            nothing_is_left(node);
            assert!(written(), "{part}: {}", kept.display());
            node.done(&node.containerd.ctr(&["containers", "rm", part]));
        }
    });
}

/// Where the host has the file that a container wrote.
fn kept(node: &Node, id: &str) -> PathBuf {
    let mounts = node.containerd.ctr(&["snapshots", "--snapshotter", "nydus", "mounts", "/x", id]);
    let text = String::from_utf8_lossy(&mounts.stdout).into_owned();
    let upper = text.split([',', ' ']).find_map(|word| word.strip_prefix("upperdir="));
    Path::new(upper.unwrap_or_else(|| panic!("{mounts}"))).join("data/kept")
}

/// Processes of this program that name this directory, or containerd's socket.
fn named(state: &Path, program: &str) -> Vec<rustix::process::Pid> {
    let is = |pid: &rustix::process::Pid| {
        let comm = fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_pid()));
        comm.is_ok_and(|line| {
            let first = line.split('\0').next().unwrap_or_default();
            Path::new(first)
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(program))
        })
    };
    let root = state.parent().and_then(Path::parent).unwrap_or(state);
    service::naming(root).into_iter().filter(is).collect()
}
