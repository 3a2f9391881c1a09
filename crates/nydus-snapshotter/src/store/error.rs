/// What went wrong, by the class that a gRPC answer needs. One line, never a label's value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such snapshot.
    #[error("{0}: not found")]
    NotFound(String),
    /// The name is taken.
    #[error("{0}: already exists")]
    AlreadyExists(String),
    /// The snapshot is of the wrong kind, or has children.
    #[error("{0}: failed precondition")]
    FailedPrecondition(String),
    /// The request is wrong in itself.
    #[error("{0}: invalid argument")]
    InvalidArgument(String),
    /// One stored value cannot be decoded; the others can.
    #[error("record {0:?} is damaged: {1}")]
    Damaged(String, String),
    /// A later version of this program wrote the store.
    #[error("store has version {found}, expected at most {known}: start the newer program")]
    Newer {
        /// Version in the file.
        found: u64,
        /// Version that this program writes.
        known: u64,
    },
    /// The database or its disk failed; a change may or may not have happened.
    #[error("store: {0}")]
    Storage(String),
}

/// Result of the store's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for Error {
            fn from(error: redb::$error) -> Self {
                Self::Storage(error.to_string())
            }
        }
    )*};
}
from_redb!(CommitError, DatabaseError, StorageError, TableError, TransactionError);

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Storage(error.to_string())
    }
}
