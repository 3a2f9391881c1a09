//! The helper's own tiers inside guests with other kernels, and docs/kernels.md.
//!
//! `KERNELS_GUESTS` and `KERNELS_TIERS`, words with commas between them, run a part of it.

use nydus_e2e::guest::{Disk, run_in};
use nydus_e2e::machines::{QEMU, kernel};
use nydus_e2e::not_run;
use nydus_e2e::programs::{BUILDS, libraries, mount_fuse3, ours, tool};
use std::fs;
use std::path::{Path, PathBuf};

/// Those of the helper, and seconds that they may take in a guest whose processor is emulated.
const TIERS: [(&str, u32); 11] = [
    ("plan", 300),
    ("idmap", 300),
    ("invocation", 300),
    ("errors", 300),
    ("secrets", 200),
    ("layers", 600),
    ("stack", 200),
    ("front", 300),
    ("privileges", 100),
    ("faults", 600),
    ("equivalence", 1200),
];

/// Percent of the cases that equivalence compares elsewhere: over 1,000 of the helper alone.
const CASES: u32 = 13;

#[test]
fn the_helpers_tiers_in_guests() {
    if !Path::new(QEMU).exists() {
        return not_run!("no qemu-system-x86_64");
    }
    let full = std::env::var_os("NYDUS_FULL").is_some();
    let guests = if full { "guest-5.10,guest-6.1,guest-6.12,guest-7" } else { "guest-6.1" };
    let guests = std::env::var("KERNELS_GUESTS").unwrap_or(guests.to_owned());
    let directory = tempfile::tempdir().expect("a directory");
    let Some(disk) = disk(directory.path()) else { return };
    let mut failed = Vec::new();
    for name in guests.split(',') {
        let Some(kernel) = kernel(name) else {
            not_run!("{name}: no kernel");
            continue;
        };
        let (text, ran) = run_in(&kernel, &disk, "", &directory.path().join(name), 3000);
        println!("{text}");
        let ended = tiers().all(|(tier, _)| text.contains(&format!("== {tier} ended: 0\n")));
        if !ended || !ran.ok() {
            failed.push(format!("{name} {:?}", ran.status));
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

fn tiers() -> impl Iterator<Item = (&'static str, u32)> {
    let wanted = std::env::var("KERNELS_TIERS").ok();
    let is_wanted = move |tier: &str| {
        wanted.as_ref().is_none_or(|wanted| wanted.split(',').any(|name| name == tier))
    };
    TIERS.into_iter().filter(move |(tier, _)| is_wanted(tier))
}

/// A disk with the tiers and all that they run.
fn disk(directory: &Path) -> Option<PathBuf> {
    let disk = Disk::new(directory)?;
    let names = [
        "sh", "cat", "sleep", "sync", "timeout", "umount", "unshare", "setpriv", "mknod", "chroot",
        "mkdir", "grep", "ls", "dd", "rm", "touch", "chmod", "mv", "ln", "cp", "head", "id",
        "true", "false", "strace", "env", "losetup", "stat", "mount",
    ];
    if !disk.programs(&names) {
        not_run!("one of {names:?} is missing");
        return None;
    }
    // Newer ones parse options in another way.
    let (Some(mount), Some(fuse3), Some(tools)) =
        (tool("mount-2.38/bin/mount"), mount_fuse3(), tool(""))
    else {
        not_run!("no mount of util-linux 2.38, or no fuse3");
        return None;
    };
    disk.program_as(&mount, Path::new("/usr/bin/mount"));
    BUILDS.into_iter().for_each(|build| disk.program(&ours(build)));
    disk.program(&fuse3);
    for path in ["erofs-utils/usr/bin/mkfs.erofs", "fuse-overlayfs/usr/bin/fuse-overlayfs"] {
        if let Some(path) = tool(path) {
            disk.program(&path);
        }
    }
    for program in [env!("CARGO_BIN_EXE_tinyfs"), env!("CARGO_BIN_EXE_show")] {
        disk.program(Path::new(program));
    }
    let dist = ours("");
    let mut script =
        format!("export NYDUS_DIST={} NYDUS_TOOLS={}\n", dist.display(), tools.display());
    script += &format!("export LD_LIBRARY_PATH={} EQUIV_CASES={CASES}\n", libraries());
    for (tier, limit) in tiers() {
        disk.program_as(&program(tier), Path::new("/tests").join(tier).as_path());
        script += &format!("timeout {limit} /tests/{tier} --nocapture\n");
        script += &format!("echo \"== {tier} ended: $?\"\n");
    }
    disk.write("script", &script, 0o644);
    Some(disk.finish())
}

/// The newest build of another test.
fn program(tier: &str) -> PathBuf {
    let this = std::env::current_exe().expect("our own path");
    let files = fs::read_dir(this.parent().expect("a directory")).expect("programs").flatten();
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.strip_prefix(tier).is_some_and(|rest| rest.starts_with('-') && !rest.contains('.'))
    };
    let time = |path: &PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
    let newest = files.map(|entry| entry.path()).filter(is_it).max_by_key(time);
    newest.unwrap_or_else(|| panic!("no program of tier {tier}"))
}
