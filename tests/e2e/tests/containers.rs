//! Containers of Nydus images, by real containerd, runc and nydusd.

use nydus_e2e::containerd::{Containerd, VERSIONS};
use nydus_e2e::image::{self, Blob, Image, Rafs};
use nydus_e2e::proxy::Proxy;
use nydus_e2e::registry::Registry;
use nydus_e2e::snapshotter::{Snapshotter, Which};
use nydus_e2e::stage::Stage;
use nydus_e2e::{not_run, rootfs, service};

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

const LOGIN: (&str, &str) = ("someone", "secret");

/// What shows that the kit works, with the Go snapshotter.
#[test]
fn go_snapshotter_runs_a_lazily_read_image() {
    for version in VERSIONS {
        let Some(stage) = Stage::of_a_node() else { return not_run!("not root of the machine") };
        if node(&stage, version).is_none() {
            not_run!("{version}: a program is missing");
        }
        assert_eq!(service::naming(stage.path()), []);
    }
}

fn node(stage: &Stage, version: &str) -> Option<()> {
    let layers = rootfs::layers(stage.path(), BIG)?;
    let image = image::nydus(&stage.join("image"), &layers, Rafs::V6)?;
    let registry = Registry::start(&stage.join("registry"), Some(LOGIN))?;
    registry.push(&image, "test/image", "v6");
    let proxy = Proxy::start(registry.address());
    let snapshotter = Snapshotter::start(stage, Which::Go, CONFIG, NYDUSD)?;
    snapshotter.login(&proxy.host(), LOGIN);
    let containerd = Containerd::start(stage, version, &snapshotter.socket(), &snapshotter.root())?;
    containerd.trust(&proxy.host());
    let reference = format!("{}/test/image:v6", proxy.host());
    let logs = || format!("{version}\n{}\n{}", containerd.said(), snapshotter.said());
    assert!(containerd.pull(&reference, None).is_err(), "{}", logs());
    containerd.pull(&reference, Some(LOGIN)).unwrap_or_else(|error| panic!("{error}\n{}", logs()));
    runs(&containerd, &reference, &logs);
    is_read_lazily(&containerd, &image, &proxy, &logs);
    containerd.remove_image(&reference).unwrap_or_else(|error| panic!("{error}\n{}", logs()));
    containerd.gc();
    let left = containerd.ctr(&["snapshots", "--snapshotter", "nydus", "ls"]);
    assert_eq!(String::from_utf8_lossy(&left.stdout).lines().count(), 1, "{left}\n{}", logs());
    runs_on(&containerd, &registry, &image::plain(&stage.join("plain"), &layers, true), &proxy);
    Some(())
}

/// An ordinary image. Its second container is left for the kit to end.
fn runs_on(containerd: &Containerd, registry: &Registry, image: &Image, proxy: &Proxy) {
    registry.push(image, "test/image", "plain");
    let reference = format!("{}/test/image:plain", proxy.host());
    let pulled = containerd.pull(&reference, Some(LOGIN));
    pulled.unwrap_or_else(|error| panic!("{error}\n{}", containerd.said()));
    for id in ["killed", "left"] {
        let ran = containerd.start_container(&[], &reference, id, &["sleep", "1000"]);
        assert!(ran.ok(), "{ran}\n{}", containerd.said());
        let ran = containerd.exec(id, &["cat", "/data/both"]);
        assert_eq!(ran.stdout, b"two\n", "{ran}\n{}", containerd.said());
    }
    containerd.remove_container("killed");
}

/// Files of both layers, merged; and setuid works.
fn runs(containerd: &Containerd, reference: &str, logs: &dyn Fn() -> String) {
    // `ctr run` of 1.6 has no `--user`.
    let suid = ["busybox", "su", "nobody", "-s", "/bin/suid"];
    let table: [(&[&str], &[&str], &str); 3] = [
        (&[], &["cat", "/data/both", "/data/lower", "/data/upper"], "two\nlower\nupper\n"),
        (&[], &["sh", "-c", "cat /data/removed || echo gone"], "gone\n"),
        (&["--allow-new-privs"], &suid, "0 65534\n"),
    ];
    for (number, (options, words, expected)) in table.into_iter().enumerate() {
        let ran = containerd.run(options, reference, &format!("c{number}"), words);
        assert_eq!(String::from_utf8_lossy(&ran.stdout), expected, "{ran}\n{}", logs());
    }
}

/// A part of the data was read, by nydusd; containerd has none of it.
fn is_read_lazily(
    containerd: &Containerd,
    image: &Image,
    proxy: &Proxy,
    logs: &dyn Fn() -> String,
) {
    let lower = &image.layers[0];
    let served = proxy.served(&lower.digest);
    assert!(0 < served && served < lower.size / 2, "{served} of {}\n{}", lower.size, logs());
    let content = containerd.ctr(&["content", "ls", "--quiet"]);
    let is_there = |blob: &Blob| content.shows(blob.digest.as_bytes());
    assert!(is_there(&image.config) && !image.data().any(is_there), "{content}");
}
