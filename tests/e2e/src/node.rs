//! A node as Kubernetes has it: a registry, our snapshotter and a containerd.

use crate::containerd::Containerd;
use crate::image::{self, Image, Rafs};
use crate::proxy::Proxy;
use crate::registry::Registry;
use crate::run::Ran;
use crate::snapshotter::{Snapshotter, Which};
use crate::stage::Stage;
use crate::{mounts, not_run, programs, rootfs, service};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of the large file in the image.
pub const BIG: usize = 8 << 20;

const CONFIG: &str = r#"version = 1
root = "ROOT"
address = "SOCKET"
daemon_mode = "MODE"
[daemon]
  nydusd_path = "NYDUSD"
  nydusd_config = "TEMPLATE"
[snapshot]
  enable_nydus_overlayfs = true
  nydus_overlayfs_path = "HELPER"
"#;

const NYDUSD: &str = r#"{"device":{"backend":{"type":"registry","config":{"scheme":"http",
"skip_verify":true,"timeout":5,"connect_timeout":5,"retry_limit":2}},"cache":{"type":"blobcache",
"config":{"work_dir":"CACHE"}}},"mode":"direct","digest_validate":false,"enable_xattr":true,
"fs_prefetch":{"enable":false}}"#;

/// For what takes a moment.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The user and password that the registry asks for.
pub const LOGIN: (&str, &str) = ("someone", "secret");

/// One way to set everything up.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// One of [`crate::containerd::VERSIONS`].
    pub containerd: &'static str,
    /// `daemon_mode`.
    pub mode: &'static str,
    /// Format of the image.
    pub rafs: Rafs,
    /// `nydus_overlayfs_path`; HERE is replaced by a directory with a link to the helper.
    pub helper: &'static str,
    /// More lines for config.toml.
    pub more: &'static str,
}

/// A registry, a snapshotter and a containerd. They end in this order, backwards.
#[allow(missing_docs, reason = "named by their types")]
pub struct Node {
    pub case: Case,
    pub stage: Stage,
    pub layers: [PathBuf; 2],
    pub registry: Registry,
    pub proxy: Proxy,
    pub snapshotter: Snapshotter,
    pub containerd: Containerd,
}

/// Runs `test` on a node; afterwards nothing is left. What the machine lacks for it is said.
///
/// # Panics
/// Something does not come up, or a process of the node stays.
pub fn on(case: Case, test: impl FnOnce(&mut Node)) {
    let Some(stage) = Stage::of_a_node() else { return not_run!("not root of the machine") };
    let place = stage.path().to_owned();
    let Some(mut node) = Node::start(stage, case) else {
        return not_run!("{}: a program is missing", case.containerd);
    };
    test(&mut node);
    let Node { stage, containerd, snapshotter, proxy, registry, .. } = node;
    drop((containerd, snapshotter, proxy, registry));
    assert_eq!(service::naming(&place), [], "{case:?}");
    drop(stage);
}

impl Node {
    /// Starts all of it; `None` if a program is missing.
    ///
    /// # Panics
    /// Something does not come up.
    pub fn start(stage: Stage, case: Case) -> Option<Self> {
        let layers = rootfs::layers(stage.path(), BIG)?;
        let registry = Registry::start(&stage.join("registry"), Some(LOGIN))?;
        let proxy = Proxy::start(registry.address());
        let helper = case.helper.replace("HERE", &stage.path().to_string_lossy());
        let link = programs::ours("nydus-overlayfs").canonicalize().expect("the helper");
        std::os::unix::fs::symlink(link, stage.join("nydus-overlayfs-own")).expect("a link");
        let config = CONFIG.replace("MODE", case.mode).replace("HELPER", &helper) + case.more;
        let snapshotter = Snapshotter::start(&stage, Which::Ours, &config, NYDUSD)?;
        snapshotter.login(&proxy.host(), LOGIN);
        let (socket, root) = (snapshotter.socket(), snapshotter.root());
        let containerd = Containerd::start(&stage, case.containerd, &socket, &root)?;
        containerd.trust(&proxy.host());
        Some(Self { case, stage, layers, registry, proxy, snapshotter, containerd })
    }

