//! `cargo xtask demo`: the whole way once, for people to read.

mod chain;
mod tree;

use crate::cmd::{self, Cmd};
use crate::stage::{self, Stage};
use crate::{apt, dist, paths, tools, ui};
use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tree::Tree;

/// Gets what is needed, then shows the mount in a namespace that goes away with it.
pub(crate) fn run() -> Result<bool> {
    println!("== What it needs");
    dist::run()?;
    tools::run(tools::Also::Nothing)?;
    apt::need("strace", "strace")?;
    let mut cargo = Cmd::new("build-demo", 1200, cmd::cargo());
    cargo.args(["build", "--locked", "--package", "nydus-e2e", "--bin", "demo"]);
    ui::step("build the demonstration", || cargo.run())?;
    stage::enter(&["demo-inside"], 300)
}

/// The part that mounts.
pub(crate) fn inside() -> Result<()> {
    let stage = Stage::new()?;
    println!("\n== A tree of two layers (a tmpfs in a mount namespace of our own)");
    let tree = Tree::new(&stage)?;
    println!("\n== Through mount.fuse3 and our helper, as containerd does it");
    let (fuse, ours) = (stage::mount_fuse3(), paths::dist().join("nydus-overlayfs"));
    show(stage.mount_fuse("ours", &fuse, &ours)?, &tree)?;
    println!("\n== The same through Debian's Go helper, for contrast");
    match stage::go_helper() {
        Some(go) => show(stage.mount_fuse("go", &fuse, &go)?, &tree)?,
        None => ui::not_run("the Go helper", "the package could not be fetched"),
    }
    println!(
        "\n== Real containers: containerd, runc, nydusd, a registry, our snapshotter and helper"
    );
    containers()?;
    println!("\n== Nothing is left: the namespace, its mounts and the tree end here");
    Ok(())
}

fn containers() -> Result<()> {
    let mut demo = Command::new(dist::cargo_target()?.join("debug/demo"));
    demo.env("NYDUS_DIST", paths::dist()).env("NYDUS_TOOLS", paths::tools());
    let status = demo.status().context("cannot run the demonstration")?;
    ensure!(status.success(), "the demonstration of containers failed: {status}");
    Ok(())
}

fn show(mut mount: Command, tree: &Tree) -> Result<()> {
    mount.args(tree.arguments()?);
    println!("  $ {}", chain::readable(command_line(&mount)));
    let times = (0..20).map(|_| once(&mut mount, tree)).collect::<Result<Vec<_>>>()?;
    chain::show(&mount, &tree.log)?;
    println!("  mountinfo: {}", stage::mountinfo(&tree.target)?);
    tree.show_reading()?;
    tree.show_writing()?;
    tree.show_privileges()?;
    stage::umount(&tree.target)?;
    ensure!(stage::mountinfo(&tree.target).is_err(), "still mounted");
    println!("  unmounted");
    println!("  the mount takes {:?} (median of {})", median(times.clone()), times.len());
    Ok(())
}

/// Mounts and unmounts; the time from the start of `mount.fuse3` to its end.
fn once(mount: &mut Command, tree: &Tree) -> Result<Duration> {
    let start = Instant::now();
    let status = mount.status().context("cannot run mount.fuse3")?;
    let time = start.elapsed();
    if !status.success() {
        bail!("mount.fuse3 failed: {status}");
    }
    stage::umount(&tree.target)?;
    Ok(time)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    Duration::from_micros(times[times.len() / 2].as_micros() as u64)
}

fn command_line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words: Vec<_> = std::iter::once(program).chain(command.get_args()).collect();
    words.join(OsStr::new(" ")).to_string_lossy().into_owned()
}
