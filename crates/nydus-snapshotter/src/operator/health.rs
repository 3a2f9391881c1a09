//! Whether images that are served can still be read: a token that was revoked shows nowhere else
//! before a container reads.

use crate::labels::image_ref;
use crate::registry::explain;
use crate::serving::fuse::{Images, Served};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

/// Images that are looked at at once.
const AT_ONCE: usize = 16;

/// What was seen of an image the last time.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The image's reference, if a label tells.
    pub image: String,
    /// Why its data cannot be had.
    pub trouble: Option<String>,
    /// File operations that failed.
    pub failed_operations: u64,
    /// Bytes read from the image.
    pub bytes_read: u64,
    /// The blob that the registry was asked for.
    asked: usize,
}

impl Seen {
    /// The blob to ask for next: one at a time, so that a registry is not asked for all blobs of
    /// all images over and over; the same as long as it cannot be had.
    fn next(&self, blobs: usize) -> usize {
        let next = if self.trouble.is_some() { self.asked } else { self.asked + 1 };
        if next < blobs { next } else { 0 }
    }
}

/// What was seen of all images.
#[derive(Debug, Default)]
pub struct Health(Mutex<BTreeMap<u64, Seen>>);

impl Health {
    /// What was seen, by the number of the image's snapshot.
    pub fn all(&self) -> BTreeMap<u64, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at all images, again and again.
    pub async fn watch(self: Arc<Self>, images: Arc<Images>, interval: Duration) {
        loop {
            let before = self.all();
            let mut seen = BTreeMap::new();
            // A registry that is down costs each image its time limit.
            for some in images.served().chunks(AT_ONCE) {
                let look = |served: &Arc<Served>| {
                    look(Arc::clone(served), before.get(&served.image.id).cloned())
                };
                let looks: JoinSet<_> = some.iter().map(look).collect();
                for (served, now) in looks.join_all().await {
                    report(&served, before.get(&served.image.id), &now);
                    seen.insert(served.image.id, now);
                }
            }
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = seen;
            tokio::time::sleep(interval).await;
        }
    }
}

async fn look(served: Arc<Served>, before: Option<Seen>) -> (Arc<Served>, Seen) {
    let client = served.live.daemon.client();
    let mountpoint = served.live.shared.then(|| format!("/{}", served.image.id));
    // A daemon that has no counters yet has nothing to tell.
    let counters = client.metrics(mountpoint.as_deref()).await.unwrap_or_default();
    let blobs = &served.image.blobs;
    let asked = before.map_or(0, |before| before.next(blobs.len()));
    let one = blobs.get(asked).map(std::slice::from_ref).unwrap_or_default();
    let trouble = explain::blobs(&served.config, one).await.err();
    let seen = Seen {
        image: image_ref(&served.image.labels).unwrap_or_default().to_owned(),
        trouble: trouble.map(|error| error.to_string()),
        failed_operations: counters.fop_errors.iter().sum(),
        bytes_read: counters.data_read,
        asked,
    };
    (served, seen)
}

/// Says what changed, once.
fn report(served: &Served, before: Option<&Seen>, now: &Seen) {
    let had = before.and_then(|seen| seen.trouble.as_ref());
    match (&now.trouble, had) {
        (Some(trouble), had) if had != Some(trouble) => {
            tracing::error!(
                snapshot = served.image.id,
                image = now.image,
                trouble,
                "the image cannot be read"
            );
        }
        (None, Some(_)) => {
            tracing::info!(
                snapshot = served.image.id,
                image = now.image,
                "the image can be read again"
            );
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_blob_at_a_time() {
        let seen = |asked, trouble: bool| Seen {
            asked,
            trouble: trouble.then(String::new),
            ..Seen::default()
        };
        for (before, blobs, next) in [
            (seen(0, false), 3, 1),
            (seen(2, false), 3, 0),
            (seen(2, true), 3, 2),
            (seen(2, true), 1, 0),
            (seen(0, false), 0, 0),
        ] {
            assert_eq!(before.next(blobs), next, "{before:?} {blobs}");
        }
    }
}
