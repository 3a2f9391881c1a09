//! What else containerd mounts of a running container's snapshot, to look up a user or to compute a
//! diff, and whether the container can still write afterwards.

use nydus_e2e::containerd::VERSIONS;
use nydus_e2e::image::{self, Rafs};
use nydus_e2e::node::{Case, LIMIT, Node, on};
use nydus_e2e::run::{Ran, run, run_with};
use nydus_e2e::{not_run, service};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

/// A helper that notes who calls it, `ro` or `rw`, and whether there is an upper directory; then it
/// runs ours.
const NOTING: &str = r#"#!/bin/sh
p=$PPID
who=hand
while [ "$p" -gt 1 ]; do
    name=$(cat "/proc/$p/comm")
    case $name in ctr | containerd*) who=$name; break;; esac
    p=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$p/status")
done
case ",$*," in *,ro,*) how=ro;; *) how=rw;; esac
case "$*" in *upperdir=*) what=upper;; *) what=view;; esac
echo "$who $how $what" >> LOG
exec HELPER "$@"
"#;

/// What is done while the container `c` runs, and what is seen with containerd 1.6, 1.7 and 2.1:
/// the calls of the helper meanwhile, and whether the container can write afterwards.
type Row = (&'static str, Look, [&'static str; 3]);

type Look = fn(&Looks<'_>);

const NONE: &str = "; writes on";
const READ_ONLY: &str = "ctr ro upper; writes on";
const DIFF: &str = "containerd rw view, containerd ro upper; writes on";

/// To look up a user, containerd before 1.6.21 and 1.7.1 mounts read-write, with the very options of
/// the container's own mount, so no helper can tell the two apart. The other rows that end in
/// `cannot write` mount read-write too. All of them break a container with the type `overlay` just
/// the same.
const TABLE: &[Row] = &[
    ("exec as a user by number", by_number, [BROKEN_BY_1_6, READ_ONLY, READ_ONLY]),
    ("exec as a user by name", by_name, [BROKEN_BY_1_6, READ_ONLY, READ_ONLY]),
    ("exec as a user and a group by name", by_names, [BROKEN_BY_1_6, READ_ONLY, READ_ONLY]),
    ("exec as a user and a group by number", by_numbers, [NONE; 3]),
    ("a diff, as for a commit", diff, [DIFF; 3]),
    ("a checkpoint of what it wrote", checkpoint, [DIFF; 3]),
    ("a diff from it to another", diff_from, [DIFF_FROM; 3]),
    ("a checkpoint of its processes", checkpoint_task, [NONE; 3]),
    ("a view of its image", view, ["hand rw view; writes on"; 3]),
    (
        "a mount of its image",
        mount_image,
        [NONE, "ctr rw view; writes on", "ctr rw view; writes on"],
    ),
    ("its snapshot mounted by hand, read-only", by_hand_ro, ["hand ro upper; writes on"; 3]),
    ("its snapshot mounted by hand", by_hand, ["hand rw upper; cannot write"; 3]),
    ("another container on its snapshot", another, ["containerd-shim rw upper; cannot write"; 3]),
    ("started once more", started_twice, [NONE; 3]),
    ("how much it uses", usage, [NONE; 3]),
];

const BROKEN_BY_1_6: &str = "ctr rw upper; cannot write";
/// containerd mounts the older side of a diff read-write.
const DIFF_FROM: &str = "containerd rw upper, containerd ro upper; cannot write";

/// Writes to a file and into a directory that overlayfs has to copy up first, and removes a file.
/// Exits with 3 if the directory cannot be copied up. `ctr` tells the exit code reliably; of what a
/// short program prints it may lose all.
const WRITE: &str = r#"
said=$( (echo after >> /data/lower; echo new > /etc/new; rm /data/upper) 2>&1 )
case $said in
    "") test "$(cat /data/lower /etc/new | tr '\n' ,)$(ls /data | tr '\n' ,)" = \
            lower,after,new,big,both,lower, ;;
    *"create /data/lower: "*"create /etc/new: nonexistent directory"*) exit 3 ;;
    *) echo "$said"; exit 4 ;;
esac
"#;

const CASE: Case = Case {
    containerd: VERSIONS[0],
    mode: "dedicated",
    rafs: Rafs::V6,
    helper: "HERE/nydus-overlayfs-noting",
    more: "",
};

#[test]
fn second_mounts_with_containerd_1_6() {
    check(CASE, 0);
}

#[test]
fn second_mounts_with_containerd_1_7() {
    check(Case { containerd: VERSIONS[1], mode: "shared", rafs: Rafs::V5, ..CASE }, 1);
}

#[test]
fn second_mounts_with_containerd_2_1() {
    check(Case { containerd: VERSIONS[2], ..CASE }, 2);
}

