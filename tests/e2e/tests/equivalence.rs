//! The helper against two versions of `mount(8)`: for generated option sets, both do the same.
//!
//! `EQUIV_SEED` and `EQUIV_CASES` (percent of the usual number) set what runs, `EQUIV_ONLY=NUMBER`
//! replays one case, `EQUIV_HELPER` names another program to compare.

use nydus_e2e::differences::{quoted, rows};
use nydus_e2e::generate::{Case, Words, case, join};
use nydus_e2e::mount8::{Mount8, Version};
use nydus_e2e::observe::{Observation, Scene, observe};
use nydus_e2e::run::Ran;
use nydus_e2e::stage::Stage;
use nydus_e2e::vocabulary::{COMMON, DELIBERATE, SECRET};
use nydus_e2e::yardstick::{Yardstick, through_mount_fuse, yardstick};
use nydus_e2e::{linux, not_run, programs};
use overlay_mount::table::{Effect, TABLE};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

#[test]
fn direct() {
    let helper = helper();
    run("direct", 8_000, &|words, target| {
        let mut command = Command::new(&helper);
        command.arg("overlay").arg(target).arg("-o").arg(OsStr::from_bytes(&join(words)));
        (command, join(words))
    });
}

#[test]
fn through_the_real_mount_fuse() {
    let Some(mount_fuse3) = programs::mount_fuse3() else { return not_run!("no fuse3") };
    let bin = tempfile::tempdir().expect("a directory for PATH");
    symlink(helper(), bin.path().join("nydus-overlayfs")).expect("a link to the helper");
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.path().display());
    run("mount.fuse3", 2_000, &|words, target| {
        let mut command = Command::new(&mount_fuse3);
        command.env("PATH", &path).arg("overlay").arg(target);
        for word in words {
            command.arg("-o").arg(OsStr::from_bytes(word));
        }
        command.args(["-t", "nydus-overlayfs"]);
        (command, through_mount_fuse(&join(words)))
    });
}

#[test]
fn as_mount_fuse() {
    let bin = tempfile::tempdir().expect("a directory");
    let front = bin.path().join("mount.fuse");
    symlink(helper(), &front).expect("a link to the helper");
    run("as mount.fuse", 2_000, &|words, target| {
        let mut command = Command::new(&front);
        command.arg("overlay").arg(target);
        for word in words {
            command.arg("-o").arg(OsStr::from_bytes(word));
        }
        command.args(["-t", "nydus-overlayfs"]);
        (command, through_mount_fuse(&join(words)))
    });
}

/// Words that the generator never asks for would be compared by nobody.
#[test]
fn every_word_of_the_table_is_generated() {
    for entry in TABLE {
        let known = match entry.effect {
            // Those of ids have a tier of their own.
            Effect::Carried | Effect::IdMap => true,
            Effect::Refuse(_) => DELIBERATE.iter().any(|word| word.starts_with(entry.name)),
            _ if matches!(entry.name, "nofail" | "x-" | "X-") => true,
            _ => COMMON.contains(&entry.name),
        };
        assert!(known, "{}", entry.name);
    }
}

#[test]
fn every_deliberate_option_has_a_row_in_the_table() {
    let rows = rows("## From `mount -t overlay`");
    for word in DELIBERATE {
        let mut options = rows.iter().flat_map(|row| quoted(&row[0]));
        let is_it = |option: &str| word.starts_with(option.trim_end_matches('*'));
        assert!(options.any(is_it), "{word}");
    }
}

fn helper() -> PathBuf {
    let other = std::env::var_os("EQUIV_HELPER").map(PathBuf::from);
    other.unwrap_or_else(|| programs::ours("nydus-overlayfs"))
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// A command for words and target, and the option string that the helper gets from it.
type Caller<'c> = &'c (dyn Fn(&Words, &Path) -> (Command, Vec<u8>) + Sync);

/// Compares many cases on all processors.
fn run(name: &str, cases: usize, caller: Caller<'_>) {
    // CI compares the same cases each time; the full tier looks for new ones, ten times as many.
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let (usual_seed, percent) = match std::env::var_os("NYDUS_FULL") {
        Some(_) => (now(), 1_000),
        None => (1, 100),
    };
    let seed = number("EQUIV_SEED").unwrap_or(usual_seed);
    let cases = cases * number("EQUIV_CASES").unwrap_or(percent) as usize / 100;
    let only = number("EQUIV_ONLY").map(|only| only as usize);
    let mounts = yardsticks();
    println!("equivalence {name}: EQUIV_SEED={seed}, {cases} cases");
    let next = AtomicUsize::new(only.unwrap_or(0));
    let end = only.map_or(cases, |only| only + 1);
    let tallies: Vec<_> = mounts.iter().map(|_| Tally::default()).collect();
    let different = Mutex::new(BTreeMap::new());
    let worker = || {
        let stage = Stage::new();
        let base = stage.path().to_str().expect("a temporary directory");
        while let Some(index) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < end) {
            let case = case(seed, index as u64, base);
            // Each version has cases of its own: thus a second one takes no more time.
            let (mount, tally) = (&mounts[index % mounts.len()], &tallies[index % mounts.len()]);
            let comparison = Comparison { base: stage.path(), caller, mount };
            let outcome = comparison.outcome(&case);
            tally.count(&outcome);
            if let Outcome::Different(why) = outcome {
                let report = comparison.report(case, why);
                different.lock().expect("no panic in a worker").insert(index, report);
            }
        }
    };
    std::thread::scope(|scope| {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        (0..processors).for_each(|_| _ = scope.spawn(worker));
    });
    let different = different.into_inner().expect("no panic in a worker");
    for ((_, mount), tally) in mounts.iter().zip(&tallies) {
        let [mounted, alike, differ, unsayable] =
            [&tally.mounted, &tally.alike, &tally.different, &tally.unsayable].map(of);
        let compared = mounted + alike + differ;
        println!(
            "equivalence {name}, mount {}: {compared} cases, {mounted} mounted, {differ} differ; \
             {unsayable} cannot be compared",
            mount.full_version()
        );
        let is_rich = compared > unsayable && mounted * 5 > compared;
        assert!(only.is_some() || is_rich, "most cases fail everywhere: nothing is shown");
    }
    let shown = different.iter().take(10);
    let shown: String = shown.map(|(at, why)| format!("EQUIV_ONLY={at} {why}\n")).collect();
    assert!(different.is_empty(), "replay with EQUIV_SEED={seed}:\n{shown}");
}

