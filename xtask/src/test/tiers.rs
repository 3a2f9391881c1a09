//! The tiers of `cargo xtask test`.

use crate::paths;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// When a tier runs without being named.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// In `cargo xtask test`, which is what CI runs.
    Always,
    /// With `--full` only.
    Full,
    /// Only by name: another tier has its tests already.
    Named,
}

/// How a tier runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// All that is not in tests/e2e, and the examples in documentation.
    Unit,
    /// The test of this name in this package.
    Of(&'static str),
    /// `tests/e2e/tests/NAME.rs`, or `NAME/main.rs`, of the helper alone.
    Helper,
    /// The same, of the other programs too.
    Programs,
    /// Every target of fuzz/, guided by coverage.
    Fuzz,
}

impl How {
    pub(crate) fn is_end_to_end(self) -> bool {
        matches!(self, Self::Helper | Self::Programs)
    }
}

/// What a tier spends its time with: one that computes and two that wait run at a time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Computes,
    /// For daemons, registries and time limits.
    Waits,
}

/// A named part of the tests.
#[derive(Clone)]
pub(crate) struct Tier {
    pub(crate) name: String,
    pub(crate) what: &'static str,
    pub(crate) when: When,
    pub(crate) how: How,
    pub(crate) lane: Lane,
    /// In seconds; the tier is killed and has failed when they are over.
    pub(crate) limit: u64,
}

use How::{Fuzz, Helper, Of, Programs, Unit};
use Lane::{Computes, Waits};
use When::{Always, Full, Named};

type Row = (&'static str, &'static str, When, How, Lane, u64);

/// What is in tests/e2e/tests without a row here is a tier all the same, with the defaults below.
const TABLE: &[Row] = &[
    ("unit", "libraries and programs, without root", Always, Unit, Computes, 600),
    ("man", "man pages against tables and --help", Named, Of("man"), Computes, 300),
    ("equivalence", "helper against mount(8), generated", Always, Helper, Computes, 1800),
    ("invocation", "every way to call the helper", Always, Helper, Computes, 300),
    ("plan", "which method is used, and its calls", Always, Helper, Computes, 300),
    ("errors", "every mistake names its culprit", Always, Helper, Computes, 300),
    ("reasons", "a reason is this mount's own", Always, Helper, Computes, 600),
    ("exits", "each exit code; output unread", Always, Helper, Computes, 300),
    ("secrets", "carried values are shown nowhere", Always, Helper, Computes, 300),
    ("layers", "1 to 501 layers, nasty paths", Always, Helper, Computes, 600),
    ("read_only", "a second mount, to look only", Always, Helper, Computes, 300),
    ("stack", "through the real mount.fuse3", Always, Helper, Computes, 300),
    ("front", "the helper as mount.fuse", Always, Helper, Computes, 300),
    ("idmap", "layers with mapped owners", Always, Helper, Computes, 300),
    ("privileges", "root, user namespaces, setuid", Always, Helper, Computes, 300),
    ("conformance", "containerd's own suite, in Go", Always, Programs, Waits, 600),
    ("containers", "containerd, runc, nydusd, registry", Always, Programs, Waits, 600),
    ("looks", "second mounts of what runs", Always, Programs, Waits, 600),
    ("quickstart", "README's quick start, as written", Always, Programs, Waits, 300),
    ("images", "images by real nydusd, without containerd", Always, Programs, Waits, 600),
    ("image_faults", "what can go wrong with them", Always, Programs, Waits, 600),
    ("handoff", "from the slice to a guest's share", Always, Programs, Waits, 600),
    ("faults", "calls fail, kills, swapped targets", Always, Helper, Waits, 900),
    ("hostile", "guests that do what they can, at random", Always, Programs, Computes, 1800),
    ("guest", "a guest's kernel, through containerd too", Always, Programs, Computes, 900),
    ("kernels", "the helper's tiers on other kernels", Always, Helper, Computes, 24_000),
    ("selinux", "options of SELinux, where it is on", Named, Helper, Computes, 300),
    ("failover", "a nydusd dies under a reader", Always, Programs, Waits, 300),
    ("native", "the kernel's mount of an image", Always, Programs, Waits, 600),
    ("warm", "images that the kernel serves, lived", Always, Programs, Waits, 600),
    ("takeover", "from the Go snapshotter and back", Always, Programs, Waits, 600),
    ("package", "the .deb and the tarball in a clean Debian", Always, Programs, Waits, 300),
    ("kit", "the parts that tests are made of", Always, Programs, Waits, 300),
    ("fuzz", "coverage-guided fuzzing (nightly)", Full, Fuzz, Computes, 14_400),
];
const END_TO_END: Row = ("", "end to end", Always, Programs, Waits, 600);

