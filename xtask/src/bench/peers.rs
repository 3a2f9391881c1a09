//! The programs that are measured.

use super::tree::{Names, Tree};
use crate::cmd::Cmd;
use crate::stage::{self, Stage};
use crate::{paths, ui};
use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One program.
pub(super) struct Peer {
    pub(super) key: &'static str,
    pub(super) label: &'static str,
    /// The file whose size, memory and instructions are looked at; none for a chain of programs.
    pub(super) file: Option<PathBuf>,
    /// It has threads, whose instructions nobody counts.
    pub(super) threads: bool,
    /// The program and the arguments that come before `overlay TARGET -o OPTIONS`.
    program: PathBuf,
    before: &'static [&'static str],
    /// Takes the slice's options, `extraoption` included.
    slice: bool,
    /// Called as containerd calls `mount.fuse`, with this PATH and the like.
    fuse: Option<Vec<(OsString, OsString)>>,
}

impl Peer {
    /// The command that mounts `layers` layers.
    pub(super) fn command(&self, tree: &Tree, layers: usize, names: Names) -> Command {
        let names = if names == Names::Slice && !self.slice { Names::Full } else { names };
        let options = tree.options(layers, names);
        let mut command = Command::new(&self.program);
        command.args(self.before).arg("overlay").arg(&tree.target).current_dir(tree.cwd(names));
        if let Some(variables) = &self.fuse {
            command.args(options.iter().flat_map(|option| ["-o", option]));
            command.args(["-t", "nydus-overlayfs"]).envs(variables.iter().cloned());
        } else if names == Names::Slice {
            // As `mount.fuse3` hands them on.
            command.args(["-o", &format!("{},dev,suid", options.join(","))]);
        } else {
            command.args(["-o", &options.join(",")]);
        }
        command
    }

    fn direct(key: &'static str, label: &'static str, program: PathBuf) -> Self {
        let file = Some(program.clone());
        Self { key, label, file, threads: false, program, before: &[], slice: false, fuse: None }
    }

    /// `fuse` under the name `mount.fuse`, and the helper that it may find.
    fn chain(
        (key, label): (&'static str, &'static str),
        stage: &Stage,
        fuse: &Path,
        helper: &Path,
    ) -> Result<Self> {
        let command = stage.mount_fuse(key, fuse, helper)?;
        let variables = command.get_envs();
        let variables = variables.filter_map(|(name, value)| Some((name.into(), value?.into())));
        Ok(Self {
            file: None,
            slice: true,
            fuse: Some(variables.collect()),
            ..Self::direct(key, label, command.get_program().into())
        })
    }
}

/// The programs that mount; what cannot run here is said.
pub(super) fn helpers(stage: &Stage, floor: &Path) -> Result<Vec<Peer>> {
    let ours = paths::dist().join("nydus-overlayfs");
    let ours_std = paths::dist().join("nydus-overlayfs-std");
    let mount = PathBuf::from("/bin/mount");
    // -i: without the look for /sbin/mount.overlay.
    let mount =
        Peer { before: &["-i", "-t", "overlay"], ..Peer::direct("mount", "mount(8)", mount) };
    let names = ("ours-front", "nydus-overlayfs as mount.fuse");
    let front = Peer { file: Some(ours.clone()), ..Peer::chain(names, stage, &ours, &ours)? };
    let mut peers = vec![
        Peer { slice: true, ..Peer::direct("ours", "nydus-overlayfs", ours) },
        front,
        Peer { slice: true, ..Peer::direct("ours-std", "nydus-overlayfs on std", ours_std) },
        mount,
    ];
    if floor.exists() {
        peers.insert(0, Peer::direct("floor", "floor, one mount(2)", floor.to_owned()));
    }
    match stage::go_helper() {
        Some(go) => {
            peers.push(Peer { slice: true, threads: true, ..Peer::direct("go", "Go helper", go) })
        }
        None => ui::not_run("the Go helper", "its package could not be fetched"),
    }
    Ok(peers)
}

/// What containerd may run to mount, the usual one first.
pub(super) fn chains(stage: &Stage) -> Result<Vec<Peer>> {
    let (fuse, ours) = (stage::mount_fuse3(), paths::dist().join("nydus-overlayfs"));
    let mut chains = vec![
        Peer::chain(("behind", "mount.fuse3 → sh → nydus-overlayfs"), stage, &fuse, &ours)?,
        Peer::chain(("front", "nydus-overlayfs as mount.fuse"), stage, &ours, &ours)?,
    ];
    if let Some(go) = stage::go_helper() {
        let stock = ("stock", "mount.fuse3 → sh → Go helper");
        chains.insert(0, Peer::chain(stock, stage, &fuse, &go)?);
    }
    Ok(chains)
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
