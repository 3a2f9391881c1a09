//! A nydusd dies while files are read: its successor goes on with the FUSE session, and nobody
//! sees an error. Done with `fake_nydusd`: no nydusd that can be had hands its session over.

use containerd_proto::snapshots::Mount;
use nydus_e2e::bare::{Node, names_in, unmount};
use nydus_e2e::image::{self, Rafs};
use nydus_e2e::mounts::mounts;
use nydus_e2e::{not_run, rootfs, service};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{sleep, spawn};
use std::time::Duration;

const MODES: [&str; 2] = ["dedicated failover", "shared failover"];
const TEXT: &str = "from the image\n";
/// For all that takes a moment, a successor among them.
const LIMIT: Duration = Duration::from_secs(5);
/// For our limit of a step that a successor takes (10 s), and a new start.
const STUCK: Duration = Duration::from_secs(15);
/// What lived shorter is not started anew by itself.
const LIVED: Duration = Duration::from_millis(5500);

/// A node of each mode, with the fake.
fn nodes() -> impl Iterator<Item = Node> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let numbers: Vec<u32> = release.split(['.', '-']).map_while(|n| n.parse().ok()).collect();
    // Before, a request that a daemon has read is lost with it.
    let resends = numbers >= vec![6, 9];
    if !resends {
        not_run!("failover: FUSE_NOTIFY_RESEND needs Linux 6.9, this is {release}");
    }
    MODES.into_iter().filter(move |_| resends).filter_map(|mode| {
        let node = Node::start(mode, Rafs::V6)?;
        let program = node.stage.join("nydusd");
        fs::remove_file(&program).expect("a link");
        symlink(env!("CARGO_BIN_EXE_fake_nydusd"), program).expect("a link");
        Some(node)
    })
}

/// Also when it dies again, with fewer images, and known to a later run of ours only.
#[test]
fn a_read_goes_on() {
    for mut node in nodes() {
        let entry = node.container("c0", &node.unpack());
        let root = node.mount(&entry, "m0");
        let other = serve_another(&node);
        let hello = root.join("hello");
        let file = File::open(&hello).expect("a file");
        let before = identity(&lower(&entry));
        // Daemons, and images of each: at first, with one removed, and after a start of ours.
        let first = if node.mode == MODES[0] { (2, 1) } else { (1, 2) };
        for (round, (daemons, images)) in [first, (1, 1), (1, 1)].into_iter().enumerate() {
            wait_handed_over(&node, daemons, images);
            kill_while_read(&node, &file);
            assert_eq!(fs::read_to_string(&hello).expect("a file"), TEXT);
            assert_eq!(identity(&lower(&entry)), before, "{}", node.snapshotter.said());
            wait_handed_over(&node, daemons, images);
            match round {
                0 => remove(&node, &other),
                _ => restart(&mut node),
            }
        }
        drop(file);
        unmount(&root);
        node.clear();
        assert_eq!(names_in(&node.snapshotter.root().join("supervisor")), Vec::<String>::new());
    }
}

