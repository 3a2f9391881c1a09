//! A node whose images our snapshotter serves by nydusd from a registry behind a proxy; tests play
//! containerd's part. Its checks panic where something is not as it must be.

#![allow(clippy::missing_panics_doc, reason = "see above")]

use crate::client::{Client, IMAGE_REF, Labels};
use crate::image::{self, Image, Rafs};
use crate::mounts::mounts;
use crate::proxy::{Fault, Proxy};
use crate::registry::{Registry, free_address};
use crate::run::{Ran, run};
use crate::snapshotter::{Snapshotter, Which};
use crate::stage::Stage;
use crate::{not_run, programs, rootfs, service};
use containerd_proto::snapshots::Mount;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Length of the large file of the image, bytes.
pub const BIG: usize = 4 << 20;

const CONFIG: &str = r#"version = 1
root = "ROOT"
address = "SOCKET"
daemon_mode = "MODE"
[daemon]
  nydusd_path = "DAEMON"
  nydusd_config = "TEMPLATE"
  recover_policy = "POLICY"
[snapshot]
  enable_nydus_overlayfs = true
[metrics]
  address = "METRICS"
  collect_interval = "1s"
"#;

/// The template of nydusd's configuration, as for [`Snapshotter::start`].
pub const TEMPLATE: &str = r#"{"device":{"backend":{"type":"registry","config":{"scheme":"http",
"skip_verify":true,"timeout":5,"connect_timeout":5,"retry_limit":0}},"cache":{"type":"blobcache",
"config":{"work_dir":"CACHE"}}},"mode":"direct","digest_validate":false,"enable_xattr":true,
"fs_prefetch":{"enable":false}}"#;

/// The user and password that the registry asks for.
pub const LOGIN: (&str, &str) = ("someone", "hunter2");
/// The modes in which nydusd serves images.
pub const MODES: [&str; 2] = ["dedicated", "shared"];

/// All that a test needs; what runs ends before the stage goes.
#[derive(Debug)]
pub struct Node {
    /// A client of the snapshotter.
    pub client: Client,
    /// Ours.
    pub snapshotter: Snapshotter,
    /// `None` while the registry is down.
    pub proxy: Option<Proxy>,
    /// The registry's, as image references have it.
    pub host: String,
    /// Where the snapshotter's metrics are.
    pub metrics: SocketAddr,
    /// It asks for [`LOGIN`].
    pub registry: Registry,
    /// What [`Node::unpack`] unpacks.
    pub image: Image,
    /// One of [`MODES`].
    pub mode: &'static str,
    /// The image's.
    pub version: Rafs,
    /// Where all of it is.
    pub stage: Stage,
}

impl Node {
    /// `None` if a program is missing, which is said.
    pub fn start(mode: &'static str, version: Rafs) -> Option<Self> {
        Self::start_on(mode, version, |_| {})
    }

    /// The same, of which `prepare` makes the stage.
    pub fn start_on(mode: &'static str, version: Rafs, prepare: fn(&Stage)) -> Option<Self> {
        Self::start_all(mode, version, "", prepare)
    }

    /// The same with more lines in config.toml.
    pub fn start_with(mode: &'static str, version: Rafs, more: &str) -> Option<Self> {
        Self::start_all(mode, version, more, |_| {})
    }

    fn start_all(
        mode: &'static str,
        version: Rafs,
        more: &str,
        prepare: fn(&Stage),
    ) -> Option<Self> {
        let node = Self::try_start(mode, version, more, prepare);
        if node.is_none() {
            not_run!(
                "{mode} {version:?}: busybox, nydus-image, nydusd or docker-registry is missing"
            );
        }
        node
    }

