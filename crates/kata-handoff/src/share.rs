//! The host's side of the share. As Kata lays it out: what the runtime writes to, and a
//! read-only view of it.
//!
//! A guest may rename, nest or fill whatever is served writable. So a mount is detached through a
//! descriptor or as part of the whole share, wherever it is by then, and nothing is removed through
//! a mount that is left.

use crate::bound::Bound;
use crate::error::all;
use crate::{Error, Reader, Result, mountinfo, sweep};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount_bind, mount_change, mount_remount,
    unmount,
};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// So many files and directories are removed with a container that runs beside others: a guest
/// could make new ones for ever. The rest goes with the share.
const STEPS: u64 = 10_000;

/// Names of the directory that is written to, and of its read-only view, with their modes.
fn names(reader: Reader) -> [(&'static str, u32); 2] {
    match reader {
        Reader::Go => [("mounts", 0o750), ("shared", 0o700)],
        Reader::Rust => [("rw", 0o750), ("ro", 0o700)],
    }
}

/// Directory and mounts of one guest. Clones are the same share.
#[derive(Clone, Debug)]
pub struct Share {
    root: PathBuf,
    reader: Reader,
    /// Snapshots in it, by container.
    bound: Arc<Mutex<BTreeMap<String, Bound>>>,
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
            return Err(undone(error, share.remove()));
        }
        match share.build() {
            Ok(()) => Ok(share),
            Err(error) => Err(undone(error, share.remove())),
        }
    }

    /// One that is there, whoever made it: to clean up after a runtime that died.
    pub fn open(root: impl Into<PathBuf>, reader: Reader) -> Self {
        Self { root: root.into(), reader, bound: Arc::default() }
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
        let Some(directory) = open_if_there(&self.writable())? else { return Ok(Vec::new()) };
        let entries = fs::read_dir(path_of(directory.as_fd())).and_then(Iterator::collect);
        let entries: Vec<fs::DirEntry> =
            entries.map_err(|cause| failed("read directory", &self.writable(), cause))?;
        let is_directory = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        Ok(entries.into_iter().filter(is_directory).map(|entry| entry.file_name()).collect())
    }

    /// Puts a container's snapshot where the guest sees it.
    pub(crate) fn add(&self, cid: &str, snapshotdir: &Path) -> Result<()> {
        let container = self.writable().join(cid);
        let made = || {
            directory(&container, 0o750)?;
            let opened = open(&container)?;
            let inside = path_of(opened.as_fd());
            let target = inside.join("snapshotdir");
            directory(&inside.join("rootfs"), 0o750)?;
            directory(&target, 0o750)?;
            let bound = Bound::new(snapshotdir, open(&target)?.as_fd());
            let bound = at("bind", &container, bound)?;
            let done = bound.confine();
            // Held before anything else can fail: without it nobody could find the mount.
            self.bound().insert(cid.to_owned(), bound);
            // What goes below ours stays on the host.
            at("make slave", &container, done)?;
            self.seen(cid)
        };
        made().map_err(|error| undone(error, self.take_out(cid)))
    }

    /// Whether what was mounted reached the view that the guest sees.
    fn seen(&self, cid: &str) -> Result<()> {
        let upper = self.served().join(cid).join("snapshotdir/fs");
        if let Err(cause) = upper.metadata() {
            return Err(failed("the snapshot is not seen at", &upper, cause));
        }
        // The copy in the view is held, too, should it not follow when the first is detached.
        if let Some(bound) = self.bound().get_mut(cid) {
            bound.hold_copy(&self.view().join(cid).join("snapshotdir"));
        }
        Ok(())
    }

    /// Takes a container's snapshot out again, wherever a guest has moved it, and removes its
    /// directory. What is left of that because a guest fills it, has moved it, or has moved
    /// another container into it, goes with the share.
    pub(crate) fn take_out(&self, cid: &str) -> Result<()> {
        is_name(cid.as_ref())?;
        let container = self.writable().join(cid);
        let bound = self.bound().remove(cid);
        let detached = bound.map_or(Ok(()), |bound| at("unmount", &container, bound.detach()));
        all([detached, remove_below(&self.writable(), cid.as_ref(), STEPS).map(drop)])
    }

    /// Removes what [`Share::create`] made, whatever is in it: all is unmounted first, so that no
    /// snapshot is reached. Waits for no user of a mount.
    ///
    /// # Errors
    /// What could not be unmounted or removed; all else is.
    pub fn remove(&self) -> Result<()> {
        let bound = std::mem::take(&mut *self.bound()).into_values();
        let mut done: Vec<_> =
            bound.map(|bound| at("unmount", &self.root, bound.detach())).collect();
        done.push(self.detach_all());
        for (name, _) in names(self.reader) {
            done.push(match remove_below(&self.root, name.as_ref(), u64::MAX) {
                Ok(false) => {
                    let cause = io::ErrorKind::ResourceBusy.into();
                    Err(failed("something is mounted in", &self.root.join(name), cause))
                }
                removed => removed.map(drop),
            });
        }
        done.push(match fs::remove_dir(&self.root) {
            // Whoever made the directory has mounted something there.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|cause| failed("remove directory", &self.root, cause)),
        });
        all(done)
    }

    /// Detaches all mounts of the share, by whatever names they are reached.
    fn detach_all(&self) -> Result<()> {
        let read = || {
            let read = mountinfo::read();
            read.map_err(|cause| failed("read the mounts below", &self.root, cause))
        };
        // The kernel's paths have no links.
        let Ok(root) = self.root.canonicalize() else { return Ok(()) };
        // The root's own mount takes along all that is below it. What may lie under it is not ours.
        let whole = match mountinfo::is_bound_to_itself(&read()?, &root) {
            true => {
                let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
                at("unmount", &root, unmount(&root, flags))
            }
            false => Ok(()),
        };
        // A share that somebody else made may have no mount of its own.
        let mut before = usize::MAX;
        loop {
            let mounts = read()?;
            let below =
                mounts.iter().filter(|mount| mount.point.starts_with(&root) && mount.point != root);
            let below: Vec<_> = below.collect();
            if below.is_empty() || below.len() >= before {
                return all([whole, left(&below)]);
            }
            before = below.len();
            // Those that hide others come last in the table.
            for mount in below.iter().rev() {
                // One that stays is met again, and told.
                let _ = mountinfo::detach(mount);
            }
        }
    }

    fn bound(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Bound>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nothing must be left.
fn left(mounts: &[&mountinfo::Entry]) -> Result<()> {
    mounts.first().map_or(Ok(()), |mount| {
        Err(failed("cannot unmount", &mount.point, io::ErrorKind::ResourceBusy.into()))
    })
}

/// Removes an entry of a directory, which may not be there, down to what is mounted in it.
fn remove_below(directory: &Path, name: &OsStr, steps: u64) -> Result<bool> {
    let Some(opened) = open_if_there(directory)? else { return Ok(true) };
    let path = directory.join(name);
    let removed = sweep::remove(opened.as_fd(), name, steps);
    removed.map_err(|cause| failed("remove", &path, cause))
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

fn at<T>(what: &'static str, path: &Path, done: rustix::io::Result<T>) -> Result<T> {
    done.map_err(|error| failed(what, path, error.into()))
}

fn directory(path: &Path, mode: u32) -> Result<()> {
    let made = DirBuilder::new().mode(mode).create(path);
    made.map_err(|cause| failed("make directory", path, cause))
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
pub(crate) fn path_of(directory: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}
