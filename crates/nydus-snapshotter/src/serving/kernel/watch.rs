//! What goes on in the background: images that have become complete are promoted, others are
//! completed as configured, and daemons that nobody needs any more end.

use super::{Job, Natives, Stage};
use crate::config::{KernelNative, Warm};
use crate::snapshots::Snapshots;
use rafs_erofs::Progress;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often new images are looked for.
const TICK: Duration = Duration::from_secs(1);
/// How many looks at an image are left out after it could not be promoted.
const PATIENCE: u32 = 10;

/// Works until it is dropped. Images are looked at once in an `interval`.
pub async fn watch(snapshots: Arc<Snapshots>, warm: Warm, interval: Duration) {
    let natives = Arc::clone(&snapshots.natives);
    if natives.policy() == KernelNative::Off {
        return;
    }
    if let Err(error) = natives.way().await {
        return tracing::warn!(%error, "images stay with nydusd");
    }
    let mut current: Option<Job> = None;
    loop {
        let woken = tokio::time::timeout(TICK, natives.changed.notified()).await;
        if woken.is_ok()
            && let Err(error) = snapshots.release_unused().await
        {
            tracing::error!(%error, "daemons that are not needed cannot be found");
        }
        for served in snapshots.images.served() {
            let busy = current.as_ref().is_some_and(|job| !job.is_over());
            let due = !busy && natives.is_due(served.image.id, interval);
            if due && natives.wants(served.image.id, warm).await {
                current = Some(natives.promote(&snapshots.images, &served.image, false));
            }
        }
    }
}

impl Job {
    fn is_over(&self) -> bool {
        matches!(self.stage(), Stage::Done | Stage::Failed(_))
    }
}

impl Natives {
    /// Whether it is time to look at an image.
    fn is_due(&self, id: u64, interval: Duration) -> bool {
        let known = self.known();
        let Some(known) = known.get(&id) else { return true };
        let since = |time: Option<Instant>, least: Duration| {
            time.is_none_or(|time| time.elapsed() >= least)
        };
        let idle = !known.promoted && !known.never && known.job.is_none();
        idle && since(known.looked, interval) && since(known.failed, interval * PATIENCE)
    }

    /// Looks at an image: whether a job should be at it.
    async fn wants(self: &Arc<Self>, id: u64, warm: Warm) -> bool {
        let before = self.known().get(&id).and_then(|known| known.progress);
        match self.look(id).await {
            Ok(now) => is_wanted(warm, before, now),
            Err(error) => {
                tracing::info!(snapshot = id, %error, "the image stays with nydusd");
                false
            }
        }
    }
}

/// Whether an image of which so much is cached is promoted, and completed before if need be.
fn is_wanted(warm: Warm, before: Option<Progress>, now: Progress) -> bool {
    now.complete()
        || match warm {
            Warm::Never => false,
            Warm::Idle => before.is_some_and(|before| before.ready == now.ready),
            Warm::Now => true,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted() {
        use Warm::{Idle, Never, Now};
        // Chunks before and now, of 4.
        let table = [
            (Never, None, 3, false),
            (Never, Some(3), 3, false),
            (Never, None, 4, true),
            (Idle, None, 3, false),
            (Idle, Some(2), 3, false),
            (Idle, Some(3), 3, true),
            (Idle, None, 4, true),
            (Now, None, 0, true),
        ];
        let progress = |ready| Progress { ready, chunks: 4, ..Progress::default() };
        for (warm, before, now, wanted) in table {
            let found = is_wanted(warm, before.map(progress), progress(now));
            assert_eq!(found, wanted, "{warm:?} {before:?} {now}");
        }
    }
}
