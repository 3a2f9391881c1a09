//! Nydus images served by our snapshotter and nydusd; the tests play containerd's part.

use containerd_proto::snapshots::Mount;
use nydus_e2e::client::{Client, IMAGE_REF, Labels, mount};
use nydus_e2e::image::{self, Image, Rafs};
use nydus_e2e::mounts::mounts;
use nydus_e2e::proxy::Proxy;
use nydus_e2e::registry::Registry;
use nydus_e2e::snapshotter::{Snapshotter, Which};
use nydus_e2e::stage::Stage;
use nydus_e2e::{not_run, rootfs, service};
use nydus_mount_slice::{ExtraOption, FsVersion};
use std::fs;
use std::path::{Path, PathBuf};

const BIG: usize = 4 << 20;

const CONFIG: &str = r#"version = 1
root = "ROOT"
address = "SOCKET"
daemon_mode = "MODE"
[daemon]
  nydusd_path = "NYDUSD"
  nydusd_config = "TEMPLATE"
[snapshot]
  enable_nydus_overlayfs = true
"#;

const TEMPLATE: &str = r#"{"device":{"backend":{"type":"registry","config":{"scheme":"http",
"skip_verify":true,"timeout":5,"connect_timeout":5,"retry_limit":0}},"cache":{"type":"blobcache",
"config":{"work_dir":"CACHE"}}},"mode":"direct","digest_validate":false,"enable_xattr":true,
"fs_prefetch":{"enable":false}}"#;

const LOGIN: (&str, &str) = ("someone", "secret");
const MODES: [&str; 2] = ["dedicated", "shared"];

/// All that a test needs; what runs ends before the stage goes.
struct Node {
    client: Client,
    snapshotter: Snapshotter,
    proxy: Proxy,
    _registry: Registry,
    image: Image,
    version: Rafs,
    stage: Stage,
}

impl Node {
    /// `None` if a program is missing, which is said.
    fn start(mode: &str, version: Rafs) -> Option<Self> {
        let node = Self::try_start(mode, version);
        if node.is_none() {
            not_run!(
                "{mode} {version:?}: busybox, nydus-image, nydusd or docker-registry is missing"
            );
        }
        node
    }

    fn try_start(mode: &str, version: Rafs) -> Option<Self> {
        let stage = Stage::of_a_node()?;
        let layers = rootfs::layers(stage.path(), BIG)?;
        let image = image::nydus(&stage.join("image"), &layers, version)?;
        let registry = Registry::start(&stage.join("registry"), Some(LOGIN))?;
        registry.push(&image, "test/image", "tag");
        let proxy = Proxy::start(registry.address());
        let config = CONFIG.replace("MODE", mode);
        let snapshotter = Snapshotter::start(&stage, Which::Ours, &config, TEMPLATE)?;
        snapshotter.login(&proxy.host(), LOGIN);
        let client = Client::new(snapshotter.socket());
        Some(Self { client, snapshotter, proxy, _registry: registry, image, version, stage })
    }

    fn labels(&self) -> Labels {
        Labels::from([(IMAGE_REF.into(), format!("{}/test/image:tag", self.proxy.host()))])
    }

    /// Unpacks the image; the name of its topmost layer.
    fn unpack(&self) -> String {
        let names = self.client.unpack(&self.image, &self.labels());
        self.expect(names).pop().expect("a layer")
    }

    #[track_caller]
    fn expect<T>(&self, answer: Result<T, tonic::Status>) -> T {
        answer.unwrap_or_else(|error| panic!("{error:?}\n{}", self.snapshotter.said()))
    }

    /// A container's root on the layer `top`.
    #[track_caller]
    fn container(&self, key: &str, top: &str) -> Mount {
        let mut mounts = self.expect(self.client.prepare(key, top, &Labels::new()));
        assert_eq!(mounts.len(), 1, "{key}");
        mounts.remove(0)
    }

    /// Mounts at a directory of this name.
    #[track_caller]
    fn mount(&self, entry: &Mount, name: &str) -> PathBuf {
        let target = self.stage.join(name);
        fs::create_dir_all(&target).expect(name);
        let ran = mount(entry, &target);
        assert!(ran.ok(), "{ran}\n{}", self.snapshotter.said());
        target
    }

