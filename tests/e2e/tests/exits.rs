//! How the helper ends: each documented exit code, also where nobody reads what it says.

use nydus_e2e::mounts::mount_at;
use nydus_e2e::not_run;
use nydus_e2e::programs::{self, BUILDS};
use nydus_e2e::run::{Ran, run};
use nydus_e2e::stage::Stage;
use nydus_e2e::tree::tree;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

const MAN: &str = include_str!("../../../man/nydus-overlayfs.8");

/// Builds with an argument `--panic` that makes them panic.
const PANICS: [&str; 2] = ["nydus-overlayfs-panic", "nydus-overlayfs-std-panic"];

/// `bin` has the helper under its name and as `mount.fuse`; `real` only the former.
fn stage(build: &str) -> Stage {
    let stage = Stage::with(&["bin", "real", "behind", "empty", "l1", "l2", "t"]);
    let helper = fs::canonicalize(programs::ours(build)).expect("a program");
    for name in ["bin/nydus-overlayfs", "bin/mount.fuse", "real/nydus-overlayfs"] {
        symlink(&helper, stage.join(name)).expect("a link");
    }
    stage
}

/// A command in the shell, with `bin` before all else in PATH, and nothing in /sbin.
fn shell(stage: &Stage, script: &str) -> Ran {
    let sbin = fs::canonicalize("/sbin").expect("/sbin");
    let mut command = command(stage, Path::new("/bin/sh"), "bin:behind");
    command.args(["-c", script]);
    mount_bind(stage.join("empty"), &sbin).expect("an empty /sbin");
    let ran = run(&mut command);
    unmount(&sbin, UnmountFlags::DETACH).expect("the old /sbin");
    ran
}

fn command(stage: &Stage, program: &Path, directories: &str) -> Command {
    let directories = directories.split(':').map(|name| stage.join(name).display().to_string());
    let path = directories.chain(["/usr/bin:/bin".to_owned()]).collect::<Vec<_>>().join(":");
    let mut command = stage.command(program);
    command.env("PATH", path).env("LD_LIBRARY_PATH", programs::libraries());
    command
}

/// Numbers of the section EXIT STATUS.
fn documented() -> BTreeSet<i32> {
    let section = MAN.split(".SH ").find(|section| section.starts_with("EXIT STATUS"));
    let lines = section.expect("the section").lines();
    lines.filter_map(|line| line.parse().ok()).collect()
}

#[test]
fn each_documented_code() {
    let table: &[(&str, i32, &str)] = &[
        ("nydus-overlayfs overlay t -o lowerdir=l1:l2", 0, ""),
        (
            "nydus-overlayfs overlay t -o lowerdir=l1:l2,bind",
            1,
            "option 'bind' is not supported: only new overlay mounts are supported",
        ),
        (
            "nydus-overlayfs overlay t",
            1,
            "no lower layer: expected lowerdir=, lowerdir+= or datadir+= among the options",
        ),
        (
            "ulimit -n 3; exec nydus-overlayfs overlay t -o lowerdir=l1:l2",
            2,
            "cannot mount overlay on 't': target: too many open files",
        ),
        ("nydus-overlayfs --help >/dev/full", 2, ""),
        ("nydus-overlayfs --version >/dev/full", 2, ""),
        ("nydus-overlayfs overlay t -v -o lowerdir=l1:l2 >/dev/full", 0, ""),
        (
            "nydus-overlayfs overlay t -o lowerdir=l1:gone",
            32,
            "cannot mount overlay on 't': lower layer 2 of 2 'gone': no such file or directory",
        ),
        (
            "nydus-overlayfs overlay gone -o lowerdir=l1:l2",
            32,
            "cannot mount overlay on 'gone': target: no such file or directory",
        ),
        (
            "rmdir t; mkdir t; cd t; rmdir ../t; exec nydus-overlayfs overlay . -o lowerdir=../l1:../l2",
            32,
            "cannot mount overlay on '.': the target directory was removed",
        ),
        (
            "mount.fuse x t -t sshfs",
            127,
            "cannot mount type 'sshfs': mount.fuse3 not found in PATH or /sbin (install package fuse3)",
        ),
        (
            "cp empty.txt behind/mount.fuse3; chmod +x behind/mount.fuse3; mount.fuse x t -t sshfs",
            126,
            "cannot run '@/behind/mount.fuse3': exec format error",
        ),
    ];
    for build in BUILDS {
        for (script, code, text) in table {
            let stage = stage(build);
            fs::write(stage.join("empty.txt"), "no program").expect("a file");
            let ran = shell(&stage, script);
            assert_eq!(ran.code(), Some(*code), "{ran}");
            let text = text.replace('@', &stage.path().display().to_string());
            let (said, start) = (ran.said(), format!("nydus-overlayfs: {text}"));
            assert!(said.is_empty() == text.is_empty() && said.lines().count() <= 1, "{ran}");
            assert!(text.is_empty() || said.starts_with(&start), "{ran}, expected {text}");
            assert_eq!(
                mount_at(&stage.join("t")).is_some(),
                script.contains("t -") && *code == 0,
                "{ran}"
            );
        }
    }
    let mut reached: BTreeSet<i32> = table.iter().map(|row| row.1).collect();
    // By `an_internal_error`.
    reached.insert(4);
    assert_eq!(reached, documented());
}

