//! A place to mount in that vanishes with us, in a mount namespace of our own.

use crate::cmd::Cmd;
use crate::sandbox::Sandbox;
use crate::{paths, tools};
use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs this program again with `args`, in namespaces of its own, where [`Stage::new`] may be used.
pub(crate) fn enter(args: &[&str], limit: u64) -> Result<bool> {
    let sandbox = Sandbox::detect();
    ensure!(sandbox != Sandbox::None, "this needs root, or user namespaces (unshare -Urm)");
    let mut cmd = sandbox.cmd("stage", limit, std::env::current_exe()?);
    cmd.args(args).env("NYDUS_STAGE", "1").shown().succeeded()
}

/// The place.
pub(crate) struct Stage {
    root: PathBuf,
}

impl Stage {
    /// Covers a directory that every user can reach, here in our namespace only.
    pub(crate) fn new() -> Result<Self> {
        let stage = Self { root: place()? };
        mount(c"stage", &stage.root, c"tmpfs", MountFlags::empty(), c"mode=0755")
            .with_context(|| format!("cannot mount a tmpfs on {}", stage.root.display()))?;
        Ok(stage)
    }

    /// The same with an ext4, as snapshots have, for which nobody else writes: it is in memory.
    /// Where we may not have one, `dir` is behind it.
    pub(crate) fn on_ext4(dir: &Path) -> Result<Self> {
        let stage = Self::new()?;
        let image = stage.path("image");
        File::create(&image)?.set_len(1 << 30)?;
        let made = Cmd::new("mkfs", 60, "mkfs.ext4").arg("-q").arg(&image).run();
        let mut mount = Cmd::new("mount-loop", 60, "mount");
        mount.args(["-t", "ext4", "-o", "loop"]).args([&image, &stage.root]);
        if made.and_then(|()| mount.run()).is_err() {
            println!("  no ext4 in memory here: {} is used", dir.display());
            mount_bind(dir, &stage.root)
                .with_context(|| format!("cannot mount {}", dir.display()))?;
        }
        Ok(stage)
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A new directory, with its parents.
    pub(crate) fn dir(&self, path: &str) -> Result<PathBuf> {
        let dir = self.path(path);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    /// `mount.fuse` as containerd runs it: this program, which will find `helper` in its PATH as
    /// `nydus-overlayfs`.
    pub(crate) fn mount_fuse(&self, name: &str, fuse: &Path, helper: &Path) -> Result<Command> {
        let bin = self.dir(&format!("bin-{name}"))?;
        symlink(fuse, bin.join("mount.fuse"))?;
        symlink(helper, bin.join("nydus-overlayfs"))?;
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
        let mut command = Command::new(bin.join("mount.fuse"));
        command.env("PATH", path).envs(tools::library_path());
        Ok(command)
    }
}

/// Where to mount: short, as it is part of every path that is shown.
fn place() -> Result<PathBuf> {
    let inner = std::env::var_os("NYDUS_STAGE").is_some();
    ensure!(inner, "not in a namespace of its own; use the task without `-inside`");
    Ok(if paths::root().starts_with("/mnt") { "/media" } else { "/mnt" }.into())
}

/// `umount TARGET`.
pub(crate) fn umount(target: &Path) -> Result<()> {
    unmount(target, UnmountFlags::empty())
        .with_context(|| format!("cannot unmount {}", target.display()))
}

/// The line of the mount on top at `target` in /proc/self/mountinfo.
pub(crate) fn mountinfo(target: &Path) -> Result<String> {
    let all = fs::read_to_string("/proc/self/mountinfo")?;
    let at = |line: &&str| line.split(' ').nth(4) == target.to_str();
    let line = all.lines().rev().find(at);
    line.map(str::to_owned).with_context(|| format!("nothing is mounted on {}", target.display()))
}

/// The distribution's `mount.fuse`.
pub(crate) fn mount_fuse3() -> PathBuf {
    paths::tools().join("fuse3/sbin/mount.fuse3")
}

/// Debian's Go helper, where it could be had.
pub(crate) fn go_helper() -> Option<PathBuf> {
    let helper = paths::tools().join("nydus-snapshotter/usr/bin/nydus-overlayfs");
    helper.exists().then_some(helper)
}
