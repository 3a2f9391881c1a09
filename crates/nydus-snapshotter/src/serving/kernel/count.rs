//! How much of an image is cached.

use super::{Error, Kernel};
use nydusd_client::bootstrap;
use rafs_erofs::{Blob, Cache, Error as Erofs, Image, Progress};
use std::path::Path;
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// What was cached of an image when it was looked at.
#[derive(Debug)]
pub(in crate::serving) struct Cached {
    blobs: Vec<Blob>,
    state: [u8; 32],
    pub(in crate::serving) progress: Progress,
}

impl Kernel {
    /// How much of an image is cached now. The bootstrap is read only if what is cached of its
    /// blobs is not as it was `before`; `stopped` ends that.
    pub(in crate::serving) async fn count_cached(
        &self,
        id: u64,
        before: Option<Arc<Cached>>,
        stopped: impl Fn() -> bool + Send + 'static,
    ) -> Result<Arc<Cached>, Error> {
        let (bootstrap, cache) = (self.layout.bootstrap(id), self.config.cache.clone());
        // Whoever made the image may have put anything there, such as a FIFO.
        bootstrap::version(&bootstrap)?;
        let count = move || cached(&bootstrap, &Cache::new(cache), before, &stopped);
        Ok(spawn_blocking(count).await??)
    }
}

fn cached(
    bootstrap: &Path,
    cache: &Cache,
    before: Option<Arc<Cached>>,
    stopped: &dyn Fn() -> bool,
) -> Result<Arc<Cached>, Erofs> {
    if let Some(before) = before
        && cache.state(&before.blobs)? == before.state
    {
        return Ok(before);
    }
    let image = Image::open_unless(bootstrap, stopped)?;
    // First, so that what changes meanwhile is seen the next time.
    let state = cache.state(&image.blobs)?;
    let progress = cache.progress(&image)?;
    Ok(Arc::new(Cached { blobs: image.blobs, state, progress }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rafs_erofs::properties::draft;
    use std::fs;

    /// As long as nothing was cached meanwhile, the bootstrap need not even be there.
    #[test]
    fn a_bootstrap_is_read_once() {
        let root = tempfile::tempdir().unwrap();
        let (path, cache) = (root.path().join("image.boot"), Cache::new(root.path()));
        fs::write(&path, draft(1).build()).unwrap();
        let look = |before| cached(&path, &cache, before, &|| false);
        let first = look(None).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(Arc::ptr_eq(&first, &look(Some(Arc::clone(&first))).unwrap()));
        let map = root.path().join(format!("{}.chunk_map", first.blobs[0].id));
        fs::write(map, "another").unwrap();
        assert!(look(Some(first)).is_err(), "it is read again");
    }
}
