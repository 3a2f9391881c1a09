//! RAFS v6 images that the kernel serves (EROFS), once all that they refer to is cached and was
//! verified: no FUSE, no `nydusd`.
//!
//! All that a later run must know is on disk, below one directory: `ID/image` is what was
//! promoted, by [`rafs_erofs::Promotion`], and `ID/mnt` where it is mounted. ID is the number of the
//! snapshot with the bootstrap. An image has a lock of its own; a job that promotes it outlives its
//! caller.

mod disk;
mod job;
pub mod pace;
mod read;
mod watch;

pub use job::{Job, Stage};
pub use watch::watch;

use crate::cache::Blobs;
use crate::config::KernelNative;
use crate::layout::Layout;
use crate::serving::fuse;
use crate::usage::Usage;
use disk::{changed_device, files, found, gone, missing, place, private, promoted};
use pace::{Pace, Reins};
use rafs_erofs::{Cache, Error as Erofs, Native, Placement, Progress, Unsupported, Way, unmount};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as Plain, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{Mutex, Notify, OnceCell};

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether the kernel serves images.
    pub policy: KernelNative,
    /// Where blobs are cached.
    pub cache: PathBuf,
    /// Bytes a second that background jobs may read.
    pub rate: Option<u64>,
}

/// Why the kernel does not serve an image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration says so.
    #[error("kernel_native is off")]
    Off,
    /// This kernel cannot.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The image cannot be served so, or its files are not what they must be.
    #[error(transparent)]
    Erofs(#[from] Erofs),
    /// `nydusd`, which has to fill the cache, cannot serve it.
    #[error(transparent)]
    Daemon(#[from] fuse::Error),
    /// A file cannot be read through `nydusd`.
    #[error("cannot read {}: {}", .0.display(), .1)]
    Read(PathBuf, io::Error),
    /// A file or directory of ours.
    #[error("{}: {}", .0.display(), .1)]
    File(PathBuf, io::Error),
}

impl Error {
    /// Whether trying again is of no use.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Off | Self::Unsupported(_) | Self::Erofs(Erofs::Unserved(_)))
    }
}

/// What is known of an image.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// It is promoted: the kernel serves it to new containers.
    pub promoted: bool,
    /// How much of it was cached when it was looked at last.
    pub progress: Option<Progress>,
    /// Why it is not promoted.
    pub why: Option<String>,
    /// It never will be.
    pub never: bool,
    /// A job that is at it.
    pub job: Option<Job>,
    looked: Option<Instant>,
    failed: Option<Instant>,
}

impl Known {
    /// How much of it is cached, as far as it is known.
    pub fn now(&self) -> Option<Progress> {
        match self.job.as_ref().map(Job::stage) {
            Some(Stage::Caching(now)) => Some(now),
            _ => self.progress,
        }
    }
}

/// The images that the kernel serves, or may serve.
pub struct Natives {
    settings: Settings,
    layout: Layout,
    /// Directory of all of them.
    place: PathBuf,
    pace: Option<Pace>,
    way: OnceCell<Result<Way, Unsupported>>,
    known: Plain<BTreeMap<u64, Known>>,
    locks: Plain<HashMap<u64, Arc<Mutex<()>>>>,
    /// An image was promoted, or a job has failed.
    changed: Notify,
}

