//! Containers by real containerd, runc and nydusd, from our snapshotter and helper.

use nydus_e2e::containerd::VERSIONS;
use nydus_e2e::image::{self, Image, Rafs};
use nydus_e2e::node::{Case, LIMIT, LOGIN, Node, on};
use nydus_e2e::proxy::{Fault, Proxy};
use nydus_e2e::{not_run, rootfs, service};
use std::fs;
use std::path::Path;

const fn case(
    containerd: &'static str,
    mode: &'static str,
    rafs: Rafs,
    helper: &'static str,
) -> Case {
    Case { containerd, mode, rafs, helper, more: "" }
}

#[test]
fn nydus_images_are_read_lazily() {
    let [old, middle, new, transfer] = VERSIONS;
    let table = [
        case(old, "dedicated", Rafs::V6, "nydus-overlayfs"),
        case(old, "shared", Rafs::V5, "fuse3.nydus-overlayfs"),
        case(middle, "dedicated", Rafs::V5, "HERE/nydus-overlayfs-own"),
        case(middle, "shared", Rafs::V6, "nydus-overlayfs"),
        case(new, "dedicated", Rafs::V6, "fuse3.nydus-overlayfs"),
        case(new, "shared", Rafs::V6, "HERE/nydus-overlayfs-own"),
        case(transfer, "dedicated", Rafs::V5, "nydus-overlayfs"),
        case("containerd-1.6 front", "dedicated", Rafs::V6, "nydus-overlayfs"),
        case("containerd-1.7 front", "shared", Rafs::V6, "fuse3.nydus-overlayfs"),
        case("containerd-2.1 front", "dedicated", Rafs::V6, "HERE/nydus-overlayfs-own"),
    ];
    for case in table {
        on(case, |node| {
            let Some((image, reference)) = node.pulled() else { return not_run!("no nydus-image") };
            reads_and_writes(node, &reference);
            is_lazy(node, &image);
            node.remove(&reference);
        });
    }
}

/// Files of both layers, merged; a file is written; setuid works.
fn reads_and_writes(node: &Node, reference: &str) {
    let files = ["cat", "/data/both", "/data/lower", "/data/upper"];
    node.prints(&[], reference, &files, "two\nlower\nupper\n");
    let shell = "cat /data/removed 2>/dev/null || echo gone; echo new > /data/both; cat /data/both";
    node.prints(&[], reference, &["sh", "-c", shell], "gone\nnew\n");
    // `ctr run` of 1.6 has no `--user`.
    let suid = ["busybox", "su", "nobody", "-s", "/bin/suid"];
    node.prints(&["--allow-new-privs"], reference, &suid, "0 65534\n");
}

/// A part of the data was read, by nydusd; containerd has none of it.
fn is_lazy(node: &Node, image: &Image) {
    let lower = &image.layers[0];
    let served = node.proxy.served(&lower.digest);
    assert!(0 < served && served < lower.size / 2, "{served} of {}\n{}", lower.size, node.logs());
    let content = node.containerd.ctr(&["content", "ls", "--quiet"]);
    let has = |digest: &str| content.shows(digest.as_bytes());
    assert!(has(&image.config.digest), "{content}");
    assert!(!image.data().any(|blob| has(&blob.digest)), "{content}");
}

/// The snapshotter is killed beside a running container; and a plain image has 100 layers.
#[test]
fn containers_outlive_a_killed_snapshotter() {
    let [old, middle, new, _] = VERSIONS;
    for (version, mode) in [(old, "dedicated"), (middle, "shared"), (new, "dedicated")] {
        on(case(version, mode, Rafs::V6, "nydus-overlayfs"), |node| {
            let Some((_, reference)) = node.pulled() else { return not_run!("no nydus-image") };
            node.done(&node.containerd.start_container(
                &[],
                &reference,
                "lives",
                &["sleep", "1000"],
            ));
            let before = node.daemons();
            node.snapshotter.service().kill();
            assert_eq!(node.containerd.exec("lives", &["cat", "/data/both"]).stdout, b"two\n");
            node.snapshotter.restart();
            node.wait_for_snapshotter();
            let read = node.containerd.exec("lives", &["cat", "/data/lower"]);
            assert_eq!(read.stdout, b"lower\n", "{read}\n{}", node.logs());
            node.prints(&[], &reference, &["cat", "/data/upper"], "upper\n");
            assert_eq!(node.daemons(), before, "{}", node.logs());
            node.containerd.remove_container("lives");
            node.remove(&reference);
            plain_image_of_100_layers(node);
        });
    }
}

