//! What can go wrong. One line each; configurations never appear.

use crate::State;
use crate::liveness::Exit;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// `nydusd`'s own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (status {status})")]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// `code` of its reply: `UNDEFINED` in every version up to 2.4.
    pub code: String,
    /// `message` of its reply, credentials of the request taken out.
    pub message: String,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No connection: nothing was sent.
    #[error("cannot connect to {}: {}", .0.display(), .1)]
    Connect(PathBuf, io::Error),
    /// No reply in time. The request may still be carried out.
    #[error("no reply within {0:?}")]
    Timeout(Duration),
    /// The connection broke before the reply. The request may have been carried out.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// `nydusd` said no.
    #[error("{0}")]
    Refused(Refusal),
    /// A reply that this crate does not understand.
    #[error("unexpected reply: {0}")]
    Reply(String),
}

/// A call or a process that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call of the API: which one, and why.
    #[error("nydusd: {0}: {1}")]
    Call(String, Failure),
    /// The command line asks for what the program does not know.
    #[error("{} does not know {}", .0.display(), .1)]
    Unsupported(PathBuf, String),
    /// The program cannot be run, or its help not be read.
    #[error("cannot run {}: {}", .0.display(), .1)]
    Run(PathBuf, io::Error),
    /// A file or process operation around the daemon failed.
    #[error("nydusd: {0}: {1}")]
    Host(String, io::Error),
    /// Another daemon answers on the socket.
    #[error("nydusd: {} is in use by a live process", .0.display())]
    SocketInUse(PathBuf),
    /// The process behind the socket is not the one that was recorded.
    #[error("nydusd: process {found} serves the API socket, expected {expected}")]
    #[allow(missing_docs)]
    OtherProcess { expected: u32, found: u32 },
    /// The process ended while it was waited for; with its last words.
    #[error("nydusd {0}: {1}")]
    Exited(Exit, String),
    /// A state was not reached in time; with what was seen last and its last words.
    #[error("nydusd did not become {0:?} within {1:?}, {2}")]
    NotReady(Vec<State>, Duration, String),
    /// It does not end, not even by SIGKILL: it hangs in the kernel.
    #[error("nydusd: process {0} did not end within {1:?} of SIGKILL")]
    Unkillable(u32, Duration),
}

/// `nydusd` has no codes (all are `UNDEFINED`), so its words must do. They are those of its
/// `service::Error`, the same in 2.2 to 2.4, inside different wrappings.
impl Error {
    /// The answer, if `nydusd` gave one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Call(_, Failure::Refused(refusal)) => Some(refusal),
            _ => None,
        }
    }

    /// The mount point is taken.
    pub fn is_already_mounted(&self) -> bool {
        self.says("object or filesystem already exists")
    }

    /// There is no instance at the mount point.
    pub fn is_not_mounted(&self) -> bool {
        self.says("object or filesystem doesn't exist")
    }

    /// No such counter: no such instance, or (for some time after a mount) not yet.
    pub fn is_no_counter(&self) -> bool {
        self.says("NoCounter")
    }

    /// The call does not fit the daemon's state.
    pub fn is_wrong_state(&self) -> bool {
        self.says("UnexpectedEvent")
    }

    /// This version does not have the call.
    pub fn is_unknown_call(&self) -> bool {
        self.says("NoRoute")
    }

    /// Nothing listens on the socket: the daemon is dead, or does not listen yet.
    pub fn is_unreachable(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        matches!(self, Self::Call(_, Failure::Connect(_, cause))
            if matches!(cause.kind(), ConnectionRefused | NotFound))
    }

    /// The call was sent, and what became of it is not known.
    pub fn is_unanswered(&self) -> bool {
        matches!(self, Self::Call(_, Failure::Timeout(_) | Failure::Broken(_)))
    }

    fn says(&self, words: &str) -> bool {
        self.refusal().is_some_and(|refusal| refusal.message.contains(words))
    }
}
