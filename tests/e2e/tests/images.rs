//! Nydus images served by our snapshotter and nydusd; the tests play containerd's part.

use containerd_proto::snapshots::Mount;
use nydus_e2e::bare::{
    BIG, LOGIN, MODES, Node, TEMPLATE, check_container, check_files, names_in, unmount,
};
use nydus_e2e::client::Labels;
use nydus_e2e::image::{self, Blob, Rafs};
use nydus_e2e::proxy::Fault;
use nydus_e2e::registry::encoded;
use nydus_e2e::run::run;
use nydus_e2e::{programs, rootfs, service};
use nydus_mount_slice::{ExtraOption, FsVersion};
use nydus_snapshotter::store::{Draft, Lookup, Set, Store};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

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
        assert_eq!(node.expect(node.client.mounts("c1")), std::slice::from_ref(&entry));
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
        check_secrets(&node);
        [root, view].iter().for_each(|target| unmount(target));
        node.clear();
    }
}

/// They are in files that only root reads, and in no log.
fn check_secrets(node: &Node) {
    let encoded = encoded(LOGIN.0, LOGIN.1);
    let files = |name: &str| {
        let all = walk(&node.snapshotter.root().join(name));
        all.into_iter().map(|path| (fs::read_to_string(&path).unwrap_or_default(), path))
    };
    let configs: Vec<_> = files("config").filter(|(text, _)| text.contains(&encoded)).collect();
    assert_eq!(configs.len(), 1);
    for (_, path) in configs {
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
    let own = node.stage.join("s/log");
    let own = (fs::read_to_string(&own).expect("a log"), own);
    for (text, path) in files("logs").chain([own]) {
        let told = [&encoded, &LOGIN.1.to_owned()].iter().any(|secret| text.contains(*secret));
        assert!(!told, "{}", path.display());
    }
}

/// All files below a directory.
fn walk(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let below = |entry: fs::DirEntry| match entry.path() {
        path if path.is_dir() => walk(&path),
        path => vec![path],
    };
    entries.flat_map(below).collect()
}

/// Credentials from labels only; then blobs from a directory, where nobody says which registry.
#[test]
fn other_ways_to_the_data() {
    for node in MODES.into_iter().filter_map(|mode| Node::start(mode, Rafs::V6)) {
        fs::remove_file(node.stage.join("s/.docker/config.json")).expect("a file");
        let mut labels = node.labels("tag");
        for (name, value) in [("pullusername", LOGIN.0), ("pullsecret", LOGIN.1)] {
            labels.insert(format!("containerd.io/snapshot/{name}"), value.into());
        }
        let names = node.expect(node.client.unpack(&node.image, &labels));
        check_container(&node, &names[2], "c1");
        node.clear();
        let blobs = node.image.layers[0].path.parent().expect("a directory");
        let template =
            TEMPLATE.replace("CACHE", &node.snapshotter.root().join("cache").to_string_lossy());
        let mut template: serde_json::Value = serde_json::from_str(&template).expect("JSON");
        template["device"]["backend"] =
            serde_json::json!({ "type": "localfs", "config": { "dir": blobs } });
        fs::write(node.stage.join("s/nydusd.json"), template.to_string()).expect("a template");
        let names = node.expect(node.client.unpack(&node.image, &Labels::new()));
        let proxy = node.proxy.as_ref().expect("a proxy");
        proxy.reset();
        check_container(&node, &names[2], "c2");
        assert_eq!(proxy.requests(), Vec::<String>::new());
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
    assert_eq!(config["device"]["backend"]["config"]["host"], node.host);
}

/// Kills the snapshotter, nydusd, or both, while a container has the image mounted. That
/// container has its files for as long as its nydusd lives; later ones always do.
#[test]
fn a_kill_is_survived() {
    for mut node in MODES.into_iter().filter_map(|mode| Node::start(mode, Rafs::V6)) {
        let top = node.unpack();
        let first = node.mount(&node.container("c0", &top), "m0");
        let before = node.daemons();
        node.snapshotter.service().kill();
        node.snapshotter.restart();
        check_files(&first);
        check_container(&node, &top, "c1");
        assert_eq!(node.daemons(), before, "{}", node.snapshotter.said());
        for (key, both) in [("c2", false), ("c3", true)] {
            if both {
                node.snapshotter.service().kill();
            }
            service::end_naming(&node.snapshotter.root());
            if both {
                node.snapshotter.restart();
            }
            check_container(&node, &top, key);
        }
        unmount(&first);
        node.clear();
    }
}

/// A damaged record of a daemon or of an image: who serves goes on, and is stopped in the end.
#[test]
fn a_damaged_record_is_survived() {
    for mut node in MODES.into_iter().filter_map(|mode| Node::start(mode, Rafs::V6)) {
        let top = node.unpack();
        let root = node.mount(&node.container("c0", &top), "m0");
        let before = node.daemons();
        for set in ["daemons", "instances"] {
            node.snapshotter.service().kill();
            damage(&node.snapshotter.root(), set);
            node.snapshotter.restart();
            check_container(&node, &top, set);
            check_files(&root);
            assert_eq!(node.daemons(), before, "{}", node.snapshotter.said());
        }
        unmount(&root);
        node.clear();
    }
}

/// Puts something else in place of each record of a set.
fn damage(root: &Path, set: &'static str) {
    let set = Set::<serde_json::Value>::new(set);
    let store = Store::open(&root.join("snapshots.redb")).expect("a store");
    let all = store.read().and_then(|read| read.items(&set)).expect("records").found;
    assert_eq!(all.len(), 1);
    let damage = move |draft: &mut Draft<'_>| {
        all.iter().try_for_each(|(id, _)| draft.put_item(&set, id, &"damaged".into()))
    };
    store.write_blocking(damage).expect("a write");
}

/// One that has lived for a while is started again before somebody asks.
#[test]
fn a_dead_daemon_is_replaced() {
    // 2.2 says that it hands its session over and does not: then it is started anew.
    let modes = MODES.into_iter().chain(["dedicated failover", "shared failover"]);
    for node in modes.filter_map(|mode| Node::start(mode, Rafs::V6)) {
        let top = node.unpack();
        let entry = node.container("c0", &top);
        sleep(Duration::from_millis(5500));
        service::end_naming(&node.snapshotter.root());
        let lower = || fs::exists(lower(&entry).join("data/both")).unwrap_or(false);
        let again = service::until(Duration::from_secs(60), lower);
        assert!(again, "{}", node.snapshotter.said());
        let root = node.mount(&entry, "m0");
        check_files(&root);
        unmount(&root);
        node.clear();
    }
}

/// Where nydusd serves the image.
fn lower(entry: &Mount) -> PathBuf {
    let option = entry.options.iter().find_map(|option| option.strip_prefix("lowerdir="));
    option.expect("lower layers").into()
}

/// A token that was revoked is seen before a container reads.
#[test]
fn a_revoked_token_is_told() {
    for node in MODES.into_iter().filter_map(|mode| Node::start(mode, Rafs::V6)) {
        let top = node.unpack();
        let root = node.mount(&node.container("c1", &top), "m1");
        let table = [
            (Fault::None, "", "1"),
            (Fault::Unauthorized, "refuses the credentials for repository test/image", "0"),
            (Fault::None, "", "1"),
        ];
        for (fault, trouble, readable) in table {
            node.fail(fault);
            let told = || told_trouble(&node).contains(trouble) && told_readable(&node) == readable;
            let in_time = service::until(Duration::from_secs(15), told);
            let now = (told_trouble(&node), told_readable(&node));
            assert!(in_time, "{now:?}, not {trouble:?}\n{}", node.snapshotter.said());
            assert_eq!(now.0.is_empty(), trouble.is_empty(), "{}", now.0);
        }
        check_files(&root);
        unmount(&root);
        node.clear();
    }
}

/// What `status` says about the only image.
fn told_trouble(node: &Node) -> String {
    let mut status = Command::new(programs::ours("containerd-nydus-grpc"));
    let ran = run(status.args(["status", "--json", "--address"]).arg(node.snapshotter.socket()));
    assert!(ran.ok(), "{ran}");
    let report: serde_json::Value = serde_json::from_slice(&ran.stdout).expect("JSON");
    let instances = report["instances"].as_array().expect("instances");
    // One that is just looked at may be left out.
    let trouble = instances.first().and_then(|instance| instance["trouble"].as_str());
    trouble.unwrap_or_default().to_owned()
}

fn told_readable(node: &Node) -> String {
    let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
    let answer = agent.get(format!("http://{}/metrics", node.metrics)).call().expect("metrics");
    let text = answer.into_body().read_to_string().expect("text");
    let line = text.lines().find(|line| line.starts_with("nydus_snapshotter_image_readable{"));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value.unwrap_or_default().to_owned()
}

/// Two images with the lower layer in common; one goes.
#[test]
fn only_what_nobody_uses_is_freed() {
    for node in nodes() {
        let [lower, upper] = ["layer1", "layer2"].map(|name| node.stage.join(name));
        let other = node.stage.join("layer3");
        rootfs::layer(&other, &[("data/other", b"other\n"), ("data/both", b"three\n")]);
        let both = [lower, other];
        let other = image::nydus(&node.stage.join("other"), &both, node.version).expect("image");
        assert!(upper.is_dir() && node.image.layers[0].digest == other.layers[0].digest);
        node.registry.push(&other, "test/image", "other");
        let first = node.expect(node.client.unpack(&node.image, &node.labels("tag")));
        let second = node.expect(node.client.unpack(&other, &node.labels("other")));
        check_container(&node, &first[2], "c1");
        let root = node.mount(&node.container("c2", &second[2]), "m2");
        assert_eq!(fs::read_to_string(root.join("data/other")).expect("a file"), "other\n");
        File::open(root.join(rootfs::BIG))
            .and_then(|mut file| file.read_exact(&mut [0]))
            .expect("a byte");
        let [shared, own, others] =
            [&node.image.layers[0], &node.image.layers[1], &other.layers[1]];
        let cached = |blob: &Blob| {
            let names = names_in(&node.snapshotter.root().join("cache"));
            names.iter().any(|name| name.starts_with(blob.hex()))
        };
        assert_eq!([shared, own, others].map(cached), [true; 3]);
        for key in ["c1", &first[2], &first[1]] {
            node.expect(node.client.remove(key));
        }
        node.expect(node.client.cleanup());
        assert_eq!([shared, own, others].map(cached), [true, false, true]);
        let served = node.proxy.as_ref().expect("a proxy").served(&shared.digest);
        assert_eq!(fs::read(root.join(rootfs::BIG)).expect("a file"), rootfs::noise(BIG));
        assert!(node.proxy.as_ref().expect("a proxy").served(&shared.digest) > served);
        unmount(&root);
        node.clear();
    }
}

/// Cleanup, as often as it can be called, beside images and containers that come and go.
#[test]
fn cleanup_beside_the_rest() {
    for node in MODES.into_iter().filter_map(|mode| Node::start(mode, Rafs::V6)) {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let cleaning = scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    node.expect(node.client.cleanup());
                }
            });
            let others = scope.spawn(|| come_and_go(&node)).join();
            over.store(true, Ordering::Relaxed);
            assert!(cleaning.join().is_ok() && others.is_ok());
        });
        node.clear();
    }
}

fn come_and_go(node: &Node) {
    for _ in 0..15 {
        let top = node.unpack();
        let root = node.mount(&node.container("stays", &top), "stays");
        let before = node.daemons();
        for number in 0..20 {
            let key = format!("c{number}");
            node.container(&key, &top);
            node.expect(node.client.remove(&key));
        }
        check_files(&root);
        assert_eq!(node.daemons(), before, "{}", node.snapshotter.said());
        unmount(&root);
        node.clear();
    }
}
