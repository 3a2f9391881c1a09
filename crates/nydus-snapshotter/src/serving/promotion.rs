//! Which images the kernel serves to new containers, and which should be next.

use super::entry::Known;
use super::{Serving, locked};
use crate::config::Warm;
use rafs_erofs::Progress;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How many looks at an image are left out after it could not be promoted.
const PATIENCE: u32 = 10;

impl Serving {
    /// Whether new containers of an image get the kernel's mount.
    pub fn is_promoted(&self, id: u64) -> bool {
        self.entries().get(&id).is_some_and(|entry| entry.known.promoted)
    }

    /// Whether a job is at an image.
    pub fn is_working(&self, id: u64) -> bool {
        self.entries().get(&id).is_some_and(|entry| entry.known.job.is_some())
    }

    /// Images that the kernel may have mounted.
    pub fn promoted(&self) -> Vec<u64> {
        let entries = self.entries();
        entries.iter().filter(|(_, entry)| entry.known.promoted).map(|(id, _)| *id).collect()
    }

    /// Whether an image was promoted, or could not be, since this was asked last.
    pub fn has_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    /// Promotes the first image that is complete, or is to be completed, unless that goes on.
    /// Images are looked at once in a `collect_interval`.
    pub async fn promote_next(self: Arc<Self>) {
        if self.kernel.support().await.is_err() {
            return;
        }
        for served in self.served() {
            let id = served.image.id;
            let busy = locked(&self.background).as_ref().is_some_and(|job| !job.is_over());
            let known = self.entry(id, |entry| entry.known.clone());
            if busy || !known.is_due(self.config.collect_interval) {
                continue;
            }
            match self.count_cached(id, || false).await {
                Ok(now) if is_wanted(self.config.warm, known.progress, now) => {
                    *locked(&self.background) = Some(self.promote(&served.image, false));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::info!(snapshot = id, %error, "the image stays with nydusd");
                }
            }
        }
    }
}

impl Known {
    /// Whether it is time to look at an image.
    fn is_due(&self, interval: Duration) -> bool {
        let since = |time: Option<Instant>, least: Duration| {
            time.is_none_or(|time| time.elapsed() >= least)
        };
        let idle = !self.promoted && !self.never && self.job.is_none();
        idle && since(self.looked, interval) && since(self.failed, interval * PATIENCE)
    }

    /// Its files are not what was verified.
    pub(super) fn demoted(&mut self, why: String) {
        let failed = Some(Instant::now());
        *self = Self { why: Some(why), failed, job: self.job.take(), ..Self::default() };
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
