//! containerd's calls.

use super::catalogue::{PAGE, image, parent};
use super::lower::only_kernel;
use super::{Error, New, Result, Snapshots, directories, on_disk};
use crate::cache;
use crate::idmap::IdMap;
use crate::labels::{LAYER_DIGEST, Labels, NYDUS_BLOB, NYDUS_BOOTSTRAP, SNAPSHOT_REF, VOLATILE};
use crate::mounts;
use crate::resolve::{self, Driver, Purpose, Rootfs, purpose};
use crate::store::{self, Draft, Kind, Lookup, Record};
use crate::usage::{self, Usage};
use nydus_mount_slice::Mount;
use std::sync::Arc;

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
            && let Purpose::Skip(mark) = purpose(&new.labels, self.config.driver)?
        {
            return Err(self.skip(new, mark).await?);
        }
        let New { kind, key, parent, labels } = new;
        IdMap::of(&labels).map_err(|error| Error::IdMap(key.clone(), error))?;
        let (serving, config) = (Arc::clone(&self.serving), Arc::clone(&self.config));
        let create = move |draft: &mut Draft<'_>| {
            let mut record = draft.create(kind, &key, &parent, labels)?;
            let parents = draft.parents(&record)?;
            // Before anybody knows it: from here on it needs no daemon.
            record.kernel = meta_of(&record, &parents, config.driver).is_some_and(|meta| {
                serving.is_promoted(meta) || only_kernel(config.kernel_native, &record)
            });
            if record.kernel {
                draft.set_kernel(&record.key, record.id, true)?;
            }
            Ok((record, parents))
        };
        let (record, parents) = self.store.write(create).await?;
        record_id_in_span(&record);
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
        directories::recreate_missing_layers(&self.layout, parents)?;
        directories::recreate_missing(&self.layout, record, parents.first())?;
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
            directories::make(&self.layout, &record, None)?;
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
        record_id_in_span(&record);
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
            volatile: self.config.file.snapshot.enable_overlayfs_volatile
                || record.labels.contains_key(VOLATILE),
        };
        let (layout, host) = (&self.layout, &self.host);
        match resolve::rootfs(&record.labels, &chain, self.config.driver)? {
            Rootfs::Plain(ids) => Ok(mounts::plain(layout, host, &snapshot, &ids)),
            Rootfs::Guest { marked, parents } => {
                mounts::guest(layout, host, &snapshot, &parents, marked.as_ref()).map_err(slice)
            }
            Rootfs::Nydus { meta, above } => {
                let lower = self.serve(record, &image(&meta, &chain)).await?;
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
            Some(record) => self.count_and_sync(record_id_in_span(record)).await?,
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
    async fn count_and_sync(&self, record: &Record) -> Result<Usage> {
        let fs = self.layout.fs(record.id);
        if directories::is_untouched(&fs) {
            let one = fs.symlink_metadata().map(|meta| Usage::of(&meta));
            return one.map_err(|error| Error::Directory(fs, error));
        }
        // Lost with the power, or not made before a kill. Where only `fs` is missing, somebody
        // took it with its contents: no layer is made of that.
        if !self.layout.snapshot(record.id).exists() {
            let parents = self.store.read()?.parents(record)?;
            directories::make(&self.layout, record, parents.first())?;
        }
        on_disk(&fs.clone(), move || {
            let usage = usage::of_tree(&fs)?;
            directories::sync_file_system(&fs)?;
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
        record_id_in_span(&record);
        if self.config.file.snapshot.sync_remove {
            self.discard(record.id).await?;
        }
        Ok(())
    }

    /// What is known of a snapshot.
    ///
    /// # Errors
    /// It is missing.
    pub fn stat(&self, key: &str) -> Result<Record> {
        let record = self.store.read()?.stat(key)?;
        record_id_in_span(&record);
        Ok(record)
    }

    /// Changes labels: all, or those that `paths` name.
    ///
    /// # Errors
    /// It is missing; another field.
    pub async fn update(&self, key: String, labels: Labels, paths: Vec<String>) -> Result<Record> {
        let record = self.store.write(move |draft| draft.update(&key, &labels, &paths)).await?;
        record_id_in_span(&record);
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
            Kind::Active => on_disk(&fs.clone(), move || usage::of_tree(&fs)).await,
            Kind::Committed => {
                let blob = record.labels.get(LAYER_DIGEST);
                let blob = blob.filter(|_| record.labels.contains_key(NYDUS_BLOB));
                let cached = blob.map(|blob| cache::usage(&self.config.cache, blob));
                let native = record.labels.contains_key(NYDUS_BOOTSTRAP);
                let native = native.then(|| self.serving.kernel.usage(record.id));
                let more = [cached, native].into_iter().flatten();
                Ok(more.fold(record.usage, |sum, more| sum + more))
            }
        }
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

/// Puts a snapshot's number into the log lines of the call.
fn record_id_in_span(record: &Record) -> &Record {
    tracing::Span::current().record("id", record.id);
    record
}
