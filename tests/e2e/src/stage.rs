//! Where a test works: a directory and mounts that no other test sees.

use crate::mounts::mounts;
use anyhow::{Context, Result};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Moves this thread, and what it starts from now on, into a mount namespace of its own, with
/// a working directory of its own.
///
/// # Errors
/// No privilege to do so.
pub fn private_namespace() -> Result<()> {
    // SAFETY: a mount namespace of its own does not touch the memory or files of other threads.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
        .context("cannot unshare the mount namespace: root or a user namespace is needed")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).context("cannot make / private")
}

/// A directory fit for an upper layer, in a mount namespace of this thread's own. Both go when
/// it is dropped: first every mount below, then the files.
#[derive(Debug)]
pub struct Stage {
    directory: TempDir,
}

impl Stage {
    /// An empty one.
    ///
    /// # Panics
    /// No privilege, or no space.
    #[allow(clippy::new_without_default, reason = "it acts on the thread")]
    pub fn new() -> Self {
        private_namespace().expect("a mount namespace");
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    /// One with these directories in it.
    ///
    /// # Panics
    /// As [`Stage::new`].
    pub fn with(directories: &[&str]) -> Self {
        Self::new().filled(directories)
    }

    /// The same in memory, where that can be had: ext4 looks long for an inode that was not in use
    /// a moment ago.
    ///
    /// # Panics
    /// As [`Stage::new`].
    pub fn in_memory(directories: &[&str]) -> Self {
        private_namespace().expect("a mount namespace");
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self { directory: directory.expect("a directory") }.filled(directories)
    }

    fn filled(self, directories: &[&str]) -> Self {
        for directory in directories {
            fs::create_dir_all(self.path().join(directory)).expect(directory);
        }
        self
    }

    /// One with an empty /run, in which others leave sockets at fixed paths. `None` if we are not
    /// root of the machine, which containers need.
    ///
    /// # Panics
    /// As [`Stage::new`].
    pub fn of_a_node() -> Option<Self> {
        let ids = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let all = ids.split_whitespace().eq(["0", "0", "4294967295"]);
        if !all || !rustix::process::geteuid().is_root() {
            return None;
        }
        let stage = Self::new();
        rustix::mount::mount("run", "/run", "tmpfs", MountFlags::empty(), None).expect("/run");
        Some(stage)
    }

    /// The directory, absolute.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A path in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// `program`, to be run in it.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir(self.path());
        command
    }

    /// Detaches all mounts in it, the last first.
    pub fn unmount_all(&self) {
        let mounts = mounts();
        let below = mounts.iter().filter(|mount| mount.point.starts_with(self.path()));
        for mount in below.rev() {
            // One that went with another above it is no longer there.
            let _ = rustix::mount::unmount(&mount.point, UnmountFlags::DETACH);
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.unmount_all();
        if mounts().iter().any(|mount| mount.point.starts_with(self.path())) {
            // Removing files through a mount could remove somebody else's.
            self.directory.disable_cleanup(true);
            println!("a mount in {} stays: the files are kept", self.path().display());
        }
    }
}
