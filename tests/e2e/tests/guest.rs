//! Stack 3 through containerd itself: the reference runtime takes the slice of our snapshotter
//! into a virtual machine.

use nydus_e2e::containerd::VERSIONS;
use nydus_e2e::image::Rafs;
use nydus_e2e::machines::{self, RUNTIME as VM};
use nydus_e2e::node::{Case, LIMIT, Node};
use nydus_e2e::stage::Stage;
use nydus_e2e::{not_run, service};
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

            let ran = node.containerd.run(vm, reference, "code", &["sh", "-c", "exit 7"]);
            assert_eq!(ran.code(), Some(7), "{ran}\n{}", node.logs());
            let ran = node.containerd.run(vm, reference, "none", &["no-such-program"]);
            assert!(ran.said().contains("no-such-program"), "{ran}\n{}", node.logs());
        });
    }
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
            let ran = node.containerd.ctr(&["tasks", "start", &id]);
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
