//! What lies in the cache before a daemon starts: blobs' metadata that an image brings along, and
//! files that do not fit together. An image is a stranger's: what it says and has costs itself, not
//! others.

use super::{Error, Fuse, INSTANCES};
use crate::cache::{self, Blobs};
use crate::store::Lookup;
use nydusd_client::bootstrap;
use rafs_erofs::{Blob, Cache, Mended};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes that an image may bring, in all of its files. nydus makes some 20 for each chunk.
const MOST: u64 = 256 << 20;
/// A blob's metadata, and what is written before it is complete: each copy has another name.
const META: &str = ".blob.meta";
const NEW: &str = ".nydus-new";

/// Copies a blob's metadata that lies beside `bootstrap` into the cache, where `nydusd` looks for
/// it, unless it is there.
pub(super) async fn bring_metadata(cache: &Path, bootstrap: &Path) -> Result<(), Error> {
    let (cache, bootstrap) = (cache.to_owned(), bootstrap.to_owned());
    tokio::task::spawn_blocking(move || copy_all(&cache, &bootstrap, MOST)).await?
}

fn copy_all(cache: &Path, bootstrap: &Path, most: u64) -> Result<(), Error> {
    let beside = bootstrap.parent().and_then(|directory| fs::read_dir(directory).ok());
    let names = beside.into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut brought = Blobs::new();
    for name in names.filter_map(|name| name.into_string().ok()) {
        let blob = name.strip_suffix(META).filter(|_| cache::blob_of(&name).is_some());
        brought.extend(blob.filter(|_| !cache.join(&name).exists()).map(str::to_owned));
    }
    if brought.is_empty() {
        return Ok(());
    }
    let mut named = Blobs::new();
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| Error::File(path, error)
    };
    cache::add(&mut named, &brought, bootstrap).map_err(failed(bootstrap))?;
    let mut left = most;
    for blob in named {
        let name = format!("{blob}{META}");
        let from = bootstrap.with_file_name(&name);
        left = copy(&from, &cache.join(name), left).map_err(failed(&from))?;
    }
    Ok(())
}

/// Copies up to `left` bytes, and says how many more there may be. The copy is there whole or not
/// at all; one that somebody else made meanwhile stays.
fn copy(from: &Path, to: &Path, left: u64) -> io::Result<u64> {
    let source = bootstrap::open(from)?;
    let length = source.metadata()?.len();
    let Some(rest) = left.checked_sub(length) else {
        let text = format!("metadata of {length} bytes, expected up to {MOST} in all files");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    };
    let (directory, name) = (to.parent().unwrap_or(to), to.file_name().unwrap_or_default());
    let mut new = tempfile::Builder::new();
    let mut new = new.prefix(name).suffix(NEW).tempfile_in(directory)?;
    io::copy(&mut source.take(length), &mut new)?;
    new.as_file().sync_all()?;
    match new.persist_noclobber(to) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
        _ => Ok(rest),
    }
}

/// Removes what copies that were killed have left. To be called when there are none.
pub(super) fn remove_unfinished(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.contains(META) && name.ends_with(NEW))
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "cannot be removed");
        }
    }
}

impl Fuse {
    /// Discards cached blobs of an image whose files do not fit: `nydusd` would serve zeros for what
    /// its map says is there, or not start. What fits another image that is served or promoted is
    /// kept: then `nydusd` refuses this one.
    pub(super) async fn mend_cache(&self, bootstrap: &Path) {
        let (cache, path) = (self.config.cache.clone(), bootstrap.to_owned());
        let others = self.served_bootstraps();
        let natives = [self.layout.native(), cache.join("native")];
        let mended = move || {
            let blobs = rafs_erofs::Image::blobs_of(&path)?;
            Cache::new(cache).mend(&blobs, || {
                let promoted = natives.iter().flat_map(|place| promoted(place));
                others.into_iter().chain(promoted).flat_map(|other| blobs_of(&other)).collect()
            })
        };
        let path = bootstrap.display();
        match tokio::task::spawn_blocking(mended).await {
            Ok(Ok(Mended { discarded, kept })) => {
                for blob in discarded {
                    tracing::warn!(blob, "its cached files do not fit together and are discarded");
                }
                for blob in kept {
                    tracing::warn!(%path, blob, "what it says of the blob fits no cached file, and \
                        another image's does: the files are kept");
                }
            }
            // What is wrong with it is told where it matters.
            Ok(Err(error)) => tracing::debug!(%path, %error, "is not looked at"),
            Err(error) => tracing::error!(%path, %error, "is not looked at"),
        }
    }

