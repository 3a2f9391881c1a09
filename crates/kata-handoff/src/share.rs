//! The host's side of the share. As Kata lays it out: what the runtime writes to, and a
//! read-only view of it.

use crate::{Error, Reader, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount_bind, mount_change, mount_remount,
    unmount,
};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Names of the directory that is written to, and of its read-only view, with their modes.
fn names(reader: Reader) -> [(&'static str, u32); 2] {
    match reader {
        Reader::Go => [("mounts", 0o750), ("shared", 0o700)],
        Reader::Rust => [("rw", 0o750), ("ro", 0o700)],
    }
}

/// Directory and mounts of one guest.
#[derive(Clone, Debug)]
pub struct Share {
    root: PathBuf,
    reader: Reader,
}

impl Share {
    /// Makes the directories and mounts below `root`
    /// (`/run/kata-containers/shared/sandboxes/<sandbox>`), which must not exist or be empty.
    ///
    /// # Errors
    /// A mount or directory failed; all is undone.
    pub fn create(root: impl Into<PathBuf>, reader: Reader) -> Result<Self> {
        let share = Self::open(root, reader);
        // Undoing would take away what somebody else has made there.
        if fs::read_dir(&share.root).is_ok_and(|mut entries| entries.next().is_some()) {
            let cause = io::ErrorKind::DirectoryNotEmpty.into();
            return Err(failed("make a share in", &share.root, cause));
        }
        match share.build() {
            Ok(()) => Ok(share),
            Err(error) => Err(undone(error, share.remove())),
        }
    }

    /// One that is there, whoever made it: to clean up after a runtime that died.
    pub fn open(root: impl Into<PathBuf>, reader: Reader) -> Self {
        Self { root: root.into(), reader }
    }

    /// What `nydusd` serves as `/containers`: Kata's Go runtime shows the guest the read-only
    /// view, its Rust runtime the writable one.
    pub fn served(&self) -> PathBuf {
        match self.reader {
            Reader::Go => self.view(),
            Reader::Rust => self.writable(),
        }
    }

    fn writable(&self) -> PathBuf {
        self.root.join(names(self.reader)[0].0)
    }

    fn view(&self) -> PathBuf {
        self.root.join(names(self.reader)[1].0)
    }

    fn build(&self) -> Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(&self.root)
            .map_err(|cause| failed("make directory", &self.root, cause))?;
        for (name, mode) in names(self.reader) {
            directory(&self.root.join(name), mode)?;
        }
        // What is mounted below one shows below the other only if the mount below both is shared;
        // on many hosts it is not.
        at("bind", &self.root, mount_bind(&self.root, &self.root))?;
        at("share", &self.root, mount_change(&self.root, MountPropagationFlags::SHARED))?;
        let view = self.view();
        at("bind", &view, mount_bind(self.writable(), &view))?;
        at("make slave", &view, mount_change(&view, MountPropagationFlags::DOWNSTREAM))?;
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        at("make read-only", &view, mount_remount(&view, flags, ""))
    }

    /// Containers that are in it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn containers(&self) -> Result<Vec<String>> {
        let path = self.writable();
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|cause| failed("read directory", &path, cause))?,
        };
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    /// Puts a container's snapshot where the guest sees it.
    pub(crate) fn add(&self, cid: &str, snapshotdir: &Path) -> Result<()> {
        let container = self.writable().join(cid);
        let made = || {
            directory(&container, 0o750)?;
            let opened = open(&container)?;
            let inside = self::inside(opened.as_fd());
            directory(&inside.join("rootfs"), 0o750)?;
            directory(&inside.join("snapshotdir"), 0o750)?;
            let target = open(&inside.join("snapshotdir"))?;
            let target = self::inside(target.as_fd());
            at("bind", &container, mount_bind(snapshotdir, &target))?;
            self.seen(cid)
        };
        made().map_err(|error| undone(error, self.take_out(cid)))
    }

    /// Whether what was mounted reached the view that the guest sees.
    fn seen(&self, cid: &str) -> Result<()> {
        let upper = self.served().join(cid).join("snapshotdir/fs");
        match upper.metadata() {
            Ok(_) => Ok(()),
            Err(cause) => Err(failed("the snapshot is not seen at", &upper, cause)),
        }
    }

    /// Takes a container's snapshot out again. Directories go one by one: should a mount be left
    /// below, it is in the way of that and keeps what is in it.
    ///
    /// # Errors
    /// Something is left in one of them.
    pub fn take_out(&self, cid: &str) -> Result<()> {
        // The view's own copy goes first where it does not follow.
        for side in [self.view(), self.writable()] {
            let container = match open(&side.join(cid)) {
                Err(Error::Share { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                    continue;
                }
                container => container?,
            };
            detach(&inside(container.as_fd()).join("snapshotdir"))?;
        }
        let path = self.writable().join(cid);
        let Ok(container) = open(&path) else { return Ok(()) };
        for name in ["snapshotdir", "rootfs"] {
            remove(&inside(container.as_fd()).join(name))?;
        }
        remove(&path)
    }

    /// Removes what [`Share::create`] made.
    ///
    /// # Errors
    /// A container is left in it.
    pub fn remove(&self) -> Result<()> {
        if let Some(cid) = self.containers()?.first() {
            let cause = io::ErrorKind::DirectoryNotEmpty.into();
            return Err(failed(
                "container is left in the share",
                &self.writable().join(cid),
                cause,
            ));
        }
        detach(&self.view())?;
        detach(&self.root)?;
        for path in [self.view(), self.writable(), self.root.clone()] {
            remove(&path)?;
        }
        Ok(())
    }
}

/// The error, and what became of undoing.
pub(crate) fn undone(error: Error, undo: Result<()>) -> Error {
    match undo {
        Ok(()) => error,
        Err(left) => Error::Left(Box::new(error), Box::new(left)),
    }
}

fn failed(what: &'static str, path: &Path, cause: io::Error) -> Error {
    Error::Share { what, path: path.to_owned(), cause }
}

fn at(what: &'static str, path: &Path, done: rustix::io::Result<()>) -> Result<()> {
    done.map_err(|error| failed(what, path, error.into()))
}

fn directory(path: &Path, mode: u32) -> Result<()> {
    let made = DirBuilder::new().mode(mode).create(path);
    made.map_err(|cause| failed("make directory", path, cause))
}

/// Detaches all that is mounted at a path: users keep it until they let go, so it never waits and
/// never fails for them.
fn detach(path: &Path) -> Result<()> {
    loop {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there, or nothing is there.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return at("unmount", path, Err(error)),
        }
    }
}

/// A directory that no guest has put a link in place of: one that is served writable could.
fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    opened.map_err(|error| failed("open directory", path, error.into()))
}

/// The open directory as a path.
fn inside(directory: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

/// Removes an empty directory.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(|cause| failed("remove directory", path, cause)),
    }
}
