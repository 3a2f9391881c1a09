//! Stack 3 through containerd itself: the reference runtime takes the slice of our snapshotter
//! into a virtual machine.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use containerd_proto::snapshots as proto;
use nydus_e2e::bare;
use nydus_e2e::client::upper;
use nydus_e2e::containerd::VERSIONS;
use nydus_e2e::handoff::slice;
use nydus_e2e::image::Rafs;
use nydus_e2e::machines::{self, Machine, RUNTIME as VM};
use nydus_e2e::node::{BIG, Case, LIMIT, Node};
use nydus_e2e::rootfs::{self, noise};
use nydus_e2e::run::run;
use nydus_e2e::stage::Stage;
use nydus_e2e::tree::tree;
use nydus_e2e::{not_run, programs, service};
use nydus_mount_slice::Mount;
use rustix::fs::{CWD, FileType};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use vm_shim::protocol::Frame;
use vm_shim::shim::container::{Container, Request, State};
use vm_shim::shim::settings::Settings;
use vm_shim::shim::stdio::Stdio;
use vm_shim::vm::{Accelerator, Vm};

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
find /data /etc -type f -exec sha256sum {} +; find /data -type l -exec ls -l {} + | tr -s ' '
find /data /etc -exec xattrs {} +";

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
                not_run!("no QEMU or no {kernel}");
                continue;
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
    let machine =
        Machine::start(runtime, settings, std::slice::from_ref(&slice), WORK).expect(kernel);
    assert_eq!(machine.output(), "two\nlower\nupper\n", "{kernel}");
    runtime.block_on(machine.sandbox.remove()).expect("nothing is left");
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
    let machine = Machine::start(runtime, settings, &[slice], LIST).expect(kernel);
    let guest = machine.output();
    runtime.block_on(machine.sandbox.remove()).expect("nothing is left");
    let root = node.mount(&entry, "host");
    let mut list = std::process::Command::new("chroot");
    let host = run(list.arg(&root).args(["/bin/sh", "-c", LIST]));
    let host_says = String::from_utf8_lossy(&host.stdout).into_owned();
    assert_eq!(sorted(&guest), sorted(&host_says), "{kernel}\n{host}");
    assert!(guest.contains("/data/dir2/x") && !guest.contains("/data/upper"), "{guest}");
    assert!(guest.contains("/data/both user.note=hello\n"), "{guest}");
    bare::unmount(&root);
}

/// Kernels from 7.1 on refuse the answers of a `nydusd` that does not tell their length. It is said.
fn refuses(node: &bare::Node, runtime: &Runtime, settings: &Settings) {
    let (_, slice) = prepared(node, "refused");
    let nydusd = programs::tool("nydusd/bin/nydusd").expect("nydusd");
    let settings = Settings { nydusd, ..settings.clone() };
    let error =
        Machine::start(runtime, &settings, &[slice], "true").err().expect("refused").to_string();
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
        let machine = Machine::start(&runtime, &settings, &[slice], shell).expect("a guest");
        assert_eq!(machine.vm.receive().expect("a frame"), Frame::Stdout(b"kept\n".to_vec()));
        let kept = upper(&entry).join("data/new/kept");
        assert!(kept.exists());
        if theirs {
            let share = settings.directory("test", "c1").join("share/mounts/c1");
            let snapshot = share.join("snapshotdir");
            let unmounted = unmount(&snapshot, UnmountFlags::empty());
            assert_eq!(unmounted, Err(rustix::io::Errno::BUSY), "the guest remembers nothing");
            let removed = fs::remove_dir_all(&share).expect_err("the mount stays");
            assert!(!kept.exists(), "{removed}");
            // Our snapshotter makes the directories again, so that another container starts.
            node.expect(node.client.mounts("theirs"));
            assert!(upper(&entry).exists());
        }
        // The guest still runs.
        runtime.block_on(machine.sandbox.guest.remove("c1")).expect("nothing is left");
        assert_eq!(kept.exists(), !theirs);
        machine.vm.kill();
        runtime.block_on(machine.sandbox.remove()).expect("nothing is left");
        assert!(!settings.directory("test", "c1").exists());
        // The other one finds out by itself what executes a guest fast.
        settings.accelerator = Accelerator::Auto;
    }
    assert_eq!(state.join("test/.kvm").exists(), Path::new("/dev/kvm").exists());
    assert_eq!(service::naming(&state), []);
    node.clear();
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

