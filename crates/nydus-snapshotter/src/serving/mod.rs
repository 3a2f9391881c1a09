//! Who serves which image: `nydusd` over FUSE, the kernel (EROFS), or each for some containers.
//!
//! An image has one [`Entry`], with all that is known of it, and one lock: whoever starts, mounts
//! or ends what serves it takes its `Turn`, so a slow image holds up nobody else. The back ends,
//! [`fuse`] and [`kernel`], do it and remember nothing. What a later run must know is in the store
//! and on disk. Snapshots are not known here: who needs an image is told.

mod adopt;
mod died;
mod entry;
pub mod fuse;
mod health;
mod image;
mod job;
pub mod kernel;
mod lower;
mod promotion;
mod rate;
mod read;

pub use entry::{Entry, Known, Seen};
pub use image::ServedImage;
pub use job::{Job, Stage};
pub use lower::Need;

use crate::config::{Config, Recover};
use crate::layout::Layout;
use crate::store::Store;
use fuse::{Fuse, Live, Served};
use kernel::Kernel;
use rate::RateLimit;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OnceCell, OwnedMutexGuard};

/// The right to change who serves an image.
pub(crate) type Turn = OwnedMutexGuard<()>;

/// Why an image is not served as it must be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not by `nydusd`.
    #[error(transparent)]
    Fuse(#[from] fuse::Error),
    /// Not by the kernel.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
}

impl Error {
    /// Whether trying again is of no use.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Kernel(error) if error.is_final())
    }
}

/// Serves images.
pub struct Serving {
    config: Arc<Config>,
    pub(crate) fuse: Fuse,
    pub(crate) kernel: Kernel,
    rate: Option<RateLimit>,
    entries: Mutex<BTreeMap<u64, Entry>>,
    /// Daemons of an earlier run that live and do not answer: whether shared, sockets.
    unanswering: Mutex<BTreeMap<String, (bool, PathBuf)>>,
    /// An image was promoted, or a job has failed.
    changed: AtomicBool,
    /// The last job that nobody asked for.
    background: Mutex<Option<Job>>,
}

impl Serving {
    /// Finds what earlier runs promoted. Of daemons, which get the control group `cgroup`, none is
    /// known at first: see [`Serving::adopt`].
    ///
    /// # Errors
    /// The directory of promoted images cannot be read.
    pub fn new(
        config: &Arc<Config>,
        cgroup: Option<PathBuf>,
        layout: &Layout,
        store: Store,
    ) -> io::Result<Arc<Self>> {
        let (died, deaths) = tokio::sync::mpsc::unbounded_channel();
        let (kernel, found) = Kernel::open(Arc::clone(config), layout.clone())?;
        let entry = |(id, progress)| {
            let known = Known { promoted: true, progress, ..Known::default() };
            (id, Entry { known, ..Entry::default() })
        };
        let (binary, shared) = (OnceCell::new(), Arc::default());
        let (daemons, layout) = (Arc::clone(config), layout.clone());
        let serving = Arc::new(Self {
            config: Arc::clone(config),
            fuse: Fuse { config: daemons, cgroup, layout, store, binary, shared, died },
            kernel,
            rate: config.warm_rate.map(RateLimit::new),
            entries: Mutex::new(found.into_iter().map(entry).collect()),
            unanswering: Mutex::default(),
            changed: AtomicBool::new(false),
            background: Mutex::default(),
        });
        tokio::spawn(Arc::clone(&serving).replace(deaths));
        Ok(serving)
    }

    /// Lets `nydusd` serve an image, unless it does already.
    ///
    /// # Errors
    /// It cannot be served or not be read; then nothing of the attempt stays.
    pub async fn by_fuse(
        self: &Arc<Self>,
        image: &ServedImage,
    ) -> Result<Arc<Served>, fuse::Error> {
        let turn = self.turn(image.id).await;
        match self.entry(image.id, |entry| entry.fuse.clone()) {
            Some(served) if !served.live.is_gone() => Ok(served),
            Some(served) if self.config.recover == Recover::None => {
                Err(fuse::Error::Died(served.live.id.clone()))
            }
            _ => self.launch(turn, image.clone()).await,
        }
    }

