//! The reason that is named is this mount's own, whoever else fails beside it.

use nix::errno::Errno;
use nydus_e2e::programs::{self, BUILDS};
use nydus_e2e::run::run;
use nydus_e2e::seccomp::refuse;
use nydus_e2e::stage::Stage;
use nydus_e2e::{lacks, linux};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use std::fs;
use std::panic::AssertUnwindSafe;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// Mistakes that can be seen in the options, each with what its line has to name.
const MISTAKES: [(&str, &[&str]); 10] = [
    (
        "lowerdir=l1,upperdir=u,workdir=w,userxattr,redirect_dir=on",
        &["userxattr", "redirect_dir=on"],
    ),
    ("lowerdir=l1:l2,userxattr,metacopy=on", &["userxattr", "metacopy=on"]),
    ("lowerdir=l1:l2,metacopy=on,redirect_dir=nofollow", &["metacopy=on", "redirect_dir=nofollow"]),
    (
        "lowerdir=l1,upperdir=u,workdir=w,metacopy=on,nfs_export=on",
        &["metacopy=on", "nfs_export=on"],
    ),
    ("lowerdir=l1,upperdir=u,workdir=w,nfs_export=on,index=off", &["nfs_export=on", "index=off"]),
    ("lowerdir=l1,upperdir=busy/u,workdir=busy/w,index=on", &["upperdir 'busy/u'", "in use"]),
    ("lowerdir=l1:stacked", &["lower layer 2 of 2 'stacked'", "stack"]),
    ("lowerdir=l1:l2,xino=ten", &["xino=ten"]),
    ("lowerdir=l2:l1:l2,nfs_export=on", &["lower layer 1 of 3 'l2'", "lower layer 3 of 3 'l2'"]),
    ("lowerdir=l1,upperdir=once/u,workdir=once/w", &["option 'upperdir=once/u'"]),
];

/// Two layers of overlays below `stacked`, an upper directory in use, one on an overlay.
fn stage() -> Stage {
    let stage = Stage::with(&[
        "l1", "l2", "u", "w", "t", "once", "stacked", "busy/u", "busy/w", "busy/t", "ou", "ow",
    ]);
    let script = "set -e
        mount -i -t overlay x once -o lowerdir=l2,upperdir=ou,workdir=ow; mkdir once/u once/w
        mount -i -t overlay x stacked -o lowerdir=once:l1
        mount -i -t overlay x busy/t -o lowerdir=l2,upperdir=busy/u,workdir=busy/w";
    let ran = run(stage.command("/bin/sh").args(["-c", script]));
    assert!(ran.ok(), "{ran}");
    stage
}

/// Mistakes that no look at the directories that count shows, and what the line says of them; with
/// the kernel that they need.
const RARE: &[((u32, u32), &str, &str)] = &[
    ((6, 7), "lowerdir=l1:l2,workdir=missing", ": option 'workdir=missing': no such file"),
    ((6, 7), "lowerdir=missing,lowerdir=l1:l2", ": option 'lowerdir=missing': no such file"),
    ((6, 7), "lowerdir=l1:l2,upperdir=missing,workdir=w,upperdir=u", "'upperdir=missing': no such"),
    ((6, 7), "lowerdir+=missing,lowerdir=l1:l2", ": option 'lowerdir+=missing': no such file"),
    ((6, 7), "lowerdir=l1:l2,lowerdir=", ": no lower layer is left"),
    ((6, 7), "datadir+=l1,datadir+=l2", ": no lower layer is left"),
    ((6, 7), "lowerdir=,upperdir=u,workdir=w,ro", ": no lower layer is left"),
    (
        (6, 7),
        "lowerdir=l1,lowerdir+=l2,upperdir=u,workdir=w,ro",
        ": option 'lowerdir+=l2': lowerdir+ and datadir+ cannot follow lowerdir: invalid",
    ),
    (
        (6, 7),
        "lowerdir=LONGl1:LONGl2,lowerdir+=l2",
        ": option 'lowerdir+=l2': lowerdir+ and datadir+ cannot follow lowerdir: invalid",
    ),
    (
        (5, 11),
        "lowerdir=/proc/self/root@l1:@l2,userxattr,redirect_dir=on",
        ": conflicting options: userxattr,redirect_dir=on: invalid",
    ),
    (
        (5, 10),
        "lowerdir=/proc/self/root@l1:/proc/self/root@busy/u,upperdir=u,workdir=w,index=on",
        "lower layer 2 of 2 '/proc/self/root@busy/u' is in use by another overlay mount",
    ),
    (
        (6, 7),
        "lowerdir=:l1,lowerdir=l1:l2,metacopy=on,redirect_dir=off",
        ": option 'lowerdir=:l1': invalid",
    ),
];

