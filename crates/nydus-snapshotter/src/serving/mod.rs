//! Who serves which image: `nydusd` over FUSE, the kernel (EROFS), or each for some containers.
//!
//! An image has one [`Entry`], with all that is known of it, and one lock: whoever starts, mounts
//! or ends what serves it takes its [`Turn`], so a slow image holds up nobody else. The back ends,
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
mod promotion;
mod rate;
mod read;

pub use entry::{Entry, Known, Seen};
pub use image::ServedImage;
pub use job::{Job, Stage};

use crate::blocking::blocking;
use crate::config::{DaemonMode, Recover};
use crate::layout::Layout;
use crate::store::Store;
use fuse::{Fuse, Live, Served};
use kernel::Kernel;
use nydus_mount_slice::Secret;
use rafs_erofs::Error as Erofs;
use rate::RateLimit;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::OwnedMutexGuard;

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
    /// A file cannot be read through `nydusd`.
    #[error("cannot read {}: {}", .0.display(), .1)]
    Read(PathBuf, io::Error),
}

impl From<Erofs> for Error {
    fn from(error: Erofs) -> Self {
        Self::Kernel(error.into())
    }
}

impl Error {
    /// Whether trying again is of no use.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Kernel(error) if error.is_final())
    }
}

/// What a snapshot needs of its image.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Only the kernel may serve it.
    pub only_kernel: bool,
    /// It was made for the kernel's mount.
    pub kernel: bool,
}

/// Serves images.
pub struct Serving {
    fuse: Fuse,
    kernel: Kernel,
    rate: Option<RateLimit>,
    entries: Mutex<BTreeMap<u64, Entry>>,
    /// Daemons of an earlier run that live and do not answer: whether shared, sockets.
    unanswering: Mutex<BTreeMap<String, (bool, PathBuf)>>,
    /// An image was promoted, or a job has failed.
    changed: AtomicBool,
    /// The last job that nobody asked for.
    background: Mutex<Option<Job>>,
    /// It was said that the kernel serves nothing.
    told: AtomicBool,
}

impl Serving {
    /// Finds what earlier runs promoted. Of daemons none is known at first: see
    /// [`Serving::adopt`]. Background jobs read at most `rate` bytes a second.
    ///
    /// # Errors
    /// The directory of promoted images cannot be read.
    pub fn new(
        fuse: fuse::Settings,
        kernel: kernel::Settings,
        rate: Option<u64>,
        layout: &Layout,
        store: Store,
    ) -> io::Result<Arc<Self>> {
        let (died, deaths) = tokio::sync::mpsc::unbounded_channel();
        let (kernel, found) = Kernel::open(kernel, layout.clone())?;
        let entry = |(id, progress)| {
            let known = Known { promoted: true, progress, ..Known::default() };
            (id, Entry { known, ..Entry::default() })
        };
        let serving = Arc::new(Self {
            fuse: Fuse::new(fuse, layout.clone(), store, died),
            kernel,
            rate: rate.map(RateLimit::new),
            entries: Mutex::new(found.into_iter().map(entry).collect()),
            unanswering: Mutex::default(),
            changed: AtomicBool::new(false),
            background: Mutex::default(),
            told: AtomicBool::new(false),
        });
        tokio::spawn(Arc::clone(&serving).replace(deaths));
        Ok(serving)
    }

    /// One daemon for each image, one for all, or none.
    pub fn mode(&self) -> DaemonMode {
        self.fuse.settings.mode
    }

    /// Where the kernel serves an image for a snapshot; `None` if `nydusd` shall.
    ///
    /// # Errors
    /// Only the kernel may, and cannot.
    pub async fn lower(
        self: &Arc<Self>,
        image: &ServedImage,
        need: Need,
    ) -> Result<Option<PathBuf>, Arc<Error>> {
        if need.only_kernel {
            return self.completed(image).await.map(Some);
        }
        // A snapshot that got a daemon's mount keeps it as long as that daemon serves the image.
        if !need.kernel && self.is_served(image.id).await {
            return Ok(None);
        }
        Ok(self.by_kernel(image.id).await.unwrap_or_else(|error| {
            tracing::warn!(image = image.id, %error, "the image goes back to nydusd");
            None
        }))
    }

