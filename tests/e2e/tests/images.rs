//! Nydus images served by our snapshotter and nydusd; the tests play containerd's part.

use containerd_proto::snapshots::Mount;
use nydus_e2e::client::{Client, IMAGE_REF, Labels, mount};
use nydus_e2e::image::{self, Blob, Image, Rafs};
use nydus_e2e::mounts::mounts;
use nydus_e2e::proxy::{Fault, Proxy};
use nydus_e2e::registry::Registry;
use nydus_e2e::run::run;
use nydus_e2e::snapshotter::{Snapshotter, Which};
use nydus_e2e::stage::Stage;
use nydus_e2e::{not_run, programs, rootfs, service};
use nydus_mount_slice::{ExtraOption, FsVersion};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

const BIG: usize = 4 << 20;

const CONFIG: &str = r#"version = 1
root = "ROOT"
address = "SOCKET"
daemon_mode = "MODE"
[daemon]
  nydusd_path = "DAEMON"
  nydusd_config = "TEMPLATE"
[snapshot]
  enable_nydus_overlayfs = true
[metrics]
  address = "METRICS"
  collect_interval = "1s"
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
    /// `None` while the registry is down.
    proxy: Option<Proxy>,
    host: String,
    metrics: SocketAddr,
    registry: Registry,
    image: Image,
    mode: &'static str,
    version: Rafs,
    stage: Stage,
}

impl Node {
    /// `None` if a program is missing, which is said.
    fn start(mode: &'static str, version: Rafs) -> Option<Self> {
        Self::start_on(mode, version, |_| {})
    }

    /// The same, of which `prepare` makes the stage.
    fn start_on(mode: &'static str, version: Rafs, prepare: fn(&Stage)) -> Option<Self> {
        let node = Self::try_start(mode, version, prepare);
        if node.is_none() {
            not_run!(
                "{mode} {version:?}: busybox, nydus-image, nydusd or docker-registry is missing"
            );
        }
        node
    }

