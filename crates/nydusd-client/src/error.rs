//! What can go wrong. One line each; configurations never appear.

use crate::State;
use crate::liveness::Exit;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// `nydusd`'s own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// `code` of its reply: `UNDEFINED` in every version up to 2.4.
    pub code: String,
    /// `message` of its reply, credentials of the request taken out.
    pub message: String,
}

/// A call or a process that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection: nothing was sent.
    #[error("nydusd: {call}: cannot connect to {}: {cause}", socket.display())]
    Connect {
        /// What was asked.
        call: String,
        /// The API socket.
        socket: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// No reply in time. The request may still be carried out.
    #[error("nydusd: {call}: no reply within {limit:?}")]
    Timeout {
        /// What was asked.
        call: String,
        /// The limit.
        limit: Duration,
    },
    /// The connection broke before the reply. The request may have been carried out.
    #[error("nydusd: {call}: the connection broke: {cause}")]
    Broken {
        /// What was asked.
        call: String,
        /// Why.
        cause: String,
    },
    /// `nydusd` said no.
    #[error("nydusd: {call}: {} (status {})", refusal.message, refusal.status)]
    Refused {
        /// What was asked.
        call: String,
        /// The answer.
        refusal: Refusal,
    },
    /// A reply that this crate does not understand.
    #[error("nydusd: {call}: unexpected reply: {what}")]
    Reply {
        /// What was asked.
        call: String,
        /// What is wrong with it.
        what: String,
    },
    /// The command line asks for what this `nydusd` does not know.
    #[error("{} does not know {option}{}", program.display(), known(values))]
    Unsupported {
        /// The program.
        program: PathBuf,
        /// Option, with its value where the value is at fault.
        option: String,
        /// The values that it knows.
        values: Vec<String>,
    },
    /// The program cannot be run, or its help not be read.
    #[error("cannot run {}: {cause}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file or process operation around the daemon failed.
    #[error("nydusd: {what}: {cause}")]
    Host {
        /// What was tried.
        what: String,
        /// Why.
        cause: io::Error,
    },
    /// Another daemon answers on the socket.
    #[error("nydusd: {} is in use by a live process", .0.display())]
    SocketInUse(PathBuf),
    /// The process behind the socket is not the one that was recorded.
    #[error("nydusd: process {found} serves {}, expected {expected}", socket.display())]
    OtherProcess {
        /// The API socket.
        socket: PathBuf,
        /// Process that was recorded.
        expected: u32,
        /// Process that listens.
        found: u32,
    },
    /// The process ended while it was waited for.
    #[error("nydusd {exit}: {report}")]
    Exited {
        /// How it ended.
        exit: Exit,
        /// Last lines of its standard error and log.
        report: String,
    },
    /// The state was not reached in time.
    #[error("nydusd did not become {wanted:?} within {limit:?}, {last}: {report}")]
    NotReady {
        /// States that were waited for.
        wanted: Vec<State>,
        /// The limit.
        limit: Duration,
        /// Last state or failure seen.
        last: String,
        /// Last lines of its standard error and log.
        report: String,
    },
    /// It does not end, not even by SIGKILL: it hangs in the kernel.
    #[error("nydusd: process {pid} did not end within {limit:?} of SIGKILL")]
    Unkillable {
        /// The process.
        pid: u32,
        /// The limit.
        limit: Duration,
    },
}

fn known(values: &[String]) -> String {
    if values.is_empty() { String::new() } else { format!(" (knows {})", values.join(", ")) }
}

/// `nydusd` has no codes (all are `UNDEFINED`), so its words must do. They are those of its
/// `service::Error`, the same in 2.2 to 2.4, inside different wrappings.
impl Error {
    /// The answer, if `nydusd` gave one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
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
        matches!(self, Self::Connect { cause, .. }
            if matches!(cause.kind(), ConnectionRefused | NotFound))
    }

    fn says(&self, words: &str) -> bool {
        self.refusal().is_some_and(|refusal| refusal.message.contains(words))
    }
}