#[test]
fn rare_mistakes() {
    for (build, (kernel, options, expected)) in
        BUILDS.into_iter().flat_map(|build| RARE.iter().map(move |row| (build, row)))
    {
        if !linux(kernel.0, kernel.1) {
            lacks!("what {options:?} needs ({}.{})", kernel.0, kernel.1);
            continue;
        }
        let stage = stage();
        let base = format!("{}/", stage.path().display());
        let fill = |text: &str| text.replace('@', &base).replace("LONG", &"./".repeat(1_500));
        let ran = run(&mut helper(&stage, build, &fill(options)));
        assert!(ran.said().contains(&fill(expected)), "{ran}, expected {expected}");
        assert!(ran.code() == Some(32) && ran.said().lines().count() == 1, "{ran}");
    }
}

/// A work directory that was used with another upper directory: which of both is wrong cannot be
/// seen.
#[test]
fn another_upper_directory() {
    for build in BUILDS {
        let stage = stage();
        let options = "lowerdir=l1,workdir=w,index=on,upperdir=";
        let ran = run(&mut helper(&stage, build, &format!("{options}u")));
        assert!(ran.ok(), "{ran}");
        unmount(stage.join("t"), UnmountFlags::empty()).expect("the overlay");
        fs::create_dir(stage.join("other")).expect("a directory");
        let ran = run(&mut helper(&stage, build, &format!("{options}other")));
        assert!(ran.said().contains("upperdir 'other' or its workdir was used"), "{ran}");
    }
}

