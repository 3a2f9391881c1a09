//! The helper's own tiers on other kernels, in guests, and what came of it: docs/kernels.md; and
//! complete images there.
//!
//! `KERNELS_GUESTS` and `KERNELS_TIERS`, words with commas between them, run a part of it; the
//! guest `host` is this machine. `KERNELS_TABLE` is the file that the table is written to.

use nydus_e2e::guest::{Disk, run_in};
use nydus_e2e::kernels::{Results, table};
use nydus_e2e::machines::{QEMU, kernel};
use nydus_e2e::mount8::{Mount8, Version};
use nydus_e2e::not_run;
use nydus_e2e::programs::{BUILDS, libraries, mount_fuse3, ours, tool};
use nydus_e2e::run::{run, run_for};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Those of the helper, and seconds that they may take in a guest whose processor is emulated.
const TIERS: [(&str, u32); 13] = [
    ("plan", 300),
    ("idmap", 300),
    ("invocation", 300),
    ("errors", 600),
    ("reasons", 600),
    ("secrets", 200),
    ("layers", 600),
    ("read_only", 600),
    ("stack", 200),
    ("front", 300),
    ("privileges", 100),
    ("faults", 900),
    ("equivalence", 1200),
];

/// Those that run without `NYDUS_FULL` and `KERNELS_TABLE`: what differs from kernel to kernel is
/// seen by them. An emulated processor takes ten minutes for the others.
const ALWAYS: [&str; 3] = ["plan", "idmap", "front"];

/// Percent of the cases that equivalence compares elsewhere: over 1,000 of the helper alone.
const CASES: u32 = 13;

/// One of so many errors and tries of faults, all of which are made elsewhere.
const SHARE: u32 = 20;

/// Guests that run at the same time.
const AT_ONCE: usize = 2;

/// Seconds for a guest with all of them.
const LIMIT: i64 = 4000;

#[test]
fn the_helpers_tiers_in_guests() {
    let full = std::env::var_os("NYDUS_FULL").is_some();
    let guests = if full { "guest-5.10,guest-6.1,guest-6.12,guest-7" } else { "guest-6.1" };
    let guests = std::env::var("KERNELS_GUESTS").unwrap_or(guests.to_owned());
    let directory = tempfile::tempdir().expect("a directory");
    let Some(disk) = disk(directory.path()) else { return };
    let (queue, ran) = (Mutex::new(guests.split(',').enumerate()), Mutex::new(BTreeMap::new()));
    let next = || queue.lock().expect("no panic").next();
    let work = || {
        while let Some((number, guest)) = next() {
            if let Some(text) = in_guest(guest, &disk, "", &directory.path().join(guest)) {
                let results = Results::read(guest, &text, tiers().map(|(tier, _)| tier));
                ran.lock().expect("no panic").insert(number, results);
            }
        }
    };
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| _ = scope.spawn(work)));
    let ran: Vec<_> = ran.into_inner().expect("no panic").into_values().collect();
    if let Some(file) = std::env::var_os("KERNELS_TABLE") {
        fs::write(file, table(&ran)).expect("the table");
    }
    let failed: Vec<_> = ran.iter().flat_map(Results::failures).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

