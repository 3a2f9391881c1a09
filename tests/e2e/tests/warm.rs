//! Images that the kernel serves once they are complete; the tests play containerd's part.

use containerd_proto::snapshots::Mount;
use nydus_e2e::bare::{BIG, MODES, Node, check_files, names_in, unmount};
use nydus_e2e::client::Labels;
use nydus_e2e::containerd::VERSIONS;
use nydus_e2e::image::Rafs;
use nydus_e2e::mounts::mounts;
use nydus_e2e::node::{self, Case};
use nydus_e2e::run::{Ran, run};
use nydus_e2e::stage::Stage;
use nydus_e2e::{not_run, programs, rootfs, service};
use nydus_mount_slice::ExtraOption;
use rafs_erofs::{Native, Placement};
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

fn nodes(more: &'static str) -> impl Iterator<Item = Node> {
    MODES.into_iter().filter_map(move |mode| Node::start_with(mode, Rafs::V6, more))
}

fn ask(node: &Node, words: &[&str]) -> Ran {
    let mut command = Command::new(programs::ours("containerd-nydus-grpc"));
    run(command.args(words).arg("--address").arg(node.snapshotter.socket()))
}

/// `warm`; the image's reference.
fn warm(node: &Node) -> Ran {
    ask(node, &["warm", &format!("{}/test/image:tag", node.host)])
}

#[track_caller]
fn warmed(node: &Node) {
    let ran = warm(node);
    assert!(ran.ok() && ran.shows(b"the kernel serves it"), "{ran}\n{}", node.snapshotter.said());
}

/// What `status` says of the only image.
fn status(node: &Node) -> Value {
    let ran = ask(node, &["status", "--json"]);
    assert!(ran.ok(), "{ran}");
    let report: Value = serde_json::from_slice(&ran.stdout).expect("JSON");
    report["images"][0].clone()
}

fn served(node: &Node) -> String {
    status(node)["served"].as_str().unwrap_or_default().to_owned()
}

/// The lowest layer.
fn lower(entry: &Mount) -> PathBuf {
    let option = entry.options.iter().find_map(|option| option.strip_prefix("lowerdir="));
    option.expect("lower layers").into()
}

fn native(node: &Node) -> PathBuf {
    node.snapshotter.root().join("native")
}

/// Whether the kernel serves it.
fn is_kernel(node: &Node, entry: &Mount) -> bool {
    lower(entry).starts_with(native(node))
}

#[track_caller]
fn check_all(root: &Path) {
    check_files(root);
    assert_eq!(fs::read(root.join(rootfs::BIG)).expect("a file"), rootfs::noise(BIG));
}

/// Promotes while a container is on FUSE, which stays there; then everything without nydusd and
/// without a registry.
#[test]
fn lazy_first_then_the_kernel() {
    for mut node in nodes("") {
        let top = node.unpack();
        let first = node.container("c0", &top);
        let on_fuse = node.mount(&first, "m0");
        check_files(&on_fuse);
        assert_eq!(served(&node), "fuse");
        warmed(&node);
        assert_eq!(served(&node), "both", "{}", node.snapshotter.said());
        assert_eq!(node.expect(node.client.mounts("c0")), std::slice::from_ref(&first));

        let second = node.container("c1", &top);
        let said = || node.snapshotter.said();
        assert!(is_kernel(&node, &second) && !is_kernel(&node, &first), "{}", said());
        same_slice(&first, &second);
        let native = node.mount(&second, "m1");
        check_all(&native);
        fs::write(native.join("data/new"), "new").expect("a file to write");
        let view = node.expect(node.client.view("v1", &top));
        let view = node.mount(&view[0], "m2");
        check_all(&view);
        check_all(&on_fuse);
        assert_eq!(node.daemons().len(), 1);

        unmount(&on_fuse);
        node.expect(node.client.remove("c0"));
        node.expect(node.client.cleanup());
        assert_eq!(node.daemons(), Vec::<i32>::new(), "{}", node.snapshotter.said());
        assert_eq!(served(&node), "kernel");
        check_all(&native);

        node.proxy = None;
        fs::remove_file(node.stage.join("nydusd")).expect("nydusd");
        node.snapshotter.service().kill();
        node.snapshotter.restart();
        assert_eq!(node.expect(node.client.mounts("c1")), std::slice::from_ref(&second));
        let third = node.mount(&node.container("c2", &top), "m3");
        check_all(&third);
        [native, view, third].iter().for_each(|target| unmount(target));

        reboot(&mut node);
        assert_eq!(node.expect(node.client.mounts("c1")), std::slice::from_ref(&second));
        let again = node.mount(&second, "m4");
        assert_eq!(fs::read_to_string(again.join("data/new")).expect("a file"), "new");
        check_all(&again);
        unmount(&again);
        node.clear();
        assert!(!self::native(&node).exists());
    }
}

