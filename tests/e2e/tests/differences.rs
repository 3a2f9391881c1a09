//! Runs every row of docs/differences.md, with the other program and with ours.

use nydus_e2e::differences::rows;
use nydus_e2e::mount8::{Mount8, Version};
use nydus_e2e::mounts::{Mount, mount_at};
use nydus_e2e::run::{Ran, run};
use nydus_e2e::stage::Stage;
use nydus_e2e::{linux, not_run, programs};
use rustix::mount::{MountFlags, mount};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const BASE: &str = "lowerdir=a:b,upperdir=u,workdir=w,";

/// For each row of the first table commands that show it, and what comes of each with `mount(8)`
/// 2.38 and with ours, as in the other tables.
const EXAMPLES: &[(&str, &str, &str, &str)] = &[
    ("nofail", "overlay t -o lowerdir=a:gone,nofail", "nothing", "fails"),
    ("`ro` with `upperdir=`", "overlay t -o BASE,ro", "work emptied", "work kept"),
    ("`ro` with `upperdir=`", "overlay t -o BASE,ro=1", "work emptied", "work kept"),
    ("X-containerd.*", "overlay t -o BASE,X-containerd.x=1", "rw,relatime", "fails"),
    // 2.38 makes this mount in a namespace of its own, which hides it from ours where /run is private.
    (OWNER, "overlay t -o BASE,X-mount.subdir=sub", "either", "fails"),
    (OWNER, "overlay t -o BASE,X-mount.owner=7", "rw,relatime", "fails"),
    (OWNER, "overlay t -o BASE,X-mount.group=7", "rw,relatime", "fails"),
    (OWNER, "overlay t -o BASE,X-mount.mode=0700", "rw,relatime", "fails"),
    ("X-mount.idmap", "overlay t -o BASE,X-mount.idmap=0:0:1", "rw,relatime", "fails"),
    (
        "`X-mount.*`, all others, such as `X-mount.mkdir`",
        "overlay gone -o BASE,X-mount.mkdir",
        "rw,relatime",
        "fails",
    ),
    ("x-mount.mkdir", "overlay gone -o BASE,x-mount.mkdir", "rw,relatime", "fails"),
    (
        "a backslash at the end of a value of `-o` before another `-o`",
        "overlay t -o lowerdir=b:a\\ -o nodev",
        "rw,nodev,relatime",
        "fails",
    ),
    ("an unbalanced quote", "overlay t -o BASE,x-a=\"b,nodev", "rw,relatime", "rw,nodev,relatime"),
    ("a quote in a path", "overlay t -o lowerdir=q\"x:a,nodev", "fails", "rw,nodev,relatime"),
    ("a comma after a backslash", "overlay t -o lowerdir=b:a\\,ro", "ro,relatime", "rw,relatime"),
    (
        "a target that is not a directory",
        "overlay file -o BASE",
        "fails, leaves files",
        "fails, leaves nothing",
    ),
    ("bind", "a t -o bind", "rw,relatime", "fails"),
    ("rbind", "a t -o rbind", "rw,relatime", "fails"),
    ("move", "a t -o move", "fails", "fails"),
    ("remount", "overlay mounted -o remount,nodev", "rw,nodev,relatime", "rw,relatime"),
    ("more than 4,095 bytes", "overlay t -o lowerdir=MANY", "fails", "rw,relatime"),
    (
        "`extraoption=`, `io.katacontainers.volume=`",
        "overlay t -o BASE,extraoption=e30=",
        "fails",
        "rw,relatime",
    ),
    (
        "`extraoption=`, `io.katacontainers.volume=`",
        "overlay t -o BASE,io.katacontainers.volume=e30=",
        "fails",
        "rw,relatime",
    ),
    ("`uidmap=`, `gidmap=`", "overlay t -o BASE,uidmap=0:0:1,gidmap=0:0:1", "fails", "rw,relatime"),
];
const OWNER: &str = "`X-mount.subdir=`, `X-mount.owner=`, `X-mount.group=`, `X-mount.mode=`";

#[test]
fn from_mount8() {
    let mount = Mount8::find(Version::V2_38).expect("the host's at least");
    for (row, line, theirs, ours) in EXAMPLES {
        if line.contains("uidmap=") && !linux(6, 3) {
            // tmpfs, on which the layers are, cannot be mapped.
            continue;
        }
        check(&mount.command(), line, theirs);
        check(&ours_program(), line, ours);
        assert!(rows("## From `mount -t overlay`").iter().any(|found| found[0] == *row), "{row}");
    }
}

#[test]
fn every_difference_from_mount8_has_an_example() {
    for row in rows("## From `mount -t overlay`") {
        assert!(EXAMPLES.iter().any(|example| example.0 == row[0]), "{}", row[0]);
    }
}

