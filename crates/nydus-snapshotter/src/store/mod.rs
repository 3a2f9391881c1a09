//! What the snapshotter remembers: snapshots, daemons, RAFS instances, in one file (redb).
//!
//! A change is a closure over a [`Draft`], which knows containerd's rules; its answer comes when
//! it is on disk. One thread takes all changes that wait into one transaction, so clients share
//! the wait for the disk; a change that fails undoes only itself. A read sees the last committed
//! state and waits for nobody.
//!
//! # Why redb
//!
//! It is pure Rust, in use and kept well; its reads wait for no writer, a commit is one wait for
//! the disk, pages have checksums, and what is in the file after a kill or a power cut is the
//! last commit. SQLite and LMDB are C, and LMDB's memory map ends the process on a bad disk;
//! the log-structured ones (fjall, sled) are many files for what is here a few megabytes.
//!
//! # Records and directories
//!
//! The record comes first, the directory after, and both before the answer:
//!
//! 1. Prepare, View: the record is durable; then `snapshots/<id>` is made; then, if the record
//!    (by its number) is still there, the client gets its answer, else the directory is removed. If
//!    making it fails, or the client is gone, [`Draft::remove`].
//! 2. Commit: what the layer holds is synced to disk; then the record changes.
//! 3. Remove: the record goes, and its number becomes garbage in the same transaction.
//! 4. Cleanup: for each number in [`Lookup::garbage`], unmount, remove the directory, then
//!    [`Draft::forget`]. What cannot be removed now stays garbage.
//!
//! So Cleanup never looks at what else lies in `snapshots/`: it removes a directory only if the
//! store had its record and removed it. A store that was lost, or a damaged record, has no
//! garbage. Killed at any instant, all that can be left over is a record without an answer,
//! which containerd removes, and whose directory may be missing. The power cut, a directory made
//! just before may be missing too: nothing in it was ever on disk. In both cases it is empty,
//! and is made again when it is asked for: a Commit's sync makes a committed one durable.

mod db;
mod disk;
mod draft;
mod error;
mod kv;
mod lookup;
mod record;
mod writer;

use std::path::Path;
use std::sync::Arc;

pub use self::db::Reader;
pub use self::draft::Draft;
pub use self::error::{Error, Result};
pub use self::kv::{Entry, Kv, Span, Table};
pub use self::lookup::{Lookup, Page, Set};
pub use self::record::{Kind, Record};

/// The open store; clones share it. The last one that is dropped closes the file.
#[derive(Clone)]
pub struct Store {
    db: Arc<db::Db>,
    writer: Arc<writer::Writer>,
}

impl Store {
    /// Opens the store at `path`, or makes an empty one.
    ///
    /// # Errors
    /// A file that is no store, is of a newer version, or is open in another process.
    pub fn open(path: &Path) -> Result<Self> {
        let db = Arc::new(db::Db::open(path)?);
        db.transaction(|writing| writer::attempt(writing, |draft| draft.index_images()))??;
        let writer = Arc::new(writer::Writer::start(Arc::clone(&db))?);
        Ok(Self { db, writer })
    }

    /// Makes a store at `path` that holds from its first instant what `fill` puts there.
    ///
    /// # Errors
    /// Like [`Store::open`]; a store that is there already; what `fill` fails with.
    pub fn create_filled<F>(path: &Path, fill: F) -> Result<Self>
    where
        F: FnOnce(&mut Draft<'_>) -> Result<()> + Send + 'static,
    {
        if std::fs::metadata(path).is_ok_and(|file| file.len() > 0) {
            return Err(Error::AlreadyExists(format!("store {path:?}")));
        }
        let unfinished = path.with_extension("new");
        if unfinished.try_exists()? {
            std::fs::remove_file(&unfinished)?;
        }
        Self::open(&unfinished)?.write_blocking(fill)?;
        std::fs::rename(&unfinished, path)?;
        disk::sync_directory(path)?;
        Self::open(path)
    }

    /// The last committed state.
    ///
    /// # Errors
    /// The database failed.
    pub fn read(&self) -> Result<Reader> {
        self.db.read()
    }

    /// Makes a change, and answers when it is durable. The change must not wait for anything; the
    /// thread that polls this may, for the disk. A future that is dropped leaves the change made or not
    /// made, never half.
    ///
    /// # Errors
    /// What the change fails with, and then nothing of it is made; the database failed.
    pub async fn write<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Draft<'_>) -> Result<T> + Send + 'static,
    {
        self.writer.submit(change).await.map_err(|_| writer::stopped())?
    }

    /// [`Store::write`] for a thread that may wait; panics in an asynchronous one.
    ///
    /// # Errors
    /// Like [`Store::write`].
    pub fn write_blocking<T, F>(&self, change: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Draft<'_>) -> Result<T> + Send + 'static,
    {
        self.writer.submit(change).blocking_recv().map_err(|_| writer::stopped())?
    }
}
