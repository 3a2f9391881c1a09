//! A clean Debian for the package to be installed in.

use crate::cmd::Cmd;
use crate::sandbox::Sandbox;
use crate::{apt, paths, tools, ui};
use anyhow::{Context, Result, anyhow, ensure};
use std::fs;
use std::path::Path;

/// The root directory's name under target/tools: Debian 12 with the least that it runs with, and
/// fuse3.
pub(crate) const ROOT: &str = "debian-12";

/// Makes it, unless it is there; takes a minute or two.
pub(crate) fn run(keyring: &Path) -> Result<()> {
    let (place, tree) = (paths::tools().join(ROOT), paths::tools().join(".apt/debian"));
    if place.exists() {
        return Ok(());
    }
    ensure!(Sandbox::detect() == Sandbox::Root, "debootstrap needs root");
    ensure!(tools::has("debootstrap"), "no debootstrap");
    apt::need("wget", "wget")?;
    let mut failure = anyhow!("no mirror");
    for mirror in apt::mirrors() {
        let _ = fs::remove_dir_all(&tree);
        match ui::step("debootstrap", || command(keyring, &tree, &mirror).run()) {
            Ok(()) => return fs::rename(&tree, &place).context("cannot move Debian's root"),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn command(keyring: &Path, tree: &Path, mirror: &str) -> Cmd {
    let unpacked = paths::tools().join("debootstrap/usr");
    let mut command = Sandbox::Root.cmd("debootstrap", 900, unpacked.join("sbin/debootstrap"));
    command.env("DEBOOTSTRAP_DIR", unpacked.join("share/debootstrap"));
    command.args(["--variant=minbase", "--include=fuse3"]);
    command.arg(format!("--keyring={}", keyring.display()));
    command.arg("bookworm").arg(tree).arg(mirror);
    command
}
