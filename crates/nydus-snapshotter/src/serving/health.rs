//! Whether images that `nydusd` serves can still be read: a token that was revoked shows nowhere
//! else before a container reads.

use super::Serving;
use super::entry::Seen;
use super::fuse::Served;
use crate::registry::explain;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Images that are looked at at once.
const AT_ONCE: usize = 16;

impl Serving {
    /// Looks at all images that `nydusd` serves.
    pub async fn look_at_health(self: Arc<Self>) {
        // A registry that is down costs each image its time limit.
        for some in self.served().chunks(AT_ONCE) {
            let look = |served: &Arc<Served>| {
                let before = self.entry(served.image.id, |entry| entry.seen.clone());
                look(Arc::clone(served), before)
            };
            let looks: JoinSet<_> = some.iter().map(look).collect();
            for (served, now) in looks.join_all().await {
                self.entry_if_there(served.image.id, |entry| {
                    report(&served, entry.seen.trouble.as_ref(), now.trouble.as_ref());
                    entry.seen = now;
                });
            }
        }
    }
}

async fn look(served: Arc<Served>, before: Seen) -> (Arc<Served>, Seen) {
    let client = served.live.daemon.client();
    let mountpoint = served.live.shared.then(|| format!("/{}", served.image.id));
    // A daemon that has no counters yet has nothing to tell.
    let counters = client.metrics(mountpoint.as_deref()).await.unwrap_or_default();
    let blobs = &served.image.blobs;
    let asked = before.next(blobs.len());
    let one = blobs.get(asked).map(std::slice::from_ref).unwrap_or_default();
    let trouble = explain::blobs(&served.config, one).await.err();
    let seen = Seen {
        trouble: trouble.map(|error| error.to_string()),
        failed_operations: counters.fop_errors.iter().sum(),
        bytes_read: counters.data_read,
        asked: Some(asked),
    };
    (served, seen)
}

/// Says what changed, once.
fn report(served: &Served, before: Option<&String>, now: Option<&String>) {
    let (snapshot, image) = (served.image.id, served.image.reference());
    match now {
        Some(trouble) if before != now => {
            tracing::error!(snapshot, image, trouble, "the image cannot be read");
        }
        None if before.is_some() => {
            tracing::info!(snapshot, image, "the image can be read again");
        }
        _ => {}
    }
}
