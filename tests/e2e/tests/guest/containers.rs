//! Containers through containerd.

use crate::world::named;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nydus_e2e::containerd::VERSIONS;
use nydus_e2e::image::Rafs;
use nydus_e2e::machines::{self, RUNTIME as VM};
use nydus_e2e::node::{BIG, Case, LIMIT, Node};
use nydus_e2e::rootfs::{self, noise};
use nydus_e2e::stage::Stage;
use nydus_e2e::{not_run, service};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};

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

/// Signals reach the process; what it makes of them is its matter. What the slice carries is shown
/// nowhere meanwhile.
#[test]
fn a_container_is_killed() {
    on(VERSIONS[0], Rafs::V6, |node, reference| {
        let log = node.stage.join("events");
        let events = node.containerd.ctr_beside(&["events"], log.clone());
        for (signal, code) in [("TERM", "3"), ("KILL", "137")] {
            let shell = "trap 'exit 3' TERM; echo > /data/kept; while :; do sleep 0.05; done";
            let words = ["sh", "-c", shell];
            let vm = ["--runtime", VM];
            node.done(&node.containerd.start_container(&vm, reference, signal, &words));
            let trapped = kept(node, signal);
            assert!(service::until(LIMIT, || trapped.exists()), "{}", node.logs());
            assert_eq!(service::naming(Path::new("extraoption=ey")), []);
            node.done(&node.containerd.ctr(&["tasks", "kill", "--signal", signal, signal]));
            let stopped = || node.containerd.ctr(&["tasks", "ls"]).shows(b"STOPPED");
            assert!(service::until(LIMIT, stopped), "{}", node.logs());
            let ran = node.containerd.ctr(&["tasks", "rm", signal]);
            assert!(ran.said().contains(code) || ran.code() == code.parse().ok(), "{ran}");
            node.done(&node.containerd.ctr(&["containers", "rm", signal]));
        }
        let text = |path: &Path| fs::read_to_string(path).expect("a log");
        let told = service::until(LIMIT, || text(&log).matches("/tasks/delete").count() == 2);
        assert!(told && text(&log).contains("/tasks/create"), "{}", text(&log));
        drop(events);
        for log in [log, node.stage.join(node.case.containerd).join("log")] {
            let text = text(&log);
            assert!(!text.contains("extraoption=ey"), "{text}");
            assert!(!text.contains(&STANDARD.encode("someone:secret")), "{text}");
        }
    });
}

/// One snapshot: runc, the machine, runc again; each sees what the one before did.
#[test]
fn one_snapshot_serves_both_kinds_of_runtime() {
    for (containerd, rafs) in [(VERSIONS[0], Rafs::V6), (VERSIONS[2], Rafs::V5)] {
        on(containerd, rafs, alternates);
    }
}

fn alternates(node: &mut Node, reference: &str) {
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
        assert_eq!(String::from_utf8_lossy(&ran.stdout), expected, "{id} {ran}\n{}", node.logs());
    }
    for id in ["c1", "c2", "c3", "c4"] {
        node.done(&node.containerd.ctr(&["containers", "rm", "--keep-snapshot", id]));
    }
    node.done(&node.containerd.ctr(&["containers", "rm", "c0"]));
}

/// Whatever dies, containerd learns it, nothing hangs, and what was written is there.
#[test]
fn a_part_dies() {
    for (containerd, rafs) in [(VERSIONS[0], Rafs::V6), (VERSIONS[1], Rafs::V5)] {
        on(containerd, rafs, |node, reference| {
            for part in ["nydusd", "qemu-system", "containerd-shim-nydusvm"] {
                dies(node, reference, part);
            }
        });
    }
}

fn dies(node: &Node, reference: &str, part: &str) {
    let shell = ["sh", "-c", "echo kept > /data/kept; sync; sleep 1000"];
    node.done(&node.containerd.start_container(&["--runtime", VM], reference, part, &shell));
    let kept = kept(node, part);
    let written = || fs::read_to_string(&kept).is_ok_and(|text| text == "kept\n");
    assert!(service::until(LIMIT, written), "{}\n{}", kept.display(), node.logs());
    // The shim is known by containerd's socket; another nydusd is the snapshotter's.
    let place = if part.starts_with("containerd") { node.stage.path().into() } else { state(node) };
    let found = named(&place, part);
    assert_eq!(found.len(), 1, "{part}\n{}", node.logs());
    service::signal(&found, Signal::KILL);
    let stopped = || {
        let list = node.containerd.ctr(&["tasks", "ls"]);
        !String::from_utf8_lossy(&list.stdout).contains("RUNNING")
    };
    assert!(service::until(LIMIT, stopped), "{part}\n{}", node.logs());
    // Its exit code is that of a container which was lost; containerd may have removed it already.
    let removed = node.containerd.ctr(&["tasks", "rm", "--force", part]);
    let lost = [Some(255), Some(137)].contains(&removed.code());
    assert!(removed.ok() || lost || removed.said().contains("not found"), "{part}: {removed}");
    nothing_is_left(node);
    assert!(written(), "{part}: {}", kept.display());
    node.done(&node.containerd.ctr(&["containers", "rm", part]));
}

/// What cannot run is refused with the reason, before anything is made for it.
#[test]
fn what_is_wrong_is_said() {
    on(VERSIONS[0], Rafs::V6, |node, reference| {
        let settings = node.stage.join(node.case.containerd).join("nydusvm.toml");
        let text = fs::read_to_string(&settings).expect("settings");
        // Should anything be started, this would fail first.
        let nydusd = text.lines().filter(|line| !line.starts_with("nydusd ="));
        let broken = nydusd.chain(["nydusd = \"/missing\""]).collect::<Vec<_>>().join("\n");
        fs::write(&settings, broken).expect("settings");
        let root = node.stage.join("empty");
        fs::create_dir(&root).expect("a directory");
        let root = root.to_string_lossy();
        let vm = ["run", "--runtime", VM];
        let nydus = ["--snapshotter", "nydus"];
        for (words, expected) in [
            (vec!["--rootfs", &root, "c1", "true"], "mount slice has 0 entries"),
            (
                [&["--log-uri", "file:///x"], &nydus[..], &[reference, "c2", "true"]].concat(),
                "\"file:///x\": expected the path of a fifo",
            ),
            ([&nydus[..], &[reference, "c3", "true"]].concat(), "cannot run /missing"),
        ] {
            let ran = node.containerd.ctr(&[&vm[..], &words].concat());
            assert!(!ran.ok() && ran.said().contains(expected), "{ran}\n{}", node.logs());
            nothing_is_left(node);
        }
        fs::write(&settings, text).expect("settings");
        // A snapshot in which no guest can write.
        let create = ["containers", "create", "--snapshotter", "nydus", reference, "c4", "true"];
        node.done(&node.containerd.ctr(&create));
        let upper = kept(node, "c4").ancestors().nth(2).expect("upper").to_owned();
        let work = upper.with_file_name("work");
        mount("work", &work, "tmpfs", MountFlags::RDONLY, None).expect("a mount");
        node.containerd.beside("c4", "c5", VM, &["true"]);
        let ran = node.containerd.start_task("c5");
        let expected = "its file system cannot carry an upper directory for a guest";
        assert!(!ran.ok() && ran.said().contains(expected), "{ran}\n{}", node.logs());
        nothing_is_left(node);
        unmount(&work, UnmountFlags::empty()).expect("a mount");
        for id in ["c1", "c2", "c3", "c4", "c5"] {
            let _ = node.containerd.ctr(&["containers", "rm", id]);
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
