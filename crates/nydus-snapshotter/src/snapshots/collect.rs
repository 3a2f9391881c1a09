//! What belongs to nobody any more: directories, daemons, mounts, cached blobs.

use super::{Error, Result, Snapshots, directories, on_disk};
use crate::cache;
use crate::config::DaemonMode;
use crate::serving::ServedImage;
use crate::store::{Draft, Lookup, Record};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Snapshots {
    /// Removes what belongs to nobody: directories of removed snapshots, daemons of images that
    /// nobody uses, cached blobs of images that are gone.
    ///
    /// # Errors
    /// The store failed. What cannot be removed is logged and stays for the next time.
    pub async fn cleanup(&self) -> Result<()> {
        let _one = self.cleaning.lock().await;
        self.release_unused().await?;
        let garbage = self.store.read()?.garbage()?;
        for id in garbage {
            if let Err(error) = self.discard(id).await {
                tracing::error!(id, %error, "the directory cannot be removed");
            }
        }
        self.remove_strays().await?;
        self.collect_cache().await
    }

    /// Removes what is served of images that have no record any more: a job was just at it.
    async fn remove_strays(&self) -> Result<()> {
        // These first: an image that comes meanwhile is not among them.
        let strays = self.serving.all();
        let images = self.store.read()?.images()?;
        let strays = strays.into_iter().filter(|(id, _)| !images.contains_key(id));
        let idle = strays.filter(|(_, entry)| entry.known.job.is_none() && entry.fuse.is_none());
        let idle: Vec<_> = idle.map(|(id, _)| id).collect();
        // One that is damaged may be of any number.
        if idle.is_empty() || !self.each(drop)? {
            return Ok(());
        }
        for id in idle {
            if let Err(error) = self.serving.remove(id).await {
                tracing::error!(id, %error, "what was promoted cannot be removed");
            }
        }
        Ok(())
    }

    /// Removes the directory of a removed snapshot, and what served it.
    pub(super) async fn discard(&self, id: u64) -> Result<()> {
        let failed = |error| Error::Image(id.to_string(), Arc::new(error));
        self.serving.remove(id).await.map_err(failed)?;
        let (directory, serving) = (self.layout.snapshot(id), Arc::clone(&self.serving));
        let shown = directory.clone();
        let remove =
            move || directories::remove(&directory).and_then(|()| serving.fuse.discard_logs(id));
        on_disk(&shown, remove).await?;
        let forget = move |draft: &mut Draft<'_>| {
            draft.forget([id]);
            Ok(())
        };
        Ok(self.store.write(forget).await?)
    }

    /// After an image was promoted, ends its daemon if nobody is on that.
    pub async fn release_promoted(self: Arc<Self>) {
        if self.serving.has_changed()
            && let Err(error) = self.release_unused().await
        {
            tracing::error!(%error, "daemons that are not needed cannot be found");
        }
    }

    /// Ends daemons, and unmounts what the kernel serves, of images that no snapshot needs.
    ///
    /// # Errors
    /// The store failed. What cannot be ended is logged.
    pub async fn release_unused(&self) -> Result<()> {
        // Where it cannot be told, it is needed.
        let unused = |image: &ServedImage| matches!(self.needs_daemon(image), Ok(false));
        for served in self.serving.served() {
            let id = served.image.id;
            if unused(&served.image)
                && let Err(error) = self.serving.release(id, unused).await
            {
                tracing::error!(id, %error, "the image's daemon cannot be stopped");
            }
        }
        if let Err(error) = self.serving.release_shared().await {
            tracing::error!(%error, "the shared daemon cannot be stopped");
        }
        self.unmount_unused().await
    }

    /// Unmounts what the kernel serves and nobody uses.
    async fn unmount_unused(&self) -> Result<()> {
        for id in self.serving.promoted() {
            let image = self.image(id);
            let unused = || matches!(self.is_used(&image, false, |_| true), Ok(false));
            if unused()
                && let Err(error) = self.serving.unmount(id, unused).await
            {
                tracing::error!(id, %error, "the image cannot be unmounted");
            }
        }
        Ok(())
    }

    /// Whether an image's daemon is needed. One of its own is while a container or view is on its
    /// mount, or a job is at it; the one of all while an image's layers are there, because releases
    /// of `nydusd` crash when they lose an image early, or until the kernel serves that.
    fn needs_daemon(&self, image: &ServedImage) -> Result<bool> {
        let shared = self.config.mode == DaemonMode::Shared;
        let kept = shared && !self.serving.is_promoted(image.id);
        let on_daemon = |record: &Record| !record.kernel;
        let working = self.serving.is_working(image.id);
        Ok(working || self.is_used(image, kept, on_daemon)?)
    }

    /// Whether an image is there, and is to be `kept` or has a container or view on it that `counts`.
    fn is_used(
        &self,
        image: &ServedImage,
        kept: bool,
        counts: impl Fn(&Record) -> bool,
    ) -> Result<bool> {
        let read = self.store.read()?;
        if image.key.is_empty() {
            // Its record is gone, or damaged.
            return Ok(!self.each(drop)?);
        }
        match read.find(&image.key)? {
            Some(meta) if meta.id == image.id => {
                Ok(kept || read.is_mountable_above(&meta.key, counts)?)
            }
            _ => Ok(false),
        }
    }

    /// A blob has a record before it is cached: what is cached now and has none then is unused.
    /// Nothing is freed while any record or bootstrap cannot be read.
    async fn collect_cache(&self) -> Result<()> {
        let cache = self.config.cache.clone();
        let failed = |error| Error::Directory(cache.clone(), error);
        let mut unused = cache::blobs(&cache).map_err(failed)?;
        if unused.is_empty() {
            return Ok(());
        }
        // Of images that have copies no daemon needs these, and none starts meanwhile.
        let held = |id| Some((id, (self.serving.kernel.copied(id), self.serving.hold(id)?)));
        let copies: BTreeMap<_, _> = self.serving.promoted().into_iter().filter_map(held).collect();
        let copied = |blob: &String| copies.values().any(|(blobs, _)| blobs.contains(blob));
        let mut bootstraps = Vec::new();
        let whole = self.each(|record| {
            let (own, names_others) = cache::of(&record);
            if let Some(own) = own.filter(|own| !copied(own)) {
                unused.remove(&own);
            }
            bootstraps.extend(names_others.then_some(record.id));
        })?;
        // Mostly the labels tell of all.
        if unused.is_empty() {
            return Ok(());
        }
        if !whole {
            tracing::warn!("nothing is freed from the cache: a record is damaged");
            return Ok(());
        }
        let layout = self.layout.clone();
        let free = move || {
            let mut used = cache::Blobs::new();
            for id in bootstraps {
                let mut named = cache::Blobs::new();
                cache::add(&mut named, &unused, &layout.bootstrap(id))?;
                used.extend(match copies.get(&id) {
                    Some((copies, _)) => &named - copies,
                    None => named,
                });
            }
            cache::remove(&cache, &(&unused - &used))?;
            drop(copies);
            Ok(())
        };
        if let Err(error) = on_disk(&self.config.cache, free).await {
            tracing::warn!(%error, "not all that is unused is freed from the cache");
        }
        Ok(())
    }
}
