//! Takes over a host from the Go snapshotter: its records become ours, its files stay as they
//! are, which is the way back.

mod bbolt;
mod daemons;
mod go;
mod snapshots;

pub use self::daemons::{GoDaemon, GoInstance};
use crate::layout::Layout;
use crate::serving::fuse::{DAEMONS, DaemonRecord, INSTANCES, InstanceRecord};
use crate::store::{self, Draft, Lookup, Record, Set, Store};
use go::{Files, State, directories, metadata};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use tokio::task::block_in_place;

/// The greatest number of a snapshot that can be right: one a nanosecond for a century.
const MOST: u64 = 1 << 62;

/// In our store: the state of the files that were taken over.
const TAKEN: Set<State> = Set::new("takeover");
const STATE: &str = "state";

/// What the Go snapshotter left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Its snapshots.
    pub records: Vec<Record>,
    /// Above every number that it ever gave, and that a directory has.
    pub next_id: u64,
    /// Its `nydusd` processes.
    pub daemons: Vec<GoDaemon>,
    /// Images that those serve.
    pub instances: Vec<GoInstance>,
    /// What is left out, and why, a line each.
    pub warnings: Vec<String>,
}

/// Whose records a root has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Ours.
    Ours,
    /// The Go snapshotter's.
    Go,
    /// None, and no snapshots.
    Empty,
    /// None, but snapshots.
    Lost,
}

/// Why a root cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory cannot be read.
    #[error("{}: {}", .0.display(), .1)]
    File(PathBuf, io::Error),
    /// Somebody has the file open.
    #[error("{}: another process uses it: stop the Go snapshotter first", .0.display())]
    InUse(PathBuf),
    /// The file as a whole cannot be trusted.
    #[error("{}: {}: restore it from a backup", .0.display(), .1)]
    Damaged(PathBuf, String),
    /// An earlier program wrote the file.
    #[error("{}: it has no bucket v1: start the Go snapshotter 0.13 or later once, which converts it", .0.display())]
    Older(PathBuf),
    /// It is mounted in a way that we do not have.
    #[error("{what} {name:?} has driver {driver:?}, expected fusedev: remove its images first")]
    Driver {
        /// A daemon or an image.
        what: &'static str,
        /// Which one.
        name: String,
        /// Its driver.
        driver: String,
    },
    /// After it was taken over, it was used again.
    #[error(
        "root {}: the Go snapshotter ran here since its records were taken over: move \
         snapshots.redb away, then they are taken over again", .0.display()
    )]
    Stale(PathBuf),
    /// There are snapshots, but no records of them.
    #[error(
        "root {}: there are directories in snapshots/, but no records of any in snapshots.redb or \
         metadata.db: restore one from a backup, or move the directories away", .0.display()
    )]
    Lost(PathBuf),
    /// The Go snapshotter of Debian 13 had another default.
    #[error(
        "root {}: it is empty, and {} has the Go snapshotter's records: set root to that \
         directory, or move {} away", .0.display(), .1.display(), .1.join("metadata.db").display()
    )]
    Elsewhere(PathBuf, PathBuf),
    /// Our store.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Whose records are below this root.
///
/// # Errors
/// It cannot be looked at.
pub fn found(layout: &Layout) -> Result<Found, Error> {
    let metadata = metadata(layout.root());
    // One that was killed right when it made the file has nothing in it.
    let has = |path: &Path| match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        other => other.map(|meta| meta.len() > 0).map_err(|e| Error::File(path.to_owned(), e)),
    };
    if has(&layout.store())? {
        return Ok(Found::Ours);
    }
    if has(&metadata)? {
        return Ok(Found::Go);
    }
    let any = !directories(layout)?.is_empty();
    Ok(if any { Found::Lost } else { Found::Empty })
}