impl Natives {
    /// Finds what earlier runs promoted, and removes what they did not finish.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn open(settings: Settings, layout: Layout) -> io::Result<Arc<Self>> {
        let place = place(&layout, &settings.cache);
        let known = match settings.policy {
            KernelNative::Off => BTreeMap::new(),
            _ => found(&place)?,
        };
        let (way, locks, changed) = (OnceCell::new(), Plain::default(), Notify::new());
        let (pace, known) = (settings.rate.map(Pace::new), Plain::new(known));
        Ok(Arc::new(Self { settings, layout, place, pace, way, known, locks, changed }))
    }

    /// Whether the kernel serves images, as configured.
    pub fn policy(&self) -> KernelNative {
        self.settings.policy
    }

    /// How this kernel serves images; tried once.
    ///
    /// # Errors
    /// It cannot, or shall not.
    pub async fn way(&self) -> Result<Way, Error> {
        if self.settings.policy == KernelNative::Off {
            return Err(Error::Off);
        }
        let scratch = self.place.clone();
        let probe = move || {
            // What is wrong with the directory is what the probe says.
            let _ = private(&scratch);
            rafs_erofs::probe(&scratch)
        };
        let probed = self.way.get_or_try_init(|| blocking(&self.place, move || Ok(probe())));
        Ok(probed.await?.clone()?)
    }

    /// Whether new containers of an image get the kernel's mount.
    pub fn is_promoted(&self, id: u64) -> bool {
        self.known().get(&id).is_some_and(|known| known.promoted)
    }

    /// Whether a job is at an image.
    pub fn is_working(&self, id: u64) -> bool {
        self.known().get(&id).is_some_and(|known| known.job.is_some())
    }

    /// Images that may be mounted.
    pub fn mounted(&self) -> Vec<u64> {
        let known = self.known();
        known.iter().filter(|(_, known)| known.promoted).map(|(id, _)| *id).collect()
    }

    /// What is known of all images.
    pub fn all(&self) -> BTreeMap<u64, Known> {
        self.known().clone()
    }

    /// Mounts an image, unless that is done already, and says where; `None` if it is not promoted.
    /// Every file is looked at each time: one that is not what was verified ends that.
    ///
    /// # Errors
    /// The image is not what was verified, and is not promoted any more; the kernel refuses.
    pub async fn serve(self: &Arc<Self>, id: u64) -> Result<Option<PathBuf>, Error> {
        if !self.is_promoted(id) {
            return Ok(None);
        }
        let way = self.way().await?;
        let lock = self.lock(id).lock_owned().await;
        if !self.is_promoted(id) {
            return Ok(None);
        }
        let (this, shown) = (Arc::clone(self), self.files(id));
        let mounted = move || {
            let _lock = lock;
            Ok(this.mount(id, way))
        };
        blocking(&shown, mounted).await?.map(Some)
    }

    fn mount(&self, id: u64, way: Way) -> Result<PathBuf, Error> {
        let (files, target) = (self.files(id), self.target(id));
        let loaded = Native::load(&files)
            .and_then(|native| native.ok_or_else(|| Erofs::Changed(missing(&files))));
        let native = match loaded {
            Ok(native) => native,
            Err(error) => {
                self.demote(id, None, &error);
                return Err(error.into());
            }
        };
        let mounted = || {
            private(&target).map_err(|error| Error::File(target.clone(), error))?;
            if native.is_mounted(&target)? {
                return Ok(native.check().map_err(Erofs::from)?);
            }
            unmount(&target)?;
            Ok(native.mount(way, &target)?)
        };
        match mounted() {
            Ok(()) => Ok(target),
            Err(Error::Erofs(error @ Erofs::Changed(_))) => {
                self.demote(id, Some(&native), &error);
                Err(error.into())
            }
            Err(error) => Err(error),
        }
    }

    /// Back to `nydusd`: what was promoted goes, and with it what `nydusd` would take for its own.
    fn demote(&self, id: u64, native: Option<&Native>, error: &Erofs) {
        tracing::warn!(snapshot = id, %error, "the kernel does not serve the image any more");
        let undone = || {
            // One that reads wrong may look as it did.
            let named = native.zip(changed_device(error));
            let named = named.and_then(|(native, number)| native.devices().nth(number));
            let changed = native.into_iter().flat_map(Native::changed).chain(named);
            for linked in changed.filter(|device| device.placement == Placement::Link) {
                Cache::new(&self.settings.cache).discard(&linked.blob)?;
            }
            self.unmounted(id)?;
            Native::remove(&self.files(id))
        };
        if let Err(error) = undone() {
            tracing::error!(snapshot = id, %error, "what was promoted cannot be removed");
        }
        let why = Some(error.to_string());
        self.known().insert(id, Known { why, failed: Some(Instant::now()), ..Known::default() });
    }

    /// Unmounts an image, if `unused` still says so once nobody else is at it.
    ///
    /// # Errors
    /// It cannot be unmounted.
    pub async fn release(
        self: &Arc<Self>,
        id: u64,
        unused: impl FnOnce() -> bool,
    ) -> Result<(), Error> {
        let lock = self.lock(id).lock_owned().await;
        if unused() {
            let this = Arc::clone(self);
            let unmounted = move || {
                let _lock = lock;
                Ok(this.unmounted(id))
            };
            blocking(&self.target(id), unmounted).await??;
        }
        Ok(())
    }

    /// Unmounts an image. Without its directory, whoever comes late gets an error, not an empty image.
    fn unmounted(&self, id: u64) -> Result<(), Erofs> {
        let target = self.target(id);
        unmount(&target)?;
        // Something else may be in it: then it is none of ours.
        let _ = fs::remove_dir(target);
        Ok(())
    }

    /// Tells the job that is at an image to end, if there is one.
    pub fn cancel(&self, id: u64) -> Option<Job> {
        let job = self.known().get(&id).and_then(|known| known.job.clone());
        job.inspect(|job| job.reins.stop())
    }

    /// Why no image is promoted here.
    pub fn obstacle(&self) -> Option<String> {
        match (self.settings.policy, self.way.get()) {
            (KernelNative::Off, _) => Some(Error::Off.to_string()),
            (_, Some(Err(error))) => Some(error.to_string()),
            _ => None,
        }
    }

    /// Blobs of an image that is promoted of which there are copies: it needs no cached ones.
    pub fn copied(&self, id: u64) -> Blobs {
        let native = self.is_promoted(id).then(|| Native::load(&self.files(id)).ok().flatten());
        let copies = |native: Native| {
            let devices = native.devices().filter(|device| device.placement == Placement::Copy);
            devices.map(|device| device.blob.clone()).collect()
        };
        native.flatten().map(copies).unwrap_or_default()
    }

    /// What an image takes on disk beside the cache.
    pub fn usage(&self, id: u64) -> Usage {
        let files = fs::read_dir(self.files(id)).into_iter().flatten().flatten();
        let own = files.filter_map(|file| file.metadata().ok()).filter(|file| file.nlink() == 1);
        own.fold(Usage::default(), |sum, file| sum + Usage::of(&file))
    }

    /// Ends all jobs, soon.
    pub fn stop(&self) {
        self.known()
            .values()
            .filter_map(|known| known.job.as_ref())
            .for_each(|job| job.reins.stop());
    }

    /// Removes all that belongs to an image that no job is at. Mounts that containers have keep the files until then.
    ///
    /// # Errors
    /// Something stays.
    pub async fn remove(&self, id: u64) -> Result<(), Error> {
        let lock = self.lock(id).lock_owned().await;
        self.known().remove(&id);
        let (own, target, files) = (self.own(id), self.target(id), self.files(id));
        let place = self.place.clone();
        let removed = move || {
            let _lock = lock;
            if !own.exists() {
                return Ok(Ok(()));
            }
            if let Err(error) = unmount(&target).and_then(|()| Native::remove(&files)) {
                return Ok(Err(error));
            }
            for directory in [&target, &own] {
                gone(fs::remove_dir(directory))?;
            }
            // The last one's.
            let _ = fs::remove_dir(place);
            Ok(Ok(()))
        };
        blocking(&self.own(id), removed).await??;
        self.forget_lock(id);
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<u64, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self, id: u64) -> Arc<Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(locks.entry(id).or_default())
    }

    fn forget_lock(&self, id: u64) {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if locks.get(&id).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&id);
        }
    }

    fn own(&self, id: u64) -> PathBuf {
        self.place.join(id.to_string())
    }

    fn files(&self, id: u64) -> PathBuf {
        files(&self.own(id))
    }

    fn target(&self, id: u64) -> PathBuf {
        self.own(id).join("mnt")
    }
}

/// Runs what waits for the disk where that holds up nobody.
async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| Error::File(path.to_owned(), error))
}
