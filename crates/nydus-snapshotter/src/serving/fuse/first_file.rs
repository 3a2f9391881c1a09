//! Whether an image can be read: `nydusd` says RUNNING with wrong credentials, a missing blob or
//! a dead registry just the same, and the container finds out.

use super::{Error, Served, files};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

/// How much of a tree is looked through for a file to read.
const ENTRIES: usize = 512;
/// How long it may take.
const LIMIT: Duration = Duration::from_secs(8);

/// Reads a file of a mounted image, unless something of that is `cached`. It may hang as long as its
/// daemon lives.
pub(super) async fn read(served: &Served, cached: bool) -> Result<(), Error> {
    let (lower, shared) = (served.lower.clone(), served.live.shared);
    let name = lower.clone();
    let reading = tokio::task::spawn_blocking(move || {
        if let Some(mountpoint) = lower.parent().filter(|_| shared)
            && let Err(error) = files::forget_entries(mountpoint)
        {
            tracing::warn!(path = %mountpoint.display(), %error, "may be known as it was before");
        }
        if cached { Ok(()) } else { in_tree(&lower) }
    });
    match tokio::time::timeout(LIMIT, reading).await {
        Ok(read) => read?,
        Err(_) => {
            let late = io::Error::other(format!("no answer in {LIMIT:?}"));
            Err(Error::Unreadable(name, late))
        }
    }
}

/// Reads the first bytes of a file in the tree: what the registry says is not all that can be
/// wrong. A tree without files near its root has nothing to be tried.
fn in_tree(root: &Path) -> Result<(), Error> {
    let unreadable = |path: &Path, error| Error::Unreadable(path.to_owned(), error);
    for entry in walkdir::WalkDir::new(root).sort_by_file_name().into_iter().take(ENTRIES) {
        let entry = entry.map_err(|error| unreadable(root, error.into()))?;
        let file = entry.file_type().is_file();
        if file && entry.metadata().is_ok_and(|meta| meta.len() > 0) {
            return File::open(entry.path())
                .and_then(|mut file| file.read_exact(&mut [0]))
                .map_err(|error| unreadable(entry.path(), error));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_file_is_read() {
        let root = tempfile::tempdir().unwrap();
        in_tree(root.path()).unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        std::fs::write(root.path().join("a/b/file"), "x").unwrap();
        in_tree(root.path()).unwrap();
        assert!(in_tree(&root.path().join("missing")).is_err());
    }
}
