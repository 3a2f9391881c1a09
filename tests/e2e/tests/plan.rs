//! Which way a mount takes, and its system calls: seen by strace(1), which also stands in for
//! older kernels by refusing calls that they do not have.

use nix::errno::Errno;
use nydus_e2e::mounts::{Overlay, mount_at};
use nydus_e2e::programs::{self, BUILDS};
use nydus_e2e::run::run;
use nydus_e2e::seccomp;
use nydus_e2e::stage::Stage;
use nydus_e2e::{linux, not_run, seen};
use std::fs;
use std::path::PathBuf;

/// Longest data of one `mount(2)`.
const MOUNT_DATA_MAX: usize = 4095;

/// Linux before 5.2, or a seccomp filter that answers so.
const NO_FSOPEN: &str = "fsopen:error=ENOSYS";
/// A seccomp filter of a container.
const FORBIDDEN: &str = "fsopen:error=EPERM";
/// Linux before 6.7: the first word but source and flags is refused.
const NO_LOWERDIR_PLUS: &str = "fsconfig:error=EINVAL:when=2+";

/// Options of `count` layers, some 100 bytes each, in one directory or in several.
fn layers(stage: &Stage, count: usize, directories: usize, prefix: &str) -> String {
    let mut paths = Vec::new();
    for number in 0..count {
        let name =
            format!("{}{}/{}{number:03}/fs", "r".repeat(90), number % directories, "l".repeat(20));
        fs::create_dir_all(stage.join(&name)).expect("a layer");
        fs::write(stage.join(&name).join(format!("own-{number}")), "").expect("a file");
        paths.push(format!("{prefix}{name}"));
    }
    format!("lowerdir={}", paths.join(":"))
}

struct Seen {
    calls: Vec<String>,
    overlay: Overlay,
}

/// Mounts `options` under strace, some call refused; what it did, and what is mounted.
fn trace(stage: &Stage, build: &str, options: &str, refuse: Option<&str>) -> Seen {
    let inject = refuse.map(|rule| format!("--inject={rule}"));
    let mut command = stage.command("strace");
    command.args(["-f", "-o", "trace", "-s", "100000"]).args(inject);
    let ran = run(command.arg(programs::ours(build)).args(["overlay", "t", "-o", options]));
    assert!(ran.ok(), "{ran}");
    let text =
        String::from_utf8_lossy(&fs::read(stage.join("trace")).expect("a trace")).into_owned();
    let calls: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(_, call)| call.trim().to_owned())
        .collect();
    for call in calls.iter().filter(|call| call.starts_with("mount(")) {
        let data = call.rsplit_once("\") ").map_or(&**call, |(head, _)| head);
        let data = data.rsplit_once(", \"").map_or("", |(_, data)| data);
        assert!(data.len() <= MOUNT_DATA_MAX, "{} bytes: {call}", data.len());
    }
    let overlay = mount_at(&stage.join("t")).expect("a mount").overlay();
    Seen { calls, overlay }
}

impl Seen {
    fn names(&self) -> Vec<&str> {
        let names = self.calls.iter().filter_map(|call| call.split_once('('));
        names.map(|(name, _)| name).collect()
    }

    fn count(&self, call: &str) -> usize {
        self.calls.iter().filter(|line| line.starts_with(call)).count()
    }
}

fn each(test: impl Fn(&Stage, &str)) {
    if !["/usr/bin/strace", "/bin/strace"].iter().any(|path| PathBuf::from(path).exists()) {
        return not_run!("no strace");
    }
    for build in BUILDS {
        test(&Stage::with(&["u", "w", "t", "l1", "l2"]), build);
    }
}

/// All that the freestanding helper asks of the kernel for an ordinary mount.
#[test]
fn the_short_way() {
    each(|stage, build| {
        let base = stage.path().display();
        let options = format!("lowerdir={base}/l1:{base}/l2,upperdir={base}/u,workdir={base}/w");
        let seen = trace(stage, build, &format!("{options},extraoption=e30=,dev,suid"), None);
        let data = format!("\"overlay\", 0, \"{options}\"");
        assert!(
            seen.calls
                .iter()
                .any(|call| call.starts_with("mount(\"overlay\", \".\"") && call.contains(&data))
        );
        if build == BUILDS[0] {
            assert_eq!(
                seen.names(),
                [
                    "execve",
                    "ppoll",
                    "getuid",
                    "geteuid",
                    "getgid",
                    "getegid",
                    "openat",
                    "fchdir",
                    "mount",
                    "close",
                    "exit_group",
                ]
            );
        }
        let relative = trace(
            &Stage::with(&["u", "w", "t", "l1", "l2"]),
            build,
            "lowerdir=l1:l2,upperdir=u,workdir=w",
            None,
        );
        let by_number = |call: &String| call.starts_with("mount(\"overlay\", \"/proc/self/fd/");
        assert!(relative.calls.iter().any(by_number) && relative.count("fchdir") == 0);
    });
}

