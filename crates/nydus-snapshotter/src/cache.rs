//! The cache of blobs: what a blob takes there, and which may go.

use crate::disk;
use crate::labels::{LAYER_DIGEST, NYDUS_BLOB, NYDUS_BOOTSTRAP};
use crate::store::Record;
use crate::usage::Usage;
use nydusd_client::bootstrap;
use rafs_erofs::SUFFIXES;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Digits of a blob's name.
const DIGITS: usize = 64;

/// Names of blobs that images use.
pub type Blobs = BTreeSet<String>;

/// What is cached of the blob `digest` (`sha256:…`).
pub fn usage(cache: &Path, digest: &str) -> Usage {
    let name = digest.rsplit(':').next().unwrap_or_default();
    let files = SUFFIXES.iter().filter_map(|suffix| fs::metadata(file(cache, name, suffix)).ok());
    files.fold(Usage::default(), |sum, meta| sum + Usage::of(&meta))
}

/// The blob that a snapshot is, and whether its bootstrap names others.
pub fn of(record: &Record) -> (Option<String>, bool) {
    let has = |label| record.labels.contains_key(label);
    let digest = record.labels.get(LAYER_DIGEST).filter(|_| has(NYDUS_BLOB));
    let own = digest.and_then(|digest| digest.rsplit(':').next()).map(str::to_owned);
    (own, has(NYDUS_BOOTSTRAP) && record.usage.inodes > 0)
}

/// Adds those of `cached` that a bootstrap names: wherever in it their names stand, as both
/// formats have them so.
///
/// # Errors
/// It cannot be read. One that is gone uses nothing.
pub fn add(used: &mut Blobs, cached: &Blobs, path: &Path) -> io::Result<()> {
    match bootstrap::open(path) {
        Ok(file) => named_in(file, used, cached),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn named_in(mut file: impl Read, used: &mut Blobs, cached: &Blobs) -> io::Result<()> {
    const PART: usize = 1 << 20;
    let mut part = Vec::with_capacity(PART + DIGITS);
    loop {
        // A name may begin in the part before.
        part.drain(..part.len().saturating_sub(DIGITS - 1));
        if file.by_ref().take(PART as u64).read_to_end(&mut part)? == 0 {
            return Ok(());
        }
        let mut digits = 0;
        for (at, byte) in part.iter().enumerate() {
            digits = if is_digit(*byte) { digits + 1 } else { 0 };
            if digits >= DIGITS
                && let Ok(name) = std::str::from_utf8(&part[at + 1 - DIGITS..=at])
                && cached.contains(name)
            {
                used.insert(name.to_owned());
            }
        }
    }
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Blobs of which something is cached. Files that are no blob's are not looked at.
///
/// # Errors
/// The cache cannot be read.
pub fn blobs(cache: &Path) -> io::Result<Blobs> {
    let mut blobs = Blobs::new();
    for entry in disk::entries(cache)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        blobs.extend(blob_of(&name).map(str::to_owned));
    }
    Ok(blobs)
}

/// Whether data of one of these blobs (`sha256:…`) is cached; where none is told, of one that the
/// bootstrap names.
///
/// # Errors
/// The cache or the bootstrap cannot be read.
pub fn has_data(cache: &Path, digests: &[String], bootstrap: &Path) -> io::Result<bool> {
    const DATA: [&str; 3] = ["", ".blob.data", ".blob.raw"];
    let name = |digest: &String| digest.rsplit(':').next().map(str::to_owned);
    let mut named: Blobs = digests.iter().filter_map(name).collect();
    if named.is_empty() {
        add(&mut named, &blobs(cache)?, bootstrap)?;
    }
    // A file as long as the blob is made at once, and has nothing in it.
    let has = |path: PathBuf| fs::metadata(path).is_ok_and(|meta| Usage::of(&meta).size > 0);
    Ok(named.iter().any(|blob| DATA.iter().any(|suffix| has(file(cache, blob, suffix)))))
}

/// Removes what is cached of these blobs.
///
/// # Errors
/// A file cannot be removed.
pub fn remove(cache: &Path, blobs: &Blobs) -> io::Result<()> {
    for blob in blobs {
        for suffix in SUFFIXES {
            disk::gone(fs::remove_file(file(cache, blob, suffix)))?;
        }
        tracing::info!(blob, "freed from the cache");
    }
    Ok(())
}

/// The blob whose file has this name.
pub fn blob_of(name: &str) -> Option<&str> {
    let (blob, suffix) = name.split_at_checked(DIGITS)?;
    (blob.bytes().all(is_digit) && SUFFIXES.contains(&suffix)).then_some(blob)
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
        let files = SUFFIXES.len() as u64;
        let all = Usage { inodes: files, size: files * 4096 };
        assert_eq!(usage(cache.path(), &format!("sha256:{unused}")), all);
        let found = blobs(cache.path()).unwrap();
        remove(cache.path(), &(&found - &Blobs::from([used.clone()]))).unwrap();
        assert_eq!(usage(cache.path(), &format!("sha256:{unused}")), Usage::default());
        assert_eq!(usage(cache.path(), &format!("sha256:{used}")), all);
        assert!(others.iter().all(|other| cache.path().join(other).exists()));
        assert_eq!(blobs(&cache.path().join("missing")).unwrap(), Blobs::new());
    }

    #[test]
    fn data_of_an_image() {
        let cache = tempfile::tempdir().unwrap();
        let (bootstrap, blob) = (cache.path().join("image.boot"), "a".repeat(64));
        fs::write(&bootstrap, format!("{blob}\0")).unwrap();
        let check = |expected| {
            for digests in [vec![], vec![format!("sha256:{blob}")]] {
                let found = has_data(cache.path(), &digests, &bootstrap).unwrap();
                assert_eq!(found, expected, "{digests:?}");
            }
            assert!(!has_data(cache.path(), &["sha256:b".into()], &bootstrap).unwrap());
        };
        check(false);
        fs::write(file(cache.path(), &blob, ".chunk_map"), "x").unwrap();
        let data = fs::File::create(file(cache.path(), &blob, ".blob.data")).unwrap();
        data.set_len(1 << 20).unwrap();
        check(false);
        std::os::unix::fs::FileExt::write_at(&data, b"x", 4096).unwrap();
        check(true);
    }

    #[test]
    fn names_in_a_bootstrap() {
        let [one, two, other] = ["a1", "b2", "c3"].map(|digits| digits.repeat(32));
        let cached = Blobs::from([one.clone(), two.clone(), "d4".repeat(32)]);
        let far = vec![0; (1 << 20) - 100];
        let rows: [(Vec<&[u8]>, &[&String]); 6] = [
            (vec![b"\0\0", one.as_bytes(), b"\0", two.as_bytes(), b"\xff"], &[&one, &two]),
            (vec![&one.as_bytes()[..63], b"-", other.as_bytes()], &[]),
            // Nothing between them, and over the end of a part.
            (vec![b"c", one.as_bytes(), two.as_bytes(), b"0"], &[&one, &two]),
            (vec![&far, two.as_bytes(), one.as_bytes()], &[&one, &two]),
            (vec![&far, b"e", one.as_bytes(), b"\0"], &[&one]),
            (vec![], &[]),
        ];
        for (text, expected) in rows {
            let mut used = Blobs::new();
            named_in(&*text.concat(), &mut used, &cached).unwrap();
            assert_eq!(used.iter().collect::<Vec<_>>(), expected);
        }
    }
}