    /// The image by the kernel, however long it takes to complete it.
    async fn completed(self: &Arc<Self>, image: &ServedImage) -> Result<PathBuf, Arc<Error>> {
        let kernel = |error: kernel::Error| Arc::new(Error::from(error));
        // Again where its files have changed meanwhile.
        for _ in 0..2 {
            match self.by_kernel(image.id).await {
                Ok(Some(lower)) => return Ok(lower),
                Ok(None) => {}
                Err(error) => tracing::warn!(image = image.id, %error, "it is promoted again"),
            }
            tracing::info!(image = image.id, "a container waits until the image is complete");
            self.promote(image, true).ended().await?;
        }
        let mounted = self.by_kernel(image.id).await.map_err(kernel)?;
        mounted.ok_or_else(|| kernel(Erofs::Stopped.into()))
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
            Some(served) if self.fuse.settings.recover == Recover::None => {
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
        detached(async move {
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
        .await
    }

    /// Whether `nydusd` serves an image. Waits for who is at it.
    async fn is_served(&self, id: u64) -> bool {
        let _turn = self.turn(id).await;
        self.entry(id, |entry| entry.fuse.as_ref().is_some_and(|served| !served.live.is_gone()))
    }

    /// Mounts an image, unless that is done already, and says where; `None` if it is not promoted.
    /// Every file is looked at each time: one that is not what was verified ends that.
    async fn by_kernel(self: &Arc<Self>, id: u64) -> Result<Option<PathBuf>, kernel::Error> {
        if !self.is_promoted(id) {
            return Ok(None);
        }
        let way = self.kernel.support().await?;
        let turn = self.turn(id).await;
        if !self.is_promoted(id) {
            return Ok(None);
        }
        let serving = Arc::clone(self);
        let mount = move || {
            let _turn = turn;
            let mounted = serving.kernel.mount(id, way);
            if let Err(kernel::Error::Demoted(error)) = &mounted {
                serving.entry(id, |entry| entry.known.demoted(error.to_string()));
            }
            Ok(mounted)
        };
        let failed = |error| kernel::Error::File(self.kernel.files(id), error);
        blocking(mount).await.map_err(failed)?.map(Some)
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
        detached(async move {
            let _turn = turn;
            serving.fuse.stop(&served).await?;
            serving.entry(id, |entry| (entry.fuse, entry.seen) = Default::default());
            Ok(())
        })
        .await
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
        detached(async move {
            if let Some(live) = shared.as_ref() {
                serving.fuse.stop_daemon(live).await?;
            }
            *shared = None;
            Ok(())
        })
        .await
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
        let serving = Arc::clone(self);
        let unmount = move || {
            let _turn = turn;
            Ok(serving.kernel.unmount(id))
        };
        let failed = |error| kernel::Error::File(self.kernel.files(id), error);
        Ok(blocking(unmount).await.map_err(failed)??)
    }

    /// Ends all that serves an image, and removes what was promoted of it.
    ///
    /// # Errors
    /// Something stays.
    pub async fn remove(self: &Arc<Self>, id: u64) -> Result<(), Error> {
        if !self.entries().contains_key(&id) && !self.kernel.has(id) {
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
            let serving = Arc::clone(self);
            let remove = move || {
                let _turn = turn;
                Ok(serving.kernel.remove(id).inspect(|()| drop(serving.entries().remove(&id))))
            };
            let failed = |error| kernel::Error::File(self.kernel.files(id), error);
            return Ok(blocking(remove).await.map_err(failed)??);
        }
    }

    /// Removes the logs of an image's daemon, with the image's snapshot.
    ///
    /// # Errors
    /// The disk failed.
    pub fn discard_logs(&self, id: u64) -> io::Result<()> {
        self.fuse.discard_logs(id)
    }

    /// `nydusd`'s configuration for an image, as it would be now.
    ///
    /// # Errors
    /// A bad template, an image that does not fit it, a credential helper that hangs.
    pub async fn config(&self, image: &ServedImage) -> Result<Secret, fuse::Error> {
        self.fuse.config(image).await
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

/// Does this to the end, also when who waits for it is gone: half of it would be in no entry.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, fuse::Error>> + Send + 'static,
) -> Result<T, fuse::Error> {
    tokio::spawn(work).await?
}
