//! What can go wrong. One line each; configurations never appear.

use nydus_mount_slice::{DecodeError, Finding, FsVersion, Reader};
use nydusd_client::bootstrap;
use std::io;
use std::path::{Path, PathBuf};

/// Why a slice does not become a root file system.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not exactly one entry.
    #[error("mount slice has {0} entries, expected exactly one of type fuse.nydus-overlayfs")]
    Entries(usize),
    /// Not a type that this runtime takes for a nydus slice.
    #[error("mount type {0:?}: {1} expects {expected}", expected = expected(.1))]
    Type(String, Reader),
    /// No payload, or one that nobody can read.
    #[error(transparent)]
    Payload(#[from] DecodeError),
    /// A payload that one of the two runtimes refuses, or reads differently.
    #[error("extraoption is not what both runtimes accept: {0}")]
    Disputed(Finding),
    /// A path that is relative or has `..` in it.
    #[error("{0} {1:?}: expected an absolute path without `..`")]
    Path(&'static str, String),
    /// The bootstrap.
    #[error(transparent)]
    Bootstrap(#[from] bootstrap::Error),
    /// The slice says another version than the bootstrap is.
    #[error("bootstrap {} is RAFS {}, but fs_version says {}", in_one_line(.path), .is.as_str(), .says.as_str())]
    Version {
        /// The bootstrap.
        path: PathBuf,
        /// What it is.
        is: FsVersion,
        /// What the slice says.
        says: FsVersion,
    },
    /// The configuration, and what is expected of it.
    #[error("nydusd configuration of the slice: {0}")]
    Config(String),
    /// A directory that is not there.
    #[error("{what} {}: {cause}", in_one_line(.path))]
    Directory {
        /// What it is for.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why it cannot be used.
        cause: io::Error,
    },
    /// A file system that overlayfs in the guest cannot write to.
    #[error("snapshotdir {}: its file system cannot carry an upper directory for a guest: {}", in_one_line(.0), .1)]
    Upper(PathBuf, String),
    /// A container's id that is no file name, or too long.
    #[error(
        "container id {0:?}: expected 1 to 76 letters, digits, '-', '_' or '.', the first no sign"
    )]
    Id(String),
    /// An id that was used before: the guest remembers the directory that it saw under it.
    #[error("container id {0:?} was used in this guest before: expected a new one")]
    UsedId(String),
    /// `nydusd` has no number left for another instance.
    #[error("the guest has {0} images, which is as many as one nydusd serves")]
    Full(usize),
    /// `nydusd` refused.
    #[error(transparent)]
    Nydusd(#[from] nydusd_client::Error),
    /// A mount or directory of the share.
    #[error("{what} {}: {cause}", in_one_line(.path))]
    Share {
        /// What was done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        cause: io::Error,
    },
    /// It failed, and what was made before could not be undone.
    #[error("{0}; and it could not be undone: {1}")]
    Left(Box<Error>, Box<Error>),
    /// Several steps failed, none of which needed another.
    #[error("{0}; and {1}")]
    Both(Box<Error>, Box<Error>),
}

/// The errors of steps that do not need each other.
pub(crate) fn all(steps: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let errors = steps.into_iter().filter_map(Result::err);
    let both = |first, second| Error::Both(Box::new(first), Box::new(second));
    errors.reduce(both).map_or(Ok(()), Err)
}

/// What this crate answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A path that a guest or an image has chosen.
fn in_one_line(path: &Path) -> String {
    path.display().to_string().escape_debug().to_string()
}

fn expected(reader: &Reader) -> &'static str {
    match reader {
        Reader::Go => "fuse.nydus-overlayfs, or fuse. and a path whose name begins so",
        Reader::Rust => "fuse.nydus-overlayfs",
    }
}
