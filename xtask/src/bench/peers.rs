//! The programs that are measured.

use super::tree::{Names, Tree};
use crate::cmd::Cmd;
use crate::stage::{self, Stage};
use crate::{paths, ui};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One program.
pub(super) struct Peer {
    pub(super) key: &'static str,
    pub(super) label: &'static str,
    /// The file whose size and memory are looked at; none for a chain of programs.
    pub(super) file: Option<PathBuf>,
    /// The program and the arguments that come before `overlay TARGET -o OPTIONS`.
    program: PathBuf,
    before: &'static [&'static str],
    /// Takes the slice's options, `extraoption` included.
    slice: bool,
    front: Option<Command>,
}

impl Peer {
    /// The command that mounts `layers` layers.
    pub(super) fn command(&self, tree: &Tree, layers: usize, names: Names) -> Command {
        let mut command = match &self.front {
            Some(front) => copy(front),
            None => Command::new(&self.program),
        };
        let names = if names == Names::Slice && !self.slice { Names::Full } else { names };
        command.args(self.before).arg("overlay").arg(&tree.target);
        command.arg("-o").arg(tree.options(layers, names));
        if self.front.is_some() {
            command.args(["-t", "nydus-overlayfs"]);
        }
        command.current_dir(tree.cwd(names));
        command
    }

    fn direct(key: &'static str, label: &'static str, program: PathBuf) -> Self {
        let file = Some(program.clone());
        Self { key, label, file, program, before: &[], slice: false, front: None }
    }

    fn behind(key: &'static str, label: &'static str, stage: &Stage, file: &Path) -> Result<Self> {
        let front = Some(stage.mount_fuse3(key, file)?);
        let chain = Self::direct(key, label, PathBuf::new());
        Ok(Self { file: None, slice: true, front, ..chain })
    }
}

/// All that can run here; the others are said.
pub(super) fn all(stage: &Stage, floor: &Path) -> Result<Vec<Peer>> {
    let ours = paths::dist().join("nydus-overlayfs");
    let ours_std = paths::dist().join("nydus-overlayfs-std");
    let mount = PathBuf::from("/bin/mount");
    // -i: without the look for /sbin/mount.overlay.
    let mount =
        Peer { before: &["-i", "-t", "overlay"], ..Peer::direct("mount", "mount(8)", mount) };
    let mut peers = vec![
        Peer { slice: true, ..Peer::direct("ours", "nydus-overlayfs", ours.clone()) },
        Peer { slice: true, ..Peer::direct("ours-std", "nydus-overlayfs on std", ours_std) },
        mount,
        Peer::behind("fuse3-ours", "mount.fuse3 → nydus-overlayfs", stage, &ours)?,
    ];
    if floor.exists() {
        peers.insert(0, Peer::direct("floor", "floor, one mount(2)", floor.to_owned()));
    }
    match stage::go_helper() {
        Some(go) => {
            let chain = Peer::behind("fuse3-go", "mount.fuse3 → Go helper", stage, &go)?;
            peers.insert(
                peers.len() - 1,
                Peer { slice: true, ..Peer::direct("go", "Go helper", go) },
            );
            peers.push(chain);
        }
        None => ui::not_run("the Go helper", "its package could not be fetched"),
    }
    Ok(peers)
}

/// Compiles the floor program into target/bench.
pub(super) fn build_floor() -> Result<PathBuf> {
    let program = paths::target().join("bench/floor");
    if cfg!(not(target_arch = "x86_64")) {
        ui::not_run("the floor program", "it is written for x86-64");
        return Ok(program);
    }
    let source = paths::root().join("xtask/floor/floor.c");
    let mut gcc = Cmd::new("floor", 60, "gcc");
    gcc.args(["-O2", "-static", "-nostdlib", "-nostartfiles", "-s", "-o"]).arg(&program);
    gcc.arg(source).run().context("cannot compile the floor program")?;
    ensure!(program.exists(), "gcc left no floor program");
    Ok(program)
}

/// `Command` has no `Clone`.
fn copy(front: &Command) -> Command {
    let mut command = Command::new(front.get_program());
    for (name, value) in front.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command
}
