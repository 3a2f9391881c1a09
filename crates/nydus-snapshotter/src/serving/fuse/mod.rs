//! RAFS images that `nydusd` serves on this host: one daemon for each, or one for all. What is
//! served is in the store before a daemon starts, so none is lost when we are killed.

pub(super) mod adopt;
mod cached;
mod failover;
mod files;
mod first_file;
mod launch;
mod records;
mod template;

use super::ServedImage;
use crate::cache;
use crate::config::Config;
use crate::layout::Layout;
use crate::registry::credentials;
use crate::registry::explain;
use crate::store::{self, Set, Store};
use nydus_mount_slice::Secret;
use nydusd_client::{Binary, Daemon, Mode, Spec, bootstrap};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Mutex, OnceCell};
use tokio::task::spawn_blocking;

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

/// An image that can be read on the host.
#[derive(Clone, Debug)]
pub struct Served {
    /// What it is.
    pub image: ServedImage,
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
    pub(super) since: Instant,
    gone: AtomicBool,
    stopping: AtomicBool,
    /// Kept for a successor.
    pub(super) session: Mutex<Option<failover::Session>>,
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

/// Starts and stops daemons. Which image has which is for [`super::Serving`] to know.
pub(crate) struct Fuse {
    pub(super) config: Arc<Config>,
    /// Control group of the daemons.
    pub(super) cgroup: Option<PathBuf>,
    pub(super) layout: Layout,
    pub(super) store: Store,
    pub(super) binary: OnceCell<Binary>,
    /// The daemon of all images.
    pub(super) shared: Arc<Mutex<Option<Arc<Live>>>>,
    /// Told of each daemon that ends by itself.
    pub(super) died: UnboundedSender<Arc<Live>>,
}

impl Fuse {
    /// Removes the logs of an image's daemon.
    pub(crate) fn discard_logs(&self, id: u64) -> io::Result<()> {
        files::discard_logs(&self.config, &files::dedicated(id))
    }

    /// `nydusd`'s configuration for an image, as it would be now. A credential helper that hangs
    /// must not keep an image from being served of which something is cached.
    pub(crate) async fn config(&self, image: &ServedImage) -> Result<Secret, Error> {
        match files::render(&self.config, image, true).await {
            Err(Error::NoCredentials(error)) if self.is_cached(image).await? => {
                tracing::warn!(snapshot = image.id, %error, "there are no credentials");
                files::render(&self.config, image, false).await
            }
            rendered => rendered,
        }
    }

    /// Whether something of an image is cached.
    async fn is_cached(&self, image: &ServedImage) -> Result<bool, Error> {
        let (cache, blobs) = (self.config.cache.clone(), image.blobs.clone());
        let bootstrap = self.layout.bootstrap(image.id);
        let look = move || cache::has_data(&cache, &blobs, &bootstrap).unwrap_or_default();
        Ok(spawn_blocking(look).await?)
    }

    /// Waits for the end of a daemon.
    fn watch(&self, live: &Arc<Live>) {
        let (live, died) = (Arc::clone(live), self.died.clone());
        tokio::spawn(async move {
            let exit = live.daemon.ended().await;
            live.gone.store(true, Ordering::Release);
            if !live.stopping.load(Ordering::Acquire) {
                let report = live.daemon.report();
                tracing::error!(daemon = live.id, %exit, report, "nydusd has died");
                // Nobody is told when we end.
                let _ = died.send(live);
            }
        });
    }
}
