//! The snapshotter: containerd's calls, by their rules in [`crate::store`], the kinds of
//! [`crate::resolve`] and the mounts of [`crate::mounts`]. Nothing of gRPC is known here.

use crate::cache;
use crate::config::DaemonMode;
use crate::idmap::IdMap;
use crate::labels::{
    self, LAYER_DIGEST, Labels, NYDUS_BLOB, NYDUS_BOOTSTRAP, SNAPSHOT_REF, VOLATILE,
};
use crate::layout::Layout;
use crate::mounts::{self, Host};
use crate::resolve::{self, Driver, Parent, Purpose, Rootfs, purpose};
use crate::serving::fuse::{Image, Images};
use crate::serving::kernel::Natives;
use crate::store::{self, Draft, Kind, Lookup, Reader, Record, Store};
use crate::usage::{self, Usage};
use nydus_mount_slice::Mount;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

pub mod directories;
mod error;
mod lower;

pub use error::{Error, Result};

use directories as dirs;
use lower::must_be_native;

/// Snapshots in one page of a listing.
const PAGE: usize = 256;

/// What the configuration says about snapshots.
#[derive(Clone, Debug)]
pub struct Options {
    /// How images are served.
    pub driver: Driver,
    /// Whether slices of Nydus images carry the image for a guest.
    pub nydus_overlayfs: bool,
    /// Whether guests get a volume instead.
    pub kata_volume: bool,
    /// Whether overlays are `volatile` without a label.
    pub volatile: bool,
    /// Whether Remove removes the directory before it answers.
    pub sync_remove: bool,
    /// Where blobs are cached.
    pub cache: PathBuf,
}

/// A snapshot to be made.
#[derive(Clone, Debug)]
pub struct New {
    /// Active or view.
    pub kind: Kind,
    /// Its name.
    pub key: String,
    /// Name of its parent, empty for none.
    pub parent: String,
    /// Its labels.
    pub labels: Labels,
}

/// The snapshotter.
pub struct Snapshots {
    /// Records.
    pub store: Store,
    /// Where things lie.
    pub layout: Layout,
    /// What the host adds to mounts.
    pub host: Host,
    /// What the configuration says.
    pub options: Options,
    /// Images that `nydusd` serves.
    pub images: Arc<Images>,
    /// Images that the kernel serves.
    pub natives: Arc<Natives>,
    /// One Cleanup at a time.
    pub cleaning: tokio::sync::Mutex<()>,
}

