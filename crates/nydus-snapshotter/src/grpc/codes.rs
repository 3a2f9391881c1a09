//! The gRPC code of each error: the one place that knows them.

use super::filter;
use crate::{resolve, snapshots, store};
use tonic::{Code, Status};

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Call(#[from] snapshots::Error),
    #[error("filter {0}: invalid argument")]
    Filter(#[from] filter::Error),
}

impl Error {
    pub(super) fn code(&self) -> Code {
        use snapshots::Error::{IdMap, Image, Refused, Store};
        let Self::Call(error) = self else { return Code::InvalidArgument };
        match error {
            Store(store::Error::NotFound(_)) => Code::NotFound,
            Store(store::Error::AlreadyExists(_)) => Code::AlreadyExists,
            Store(store::Error::FailedPrecondition(_)) | Refused(resolve::Refused::DataLayer) => {
                Code::FailedPrecondition
            }
            Store(store::Error::InvalidArgument(_))
            | Refused(resolve::Refused::NoLayerDigest)
            | IdMap(..) => Code::InvalidArgument,
            Image(_, error) if error.is_final() => Code::FailedPrecondition,
            _ => Code::Unknown,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
