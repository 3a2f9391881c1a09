//! RAFS v6 images that the kernel serves (EROFS), once all that they refer to is cached and was
//! verified: no FUSE, no `nydusd`.
//!
//! All that a later run must know is on disk, below one directory: `ID/image` is what was
//! promoted, by [`rafs_erofs::Promotion`], and `ID/mnt` where it is mounted. ID is the number of
//! the snapshot with the bootstrap.

mod count;
mod disk;

use crate::cache::Blobs;
use crate::config::{Config, KernelNative};
use crate::disk::{gone, make_directory};
use crate::layout::Layout;
use crate::usage::Usage;
pub(super) use count::Cached;
use disk::{changed_device, files, found, place};
use nydusd_client::bootstrap;
use rafs_erofs::{
    Cache, Changed, Error as Erofs, How, Native, Placement, Progress, Promotion, Step, Unsupported,
    Way, unmount,
};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::OnceCell;
use tokio::task::{JoinError, spawn_blocking};

/// For their owner only: images have setuid programs.
const PRIVATE: u32 = 0o700;

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
    /// The image is not what was verified: what was promoted of it is gone.
    #[error(transparent)]
    Demoted(Erofs),
    /// The bootstrap is damaged.
    #[error(transparent)]
    Bootstrap(#[from] bootstrap::Error),
    /// A file or directory of ours.
    #[error("{}: {}", .0.display(), .1)]
    File(PathBuf, io::Error),
    /// We end, or a bug.
    #[error("interrupted: {0}")]
    Interrupted(#[from] JoinError),
}

impl Error {
    /// Whether trying again is of no use.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Off | Self::Unsupported(_) | Self::Erofs(Erofs::Unserved(_)))
    }
}

/// Promotes and mounts images. Which are promoted is for [`super::Serving`] to know.
pub(crate) struct Kernel {
    config: Arc<Config>,
    pub(super) layout: Layout,
    /// Directory of all of them.
    place: PathBuf,
    support: OnceCell<Result<Way, Unsupported>>,
}

impl Kernel {
    /// Finds what earlier runs promoted, and removes what they did not finish.
    pub(super) fn open(
        config: Arc<Config>,
        layout: Layout,
    ) -> io::Result<(Self, BTreeMap<u64, Option<Progress>>)> {
        let place = place(&layout, &config.cache);
        let found = match config.kernel_native {
            KernelNative::Off => BTreeMap::new(),
            _ => found(&place)?,
        };
        Ok((Self { config, layout, place, support: OnceCell::new() }, found))
    }

    /// How this kernel serves images; tried once.
    pub(crate) async fn support(&self) -> Result<Way, Error> {
        if self.config.kernel_native == KernelNative::Off {
            return Err(Error::Off);
        }
        let scratch = self.place.clone();
        let probe = move || {
            // What is wrong with the directory is what the probe says.
            let _ = make_directory(&scratch, PRIVATE);
            let warn = |error: &_| tracing::warn!(%error, "images stay with nydusd");
            rafs_erofs::probe(&scratch).inspect_err(warn)
        };
        let probed = self.support.get_or_try_init(|| spawn_blocking(probe)).await;
        Ok(probed?.clone()?)
    }

    /// Why no image is promoted here.
    pub(crate) fn obstacle(&self) -> Option<String> {
        match (self.config.kernel_native, self.support.get()) {
            (KernelNative::Off, _) => Some(Error::Off.to_string()),
            (_, Some(Err(error))) => Some(error.to_string()),
            _ => None,
        }
    }

    /// Proves that all of an image is cached, and keeps what was proven.
    pub(super) fn promote(
        &self,
        id: u64,
        shared: &Blobs,
        step: &mut dyn FnMut(Step) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let (own, bootstrap, into) = (self.own(id), &*self.layout.bootstrap(id), &*self.files(id));
        make_directory(&own, PRIVATE).map_err(|error| Error::File(own, error))?;
        let (cache, verity) = (&*self.config.cache, true);
        Ok(Promotion { bootstrap, cache, into, verity, shared }.run(step).map(drop)?)
    }