/// Nothing is mounted and nothing runs.
fn reboot(node: &mut Node) {
    node.snapshotter.service().kill();
    service::end_naming(&node.snapshotter.root());
    let root = node.snapshotter.root();
    for mount in mounts().iter().rev().filter(|mount| mount.point.starts_with(&root)) {
        unmount(&mount.point);
    }
    node.snapshotter.restart();
    // It listens before it looks at what is there.
    node.expect(node.client.keys());
}

/// Type and payload are the same but for the container's own directory.
#[track_caller]
fn same_slice(one: &Mount, other: &Mount) {
    let extra = |mount: &Mount| ExtraOption::from_options(&mount.options).expect("a slice").value;
    let (before, after) = (extra(one), extra(other));
    assert_eq!(one.r#type, other.r#type);
    assert_eq!(before.config.expose(), after.config.expose());
    assert_eq!((before.source, before.fs_version), (after.source, after.fs_version));
    assert_ne!(before.snapshotdir, after.snapshotdir);
}

/// A file that is not what was verified: back to nydusd, with the right bytes, and to the kernel
/// again when it is told so.
#[test]
fn what_has_changed_is_not_mounted() {
    type Damage = fn(&Path);
    let table: &[(&str, Damage, &str)] = &[
        ("0", |file| overwrite(file, b"wrong"), "was changed since it was verified"),
        ("0", overwrite_all, "was changed since it was verified"),
        ("0", |file| cut(file, 4096), "bytes, expected"),
        ("1", |file| fs::remove_file(file).expect("a file"), "is missing"),
        ("0", |file| replace(file), "is another file than was verified"),
        ("image.boot", |file| overwrite(file, b"wrong"), "was changed since it was verified"),
        ("verified.json", |file| overwrite(file, b"wrong"), "verified.json"),
        ("verified.json", |file| fs::remove_file(file).expect("a file"), "is missing"),
    ];
    for mut node in nodes("") {
        let top = node.unpack();
        for (number, (name, damage, why)) in table.iter().enumerate() {
            warmed(&node);
            // The first time at a mount that is there, then at one that is not.
            let before = node.container("before", &top);
            assert!(is_kernel(&node, &before), "{name}");
            node.expect(node.client.remove("before"));
            if number % 2 == 1 {
                reboot(&mut node);
            }
            let own = fs::read_dir(native(&node)).expect("images").flatten().next();
            let own = own.expect("an image").path();
            damage(&own.join("image").join(name));
            let key = format!("c{number}");
            let entry = node.container(&key, &top);
            assert!(!is_kernel(&node, &entry), "{name} {why}\n{}", node.snapshotter.said());
            assert_eq!(served(&node), "fuse");
            assert!(!own.join("mnt").exists(), "{name}: an overlay that comes late would be empty");
            let told = status(&node)["why"].as_str().unwrap_or_default().to_owned();
            assert!(told.contains(why), "{name}: {told:?}, not {why:?}");
            let root = node.mount(&entry, &key);
            check_all(&root);
            unmount(&root);
            node.expect(node.client.remove(&key));
            node.expect(node.client.cleanup());
        }
        node.clear();
    }
}

fn overwrite(file: &Path, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(file).expect("a file");
    file.write_all_at(bytes, 0).expect("a write");
}

/// This blob and the next.
fn overwrite_all(file: &Path) {
    ["0", "1"].iter().for_each(|name| overwrite(&file.with_file_name(name), b"wrong"));
}

fn cut(file: &Path, length: u64) {
    let file = OpenOptions::new().write(true).open(file).expect("a file");
    file.set_len(length).expect("a length");
}

/// By a copy.
fn replace(file: &Path) {
    let copy = file.with_extension("copy");
    fs::copy(file, &copy).expect("a copy");
    let times = fs::FileTimes::new()
        .set_modified(fs::metadata(file).and_then(|f| f.modified()).expect("a time"));
    fs::File::options()
        .write(true)
        .open(&copy)
        .and_then(|copy| copy.set_times(times))
        .expect("a time");
    fs::rename(copy, file).expect("a file");
}

/// Back to the daemon of all images, which went on meanwhile for another one: the kernel must not
/// take the image's directory for the one that it knew.
#[test]
fn back_to_a_daemon_that_went_on() {
    let Some(node) = Node::start_with("shared", Rafs::V6, "") else { return };
    let root = node.mount(&node.container("other", &node.unpack_another()), "other");
    let top = node.unpack();
    for key in ["c0", "c1"] {
        let lazy = node.mount(&node.container("lazy", &top), "lazy");
        check_all(&lazy);
        unmount(&lazy);
        node.expect(node.client.remove("lazy"));
        warmed(&node);
        node.expect(node.client.cleanup());
        assert_eq!(node.daemons().len(), 1);
        for image in fs::read_dir(native(&node)).expect("images").flatten() {
            overwrite(&image.path().join("image/verified.json"), b"wrong");
        }
        let entry = node.container(key, &top);
        assert!(!is_kernel(&node, &entry), "{}", node.snapshotter.said());
        let back = node.mount(&entry, key);
        check_all(&back);
        unmount(&back);
        node.expect(node.client.remove(key));
    }
    unmount(&root);
    node.clear();
}

/// A blob that the daemon of another image may yet write to is no link to its file.
#[test]
fn what_another_daemon_has_is_copied() {
    let Some(node) = Node::start_with("dedicated", Rafs::V6, "") else { return };
    node.container("other", &node.unpack_another());
    node.unpack();
    warmed(&node);
    let own = fs::read_dir(native(&node)).expect("images").flatten().next();
    let promoted = Native::load(&own.expect("an image").path().join("image")).expect("a record");
    let promoted = promoted.expect("a record");
    let placements: Vec<_> = promoted.devices().map(|device| device.placement).collect();
    match &placements[..] {
        // Where the file system makes reflinks, nothing is linked.
        [Placement::Clone, ..] => assert!(!placements.contains(&Placement::Link)),
        _ => assert_eq!(placements, [Placement::Copy, Placement::Link]),
    }
    node.clear();
}

/// What nydusd has cached is not taken on trust.
#[test]
fn damaged_data_is_not_promoted() {
    for node in MODES.into_iter().filter_map(|mode| Node::start_with(mode, Rafs::V6, "")) {
        let top = node.unpack();
        let root = node.mount(&node.container("c0", &top), "m0");
        check_all(&root);
        let cache = node.snapshotter.root().join("cache");
        let blob = node.image.layers[0].hex().to_owned();
        overwrite(&cache.join(format!("{blob}.blob.data")), b"wrong");
        let ran = warm(&node);
        assert!(!ran.ok() && ran.shows(b"has not the digest"), "{ran}");
        let c1 = node.container("c1", &top);
        assert!(!is_kernel(&node, &c1));
        unmount(&root);
        for key in ["c0", "c1"] {
            node.expect(node.client.remove(key));
        }
        node.expect(node.client.cleanup());
        if node.mode == "dedicated" {
            // Fetched anew by the next daemon.
            warmed(&node);
            let root = node.mount(&node.container("c2", &top), "m2");
            check_all(&root);
            unmount(&root);
        }
        node.clear();
    }
}

#[test]
fn by_itself_as_configured() {
    let rate = "[native]\nwarm = 'now'\nwarm_rate = '0'\n";
    let table = [
        ("", false, None),
        ("", true, Some("kernel")),
        (rate, false, Some("kernel")),
        ("[native]\nwarm = 'idle'\n", false, Some("kernel")),
        ("[native]\nkernel_native = 'off'\nwarm = 'now'\n", true, None),
    ];
    for (more, reads, expected) in table {
        for node in MODES.into_iter().filter_map(|mode| Node::start_with(mode, Rafs::V6, more)) {
            let top = node.unpack();
            let root = node.mount(&node.container("c0", &top), "m0");
            if reads {
                read_all(&root);
            }
            match expected {
                Some(expected) => {
                    let both = service::until(LIMIT, || served(&node) == "both");
                    assert!(both, "{more} {}\n{}", status(&node), node.snapshotter.said());
                    unmount(&root);
                    node.expect(node.client.remove("c0"));
                    node.expect(node.client.cleanup());
                    assert_eq!(served(&node), expected);
                    assert_eq!(metric(&node, "nydus_snapshotter_kernel_images"), "1");
                    let [have, cached] = ["bytes", "cached_bytes"]
                        .map(|name| metric(&node, &format!("nydus_snapshotter_image_{name}{{")));
                    assert!(have == cached && have.parse::<u64>().expect("bytes") > BIG as u64);
                }
                None => {
                    std::thread::sleep(Duration::from_secs(3));
                    assert_eq!(served(&node), "fuse", "{more}");
                    unmount(&root);
                }
            }
            node.clear();
        }
    }
}

fn read_all(root: &Path) {
    for entry in fs::read_dir(root).expect("a directory").flatten() {
        match entry.file_type().expect("a type") {
            kind if kind.is_dir() => read_all(&entry.path()),
            kind if kind.is_file() => drop(fs::read(entry.path()).expect("a file")),
            _ => {}
        }
    }
}

fn metric(node: &Node, name: &str) -> String {
    let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
    let answer = agent.get(format!("http://{}/metrics", node.metrics)).call().expect("metrics");
    let text = answer.into_body().read_to_string().expect("text");
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value.unwrap_or_default().to_owned()
}

/// `required`: a container waits until its image is complete, and no daemon stays.
#[test]
fn required() {
    for node in nodes("[native]\nkernel_native = 'required'\n") {
        let top = node.unpack();
        let entry = node.container("c0", &top);
        assert!(is_kernel(&node, &entry));
        let gone = service::until(LIMIT, || node.daemons().is_empty());
        assert!(gone, "{}", node.snapshotter.said());
        let root = node.mount(&entry, "m0");
        check_all(&root);
        unmount(&root);
        node.clear();
    }
}

/// `required` later: containers that are on FUSE then stay there.
#[test]
fn required_later() {
    for mut node in nodes("") {
        let top = node.unpack();
        let root = node.mount(&node.container("c0", &top), "m0");
        node.snapshotter.service().stop();
        let config = node.stage.join("s/config.toml");
        let text = fs::read_to_string(&config).expect("a configuration");
        let text = text + "[native]\nkernel_native = 'required'\n";
        fs::write(&config, text).expect("a configuration");
        node.snapshotter.restart();
        node.expect(node.client.cleanup());
        check_files(&root);
        assert!(is_kernel(&node, &node.container("c1", &top)));
        node.expect(node.client.cleanup());
        check_all(&root);
        assert_eq!(node.daemons().len(), 1, "{}", node.snapshotter.said());
        unmount(&root);
        node.expect(node.client.remove("c0"));
        node.expect(node.client.cleanup());
        assert_eq!(node.daemons(), Vec::<i32>::new(), "{}", node.snapshotter.said());
        node.clear();
    }
}

/// Whoever makes an image may put anything where the bootstrap is.
#[test]
fn a_bootstrap_is_a_file() {
    type Put = fn(&Path);
    let table: [(Put, &str); 3] = [
        (|path| mkfifoat(CWD, path, Mode::RUSR).expect("a FIFO"), "expected a regular file"),
        (|path| symlink("/etc/passwd", path).expect("a link"), "symbolic links"),
        (|path| fs::create_dir(path).expect("a directory"), "expected a regular file"),
    ];
    for node in nodes("") {
        node.unpack();
        let snapshots = fs::read_dir(node.snapshotter.root().join("snapshots")).expect("snapshots");
        let bootstraps = snapshots.flatten().map(|one| one.path().join("fs/image/image.boot"));
        let bootstrap = bootstraps.into_iter().find(|path| path.exists()).expect("a bootstrap");
        for (put, why) in table {
            fs::rename(&bootstrap, bootstrap.with_extension("real")).expect("a name");
            put(&bootstrap);
            let ran = warm(&node);
            assert!(!ran.ok() && ran.shows(why.as_bytes()), "{ran}");
            fs::rename(&bootstrap, bootstrap.with_extension("wrong")).expect("a name");
            fs::rename(bootstrap.with_extension("real"), &bootstrap).expect("a name");
            let wrong = bootstrap.with_extension("wrong");
            fs::remove_file(&wrong).or_else(|_| fs::remove_dir(wrong)).expect("removed");
        }
        warmed(&node);
        node.clear();
    }
}

/// Images that the kernel cannot serve, and who says so.
#[test]
fn what_stays_with_nydusd() {
    let v5 = "image is RAFS v5";
    let off = "kernel_native is off";
    for (version, more, why) in
        [(Rafs::V5, "", v5), (Rafs::V6, "[native]\nkernel_native = 'off'\n", off)]
    {
        let Some(node) = Node::start_with("dedicated", version, more) else { continue };
        let top = node.unpack();
        let root = node.mount(&node.container("c0", &top), "m0");
        let ran = warm(&node);
        assert!(!ran.ok() && ran.shows(why.as_bytes()), "{ran}");
        let told = status(&node);
        assert!(told["why"].as_str().is_some_and(|told| told.contains(why)), "{told}");
        // FUSE cannot map owners.
        let refused = node.client.prepare("mapped", &top, &mapping()).expect_err("FUSE");
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains(why), "{refused}");
        assert_eq!(
            node.expect(node.client.keys()).iter().filter(|key| *key == "mapped").count(),
            0
        );
        unmount(&root);
        node.clear();
    }
    let required = "[native]\nkernel_native = 'required'\n";
    let Some(node) = Node::start_with("dedicated", Rafs::V5, required) else { return };
    let top = node.unpack();
    let refused = node.client.prepare("c0", &top, &Labels::new()).expect_err("v5");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains(v5), "{refused}");
    node.clear();
    let ran = ask(&node, &["warm", "no/such:image"]);
    assert!(!ran.ok() && ran.shows(b"no Nydus image of that reference"), "{ran}");
}