    async fn launch(
        self: &Arc<Self>,
        turn: Turn,
        image: ServedImage,
    ) -> Result<Arc<Served>, fuse::Error> {
        let serving = Arc::clone(self);
        tokio::spawn(async move {
            let (_turn, id) = (turn, image.id);
            serving.entry(id, |entry| entry.starting = true);
            let served = serving.fuse.launch(image).await.map(Arc::new);
            serving.entry(id, |entry| {
                entry.starting = false;
                if let Ok(served) = &served {
                    entry.fuse = Some(Arc::clone(served));
                }
            });
            served
        })
        .await?
    }

    /// Lets the kernel's half do something that waits for the disk, to the end.
    async fn kernel_in_turn<T: Send + 'static>(
        self: &Arc<Self>,
        turn: Turn,
        work: impl FnOnce(&Self) -> Result<T, kernel::Error> + Send + 'static,
    ) -> Result<T, kernel::Error> {
        let serving = Arc::clone(self);
        let work = move || {
            let _turn = turn;
            work(&serving)
        };
        tokio::task::spawn_blocking(work).await?
    }

    /// Ends the daemon of an image, or takes the image from the daemon of all, if `unused` still
    /// says so once nobody else is at it.
    ///
    /// # Errors
    /// The daemon does not end, or refuses; the image is served still.
    pub async fn release(
        self: &Arc<Self>,
        id: u64,
        unused: impl FnOnce(&ServedImage) -> bool,
    ) -> Result<(), fuse::Error> {
        if !self.entries().contains_key(&id) {
            return Ok(());
        }
        let turn = self.turn(id).await;
        let served = self.entry(id, |entry| entry.fuse.clone());
        let Some(served) = served.filter(|served| unused(&served.image)) else { return Ok(()) };
        let serving = Arc::clone(self);
        tokio::spawn(async move {
            let _turn = turn;
            serving.fuse.stop(&served).await?;
            serving.entry(id, |entry| (entry.fuse, entry.seen) = Default::default());
            Ok(())
        })
        .await?
    }

    /// Ends the daemon of all images if it serves none.
    ///
    /// # Errors
    /// It does not end.
    pub async fn release_shared(self: &Arc<Self>) -> Result<(), fuse::Error> {
        let mut shared = Arc::clone(&self.fuse.shared).lock_owned().await;
        // One that is being started is just about to use it.
        let uses = |entry: &Entry| entry.starting || entry.fuse.is_some();
        if self.entries().values().any(uses) {
            return Ok(());
        }
        let serving = Arc::clone(self);
        tokio::spawn(async move {
            if let Some(live) = shared.as_ref() {
                serving.fuse.stop_daemon(live, None).await?;
            }
            *shared = None;
            Ok(())
        })
        .await?
    }

    /// Unmounts an image that the kernel serves, if `unused` still says so once nobody else is at
    /// it.
    ///
    /// # Errors
    /// It cannot be unmounted.
    pub async fn unmount(
        self: &Arc<Self>,
        id: u64,
        unused: impl FnOnce() -> bool,
    ) -> Result<(), kernel::Error> {
        let turn = self.turn(id).await;
        if !unused() {
            return Ok(());
        }
        self.kernel_in_turn(turn, move |serving| Ok(serving.kernel.unmount(id)?)).await
    }

    /// Ends all that serves an image, and removes what was promoted of it.
    ///
    /// # Errors
    /// Something stays.
    pub async fn remove(self: &Arc<Self>, id: u64) -> Result<(), Error> {
        if !self.entries().contains_key(&id) && !self.kernel.own(id).exists() {
            return Ok(());
        }
        loop {
            let job = self.entry(id, |entry| entry.known.job.clone());
            // Without its daemon a job that reads through it ends.
            job.iter().for_each(|job| job.control.stop());
            self.release(id, |_| true).await?;
            if let Some(job) = job {
                // It may just have started a daemon, and another may have begun.
                let _ = job.ended().await;
                continue;
            }
            let turn = self.turn(id).await;
            if self.entry(id, |entry| entry.known.job.is_some() || entry.fuse.is_some()) {
                continue;
            }
            let remove = move |serving: &Self| {
                serving.kernel.remove(id)?;
                serving.entries().remove(&id);
                Ok(())
            };
            return Ok(self.kernel_in_turn(turn, remove).await?);
        }
    }

    /// What is known of all images.
    pub fn all(&self) -> BTreeMap<u64, Entry> {
        self.entries().clone()
    }

    /// All images that `nydusd` serves, by number.
    pub fn served(&self) -> Vec<Arc<Served>> {
        self.entries().values().filter_map(|entry| entry.fuse.clone()).collect()
    }

    /// Daemons that serve something, or wait for that.
    pub fn daemons(&self) -> Vec<Arc<Live>> {
        let mut all: Vec<_> = self.served().iter().map(|served| Arc::clone(&served.live)).collect();
        all.extend(self.fuse.shared.try_lock().ok().and_then(|shared| shared.clone()));
        all.sort_by(|one, other| one.id.cmp(&other.id));
        all.dedup_by(|one, other| Arc::ptr_eq(one, other));
        all
    }

    /// Daemons of an earlier run that live and do not answer: names, whether shared, sockets.
    pub fn unanswering(&self) -> BTreeMap<String, (bool, PathBuf)> {
        locked(&self.unanswering).clone()
    }

    /// Keeps an image that `nydusd` does not serve from being served, until this is dropped.
    pub fn hold(&self, id: u64) -> Option<impl Send + use<>> {
        let turn = self.try_turn(id)?;
        self.entry(id, |entry| entry.fuse.is_none()).then_some(turn)
    }

    /// Ends all jobs soon, the daemon of all if it serves none, and with `all` what serves images.
    pub async fn close(self: &Arc<Self>, all: bool) {
        for (id, entry) in self.all() {
            entry.known.job.iter().for_each(|job| job.control.stop());
            if !all {
                continue;
            }
            if let Err(error) = self.release(id, |_| true).await {
                tracing::error!(id, %error, "the image's daemon cannot be stopped");
            }
            if entry.known.promoted
                && let Err(error) = self.unmount(id, || true).await
            {
                tracing::error!(id, %error, "the image cannot be unmounted");
            }
        }
        if let Err(error) = self.release_shared().await {
            tracing::error!(%error, "the shared daemon cannot be stopped");
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        locked(&self.entries)
    }

    /// Changes the entry of an image, unless that was removed meanwhile.
    fn entry_if_there<T>(&self, id: u64, change: impl FnOnce(&mut Entry) -> T) -> T {
        change(self.entries().get_mut(&id).unwrap_or(&mut Entry::default()))
    }

    /// Looks at the entry of an image, or changes it. Made if there is none.
    fn entry<T>(&self, id: u64, look: impl FnOnce(&mut Entry) -> T) -> T {
        look(self.entries().entry(id).or_default())
    }

    /// Waits until nobody else changes who serves an image.
    async fn turn(&self, id: u64) -> Turn {
        loop {
            let lock = self.entry(id, |entry| Arc::clone(&entry.turn));
            let turn = Arc::clone(&lock).lock_owned().await;
            // The image may have been removed meanwhile, and its lock with it.
            if self.entry(id, |entry| Arc::ptr_eq(&entry.turn, &lock)) {
                return turn;
            }
        }
    }

    fn try_turn(&self, id: u64) -> Option<Turn> {
        self.entry(id, |entry| Arc::clone(&entry.turn)).try_lock_owned().ok()
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