/// Opens the store of this root, whoever wrote there before. `elsewhere` is another root that the
/// Go snapshotter may have used under the same configuration.
///
/// # Errors
/// There are snapshots without records; the Go snapshotter's cannot be taken over, or are
/// elsewhere.
pub fn open(layout: &Layout, elsewhere: Option<&Path>) -> Result<Store, Error> {
    let found = found(layout)?;
    let other = elsewhere.filter(|root| found == Found::Empty && metadata(root).exists());
    if let Some(other) = other {
        return Err(Error::Elsewhere(layout.root().to_owned(), other.to_owned()));
    }
    let store = match found {
        Found::Lost => return Err(Error::Lost(layout.root().to_owned())),
        Found::Go => {
            let (store, imported) = take_over(layout)?;
            imported.log();
            store
        }
        Found::Empty | Found::Ours => Store::open(&layout.store())?,
    };
    if found == Found::Ours {
        check_current(layout, &store)?;
    }
    check_directories(layout, &store)?;
    Ok(store)
}

/// A store without any record is not the one of a root that has snapshots; and a number that a
/// directory has is not given again, whoever made it.
fn check_directories(layout: &Layout, store: &Store) -> Result<(), Error> {
    let read = store.read()?;
    let garbage = read.garbage()?;
    let mut numbers = directories(layout)?;
    numbers.retain(|number| !garbage.contains(number));
    let Some(last) = numbers.into_iter().max() else { return Ok(()) };
    let first = read.page("", 1)?;
    if first.found.is_empty() && first.damaged.is_empty() {
        return Err(Error::Lost(layout.root().to_owned()));
    }
    if last >= read.next_id()? {
        block_in_place(|| store.write_blocking(move |draft| draft.import(&[], last + 1)))?;
    }
    Ok(())
}

impl Imported {
    fn log(&self) {
        for warning in &self.warnings {
            tracing::warn!("takeover: {warning}");
        }
        tracing::info!(
            snapshots = self.records.len(),
            daemons = self.daemons.len(),
            images = self.instances.len(),
            next_number = self.next_id,
            "the Go snapshotter's records are taken over"
        );
    }
}

/// Reads what the Go snapshotter left below `root`.
///
/// # Errors
/// It runs still; its files cannot be read as a whole. A damaged record is a warning.
pub fn read(root: &Path) -> Result<Imported, Error> {
    Files::open(root)?.read()
}

/// Makes our store from what the Go snapshotter left, whole or not at all. Its files stay.
///
/// # Errors
/// Like [`read`]; the store cannot be made.
pub fn take_over(layout: &Layout) -> Result<(Store, Imported), Error> {
    // Open, and so locked, until all is done.
    let files = Files::open(layout.root())?;
    let imported = files.read()?;
    if imported.records.is_empty() && !directories(layout)?.is_empty() {
        return Err(Error::Lost(layout.root().to_owned()));
    }
    let (all, state) = (imported.clone(), files.state());
    let fill = move |draft: &mut Draft<'_>| {
        draft.put_item(&TAKEN, STATE, &state)?;
        fill(draft, &all)
    };
    // It waits for the store's thread, and we may be in one of the runtime's.
    let store = block_in_place(|| Store::create_filled(&layout.store(), fill))?;
    Ok((store, imported))
}

/// Our records are wrong if the Go snapshotter went on with its own: it gives numbers that are
/// garbage here.
fn check_current(layout: &Layout, store: &Store) -> Result<(), Error> {
    let Some(taken) = store.read()?.item(&TAKEN, STATE)? else { return Ok(()) };
    match Files::open(layout.root()) {
        Ok(files) if files.state().differs(taken) => Err(Error::Stale(layout.root().to_owned())),
        // Only the way back needs it.
        Ok(_) | Err(Error::Damaged(..)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn fill(draft: &mut Draft<'_>, all: &Imported) -> store::Result<()> {
    draft.import(&all.records, all.next_id)?;
    for daemon in &all.daemons {
        let (socket, mountpoint) = (daemon.api_socket.clone(), daemon.mountpoint.clone());
        let shared = daemon.daemon_mode == "shared";
        draft.put_item(&DAEMONS, &daemon.id, &DaemonRecord { socket, mountpoint, shared })?;
    }
    for instance in &all.instances {
        let (daemon, lower) = (instance.daemon_id.clone(), instance.mountpoint.clone());
        draft.put_item(&INSTANCES, &instance.snapshot_id, &InstanceRecord { daemon, lower })?;
    }
    Ok(())
}
