//! Values of carried options: gone from the process list before the helper does anything, and
//! in no output of any failure.

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
        for name in ["extraoption", "io.katacontainers.volume"] {
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
            assert_eq!(code, Some(0), "{build} {line}");
            assert!(looks > 10, "{build} {line}: looked {looks} times");
        }
    }
}

#[test]
fn in_no_error() {
    let carried = format!("extraoption={SECRET}");
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
        let line = line.replace('@', &carried);
        let ran = run(stage.command(programs::ours(build)).args(line.split(' ')));
        assert!(!ran.ok() && ran.said().lines().count() == 1, "{ran}");
        assert!(!ran.shows(b"c2Vj"), "{ran}");
    }
}
