//! `cargo xtask demo`: the whole way once, for people to read: first one mount, then containers,
//! then a guest.

mod chain;
mod tree;

use crate::stage::{self, Stage};
use crate::test::build;
use crate::{apt, dist, paths, tools, ui};
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tree::Tree;

/// A part of it.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// One mount by the helper
    Helper,
    #[value(hide = true)]
    Containers,
    #[value(hide = true)]
    Guest,
}

/// Shows all parts up to `last`, the quickest first, each in a namespace that goes away with it.
/// What a part needs is fetched and built just before.
pub(crate) fn run(last: Option<Part>) -> Result<bool> {
    println!(
        "== The helper: fuse3 is fetched and nydus-overlayfs is built, which takes half a minute"
    );
    ui::plan(2);
    beside(|| tools::some(&["fuse3"], false), || dist::some(&[dist::HELPER], &paths::test_dist()))?;
    apt::need("strace", "strace")?;
    if !enter("helper", None)? || last == Some(Part::Helper) {
        return Ok(true);
    }
    println!(
        "\n== Next: containers. Fetches containerd, runc, a registry and busybox (60 MB), builds the\n   \
        snapshotter and nydusd, which takes about 6 minutes. Ctrl-C leaves nothing behind."
    );
    let parts = ["containerd-1.6", "runc", "registry", "busybox"];
    ui::plan(parts.len() + 2);
    let built = beside(
        || tools::some(&parts, true),
        || {
            // Cargo builds the programs of a package for its tests.
            build::targets("build the snapshotter", ["--test", "import", "--test", "kit"])
        },
    )?;
    dist::for_tests(built.programs(), &paths::test_dist())?;
    let demo = built.program("demo")?;
    if !enter("containers", Some(demo))? || last == Some(Part::Containers) {
        return Ok(true);
    }
    println!(
        "\n== Last: the same image in a virtual machine. Fetches a kernel for the guest (30 MB) and\n   \
        installs QEMU where it is missing, which takes a minute."
    );
    ui::plan(2);
    let built = beside(
        || tools::some(&["guest-6.1"], false).and_then(|()| tools::qemu()),
        || build::targets("build the runtime for guests", ["--test", "programs", "--test", "kit"]),
    )?;
    dist::for_tests(built.programs(), &paths::test_dist())?;
    enter("guest", Some(built.program("demo")?))
}

/// Does both at the same time.
fn beside<T>(
    fetch: impl FnOnce() -> Result<()> + Send,
    build: impl FnOnce() -> Result<T>,
) -> Result<T> {
    std::thread::scope(|scope| {
        let fetched = scope.spawn(fetch);
        let built = build();
        fetched.join().map_err(|_| anyhow!("fetching panicked"))??;
        built
    })
}

fn enter(part: &str, program: Option<&Path>) -> Result<bool> {
    let program = program.map(|path| path.to_str().context("a path is not UTF-8")).transpose()?;
    let words: Vec<_> = ["demo-inside", part].into_iter().chain(program).collect();
    let shown = stage::enter(&words, 300)?;
    ensure!(shown, "the demonstration failed");
    Ok(shown)
}

/// The part that mounts.
pub(crate) fn inside(part: Part, program: Option<PathBuf>) -> Result<()> {
    match part {
        Part::Helper => helper()?,
        Part::Containers => containers("containers", program)?,
        Part::Guest => containers("guest", program)?,
    }
    println!("\n== Nothing is left: the namespace and its mounts end here");
    Ok(())
}

fn helper() -> Result<()> {
    let stage = Stage::new()?;
    println!("\n== A tree of two layers (a tmpfs in a mount namespace of our own)");
    let tree = Tree::new(&stage)?;
    println!("\n== Through mount.fuse3 and our helper, as containerd does it");
    let (fuse, ours) = (stage::mount_fuse3(), paths::test_dist().join(dist::HELPER));
    show(stage.mount_fuse("ours", &fuse, &ours)?, &tree)?;
    if let Some(go) = stage::go_helper() {
        println!("\n== The same through Debian's Go helper, for contrast");
        show(stage.mount_fuse("go", &fuse, &go)?, &tree)?;
    }
    Ok(())
}

fn containers(part: &str, program: Option<PathBuf>) -> Result<()> {
    println!(
        "\n== Real containers: containerd, runc, nydusd, a registry, our snapshotter and helper"
    );
    let mut demo = Command::new(program.context("no program")?);
    demo.arg(part).env("NYDUS_DIST", paths::test_dist()).env("NYDUS_TOOLS", paths::tools());
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
