//! Values of carried options: gone from the process list before the helper does anything, and
//! in no output of any failure.

use nydus_e2e::mounts::mount_at;
use nydus_e2e::programs::{self, BUILDS};
use nydus_e2e::run::run;
use nydus_e2e::stage::Stage;
use nydus_e2e::trace::trace;
use std::fs;

const SECRET: &str = "c2VjcmV0LXJlZ2lzdHJ5LXRva2Vu";

/// Command lines in each form that an option can have; `@` stands for the carried ones.
const LINES: &[&str] = &[
    "overlay t -o lowerdir=l1:l2,@",
    "overlay t -o @,lowerdir=l1:l2,ro",
    "overlay t -olowerdir=l1:l2,@",
    "overlay t -snolowerdir=l1:l2,@",
    "-o lowerdir=l1:l2 -o @ -o @ overlay t",
    "-o@,lowerdir=l1:l2 -- overlay t",
    "overlay t -o lowerdir=l1:l2,private,@",
];

/// Names of carried options, right and misspelt; the kernel does not know the latter.
const NAMES: [(&str, i32); 6] = [
    ("extraoption", 0),
    ("io.katacontainers.volume", 0),
    ("Extraoption", 32),
    ("extraoptions", 32),
    ("IO.KataContainers.Volume", 32),
    ("io.katacontainers.volume_2", 32),
];

fn arguments(line: &str, name: &str) -> Vec<String> {
    let carried = format!("{name}={SECRET},{name}={SECRET}==");
    line.replace('@', &carried).split(' ').map(str::to_owned).collect()
}

/// The freestanding build blanks before its first system call; the C library of the other makes
/// some of its own first, so there it counts from the helper's own first one on.
#[test]
fn gone_from_the_process_list() {
    let own_first = [libc::SYS_poll.cast_unsigned(), libc::SYS_ppoll.cast_unsigned()];
    for (build, line) in BUILDS.into_iter().flat_map(|build| LINES.iter().map(move |l| (build, l)))
    {
        for (name, expected) in NAMES {
            let stage = Stage::with(&["l1", "l2", "t"]);
            let mut command = stage.command(programs::ours(build));
            let mut started = build == "nydus-overlayfs";
            let mut looks = 0;
            let code = trace(command.args(arguments(line, name)), |pid, stop| {
                started |= own_first.contains(&stop.call);
                if started {
                    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).expect("a process");
                    let text = String::from_utf8_lossy(&cmdline).into_owned();
                    assert!(!text.contains("c2Vj"), "{build} {stop:?}: {text}");
                    assert!(text.contains(name) && text.contains("lowerdir="), "{text}");
                    looks += 1;
                }
                true
            });
            assert_eq!(code, Some(expected), "{build} {line} {name}");
            assert!(looks > 10, "{build} {line}: looked {looks} times");
        }
    }
}

/// What looks carried and is no option is what it is: nothing of it changes.
#[test]
fn names_that_look_carried() {
    for build in BUILDS {
        let stage = Stage::with(&["l1,extraoption=x", "l2", "t,extraoption=x", "extraoption=y"]);
        let (source, options) = ("o,extraoption=x", "lowerdir=l1\\,extraoption=x:l2");
        for target in ["t,extraoption=x", "extraoption=y"] {
            for kind in ["fuse.nydus-overlayfs", "x,extraoption=x"] {
                let arguments = [source, target, "-t", kind, "-o", options];
                let mut command = stage.command(programs::ours(build));
                let code = trace(command.args(arguments), |pid, _| {
                    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).expect("a process");
                    let text = String::from_utf8_lossy(&cmdline).into_owned();
                    assert!(text.split('\0').skip(1).take(6).eq(arguments), "{text}");
                    true
                });
                assert_eq!(code, Some(0), "{build} {arguments:?}");
                let mount = mount_at(&stage.join(target)).expect("a mount");
                assert_eq!(mount.source.to_str(), Some(source));
                stage.unmount_all();
            }
        }
    }
}

#[test]
fn in_no_error() {
    let table = [
        "overlay t -o lowerdir=l1:missing,@",
        "overlay t -o lowerdir=l1:l2,foo,@",
        "overlay t -o lowerdir=l1:l2,\\,@",
        "overlay t -o lowerdir=l1\\,@:l2",
        "overlay t -o @",
        "overlay t -o lowerdir=l1:l2,bind,@",
        "overlay missing -o lowerdir=l1:l2,@",
        "overlay t @ -o lowerdir=l1:l2",
        "overlay t --@ -o lowerdir=l1:l2",
        "overlay t -x@ -o lowerdir=l1:l2",
        "overlay t -x -o lowerdir=l1:l2,@",
        "overlay t -o lowerdir=l1:l2,userxattr,redirect_dir=on,@",
        "overlay t -N @ -o lowerdir=l1:l2",
        "@ t",
    ];
    for (build, line) in BUILDS.into_iter().flat_map(|build| table.map(|line| (build, line))) {
        let stage = Stage::with(&["l1", "l2", "t"]);
        for (name, _) in NAMES {
            let line = line.replace('@', &format!("{name}={SECRET}"));
            let ran = run(stage.command(programs::ours(build)).args(line.split(' ')));
            assert!(!ran.ok() && ran.said().lines().count() == 1, "{ran}");
            assert!(!ran.shows(b"c2Vj"), "{ran}");
        }
    }
}