    /// The ends of all logs, for the message of a failed assertion.
    pub fn logs(&self) -> String {
        format!("{:?}\n{}\n{}", self.case, self.containerd.said(), self.snapshotter.said())
    }

    /// A Nydus image, pushed and pulled; its reference.
    pub fn pulled(&self) -> Option<(Image, String)> {
        let image = image::nydus(&self.stage.join("image"), &self.layers, self.case.rafs)?;
        let reference = self.push(&image, "nydus");
        self.pull(&reference);
        Some((image, reference))
    }

    /// Pushes an image as this tag; its reference.
    pub fn push(&self, image: &Image, tag: &str) -> String {
        self.registry.push(image, "test/image", tag);
        format!("{}/test/image:{tag}", self.proxy.host())
    }

    /// Pulls an image as kubelet does.
    ///
    /// # Panics
    /// It cannot be pulled.
    pub fn pull(&self, reference: &str) {
        let pulled = self.containerd.pull(reference, Some(LOGIN));
        pulled.unwrap_or_else(|error| panic!("{error}\n{}", self.logs()));
    }

    /// Runs a container to its end; what it prints must be this.
    ///
    /// # Panics
    /// It is not so.
    pub fn prints(&self, options: &[&str], reference: &str, words: &[&str], expected: &str) {
        let ran = self.containerd.run(options, reference, "once", words);
        assert_eq!(String::from_utf8_lossy(&ran.stdout), expected, "{ran}\n{}", self.logs());
    }

    /// containerd waits a second or so before it tries to connect again.
    ///
    /// # Panics
    /// It is not so.
    pub fn wait_for_snapshotter(&self) {
        let list = ["snapshots", "--snapshotter", "nydus", "ls"];
        let again = || self.containerd.ctr(&list).ok();
        assert!(service::until(LIMIT, again), "{}", self.logs());
    }

    /// Asserts that a command succeeded.
    ///
    /// # Panics
    /// It did not.
    pub fn done(&self, ran: &Ran) {
        assert!(ran.ok(), "{ran}\n{}", self.logs());
    }

    /// Removes an image that is not the last one.
    ///
    /// # Panics
    /// It is not so.
    pub fn remove_others(&self, reference: &str) {
        let removed = self.containerd.remove_image(reference);
        removed.unwrap_or_else(|error| panic!("{error}\n{}", self.logs()));
    }

    /// Removes an image; then there is nothing in the snapshotter, on its disk, mounted, or
    /// running.
    ///
    /// # Panics
    /// It is not so.
    pub fn remove(&self, reference: &str) {
        let removed = self.containerd.remove_image(reference);
        removed.unwrap_or_else(|error| panic!("{error}\n{}", self.logs()));
        self.containerd.gc();
        let left = self.containerd.ctr(&["snapshots", "--snapshotter", "nydus", "ls"]);
        assert_eq!(
            String::from_utf8_lossy(&left.stdout).lines().count(),
            1,
            "{left}\n{}",
            self.logs()
        );
        let root = self.snapshotter.root();
        let gone = service::until(LIMIT, || {
            let empty =
                |name: &str| fs::read_dir(root.join(name)).is_ok_and(|mut d| d.next().is_none());
            empty("snapshots") && self.daemons().is_empty()
        });
        assert!(gone, "{:?} {}", self.daemons(), self.logs());
        for kind in ["config", "socket", "logs", "cache"] {
            let left = fs::read_dir(root.join(kind)).into_iter().flatten().flatten();
            let mut left: Vec<_> = left.map(|entry| entry.file_name()).collect();
            // Logs of the daemon of all images stay; it may come again.
            left.retain(|name| kind != "logs" || name != "shared");
            assert!(left.is_empty(), "{kind}: {left:?} {}", self.logs());
        }
        let mounts = mounts::mounts();
        assert!(!mounts.iter().any(|mount| mount.point.starts_with(&root)), "{mounts:?}");
    }

    /// Every nydusd of this snapshotter.
    pub fn daemons(&self) -> Vec<rustix::process::Pid> {
        service::naming(&self.snapshotter.root().join("socket"))
    }
}