fn mapping() -> Labels {
    let labels = ["containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping"];
    labels.map(|name| (name.to_owned(), "0:100000:65536".to_owned())).into()
}

/// A container with a user namespace waits for the promotion; others stay lazy.
#[test]
fn owners_are_mapped() {
    for node in nodes("") {
        let top = node.unpack();
        let lazy = node.container("lazy", &top);
        let mapped = node.expect(node.client.prepare("mapped", &top, &mapping()));
        assert!(is_kernel(&node, &mapped[0]) && !is_kernel(&node, &lazy));
        assert_eq!(node.expect(node.client.mounts("mapped")), mapped);
        let root = node.mount(&mapped[0], "m0");
        check_all(&root);
        let owner =
            |path: PathBuf| fs::metadata(path).map(|file| (file.uid(), file.gid())).expect("it");
        for path in [root.clone(), root.join("data/both"), root.join("bin/busybox")] {
            assert_eq!(owner(path.clone()), (100_000, 100_000), "{}", path.display());
        }
        fs::write(root.join("data/both"), "copied up").expect("a write");
        assert_eq!(owner(root.join("data/both")), (100_000, 100_000));
        unmount(&root);
        // Plain layers too, as containerd's own snapshotter has them.
        node.expect(node.client.prepare("plain", "", &Labels::new()));
        node.expect(node.client.commit("plain-layer", "plain", &Labels::new()));
        let plain = node.expect(node.client.prepare("p", "plain-layer", &mapping()));
        assert_eq!(plain[0].options[1..3], ["uidmap=0:100000:65536", "gidmap=0:100000:65536"]);
        node.clear();
    }
}

