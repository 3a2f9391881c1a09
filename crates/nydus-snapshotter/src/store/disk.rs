//! The database's file, whose space is reserved before it is used: on a disk that others filled,
//! a change mostly still fits, and Remove is what makes space.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use redb::StorageBackend;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// Bytes behind the file's end that are kept for a full disk.
const RESERVE: u64 = 1 << 20;

/// The open and locked file.
#[derive(Debug)]
pub(super) struct Disk(File);

impl Disk {
    /// Opens or makes the file, mode 0600.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path)?;
        file.try_lock().map_err(|_| io::Error::other("it is in use by another process"))?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        sync_directory(path)?;
        let disk = Self(file);
        disk.reserve(disk.len()?);
        Ok(disk)
    }

    /// Takes space behind the end, for the time when there is none, as far as there is some now.
    fn reserve(&self, end: u64) {
        let _ = fallocate(&self.0, FallocateFlags::KEEP_SIZE, end, RESERVE);
    }
}

/// Makes the names in the directory of `path` durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let before = self.len()?;
        let Some(more) = len.checked_sub(before).filter(|more| *more > 0) else {
            return self.0.set_len(len);
        };
        match fallocate(&self.0, FallocateFlags::empty(), before, more) {
            // Not every file system can reserve.
            Err(Errno::OPNOTSUPP) => return self.0.set_len(len),
            Err(error) => return self.0.set_len(before).and(Err(error.into())),
            Ok(()) => self.reserve(len),
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    /// A view that outlives the database keeps the file open, but must not keep it locked.
    fn close(&self) -> io::Result<()> {
        self.0.unlock()
    }
}