/// Each kernel serves a complete image in the way that it can; the image is made here.
#[test]
fn complete_images() {
    let directory = tempfile::tempdir().expect("a directory");
    let (prepared, here) = (directory.path().join("prepared"), Path::new("/prepared"));
    fs::create_dir(&prepared).expect("a directory");
    let mut prepare = Command::new(program("native"));
    prepare.args(["--exact", "guest::prepare", "--nocapture"]).env("NATIVE_PREPARE", &prepared);
    let ran = run(&mut prepare);
    assert!(ran.ok(), "{ran}");
    if !prepared.join("facts.json").exists() {
        return not_run!("no nydusd");
    }
    let Some(disk) = Disk::new(directory.path()) else { return not_run!("no busybox") };
    if !disk.programs(&[
        "sh", "cat", "cp", "sleep", "sync", "timeout", "umount", "mount", "losetup", "mke2fs",
    ]) {
        return not_run!("a program is missing");
    }
    disk.program_as(&program("native"), Path::new("/tests/native"));
    disk.tree(&prepared, here);
    let script = "export NATIVE_PREPARED=/prepared NATIVE_WAY=$(cat /proc/cmdline)
        NATIVE_WAY=${NATIVE_WAY##*native=}
        timeout 600 /tests/native --exact guest::prepared --nocapture
        echo \"== native ended: $?\"\n";
    disk.write("script", script, 0o644);
    let disk = disk.finish();
    let full = std::env::var_os("NYDUS_FULL").is_some();
    let table = [
        ("guest-6.1", "Loop", true),
        ("guest-6.12", "File", full),
        ("guest-7", "File", full),
        ("guest-5.10", "None", full),
    ];
    for (guest, way, _) in table.into_iter().filter(|(.., wanted)| *wanted) {
        let words = format!("native={way}");
        let Some(text) = in_guest(guest, &disk, &words, &directory.path().join(guest)) else {
            continue;
        };
        let results = Results::read(guest, &text, ["native"].into_iter());
        assert!(results.failures().is_empty(), "{guest}");
    }
}

/// SELinux is on, and a policy gets loaded.
#[test]
fn with_selinux() {
    let Some(compiler) = tool("checkpolicy/usr/bin/checkpolicy") else {
        return not_run!("no checkpolicy");
    };
    let directory = tempfile::tempdir().expect("a directory");
    let policy = directory.path().join("policy");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/policy.conf");
    let mut compile = Command::new(compiler);
    // Version 31 is Linux 4.13's; what the policy does not know is allowed.
    let ran = run(compile.args(["-M", "-U", "allow", "-c", "31", "-o"]).args([&policy, &source]));
    assert!(ran.ok(), "{ran}");
    let Some(disk) = with_programs(directory.path()) else { return };
    disk.program_as(&program("selinux"), Path::new("/tests/selinux"));
    disk.copy(&policy, Path::new("/policy"));
    disk.write("etc/selinux/config", "SELINUX=permissive\nSELINUXTYPE=any\n", 0o644);
    let script = "mount -n -t selinuxfs selinux /sys/fs/selinux
        export SELINUX_POLICY=/policy
timeout 300 /tests/selinux --nocapture
        ended=$?
        [ $ended = 0 ] || dd if=/dev/kmsg iflag=nonblock bs=8192 2>/dev/null | grep SELinux | tail -n 3
        echo \"== selinux ended: $ended\"\n";
    disk.write("script", &(environment() + script), 0o644);
    let (disk, place) = (disk.finish(), directory.path().join("guest"));
    let words = "security=selinux selinux=1 enforcing=0";
    let Some(text) = in_guest("guest-6.1", &disk, words, &place) else { return };
    let results = Results::read("guest-6.1", &text, ["selinux"].into_iter());
    assert!(results.failures().is_empty() && !text.contains("NOT RUN"), "{text}");
}

/// What the disk's script printed under this kernel; `None` if there is none, which is said.
fn in_guest(name: &str, disk: &Path, words: &str, place: &Path) -> Option<String> {
    let text = if name == "host" {
        here()
    } else if !Path::new(QEMU).exists() {
        not_run!("{name}: no qemu-system-x86_64");
        return None;
    } else if let Some(kernel) = kernel(name) {
        let (text, ran) = run_in(&kernel, disk, words, place, LIMIT);
        // A tier that did not end has failed: the table gets written all the same.
        text + &if ran.ok() { String::new() } else { format!("\n{name}: {ran}\n") }
    } else {
        not_run!("{name}: no kernel");
        return None;
    };
    // A guest is one test here.
    println!("{}", text.replace("test result:", "result:"));
    Some(text)
}

/// The same on this machine, in namespaces of its own.
fn here() -> String {
    let mut text =
        format!("kernel {}", fs::read_to_string("/proc/sys/kernel/osrelease").expect("it"));
    for (tier, limit) in tiers() {
        let mut command = Command::new(program(tier));
        command.arg("--nocapture").env("EQUIV_CASES", CASES.to_string());
        let ran = run_for(&mut command, limit.into());
        text += &String::from_utf8_lossy(&ran.stdout);
        text += &ran.said();
        text += &format!("\n== {tier} ended: {}\n", ran.code().unwrap_or(-1));
    }
    text
}

fn tiers() -> impl Iterator<Item = (&'static str, u32)> {
    let wanted = std::env::var("KERNELS_TIERS").ok();
    let is_wanted = move |tier: &str| {
        wanted.as_ref().is_none_or(|wanted| wanted.split(',').any(|name| name == tier))
    };
    let all = ["NYDUS_FULL", "KERNELS_TABLE", "KERNELS_TIERS"];
    let all = all.iter().any(|name| std::env::var_os(name).is_some());
    TIERS.into_iter().filter(move |(tier, _)| is_wanted(tier) && (all || ALWAYS.contains(tier)))
}

/// A disk with the tiers and all that they run.
fn disk(directory: &Path) -> Option<PathBuf> {
    let disk = with_programs(directory)?;
    let mut script = environment();
    for (tier, limit) in tiers() {
        disk.program_as(&program(tier), Path::new("/tests").join(tier).as_path());
        script += &format!("timeout {limit} /tests/{tier} --nocapture\n");
        script += &format!("echo \"== {tier} ended: $?\"\n");
    }
    disk.write("script", &script, 0o644);
    Some(disk.finish())
}

fn environment() -> String {
    let (dist, tools) = (ours(""), tool("").unwrap_or_default());
    let (dist, tools, libraries) = (dist.display(), tools.display(), libraries());
    format!(
        "ulimit -n 20000\n\
         export NYDUS_DIST={dist} NYDUS_TOOLS={tools}\n\
         export LD_LIBRARY_PATH={libraries} EQUIV_CASES={CASES} FAULTS_SHARE={SHARE}\n"
    )
}

/// A disk with what the tiers run.
fn with_programs(directory: &Path) -> Option<Disk> {
    let disk = Disk::new(directory)?;
    let names = [
        "sh", "cat", "sleep", "sync", "timeout", "umount", "unshare", "setpriv", "mknod", "chroot",
        "mkdir", "grep", "ls", "dd", "rm", "touch", "chmod", "mv", "ln", "cp", "head", "id",
        "true", "false", "strace", "env", "losetup", "stat", "mount", "tail",
    ];
    if !disk.programs(&names) {
        not_run!("one of {names:?} is missing");
        return None;
    }
    // Newer ones parse options in another way.
    let (Some(mount), Some(fuse3)) = (tool("mount-2.38/bin/mount"), mount_fuse3()) else {
        not_run!("no mount of util-linux 2.38, or no fuse3");
        return None;
    };
    disk.program_as(&mount, Path::new("/usr/bin/mount"));
    // Equivalence finds them where they are here.
    let yardsticks = Version::ALL.into_iter().filter_map(Mount8::find);
    yardsticks.flat_map(|mount| mount.files()).for_each(|file| disk.copy(&file, &file));
    BUILDS.into_iter().chain(["nydus-slice"]).for_each(|build| disk.program(&ours(build)));
    disk.program(&fuse3);
    for path in ["erofs-utils/usr/bin/mkfs.erofs", "fuse-overlayfs/usr/bin/fuse-overlayfs"] {
        if let Some(path) = tool(path) {
            disk.program(&path);
        }
    }
    for program in [env!("CARGO_BIN_EXE_tinyfs"), env!("CARGO_BIN_EXE_show")] {
        disk.program(Path::new(program));
    }
    Some(disk)
}

/// The program of another tier, which `cargo xtask test` has put into this directory; without it,
/// the newest build.
fn program(tier: &str) -> PathBuf {
    if let Some(directory) = std::env::var_os("NYDUS_TESTS") {
        let link = Path::new(&directory).join(tier);
        return link.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", link.display()));
    }
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