    fn try_start(mode: &'static str, version: Rafs, prepare: fn(&Stage)) -> Option<Self> {
        let stage = Stage::of_a_node()?;
        prepare(&stage);
        let layers = rootfs::layers(stage.path(), BIG)?;
        let image = image::nydus(&stage.join("image"), &layers, version)?;
        let registry = Registry::start(&stage.join("registry"), Some(LOGIN))?;
        registry.push(&image, "test/image", "tag");
        let proxy = Proxy::start(registry.address());
        let daemon = stage.join("nydusd");
        let metrics = free_address();
        let config = CONFIG.replace("MODE", mode).replace("DAEMON", &daemon.to_string_lossy());
        let config = config.replace("METRICS", &metrics.to_string());
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
    fn labels(&self, tag: &str) -> Labels {
        Labels::from([(IMAGE_REF.into(), format!("{}/test/image:{tag}", self.host))])
    }

    /// Unpacks the image, unless that is done; the name of its topmost layer.
    fn unpack(&self) -> String {
        let names = self.client.unpack(&self.image, &self.labels("tag"));
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

    /// From now on, this happens to what is asked of the registry.
    fn fail(&self, fault: Fault) {
        self.proxy.as_ref().expect("a registry that is up").fail(fault);
    }

    /// Removes every snapshot, and looks that nothing is left, not even in the cache.
    #[track_caller]
    fn clear(&self) {
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
    fn check_left(&self, directories: usize) {
        let root = self.snapshotter.root();
        let said = || self.snapshotter.said();
        assert_eq!(self.daemons(), Vec::<i32>::new(), "{}", said());
        let mounted: Vec<_> = mounts().into_iter().map(|mount| mount.point).collect();
        let below = |point: &PathBuf| point != &root && point.starts_with(&root);
        assert!(!mounted.iter().any(below), "{mounted:?}\n{}", said());
        for kind in ["config", "socket"] {
            let mut left = names_in(&root.join(kind));
            left.retain(|name| name != "shared");
            assert_eq!(left, Vec::<String>::new(), "{kind}\n{}", said());
        }
        let found = names_in(&root.join("snapshots"));
        assert_eq!(found.len(), directories, "{found:?}\n{}", said());
    }
}

/// An address that nobody listens at now.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address")
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn unmount(target: &Path) {
    // Whoever looks through /proc at this very moment holds it.
    let gone = || rustix::mount::unmount(target, rustix::mount::UnmountFlags::empty()).is_ok();
    assert!(service::until(Duration::from_secs(5), gone), "{} stays mounted", target.display());
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

/// One that has lived for a while is started again before somebody asks.
#[test]
fn a_dead_daemon_is_replaced() {
    for node in MODES.into_iter().filter_map(|mode| Node::start(mode, Rafs::V6)) {
        let top = node.unpack();
        let entry = node.container("c0", &top);
        sleep(Duration::from_millis(5500));
        service::end_naming(&node.snapshotter.root());
        let lower = || fs::exists(lower(&entry).join("data/both")).unwrap_or(false);
        let again = service::until(Duration::from_secs(20), lower);
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

/// A container that comes and goes.
#[track_caller]
fn check_container(node: &Node, top: &str, key: &str) {
    let root = node.mount(&node.container(key, top), key);
    check_files(&root);
    unmount(&root);
}

/// What goes wrong, what the client is told (one of several, between `|`), and how it is put right.
struct Wrong {
    what: &'static str,
    expected: &'static str,
    wrong: fn(&mut Node),
    right: fn(&mut Node),
}

fn bootstrap(node: &Node) -> PathBuf {
    let snapshots = node.snapshotter.root().join("snapshots");
    let all = names_in(&snapshots).into_iter().map(|id| snapshots.join(id).join("fs/image"));
    all.map(|image| image.join("image.boot")).find(|boot| boot.exists()).expect("a bootstrap")
}

/// Damages the bootstrap; [`again`] makes it whole.
fn damage(node: &Node, how: fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(bootstrap(node)).expect("a bootstrap");
    how(&mut bytes);
    fs::write(bootstrap(node), bytes).expect("a bootstrap");
}

/// Unpacks the image anew.
fn again(node: &mut Node) {
    node.clear();
    node.unpack();
}

fn unpack_without_labels(node: &mut Node) {
    node.clear();
    node.expect(node.client.unpack(&node.image, &Labels::new()));
}

fn replace_daemon(node: &Node, script: &str) {
    let program = node.stage.join("nydusd");
    fs::rename(&program, node.stage.join("nydusd.real")).expect("a program");
    if !script.is_empty() {
        fs::write(&program, script).expect("a script");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a script");
    }
}

fn real_daemon(node: &mut Node) {
    fs::rename(node.stage.join("nydusd.real"), node.stage.join("nydusd")).expect("a program");
}

fn template(node: &Node) -> PathBuf {
    node.stage.join("s/nydusd.json")
}

/// The same as at the start: [`Snapshotter`] writes it.
fn right_template(node: &mut Node) {
    let cache = node.snapshotter.root().join("cache");
    let text = TEMPLATE.replace("CACHE", &cache.to_string_lossy());
    fs::write(template(node), text).expect("a template");
}

const WRONG: &[Wrong] = &[
    Wrong {
        what: "wrong credentials",
        expected: "refuses the credentials for repository test/image",
        wrong: |node| node.snapshotter.login(&node.host, (LOGIN.0, "wrong")),
        right: |node| node.snapshotter.login(&node.host, LOGIN),
    },
    Wrong {
        what: "no credentials",
        expected: "refuses the credentials for repository test/image",
        wrong: |node| fs::remove_file(node.stage.join("s/.docker/config.json")).expect("a file"),
        right: |node| node.snapshotter.login(&node.host, LOGIN),
    },
    Wrong {
        what: "the registry is down",
        expected: "cannot be asked: ",
        wrong: |node| drop(node.proxy.take()),
        right: |node| {
            let address = node.host.parse().expect("an address");
            node.proxy = Some(Proxy::start_at(address, node.registry.address()));
        },
    },
    Wrong {
        what: "a blob is missing",
        expected: "does not have blob sha256:",
        wrong: |node| node.fail(Fault::Missing(node.image.layers[0].digest.clone())),
        right: |node| node.fail(Fault::None),
    },
    Wrong {
        what: "another blob is missing",
        expected: "does not have blob sha256:",
        wrong: |node| node.fail(Fault::Missing(node.image.layers[1].digest.clone())),
        right: |node| node.fail(Fault::None),
    },
    Wrong {
        what: "the registry stalls",
        expected: "cannot be asked: no answer in 6s",
        wrong: |node| node.fail(Fault::Stall),
        right: |node| node.fail(Fault::None),
    },
    Wrong {
        what: "the bootstrap is empty",
        expected: "is no RAFS bootstrap",
        wrong: |node| damage(node, Vec::clear),
        right: again,
    },
    Wrong {
        what: "the bootstrap is zeroed",
        expected: "is no RAFS bootstrap",
        wrong: |node| damage(node, |bytes| bytes.fill(0)),
        right: again,
    },
    Wrong {
        what: "the bootstrap is cut",
        expected: "is cut|FillSuperblock",
        wrong: |node| damage(node, |bytes| bytes.truncate(bytes.len() / 2 + 10)),
        right: again,
    },
    Wrong {
        what: "the bootstrap is cut after its superblock",
        expected: "FillSuperblock",
        wrong: |node| damage(node, |bytes| bytes.truncate(8192)),
        right: again,
    },
    Wrong {
        what: "the bootstrap is zeroed behind its superblock",
        expected: "FillSuperblock",
        wrong: |node| damage(node, |bytes| bytes[2048..].fill(0)),
        right: again,
    },
    Wrong {
        what: "no reference",
        expected: "disable_snapshot_annotations",
        wrong: unpack_without_labels,
        right: again,
    },
    Wrong {
        what: "no nydusd",
        expected: "nydusd",
        wrong: |node| replace_daemon(node, ""),
        right: real_daemon,
    },
    Wrong {
        what: "nydusd that fails",
        expected: "its last words",
        wrong: |node| replace_daemon(node, "#!/bin/sh\necho its last words >&2\nexit 3\n"),
        right: real_daemon,
    },
    Wrong {
        what: "no template",
        expected: "nydusd.json: No such file",
        wrong: |node| fs::remove_file(template(node)).expect("a template"),
        right: right_template,
    },
    Wrong {
        what: "a template that is no JSON",
        expected: "no JSON",
        wrong: |node| fs::write(template(node), "{").expect("a template"),
        right: right_template,
    },
];

#[test]
fn faults_leave_nothing() {
    for mut node in nodes() {
        for wrong in WRONG {
            again(&mut node);
            check_wrong(&mut node, wrong);
        }
        node.clear();
    }
}

fn check_wrong(node: &mut Node, wrong: &Wrong) {
    (wrong.wrong)(node);
    let what = |node: &Node| format!("{}\n{}", wrong.what, node.snapshotter.said());
    let keys = node.expect(node.client.keys());
    let top = node.unpack();
    let client = node.client.patient_for(Duration::from_secs(10));
    for key in ["prepared", "viewed"] {
        let answer = match key {
            "viewed" => client.view(key, &top),
            _ => client.prepare(key, &top, &Labels::new()),
        };
        let error = answer.err().unwrap_or_else(|| panic!("{key}: {}", what(node)));
        let said = error.message();
        let expected = wrong.expected.split('|').any(|words| said.contains(words));
        assert!(expected && !said.contains('\n'), "{said}\n{}", what(node));
    }
    assert_eq!(node.expect(node.client.keys()), keys, "{}", what(node));
    if node.mode == "shared" {
        // The daemon waits for the next image, or for this.
        node.expect(node.client.cleanup());
    }
    node.check_left(keys.len());
    (wrong.right)(node);
    check_container(node, &node.unpack(), "right");
}

/// A disk that others filled: what needs space fails, Remove does not, and then there is some.
#[test]
fn a_full_disk_is_survived() {
    fn small(stage: &Stage) {
        fs::create_dir_all(stage.join("s/r")).expect("a directory");
        let options = Some(c"size=24m");
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("disk", stage.join("s/r"), "tmpfs", flags, options).expect("tmpfs");
    }
    for node in MODES.into_iter().filter_map(|mode| Node::start_on(mode, Rafs::V6, small)) {
        let top = node.unpack();
        let keys = node.expect(node.client.keys());
        let filler = node.snapshotter.root().join("filler");
        let client = node.client.patient_for(Duration::from_secs(10));
        for spare in [0, 4096, 16384] {
            fill(&filler, spare);
            let error = client.prepare("full", &top, &Labels::new()).expect_err("a full disk");
            let said = error.message();
            let expected = said.contains("No space left on device");
            assert!(expected, "{spare}: {said}\n{}", node.snapshotter.said());
            assert_eq!(node.expect(node.client.keys()), keys);
            node.check_left(keys.len());
        }
        node.expect(node.client.remove(&top));
        fs::remove_file(&filler).expect("a file to remove");
        check_container(&node, &node.unpack(), "after");
        node.clear();
    }
}

/// Makes a file that leaves this many bytes of the disk free.
fn fill(path: &Path, spare: u64) {
    let mut file = File::create(path).expect("a file");
    for block in [1 << 20, 4096] {
        while file.write_all(&vec![1; block]).is_ok() {}
    }
    let blocks = file.metadata().expect("a file").len() / 4096;
    file.set_len(blocks * 4096 - spare).expect("a file to shorten");
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

/// A nydusd that takes long: who waits for it can give up, and nobody else waits.
#[test]
fn a_client_gives_up() {
    let Some(mut node) = Node::start("dedicated", Rafs::V6) else { return };
    let other = image::nydus(&node.stage.join("other"), &[node.stage.join("layer1")], Rafs::V6);
    let other = other.expect("an image");
    node.registry.push(&other, "test/image", "other");
    let top = node.unpack();
    // The program is asked for its options once.
    check_container(&node, &top, "c0");
    node.expect(node.client.remove("c0"));
    node.expect(node.client.cleanup());
    let second = node.expect(node.client.unpack(&other, &node.labels("other")));
    let keys = node.expect(node.client.keys());
    let real = fs::canonicalize(node.stage.join("nydusd")).expect("nydusd");
    replace_daemon(&node, &format!("#!/bin/sh\nsleep 5\nexec {} \"$@\"\n", real.display()));
    let impatient = node.client.patient_for(Duration::from_millis(300));
    let error = impatient.prepare("slow", &top, &Labels::new()).expect_err("too late");
    assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
    assert_eq!(node.daemons().len(), 1);
    real_daemon(&mut node);
    let quick = node.client.patient_for(Duration::from_secs(3));
    node.expect(quick.prepare("quick", &second[1], &Labels::new()));
    assert!(node.client.stat("slow").is_ok(), "it is still being mounted");
    node.expect(node.client.remove("quick"));
    node.expect(node.client.cleanup());
    let undone = || node.daemons().is_empty() && node.client.keys().is_ok_and(|now| now == keys);
    assert!(service::until(Duration::from_secs(15), undone), "{}", node.snapshotter.said());
    node.check_left(keys.len());
    check_container(&node, &top, "c1");
    node.clear();
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