/// Those that this kernel makes.
fn mistakes() -> Vec<(&'static str, &'static [&'static str])> {
    if !linux(5, 11) {
        lacks!("userxattr (5.11)");
    }
    let is_known = |row: &(&str, _)| linux(5, 11) || !row.0.contains("userxattr");
    MISTAKES.into_iter().filter(is_known).collect()
}

fn helper(stage: &Stage, build: &str, options: &str) -> Command {
    let mut command = stage.command(programs::ours(build));
    command.args(["overlay", "t", "-o", options]);
    command
}

/// Of the tries, one of so many is made: a guest's emulated processor is slow.
fn share() -> usize {
    std::env::var("FAULTS_SHARE").map_or(1, |share| share.parse().expect("a number"))
}

/// Who starts the helper may have left SIGCHLD ignored: then children leave no exit code behind.
#[test]
fn children_tell_without_a_signal() {
    let each = |build| mistakes().into_iter().map(move |one| (build, one));
    for (build, (options, names)) in BUILDS.into_iter().flat_map(each) {
        let stage = stage();
        let words = ["-c", "trap '' CHLD; exec \"$@\"", "sh"];
        let mut command = stage.command("/bin/sh");
        command.args(words).arg(programs::ours(build)).args(["overlay", "t", "-o", options]);
        let ran = run(&mut command);
        assert!(names.iter().all(|name| ran.said().contains(name)), "{ran}, expected {names:?}");
    }
}

/// Ten mistakes at a time, with overlays made beside them that the kernel writes warnings about:
/// each line is the one that its mistake gets when it is alone.
#[test]
fn each_names_its_own() {
    let full = std::env::var_os("NYDUS_FULL").is_some();
    let rounds = if full { 1_000 } else { 100 } / share();
    let mistakes = mistakes();
    let alone = mistakes.iter().map(|(options, names)| {
        let stage = stage();
        BUILDS.map(|build| {
            let ran = run(&mut helper(&stage, build, options));
            let said = ran.said();
            assert!(ran.code() == Some(32), "{ran}");
            assert!(names.iter().all(|name| said.contains(name)), "{ran}, expected {names:?}");
            said
        })
    });
    let alone: Vec<_> = alone.collect();
    let fail = |(options, expected): (&str, &[String; 2])| {
        let stage = stage();
        let tries = (0..rounds).map(|round| {
            let ran = run(&mut helper(&stage, BUILDS[round % 2], options));
            (ran.code() != Some(32) || ran.said() != expected[round % 2]).then(|| ran.to_string())
        });
        tries.flatten().collect()
    };
    let others: Vec<String> = beside("lowerdir=l1:l2,index=on,nfs_export=on", || {
        std::thread::scope(|scope| {
            let rows = mistakes.iter().map(|row| row.0).zip(&alone);
            let threads: Vec<_> = rows.map(|row| scope.spawn(move || fail(row))).collect();
            let others = threads.into_iter().map(|thread| thread.join().expect("no panic"));
            others.flat_map(|others: Vec<String>| others).collect()
        })
    });
    let tries = rounds * mistakes.len();
    println!("{} of {tries} lines name their own mistake", tries - others.len());
    assert!(others.is_empty(), "{}", others.join("\n\n"));
}

/// Does `work` while another thread mounts with `options`, or fails to, again and again.
fn beside<T>(options: &str, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    let disturb = || {
        let stage = stage();
        while !over.load(Ordering::Relaxed) {
            run(&mut helper(&stage, BUILDS[0], options));
            let _ = unmount(stage.join("t"), UnmountFlags::DETACH);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(disturb);
        let done = std::panic::catch_unwind(AssertUnwindSafe(work));
        over.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Where nothing of the log is about this mount and all looks right, there is the error number.
#[test]
fn the_error_number_stands_alone() {
    for (build, options) in BUILDS.into_iter().zip([MISTAKES[0].0, MISTAKES[6].0]) {
        beside(options, || {
            let stage = stage();
            for _ in 0..100 / share() {
                let mut command = helper(&stage, build, "lowerdir=l1:l2");
                refuse(&mut command, libc::SYS_mount, Errno::EINVAL);
                let ran = run(&mut command);
                let expected = "nydus-overlayfs: cannot mount overlay on 't': invalid argument\n";
                assert!(ran.code() == Some(32) && ran.said() == expected, "{ran}");
            }
        });
    }
}

/// What the kernel says of a directory with a long path is told, and the path as it was given.
#[test]
fn messages_of_any_length() {
    for (build, length) in BUILDS.into_iter().flat_map(|build| [(build, 600), (build, 3_000)]) {
        let stage = stage();
        let upper = format!("once/{}", vec!["d".repeat(199); length / 200].join("/"));
        fs::create_dir_all(stage.join(&upper)).expect("a directory");
        let options = format!("lowerdir=l1,upperdir={upper},workdir=once/w");
        let ran = run(&mut helper(&stage, build, &options));
        let said = ran.said();
        let reason = "not supported as upperdir: invalid argument\n";
        assert!(ran.code() == Some(32) && said.ends_with(reason), "{ran}");
        assert!(said.contains(&format!("upperdir={upper}'")), "{ran}");
    }
}

/// So is what it says of an option with a long value.
#[test]
fn options_of_any_length() {
    if !linux(6, 5) {
        return lacks!("messages of its own for a mount (6.5)");
    }
    for (build, length) in BUILDS.into_iter().flat_map(|build| [(build, 300), (build, 3_000)]) {
        let stage = stage();
        let options = format!("lowerdir=l1:l2,foo={}", "x".repeat(length));
        let ran = run(&mut helper(&stage, build, &options));
        assert!(ran.code() == Some(32), "{ran}");
        assert!(ran.tells("option 'foo=x … Unknown parameter 'foo': invalid argument"), "{ran}");
    }
}

/// Options that exclude each other in other mounts, or in older kernels, are not why this one
/// fails: without them it would fail, too.
#[test]
fn options_that_do_not_conflict() {
    const UPPER: &str = "upperdir=u,workdir=w";
    let mut table = vec![
        "nfs_export=on,index=off".to_owned(),
        "nfs_export=on,metacopy=on".to_owned(),
        "metacopy=on,redirect_dir=off".to_owned(),
        "metacopy=on,redirect_dir=follow".to_owned(),
        format!("{UPPER},metacopy=on,redirect_dir=nofollow,redirect_dir=on"),
        format!("{UPPER},index=off,nfs_export=on,nfs_export=off"),
    ];
    if linux(6, 16) {
        table.push(format!("{UPPER},userxattr,verity=on"));
        table.push(format!("{UPPER},verity=on,metacopy=off"));
    }
    for (build, more) in BUILDS.into_iter().flat_map(|build| table.iter().map(move |m| (build, m)))
    {
        let stage = stage();
        let ran = run(&mut helper(&stage, build, &format!("lowerdir=l1:l2,{more}")));
        assert!(ran.ok(), "{ran}");
        unmount(stage.join("t"), UnmountFlags::empty()).expect("the overlay");
        let ran = run(&mut helper(&stage, build, &format!("lowerdir=l1:stacked,{more}")));
        let reason = "lower layer 2 of 2 'stacked' … stack … : invalid argument\n";
        assert!(ran.code() == Some(32) && ran.tells(reason), "{ran}");
    }
}

/// `nydus-slice check` sees an overlap through a bind mount as the kernel does.
#[test]
fn check_names_both_layers_that_overlap() {
    let stage = Stage::with(&["x/y", "z", "t"]);
    mount_bind(stage.join("x/y"), stage.join("z")).expect("a bind mount");
    for layers in ["x:z", "z:x"] {
        let options = format!("lowerdir={layers}");
        let ran =
            run(stage.command(programs::ours("nydus-slice")).args(["check", "-o", &options, "t"]));
        let shown = String::from_utf8_lossy(&ran.stdout).into_owned() + &ran.said();
        assert!(
            !ran.ok() && ["'x'", "'z'", "overlaps"].iter().all(|text| shown.contains(text)),
            "{ran}"
        );
    }
}
