//! Why a call failed, and the class that gRPC has for it.

use crate::{filter, idmap, images, native, resolve, store};
use nydus_mount_slice::EncodeError;
use std::sync::Arc;
use tonic::{Code, Status};

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
    Image(String, #[source] images::Error),
    /// An image that only the kernel may serve, and does not.
    #[error("snapshot {0:?}: {1}")]
    Native(String, #[source] Arc<native::Error>),
    /// A user namespace's mapping.
    #[error("snapshot {0:?}: {1}")]
    IdMap(String, #[source] idmap::Error),
    /// A slice that no reader would accept.
    #[error("snapshot {0:?}: {1}")]
    Slice(String, #[source] EncodeError),
    /// A filter of List.
    #[error("filter {0}: invalid argument")]
    Filter(#[from] filter::Error),
    /// A directory of ours.
    #[error("{0}: {1}")]
    Directory(String, #[source] std::io::Error),
}

/// Result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The class of the error.
    pub fn code(&self) -> Code {
        match self {
            Self::Store(store::Error::NotFound(_)) => Code::NotFound,
            Self::Store(store::Error::AlreadyExists(_)) => Code::AlreadyExists,
            Self::Store(store::Error::FailedPrecondition(_))
            | Self::Refused(resolve::Refused::DataLayer) => Code::FailedPrecondition,
            Self::Store(store::Error::InvalidArgument(_))
            | Self::Refused(resolve::Refused::NoLayerDigest)
            | Self::Filter(_)
            | Self::IdMap(..) => Code::InvalidArgument,
            Self::Native(_, error) if error.is_final() => Code::FailedPrecondition,
            _ => Code::Unknown,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
