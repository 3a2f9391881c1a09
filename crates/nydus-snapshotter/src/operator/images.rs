//! Nydus images: who serves each, how much of it is cached, and why it is not the kernel.

use crate::serving::{Entry, Known};
use rafs_erofs::Progress;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// A Nydus image.
#[derive(Debug, Serialize, Deserialize)]
pub struct ImageRow {
    /// Number of the snapshot with its bootstrap.
    pub snapshot: u64,
    /// Its reference, empty if not known.
    pub image: String,
    /// Who serves it: `kernel` (new containers), `fuse`, `both` (old containers are on FUSE
    /// still), or `-`.
    pub served: String,
    /// Bytes that are cached, unpacked, when it was looked at last.
    pub ready_bytes: u64,
    /// Bytes that it has; 0 if it was not looked at.
    pub bytes: u64,
    /// What is being done with it: `caching`, `copying`, `verifying`.
    pub doing: Option<String>,
    /// Why the kernel does not serve it.
    pub why: Option<String>,
}

impl ImageRow {
    /// What is known of an image; `obstacle` is in the way of all.
    pub(super) fn new(
        snapshot: u64,
        image: String,
        entry: Option<&Entry>,
        obstacle: Option<String>,
    ) -> Self {
        let fuse = entry.is_some_and(|entry| entry.fuse.is_some());
        let known = entry.map(|entry| entry.known.clone()).unwrap_or_default();
        let served = match (known.promoted, fuse) {
            (true, true) => "both",
            (true, false) => "kernel",
            (false, true) => "fuse",
            (false, false) => "-",
        };
        let Progress { ready_bytes, bytes, .. } = known.now().unwrap_or_default();
        let doing = known.job.as_ref().map(|job| job.stage().told().0.to_owned());
        let why = why(&known).filter(|_| doing.is_none()).or(obstacle);
        Self { snapshot, image, served: served.to_owned(), ready_bytes, bytes, doing, why }
    }

    /// Their table for people.
    pub(super) fn rows(images: &[Self], rows: &mut String) -> std::fmt::Result {
        writeln!(rows, "\nIMAGE\tREFERENCE\tSERVED\tCACHED\tWHY")?;
        for image in images {
            let Self { snapshot, image, served, ready_bytes, bytes, doing, why } = image;
            let cached = match (bytes, doing) {
                (0, None) => "-".to_owned(),
                (0, Some(doing)) => doing.clone(),
                (_, doing) => {
                    let percent = 100 * u128::from(*ready_bytes) / u128::from(*bytes);
                    let of = indicatif::BinaryBytes(*bytes);
                    let doing =
                        doing.as_ref().map(|doing| format!(", {doing}")).unwrap_or_default();
                    format!("{percent}% of {of}{doing}")
                }
            };
            let why = why.as_deref().unwrap_or("-");
            writeln!(rows, "{snapshot}\t{image}\t{served}\t{cached}\t{why}")?;
        }
        Ok(())
    }
}

/// Why the kernel does not serve it; `None` also where nobody has looked.
fn why(known: &Known) -> Option<String> {
    let incomplete = known.progress.filter(|progress| !progress.complete() && !known.promoted);
    let incomplete = incomplete.map(|progress| rafs_erofs::Error::Incomplete(progress).to_string());
    known.why.clone().or(incomplete)
}