    /// Mounts an image that was promoted, unless that is done already, and says where. Every file
    /// is looked at each time.
    pub(super) fn mount(&self, id: u64, way: Way) -> Result<PathBuf, Error> {
        let (files, target) = (self.files(id), self.target(id));
        let missing = || Erofs::Changed(Changed { file: files.clone(), how: How::Missing });
        let loaded = Native::load(&files).and_then(|native| native.ok_or_else(missing));
        let native = loaded.map_err(|error| self.demote(id, None, error))?;
        let mounted = || {
            make_directory(&target, PRIVATE).map_err(|error| Error::File(target.clone(), error))?;
            if native.is_mounted(&target)? {
                return Ok(native.check().map_err(Erofs::from)?);
            }
            unmount(&target)?;
            Ok(native.mount(way, &target)?)
        };
        match mounted() {
            Ok(()) => Ok(target),
            Err(Error::Erofs(error @ Erofs::Changed(_))) => {
                Err(self.demote(id, Some(&native), error))
            }
            Err(error) => Err(error),
        }
    }

    /// Back to `nydusd`: what was promoted goes, and with it what `nydusd` would take for its own.
    fn demote(&self, id: u64, native: Option<&Native>, error: Erofs) -> Error {
        tracing::warn!(snapshot = id, %error, "the kernel does not serve the image any more");
        let undone = || {
            // One that reads wrong may look as it did.
            let named = native.zip(changed_device(&error));
            let named = named.and_then(|(native, number)| native.devices().nth(number));
            let changed = native.into_iter().flat_map(Native::changed).chain(named);
            for linked in changed.filter(|device| device.placement == Placement::Link) {
                Cache::new(&self.config.cache).discard(&linked.blob)?;
            }
            self.unmount(id)?;
            Native::remove(&self.files(id))
        };
        if let Err(error) = undone() {
            tracing::error!(snapshot = id, %error, "what was promoted cannot be removed");
        }
        Error::Demoted(error)
    }

    /// Unmounts an image. Without its directory, whoever comes late gets an error, not an empty
    /// image.
    pub(super) fn unmount(&self, id: u64) -> Result<(), Erofs> {
        let target = self.target(id);
        unmount(&target)?;
        // Something else may be in it: then it is none of ours.
        let _ = fs::remove_dir(target);
        Ok(())
    }

    /// Removes all that belongs to an image. Mounts that containers have keep the files until then.
    pub(super) fn remove(&self, id: u64) -> Result<(), Error> {
        let (own, target) = (self.own(id), self.target(id));
        if !own.exists() {
            return Ok(());
        }
        unmount(&target)?;
        Native::remove(&self.files(id))?;
        for directory in [target, own] {
            gone(fs::remove_dir(&directory)).map_err(|error| Error::File(directory, error))?;
        }
        // The last one's.
        let _ = fs::remove_dir(&self.place);
        Ok(())
    }

    /// Blobs of a promoted image of which there are copies: it needs no cached ones.
    pub(crate) fn copied(&self, id: u64) -> Blobs {
        let copies = |native: Native| {
            let devices = native.devices().filter(|device| device.placement == Placement::Copy);
            devices.map(|device| device.blob.clone()).collect()
        };
        Native::load(&self.files(id)).ok().flatten().map(copies).unwrap_or_default()
    }

    /// What an image takes on disk beside the cache.
    pub(crate) fn usage(&self, id: u64) -> Usage {
        let files = fs::read_dir(self.files(id)).into_iter().flatten().flatten();
        let own = files.filter_map(|file| file.metadata().ok()).filter(|file| file.nlink() == 1);
        own.fold(Usage::default(), |sum, file| sum + Usage::of(&file))
    }

    /// Directory of what belongs to an image.
    pub(super) fn own(&self, id: u64) -> PathBuf {
        self.place.join(id.to_string())
    }

    pub(super) fn files(&self, id: u64) -> PathBuf {
        files(&self.own(id))
    }

    fn target(&self, id: u64) -> PathBuf {
        self.own(id).join("mnt")
    }
}
