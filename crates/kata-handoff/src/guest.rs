//! One guest: a `nydusd` that serves its share.

use crate::error::all;
use crate::share::{is_name, undone};
use crate::storage::lower;
use crate::{Error, Result, Rootfs, Share, Storage, to_the_end};
use nydusd_client::{Client, Mount};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Images that one `nydusd` serves at most: it numbers its instances with a byte, of which its own
/// tree and the share take one each.
pub const MOUNTS: usize = 254;

/// Longest id, bytes (containerd's own limit).
const ID: usize = 76;

/// Where `nydusd` serves the share.
const CONTAINERS: &str = "/containers";

/// A guest's share and the `nydusd` behind it. Clones are the same guest.
#[derive(Clone, Debug)]
pub struct Guest {
    share: Share,
    client: Client,
    ids: Arc<Mutex<Ids>>,
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
    /// It refuses, or does not answer; the share is not served then.
    pub async fn attach(share: Share, client: Client) -> Result<Self> {
        let served = share.served().display().to_string();
        mount(&client, CONTAINERS, &Mount::passthrough(served)).await?;
        Ok(Self { share, client, ids: Arc::default() })
    }

    /// Puts a container's root file system into the guest; its agent mounts what is returned.
    /// Where the future is dropped, all is undone by a task of the runtime.
    ///
    /// # Errors
    /// An id that was used before, too many images, what [`Rootfs::check`] finds, a mount or call
    /// that failed. All is undone then; where it says that this failed, the image still counts
    /// until [`Guest::remove`] succeeds.
    pub async fn add(&self, cid: &str, rootfs: &Rootfs) -> Result<Storage> {
        check_id(cid)?;
        rootfs.check()?;
        self.take(cid)?;
        let (guest, id, rootfs) = (self.clone(), cid.to_owned(), rootfs.clone());
        let work = async move { guest.put_in(&id, &rootfs).await };
        let (guest, id) = (self.clone(), cid.to_owned());
        to_the_end(work, async move { drop(guest.remove(&id).await) }).await
    }

    async fn put_in(&self, cid: &str, rootfs: &Rootfs) -> Result<Storage> {
        let added = async {
            self.share.add(cid, &rootfs.snapshotdir)?;
            let image = Mount::rafs(&rootfs.bootstrap, rootfs.config.clone());
            let mounted = mount(&self.client, &lower(cid), &image).await;
            mounted.map_err(|error| undone(error, self.share.take_out(cid)))
        };
        let added = added.await;
        if added.as_ref().is_err_and(|error| !matches!(error, Error::Left(..))) {
            self.ids().now.remove(cid);
        }
        added.map(|()| Storage::rootfs(cid))
    }

    /// Takes a container out of the guest, also when `nydusd` is dead or does not answer. To be
    /// done again if it fails.
    ///
    /// # Errors
    /// `nydusd` refuses; the snapshot cannot be unmounted, or a directory not be removed.
    pub async fn remove(&self, cid: &str) -> Result<()> {
        is_name(cid.as_ref())?;
        let unmounted = unmount(&self.client, &lower(cid)).await;
        // Whatever nydusd says: a guest could go on writing to a snapshot that is left there.
        let (share, id) = (self.share.clone(), cid.to_owned());
        let taken = tokio::task::spawn_blocking(move || share.take_out(&id)).await;
        let taken = taken.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        all([unmounted, taken])?;
        self.ids().now.remove(cid);
        Ok(())
    }

    /// The share.
    pub fn share(&self) -> &Share {
        &self.share
    }

    /// Notes the id, which the guest can see from now on.
    fn take(&self, cid: &str) -> Result<()> {
        let mut ids = self.ids();
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

fn check_id(cid: &str) -> Result<()> {
    let sign = |byte: u8| !byte.is_ascii_alphanumeric();
    let odd = |byte: u8| sign(byte) && !b"-_.".contains(&byte);
    let bytes = cid.as_bytes();
    let starts = bytes.first().is_some_and(|first| !sign(*first));
    match starts && !bytes.iter().any(|byte| odd(*byte)) && bytes.len() <= ID {
        true => Ok(()),
        false => Err(Error::Id(cid.to_owned())),
    }
}

/// Mounts an instance; one of which `nydusd` did not say what became of it is unmounted.
async fn mount(client: &Client, at: &str, instance: &Mount) -> Result<()> {
    match client.mount(at, instance).await {
        Err(error) if error.is_unanswered() => {
            let undo = unmount(client, at).await;
            Err(undone(error.into(), undo))
        }
        done => Ok(done?),
    }
}

/// Unmounts an instance that may not be there, of a `nydusd` that may be dead.
async fn unmount(client: &Client, at: &str) -> Result<()> {
    match client.unmount(at).await {
        Err(error) if !error.is_not_mounted() && !error.is_unreachable() => Err(error.into()),
        _ => Ok(()),
    }
}
