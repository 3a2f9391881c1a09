//! Where promoted images lie, and what an earlier run left there.

use crate::disk;
use crate::layout::Layout;
use rafs_erofs::{Error as Erofs, Native, Progress};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub(super) fn files(own: &Path) -> PathBuf {
    own.join("image")
}

/// Where the files can be names of cached ones: on the cache's file system.
pub(super) fn place(layout: &Layout, cache: &Path) -> PathBuf {
    let device = |path: &Path| {
        path.ancestors().find_map(|path| fs::metadata(path).ok()).map(|found| found.dev())
    };
    match device(layout.root()) == device(cache) {
        true => layout.native(),
        // As the kernel names it: mounts are known by their files' paths.
        false => resolved(cache).join("native"),
    }
}

/// The path without links, also of what is not there yet.
fn resolved(path: &Path) -> PathBuf {
    let real = |there: &Path| {
        let real = fs::canonicalize(there).ok()?;
        Some(real.join(path.strip_prefix(there).ok()?))
    };
    path.ancestors().find_map(real).unwrap_or_else(|| path.to_owned())
}

/// What is promoted in this directory, and how much that is, as far as it can be read.
pub(super) fn found(place: &Path) -> io::Result<BTreeMap<u64, Option<Progress>>> {
    let mut known = BTreeMap::new();
    for own in disk::entries(place)? {
        let own = own?.path();
        let id = own.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let Some(id) = id else { continue };
        match Native::load(&files(&own)) {
            Ok(None) => {
                if let Err(error) = Native::remove(&files(&own)) {
                    tracing::warn!(path = %own.display(), %error, "a promotion's rest stays");
                }
                // Not if it is mounted, or not empty.
                let _ = fs::remove_dir(own.join("mnt")).and_then(|()| fs::remove_dir(&own));
            }
            // Who wants it is told, and then it goes.
            Err(_) => drop(known.insert(id, None)),
            Ok(Some(native)) => {
                let bytes = native.devices().map(|device| device.size).sum();
                let all = Progress { ready_bytes: bytes, bytes, ..Progress::default() };
                known.insert(id, Some(all));
            }
        }
    }
    Ok(known)
}

/// Which of the devices has changed: their files are named by their number.
pub(super) fn changed_device(error: &Erofs) -> Option<usize> {
    let Erofs::Changed(changed) = error else { return None };
    changed.file.file_name()?.to_str()?.parse().ok()
}
