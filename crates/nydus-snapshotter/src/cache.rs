//! The cache of blobs: what a blob takes there, and which may go.

use crate::labels::{LAYER_DIGEST, NYDUS_BLOB, NYDUS_BOOTSTRAP};
use crate::layout::Layout;
use crate::store::Record;
use crate::usage::Usage;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Bytes in a block of `stat(2)`.
const BLOCK: u64 = 512;
/// Digits of a blob's name.
const DIGITS: usize = 64;
/// What `nydusd` appends to a blob's name, in the order in which it may go: what says that data
/// is there before the data.
const SUFFIXES: [&str; 6] =
    [".chunk_map", ".blob.data.chunk_map", ".blob.meta", ".blob.meta.new", ".blob.data", ""];

/// Names of blobs that images use.
pub type Blobs = BTreeSet<String>;

/// What is cached of the blob `digest` (`sha256:…`).
pub fn usage(cache: &Path, digest: &str) -> Usage {
    let name = digest.rsplit(':').next().unwrap_or_default();
    let files = SUFFIXES.iter().filter_map(|suffix| fs::metadata(file(cache, name, suffix)).ok());
    files.fold(Usage::default(), |sum, meta| sum + Usage { inodes: 1, size: meta.blocks() * BLOCK })
}

/// Adds the blobs that a snapshot tells of: its own, or those that its bootstrap names. False if
/// that cannot be read.
pub fn add(blobs: &mut Blobs, layout: &Layout, record: &Record) -> bool {
    let has = |label| record.labels.contains_key(label);
    if has(NYDUS_BLOB)
        && let Some(digest) = record.labels.get(LAYER_DIGEST)
    {
        blobs.extend(digest.rsplit(':').next().map(str::to_owned));
    }
    if !has(NYDUS_BOOTSTRAP) || record.usage.inodes == 0 {
        return true;
    }
    match fs::read(layout.bootstrap(record.id)) {
        Ok(bootstrap) => {
            blobs.extend(named_in(&bootstrap));
            true
        }
        // An image whose bootstrap is gone uses nothing.
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// All that looks like a blob's name. Both formats have their names so; what only looks like one
/// keeps a file for nothing, at worst.
fn named_in(bootstrap: &[u8]) -> impl Iterator<Item = String> {
    static NAME: LazyLock<regex::bytes::Regex> =
        LazyLock::new(|| regex::bytes::Regex::new("[0-9a-f]{64}").expect("a regular expression"));
    NAME.find_iter(bootstrap).map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned())
}

/// Blobs of which something is cached. Files that are no blob's are not looked at.
///
/// # Errors
/// The cache cannot be read.
pub fn blobs(cache: &Path) -> io::Result<Blobs> {
    let entries = match fs::read_dir(cache) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Blobs::new()),
        entries => entries?,
    };
    let mut blobs = Blobs::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        blobs.extend(blob_of(&name).map(str::to_owned));
    }
    Ok(blobs)
}

/// Removes what is cached of these blobs.
///
/// # Errors
/// A file cannot be removed.
pub fn remove(cache: &Path, blobs: &Blobs) -> io::Result<()> {
    for blob in blobs {
        for suffix in SUFFIXES {
            match fs::remove_file(file(cache, blob, suffix)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        tracing::info!(blob, "freed from the cache");
    }
    Ok(())
}

/// The blob whose file has this name.
fn blob_of(name: &str) -> Option<&str> {
    let (blob, suffix) = name.split_at_checked(DIGITS)?;
    let hex = blob.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (hex && SUFFIXES.contains(&suffix)).then_some(blob)
}

fn file(cache: &Path, blob: &str, suffix: &str) -> PathBuf {
    cache.join(format!("{blob}{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unused_blobs_go() {
        let cache = tempfile::tempdir().unwrap();
        let (used, unused) = ("a".repeat(64), "b".repeat(64));
        let others = ["README", "b.blob.data", &format!("{unused}.mine"), &"B".repeat(64)];
        for blob in [&used, &unused] {
            for suffix in SUFFIXES {
                fs::write(file(cache.path(), blob, suffix), "x").unwrap();
            }
        }
        for other in others {
            fs::write(cache.path().join(other), "x").unwrap();
        }
        let all = Usage { inodes: 6, size: 6 * 4096 };
        assert_eq!(usage(cache.path(), &format!("sha256:{unused}")), all);
        let found = blobs(cache.path()).unwrap();
        remove(cache.path(), &(&found - &Blobs::from([used.clone()]))).unwrap();
        assert_eq!(usage(cache.path(), &format!("sha256:{unused}")), Usage::default());
        assert_eq!(usage(cache.path(), &format!("sha256:{used}")), all);
        assert!(others.iter().all(|other| cache.path().join(other).exists()));
        assert_eq!(blobs(&cache.path().join("missing")).unwrap(), Blobs::new());
    }

    #[test]
    fn names_in_a_bootstrap() {
        let (one, two) = ("a1".repeat(32), "b2".repeat(32));
        let text = [b"\0\0", one.as_bytes(), b"\0", two.as_bytes(), b"\xff", &one.as_bytes()[..63]];
        assert_eq!(named_in(&text.concat()).collect::<Vec<_>>(), [one, two]);
    }
}