/// Runs the table; `version` is the column.
fn check(case: Case, version: usize) {
    on(case, |node| {
        let Some(looks) = Looks::new(node) else { return not_run!("no nydus-image") };
        let rows = TABLE.iter().map(|(what, look, expected)| {
            (format!("{what}: {}", looks.seen(*look)), format!("{what}: {}", expected[version]))
        });
        let (seen, expected): (Vec<_>, Vec<_>) = rows.unzip();
        assert_eq!(seen, expected, "{}", case.containerd);
        node.remove(&looks.reference);
    });
}

/// An ordinary image, which containerd mounts as `overlay` without a helper: what breaks its
/// containers is containerd's doing. Before 1.6.21 and 1.7.1 it looks up a user in a mount that has `ro`
/// and an upper directory (containerd pull request 8351).
#[test]
fn type_overlay() {
    for (version, containerd) in VERSIONS[..3].iter().enumerate() {
        on(Case { containerd, ..CASE }, |node| {
            let image = image::plain(&node.stage.join("plain"), &node.layers, true);
            let reference = node.push(&image, "plain");
            node.pull(&reference);
            let looks = Looks::of(node, reference);
            let broken = "; cannot write";
            let table: [(Look, &str); 6] = [
                (by_number, if version > 0 { NONE } else { broken }),
                (by_name, if version > 0 { NONE } else { broken }),
                (diff, NONE),
                (diff_from, broken),
                (by_hand, broken),
                (another, broken),
            ];
            let seen = table.map(|(look, _)| looks.seen(look));
            assert_eq!(seen, table.map(|(_, expected)| expected), "{containerd}");
            node.remove(&looks.reference);
        });
    }
}

/// The helper as `mount.fuse`, which leaves no place for a script that notes its calls.
#[test]
fn as_mount_fuse() {
    for (containerd, looks_up) in [
        ("containerd-1.6 front", false),
        ("containerd-1.7 front", true),
        ("containerd-2.1 front", true),
    ] {
        on(Case { containerd, helper: "nydus-overlayfs", ..CASE }, |node| {
            let Some(looks) = Looks::new(node) else { return not_run!("no nydus-image") };
            assert_eq!(looks.seen(diff), NONE, "{containerd}");
            if looks_up {
                assert_eq!(looks.seen(by_number), NONE, "{containerd}");
                assert_eq!(looks.seen(by_name), NONE, "{containerd}");
            }
            node.remove(&looks.reference);
        });
    }
}

/// A node with an image, from which a container is started for each look.
struct Looks<'a> {
    node: &'a Node,
    reference: String,
    log: PathBuf,
}

impl<'a> Looks<'a> {
    fn new(node: &'a Node) -> Option<Self> {
        Some(Self::of(node, node.pulled()?.1))
    }

    fn of(node: &'a Node, reference: String) -> Self {
        let (script, log) = (node.stage.join("nydus-overlayfs-noting"), node.stage.join("mounts"));
        let helper = node.stage.join("nydus-overlayfs-own");
        let text = NOTING.replace("LOG", &log.to_string_lossy());
        fs::write(&script, text.replace("HELPER", &helper.to_string_lossy())).expect("a script");
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("a mode");
        Self { node, reference, log }
    }

    /// Starts the container, lets it write, and looks. Then the container writes what overlayfs
    /// has to copy up first: to a file, into a directory, and it removes a file.
    fn seen(&self, look: Look) -> String {
        let (node, containerd) = (self.node, &self.node.containerd);
        node.done(&containerd.start_container(&[], &self.reference, "c", &["sleep", "1000"]));
        node.done(&self.shell("echo before > /data/both"));
        let _ = fs::remove_file(&self.log);
        look(self);
        let mounts = fs::read_to_string(&self.log).unwrap_or_default();
        let mut mounts: Vec<_> = mounts.lines().collect();
        // A shim that loses the exit of a mount helper unmounts and runs it again.
        mounts.dedup();
        let ran = self.shell(WRITE);
        let writes = match ran.code() {
            Some(0) => "writes on",
            Some(3) => "cannot write",
            _ => panic!("{ran}\n{}", node.logs()),
        };
        containerd.remove_container("c");
        format!("{}; {}", mounts.join(", "), writes)
    }

    fn shell(&self, text: &str) -> Ran {
        self.node.containerd.exec("c", &["sh", "-c", text])
    }

    fn ctr(&self, words: &[&str]) -> Ran {
        let ran = self.node.containerd.ctr(words);
        self.node.done(&ran);
        ran
    }

    /// A call of the snapshot service.
    fn snapshots(&self, words: &[&str]) -> Ran {
        self.ctr(&[&["snapshots", "--snapshotter", "nydus"], words].concat())
    }

    /// Runs a program in the container as this user; it has these ids.
    fn exec_as(&self, user: &str, ids: &str) {
        let test = format!("test $(id -u):$(id -g) = {ids}");
        let exec = ["tasks", "exec", "--exec-id", "look", "--user", user, "c"];
        self.ctr(&[&exec, ["sh", "-c", &test].as_slice()].concat());
    }