    /// The processes of nydusd.
    fn daemons(&self) -> Vec<i32> {
        let pids = service::naming(&self.snapshotter.root());
        pids.into_iter().map(|pid| pid.as_raw_pid()).collect()
    }

    /// Removes every snapshot, and looks that nothing is left, not even in the cache.
    #[track_caller]
    fn clear(&self) {
        let mut left = self.expect(self.client.keys());
        while !left.is_empty() {
            left.retain(|key| self.client.remove(key).is_err());
        }
        self.expect(self.client.cleanup());
        self.check_left(0);
        assert_eq!(names_in(&self.snapshotter.root().join("cache")), Vec::<String>::new());
    }

    /// Looks that there are no processes and mounts, and this many directories of snapshots.
    #[track_caller]
    fn check_left(&self, directories: usize) {
        let root = self.snapshotter.root();
        let said = || self.snapshotter.said();
        assert_eq!(self.daemons(), Vec::<i32>::new(), "{}", said());
        let mounted: Vec<_> = mounts().into_iter().map(|mount| mount.point).collect();
        assert!(!mounted.iter().any(|point| point.starts_with(&root)), "{mounted:?}\n{}", said());
        let found = names_in(&root.join("snapshots"));
        assert_eq!(found.len(), directories, "{found:?}\n{}", said());
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn unmount(target: &Path) {
    rustix::mount::unmount(target, rustix::mount::UnmountFlags::empty()).expect("unmount");
}

/// Files of both layers, merged.
#[track_caller]
fn check_files(root: &Path) {
    for (name, expected) in [("both", "two\n"), ("lower", "lower\n"), ("upper", "upper\n")] {
        assert_eq!(fs::read_to_string(root.join("data").join(name)).expect(name), expected);
    }
    assert!(!root.join("data/removed").exists());
}

fn nodes() -> impl Iterator<Item = Node> {
    let versions = [Rafs::V5, Rafs::V6];
    let all = MODES.into_iter().flat_map(move |mode| versions.map(|version| (mode, version)));
    all.filter_map(|(mode, version)| Node::start(mode, version))
}

#[test]
fn an_image_is_served_and_removed() {
    for node in nodes() {
        let top = node.unpack();
        let entry = node.container("c1", &top);
        assert_eq!(node.expect(node.client.mounts("c1")), [entry.clone()]);
        check_slice(&node, &entry);
        let root = node.mount(&entry, "m1");
        check_files(&root);
        assert_eq!(fs::read(root.join(rootfs::BIG)).expect("a file"), rootfs::noise(BIG));
        fs::write(root.join("data/new"), "new").expect("a file to write");
        let views = node.expect(node.client.view("v1", &top));
        assert_eq!(node.expect(node.client.mounts("v1")), views);
        let view = node.mount(&views[0], "m2");
        check_files(&view);
        assert!(fs::write(view.join("data/new"), "new").is_err());
        assert_eq!(node.daemons().len(), 1);
        [root, view].iter().for_each(|target| unmount(target));
        node.clear();
    }
}

/// What it carries is what the host has.
fn check_slice(node: &Node, entry: &Mount) {
    let decoded = ExtraOption::from_options(&entry.options).expect("a slice");
    let extra = decoded.value;
    assert_eq!((entry.r#type.as_str(), decoded.findings), ("fuse.nydus-overlayfs", vec![]));
    let snapshots = node.snapshotter.root().join("snapshots");
    let bootstrap = Path::new(&extra.source);
    assert!(bootstrap.starts_with(&snapshots) && bootstrap.is_file(), "{}", extra.source);
    let snapshot = Path::new(&extra.snapshotdir);
    assert!(snapshot.starts_with(&snapshots) && snapshot.join("fs").is_dir());
    let version = if node.version == Rafs::V5 { FsVersion::V5 } else { FsVersion::V6 };
    assert_eq!(extra.fs_version, Some(version));
    let config: serde_json::Value = serde_json::from_str(extra.config.expose()).expect("JSON");
    assert_eq!(config["device"]["backend"]["config"]["host"], node.proxy.host());
}
