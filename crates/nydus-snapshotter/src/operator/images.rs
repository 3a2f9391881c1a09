//! Nydus images: who serves each, how much of it is cached, and why it is not the kernel.

use super::report::Instance;
use crate::serving::kernel::Known;
use crate::snapshots::Result;
use crate::snapshots::Snapshots;
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
    /// All of them, of which these are served by `nydusd`.
    pub(super) fn all(snapshots: &Snapshots, instances: &[Instance]) -> Result<Vec<Self>> {
        let (known, obstacle) = (snapshots.natives.all(), snapshots.natives.obstacle());
        let row = |(id, image): (u64, String)| {
            let fuse = instances.iter().any(|instance| instance.snapshot == id);
            let mut image = shown(id, image, fuse, &known.get(&id).cloned().unwrap_or_default());
            image.why = image.why.or_else(|| obstacle.clone());
            image
        };
        Ok(snapshots.nydus_images()?.into_iter().map(row).collect())
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

fn shown(snapshot: u64, image: String, fuse: bool, known: &Known) -> ImageRow {
    let served = match (known.promoted, fuse) {
        (true, true) => "both",
        (true, false) => "kernel",
        (false, true) => "fuse",
        (false, false) => "-",
    };
    let progress = known.now().unwrap_or_default();
    let mut image = ImageRow {
        snapshot,
        image,
        served: served.to_owned(),
        ready_bytes: progress.ready_bytes,
        bytes: progress.bytes,
        doing: None,
        why: why(known),
    };
    if let Some(job) = &known.job {
        image.doing = Some(job.stage().told().0.to_owned());
        image.why = None;
    }
    image
}

/// Why the kernel does not serve it; `None` also where nobody has looked.
fn why(known: &Known) -> Option<String> {
    let incomplete = known.progress.filter(|progress| !progress.complete() && !known.promoted);
    let incomplete = incomplete.map(|progress| rafs_erofs::Error::Incomplete(progress).to_string());
    known.why.clone().or(incomplete)
}
