//! `nydusd` and `nydus-image`, from the Rust package registry.

use crate::cmd::{self, Cmd};
use crate::{apt, paths, ui};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

const NYDUS: &[&str] = &[
    "nydus-rs",
    "--version",
    "2.2.0",
    "--locked",
    "--features",
    "virtiofs",
    "--bin",
    "nydusd",
    "--bin",
    "nydus-image",
];

/// How the tests' `nydusd` is built: in a third of the time, and slower when it runs, but for what
/// is C: compression and digests.
const QUICK: &[(&str, &str)] = &[
    ("CFLAGS", "-O2"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
];

/// What a build is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// Quickly built, with the machine's OpenSSL where that is to be had.
    Tests,
    /// As it is released.
    Figures,
}

/// Builds both into `place`, unless this version is there, built so; takes some minutes.
pub(super) fn install(purpose: For, place: &Path) -> Result<()> {
    let (what, settings) = match purpose {
        For::Tests => ("build nydusd", QUICK),
        For::Figures => ("build nydusd as it is released", &[][..]),
    };
    let (stamp, spec) = (place.join(".stamp"), format!("{NYDUS:?} {settings:?}"));
    let is_built = fs::read_to_string(&stamp).is_ok_and(|text| text == spec);
    if is_built && place.join("bin/nydusd").exists() {
        return Ok(());
    }
    apt::need("cmake", "cmake")?;
    let log = format!("install-{}", place.file_name().unwrap_or_default().to_string_lossy());
    let mut cargo = Cmd::new(&log, 1800, cmd::cargo());
    cargo.args(["install", "--force"]).args(NYDUS).arg("--root").arg(place);
    cargo.envs(settings.iter().copied()).env("CARGO_TARGET_DIR", paths::target().join("nydusd"));
    if purpose == For::Tests && has_openssl() {
        cargo.env("OPENSSL_NO_VENDOR", "1");
    }
    ui::step(what, || cargo.run())?;
    fs::write(stamp, spec).context("cannot write a stamp")
}

/// Whether the machine has, or now gets, what programs with OpenSSL are built with; else it is
/// compiled, too, which takes minutes.
fn has_openssl() -> bool {
    let header = || Path::new("/usr/include/openssl/ssl.h").exists();
    let installed = apt::need("pkg-config", "pkg-config")
        .and_then(|()| if header() { Ok(()) } else { apt::install("libssl-dev") });
    installed.is_ok() && header()
}

/// `nydusd` for guests with a kernel from 7.1 on: those want to be told how long each answer is
/// (commit 68b69fa0edb of Linux), and 2.2.0 always says 0.
pub(super) fn patched() -> Result<()> {
    let place = paths::tools().join("nydusd-patched");
    if place.join("bin/nydusd").exists() {
        return Ok(());
    }
    let source = paths::tools().join(".nydusd-source");
    let _ = fs::remove_dir_all(&source);
    let archive = source_archive().context("no archive of nydus-rs where cargo keeps them")?;
    fs::create_dir_all(&source)?;
    let mut tar = Cmd::new("nydusd-source", 60, "tar");
    tar.arg("-xzf").arg(archive).arg("-C").arg(&source).arg("--strip-components=1").run()?;
    let file = source.join("src/bin/nydusd/virtiofs.rs");
    let text = fs::read_to_string(&file)?;
    let patched = text
        .replace(
            "            self.server\n                .handle_message(",
            "            let used = self.server.handle_message(",
        )
        .replace("add_used(head_index, 0)", "add_used(head_index, used as u32)");
    ensure!(patched.matches("used").count() > text.matches("used").count() + 2, "not as expected");
    fs::write(&file, patched)?;
    // It is below our own workspace.
    let manifest = source.join("Cargo.toml");
    fs::write(&manifest, fs::read_to_string(&manifest)? + "\n[workspace]\n")?;
    let mut cargo = Cmd::new("install-nydusd-patched", 1800, cmd::cargo());
    cargo.args(["install", "--locked", "--features", "virtiofs", "--bin", "nydusd", "--path"]);
    // Newer compilers warn where it denies warnings.
    cargo.arg(&source).env("RUSTFLAGS", "--cap-lints=warn");
    cargo.arg("--root").arg(&place).env("CARGO_TARGET_DIR", paths::target().join("nydusd"));
    ui::step("build nydusd, patched for new guests", || cargo.run())
}

/// Where cargo has put what [`install`] was built from.
fn source_archive() -> Option<PathBuf> {
    let registries = fs::read_dir(paths::cargo_home()?.join("registry/cache")).ok()?.flatten();
    let archives = registries.map(|entry| entry.path().join("nydus-rs-2.2.0.crate"));
    { archives }.find(|archive| archive.exists())
}