impl Snapshots {
    /// Makes an active or view snapshot, and answers how to mount it.
    ///
    /// A layer that nobody needs to unpack is committed at once, under the name that the label
    /// `containerd.io/snapshot.ref` asks for; that is answered by "already exists".
    ///
    /// # Errors
    /// As said; the rules of snapshots; an image that cannot be served. Nothing stays then.
    pub async fn prepare(&self, new: New) -> Result<(Record, Mount)> {
        if new.kind == Kind::Active
            && let Purpose::Skip(mark) = purpose(&new.labels, self.options.driver)?
        {
            return Err(self.skip(new, mark).await?);
        }
        let New { kind, key, parent, labels } = new;
        IdMap::of(&labels).map_err(|error| Error::IdMap(key.clone(), error))?;
        let (natives, driver) = (Arc::clone(&self.natives), self.options.driver);
        let create = move |draft: &mut Draft<'_>| {
            let mut record = draft.create(kind, &key, &parent, labels)?;
            let parents = draft.parents(&record)?;
            // Before anybody knows it: from here on it needs no daemon.
            record.kernel = meta_of(&record, &parents, driver)
                .is_some_and(|meta| natives.is_promoted(meta) || must_be_native(&natives, &record));
            if record.kernel {
                draft.set_kernel(&record.key, record.id, true)?;
            }
            Ok((record, parents))
        };
        let (record, parents) = self.store.write(create).await?;
        note(&record);
        match self.finish(&record, &parents).await {
            Ok(mount) => Ok((record, mount)),
            Err(error) => {
                self.undo(&record).await;
                Err(error)
            }
        }
    }

    /// Makes what is missing on disk, and the mount.
    async fn finish(&self, record: &Record, parents: &[Record]) -> Result<Mount> {
        dirs::heal_layers(&self.layout, parents)?;
        dirs::heal(&self.layout, record, parents.first())?;
        let mount = self.mount(record, parents).await?;
        match self.store.read()?.find(&record.key)? {
            Some(there) if there.id == record.id => Ok(mount),
            _ => {
                // Removed meanwhile: Cleanup may have been here before the directory was.
                self.discard(record.id).await?;
                Err(store::Error::NotFound(format!("snapshot {:?}", record.key)).into())
            }
        }
    }

    /// Takes a new snapshot back, whose client got no answer. What cannot be taken back now is
    /// what containerd collects as unknown.
    pub async fn undo(&self, record: &Record) {
        let (key, id) = (record.key.clone(), record.id);
        let removed = self.store.write(move |draft| match draft.find(&key)? {
            Some(there) if there.id == id => draft.remove(&key).map(drop),
            _ => Ok(()),
        });
        let undone = async {
            removed.await?;
            self.discard(id).await?;
            // Its image may have been served for it alone.
            self.release_unused().await
        };
        if let Err(error) = undone.await {
            tracing::warn!(key = record.key, id, %error, "a snapshot cannot be taken back");
        }
    }

    /// Commits a layer that is never unpacked. The answer is an error, as containerd expects.
    async fn skip(&self, new: New, mark: Option<&'static str>) -> Result<Error> {
        let target = new.labels.get(SNAPSHOT_REF).cloned().unwrap_or_default();
        let name = target.clone();
        let made = self.store.write(move |draft| commit_at_once(draft, new, &name, mark)).await?;
        if let Some(record) = made {
            dirs::make(&self.layout, &record, None)?;
        }
        Ok(store::Error::AlreadyExists(format!("target snapshot {target:?}")).into())
    }

    /// How to mount an active or view snapshot.
    ///
    /// # Errors
    /// It is missing or committed; its image cannot be served.
    pub async fn mounts(&self, key: &str) -> Result<Mount> {
        let read = self.store.read()?;
        let record = read.mountable(key)?;
        let parents = read.parents(&record)?;
        drop(read);
        note(&record);
        self.finish(&record, &parents).await
    }

    async fn mount(&self, record: &Record, parents: &[Record]) -> Result<Mount> {
        let slice = |error| Error::Slice(record.key.clone(), error);
        let chain: Vec<_> = parents.iter().map(parent).collect();
        let map =
            IdMap::of(&record.labels).map_err(|error| Error::IdMap(record.key.clone(), error))?;
        let snapshot = mounts::Snapshot {
            id: record.id,
            map,
            kind: if record.kind == Kind::View { mounts::Kind::View } else { mounts::Kind::Active },
            volatile: self.options.volatile || record.labels.contains_key(VOLATILE),
        };
        let (layout, host) = (&self.layout, &self.host);
        match resolve::rootfs(&record.labels, &chain, self.options.driver)? {
            Rootfs::Plain(ids) => Ok(mounts::plain(layout, host, &snapshot, &ids)),
            Rootfs::Guest { marked, parents } => {
                mounts::guest(layout, host, &snapshot, &parents, marked.as_ref()).map_err(slice)
            }
            Rootfs::Nydus { meta, above } => {
                let image = image(&meta, &chain);
                let lower = self.lower(record, image).await?;
                mounts::nydus(layout, host, &snapshot, &above, &lower).map_err(slice)
            }
        }
    }

    /// Makes an active snapshot a committed one. What it holds is on disk first.
    ///
    /// # Errors
    /// The rules of snapshots; a disk that fails.
    pub async fn commit(&self, name: String, key: String, labels: Labels) -> Result<()> {
        let found = self.store.read()?.find(&key)?;
        let active = found.filter(|record| record.kind == Kind::Active);
        let usage = match &active {
            Some(record) => self.settle(note(record)).await?,
            // The rules have their own words for it.
            None => Usage::default(),
        };
        let settled = active.map(|record| record.id);
        let commit = move |draft: &mut Draft<'_>| match draft.find(&key)? {
            // Removed and prepared anew meanwhile: what is in it now was not synced.
            Some(now) if now.kind == Kind::Active && Some(now.id) != settled => {
                Err(store::Error::NotFound(format!("snapshot {key:?}")))
            }
            _ => draft.commit(&name, &key, labels, usage).map(drop),
        };
        Ok(self.store.write(commit).await?)
    }

    /// Counts what a snapshot holds, and syncs it. Nothing in it needs no sync: such a directory
    /// is made again when it is missed.
    async fn settle(&self, record: &Record) -> Result<Usage> {
        let fs = self.layout.fs(record.id);
        let shown = fs.display().to_string();
        if dirs::is_untouched(&fs) {
            return usage::of_one(&fs).map_err(|error| Error::Directory(shown, error));
        }
        // Lost with the power, or not made before a kill. Where only `fs` is missing, somebody
        // took it with its contents: no layer is made of that.
        if !self.layout.snapshot(record.id).exists() {
            let parents = self.store.read()?.parents(record)?;
            dirs::make(&self.layout, record, parents.first())?;
        }
        blocking(shown, move || {
            let usage = usage::of_tree(&fs)?;
            dirs::sync_file_system(&fs)?;
            Ok(usage)
        })
        .await
    }

    /// Removes a snapshot. Its directory goes with the next Cleanup, or now where so configured.
    ///
    /// # Errors
    /// The rules of snapshots.
    pub async fn remove(&self, key: String) -> Result<()> {
        let record = self.store.write(move |draft| draft.remove(&key)).await?;
        note(&record);
        if self.options.sync_remove {
            self.discard(record.id).await?;
        }
        Ok(())
    }

    /// Removes the directory of a removed snapshot, and what served it.
    async fn discard(&self, id: u64) -> Result<()> {
        let failed = |error| Error::Image(id.to_string(), error);
        let mut job = self.natives.cancel(id);
        self.images.release(id, |_| true).await.map_err(failed)?;
        while let Some(last) = job {
            // It may just have started a daemon, and another may have begun.
            let _ = last.ended().await;
            self.images.release(id, |_| true).await.map_err(failed)?;
            job = self.natives.cancel(id);
        }
        let failed = |error| Error::Native(id.to_string(), Arc::new(error));
        self.natives.remove(id).await.map_err(failed)?;
        let (directory, images) = (self.layout.snapshot(id), Arc::clone(&self.images));
        let shown = directory.display().to_string();
        let remove = move || dirs::remove(&directory).and_then(|()| images.discard_logs(id));
        blocking(shown, remove).await?;
        let forget = move |draft: &mut Draft<'_>| {
            draft.forget([id]);
            Ok(())
        };
        self.store.write(forget).await?;
        Ok(())
    }

    /// What is known of a snapshot.
    ///
    /// # Errors
    /// It is missing.
    pub fn stat(&self, key: &str) -> Result<Record> {
        let record = self.store.read()?.stat(key)?;
        note(&record);
        Ok(record)
    }

    /// Changes labels: all, or those that `paths` name.
    ///
    /// # Errors
    /// It is missing; another field.
    pub async fn update(&self, key: String, labels: Labels, paths: Vec<String>) -> Result<Record> {
        let record = self.store.write(move |draft| draft.update(&key, &labels, &paths)).await?;
        note(&record);
        Ok(record)
    }

    /// One page of all snapshots that are wanted, and where the next begins.
    ///
    /// # Errors
    /// The store failed; a damaged record is logged and left out.
    pub fn list(
        &self,
        wanted: impl Fn(&Record) -> bool,
        after: &str,
    ) -> Result<(Vec<Record>, Option<String>)> {
        let page = self.store.read()?.page(after, PAGE)?;
        for key in &page.damaged {
            tracing::error!(key, "the record is damaged and left out");
        }
        Ok((page.found.into_iter().filter(wanted).collect(), page.next))
    }

    /// What a snapshot takes on disk; a data layer of an image also what is cached of it.
    ///
    /// # Errors
    /// It is missing; its directory cannot be read.
    pub async fn usage(&self, key: &str) -> Result<Usage> {
        let record = self.stat(key)?;
        let fs = self.layout.fs(record.id);
        match record.kind {
            Kind::View => Ok(record.usage),
            Kind::Active => blocking(fs.display().to_string(), move || usage::of_tree(&fs)).await,
            Kind::Committed => {
                let blob = record.labels.get(LAYER_DIGEST);
                let blob = blob.filter(|_| record.labels.contains_key(NYDUS_BLOB));
                let cached = blob.map(|blob| cache::usage(&self.options.cache, blob));
                let native = record.labels.contains_key(NYDUS_BOOTSTRAP);
                let native = native.then(|| self.natives.usage(record.id));
                let more = [cached, native].into_iter().flatten();
                Ok(more.fold(record.usage, |sum, more| sum + more))
            }
        }
    }

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

    /// Removes what was promoted of images that have no record any more: a job was just at it.
    async fn remove_strays(&self) -> Result<()> {
        // These first: an image that comes meanwhile is not among them.
        let mut strays = self.natives.all();
        let all_told = self.each(|_, record| drop(strays.remove(&record.id)))?;
        let strays = strays.into_iter().filter(|(_, known)| all_told && known.job.is_none());
        for (id, _) in strays {
            if let Err(error) = self.natives.remove(id).await {
                tracing::error!(id, %error, "what was promoted cannot be removed");
            }
        }
        Ok(())
    }

    /// Ends daemons, and unmounts what the kernel serves, of images that no snapshot needs.
    ///
    /// # Errors
    /// The store failed. What cannot be ended is logged.
    pub async fn release_unused(&self) -> Result<()> {
        // Where it cannot be told, it is needed.
        let unused = |image: &Image| matches!(self.needs_daemon(image), Ok(false));
        for served in self.images.served() {
            let id = served.image.id;
            if unused(&served.image)
                && let Err(error) = self.images.release(id, unused).await
            {
                tracing::error!(id, %error, "the image's daemon cannot be stopped");
            }
        }
        if let Err(error) = self.images.release_shared().await {
            tracing::error!(%error, "the shared daemon cannot be stopped");
        }
        self.unmount_unused().await
    }

    /// Unmounts what the kernel serves and nobody uses.
    async fn unmount_unused(&self) -> Result<()> {
        let mounted = self.natives.mounted();
        if mounted.is_empty() {
            return Ok(());
        }
        let images = self.images_of_numbers()?;
        for image in mounted.into_iter().map(images) {
            let unused = || matches!(self.is_used(&image, false, |_| true), Ok(false));
            if unused()
                && let Err(error) = self.natives.release(image.id, unused).await
            {
                tracing::error!(id = image.id, %error, "the image cannot be unmounted");
            }
        }
        Ok(())
    }

    /// Whether an image's daemon is needed. One of its own is while a container or view is on its
    /// mount, or a job is at it; the one of all while an image's layers are there, because releases
    /// of `nydusd` crash when they lose an image early, or until the kernel serves that.
    fn needs_daemon(&self, image: &Image) -> Result<bool> {
        let (natives, shared) = (&self.natives, self.images.mode() == DaemonMode::Shared);
        let kept = shared && !natives.is_promoted(image.id);
        let on_daemon = |record: &Record| !record.kernel;
        let working = natives.is_working(image.id);
        Ok(working || self.is_used(image, kept, on_daemon)?)
    }

    /// Whether an image is there, and is to be `kept` or has a container or view on it that `counts`.
    fn is_used(&self, image: &Image, kept: bool, counts: impl Fn(&Record) -> bool) -> Result<bool> {
        let read = self.store.read()?;
        if image.key.is_empty() {
            // Its record is gone, or damaged.
            return Ok(!self.each(|_, _| {})?);
        }
        match read.find(&image.key)? {
            Some(meta) if meta.id == image.id => {
                Ok(kept || read.is_mountable_above(&meta.key, counts)?)
            }
            _ => Ok(false),
        }
    }

    /// Calls `look` with every record; false if one is damaged.
    fn each(&self, mut look: impl FnMut(&Reader, Record)) -> Result<bool> {
        let read = self.store.read()?;
        let (mut after, mut whole) = (String::new(), true);
        loop {
            let page = read.page(&after, PAGE)?;
            whole &= page.damaged.is_empty();
            for record in page.found {
                look(&read, record);
            }
            match page.next {
                Some(next) => after = next,
                None => return Ok(whole),
            }
        }
    }

    /// A blob has a record before it is cached: what is cached now and has none then is unused.
    /// Nothing is freed while any record or bootstrap cannot be read.
    async fn collect_cache(&self) -> Result<()> {
        let cache = self.options.cache.clone();
        let failed = |error| Error::Directory(cache.display().to_string(), error);
        let mut unused = cache::blobs(&cache).map_err(failed)?;
        if unused.is_empty() {
            return Ok(());
        }
        // Of images that have copies no daemon needs these, and none starts meanwhile.
        let held = |id| Some((id, (self.natives.copied(id), self.images.hold(id)?)));
        let copies: BTreeMap<_, _> = self.natives.mounted().into_iter().filter_map(held).collect();
        let copied = |blob: &String| copies.values().any(|(blobs, _)| blobs.contains(blob));
        let mut bootstraps = Vec::new();
        let whole = self.each(|_, record| {
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
        let shown = self.options.cache.display().to_string();
        if let Err(error) = blocking(shown, free).await {
            tracing::warn!(%error, "not all that is unused is freed from the cache");
        }
        Ok(())
    }

    /// All Nydus images: the number of the snapshot with the bootstrap, and the reference.
    ///
    /// # Errors
    /// The store failed.
    pub fn nydus_images(&self) -> Result<Vec<(u64, String)>> {
        let mut images = Vec::new();
        self.each(|_, record| {
            if record.kind == Kind::Committed && record.labels.contains_key(NYDUS_BOOTSTRAP) {
                let reference = labels::image_ref(&record.labels).unwrap_or_default();
                images.push((record.id, reference.to_owned()));
            }
        })?;
        images.sort();
        Ok(images)
    }

    /// The newest image with this reference or number.
    ///
    /// # Errors
    /// The store failed.
    pub fn find_image(&self, wanted: &str) -> Result<Option<Image>> {
        let images = self.nydus_images()?;
        let is_it =
            |(id, reference): &&(u64, String)| reference == wanted || id.to_string() == wanted;
        let found = images.iter().rev().find(is_it).map(|(id, _)| *id);
        Ok(found.map(self.images_of_numbers()?))
    }

    /// The images whose bootstraps are in these snapshots: after a restart, when only their
    /// numbers are known. Of one that is gone nothing else is known.
    ///
    /// # Errors
    /// The store failed.
    pub fn images_of_numbers(&self) -> Result<impl Fn(u64) -> Image + use<>> {
        let mut images = HashMap::new();
        self.each(|read, record| {
            if record.labels.contains_key(NYDUS_BOOTSTRAP) {
                let chain = read.parents(&record).unwrap_or_default();
                let chain: Vec<_> = chain.iter().map(parent).collect();
                images.insert(record.id, image(&parent(&record), &chain));
            }
        })?;
        let unknown =
            |id| Image { id, key: String::new(), labels: Labels::new(), blobs: Vec::new() };
        Ok(move |id| images.get(&id).cloned().unwrap_or_else(|| unknown(id)))
    }
}

/// The snapshot with the bootstrap, if it is a container of a Nydus image.
fn meta_of(record: &Record, parents: &[Record], driver: Driver) -> Option<u64> {
    let chain: Vec<_> = parents.iter().map(parent).collect();
    match resolve::rootfs(&record.labels, &chain, driver) {
        Ok(Rootfs::Nydus { meta, .. }) => Some(meta.id),
        _ => None,
    }
}

fn commit_at_once(
    draft: &mut Draft<'_>,
    new: New,
    target: &str,
    mark: Option<&'static str>,
) -> store::Result<Option<Record>> {
    if let Some(there) = draft.find(target)? {
        if there.kind == Kind::Committed && there.parent == new.parent {
            return Ok(None);
        }
        let context = format!("target snapshot {target:?} has another parent or is not committed");
        return Err(store::Error::FailedPrecondition(context));
    }
    let mut labels = new.labels;
    labels.extend(mark.map(|mark| (mark.to_owned(), "true".to_owned())));
    draft.create(Kind::Active, &new.key, &new.parent, Labels::new())?;
    draft.commit(target, &new.key, labels, Usage::default()).map(Some)
}

fn parent(record: &Record) -> Parent {
    Parent { id: record.id, key: record.key.clone(), labels: record.labels.clone() }
}

/// Puts a snapshot's number into the log lines of the call.
fn note(record: &Record) -> &Record {
    tracing::Span::current().record("id", record.id);
    record
}

/// The image of a meta layer, with the blobs of the data layers in its chain.
fn image(meta: &Parent, chain: &[Parent]) -> Image {
    let digest = |parent: &Parent| {
        let data = parent.labels.contains_key(NYDUS_BLOB);
        parent.labels.get(LAYER_DIGEST).filter(|_| data).cloned()
    };
    let blobs = chain.iter().filter_map(digest).collect();
    Image { id: meta.id, key: meta.key.clone(), labels: meta.labels.clone(), blobs }
}

/// Runs what waits for the disk where that holds up nobody.
async fn blocking<T: Send + 'static>(
    context: String,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)));
    done.map_err(|error| Error::Directory(context, error))
}
