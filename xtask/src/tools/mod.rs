//! `cargo xtask tools`: other people's programs, unpacked under target/tools, never installed.

mod nydusd;
mod parts;

use crate::apt::{self, Suite};
use crate::cmd::Cmd;
use crate::{debootstrap, paths, ui};
use anyhow::{Context, Result, anyhow, bail, ensure};
use nydusd::For;
use parts::{GUESTS, HOST_KEYRING, KEYRING, PARTS, PYTHON, Part};
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is fetched besides what every run needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Also {
    Nothing,
    /// More kernels for guests.
    Guests,
    /// The same, and a `nydusd` for the newest of them.
    All,
}

/// What could not be had, with the reason.
pub(crate) type Missing = Vec<(&'static str, String)>;

/// Fetches what is missing and builds `nydusd` meanwhile. Returns what could not be had.
pub(crate) fn run(also: Also) -> Result<Missing> {
    fs::create_dir_all(paths::tools())?;
    let _lock = lock()?;
    std::thread::scope(|scope| {
        let fetched = scope.spawn(|| fetch_all(also));
        let built = nydusd::install(For::Tests, &paths::tools().join("nydusd"));
        let missing = fetched.join().map_err(|_| anyhow!("fetching panicked"))??;
        built?;
        if also == Also::All {
            nydusd::patched()?;
        }
        Ok(missing)
    })
}

/// Fetches these parts and, if `nydusd` is wanted, builds it meanwhile.
pub(crate) fn some(names: &[&str], nydusd: bool) -> Result<()> {
    fs::create_dir_all(paths::tools())?;
    let _lock = lock()?;
    let fetch_some = || {
        let mut suites = Suites::default();
        let mut parts = PARTS.iter().filter(|part| names.contains(&part.name));
        parts.try_for_each(|part| fetch(part, &mut suites))
    };
    std::thread::scope(|scope| {
        let fetched = scope.spawn(fetch_some);
        if nydusd {
            nydusd::install(For::Tests, &paths::tools().join("nydusd"))?;
        }
        fetched.join().map_err(|_| anyhow!("fetching panicked"))?
    })
}

/// Installs what runs guests, which finds its firmware only where it is installed.
pub(crate) fn qemu() -> Result<()> {
    apt::need("qemu-system-x86_64", "qemu-system-x86")
}

fn fetch_all(also: Also) -> Result<Missing> {
    let mut missing = Missing::new();
    let mut note = |name: &'static str, done: Result<()>| {
        if let Err(error) = done {
            ui::not_run(name, &format!("{error:#}"));
            missing.push((name, format!("{error:#}")));
        }
    };
    let more = if also == Also::Nothing { &[] } else { GUESTS };
    let mut suites = Suites::default();
    for part in PARTS.iter().chain(more) {
        match fetch(part, &mut suites) {
            Err(error) if part.required => return Err(error),
            done => note(part.name, done),
        }
    }
    note(debootstrap::ROOT, debootstrap::run(&suites.keyring()));
    note("QEMU", qemu());
    Ok(missing)
}

/// Fetches what only `cargo xtask bench` needs. The directory that stands for target/tools there:
/// what is measured is not the tests' build.
pub(crate) fn for_bench() -> Result<PathBuf> {
    let _lock = lock()?;
    if let Err(error) = fetch(&PYTHON, &mut Suites::default()) {
        ui::not_run(PYTHON.name, &format!("{error:#}"));
    }
    let released = paths::tools().join("nydusd-released");
    nydusd::install(For::Figures, &released)?;
    let view = paths::target().join("bench/tools");
    let _ = fs::remove_dir_all(&view);
    fs::create_dir_all(&view)?;
    for part in fs::read_dir(paths::tools())?.flatten() {
        let from = if part.file_name() == "nydusd" { released.clone() } else { part.path() };
        symlink(from, view.join(part.file_name()))?;
    }
    Ok(view)
}

/// Whether a part is there.
pub(crate) fn has(name: &str) -> bool {
    PARTS.iter().chain(GUESTS).any(|part| part.name == name && fetched(part))
}