/// Those that are here and whose system calls the kernel's overlay takes.
fn yardsticks() -> Vec<(Version, Mount8)> {
    let versions = Version::ALL.into_iter();
    let found = versions.filter_map(|version| Some((version, Mount8::find(version)?)));
    // Before, fsconfig(2) takes no commas, and none of the options that add a layer.
    let found: Vec<_> =
        found.filter(|(version, _)| *version == Version::V2_38 || linux(6, 7)).collect();
    if linux(6, 7) && found.len() < Version::ALL.len() {
        not_run!("no mount of util-linux 2.41");
    }
    found
}

/// What came of a case.
enum Outcome {
    Mounted,
    /// Nothing is mounted.
    Alike,
    Different(String),
    /// This `mount(8)` cannot be asked for it.
    Unsayable,
}

#[derive(Default)]
struct Tally {
    mounted: AtomicUsize,
    alike: AtomicUsize,
    different: AtomicUsize,
    unsayable: AtomicUsize,
}

impl Tally {
    fn count(&self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Mounted => &self.mounted,
            Outcome::Alike => &self.alike,
            Outcome::Different(_) => &self.different,
            Outcome::Unsayable => &self.unsayable,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn of(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::Relaxed)
}

struct Comparison<'c> {
    base: &'c Path,
    caller: Caller<'c>,
    mount: &'c (Version, Mount8),
}

impl Comparison<'_> {
    /// Runs both and compares what they did.
    fn outcome(&self, case: &Case) -> Outcome {
        let (version, mount) = self.mount;
        let target = if case.absolute { self.base.join(case.target) } else { case.target.into() };
        let (mut command, string) = (self.caller)(&case.words, &target);
        let yardstick = match yardstick(&string, self.base, *version) {
            Yardstick::Unsayable => return Outcome::Unsayable,
            _ if leaves_files(case.target, *version) => Yardstick::Refused,
            yardstick => yardstick,
        };
        let (ours, ran) = self.look(case, false, &mut command);
        if let Err(why) = check_output(&ran) {
            return Outcome::Different(why);
        }
        let look = |mut command| self.look(case, true, &mut command).0;
        let (ours, theirs) = match yardstick {
            Yardstick::Same(string) => (ours, look(mount.overlay(&target, &string))),
            Yardstick::OtherForm(string) => {
                let theirs = look(mount.overlay(&target, &string));
                (ours.without_form(), theirs.without_form())
            }
            Yardstick::Refused | Yardstick::Unsayable => (ours, look(Command::new("/bin/false"))),
        };
        match ours == theirs {
            true if ours.mounted => Outcome::Mounted,
            true => Outcome::Alike,
            false => Outcome::Different(format!("{}{ran}", ours.differences(&theirs))),
        }
    }

    fn look(&self, case: &Case, plain: bool, command: &mut Command) -> (Observation, Ran) {
        let scene = Scene { base: self.base, shared: case.shared, plain };
        observe(scene, command).expect("a tree to mount in")
    }

    /// Leaves out words as long as there is a difference; then says how to see it by hand.
    fn report(&self, mut case: Case, mut why: String) -> String {
        let mut at = 0;
        while at < case.words.len() && case.words.len() > 1 {
            let mut fewer = case.clone();
            fewer.words.remove(at);
            match self.outcome(&fewer) {
                Outcome::Different(still) => (case, why) = (fewer, still),
                _ => at += 1,
            }
        }
        let words = join(&case.words);
        let shared = if case.shared { ", in a shared mount" } else { "" };
        let version = self.mount.0;
        format!(
            "on {}{shared}, mount(8) {version:?}: -o $'{}'\n{why}",
            case.target,
            words.escape_ascii()
        )
    }
}

/// Where `mount(8)` fails too, but leaves files in the work directory: 2.41 opens the target last.
fn leaves_files(target: &str, version: Version) -> bool {
    target == "file" || target == "gone" && version == Version::V2_41
}

/// Nothing when mounted, one printable line when not, and a carried value never.
fn check_output(ran: &Ran) -> Result<(), String> {
    if ran.shows(SECRET.as_bytes()) {
        return Err(format!("the carried value is shown\n{ran}"));
    }
    if std::env::var_os("EQUIV_HELPER").is_some() {
        return Ok(());
    }
    let said = ran.said();
    let line = said.strip_prefix("nydus-overlayfs: ").and_then(|said| said.strip_suffix('\n'));
    let is_line = line.is_some_and(|line| line.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    let codes: &[i32] = if said.is_empty() { &[0] } else { &[1, 2, 32] };
    let good = ran.stdout.is_empty() && (said.is_empty() || is_line);
    match good && ran.code().is_some_and(|code| codes.contains(&code)) {
        true => Ok(()),
        false => Err(format!("not one line and a code of mount(8)\n{ran}")),
    }
}
