//! RAFS images that `nydusd` serves on this host: one daemon for each, or one for all.
//!
//! An image has a slot of its own, and a slot its lock: a slow image holds up nobody else. What
//! is served is in the store before a daemon starts, so none is lost when we are killed.

mod failover;
mod files;
mod first_file;
mod launch;
mod records;
mod recover;
mod template;
mod watch;

use crate::config::{DaemonMode, Recover};
use crate::labels::Labels;
use crate::layout::Layout;
use crate::registry::credentials;
use crate::registry::explain;
use crate::store::{self, Set, Store};
use nydus_mount_slice::Secret;
use nydusd_client::{Binary, Daemon, Mode, Spec, bootstrap};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as Plain, PoisonError};
use std::time::Instant;
use tokio::sync::{Mutex, OnceCell};

/// What was started, by the daemon's name.
pub const DAEMONS: Set<DaemonRecord> = Set::new("daemons");
/// What is served, by the number of the snapshot with the bootstrap.
pub const INSTANCES: Set<InstanceRecord> = Set::new("instances");

/// Name of the daemon that serves all images.
const SHARED: &str = "shared";

/// A daemon, as far as a later run must know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonRecord {
    /// Socket of its API.
    pub socket: PathBuf,
    /// Where it mounts.
    pub mountpoint: PathBuf,
    /// Whether it serves all images.
    pub shared: bool,
}

impl DaemonRecord {
    fn of(spec: &Spec) -> Self {
        let mountpoint = spec.mountpoint().unwrap_or(Path::new("")).to_owned();
        let shared = matches!(spec.mode, Mode::Shared { .. });
        Self { socket: spec.apisock.clone(), mountpoint, shared }
    }
}

/// An image that is served, as far as a later run must know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// The daemon's name.
    pub daemon: String,
    /// Where the image is mounted.
    pub lower: PathBuf,
}

/// How images are served.
#[derive(Clone, Debug)]
pub struct Settings {
    /// One daemon for each image, one for all, or none.
    pub mode: DaemonMode,
    /// `nydusd`.
    pub program: PathBuf,
    /// Template of its configuration.
    pub template: PathBuf,
    /// Where blobs are cached.
    pub cache: PathBuf,
    /// Where daemons log.
    pub logs: PathBuf,
    /// `nydusd`'s log level.
    pub log_level: String,
    /// Size in MiB at which a daemon's log is rotated.
    pub log_rotation: u32,
    /// Threads of a daemon; 0 for its own default.
    pub threads: u32,
    /// What is done when a daemon dies.
    pub recover: Recover,
    /// Whether a registry's certificate is not verified.
    pub skip_verify: bool,
    /// `--failover-policy`.
    pub failover_policy: String,
    /// Control group of the daemons.
    pub cgroup: Option<PathBuf>,
}

/// An image, as its snapshots tell it.
#[derive(Clone, Debug)]
pub struct Image {
    /// Number of the snapshot with the bootstrap.
    pub id: u64,
    /// Name of that snapshot, empty if not known.
    pub key: String,
    /// Labels of that snapshot.
    pub labels: Labels,
    /// Digests of its data layers, where labels tell them.
    pub blobs: Vec<String>,
}

/// An image that can be read on the host.
#[derive(Debug)]
pub struct Served {
    /// What it is.
    pub image: Image,
    /// Where it is mounted.
    pub lower: PathBuf,
    /// `nydusd`'s configuration for it.
    pub config: Secret,
    /// Who serves it.
    pub live: Arc<Live>,
}

/// A daemon that runs.
#[derive(Debug)]
pub struct Live {
    /// Its name.
    pub id: String,
    /// Its process.
    pub daemon: Daemon,
    /// Whether it serves all images.
    pub shared: bool,
    since: Instant,
    gone: AtomicBool,
    stopping: AtomicBool,
    /// Kept for a successor.
    session: Mutex<Option<failover::Session>>,
}

