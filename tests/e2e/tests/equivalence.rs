//! The helper against `mount(8)`: for generated option sets, both do the same.
//!
//! `EQUIV_SEED` and `EQUIV_CASES` (percent) set what runs, `EQUIV_ONLY=NUMBER` replays one case,
//! `EQUIV_HELPER` names another program to compare.

use nydus_e2e::generate::{DELIBERATE, Rng, SECRET, Words, is_carried, join, show, words};
use nydus_e2e::observe::{Observation, observe, private_namespace};
use nydus_e2e::programs;
use overlay_mount::{Lsm, MOUNT_DATA_MAX, Options};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

#[test]
fn direct() {
    let helper = helper();
    run("direct", 8_000, &|words, base| {
        let mut command = Command::new(&helper);
        command.arg("overlay").arg(base.join("m")).arg("-o").arg(OsStr::from_bytes(&join(words)));
        (command, join(words))
    });
}

#[test]
fn through_mount_fuse() {
    let Some(fuse3) = programs::tool("fuse3") else {
        println!("NOT RUN: no fuse3");
        return;
    };
    let bin = tempfile::tempdir().expect("a directory for PATH");
    symlink(helper(), bin.path().join("nydus-overlayfs")).expect("a link to the helper");
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.path().display());
    run("mount.fuse3", 2_000, &|words, base| {
        let mut command = Command::new(fuse3.join("sbin/mount.fuse3"));
        command.env("PATH", &path).arg("overlay").arg(base.join("m"));
        for word in words {
            command.arg("-o").arg(OsStr::from_bytes(word));
        }
        command.args(["-t", "nydus-overlayfs"]);
        (command, as_mount_fuse_hands_on(&join(words)))
    });
}

fn helper() -> PathBuf {
    let other = std::env::var_os("EQUIV_HELPER").map(PathBuf::from);
    other.unwrap_or_else(|| programs::ours("nydus-overlayfs"))
}

/// A command for some words, and the option string that the helper gets from it.
type Caller<'c> = &'c (dyn Fn(&Words, &Path) -> (Command, Vec<u8>) + Sync);

/// mount.fuse3 3.14: drops some words, adds `dev` and `suid`.
fn as_mount_fuse_hands_on(string: &[u8]) -> Vec<u8> {
    const DROPPED: [&[u8]; 7] =
        [b"user", b"nofail", b"nouser", b"users", b"auto", b"noauto", b"_netdev"];
    let pieces = string.split(|byte| *byte == b',').filter(|piece| !piece.is_empty());
    let mut kept: Words =
        pieces.filter(|piece| !DROPPED.contains(piece)).map(<[u8]>::to_vec).collect();
    for (word, unless) in [("dev", "nodev"), ("suid", "nosuid")] {
        if !kept.iter().any(|piece| piece == unless.as_bytes()) {
            kept.push(word.into());
        }
    }
    join(&kept)
}

fn run(name: &str, cases: usize, caller: Caller<'_>) {
    let seed = number("EQUIV_SEED").unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
    });
    let cases = cases * number("EQUIV_CASES").unwrap_or(100) as usize / 100;
    println!("equivalence {name}: EQUIV_SEED={seed}, {cases} cases");
    let next = AtomicUsize::new(0);
    let (mounted, differences) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || {
        private_namespace().expect("a mount namespace");
        let base = tempfile::tempdir().expect("a directory to mount on");
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= cases {
                break;
            }
            if number("EQUIV_ONLY").is_some_and(|only| only != index as u64) {
                continue;
            }
            let set = words(&mut Rng::new(seed, index as u64), &base.path().to_string_lossy());
            match difference(&set, base.path(), caller) {
                Ok(is_mounted) => mounted.fetch_add(usize::from(is_mounted), Ordering::Relaxed),
                Err(_) => {
                    let (set, why) = shrunk(set, base.path(), caller);
                    let text = format!("case {index}: -o '{}'\n{why}", show(&set));
                    differences.lock().expect("no panic in a worker").push(text);
                    0
                }
            };
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(worker);
        }
    });
    let differences = differences.into_inner().expect("no panic in a worker");
    println!(
        "equivalence {name}: {cases} cases, {} mounted, {} differ",
        mounted.load(Ordering::Relaxed),
        differences.len()
    );
    let shown: Vec<_> = differences.iter().take(10).map(String::as_str).collect();
    assert!(
        differences.is_empty(),
        "replay with EQUIV_SEED={seed} EQUIV_ONLY=CASE:\n{}",
        shown.join("\n")
    );
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// Leaves out words as long as the difference stays.
fn shrunk(mut set: Words, base: &Path, caller: Caller<'_>) -> (Words, String) {
    let mut why = difference(&set, base, caller).err().unwrap_or_else(|| "flaky".to_owned());
    let mut at = 0;
    while at < set.len() {
        let mut fewer = set.clone();
        fewer.remove(at);
        match difference(&fewer, base, caller) {
            Err(still) if !fewer.is_empty() => (set, why) = (fewer, still),
            _ => at += 1,
        }
    }
    (set, why)
}