/// Killed at many moments of a promotion: the image is served before, and after, and the promotion
/// ends in the end.
#[test]
fn killed_while_it_promotes() {
    for mut node in nodes("") {
        let top = node.unpack();
        let mut natively = 0;
        for number in 0..30_u64 {
            std::thread::scope(|scope| {
                let host = format!("{}/test/image:tag", node.host);
                let socket = node.snapshotter.socket();
                scope.spawn(move || {
                    let mut command = Command::new(programs::ours("containerd-nydus-grpc"));
                    run(command.args(["warm", &host]).arg("--address").arg(socket))
                });
                std::thread::sleep(Duration::from_millis(10 * (number % 25)));
                node.snapshotter.service().kill();
            });
            node.snapshotter.restart();
            let key = format!("c{number}");
            let entry = node.container(&key, &top);
            natively += u32::from(is_kernel(&node, &entry));
            let root = node.mount(&entry, "m");
            check_all(&root);
            unmount(&root);
            node.expect(node.client.remove(&key));
            if is_kernel(&node, &entry) {
                // From the beginning.
                let id = status(&node)["snapshot"].to_string();
                let own = native(&node).join(id);
                overwrite(&own.join("image/verified.json"), b"wrong");
                node.container("back", &top);
                node.expect(node.client.remove("back"));
            }
        }
        println!("{} of 30 kills were too late", natively);
        warmed(&node);
        assert!(is_kernel(&node, &node.container("last", &top)));
        node.clear();
    }
}