/// Two containers in a guest, of different images; one goes while the other runs.
#[test]
fn a_guest_has_several_containers() {
    let Some(node) = bare::Node::start("dedicated", Rafs::V6) else { return };
    let state = node.stage.join("vm");
    let Some(settings) = machines::settings("guest-6.1", &state) else {
        return not_run!("no QEMU or no guest kernel");
    };
    let Some(other) = slice(&node.stage, Rafs::V5) else { return not_run!("no nydus-image") };
    let runtime = Runtime::new().expect("a runtime");
    let (entry, one) = prepared(&node, "one");
    let shell = "set -e; one=/proc/1/root/run/kata-containers/shared/containers/c1/rootfs
        cat $one/data/both /data/both; cat $one/data/upper; cat /data/upper 2>/dev/null || echo none
        echo one > $one/data/new; echo two > /data/new; umount $one; echo next; read line
        head -c 1000000 /data/big | wc -c; echo more >> /data/new; cat /data/new; ls $one";
    let machine = Machine::start(&runtime, &settings, &[one, other], shell).expect("a guest");
    let mut said = Vec::new();
    while !said.ends_with(b"next\n") {
        match machine.vm.receive().expect("a frame") {
            Frame::Stdout(bytes) | Frame::Stderr(bytes) => said.extend(bytes),
            frame => panic!("{frame:?} {}", String::from_utf8_lossy(&said)),
        }
    }
    assert_eq!(String::from_utf8_lossy(&said), "two\none\nupper\nnone\nnext\n");
    runtime.block_on(machine.sandbox.guest.remove("c1")).expect("nothing is left of it");
    assert_eq!(machine.sandbox.guest.share().containers().expect("a share"), ["c2"]);
    machine.vm.send(&Frame::Stdin(b"\n".to_vec())).expect("a guest");
    assert_eq!(machine.output(), "1000000\ntwo\nmore\n");
    runtime.block_on(machine.sandbox.remove()).expect("nothing is left");
    let read = |path: PathBuf| fs::read_to_string(path).expect("a file");
    assert_eq!(read(upper(&entry).join("data/new")), "one\n");
    assert_eq!(read(node.stage.join("snapshot/fs/data/new")), "two\nmore\n");
    node.clear();
}

/// What a test of one container without containerd needs.
struct Bench {
    node: bare::Node,
    settings: Settings,
    runtime: Runtime,
    slice: Mount,
}

impl Bench {
    fn new() -> Option<Self> {
        let node = bare::Node::start("dedicated", Rafs::V6)?;
        let settings = machines::settings("guest-6.1", &node.stage.join("vm"));
        if settings.is_none() {
            not_run!("no QEMU or no guest kernel");
        }
        let (_, slice) = prepared(&node, "c1");
        let runtime = Runtime::new().expect("a runtime");
        Some(Self { node, settings: settings?, runtime, slice })
    }

    /// A container whose machine is up, under this QEMU or what stands in for it.
    fn container(&self, qemu: &Path, stdout: &str, shell: &str) -> Arc<Container> {
        let settings = Settings { qemu: qemu.to_owned(), ..self.settings.clone() };
        let directory = settings.directory("test", "c1");
        self.runtime.block_on(async {
            let slices = std::slice::from_ref(&self.slice);
            let (sandbox, storages) = machines::made(&settings, slices).await.expect("a sandbox");
            let vm = Vm::start(&settings.machine(&directory, sandbox.vhost_socket()));
            let id = "c1".to_owned();
            let (stdin, stderr) = (String::new(), String::new());
            let request =
                Request { id, bundle: directory, stdin, stdout: stdout.to_owned(), stderr };
            let stdio = Stdio::open("", stdout, "").expect("a fifo");
            let start = machines::start(storages, shell);
            Container::new(request, (sandbox, vm.expect("a machine")), start, stdio)
        })
    }

    /// A script of sh in place of QEMU: its descriptor 3 is the agent's port.
    fn agent(&self, script: &str) -> PathBuf {
        let path = self.node.stage.join("agent");
        let ready = r"printf '\005\0\0\0\0' >&3";
        fs::write(&path, format!("#!/bin/sh\nexec 3<&0\n{ready}\n{script}\n")).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a script");
        path
    }

    fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        let work = async { tokio::time::timeout(LIMIT, work).await };
        self.runtime.block_on(work).expect("in time")
    }

    fn end(self, container: &Container) {
        self.wait(container.remove()).expect("nothing is left");
        assert!(!self.settings.directory("test", "c1").exists());
        assert_eq!(service::naming(&self.settings.state), []);
        self.node.clear();
    }
}

