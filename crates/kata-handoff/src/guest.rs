//! One guest: a `nydusd` that serves its share.

use crate::share::undone;
use crate::storage::lower;
use crate::{Error, Result, Rootfs, Share, Storage};
use nydusd_client::{Client, Mount};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Images that one `nydusd` serves at most: it numbers its instances with a byte, of which its own
/// tree and the share take one each.
pub const MOUNTS: usize = 254;

/// Longest id, bytes (containerd's own limit).
const ID: usize = 76;

/// A guest's share and the `nydusd` behind it.
#[derive(Debug)]
pub struct Guest {
    share: Share,
    client: Client,
    ids: Mutex<Ids>,
}

/// Ids of containers.
#[derive(Debug, Default)]
struct Ids {
    now: BTreeSet<String>,
    /// All that the guest may ever have looked at.
    ever: BTreeSet<String>,
}

impl Guest {
    /// Lets a running `nydusd` (virtiofs mode) serve the share.
    ///
    /// # Errors
    /// It refuses; nothing has changed then.
    pub async fn attach(share: Share, client: Client) -> Result<Self> {
        let served = share.served().display().to_string();
        client.mount("/containers", &Mount::passthrough(served)).await?;
        Ok(Self { share, client, ids: Mutex::default() })
    }

    /// Puts a container's root file system into the guest; its agent mounts what is returned.
    ///
    /// # Errors
    /// An id that was used before, too many images, what [`Rootfs::check`] finds, a mount or call
    /// that failed. All is undone then.
    pub async fn add(&self, cid: &str, rootfs: &Rootfs) -> Result<Storage> {
        self.take(cid)?;
        let added = async {
            rootfs.check()?;
            self.share.add(cid, &rootfs.snapshotdir)?;
            let mount = Mount::rafs(&rootfs.bootstrap, rootfs.config.clone());
            match self.client.mount(&lower(cid), &mount).await {
                Ok(()) => Ok(Storage::rootfs(cid)),
                Err(error) => Err(undone(error.into(), self.share.take_out(cid))),
            }
        };
        let added = added.await;
        if added.is_err() {
            self.ids().now.remove(cid);
        }
        added
    }

    /// Takes a container out of the guest, also when `nydusd` is dead. To be done again if it
    /// fails.
    ///
    /// # Errors
    /// `nydusd` refuses; something is left in a directory of the share.
    pub async fn remove(&self, cid: &str) -> Result<()> {
        match self.client.unmount(&lower(cid)).await {
            Err(error) if !error.is_not_mounted() && !error.is_unreachable() => {
                return Err(error.into());
            }
            _ => {}
        }
        self.share.take_out(cid)?;
        self.ids().now.remove(cid);
        Ok(())
    }

    /// The share.
    pub fn share(&self) -> &Share {
        &self.share
    }

    fn take(&self, cid: &str) -> Result<()> {
        let mut ids = self.ids();
        let sign = |byte: u8| !byte.is_ascii_alphanumeric();
        let odd = |byte: u8| sign(byte) && !b"-_.".contains(&byte);
        let bytes = cid.as_bytes();
        if bytes.first().is_none_or(|first| sign(*first))
            || bytes.iter().any(|byte| odd(*byte))
            || bytes.len() > ID
        {
            return Err(Error::Id(cid.to_owned()));
        }
        if ids.now.len() >= MOUNTS {
            return Err(Error::Full(ids.now.len()));
        }
        if !ids.ever.insert(cid.to_owned()) {
            return Err(Error::UsedId(cid.to_owned()));
        }
        ids.now.insert(cid.to_owned());
        Ok(())
    }

    fn ids(&self) -> MutexGuard<'_, Ids> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