impl Live {
    fn new(id: &str, daemon: Daemon, shared: bool) -> Arc<Self> {
        let (gone, stopping) = (AtomicBool::new(false), AtomicBool::new(false));
        let (id, since) = (id.to_owned(), Instant::now());
        let session = Mutex::default();
        Arc::new(Self { id, daemon, shared, since, gone, stopping, session })
    }

    /// Whether its process has ended; also when nobody was told yet.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire) || self.daemon.has_ended()
    }
}

/// Why an image is not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The template cannot be read, or is no JSON.
    #[error("nydusd configuration {}: {}", .0.display(), .1)]
    Template(PathBuf, String),
    /// It makes no configuration of this image.
    #[error(transparent)]
    Config(#[from] template::Error),
    /// The bootstrap is damaged.
    #[error(transparent)]
    Bootstrap(#[from] bootstrap::Error),
    /// `nydusd` cannot be started, or refuses the image.
    #[error(transparent)]
    Daemon(#[from] nydusd_client::Error),
    /// Docker's credential helper hangs.
    #[error(transparent)]
    NoCredentials(#[from] credentials::Late),
    /// The registry does not give the image's data.
    #[error(transparent)]
    Registry(#[from] explain::Error),
    /// Reading through the mount failed.
    #[error("cannot read {} through nydusd: {}", .0.display(), .1)]
    Unreadable(PathBuf, io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A file or directory of ours.
    #[error("{}: {}", .0.display(), .1)]
    File(PathBuf, io::Error),
    /// It died, and shall not be started again.
    #[error("nydusd {0} has died and recover_policy is none")]
    Died(String),
    /// We end, or a bug.
    #[error("interrupted: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// `None` if nobody serves the image.
type Slot = Arc<Mutex<Option<Arc<Served>>>>;

/// The images that are served.
pub struct Images {
    settings: Settings,
    layout: Layout,
    store: Store,
    binary: OnceCell<Binary>,
    slots: Plain<HashMap<u64, Slot>>,
    shared: Arc<Mutex<Option<Arc<Live>>>>,
    /// Of an earlier run: name, whether shared, socket.
    unanswering: Plain<BTreeMap<String, (bool, PathBuf)>>,
}

impl Images {
    /// Nothing is served at first, see [`Images::recover`].
    pub fn new(settings: Settings, layout: Layout, store: Store) -> Arc<Self> {
        let (binary, slots, shared) = (OnceCell::new(), Plain::default(), Arc::default());
        let unanswering = Plain::default();
        Arc::new(Self { settings, layout, store, binary, slots, shared, unanswering })
    }

    /// One daemon for each image, one for all, or none.
    pub fn mode(&self) -> DaemonMode {
        self.settings.mode
    }

    /// Serves an image, unless that is done already.
    ///
    /// # Errors
    /// It cannot be served or not be read; then nothing of the attempt stays.
    pub async fn serve(self: &Arc<Self>, image: Image) -> Result<Arc<Served>, Error> {
        let mut slot = self.slot(image.id).lock_owned().await;
        match slot.as_ref() {
            Some(served) if !served.live.is_gone() => return Ok(Arc::clone(served)),
            Some(served) if self.settings.recover == Recover::None => {
                return Err(Error::Died(served.live.id.clone()));
            }
            _ => {}
        }
        let images = Arc::clone(self);
        to_the_end(async move {
            let served = Arc::new(images.launch(image).await?);
            *slot = Some(Arc::clone(&served));
            Ok(served)
        })
        .await
    }

    /// Whether an image is served. Waits for who is at it.
    pub async fn is_served(&self, id: u64) -> bool {
        let slot = self.slots().get(&id).map(Arc::clone);
        match slot {
            Some(slot) => slot.lock().await.as_ref().is_some_and(|served| !served.live.is_gone()),
            None => false,
        }
    }

    /// Stops to serve an image, if `unused` still says so once nobody else is at it.
    ///
    /// # Errors
    /// The daemon does not end, or refuses; the image is served still.
    pub async fn release(
        self: &Arc<Self>,
        id: u64,
        unused: impl FnOnce(&Image) -> bool,
    ) -> Result<(), Error> {
        let mut slot = self.slot(id).lock_owned().await;
        let lost = slot.as_ref().filter(|served| unused(&served.image)).map(Arc::clone);
        let images = Arc::clone(self);
        to_the_end(async move {
            if let Some(served) = lost {
                images.stop(&served).await?;
                *slot = None;
            }
            drop(slot);
            images.forget_empty_slots();
            Ok(())
        })
        .await
    }

    /// Ends the daemon of all images if it serves none.
    ///
    /// # Errors
    /// It does not end.
    pub async fn release_shared(self: &Arc<Self>) -> Result<(), Error> {
        self.forget_empty_slots();
        let mut shared = Arc::clone(&self.shared).lock_owned().await;
        let slots: Vec<Slot> = self.slots().values().cloned().collect();
        // A slot that somebody holds may be just about to use it.
        let uses = |slot: &Slot| slot.try_lock().map_or(true, |served| served.is_some());
        if shared.is_none() || slots.iter().any(uses) {
            return Ok(());
        }
        let images = Arc::clone(self);
        to_the_end(async move {
            if let Some(live) = shared.as_ref() {
                images.stop_daemon(live).await?;
            }
            *shared = None;
            Ok(())
        })
        .await
    }

    /// All that is served, by number. What is just being started or stopped is left out.
    pub fn served(&self) -> Vec<Arc<Served>> {
        let slots: Vec<Slot> = self.slots().values().cloned().collect();
        let served = |slot: &Slot| slot.try_lock().ok()?.clone();
        let mut all: Vec<_> = slots.iter().filter_map(served).collect();
        all.sort_by_key(|served| served.image.id);
        all
    }

    /// Daemons that serve something, or wait for that.
    pub fn daemons(&self) -> Vec<Arc<Live>> {
        let mut all: Vec<_> = self.served().iter().map(|served| Arc::clone(&served.live)).collect();
        all.extend(self.shared.try_lock().ok().and_then(|shared| shared.clone()));
        all.sort_by(|one, other| one.id.cmp(&other.id));
        all.dedup_by(|one, other| Arc::ptr_eq(one, other));
        all
    }

    /// Daemons of an earlier run that live and do not answer: names, whether shared, sockets.
    pub fn unanswering(&self) -> BTreeMap<String, (bool, PathBuf)> {
        self.unanswering.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Removes the logs of an image's daemon, with the image's snapshot.
    ///
    /// # Errors
    /// The disk failed.
    pub fn discard_logs(&self, id: u64) -> io::Result<()> {
        files::discard_logs(&self.settings, &files::dedicated(id))
    }

    /// Numbers of all images that have a slot.
    pub fn known(&self) -> Vec<u64> {
        self.slots().keys().copied().collect()
    }

    /// `nydusd`'s configuration for an image, as it would be now.
    ///
    /// # Errors
    /// A bad template, an image that does not fit it, a credential helper that hangs.
    pub async fn config(&self, image: &Image) -> Result<Secret, Error> {
        files::render(&self.settings, image).await
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, id: u64) -> Slot {
        Arc::clone(self.slots().entry(id).or_default())
    }

    /// Keeps an image that is not served from being served, until this is dropped.
    pub fn hold(&self, id: u64) -> Option<impl Send + use<>> {
        let slot = self.slot(id).try_lock_owned().ok()?;
        slot.is_none().then_some(slot)
    }

    /// Drops slots that are empty and that nobody holds.
    fn forget_empty_slots(&self) {
        let empty = |slot: &Slot| slot.try_lock().is_ok_and(|served| served.is_none());
        self.slots().retain(|_, slot| Arc::strong_count(slot) > 1 || !empty(slot));
    }
}

/// Does this to the end, also when who waits for it is gone: half of it would be in no slot.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await?
}
