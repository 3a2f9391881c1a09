//! An image that was promoted: files and the record of what was verified.

use crate::{Changed, Result, Way};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How a blob's data came to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// A reflink: a file of its own, which shares the cache file's space.
    Clone,
    /// Another name of nydusd's cache file, to which nydusd writes no more, as all of it is there.
    Link,
    /// A copy. The cache file takes space for nothing once no nydusd needs it.
    Copy,
}

/// A blob of a promoted image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The blob's id.
    pub blob: String,
    /// How its data came here.
    pub placement: Placement,
    /// Length of its file.
    pub size: u64,
    /// fs-verity guards it.
    pub verity: bool,
}

/// A promoted image.
#[derive(Clone, Debug)]
pub struct Native {
    directory: PathBuf,
}

impl Native {
    /// The promoted image in `directory`; `None` if there is no record, so no promotion ended.
    ///
    /// # Errors
    /// The record is damaged or cannot be read.
    pub fn load(directory: &Path) -> Result<Option<Self>> {
        let _ = directory;
        unimplemented!()
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// SHA-256 of the bootstrap, in hex.
    pub fn digest(&self) -> &str {
        unimplemented!()
    }

    /// Its blobs, in the order of the kernel's devices.
    pub fn devices(&self) -> impl Iterator<Item = Device> + '_ {
        std::iter::empty()
    }

    /// Whether every file is still the one that was verified. Cheap: it reads no data.
    ///
    /// # Errors
    /// The first file that is not.
    pub fn check(&self) -> Result<(), Changed> {
        unimplemented!()
    }

    /// Mounts it read-only at the directory `target`. What is opened is what is checked; before the
    /// mount is seen at `target`, a chunk of every device was read through it and had its digest.
    ///
    /// # Errors
    /// [`crate::Error::Changed`]: back to nydusd. Or the kernel refused. Nothing is mounted and no
    /// loop device is left.
    pub fn mount(&self, way: Way, target: &Path) -> Result<()> {
        let _ = (way, target);
        unimplemented!()
    }

    /// Whether the topmost mount at `target` is this image's, by whichever way and process.
    ///
    /// # Errors
    /// The table of mounts cannot be read.
    pub fn is_mounted(&self, target: &Path) -> Result<bool> {
        let _ = target;
        unimplemented!()
    }

    /// Removes the directory, the record first. Mounts keep the files until they are unmounted.
    ///
    /// # Errors
    /// Something is left.
    pub fn remove(directory: &Path) -> Result<()> {
        let _ = directory;
        unimplemented!()
    }
}
