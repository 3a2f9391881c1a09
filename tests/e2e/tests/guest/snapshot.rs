//! One snapshot, a guest and the host.

use crate::world::prepared;
use nydus_e2e::client::upper;
use nydus_e2e::handoff::slice;
use nydus_e2e::image::Rafs;
use nydus_e2e::machines::{self, Machine};
use nydus_e2e::run::run;
use nydus_e2e::tree::tree;
use nydus_e2e::{bare, not_run, programs, service};
use rustix::mount::{UnmountFlags, unmount};
use std::fs;
use std::path::{Path, PathBuf};
use tokio::runtime::Runtime;
use vm_shim::protocol::Frame;
use vm_shim::shim::settings::Settings;
use vm_shim::vm::Accelerator;

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
