//! Takes over a host from the Go snapshotter: its records become ours, its files stay as they
//! are, which is the way back.

mod bbolt;
mod daemons;
mod snapshots;

pub use self::daemons::{GoDaemon, GoInstance};
use crate::images::{DAEMONS, DaemonRecord, INSTANCES, InstanceRecord};
use crate::layout::Layout;
use crate::store::{self, Draft, Record, Store};
use bbolt::{Bucket, File};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The greatest number of a snapshot that can be right: one a nanosecond for a century.
const MOST: u64 = 1 << 62;

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
    /// There are snapshots, but no records of them.
    #[error(
        "root {}: there are directories in snapshots/, but neither snapshots.redb nor metadata.db: \
         restore one from a backup, or move the directories away", .0.display()
    )]
    Lost(PathBuf),
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
    let length = |path: &Path| match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(|meta| Some(meta.len())).map_err(|e| Error::File(path.to_owned(), e)),
    };
    if length(&layout.store())?.is_some() {
        return Ok(Found::Ours);
    }
    if length(&metadata)?.is_some_and(|length| length > 0) {
        return Ok(Found::Go);
    }
    let any = !directories(layout)?.is_empty();
    Ok(if any { Found::Lost } else { Found::Empty })
}

/// Whether the Go snapshotter's records are to be taken over.
///
/// # Errors
/// The root cannot be looked at.
pub fn needed(root: &Path) -> Result<bool, Error> {
    Ok(found(&Layout::new(root))? == Found::Go)
}

/// Opens the store of this root, whoever wrote there before.
///
/// # Errors
/// There are snapshots without records; the Go snapshotter's cannot be taken over.
pub fn open(layout: &Layout) -> Result<Store, Error> {
    match found(layout)? {
        Found::Ours | Found::Empty => Ok(Store::open(&layout.store())?),
        Found::Lost => Err(Error::Lost(layout.root().to_owned())),
        Found::Go => {
            let (store, imported) = take_over(layout)?;
            for warning in &imported.warnings {
                tracing::warn!("takeover: {warning}");
            }
            let Imported { records, next_id, daemons, instances, .. } = &imported;
            tracing::info!(
                snapshots = records.len(),
                daemons = daemons.len(),
                images = instances.len(),
                next_id,
                "the Go snapshotter's records are taken over"
            );
            Ok(store)
        }
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
    let all = imported.clone();
    let store = Store::create_filled(&layout.store(), move |draft| fill(draft, &all))?;
    Ok((store, imported))
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

/// The Go snapshotter's files.
struct Files {
    layout: Layout,
    metadata: Option<File>,
    /// The Go program opens this one when it starts, the other one at the first call.
    nydus: Option<File>,
}

impl Files {
    fn open(root: &Path) -> Result<Self, Error> {
        let nydus = File::open(&root.join("nydus.db"))?;
        Ok(Self { layout: Layout::new(root), metadata: File::open(&metadata(root))?, nydus })
    }

    fn read(&self) -> Result<Imported, Error> {
        let read = self.metadata.as_ref().map(snapshots::read).transpose()?.unwrap_or_default();
        let nydus = self.nydus.as_ref().map(daemons::read).transpose()?.unwrap_or_default();
        let numbers = read.records.iter().map(|record| record.id).chain(directories(&self.layout)?);
        let last = numbers.fold(read.last, u64::max);
        let mut imported = Imported {
            records: read.records,
            next_id: last + 1,
            daemons: nydus.daemons,
            instances: nydus.instances,
            warnings: [read.warnings, nydus.warnings].concat(),
        };
        imported.drop_strays();
        Ok(imported)
    }
}

impl Imported {
    /// Leaves out daemons and images that could not be found by what their records say.
    fn drop_strays(&mut self) {
        let Self { daemons, instances, warnings, .. } = self;
        daemons.retain(|daemon| {
            let found = [&daemon.api_socket, &daemon.mountpoint];
            let keep = !daemon.id.is_empty() && found.iter().all(|path| path.is_absolute());
            let (id, why) = (&daemon.id, "its record has no name, socket or mountpoint");
            if !keep {
                warnings.push(format!("daemon {id:?} is left out: {why}"));
            }
            keep
        });
        instances.retain(|instance| {
            let known = daemons.iter().any(|daemon| daemon.id == instance.daemon_id);
            let keep = known && instance.snapshot_id.parse::<u64>().is_ok();
            // An image for guests has no daemon.
            if !keep && !instance.daemon_id.is_empty() {
                let why = "its record has no known daemon or no number of a snapshot";
                warnings.push(format!("image {:?} is left out: {why}", instance.snapshot_id));
            }
            keep
        });
    }
}

/// The bucket of all that is read here; `None` in a file that nothing was put in.
fn version(file: &File) -> Result<Option<Bucket<'_>>, Error> {
    let root = file.root()?;
    let version = root.bucket(b"v1")?;
    if version.is_none() && root.keys().next().is_some() {
        return Err(file.older());
    }
    Ok(version)
}

fn metadata(root: &Path) -> PathBuf {
    root.join("metadata.db")
}

/// Numbers of the snapshots' directories.
fn directories(layout: &Layout) -> Result<Vec<u64>, Error> {
    let path = layout.snapshots();
    let failed = |error| Error::File(path.clone(), error);
    let entries = match fs::read_dir(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.map_err(failed)?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|name| name.parse::<u64>().ok());
        numbers.extend(number.filter(|number| *number <= MOST));
    }
    Ok(numbers)
}