    fn try_start(
        mode: &'static str,
        version: Rafs,
        more: &str,
        prepare: fn(&Stage),
    ) -> Option<Self> {
        let stage = Stage::of_a_node()?;
        prepare(&stage);
        let layers = rootfs::layers(stage.path(), BIG)?;
        let image = image::nydus(&stage.join("image"), &layers, version)?;
        let registry = Registry::start(&stage.join("registry"), Some(LOGIN))?;
        registry.push(&image, "test/image", "tag");
        let proxy = Proxy::start(registry.address());
        let daemon = stage.join("nydusd");
        let (daemons, policy) = mode.split_once(' ').unwrap_or((mode, "restart"));
        let metrics = free_address();
        let config = CONFIG.replace("MODE", daemons).replace("DAEMON", &daemon.to_string_lossy());
        // A mode may say what happens when a daemon dies: `shared failover`.
        let config = config.replace("METRICS", &metrics.to_string()).replace("POLICY", policy);
        let config = config + more;
        symlink(fs::canonicalize(programs::tool("nydusd/bin/nydusd")?).ok()?, daemon)
            .expect("a link");
        let snapshotter = Snapshotter::start(&stage, Which::Ours, &config, TEMPLATE)?;
        snapshotter.login(&proxy.host(), LOGIN);
        let client = Client::new(snapshotter.socket());
        let (host, proxy) = (proxy.host(), Some(proxy));
        Some(Self {
            client,
            snapshotter,
            proxy,
            host,
            metrics,
            registry,
            image,
            mode,
            version,
            stage,
        })
    }

    /// The labels of the image that is pushed with this tag.
    pub fn labels(&self, tag: &str) -> Labels {
        Labels::from([(IMAGE_REF.into(), format!("{}/test/image:{tag}", self.host))])
    }

    /// Unpacks the image, unless that is done; the name of its topmost layer.
    pub fn unpack(&self) -> String {
        let names = self.client.unpack(&self.image, &self.labels("tag"));
        self.expect(names).pop().expect("a layer")
    }

    /// Unpacks another image, which shares its lower layer with this one; the name of its topmost
    /// layer.
    pub fn unpack_another(&self) -> String {
        let layers = [self.stage.join("layer1")];
        let other = image::nydus(&self.stage.join("other"), &layers, self.version);
        let other = other.expect("an image");
        self.registry.push(&other, "test/image", "other");
        let names = self.client.unpack(&other, &self.labels("other"));
        self.expect(names).pop().expect("a layer")
    }

    /// The answer.
    ///
    /// # Panics
    /// It is an error.
    #[track_caller]
    pub fn expect<T>(&self, answer: Result<T, tonic::Status>) -> T {
        answer.unwrap_or_else(|error| panic!("{error:?}\n{}", self.snapshotter.said()))
    }

    /// A container's root on the layer `top`.
    #[track_caller]
    pub fn container(&self, key: &str, top: &str) -> Mount {
        let mut mounts = self.expect(self.client.prepare(key, top, &Labels::new()));
        assert_eq!(mounts.len(), 1, "{key}");
        mounts.remove(0)
    }

    /// Mounts at a directory of this name.
    #[track_caller]
    pub fn mount(&self, entry: &Mount, name: &str) -> PathBuf {
        let target = self.stage.join(name);
        fs::create_dir_all(&target).expect(name);
        let ran = mount(entry, &target);
        assert!(ran.ok(), "{ran}\n{}", self.snapshotter.said());
        target
    }

    /// The processes of nydusd.
    pub fn daemons(&self) -> Vec<i32> {
        let pids = service::naming(&self.snapshotter.root());
        pids.into_iter().map(|pid| pid.as_raw_pid()).collect()
    }

