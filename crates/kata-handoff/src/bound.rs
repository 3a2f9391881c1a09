//! A snapshot that is bound into a share, held by descriptors: a guest that renames what it is
//! mounted in cannot hide it.

use crate::share::path_of;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, open, statx};
use rustix::io::{Errno, Result};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change,
    mount_remount, move_mount, open_tree, unmount,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// `STATX_ATTR_MOUNT_ROOT`, since Linux 5.8.
const MOUNT_ROOT: u64 = 0x2000;

/// The mount, and its copy in the view.
#[derive(Debug)]
pub(crate) struct Bound {
    mount: OwnedFd,
    copy: Option<OwnedFd>,
}

impl Bound {
    /// Binds a directory onto another one that is open.
    pub(crate) fn new(directory: &Path, onto: BorrowedFd<'_>) -> Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let mount = open_tree(CWD, directory, flags)?;
        let empty =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&mount, "", onto, "", empty)?;
        Ok(Self { mount, copy: None })
    }

    /// What is mounted or unmounted below it reaches nobody else.
    pub(crate) fn confine(&self) -> Result<()> {
        mount_change(path_of(self.mount.as_fd()), MountPropagationFlags::DOWNSTREAM)
    }

    /// Holds the copy at `path`, if it is there.
    pub(crate) fn hold_copy(&mut self, path: &Path) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let copy = open(path, flags, Mode::empty()).ok();
        self.copy = copy.filter(|copy| self.is_copy(copy).unwrap_or(false));
    }

    /// Whether another mount shows the same directory.
    fn is_copy(&self, other: &OwnedFd) -> Result<bool> {
        let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
        let [mine, its] = [&self.mount, other].map(|of| statx(of, "", AtFlags::EMPTY_PATH, wanted));
        let (mine, its) = (mine?, its?);
        let place = |of: &rustix::fs::Statx| (of.stx_dev_major, of.stx_dev_minor, of.stx_ino);
        let is_root = its.stx_attributes.bits() & MOUNT_ROOT != 0;
        Ok(is_root && place(&mine) == place(&its) && mine.stx_mnt_id != its.stx_mnt_id)
    }

    /// Makes it read-only and detaches it, wherever it is now. `nydusd` keeps what the guest
    /// remembers of it: without the first a guest that runs on could write there for ever.
    pub(crate) fn detach(self) -> Result<()> {
        // The copy first: where it does not follow, it would be left.
        let mounts: Vec<_> = self.copy.into_iter().chain([self.mount]).collect();
        let done: Vec<_> = mounts.iter().map(freeze).chain(mounts.iter().map(detach)).collect();
        done.into_iter().collect()
    }
}

/// How often it is tried to make a mount read-only to which somebody writes just now.
const TRIES: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(1);

/// Lets nobody write through a mount any more.
fn freeze(mount: &OwnedFd) -> Result<()> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for _ in 0..TRIES {
        match mount_remount(path_of(mount.as_fd()), MountFlags::BIND | flags, "") {
            Err(Errno::BUSY) => std::thread::sleep(PAUSE),
            // It is no part of the tree of mounts any more.
            Err(Errno::INVAL) => return Ok(()),
            done => return done,
        }
    }
    Err(Errno::BUSY)
}

/// Detaches what is mounted at an open directory, until that is mounted nowhere.
pub(crate) fn detach(mount: &OwnedFd) -> Result<()> {
    loop {
        match unmount(path_of(mount.as_fd()), UnmountFlags::DETACH) {
            Ok(()) => {}
            // It is no part of the tree of mounts any more.
            Err(Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
