//! nydusd's blob cache: `<id>.blob.data`, `<id>.chunk_map`, `<id>.blob.meta` and what else it makes.

use crate::{Image, Result};
use std::path::PathBuf;

/// How much of an image is cached. Only what the bootstrap refers to counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Chunks that are there.
    pub ready: u64,
    /// Chunks that the image refers to.
    pub chunks: u64,
    /// Bytes, unpacked, that are there.
    pub ready_bytes: u64,
    /// Bytes, unpacked, that the image refers to.
    pub bytes: u64,
}

impl Progress {
    /// Everything is there.
    pub fn complete(self) -> bool {
        self.ready == self.chunks
    }
}

/// A directory of cache files.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// The cache in this directory, `work_dir` in nydusd's configuration.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// How much of `image` is there, as the chunk maps and the lengths of the files say. Cheap;
    /// proves nothing. A blob whose files are missing or do not fit has nothing ready.
    ///
    /// # Errors
    /// A file is there but cannot be read.
    pub fn progress(&self, image: &Image) -> Result<Progress> {
        let _ = (image, &self.directory);
        unimplemented!()
    }

    /// Before `nydusd` is started: discards blobs whose files do not fit together, and says which.
    /// With a chunk map but without its data nydusd 2.2 would serve zeros.
    ///
    /// # Errors
    /// A file cannot be looked at or removed.
    pub fn mend(&self, image: &Image) -> Result<Vec<String>> {
        let _ = image;
        unimplemented!()
    }

    /// Removes a blob's cache files, the chunk map first. A nydusd that has them open keeps them;
    /// the next one starts with none.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn discard(&self, blob: &str) -> Result<()> {
        let _ = blob;
        unimplemented!()
    }
}