    /// Runs `test` on a node of each kind, all at the same time: they mostly wait.
    pub fn each(kinds: impl IntoIterator<Item = (&'static str, Rafs)>, test: impl Fn(Self) + Sync) {
        std::thread::scope(|scope| {
            let test = &test;
            for (mode, version) in kinds {
                scope.spawn(move || Self::start(mode, version).map(test));
            }
        });
    }

    /// From now on, this happens to what is asked of the registry.
    pub fn fail(&self, fault: Fault) {
        self.proxy.as_ref().expect("a registry that is up").fail(fault);
    }

    /// Removes every snapshot, and looks that nothing is left, not even in the cache.
    #[track_caller]
    pub fn clear(&self) {
        let mut left = self.expect(self.client.keys());
        while !left.is_empty() {
            let before = left.len();
            left.retain(|key| self.client.remove(key).is_err());
            assert!(left.len() < before, "{left:?}\n{}", self.snapshotter.said());
        }
        self.expect(self.client.cleanup());
        self.check_left(0);
        assert_eq!(names_in(&self.snapshotter.root().join("cache")), Vec::<String>::new());
    }

    /// Looks that there are no processes and mounts, and this many directories of snapshots.
    #[track_caller]
    pub fn check_left(&self, directories: usize) {
        let root = self.snapshotter.root();
        let said = || self.snapshotter.said();
        assert_eq!(self.daemons(), Vec::<i32>::new(), "{}", said());
        // At its start it tries for a moment what the kernel can mount.
        let probe = root.join("native/.probe");
        let probing = || mounts().iter().any(|mount| mount.point.starts_with(&probe));
        assert!(service::until(Duration::from_secs(20), || !probing()), "{}", said());
        let mounted: Vec<_> = mounts().into_iter().map(|mount| mount.point).collect();
        let below = |point: &PathBuf| point != &root && point.starts_with(&root);
        assert!(!mounted.iter().any(below), "{mounted:?}\n{}", said());
        // Logs stay for as long as their image's snapshot does. What nobody waits for, such as the
        // undoing of a mount whose client gave up, removes its files after its daemon has ended.
        let kinds = ["config", "socket", "logs"].into_iter();
        let kinds = kinds.filter(|kind| *kind != "logs" || directories == 0);
        let names = kinds.flat_map(|kind| names_in(&root.join(kind)));
        let names = || names.clone().filter(|name| name != "shared").collect::<Vec<_>>();
        let gone = service::until(Duration::from_secs(10), || names().is_empty());
        assert!(gone, "{:?}\n{}", names(), said());
        let found = names_in(&root.join("snapshots"));
        assert_eq!(found.len(), directories, "{found:?}\n{}", said());
    }
}

/// Names of what is in a directory; none if it is not there.
pub fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Unmounts.
///
/// # Panics
/// It is in use.
pub fn unmount(target: &Path) {
    // Whoever looks through /proc at this very moment holds it.
    let gone = || rustix::mount::unmount(target, rustix::mount::UnmountFlags::empty()).is_ok();
    let in_time = service::until(Duration::from_secs(20), gone);
    assert!(in_time, "{} stays mounted", target.display());
}

/// Files of both layers, merged.
#[track_caller]
pub fn check_files(root: &Path) {
    for (name, expected) in [("both", "two\n"), ("lower", "lower\n"), ("upper", "upper\n")] {
        assert_eq!(fs::read_to_string(root.join("data").join(name)).expect(name), expected);
    }
    assert!(!root.join("data/removed").exists());
}

/// A container that comes and goes.
#[track_caller]
pub fn check_container(node: &Node, top: &str, key: &str) {
    let root = node.mount(&node.container(key, top), key);
    check_files(&root);
    unmount(&root);
}

/// Mounts as containerd does: a type with a program in it is that program's matter.
pub fn mount(mount: &Mount, target: &Path) -> Ran {
    let mut command = match mount.r#type.strip_prefix("fuse.") {
        Some(helper) => Command::new(programs::ours(helper)),
        None => Command::new("mount"),
    };
    if !mount.r#type.starts_with("fuse.") {
        command.args(["-t", &mount.r#type]);
    }
    run(command.arg(&mount.source).arg(target).args(["-o", &mount.options.join(",")]))
}
