//! The host's side of the share. As Kata lays it out: what the runtime writes to, and a
//! read-only view of it.

use crate::{Error, Reader, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount_bind, mount_change, mount_remount,
    unmount,
};
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, DirEntry};
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
    /// (`/run/kata-containers/shared/sandboxes/<sandbox>`), which must not exist or be empty: it is
    /// the share's from now on.
    ///
    /// # Errors
    /// A mount or directory failed; all is undone.
    pub fn create(root: impl Into<PathBuf>, reader: Reader) -> Result<Self> {
        let share = Self::open(root, reader);
        let root = &share.root;
        // Undoing would take away what somebody else has made there.
        if fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_some()) {
            let cause = io::ErrorKind::DirectoryNotEmpty.into();
            return Err(failed("make a share in", root, cause));
        }
        let made = DirBuilder::new().recursive(true).mode(0o750).create(root);
        made.map_err(|cause| failed("make directory", root, cause))?;
        if let Err(error) = at("bind", root, mount_bind(root, root)) {
            return Err(undone(error, remove(root)));
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
        // What is mounted below one side shows below the other only if the mount below both is
        // shared: on some hosts it is not, on others it is so with mounts of the host, which would
        // get a copy of each snapshot.
        for kind in [MountPropagationFlags::PRIVATE, MountPropagationFlags::SHARED] {
            at("share", &self.root, mount_change(&self.root, kind))?;
        }
        for (name, mode) in names(self.reader) {
            directory(&self.root.join(name), mode)?;
        }
        let view = self.view();
        at("bind", &view, mount_bind(self.writable(), &view))?;
        at("make slave", &view, mount_change(&view, MountPropagationFlags::DOWNSTREAM))?;
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        at("make read-only", &view, mount_remount(&view, flags, ""))
    }

    /// Names of the directories in it: containers, and what a guest that may write there has made.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn containers(&self) -> Result<Vec<OsString>> {
        let entries = entries(&self.writable())?.into_iter();
        Ok(entries.filter(is_directory).map(|entry| entry.file_name()).collect())
    }

    /// Puts a container's snapshot where the guest sees it.
    pub(crate) fn add(&self, cid: &str, snapshotdir: &Path) -> Result<()> {
        let container = self.writable().join(cid);
        let made = || {
            directory(&container, 0o750)?;
            let opened = open(&container)?;
            let inside = self::inside(opened.as_fd());
            let target = inside.join("snapshotdir");
            directory(&inside.join("rootfs"), 0o750)?;
            directory(&target, 0o750)?;
            let below = open(&target)?;
            at("bind", &container, mount_bind(snapshotdir, self::inside(below.as_fd())))?;
            // What goes below ours stays on the host.
            at("make slave", &container, mount_change(&target, MountPropagationFlags::DOWNSTREAM))?;
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
    /// below, it is in the way of that and keeps what is in it. Files beside it are a guest's, and
    /// go too.
    ///
    /// # Errors
    /// No name of a directory; something is left in one of them.
    pub fn take_out(&self, cid: impl AsRef<OsStr>) -> Result<()> {
        let cid = is_name(cid.as_ref())?;
        // The view's own copy goes first where it does not follow.
        for side in [self.view(), self.writable()] {
            if let Some(container) = open_if_there(&side.join(cid))? {
                detach(&inside(container.as_fd()).join("snapshotdir"))?;
            }
        }
        let path = self.writable().join(cid);
        let Some(container) = open_if_there(&path)? else { return Ok(()) };
        let inside = inside(container.as_fd());
        for name in ["snapshotdir", "rootfs"] {
            remove_with_files(&inside.join(name)).map_err(|error| named(error, &inside, &path))?;
        }
        remove_with_files(&path)
    }

    /// Removes what [`Share::create`] made, `root` with it, and files that a guest has put there.
    ///
    /// # Errors
    /// A container is left in it.
    pub fn remove(&self) -> Result<()> {
        if let Some(cid) = self.containers()?.first() {
            return Err(left(&self.writable().join(cid)));
        }
        detach(&self.view())?;
        remove(&self.view())?;
        remove_with_files(&self.writable())?;
        // Once: below it may be a mount of whoever made the directory, which stays then.
        detach_one(&self.root)?;
        match remove(&self.root) {
            Err(Error::Share { cause, .. }) if cause.kind() == io::ErrorKind::ResourceBusy => {
                Ok(())
            }
            removed => removed,
        }
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
    while detach_one(path)? {}
    Ok(())
}

/// Detaches the uppermost mount at a path, if there is one.
fn detach_one(path: &Path) -> Result<bool> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // Nothing is mounted there, or nothing is there.
        Err(Errno::INVAL | Errno::NOENT) => Ok(false),
        done => at("unmount", path, done).map(|()| true),
    }
}

/// A name in a directory, whatever a guest calls it.
pub(crate) fn is_name(name: &OsStr) -> Result<&OsStr> {
    match Path::new(name).file_name() {
        Some(last) if last == name => Ok(name),
        _ => Err(Error::Id(name.to_string_lossy().into_owned())),
    }
}

/// A directory that no guest has put a link in place of: one that is served writable could.
fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    opened.map_err(|error| failed("open directory", path, error.into()))
}

fn open_if_there(path: &Path) -> Result<Option<OwnedFd>> {
    match open(path) {
        Err(Error::Share { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// The open directory as a path.
fn inside(directory: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

/// The error with the open directory's own path.
fn named(error: Error, inside: &Path, path: &Path) -> Error {
    match error {
        Error::Share { what, path: at, cause } => {
            let path = at.strip_prefix(inside).map_or(at.clone(), |rest| path.join(rest));
            Error::Share { what, path, cause }
        }
        error => error,
    }
}

/// What is in a directory; nothing if it is not there.
fn entries(path: &Path) -> Result<Vec<DirEntry>> {
    let Some(directory) = open_if_there(path)? else { return Ok(Vec::new()) };
    let entries = fs::read_dir(inside(directory.as_fd())).and_then(Iterator::collect);
    entries.map_err(|cause| failed("read directory", path, cause))
}

fn is_directory(entry: &DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

/// Removes an empty directory.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(|cause| failed("remove directory", path, cause)),
    }
}

/// Removes a directory and the files in it. A directory in it is left, and named.
fn remove_with_files(path: &Path) -> Result<()> {
    for entry in entries(path)? {
        let file = path.join(entry.file_name());
        if is_directory(&entry) {
            return Err(left(&file));
        }
        fs::remove_file(&file).map_err(|cause| failed("remove", &file, cause))?;
    }
    remove(path)
}

fn left(path: &Path) -> Error {
    failed("a directory is left in the share", path, io::ErrorKind::DirectoryNotEmpty.into())
}
