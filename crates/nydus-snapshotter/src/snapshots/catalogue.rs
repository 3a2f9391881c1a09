//! Which snapshots and images there are.

use super::{Result, Snapshots};
use crate::labels::{self, LAYER_DIGEST, NYDUS_BLOB};
use crate::resolve::Parent;
use crate::serving::ServedImage;
use crate::store::{Lookup, Record};

/// Snapshots in one page of a listing, and in one message of it.
pub(super) const PAGE: usize = 100;

impl Snapshots {
    /// Calls `look` with every record; false if one is damaged.
    ///
    /// # Errors
    /// The store failed.
    pub fn each(&self, mut look: impl FnMut(Record)) -> Result<bool> {
        let read = self.store.read()?;
        let (mut after, mut whole) = (String::new(), true);
        loop {
            let page = read.page(&after, PAGE)?;
            whole &= page.damaged.is_empty();
            page.found.into_iter().for_each(&mut look);
            match page.next {
                Some(next) => after = next,
                None => return Ok(whole),
            }
        }
    }

    /// All Nydus images: the number of the snapshot with the bootstrap, and the reference. One
    /// whose record is damaged is left out.
    ///
    /// # Errors
    /// The store failed.
    pub fn images(&self) -> Result<Vec<(u64, String)>> {
        let read = self.store.read()?;
        let reference = |(id, key): (u64, String)| {
            let record = read.find(&key).ok().flatten()?;
            Some((id, labels::image_ref(&record.labels).unwrap_or_default().to_owned()))
        };
        Ok(read.images()?.into_iter().filter_map(reference).collect())
    }

    /// The newest image with this reference or number.
    ///
    /// # Errors
    /// The store failed.
    pub fn find_image(&self, wanted: &str) -> Result<Option<ServedImage>> {
        let images = self.images()?;
        let is_it =
            |(id, reference): &&(u64, String)| reference == wanted || id.to_string() == wanted;
        Ok(images.iter().rev().find(is_it).map(|(id, _)| self.image(*id)))
    }

    /// The image whose bootstrap is in this snapshot: after a restart, when only its number is
    /// known. Of one that is gone, or whose record cannot be read, nothing else is known.
    pub fn image(&self, id: u64) -> ServedImage {
        let found = || {
            let read = self.store.read().ok()?;
            let record = read.find(&read.image_key(id).ok()??).ok()??;
            let chain = read.parents(&record).unwrap_or_default();
            Some(image(&parent(&record), &chain.iter().map(parent).collect::<Vec<_>>()))
        };
        found().unwrap_or_else(|| ServedImage { id, ..ServedImage::default() })
    }
}

pub(super) fn parent(record: &Record) -> Parent {
    Parent { id: record.id, key: record.key.clone(), labels: record.labels.clone() }
}

/// The image of a meta layer, with the blobs of the data layers in its chain.
pub(super) fn image(meta: &Parent, chain: &[Parent]) -> ServedImage {
    let digest = |parent: &Parent| {
        let data = parent.labels.contains_key(NYDUS_BLOB);
        parent.labels.get(LAYER_DIGEST).filter(|_| data).cloned()
    };
    let blobs = chain.iter().filter_map(digest).collect();
    ServedImage { id: meta.id, key: meta.key.clone(), labels: meta.labels.clone(), blobs }
}
