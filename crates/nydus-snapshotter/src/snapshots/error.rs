//! Why a call failed.

use crate::{idmap, resolve, serving, store};
use nydus_mount_slice::EncodeError;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A call that failed. One line, with what was asked for and without any label's value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rules, or the store itself.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A snapshot that cannot be what is asked for.
    #[error(transparent)]
    Refused(#[from] resolve::Refused),
    /// An image that cannot be served.
    #[error("snapshot {0:?}: {1}")]
    Image(String, #[source] Arc<serving::Error>),
    /// A user namespace's mapping.
    #[error("snapshot {0:?}: {1}")]
    IdMap(String, #[source] idmap::Error),
    /// A slice that no reader would accept.
    #[error("snapshot {0:?}: {1}")]
    Slice(String, #[source] EncodeError),
    /// A directory of ours.
    #[error("{}: {}", .0.display(), .1)]
    Directory(PathBuf, #[source] io::Error),
}

/// Result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;
