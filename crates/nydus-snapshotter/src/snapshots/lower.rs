//! What a snapshot gets of its image: a lower directory, served by `nydusd`, the kernel, or
//! somebody in a guest.

use super::{Error, Result, Snapshots};
use crate::config::{DaemonMode, KernelNative};
use crate::idmap::IdMap;
use crate::mounts::{Carried, Lower};
use crate::serving::{self, Need, ServedImage, fuse};
use crate::store::Record;
use nydus_mount_slice::Secret;
use nydusd_client::bootstrap;
use std::path::PathBuf;
use std::sync::Arc;

impl Snapshots {
    /// The image on this host, served if that is how it is, and what the slice carries of it.
    pub(super) async fn serve(&self, record: &Record, image: &ServedImage) -> Result<Lower> {
        let failed = |error: fuse::Error| {
            Error::Image(record.key.clone(), Arc::new(serving::Error::from(error)))
        };
        let bootstrap = self.layout.bootstrap(image.id);
        let version = bootstrap::version(&bootstrap).map_err(|error| failed(error.into()))?;
        let none = self.config.mode == DaemonMode::None;
        let snapshot = &self.config.file.snapshot;
        let carries = (snapshot.enable_nydus_overlayfs || none) && !snapshot.enable_kata_volume;
        let served = match none {
            true => Some(self.layout.fs(image.id)),
            false => self.by_kernel(record, image).await?,
        };
        let (lower, config) = match served {
            Some(lower) if carries => {
                (lower, self.serving.fuse.config(image).await.map_err(failed)?)
            }
            Some(lower) => (lower, Secret::default()),
            None => {
                let served = self.serving.by_fuse(image).await.map_err(failed)?;
                // Credentials may be newer than the daemon.
                let now = if carries { self.serving.fuse.config(image).await.ok() } else { None };
                (served.lower.clone(), now.unwrap_or_else(|| served.config.clone()))
            }
        };
        let carried = carries.then_some(Carried { bootstrap, config, version });
        Ok(Lower { lower, carried })
    }

    /// Where the kernel serves the image for this snapshot; `None` if `nydusd` shall.
    async fn by_kernel(&self, record: &Record, image: &ServedImage) -> Result<Option<PathBuf>> {
        let only_kernel = only_kernel(self.config.kernel_native, record);
        let need = Need { only_kernel, kernel: record.kernel };
        let lower = self.serving.lower(image, need).await;
        let lower = lower.map_err(|error| Error::Image(record.key.clone(), error))?;
        if lower.is_none() && record.kernel {
            // Before there is a daemon that somebody might end.
            let (key, id) = (record.key.clone(), record.id);
            self.store.write(move |draft| draft.set_kernel(&key, id, false)).await?;
        }
        Ok(lower)
    }
}

/// Whether a snapshot may not get a daemon's mount: it is configured so, or its owners are mapped,
/// which `nydusd`'s FUSE mounts do not allow.
pub(super) fn only_kernel(policy: KernelNative, record: &Record) -> bool {
    policy == KernelNative::Required || matches!(IdMap::of(&record.labels), Ok(Some(_)))
}