/// All that exist in this checkout.
pub(crate) fn all() -> Result<Vec<Tier>> {
    let files = end_to_end_files()?;
    let in_table = TABLE.iter().filter(|row| !row.3.is_end_to_end() || has(&files, row.0));
    let mut tiers: Vec<_> = in_table.map(|row| tier(row.0, row)).collect();
    let new = files.iter().filter(|file| !TABLE.iter().any(|row| row.0 == **file));
    tiers.extend(new.map(|file| tier(file, &END_TO_END)));
    Ok(tiers)
}

/// The tiers with these names (`helper`: all end-to-end ones but `equivalence`), or those that
/// run without being named.
pub(crate) fn select(names: &[String], full: bool) -> Result<Vec<Tier>> {
    let all = all()?;
    if let Some(name) = names.iter().find(|name| !all.iter().any(|tier| is_named(tier, name))) {
        let known: Vec<_> = all.iter().map(|tier| tier.name.as_str()).collect();
        bail!("no tier {name:?}; expected one of helper, {}", known.join(", "));
    }
    let by_default = |tier: &Tier| match tier.when {
        When::Always => true,
        When::Full => full,
        When::Named => false,
    };
    let wanted = |tier: &Tier| match names {
        [] => by_default(tier),
        names => names.iter().any(|name| is_named(tier, name)),
    };
    Ok(all.into_iter().filter(wanted).collect())
}

fn is_named(tier: &Tier, name: &str) -> bool {
    let helper = tier.how.is_end_to_end() && tier.name != "equivalence";
    tier.name == name || (name == "helper" && helper)
}

fn tier(name: &str, &(_, what, when, how, lane, limit): &Row) -> Tier {
    Tier { name: name.to_owned(), what, when, how, lane, limit }
}

fn has(files: &[String], name: &str) -> bool {
    files.iter().any(|file| file == name)
}

fn end_to_end_files() -> Result<Vec<String>> {
    test_files(&paths::root().join("tests/e2e"))
}

/// The integration tests of all other packages.
pub(crate) fn unit_files() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for package in fs::read_dir(paths::root().join("crates"))?.flatten() {
        names.extend(test_files(&package.path())?);
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// The integration tests of the package in `dir`.
fn test_files(dir: &Path) -> Result<Vec<String>> {
    let dir = dir.join("tests");
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let is_rust = path.extension().is_some_and(|extension| extension == "rs");
        if is_rust || path.join("main.rs").exists() {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = TABLE.iter().map(|row| row.0).collect();
        assert_eq!(names.len(), TABLE.len());
    }

    #[test]
    fn unknown_name_is_refused_with_the_known_ones() {
        let error = select(&["unti".to_owned()], false).err().map(|error| error.to_string());
        assert!(error.is_some_and(|text| text.contains("\"unti\"") && text.contains("unit")));
    }

    #[test]
    fn full_adds_tiers() -> Result<()> {
        let (short, full) = (select(&[], false)?, select(&[], true)?);
        assert!(short.len() < full.len());
        assert!(!short.iter().any(|tier| tier.name == "fuzz"));
        Ok(())
    }
}
