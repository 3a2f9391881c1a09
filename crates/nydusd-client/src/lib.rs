//! `nydusd` for a program that needs one: its HTTP API over a unix socket ([`Client`]) and its
//! process ([`Daemon`]).
//!
//! - Every call has a time limit; errors keep the server's own message ([`Refusal`]).
//! - What a version of `nydusd` knows is read from its help ([`Binary`]), not assumed.
//! - A started daemon outlives this program: it has its own process group and no pipe to us. A
//!   later run takes it over with [`Daemon::adopt`].
//! - Configurations are [`Secret`](nydus_mount_slice::Secret): no `Debug` or error shows them.
//!
//! Not here: which daemon serves which image, restarts, cgroups, the supervisor's socket.

#![deny(unsafe_code)]

mod api;
pub mod bootstrap;
mod client;
mod command;
mod error;
mod liveness;
mod nofile;
mod probe;
mod process;
mod report;
mod transport;

pub use api::{BuildInfo, CacheMetrics, DaemonInfo, Filesystem, FsMetrics, Inflight, Mount, State};
pub use client::{Client, Limits};
pub use command::{Log, Mode, Spec};
pub use error::{Error, Failure, Refusal};
pub use liveness::Exit;
pub use probe::{Binary, Help, HybridMode};
pub use process::{Daemon, clear_stale};