/// A client that has stopped reading hides nothing: the container can be ended.
#[test]
fn output_that_nobody_reads_hides_no_end() {
    let Some(bench) = Bench::new() else { return };
    let fifo = bench.node.stage.join("stdout");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, 0o600.into(), 0).expect("a fifo");
    let qemu = bench.settings.qemu.clone();
    let container = bench.container(&qemu, &fifo.to_string_lossy(), "exec cat /data/big");
    bench.wait(container.start()).expect("a process");
    let mut reader = File::options().read(true).write(true).open(&fifo).expect("a fifo");
    let full = || rustix::io::ioctl_fionread(&reader).is_ok_and(|bytes| bytes == FIFO as u64);
    assert!(service::until(LIMIT, full), "{:?}", container.state());
    bench.wait(container.kill(15)).expect("a signal");
    assert_eq!(bench.wait(container.wait()).0, 128 + 15);
    let mut bytes = vec![0; FIFO];
    reader.read_exact(&mut bytes).expect("what was printed");
    assert!(bytes == noise(FIFO), "something else");
    bench.end(&container);
}

/// Bytes that a fifo holds.
const FIFO: usize = 64 << 10;

/// The end is the end, whatever the guest says later; a process may end before anybody looks.
#[test]
fn an_end_is_final() {
    let Some(bench) = Bench::new() else { return };
    let go = bench.node.stage.join("go");
    let started = r"printf '\006\0\0\0\0' >&3";
    let waits = format!("while [ ! -e {} ]; do sleep 0.05; done", go.display());
    let script = format!("({waits}; {started}) &\nexec sleep 1000");
    let container = bench.container(&bench.agent(&script), "", "");
    bench.wait(container.kill(15)).expect("a signal");
    fs::write(go, "").expect("a file");
    assert!(service::until(LIMIT, || Arc::strong_count(&container) == 1), "somebody listens");
    assert!(
        matches!(container.state(), State::Stopped { code: 143, .. }),
        "{:?}",
        container.state()
    );
    bench.wait(container.remove()).expect("nothing is left");

    let script = r"dd bs=65536 count=1 of=/dev/null 2>&1; printf '\012\004\0\0\0\007\0\0\0' >&3";
    let container = bench.container(&bench.agent(script), "", "");
    bench.wait(container.start()).expect("it has run");
    assert_eq!(bench.wait(container.wait()).0, 7);
    bench.end(&container);
}

/// A `nydusd` that does not answer is no reason to leave anything, nor is a caller that is gone.
#[test]
fn a_sandbox_goes_in_any_case() {
    let Some(bench) = Bench::new() else { return };
    let Bench { settings, slice, runtime, .. } = &bench;
    let directory = settings.directory("test", "c1");
    let slices = std::slice::from_ref(slice);
    let (sandbox, _) = runtime.block_on(machines::made(settings, slices)).expect("a sandbox");
    service::signal(&named(&directory, "nydusd"), Signal::STOP);
    bench.wait(sandbox.remove()).expect("nothing is left");
    let nothing = || !directory.exists() && service::naming(&directory).is_empty();
    assert!(nothing());
    for limit in [0, 1, 5, 10, 20, 40, 80] {
        let made = async {
            let limit = Duration::from_millis(limit);
            tokio::time::timeout(limit, machines::made(settings, slices)).await
        };
        if let Ok(made) = runtime.block_on(made) {
            bench.wait(made.expect("a sandbox").0.remove()).expect("nothing is left");
        }
        assert!(service::until(LIMIT, nothing), "{limit}");
        let mounts = nydus_e2e::mounts::mounts();
        assert!(!mounts.iter().any(|mount| mount.point.starts_with(&directory)), "{mounts:?}");
    }
    bench.node.clear();
}

/// Where the host has the file that a container wrote.
fn kept(node: &Node, id: &str) -> PathBuf {
    let mounts = node.containerd.ctr(&["snapshots", "--snapshotter", "nydus", "mounts", "/x", id]);
    let text = String::from_utf8_lossy(&mounts.stdout).into_owned();
    let upper = text.split([',', ' ']).find_map(|word| word.strip_prefix("upperdir="));
    Path::new(upper.unwrap_or_else(|| panic!("{mounts}"))).join("data/kept")
}

/// Processes of this program that name this place.
fn named(place: &Path, program: &str) -> Vec<rustix::process::Pid> {
    let is = |pid: &rustix::process::Pid| {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_pid()));
        let line = line.unwrap_or_default();
        let name = Path::new(line.split('\0').next().unwrap_or_default()).file_name();
        name.is_some_and(|name| name.to_string_lossy().starts_with(program))
    };
    service::naming(place).into_iter().filter(is).collect()
}