/// Which calls make the mount, and in which form mountinfo shows the layers.
#[test]
fn long_ways() {
    const ABSOLUTE: bool = true;
    let table: &[(usize, usize, bool, Option<&str>, &str)] = &[
        (100, 1, ABSOLUTE, None, "context"),
        (100, 3, !ABSOLUTE, None, "context"),
        (100, 1, ABSOLUTE, Some(NO_FSOPEN), "common directory"),
        (100, 1, ABSOLUTE, Some(FORBIDDEN), "common directory"),
        (100, 1, ABSOLUTE, Some(NO_LOWERDIR_PLUS), "common directory"),
        (100, 3, ABSOLUTE, Some(NO_FSOPEN), "numbers"),
        (100, 1, !ABSOLUTE, Some(NO_FSOPEN), "numbers"),
        (500, 3, ABSOLUTE, None, "context"),
        (500, 3, ABSOLUTE, Some(NO_FSOPEN), "numbers"),
    ];
    each(|_, build| {
        for (count, directories, absolute, refuse, way) in table {
            let stage = Stage::with(&["t", "u", "w"]);
            let prefix =
                if *absolute { format!("{}/", stage.path().display()) } else { String::new() };
            let lower = layers(&stage, *count, *directories, &prefix);
            let upper = format!("{prefix}u,workdir={prefix}w");
            let seen = trace(&stage, build, &format!("{lower},upperdir={upper}"), *refuse);
            for number in 0..*count {
                assert!(stage.join("t").join(format!("own-{number}")).exists(), "layer {number}");
            }
            fs::write(stage.join("t/new"), "").expect("writable");
            let (mounted, moved) = (seen.count("mount("), seen.count("move_mount("));
            let first = seen.overlay.lower.first().expect("a layer").display().to_string();
            let seen_way = match (mounted, moved) {
                (0, 1) => "context",
                (1.., 0) if first.parse::<u32>().is_ok() => "numbers",
                (1, 0) if !first.starts_with('/') => "common directory",
                other => panic!("{other:?} {first}"),
            };
            seen!("{count} layers by {seen_way}");
            // Without lowerdir+ the context is of no use for so many.
            let way = match *way {
                "context" if !linux(6, 7) && *absolute && *directories == 1 => "common directory",
                "context" if !linux(6, 7) => "numbers",
                way => way,
            };
            assert_eq!(seen_way, way, "{count} {directories} {absolute} {refuse:?}");
            assert_eq!(seen.overlay.lower.len(), *count);
            if way == "context" {
                assert_eq!(
                    seen.overlay.lower[0].to_string_lossy(),
                    lower[9..].split(':').next().unwrap()
                );
            }
        }
    });
}

/// Behind a real filter, which answers as those of container runtimes do.
#[test]
fn behind_a_filter() {
    each(|_, build| {
        for errno in [Errno::EPERM, Errno::ENOSYS] {
            let stage = Stage::with(&["t", "u", "w"]);
            let lower = layers(&stage, 100, 3, "");
            let mut command = stage.command(programs::ours(build));
            command.args(["overlay", "t", "-o", &format!("{lower},upperdir=u,workdir=w")]);
            seccomp::refuse(&mut command, libc::SYS_fsopen, errno);
            let ran = run(&mut command);
            assert!(ran.ok() && ran.stderr.is_empty(), "{ran}");
            let shown = mount_at(&stage.join("t")).expect("a mount").overlay().lower;
            assert!(shown.iter().all(|layer| layer.to_string_lossy().parse::<u32>().is_ok()));
            assert_eq!(shown.len(), 100, "{ran}");
            assert!(stage.join("t/own-99").exists(), "{ran}");
            seen!("fsopen refused by seccomp");
        }
    });
}

/// 4,095 bytes fit one mount(2); the next does not, and nothing is cut.
#[test]
fn at_the_limit() {
    each(|_, build| {
        for length in [MOUNT_DATA_MAX - 1, MOUNT_DATA_MAX, MOUNT_DATA_MAX + 1, MOUNT_DATA_MAX + 2] {
            let stage = Stage::with(&["t", "last"]);
            fs::write(stage.join("last/mark"), "").expect("a file");
            let head = layers(&stage, 30, 1, "");
            // Slashes fill a path to any length.
            let slashes = "/".repeat(length - head.len() - ":.last".len());
            let options = format!("{head}:.{slashes}last");
            assert_eq!(options.len(), length);
            let seen = trace(&stage, build, &options, None);
            assert!(stage.join("t/mark").exists(), "the last layer is lost at {length}");
            let is_it = |call: &&String| call.starts_with("mount(") && call.contains(&options);
            let as_they_came = seen.calls.iter().any(|call| is_it(&call));
            assert_eq!(as_they_came, length <= MOUNT_DATA_MAX, "{length}");
        }
    });
}

/// The type of propagation changes on the new mount itself, before anybody can see another.
#[test]
fn propagation() {
    each(|stage, build| {
        let seen = trace(stage, build, "lowerdir=l1:l2,shared", None);
        assert_eq!((seen.count("move_mount("), seen.count("mount(")), (1, 1));
        let mount = mount_at(&stage.join("t")).expect("a mount");
        assert_eq!(mount.propagation, ["shared"]);
        stage.unmount_all();
        let seen = trace(stage, build, "lowerdir=l1:l2,shared", Some(NO_FSOPEN));
        assert_eq!((seen.count("move_mount("), seen.count("mount(")), (0, 2));
        let mount = mount_at(&stage.join("t")).expect("a mount");
        assert_eq!(mount.propagation, ["shared"]);
    });
}

/// The kernel cannot see that layers it got one by one were a `lowerdir=`, which no `lowerdir+=`
/// may follow.
#[test]
fn a_split_list_obeys_the_kernels_rules() {
    each(|_, build| {
        for (tail, code) in
            [(",lowerdir+=l1", 32), (",lowerdir+=l1,lowerdir=l1:l2", 32), (",lowerdir=l1:l2", 0)]
        {
            let stage = Stage::with(&["t", "l1", "l2"]);
            let options = layers(&stage, 60, 1, "") + tail;
            let mut command = stage.command(programs::ours(build));
            let ran = run(command.args(["overlay", "t", "-o", &options]));
            assert_eq!(ran.code(), Some(code), "{ran}");
        }
    });
}
