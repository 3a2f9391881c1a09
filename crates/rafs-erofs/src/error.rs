//! What can go wrong. One line each.

use crate::cache::Progress;
use std::io;
use std::path::PathBuf;

/// Why the kernel cannot serve an image: it stays with `nydusd` for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unserved {
    /// RAFS v5 is no EROFS.
    #[error("image is RAFS v5: only v6 is a file system that the kernel knows")]
    Version5,
    /// What is cached is not what files hold.
    #[error("image is encrypted")]
    Encrypted,
    /// A feature with which the cache is laid out otherwise, or that is not known here.
    #[error("image has {0}, which the kernel cannot serve")]
    Feature(String),
    /// Nothing to verify cached data against.
    #[error("bootstrap has no digest for {0}")]
    NoDigest(String),
    /// A limit of the kernel's or of this crate.
    #[error("image has {0}")]
    TooMuch(String),
}

/// How a file differs from what was verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum How {
    /// It is not there.
    #[error("is missing")]
    Missing,
    /// Another length, in bytes: as found, as verified.
    #[error("has {0} bytes, expected {1}")]
    Size(u64, u64),
    /// Another file of this name.
    #[error("is another file than was verified")]
    Replaced,
    /// It was written to, or its metadata was changed.
    #[error("was changed since it was verified")]
    Modified,
    /// fs-verity's digest is another, or gone.
    #[error("has another fs-verity digest than was verified")]
    Verity,
    /// The kernel's mount of it shows other bytes than the image has.
    #[error("reads otherwise through the kernel's mount: {0}")]
    Reads(String),
}

/// A file that is not what was verified: the image goes back to `nydusd`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {how}", .file.display())]
pub struct Changed {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub how: How,
}

/// Why this kernel cannot, each way with its reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel cannot mount RAFS: from files: {file}; from loop devices: {device}")]
pub struct Unsupported {
    /// From files, Linux 6.12.
    pub file: String,
    /// From loop devices, Linux 5.16.
    pub device: String,
}

/// Why an image is not promoted, or not mounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel cannot serve it, ever.
    #[error(transparent)]
    Unserved(#[from] Unserved),
    /// The bootstrap is damaged.
    #[error("bootstrap {} is damaged: {what}", .path.display())]
    Bootstrap {
        /// The bootstrap.
        path: PathBuf,
        /// Where and how.
        what: String,
    },
    /// Not everything is cached.
    #[error("{} of {} chunks are cached", .0.ready, .0.chunks)]
    Incomplete(Progress),
    /// Cached data is not what the bootstrap says: [`crate::Cache::discard`] the blob.
    #[error("cached data of blob {blob} at byte {offset} has not the digest that the image names")]
    Damaged {
        /// The blob.
        blob: String,
        /// Where in its uncompressed data.
        offset: u64,
    },
    /// A file was written to while it was verified: try again later.
    #[error("{} was written to while it was verified", .0.display())]
    Busy(PathBuf),
    /// The caller's hook said so.
    #[error("stopped")]
    Stopped,
    /// A file is not what was verified.
    #[error(transparent)]
    Changed(#[from] Changed),
    /// The kernel refused; its own words, if it has any.
    #[error("mount EROFS at {}: {what}", .target.display())]
    Mount {
        /// Where.
        target: PathBuf,
        /// Why.
        what: String,
    },
    /// A call on a file.
    #[error("{what} {}: {cause}", .path.display())]
    Io {
        /// What was done.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        cause: io::Error,
    },
}

/// What this crate answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// For `map_err`: the error of a call on a file.
pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |cause| Error::Io { what, path, cause }
}
