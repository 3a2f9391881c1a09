//! What is known of an image.

use super::fuse::Served;
use super::job::{Job, Stage};
use super::kernel::Cached;
use rafs_erofs::Progress;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Mutex;

/// All about one image.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// Held by whoever changes who serves it.
    pub(super) turn: Arc<Mutex<()>>,
    /// Served by `nydusd`; also after that has died.
    pub fuse: Option<Arc<Served>>,
    /// `nydusd` is being started for it.
    pub(super) starting: bool,
    /// What is known of it for the kernel.
    pub known: Known,
    /// What was seen of it the last time, served by `nydusd`.
    pub seen: Seen,
}

/// Whether and why the kernel serves an image.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// It is promoted: the kernel serves it to new containers.
    pub promoted: bool,
    /// How much of it was cached when it was looked at last.
    pub progress: Option<Progress>,
    /// Why it is not promoted.
    pub why: Option<String>,
    /// It never will be.
    pub never: bool,
    /// A job that is at it.
    pub job: Option<Job>,
    pub(super) cached: Option<Arc<Cached>>,
    pub(super) looked: Option<Instant>,
    pub(super) failed: Option<Instant>,
}

impl Known {
    /// How much of it is cached, as far as it is known.
    pub fn now(&self) -> Option<Progress> {
        match self.job.as_ref().map(Job::stage) {
            Some(Stage::Caching(now)) => Some(now),
            _ => self.progress,
        }
    }
}

/// What was seen of an image that `nydusd` serves.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Why its data cannot be had.
    pub trouble: Option<String>,
    /// File operations that failed.
    pub failed_operations: u64,
    /// Bytes read from the image.
    pub bytes_read: u64,
    /// The blob that the registry was asked for; `None` if nobody has looked.
    pub asked: Option<usize>,
}

impl Seen {
    /// The blob to ask for next: one at a time, so that a registry is not asked for all blobs of
    /// all images over and over; the same as long as it cannot be had.
    pub(super) fn next(&self, blobs: usize) -> usize {
        let step = usize::from(self.trouble.is_none());
        self.asked.map(|asked| asked + step).filter(|next| *next < blobs).unwrap_or(0)
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
            (seen(None, false), 3, 0),
            (seen(Some(0), false), 3, 1),
            (seen(Some(2), false), 3, 0),
            (seen(Some(2), true), 3, 2),
            (seen(Some(2), true), 1, 0),
            (seen(Some(0), false), 0, 0),
        ] {
            assert_eq!(before.next(blobs), next, "{before:?} {blobs}");
        }
    }
}