    /// Mounts a snapshot by the command that `ctr snapshots mounts` prints, with `more` options.
    fn by_hand(&self, key: &str, more: &str) {
        let target = self.node.stage.join("by-hand");
        fs::create_dir_all(&target).expect("a directory");
        let shown = self.snapshots(&["mounts", &target.to_string_lossy(), key]);
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let words: Vec<_> = shown.split_whitespace().collect();
        let ["mount", "-t", kind, source, at, "-o", options] = words[..] else { panic!("{shown}") };
        let options = format!("{options}{more}");
        let mut command = Command::new(kind.strip_prefix("fuse.").unwrap_or("mount"));
        command.args([source, at, "-t", kind, "-o", &options]);
        self.node.done(&run(&mut command));
        assert!(target.join("data/both").exists());
        rustix::mount::unmount(&target, rustix::mount::UnmountFlags::DETACH).expect("unmounted");
    }
}

fn by_number(looks: &Looks<'_>) {
    looks.exec_as("1000", "1000:0");
}

fn by_name(looks: &Looks<'_>) {
    looks.exec_as("nobody", "65534:65534");
}

fn by_names(looks: &Looks<'_>) {
    looks.exec_as("nobody:root", "65534:0");
}

fn by_numbers(looks: &Looks<'_>) {
    looks.exec_as("1000:1000", "1000:1000");
}

/// The diff has what the container wrote, and nothing else.
fn diff(looks: &Looks<'_>) {
    let diff = looks.snapshots(&["diff", "c"]);
    let listed = run_with(Command::new("tar").arg("-tzf-"), &diff.stdout);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let files: Vec<_> = listed.lines().filter(|name| !name.ends_with('/')).collect();
    assert_eq!(files, ["data/both"], "{listed}\n{}", looks.node.logs());
    let file = run_with(Command::new("tar").args(["-xzOf-", "data/both"]), &diff.stdout);
    assert_eq!(file.stdout, b"before\n", "{file}");
}

fn checkpoint(looks: &Looks<'_>) {
    looks.ctr(&["containers", "checkpoint", "--rw", "c", "localhost/checkpoint:1"]);
    looks.ctr(&["images", "rm", "localhost/checkpoint:1"]);
}

/// Without CRIU, which is not installed here, runc refuses.
fn checkpoint_task(looks: &Looks<'_>) {
    let words = ["containers", "checkpoint", "--task", "c", "localhost/checkpoint:2"];
    let ran = looks.node.containerd.ctr(&words);
    assert!(!ran.ok() && ran.said().contains("criu"), "{ran}");
}

fn diff_from(looks: &Looks<'_>) {
    looks.snapshots(&["diff", "c", "c"]);
}

fn view(looks: &Looks<'_>) {
    let info = looks.snapshots(&["info", "c"]);
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).expect("JSON");
    let parent = info["Parent"].as_str().expect("a parent");
    // Until it has the label, containerd's garbage collector may remove it.
    let snapshots = |words: &[&str]| {
        looks.node.containerd.ctr(&[&["snapshots", "--snapshotter", "nydus"], words].concat()).ok()
    };
    let stays = || {
        snapshots(&["view", "look", parent])
            && snapshots(&["label", "look", "containerd.io/gc.root=1"])
    };
    assert!(service::until(LIMIT, stays), "{}", looks.node.logs());
    looks.by_hand("look", "");
    looks.snapshots(&["rm", "look"]);
}

/// `ctr` 1.6 asks the default snapshotter, whatever it is told.
fn mount_image(looks: &Looks<'_>) {
    if looks.node.case.containerd == VERSIONS[0] {
        return;
    }
    let target = looks.node.stage.join("image-mount");
    fs::create_dir_all(&target).expect("a directory");
    let at = target.to_string_lossy();
    looks.ctr(&["images", "mount", "--snapshotter", "nydus", &looks.reference, &at]);
    assert_eq!(fs::read_to_string(target.join("data/both")).expect("a file"), "two\n");
    looks.ctr(&["images", "unmount", "--snapshotter", "nydus", "--rm", &at]);
}

fn by_hand(looks: &Looks<'_>) {
    looks.by_hand("c", "");
}

fn by_hand_ro(looks: &Looks<'_>) {
    looks.by_hand("c", ",ro");
}

/// Two containers that share a snapshot, and so an upper directory.
fn another(looks: &Looks<'_>) {
    let containerd = &looks.node.containerd;
    let words = ["sh", "-c", "test $(cat /data/both) = before"];
    containerd.beside("c", "another", "io.containerd.runc.v2", &words);
    looks.node.done(&containerd.start_task("another"));
    looks.ctr(&["containers", "rm", "--keep-snapshot", "another"]);
}

fn started_twice(looks: &Looks<'_>) {
    let ran = looks.node.containerd.ctr(&["tasks", "start", "c"]);
    assert!(!ran.ok() && ran.said().contains("already exists"), "{ran}");
}

/// `ctr` 1.6 has no `images usage`.
fn usage(looks: &Looks<'_>) {
    looks.snapshots(&["usage", "c"]);
    if looks.node.case.containerd != VERSIONS[0] {
        looks.ctr(&["images", "usage", "--snapshotter", "nydus", &looks.reference]);
    }
}