/// Runs both; whether they mounted, or how they differ.
fn difference(set: &Words, base: &Path, caller: Caller<'_>) -> Result<bool, String> {
    let (mut command, string) = caller(set, base);
    let (ours, output) = look(base, &mut command);
    let shown = [&output.stdout[..], &output.stderr].concat();
    if shown.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()) {
        return Err("the carried value is in the output".to_owned());
    }
    let theirs = match yardstick(&string, base) {
        Yardstick::Refused => look(base, &mut Command::new("/bin/false")).0,
        Yardstick::Mount(string) => look(base, &mut mount8(base, &string)).0,
    };
    let (ours, theirs) = (normal(ours, base), normal(theirs, base));
    if ours == theirs {
        return Ok(ours.mounted);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{}  it says: {said}", ours.differences(&theirs)))
}

fn look(base: &Path, command: &mut Command) -> (Observation, Output) {
    observe(base, command).expect("a tree to mount in")
}

fn mount8(base: &Path, string: &[u8]) -> Command {
    let mut command = Command::new("mount");
    // From util-linux 2.39 on only this makes it use mount(2), the yardstick.
    command.env("LIBMOUNT_FORCE_MOUNT2", "always");
    command.args(["-i", "-t", "overlay", "overlay"]).arg(base.join("m"));
    command.arg("-o").arg(OsStr::from_bytes(string));
    command
}

enum Yardstick {
    /// Nothing is mounted.
    Refused,
    /// What `mount(8)` mounts with these options.
    Mount(Vec<u8>),
}

/// What `mount(8)` has to be asked for: without carried options, and with the words that are
/// treated otherwise on purpose (the table DIFFERENCES) taken as they are meant here.
fn yardstick(string: &[u8], base: &Path) -> Yardstick {
    let all: Words = overlay_mount::words::words(string).map(<[u8]>::to_vec).collect();
    let key = |word: &[u8]| word.split(|byte| *byte == b'=').next().unwrap_or_default().to_vec();
    let refused = |word: &Vec<u8>| {
        let bare = matches!(
            word.strip_suffix(b"=").unwrap_or(word),
            b"bind" | b"rbind" | b"move" | b"remount"
        );
        bare || word.starts_with(b"X-containerd.") || key(word) == b"X-mount.idmap"
    };
    if all.iter().any(refused) {
        return Yardstick::Refused;
    }
    let ignored =
        |word: &[u8]| is_carried(word) || key(word) == b"nofail" || word.starts_with(b"X-mount.");
    // An option string must not begin with a word that has no name, also if one stood before it.
    let starts: &[u8] = if all.first().is_some_and(|word| ignored(word)) { b"," } else { b"" };
    let kept: Words = all.into_iter().filter(|word| !ignored(word)).collect();
    let kept = [starts, &join(&kept)].concat();
    let length = Options::read([kept.as_slice()].into_iter(), Lsm::default);
    // Longer than mount(2) takes: the same from the working directory, with short names.
    if length.is_ok_and(|options| options.data_len > MOUNT_DATA_MAX) {
        return Yardstick::Mount(without_base(&kept, base));
    }
    Yardstick::Mount(kept)
}

fn without_base(string: &[u8], base: &Path) -> Vec<u8> {
    let mut text = string.to_vec();
    for prefix in [format!("{}//./", base.display()), format!("{}/", base.display())] {
        while let Some(at) = text.windows(prefix.len()).position(|w| w == prefix.as_bytes()) {
            text.drain(at..at + prefix.len());
        }
    }
    text
}

/// Layers in the one form that both ways of mounting have in common.
fn normal(mut seen: Observation, base: &Path) -> Observation {
    for line in &mut seen.mounts {
        let Some((head, options)) = line.rsplit_once(" - ") else { continue };
        let options = String::from_utf8_lossy(&without_base(options.as_bytes(), base)).into_owned();
        let options = options.replacen("lowerdir+=", "lowerdir=", 1);
        *line =
            format!("{head} - {}", options.replace(",lowerdir+=", ":").replace(",datadir+=", "::"));
    }
    seen
}

#[test]
fn every_deliberate_word_stands_in_the_table() {
    for word in DELIBERATE {
        let known = |row: &overlay_mount::table::Difference| {
            row.word.split(", ").any(|name| word.starts_with(name.trim_end_matches(['*', '='])))
        };
        assert!(overlay_mount::table::DIFFERENCES.iter().any(known), "{word}");
    }
}
