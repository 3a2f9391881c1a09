//! The helper killed at each of its system calls: afterwards the mount is complete, or nothing
//! is there.

use nydus_e2e::mounts::{mount_at, mounts};
use nydus_e2e::programs::{self, BUILDS};
use nydus_e2e::stage::Stage;
use nydus_e2e::trace::trace;
use nydus_e2e::tree::tree;
use std::fs;

/// One line for each way to a mount.
const OPTIONS: &[&str] = &[
    "lowerdir=@/l1:@/l2,upperdir=@/u,workdir=@/w",
    "lowerdir=l1:l2,upperdir=u,workdir=w",
    "lowerdir=l1:l2,upperdir=u,workdir=w,shared",
];

fn killed_at(build: &str, options: &str, kill: usize) -> bool {
    let stage = Stage::with(&["l1", "l2", "u", "w", "t"]);
    fs::write(stage.join("l2/file"), "contents").expect("a file");
    let options = options.replace('@', &stage.path().display().to_string());
    let (before, files) = (mounts(), tree(stage.path()));
    let mut command = stage.command(programs::ours(build));
    let code = trace(command.args(["overlay", "t", "-o", &options]), |_, stop| stop.index < kill);
    if mount_at(&stage.join("t")).is_some() {
        assert_eq!(fs::read(stage.join("t/file")).expect("a file"), b"contents");
        fs::write(stage.join("t/new"), "").expect("writable");
        stage.unmount_all();
    } else {
        // The kernel itself makes `work/work` and marks the upper directory, and leaves both.
        let by_kernel = |line: &String| !line.contains(" /w/work");
        let plain = |lines: Vec<String>| -> Vec<String> {
            let kept = lines.into_iter().filter(by_kernel);
            kept.map(|line| line.split(" trusted.overlay").next().unwrap_or("").to_owned())
                .collect()
        };
        assert_eq!(plain(tree(stage.path())), plain(files), "{build} killed at {kill}");
    }
    assert_eq!(mounts(), before, "{build} killed at {kill}");
    code.is_none()
}

#[test]
fn killed_at_each_system_call() {
    let mut kills = 0;
    for (build, options) in BUILDS.into_iter().flat_map(|b| OPTIONS.iter().map(move |o| (b, o))) {
        kills += (0..).take_while(|kill| killed_at(build, options, *kill)).count();
    }
    println!("killed {kills} times");
    assert!(kills > 100, "{kills}");
}
