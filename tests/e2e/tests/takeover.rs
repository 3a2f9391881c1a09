//! A host of the Go snapshotter, with a container running on it, becomes ours; and back.

use nydus_e2e::containerd::{Containerd, VERSIONS};
use nydus_e2e::image::{self, Rafs};
use nydus_e2e::registry::Registry;
use nydus_e2e::snapshotter::{Snapshotter, Which};
use nydus_e2e::stage::Stage;
use nydus_e2e::{mounts, not_run, rootfs, service};
use rustix::process::Pid;
use std::fs;
use std::time::Duration;

/// The same for both programs.
const CONFIG: &str = r#"version = 1
root = "ROOT"
address = "SOCKET"
daemon_mode = "MODE"
[daemon]
  nydusd_path = "NYDUSD"
  nydusd_config = "TEMPLATE"
"#;

const NYDUSD: &str = r#"{"device":{"backend":{"type":"registry","config":{"scheme":"http",
"skip_verify":true,"timeout":5,"connect_timeout":5,"retry_limit":2}},"cache":{"type":"blobcache",
"config":{"work_dir":"CACHE"}}},"mode":"direct","digest_validate":false,"enable_xattr":true,
"fs_prefetch":{"enable":false}}"#;

const LIMIT: Duration = Duration::from_secs(60);
const BIG: usize = 1 << 20;

/// A containerd whose snapshotter changes. They end in this order.
struct Node {
    containerd: Containerd,
    ours: Option<Snapshotter>,
    go: Snapshotter,
    registry: Registry,
    stage: Stage,
    mode: &'static str,
}

impl Node {
    fn start(stage: Stage, mode: &'static str) -> Option<Self> {
        let registry = Registry::start(&stage.join("registry"), None)?;
        let config = CONFIG.replace("MODE", mode);
        let go = Snapshotter::start(&stage, Which::Go, &config, NYDUSD)?;
        let containerd = Containerd::start(&stage, VERSIONS[0], &go.socket(), &go.root())?;
        containerd.trust(&registry.address().to_string());
        Some(Self { containerd, ours: None, go, registry, stage, mode })
    }

    fn logs(&self) -> String {
        let ours = self.ours.as_ref().map(Snapshotter::said).unwrap_or_default();
        format!("{}\n{}\n{}\n{ours}", self.mode, self.containerd.said(), self.go.said())
    }

    fn daemons(&self) -> Vec<Pid> {
        service::naming(&self.go.root().join("socket"))
    }

    /// Kills the Go snapshotter and starts ours in its place.
    fn take_over(&mut self) {
        self.go.service().kill();
        let config = CONFIG.replace("MODE", self.mode);
        self.ours = Snapshotter::start(&self.stage, Which::Ours, &config, NYDUSD);
        self.wait();
    }

    fn restart_ours(&mut self) {
        let ours = self.ours.as_mut().expect("ours");
        ours.service().kill();
        ours.restart();
        self.wait();
    }

    /// containerd waits a second or so before it tries to connect again.
    fn wait(&self) {
        let list = ["snapshots", "--snapshotter", "nydus", "ls"];
        let again = service::until(LIMIT, || self.containerd.ctr(&list).ok());
        assert!(again, "{}", self.logs());
    }

    fn reads(&self, container: &str, file: &str, expected: &str) {
        let read = self.containerd.exec(container, &["cat", file]);
        assert_eq!(String::from_utf8_lossy(&read.stdout), expected, "{read}\n{}", self.logs());
    }

    fn runs(&self, reference: &str) {
        let words = ["sh", "-c", "echo new > /data/both; cat /data/both /data/upper"];
        let ran = self.containerd.run(&[], reference, "once", &words);
        assert_eq!(ran.stdout, b"new\nupper\n", "{ran}\n{}", self.logs());
    }

    /// Removes the container and the image; then there is no snapshot's directory.
    fn removes(&self, reference: &str) {
        self.containerd.remove_container("lives");
        let removed = self.containerd.remove_image(reference);
        removed.unwrap_or_else(|error| panic!("{error}\n{}", self.logs()));
        self.containerd.gc();
        let snapshots = self.go.root().join("snapshots");
        let empty = || fs::read_dir(&snapshots).is_ok_and(|mut left| left.next().is_none());
        assert!(service::until(LIMIT, empty), "{}", self.logs());
    }

    /// Nothing runs or is mounted. The Go snapshotter's shared daemon stays without images.
    fn is_idle(&self) {
        let idle = service::until(LIMIT, || self.daemons().is_empty());
        assert!(idle, "{:?}\n{}", self.daemons(), self.logs());
        let root = self.go.root();
        let mounts = mounts::mounts();
        assert!(!mounts.iter().any(|mount| mount.point.starts_with(&root)), "{mounts:?}");
    }
}

/// Runs `test` with a container `lives` that the Go snapshotter serves.
fn on(mode: &'static str, test: impl FnOnce(&mut Node, &str)) {
    let Some(stage) = Stage::of_a_node() else { return not_run!("not root of the machine") };
    let Some(layers) = rootfs::layers(stage.path(), BIG) else { return not_run!("no busybox") };
    let Some(image) = image::nydus(&stage.join("image"), &layers, Rafs::V6) else {
        return not_run!("no nydus-image");
    };
    let Some(mut node) = Node::start(stage, mode) else { return not_run!("a program is missing") };
    node.registry.push(&image, "test/image", "nydus");
    let reference = format!("{}/test/image:nydus", node.registry.address());
    let pulled = node.containerd.pull(&reference, None);
    pulled.unwrap_or_else(|error| panic!("{error}\n{}", node.logs()));
    let shell = ["sh", "-c", "echo mine > /data/mine; exec sleep 1000"];
    let started = node.containerd.start_container(&[], &reference, "lives", &shell);
    assert!(started.ok(), "{started}\n{}", node.logs());
    test(&mut node, &reference);
}

#[test]
fn containers_go_on_when_the_go_snapshotter_is_replaced() {
    for mode in ["dedicated", "shared"] {
        on(mode, |node, reference| {
            let before = node.daemons();
            node.take_over();
            node.reads("lives", "/data/lower", "lower\n");
            node.reads("lives", "/data/mine", "mine\n");
            node.runs(reference);
            assert_eq!(node.daemons(), before, "{}", node.logs());
            // The daemon that ours starts in its place outlives ours.
            service::end_naming(&node.go.root().join("socket"));
            node.runs(reference);
            let after = node.daemons();
            node.restart_ours();
            node.runs(reference);
            assert_eq!(node.daemons(), after, "{}", node.logs());
            node.removes(reference);
            node.is_idle();
        });
    }
}

#[test]
fn and_back() {
    for mode in ["dedicated", "shared"] {
        on(mode, |node, reference| {
            node.take_over();
            node.runs(reference);
            node.containerd.gc();
            if let Some(ours) = &mut node.ours {
                assert!(ours.service().stop(), "{}", ours.said());
            }
            let root = node.go.root();
            fs::rename(root.join("snapshots.redb"), root.join("old.redb")).expect("our store");
            node.go.restart();
            node.wait();
            node.reads("lives", "/data/lower", "lower\n");
            node.reads("lives", "/data/mine", "mine\n");
            node.runs(reference);
            node.removes(reference);
        });
    }
}