#[test]
fn from_newer_mount8() {
    let mount = Mount8::find(Version::V2_41);
    if mount.is_none() {
        not_run!("no mount of util-linux 2.41");
    }
    for row in rows("## From newer mount(8)") {
        if let Some(mount) = &mount {
            check(&mount.command(), &row[0], &row[1]);
        }
        check(&ours_program(), &row[0], &row[2]);
    }
}

#[test]
fn options_of_the_go_helper() {
    let mut all = rows("### Options that clear a flag set it there");
    all.extend(rows("### Options that it does not know"));
    for row in all {
        against_go(&format!("overlay t -o {BASE}{}", row[0]), &row);
    }
}

#[test]
fn command_lines_and_errors_of_the_go_helper() {
    for row in rows("### Command lines") {
        against_go(row[0].strip_prefix("nydus-overlayfs ").expect("a command"), &row);
    }
    for row in rows("### Errors") {
        against_go(&format!("overlay t -o {}", row[0]), &row);
    }
}

#[test]
fn many_layers_with_the_go_helper() {
    assert!(many().len() > 4_095 * 2, "{}", many().len());
    against_go("overlay t -o lowerdir=MANY", &rows("### Many layers")[0]);
}

fn ours_program() -> Command {
    Command::new(programs::ours("nydus-overlayfs"))
}

fn against_go(line: &str, row: &[String]) {
    match programs::go_helper() {
        Some(go) => check(&Command::new(go), line, &row[1]),
        None => not_run!("no Go helper to compare with"),
    }
    check(&ours_program(), line, &row[2]);
}

/// Runs `program` with the arguments of `line` in a fresh directory, and compares what came of it
/// with a cell of a table: options of the mount, `/` and flags of its superblock; `nothing`;
/// `fails`, with what is left in the work directory; or the end of an error.
fn check(program: &Command, line: &str, expected: &str) {
    let scene = Scene::new();
    let line = line.replace("BASE", BASE.trim_end_matches(','));
    let line = line.replace("MANY", &many()).replace("PATH", &format!("{}b", "./".repeat(128)));
    let arguments: Vec<_> = line.split(' ').collect();
    let target = arguments.iter().rfind(|word| scene.path(word).exists() || **word == "gone");
    let mut command = scene.stage.command(program.get_program());
    command.args(program.get_args()).args(&arguments).current_dir(&scene.directory);
    for (variable, value) in program.get_envs() {
        match value {
            Some(value) => command.env(variable, value),
            None => command.env_remove(variable),
        };
    }
    let ran = run(&mut command);
    let mount = mount_at(&scene.path(target.unwrap_or(&"t")));
    assert!(scene.is_as(expected, mount.as_ref(), &ran), "expected {expected}: {mount:?}\n{ran}");
}

fn many() -> String {
    let names: Vec<_> = (0..450).map(|number| format!("layers/a-long-name-{number:03}")).collect();
    names.join(":")
}

/// A file system with the directories that the rows name.
struct Scene {
    stage: Stage,
    directory: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let stage = Stage::with(&["scene"]);
        let directory = stage.join("scene");
        mount("scene", &directory, "tmpfs", MountFlags::empty(), None).expect("a tmpfs");
        let this = Self { stage, directory };
        for name in [
            "a/sub",
            "b",
            "u",
            "w/work/mark",
            "t",
            "mounted",
            "a,b",
            "a,ro",
            "a,user",
            "l\\",
            "q\"x",
        ] {
            fs::create_dir_all(this.path(name)).expect(name);
        }
        for name in many().split(':') {
            fs::create_dir_all(this.path(name)).expect(name);
        }
        fs::write(this.path("file"), "").expect("a file");
        let mounted = this.path("mounted");
        mount("mounted", &mounted, "tmpfs", MountFlags::empty(), None).expect("a tmpfs");
        this
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.join(name)
    }

    fn is_as(&self, expected: &str, mount: Option<&Mount>, ran: &Ran) -> bool {
        let is_kept = self.path("w/work/mark").exists();
        let failed = !ran.ok();
        match (expected, mount) {
            ("either", _) => true,
            ("nothing", None) => !failed,
            ("fails", _) => failed,
            ("fails, leaves files", None) => failed && !is_kept,
            ("fails, leaves nothing", None) => failed && is_kept,
            ("work emptied", Some(_)) => !is_kept,
            ("work kept", Some(_)) => is_kept,
            (text, Some(mount)) => {
                let flags = [mount.options.clone(), mount.propagation.join(" ")].join(" ");
                let both = format!("{} / {}", flags.trim(), superblock_flags(mount));
                text == flags.trim() || text == both
            }
            (text, None) => failed && ran.said().trim_end().ends_with(text),
        }
    }
}

fn superblock_flags(mount: &Mount) -> String {
    let options = mount.superblock.to_string_lossy().into_owned();
    let flags: Vec<_> = options.split(',').take_while(|option| !option.contains('=')).collect();
    flags.join(",")
}