fn plain_image_of_100_layers(node: &Node) {
    let mut layers = node.layers.to_vec();
    for number in layers.len()..100 {
        let layer = node.stage.join(format!("l{number}"));
        rootfs::layer(&layer, &[("data/number", number.to_string().as_bytes())]);
        layers.push(layer);
    }
    let reference = node.push(&image::plain(&node.stage.join("plain"), &layers, true), "plain");
    node.pull(&reference);
    node.prints(&[], &reference, &["cat", "/data/number", "/data/both"], "99two\n");
    node.remove(&reference);
}

/// What goes wrong with a registry, what containerd's client is told, and how it is put right.
type Wrong = (&'static str, fn(&mut Node, &Image), fn(&mut Node));

/// The same that the tier `image_faults` has without containerd.
#[test]
fn faults_are_told_through_containerd() {
    let wrongs: [Wrong; 4] = [
        (
            "refuses the credentials for repository test/image",
            |node, _| node.snapshotter.login(&node.proxy.host(), (LOGIN.0, "wrong")),
            |node| node.snapshotter.login(&node.proxy.host(), LOGIN),
        ),
        (
            "refuses the credentials for repository test/image",
            |node, _| node.proxy.fail(Fault::Unauthorized),
            |node| node.proxy.fail(Fault::None),
        ),
        (
            "does not have blob sha256:",
            |node, image| node.proxy.fail(Fault::Missing(image.layers[1].digest.clone())),
            |node| node.proxy.fail(Fault::None),
        ),
        (
            "cannot be asked: ",
            |node, _| node.proxy.stop(),
            |node| {
                node.proxy = Proxy::start_at(node.proxy.address(), node.registry.address());
            },
        ),
    ];
    for (version, mode) in [(VERSIONS[0], "shared"), (VERSIONS[2], "dedicated")] {
        on(case(version, mode, Rafs::V6, "nydus-overlayfs"), |node| {
            let Some((image, reference)) = node.pulled() else { return not_run!("no nydus-image") };
            for (expected, wrong, right) in &wrongs {
                node.pull(&reference);
                wrong(node, &image);
                let run = ["run", "--rm", "--snapshotter", "nydus", &reference, "c", "sh"];
                let ran = node.containerd.ctr(&[&["--timeout", "10s"], run.as_slice()].concat());
                assert!(!ran.ok() && ran.said().contains(expected), "{ran}\n{}", node.logs());
                node.containerd.ctr(&["containers", "rm", "c"]);
                assert!(mode == "shared" || node.daemons().is_empty(), "{}", node.logs());
                right(node);
                node.prints(&[], &reference, &["cat", "/data/upper"], "upper\n");
                node.remove(&reference);
            }
        });
    }
}

/// A helper that notes its ancestors before it becomes ours.
const NOTING: &str = r#"#!/bin/sh
p=$PPID
while [ "$p" -gt 1 ]; do
    cat "/proc/$p/comm" >> LOG
    p=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$p/status")
done
case "$*" in *upperdir=*) echo an-active;; *) echo a-view;; esac >> LOG
exec HELPER "$@"
"#;