/// An image that is removed while a container that nobody knows has it mounted.
#[test]
fn files_in_use_stay() {
    for node in nodes("") {
        let top = node.unpack();
        warmed(&node);
        let root = node.mount(&node.container("c0", &top), "m0");
        let big = fs::File::open(root.join(rootfs::BIG)).expect("a file");
        node.clear();
        assert_eq!(names_in(&node.snapshotter.root().join("snapshots")), Vec::<String>::new());
        rustix::fs::fadvise(&big, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
        check_all(&root);
        drop(big);
        unmount(&root);
    }
}

/// With containerd, its shim and runc; from 2.1 on, with a user namespace too.
#[test]
fn through_containerd() {
    let [old, _, new, _] = VERSIONS;
    for (containerd, mode) in [(old, "shared"), (new, "dedicated")] {
        let Some(stage) = Stage::of_a_node() else { return not_run!("not root of the machine") };
        let (rafs, helper) = (Rafs::V6, "nydus-overlayfs");
        let case = Case { containerd, mode, rafs, helper, more: "" };
        let Some(node) = node::Node::start(stage, case) else {
            not_run!("{containerd}: a program is missing");
            continue;
        };
        let Some((_, reference)) = node.pulled() else { return not_run!("no nydus-image") };
        let sleeps = ["sleep", "1000"];
        node.done(&node.containerd.start_container(&[], &reference, "lazy", &sleeps));
        let mut command = Command::new(programs::ours("containerd-nydus-grpc"));
        command.args(["warm", &reference, "--address"]).arg(node.snapshotter.socket());
        node.done(&run(&mut command));
        let files = ["cat", "/data/both", "/data/lower", "/data/upper"];
        node.prints(&[], &reference, &files, "two\nlower\nupper\n");
        node.done(&node.containerd.start_container(&[], &reference, "native", &sleeps));
        let read = node.containerd.exec("lazy", &files);
        assert_eq!(read.stdout, b"two\nlower\nupper\n", "{read}\n{}", node.logs());
        assert!(!node.daemons().is_empty());
        node.containerd.remove_container("lazy");
        node.containerd.gc();
        let gone = service::until(LIMIT, || node.daemons().is_empty());
        assert!(gone, "{}", node.logs());
        let suid = ["busybox", "su", "nobody", "-s", "/bin/suid"];
        node.prints(&["--allow-new-privs"], &reference, &suid, "0 65534\n");
        let ran = node.containerd.exec("native", &["wc", "-c", "/data/big"]);
        assert!(ran.shows(node::BIG.to_string().as_bytes()), "{ran}\n{}", node.logs());
        if containerd == new {
            maps_owners(&node, &reference);
        }
        node.containerd.remove_container("native");
        node.remove(&reference);
        assert_eq!(node.daemons(), []);
    }
}

/// Root inside is 100000 outside; so are the image's files, and what is written.
fn maps_owners(node: &node::Node, reference: &str) {
    let map = "0:100000:65536";
    let options = ["--uidmap", map, "--gidmap", map, "--remap-labels"];
    let shell = "id -u; stat -c %u:%g /data/both /bin /; echo mine > /data/both; \
                 stat -c %u:%g /data/both; cat /proc/self/uid_map | tr -s ' '";
    let expected = "0\n0:0\n0:0\n0:0\n0:0\n 0 100000 65536\n";
    node.prints(&options, reference, &["sh", "-c", shell], expected);
    let writes = ["sh", "-c", "echo mine > /data/both; sleep 1000"];
    node.done(&node.containerd.start_container(&options, reference, "mapped", &writes));
    let snapshots = node.snapshotter.root().join("snapshots");
    let written = || {
        let all = fs::read_dir(&snapshots).into_iter().flatten().flatten();
        let owner = |path: PathBuf| fs::metadata(path).map(|file| (file.uid(), file.gid())).ok();
        let mut owners = all.filter_map(|one| owner(one.path().join("fs/data/both")));
        owners.any(|owner| owner == (100_000, 100_000))
    };
    assert!(service::until(LIMIT, written), "{}", node.logs());
    node.containerd.remove_container("mapped");
}