#[test]
fn an_internal_error() {
    for build in PANICS {
        let stage = stage(build);
        for arguments in ["--panic", "overlay t --panic -o lowerdir=l1:l2,extraoption=c2Vj"] {
            let ran = run(stage.command(programs::ours(build)).args(arguments.split(' ')));
            assert_eq!(ran.code(), Some(4), "{ran}");
            assert!(
                ran.said() == "nydus-overlayfs: internal error\n" && ran.stdout.is_empty(),
                "{ran}"
            );
            assert!(mount_at(&stage.join("t")).is_none(), "{ran}");
        }
    }
    for build in BUILDS {
        let ran = run(Command::new(programs::ours(build)).arg("--panic"));
        assert!(ran.code() == Some(1) && ran.said().contains("unknown flag '--panic'"), "{ran}");
    }
}

/// Pipes that nobody reads: SIGPIPE is on, as it is for most programs.
#[test]
fn closed_pipes_change_no_exit_code() {
    let ours: &[(&str, i32)] = &[
        ("overlay t -v -o lowerdir=l1:l2", 0),
        ("overlay t -fv -o lowerdir=l1:l2", 0),
        ("overlay t -o lowerdir=l1:gone", 32),
        ("overlay t -o lowerdir=l1:l2,userxattr,redirect_dir=on", 32),
        ("overlay gone -v -o lowerdir=l1:l2", 32),
        ("overlay t -o lowerdir=l1:l2,bind", 1),
        ("overlay", 1),
        ("--help", 0),
        ("--version", 0),
    ];
    let as_mount_fuse: &[(&str, i32)] = &[
        ("overlay t -v -o lowerdir=l1:l2 -t nydus-overlayfs", 0),
        ("overlay t -o lowerdir=l1:gone -t nydus-overlayfs", 32),
        ("overlay t -o lowerdir=l1:l2,bind -t nydus-overlayfs", 1),
    ];
    let real = programs::mount_fuse3();
    if real.is_none() {
        not_run!("no fuse3");
    }
    for build in BUILDS {
        let stage = stage(build);
        let names = [("bin/nydus-overlayfs", ours), ("bin/mount.fuse", as_mount_fuse)];
        let names = names.map(|(name, table)| (stage.join(name), table));
        let real = real.clone().map(|real| (real, as_mount_fuse));
        for (program, table) in names.into_iter().chain(real) {
            for (line, code) in table {
                for descriptors in [&[1][..], &[2], &[1, 2]] {
                    unread(&stage, &program, line, *code, descriptors);
                }
            }
        }
    }
}

fn unread(stage: &Stage, program: &Path, line: &str, code: i32, descriptors: &'static [i32]) {
    let mut command = command(stage, program, "real");
    close_reader(command.args(line.split(' ')), descriptors);
    let ran = run(&mut command);
    assert_eq!(ran.code(), Some(code), "{descriptors:?} {ran}");
    let mounts = code == 0 && line.starts_with("overlay t") && !line.contains("-f");
    assert_eq!(mount_at(&stage.join("t")).is_some(), mounts, "{descriptors:?} {ran}");
    stage.unmount_all();
}

/// Puts a pipe whose reader is gone in the place of these descriptors of `command`.
fn close_reader(command: &mut Command, descriptors: &'static [i32]) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let writer = OwnedFd::from(writer);
    let replace = move || {
        for descriptor in descriptors {
            // SAFETY: one system call, on descriptors that are open.
            nix::errno::Errno::result(unsafe { libc::dup2(writer.as_raw_fd(), *descriptor) })?;
        }
        Ok(())
    };
    // SAFETY: dup2 may be called between fork and exec.
    unsafe { command.pre_exec(replace) };
}

/// What is run in our place gets signals as we got them.
#[test]
fn passes_on_signals_as_they_were() {
    for build in BUILDS {
        let stage = stage(build);
        let program = stage.join("behind/mount.fuse3");
        fs::write(&program, "#!/bin/sh\nexec grep SigIgn /proc/self/status\n").expect("a script");
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("executable");
        let signals = |name: &str| {
            let ran = run(command(&stage, &stage.join(name), "behind").args(["x", "t", "-t", "x"]));
            assert!(ran.ok(), "{ran}");
            ran.stdout
        };
        assert_eq!(signals("bin/mount.fuse"), signals("behind/mount.fuse3"));
    }
}

/// The kernel would take the next option for a part of it: a look could get a work directory so.
#[test]
fn an_option_does_not_swallow_the_next() {
    for build in BUILDS {
        let stage = Stage::with(&["l1", "l2", "u", "w", "t"]);
        let before = tree(stage.path());
        let mut command = stage.command(programs::ours(build));
        let options = ["-o", "lowerdir=l1:l2,upperdir=u,workdir=w,ro=1\\", "-o", "rw=1"];
        let ran = run(command.args(["overlay", "t"]).args(options));
        let expected = "option 'ro=1\\134' ends in a backslash, before another option";
        assert_eq!(ran.said(), format!("nydus-overlayfs: {expected}\n"), "{ran}");
        assert_eq!((ran.code(), tree(stage.path())), (Some(1), before), "{ran}");
    }
}