/// The read waits for the successor, and ends well.
fn kill_while_read(node: &Node, file: &File) {
    let (read, before) = (read_held(node, file), node.daemons());
    service::end_naming(&node.snapshotter.root());
    let said = || node.snapshotter.said();
    let outcome = read.recv_timeout(LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", said()));
    assert_eq!(outcome.unwrap_or_else(|error| panic!("{error}\n{}", said())), TEXT);
    let after = node.daemons();
    assert!(!after.is_empty() && !after.iter().any(|pid| before.contains(pid)), "{}", said());
}

#[test]
fn a_successor_that_is_stuck_is_replaced() {
    for node in nodes() {
        let top = node.unpack();
        let entry = node.container("c0", &top);
        let root = node.mount(&entry, "m0");
        let file = File::open(root.join("hello")).expect("a file");
        wait_handed_over(&node, 1, 1);
        sleep(LIVED);
        beside_sockets(&node, |directory| fs::write(directory.join("stuck"), ""));
        let read = read_held(&node, &file);
        service::end_naming(&node.snapshotter.root());
        let hello = lower(&entry).join("hello");
        let again = || fs::read_to_string(&hello).is_ok_and(|text| text == TEXT);
        assert!(service::until(STUCK, again), "{}", node.snapshotter.said());
        let outcome = read.recv_timeout(LIMIT).expect("an outcome");
        assert!(outcome.is_err(), "{outcome:?} without its session");
        let later = node.mount(&node.container("c1", &top), "m1");
        assert_eq!(fs::read_to_string(later.join("hello")).expect("a file"), TEXT);
        drop(file);
        [root, later].iter().for_each(|target| unmount(target));
        node.clear();
    }
}

/// Serves an image with the lower layer in common; its own snapshots, the uppermost first.
fn serve_another(node: &Node) -> [String; 2] {
    let layer = node.stage.join("layer3");
    rootfs::layer(&layer, &[("data/other", b"other\n")]);
    let layers = [node.stage.join("layer1"), layer];
    let other = image::nydus(&node.stage.join("other"), &layers, node.version).expect("image");
    node.registry.push(&other, "test/image", "other");
    let names = node.expect(node.client.unpack(&other, &node.labels("other")));
    node.container("other", &names[2]);
    ["other".to_owned(), names[2].clone()]
}

fn remove(node: &Node, keys: &[String]) {
    keys.iter().for_each(|key| node.expect(node.client.remove(key)));
    node.expect(node.client.cleanup());
}

/// Where nydusd serves the image.
fn lower(entry: &Mount) -> PathBuf {
    let option = entry.options.iter().find_map(|option| option.strip_prefix("lowerdir="));
    option.expect("lower layers").into()
}

/// Numbers of the file system and of its mount.
fn identity(path: &Path) -> (u64, u64) {
    let mounts = mounts();
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    let nearest = above.max_by_key(|mount| mount.point.as_os_str().len()).expect("a mount");
    (fs::metadata(path).expect("a directory").dev(), nearest.id)
}

/// A read that its daemon has and will not answer.
fn read_held(node: &Node, file: &File) -> Receiver<io::Result<String>> {
    beside_sockets(node, |directory| fs::write(directory.join("pause"), ""));
    let (sender, outcome) = channel();
    let file = file.try_clone().expect("a descriptor");
    spawn(move || {
        let mut bytes = vec![0; TEXT.len()];
        let read = file.read_exact_at(&mut bytes, 0);
        sender.send(read.map(|()| String::from_utf8_lossy(&bytes).into_owned()))
    });
    wait_told(node, 1, "a read is not answered\n");
    beside_sockets(node, |directory| fs::remove_file(directory.join("pause")));
    outcome
}

fn beside_sockets(node: &Node, act: impl Fn(&Path) -> io::Result<()>) {
    let sockets = node.snapshotter.root().join("socket");
    for name in names_in(&sockets) {
        act(&sockets.join(name)).expect("a file beside the socket");
    }
}

/// Kills the snapshotter and starts it again; what daemons have said is forgotten.
fn restart(node: &mut Node) {
    node.snapshotter.service().kill();
    stderr(node).iter().for_each(|file| fs::write(file, "").expect("a file"));
    node.snapshotter.restart();
}

/// What each daemon writes to that serves still.
fn stderr(node: &Node) -> Vec<PathBuf> {
    let [sockets, logs] = ["socket", "logs"].map(|name| node.snapshotter.root().join(name));
    names_in(&sockets).into_iter().map(|id| logs.join(id).join("nydusd.stderr")).collect()
}

fn wait_handed_over(node: &Node, daemons: usize, images: usize) {
    wait_told(node, daemons, &format!("handed over: {images}\n"));
}

/// Waits until this many daemons have said this.
fn wait_told(node: &Node, daemons: usize, what: &str) {
    let told = || {
        let told = stderr(node).into_iter().filter_map(|file| fs::read_to_string(file).ok());
        told.filter(|told| told.contains(what)).count() >= daemons
    };
    assert!(service::until(LIMIT, told), "not {what:?}\n{}", node.snapshotter.said());
}