    /// Also of images whose daemon is starting, or does not answer.
    fn served_bootstraps(&self) -> Vec<PathBuf> {
        let items = self.store.read().and_then(|read| read.items(&INSTANCES));
        let served = items.map(|page| page.found).unwrap_or_default();
        let numbers = served.iter().filter_map(|(number, _)| number.parse().ok());
        numbers.map(|number| self.layout.bootstrap(number)).collect()
    }
}

/// Bootstraps of images that are promoted below this directory.
fn promoted(place: &Path) -> Vec<PathBuf> {
    let images = fs::read_dir(place).into_iter().flatten().flatten();
    images.map(|image| image.path().join("image/image.boot")).collect()
}

fn blobs_of(bootstrap: &Path) -> Vec<Blob> {
    rafs_erofs::Image::blobs_of(bootstrap).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    const BLOBS: [&str; 3] = ["a", "b", "c"];

    /// An image that names the blobs a and b and has metadata of all three.
    fn image(root: &Path, name: &str, length: u64) -> PathBuf {
        let directory = root.join(name);
        fs::create_dir(&directory).unwrap();
        for blob in BLOBS {
            let meta = fs::File::create(directory.join(blob.repeat(64) + META)).unwrap();
            meta.set_len(length).unwrap();
        }
        let boot = directory.join("image.boot");
        fs::write(&boot, format!("{}\0{}", BLOBS[0].repeat(64), BLOBS[1].repeat(64))).unwrap();
        boot
    }

    fn names(directory: &Path) -> Vec<String> {
        let names = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn metadata_is_bounded_and_of_the_images_own_blobs() {
        for (length, most, whole, copied) in
            [(10, 20, true, &BLOBS[..2]), (10, 19, false, &BLOBS[..1]), (3 << 30, MOST, false, &[])]
        {
            let root = tempfile::tempdir().unwrap();
            let boot = image(root.path(), "image", length);
            let cache = root.path().join("cache");
            fs::create_dir(&cache).unwrap();
            let done = copy_all(&cache, &boot, most);
            assert_eq!(done.is_ok(), whole, "{done:?}");
            if let Err(error) = done {
                assert!(error.to_string().contains("in all files"), "{error}");
            }
            let expected: Vec<_> = copied.iter().map(|blob| blob.repeat(64) + META).collect();
            assert_eq!(names(&cache), expected, "{length}");
        }
    }

    #[test]
    fn images_with_a_blob_in_common_start_at_once() {
        let root = tempfile::tempdir().unwrap();
        let cache = root.path().join("cache");
        fs::create_dir(&cache).unwrap();
        let boots: Vec<_> =
            ["one", "two", "three", "four"].map(|name| image(root.path(), name, 5 << 20)).into();
        let barrier = Barrier::new(boots.len());
        std::thread::scope(|scope| {
            for boot in &boots {
                scope.spawn(|| {
                    barrier.wait();
                    copy_all(&cache, boot, MOST).unwrap();
                });
            }
        });
        let found = names(&cache);
        assert_eq!(found.len(), 2, "{found:?}");
        for name in found {
            assert_eq!(fs::metadata(cache.join(name)).unwrap().len(), 5 << 20);
        }
    }

    #[test]
    fn what_was_killed_is_removed() {
        let cache = tempfile::tempdir().unwrap();
        let [meta, data] = [META, ".blob.data"].map(|suffix| "a".repeat(64) + suffix);
        let unfinished = format!("{meta}x7Gh2k{NEW}");
        for name in [&meta, &data, &unfinished] {
            fs::write(cache.path().join(name), "x").unwrap();
        }
        remove_unfinished(cache.path());
        assert_eq!(names(cache.path()), [data, meta]);
    }
}