/// Stack 1: containerd itself mounts (to compare a container with its image). Stack 2: its shim
/// does (to run the container).
#[test]
fn both_stacks_run_the_helper() {
    for version in &VERSIONS[..3] {
        on(case(version, "dedicated", Rafs::V6, "HERE/nydus-overlayfs-noting"), |node| {
            let Some((_, reference)) = node.pulled() else { return not_run!("no nydus-image") };
            let (log, script) =
                (node.stage.join("ancestors"), node.stage.join("nydus-overlayfs-noting"));
            let helper = node.stage.join("nydus-overlayfs-own");
            let text = NOTING.replace("LOG", &log.to_string_lossy());
            fs::write(&script, text.replace("HELPER", &helper.to_string_lossy()))
                .expect("a script");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&script, mode).expect("a mode");
            let noted = || fs::read_to_string(&log).unwrap_or_default();
            let shell = ["sh", "-c", "echo new > /data/new; sleep 1000"];
            node.done(&node.containerd.start_container(&[], &reference, "c", &shell));
            assert!(noted().contains("containerd-shim"), "{}\n{}", noted(), node.logs());
            fs::remove_file(&log).expect("a log");
            let diff = ["snapshots", "--snapshotter", "nydus", "diff", "--keep", "c"];
            let ran = node.containerd.ctr(&diff);
            node.done(&ran);
            // The container's snapshot, and a view of its image beside it.
            let mounted = noted();
            let parts = ["containerd\n", "an-active\n", "a-view\n"];
            let all = parts.iter().all(|part| mounted.contains(part));
            assert!(all && !mounted.contains("shim"), "{mounted}\n{ran}");
            // A client's view; that of 1.6 asks containerd's own snapshotter only.
            if *version != VERSIONS[0] {
                fs::remove_file(&log).expect("a log");
                views(node, &reference);
                assert!(noted().contains("ctr\n") && noted().contains("a-view\n"), "{}", noted());
            }
            node.containerd.remove_container("c");
            node.remove(&reference);
        });
    }
}

/// Mounts an image to look into it, and lets it go.
fn views(node: &Node, reference: &str) {
    let target = node.stage.join("view");
    fs::create_dir_all(&target).expect("a directory");
    let target = target.to_string_lossy();
    let mount = ["images", "mount", "--snapshotter", "nydus", reference, &target];
    node.done(&node.containerd.ctr(&mount));
    let file = fs::read_to_string(format!("{target}/data/both"));
    assert_eq!(file.expect("a file"), "two\n", "{}", node.logs());
    let unmount = ["images", "unmount", "--snapshotter", "nydus", "--rm", &target];
    node.done(&node.containerd.ctr(&unmount));
}

/// With a limit, and outside our own group: so they outlive our unit.
#[test]
fn daemons_have_a_control_group() {
    let places = ["/sys/fs/cgroup/memory/nydusd", "/sys/fs/cgroup/nydusd"];
    let is_there = |place: &&str| Path::new(place).exists();
    if places.iter().any(is_there) {
        return not_run!("there is a control group nydusd already");
    }
    let plain = case(VERSIONS[0], "dedicated", Rafs::V6, "nydus-overlayfs");
    let more = "[cgroup]\nenable = true\nmemory_limit = '512MiB'\n";
    on(Case { more, ..plain }, |node| {
        let Some((_, reference)) = node.pulled() else { return not_run!("no nydus-image") };
        node.done(&node.containerd.start_container(&[], &reference, "c", &["sleep", "1000"]));
        let group = places.iter().copied().find(|place| is_there(place)).expect("a group");
        let read = |name| fs::read_to_string(Path::new(group).join(name)).unwrap_or_default();
        let pids: Vec<_> = node.daemons().iter().map(|pid| pid.as_raw_pid().to_string()).collect();
        assert_eq!(read("cgroup.procs").split_whitespace().collect::<Vec<_>>(), pids);
        let limit = [read("memory.limit_in_bytes"), read("memory.max")].concat();
        assert_eq!(limit.trim(), (512 << 20).to_string());
        node.containerd.remove_container("c");
        node.remove(&reference);
        assert!(service::until(LIMIT, || fs::remove_dir(group).is_ok()), "{group} stays");
    });
}

/// docs/none-mode.md: who looks up a user's name in the image on the host.
#[test]
fn without_a_daemon_no_name_is_found() {
    on(case(VERSIONS[2], "none", Rafs::V6, "nydus-overlayfs"), |node| {
        let Some((_, reference)) = node.pulled() else { return not_run!("no nydus-image") };
        let ran = node.containerd.run(&["--user", "nobody"], &reference, "c", &["id"]);
        assert!(!ran.ok() && ran.said().contains(NO_NAME), "{ran}\n{}", node.logs());
        assert_eq!(node.daemons(), []);
        node.remove(&reference);
    });
}

/// What containerd says then.
const NO_NAME: &str = "etc/passwd: no such file or directory";