/// The variable with which unpacked programs find their libraries. `None` where the host has them:
/// with it, a program looks for each of its libraries there first, which takes time.
pub(crate) fn library_path() -> Option<(&'static str, PathBuf)> {
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let host = Path::new("/lib").join(&triple).join("libfuse3.so.3");
    let path = || ("LD_LIBRARY_PATH", paths::tools().join("fuse3/lib").join(triple));
    (!host.exists()).then(path)
}

fn fetch(part: &Part, suites: &mut Suites) -> Result<()> {
    if fetched(part) {
        return Ok(());
    }
    ui::step(&format!("fetch {}", part.name), || fetch_from_any(part, suites))
}

/// Suites of Debian by their names, each of which is opened once.
#[derive(Default)]
struct Suites(BTreeMap<&'static str, Suite>);

impl Suites {
    fn open(&mut self, name: &'static str) -> Result<&Suite> {
        // The host's keys vouch for the newest ones, which come from there.
        let from_host = KEYRING.suites.contains(&name);
        let keyring = if from_host { HOST_KEYRING.into() } else { self.keyring() };
        match self.0.entry(name) {
            Entry::Occupied(suite) => Ok(suite.into_mut()),
            Entry::Vacant(place) => {
                Ok(place.insert(Suite::open(name, &paths::tools().join(".apt"), &keyring)?))
            }
        }
    }

    /// The newest keys that the host's own keys vouch for.
    fn keyring(&mut self) -> PathBuf {
        let newer = paths::tools().join(KEYRING.name).join(HOST_KEYRING.trim_start_matches('/'));
        if !fetched(&KEYRING) && fetch_from_any(&KEYRING, self).is_err() {
            return HOST_KEYRING.into();
        }
        newer
    }
}

fn fetch_from_any(part: &Part, suites: &mut Suites) -> Result<()> {
    let mut reasons = Vec::new();
    for suite in part.suites {
        match suites.open(suite).and_then(|source| fetch_from(part, suite, source)) {
            Ok(()) => return Ok(()),
            Err(error) => reasons.push(format!("{error:#}")),
        }
    }
    bail!("{}", reasons.join("\n"))
}

fn fetch_from(part: &Part, suite: &str, source: &Suite) -> Result<()> {
    let (debs, tree) = (scratch(part, "debs")?, scratch(part, "tree")?);
    let packages = match part.with {
        "" => part.packages.iter().map(|name| (*name).to_owned()).collect(),
        prefix => source.with_dependencies(part.packages, prefix)?,
    };
    let packages: Vec<_> = packages.iter().map(String::as_str).collect();
    source.download(&packages, &debs)?;
    let mut unpacked = Vec::new();
    for deb in fs::read_dir(&debs)? {
        let deb = deb?.path();
        Cmd::new("dpkg-deb", 300, "dpkg-deb").arg("-x").args([&deb, &tree]).run()?;
        unpacked.push(deb.file_name().unwrap_or_default().to_string_lossy().into_owned());
    }
    ensure!(unpacked.len() == packages.len(), "apt-get brought {unpacked:?}");
    fs::write(tree.join(".stamp"), format!("{}\n{suite}: {unpacked:?}\n", spec(part)))?;
    let place = paths::tools().join(part.name);
    let _ = fs::remove_dir_all(&place);
    fs::rename(&tree, &place).with_context(|| format!("cannot fill {}", place.display()))?;
    fs::remove_dir_all(&debs).context("cannot clean up")
}

/// A new, empty directory beside the final place.
fn scratch(part: &Part, what: &str) -> Result<PathBuf> {
    let dir = paths::tools().join(".apt").join(format!("{}-{what}", part.name));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

fn fetched(part: &Part) -> bool {
    let stamp = fs::read_to_string(paths::tools().join(part.name).join(".stamp"));
    stamp.is_ok_and(|text| text.lines().next() == Some(&spec(part)))
}

fn spec(part: &Part) -> String {
    part.packages.join(" ")
}

/// One run at a time; two would remove each other's folders.
fn lock() -> Result<File> {
    let file = File::create(paths::tools().join(".lock"))?;
    let start = Instant::now();
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        ensure!(
            start.elapsed() < Duration::from_secs(900),
            "another run holds the lock for 15 min"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(file)
}
