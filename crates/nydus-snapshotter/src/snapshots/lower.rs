//! Who serves an image to a snapshot: `nydusd`, the kernel, or somebody in a guest.

use super::{Error, Result, Snapshots};
use crate::config::{DaemonMode, KernelNative};
use crate::idmap::IdMap;
use crate::mounts::{Carried, Image as Lower};
use crate::serving::fuse::Image;
use crate::serving::kernel::{self, Natives};
use crate::store::Record;
use nydus_mount_slice::Secret;
use nydusd_client::bootstrap;
use std::path::PathBuf;
use std::sync::Arc;

impl Snapshots {
    /// The image on this host, served if that is how it is, and what the slice carries of it.
    pub(crate) async fn lower(&self, record: &Record, image: Image) -> Result<Lower> {
        let failed = |error| Error::Image(record.key.clone(), error);
        let bootstrap = self.layout.bootstrap(image.id);
        let version = bootstrap::version(&bootstrap).map_err(|error| failed(error.into()))?;
        let none = self.images.mode() == DaemonMode::None;
        let carries = (self.options.nydus_overlayfs || none) && !self.options.kata_volume;
        let native = match none {
            true => Some(self.layout.fs(image.id)),
            false => self.native(record, &image).await?,
        };
        let (lower, config) = match native {
            Some(lower) if carries => (lower, self.images.config(&image).await.map_err(failed)?),
            Some(lower) => (lower, Secret::default()),
            None => {
                let served = self.images.serve(image.clone()).await.map_err(failed)?;
                // Credentials may be newer than the daemon.
                let now = if carries { self.images.config(&image).await.ok() } else { None };
                (served.lower.clone(), now.unwrap_or_else(|| served.config.clone()))
            }
        };
        let carried = carries.then_some(Carried { bootstrap, config, version });
        Ok(Lower { lower, carried })
    }

    /// Where the kernel serves the image for this snapshot; `None` if `nydusd` shall.
    async fn native(&self, record: &Record, image: &Image) -> Result<Option<PathBuf>> {
        if must_be_native(&self.natives, record) {
            let failed = |error| Error::Native(record.key.clone(), error);
            return self.awaited(image).await.map(Some).map_err(failed);
        }
        // A snapshot that got a daemon's mount keeps it as long as that daemon serves the image.
        if !record.kernel && self.images.is_served(image.id).await {
            return Ok(None);
        }
        let served = self.natives.serve(image.id).await;
        let mounted = served.unwrap_or_else(|error| {
            tracing::warn!(key = record.key, %error, "the image goes back to nydusd");
            None
        });
        if mounted.is_none() && record.kernel {
            let (key, id) = (record.key.clone(), record.id);
            self.store.write(move |draft| draft.set_kernel(&key, id, false)).await?;
        }
        Ok(mounted)
    }

    /// The image by the kernel, however long it takes to complete it.
    async fn awaited(&self, image: &Image) -> Result<PathBuf, Arc<kernel::Error>> {
        // Again where its files have changed meanwhile.
        for _ in 0..2 {
            match self.natives.serve(image.id).await {
                Ok(Some(lower)) => return Ok(lower),
                Ok(None) => {}
                Err(error) => tracing::warn!(image = image.id, %error, "it is promoted again"),
            }
            tracing::info!(image = image.id, "a container waits until the image is complete");
            self.natives.promote(&self.images, image, true).ended().await?;
        }
        let mounted = self.natives.serve(image.id).await.map_err(Arc::new)?;
        mounted.ok_or_else(|| Arc::new(rafs_erofs::Error::Stopped.into()))
    }
}

/// Whether a snapshot may not get a daemon's mount: it is configured so, or its owners are mapped,
/// which `nydusd`'s FUSE mounts do not allow.
pub(crate) fn must_be_native(natives: &Natives, record: &Record) -> bool {
    natives.policy() == KernelNative::Required || matches!(IdMap::of(&record.labels), Ok(Some(_)))
}
