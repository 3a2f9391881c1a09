//! `cargo xtask dist`: the release binaries and their packages, in target/dist. Tests make do with
//! less: see [`for_tests`].

use crate::cmd::{self, Cmd};
use crate::{package, paths, ui};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// One release binary.
struct Binary {
    /// Its name in target/dist.
    name: &'static str,
    package: &'static str,
    /// The binary's name in that package.
    bin: &'static str,
    args: &'static [&'static str],
    profile: &'static str,
    /// Built in a target directory of its own, linked statically.
    apart: bool,
}

/// The helper starts without libc where that is written: on x86-64.
const START: &[&str] =
    if cfg!(target_arch = "x86_64") { &["--features", "freestanding"] } else { &[] };

// Each is a build of its own: built together, the features would be united.
const BINARIES: &[Binary] = &[
    Binary {
        name: "nydus-overlayfs",
        package: "nydus-overlayfs",
        bin: "nydus-overlayfs",
        args: START,
        profile: "release",
        apart: false,
    },
    Binary {
        name: "nydus-overlayfs-std",
        package: "nydus-overlayfs",
        bin: "nydus-overlayfs",
        args: &[],
        profile: "release",
        apart: true,
    },
    Binary {
        name: "nydus-slice",
        package: "nydus-slice",
        bin: "nydus-slice",
        args: &[],
        profile: "release",
        apart: true,
    },
    Binary {
        name: "containerd-nydus-grpc",
        package: "nydus-snapshotter",
        bin: "containerd-nydus-grpc",
        args: &[],
        profile: "service",
        apart: true,
    },
    // A reference, not a product: as the tests build it.
    Binary {
        name: "containerd-shim-nydusvm-v2",
        package: "vm-shim",
        bin: "containerd-shim-nydusvm-v2",
        args: &[],
        profile: "dev",
        apart: false,
    },
    Binary {
        name: "nydusvm-agent",
        package: "vm-shim",
        bin: "nydusvm-agent",
        args: &["--no-default-features"],
        profile: "release",
        apart: true,
    },
];

const START_AND_PANIC: &[&str] =
    if cfg!(target_arch = "x86_64") { &["--features", "freestanding,panic"] } else { PANIC };
const PANIC: &[&str] = &["--features", "panic"];

/// The helper with a panic put in, to show how that ends.
const PANICS: &[Binary] = &[
    Binary {
        name: "nydus-overlayfs-panic",
        package: "nydus-overlayfs",
        bin: "nydus-overlayfs",
        args: START_AND_PANIC,
        profile: "release",
        apart: false,
    },
    Binary {
        name: "nydus-overlayfs-std-panic",
        package: "nydus-overlayfs",
        bin: "nydus-overlayfs",
        args: PANIC,
        profile: "release",
        apart: true,
    },
];

/// Builds all of them, then packs those that people get.
pub(crate) fn run() -> Result<()> {
    fs::create_dir_all(paths::dist())?;
    BINARIES.iter().try_for_each(|binary| build(binary, &paths::dist()))?;
    package::run(&paths::dist())
}

/// The helper.
pub(crate) const HELPER: &str = "nydus-overlayfs";
/// Both builds of it.
pub(crate) const HELPERS: [&str; 2] = [HELPER, "nydus-overlayfs-std"];
/// Both with a panic put in.
pub(crate) const PANICKING: [&str; 2] = ["nydus-overlayfs-panic", "nydus-overlayfs-std-panic"];

/// Builds these as they are released into `dist`.
pub(crate) fn some(names: &[&str], dist: &Path) -> Result<()> {
    fs::create_dir_all(dist)?;
    let all = BINARIES.iter().chain(PANICS);
    { all }.filter(|one| names.contains(&one.name)).try_for_each(|one| build(one, dist))
}

/// Puts programs that cargo has built with the tests into `dist`, beside the helper. Those that are
/// released are optimized as a whole, which takes a quarter of an hour and changes nothing that a
/// test sees.
pub(crate) fn for_tests<'a>(
    programs: impl IntoIterator<Item = (&'a str, &'a Path)>,
    dist: &Path,
) -> Result<()> {
    for (name, program) in programs {
        let stripped = dist.join(format!("{name}.stripped"));
        let mut strip = Cmd::new("strip", 60, "strip");
        strip.arg("-o").arg(&stripped).arg(program).run()?;
        fs::rename(&stripped, dist.join(name)).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}

fn build(binary: &Binary, dist: &Path) -> Result<()> {
    ui::step(&format!("build {}", binary.name), || {
        let mut cargo = Cmd::new(&format!("build-{}", binary.name), 1200, cmd::cargo());
        cargo.args(["build", "--locked", "--profile", binary.profile, "--package", binary.package]);
        cargo.args(["--bin", binary.bin]).args(binary.args).env("NYDUS_COMMIT", commit());
        cargo.env("SOURCE_DATE_EPOCH", time().to_string());
        let mut target_dir = cargo_target()?;
        if binary.apart {
            let host = host()?;
            target_dir = target_dir.join("std");
            // With the target named, the flags are not used for build scripts and macros.
            cargo.args(["--target", &host]).env("CARGO_ENCODED_RUSTFLAGS", flags());
            cargo.arg("--target-dir").arg(&target_dir);
            target_dir.push(host);
        }
        cargo.run()?;
        let directory = if binary.profile == "dev" { "debug" } else { binary.profile };
        install(&target_dir.join(directory).join(binary.bin), &dist.join(binary.name))
    })
}

/// Copies beside and renames: a program that runs meanwhile keeps its file.
fn install(from: &Path, to: &Path) -> Result<()> {
    let beside = to.with_extension("new");
    fs::copy(from, &beside).with_context(|| format!("cannot copy {}", from.display()))?;
    fs::rename(&beside, to).with_context(|| format!("cannot write {}", to.display()))
}

/// Where cargo builds.
pub(crate) fn cargo_target() -> Result<PathBuf> {
    let set = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    Ok(paths::root().join(set.unwrap_or_else(paths::target)))
}

/// For programs that need no shared library.
pub(crate) const STATIC: &str = "-Ctarget-feature=+crt-static";

/// For static programs that do not name the directories in which they were built.
fn flags() -> String {
    let mut flags = vec![STATIC.to_owned()];
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    flags.extend(paths::cargo_home().map(|home| remap(&home, "/cargo")));
    flags.push(remap(paths::root(), "."));
    flags.join("\x1f")
}

pub(crate) fn host() -> Result<String> {
    let text = Cmd::new("rustc", 60, "rustc").args(["--print", "host-tuple"]).output()?;
    Ok(text.trim().to_owned())
}

/// The commit that `--version` shows, unless `NYDUS_COMMIT` says another.
pub(crate) fn commit() -> String {
    let set = std::env::var("NYDUS_COMMIT");
    let head = || Cmd::new("commit", 60, "git").args(["rev-parse", "--short=12", "HEAD"]).output();
    set.or_else(|_| head()).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// When that commit was made, in seconds since 1970, unless `SOURCE_DATE_EPOCH` says another time.
pub(crate) fn time() -> i64 {
    let set = std::env::var("SOURCE_DATE_EPOCH");
    let of_commit = || Cmd::new("time", 60, "git").args(["log", "-1", "--format=%ct"]).output();
    set.or_else(|_| of_commit()).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
