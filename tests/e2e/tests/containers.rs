//! Containers of Nydus images, by real containerd, runc and nydusd.

use nydus_e2e::containerd::{Containerd, VERSIONS};
use nydus_e2e::image::{self, Rafs};
use nydus_e2e::proxy::Proxy;
use nydus_e2e::registry::Registry;
use nydus_e2e::snapshotter::{Snapshotter, Which};
use nydus_e2e::stage::Stage;
use nydus_e2e::{not_run, rootfs};

const BIG: usize = 8 << 20;

const CONFIG: &str = r#"version = 1
root = "ROOT"
address = "SOCKET"
daemon_mode = "dedicated"
[system]
  enable = false
[daemon]
  nydusd_path = "NYDUSD"
  nydusd_config = "TEMPLATE"
  fs_driver = "fusedev"
  recover_policy = "none"
[snapshot]
  enable_nydus_overlayfs = true
  nydus_overlayfs_path = "nydus-overlayfs"
"#;

const NYDUSD: &str = r#"{"device":{"backend":{"type":"registry","config":{"scheme":"http",
"skip_verify":true,"timeout":5,"connect_timeout":5,"retry_limit":2}},"cache":{"type":"blobcache",
"config":{"work_dir":"CACHE"}}},"mode":"direct","digest_validate":false,"enable_xattr":true,
"fs_prefetch":{"enable":false}}"#;

/// What shows that the kit works, with the Go snapshotter.
#[test]
fn go_snapshotter_runs_a_lazily_read_image() {
    for version in VERSIONS {
        let Some(stage) = Stage::of_a_node() else { return not_run!("not root of the machine") };
        if run_one(&stage, version).is_none() {
            not_run!("{version}: a program is missing");
        }
    }
}

fn run_one(stage: &Stage, version: &str) -> Option<()> {
    let layers = rootfs::layers(stage.path(), BIG)?;
    let image = image::nydus(&stage.join("image"), &layers, Rafs::V6)?;
    let registry = Registry::start(&stage.join("registry"), None)?;
    registry.push(&image, "test/image", "v6");
    let proxy = Proxy::start(registry.address());
    let snapshotter = Snapshotter::start(stage, Which::Go, CONFIG, NYDUSD)?;
    let containerd = Containerd::start(stage, version, &snapshotter.socket(), &snapshotter.root())?;
    containerd.trust(&proxy.host());
    let reference = format!("{}/test/image:v6", proxy.host());
    let logs = || format!("{version}\n{}\n{}", containerd.said(), snapshotter.said());
    containerd.pull(&reference, None).unwrap_or_else(|error| panic!("{error}\n{}", logs()));
    let ran = containerd.run(&[], &reference, "one", &["cat", "/data/both", "/data/lower"]);
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "two\nlower\n", "{ran}\n{}", logs());
    let [lower, upper] = [0, 1].map(|layer| &image.layers[layer]);
    let served = proxy.served(&lower.digest);
    assert!(0 < served && served < lower.size / 2, "{served} of {}\n{}", lower.size, logs());
    let content = containerd.ctr(&["content", "ls", "--quiet"]);
    let is_there = |digest: &str| content.shows(digest.as_bytes());
    assert!(is_there(&image.config.digest), "{content}");
    assert!(!is_there(&lower.digest) && !is_there(&upper.digest), "{content}");
    containerd.remove_image(&reference).unwrap_or_else(|error| panic!("{error}\n{}", logs()));
    let pruned = containerd.gc();
    assert!(pruned.ok(), "{pruned}");
    Some(())
}
