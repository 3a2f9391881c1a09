//! The snapshotter: containerd's calls, by their rules in [`crate::store`], the kinds of
//! [`crate::resolve`] and the mounts of [`crate::mounts`]. Nothing of gRPC is known here.

mod calls;
mod catalogue;
mod collect;
pub mod directories;
mod error;
mod lower;

pub use error::{Error, Result};

use crate::config::Config;
use crate::labels::Labels;
use crate::layout::Layout;
use crate::mounts::Host;
use crate::serving::Serving;
use crate::store::{Kind, Store};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A snapshot to be made.
#[derive(Clone, Debug)]
pub struct New {
    /// Active or view.
    pub kind: Kind,
    /// Its name.
    pub key: String,
    /// Name of its parent, empty for none.
    pub parent: String,
    /// Its labels.
    pub labels: Labels,
}

/// The snapshotter.
pub struct Snapshots {
    /// Records.
    pub store: Store,
    /// Where things lie.
    pub layout: Layout,
    /// What the host adds to mounts.
    pub host: Host,
    /// What is configured.
    pub config: Arc<Config>,
    /// Who serves which image.
    pub serving: Arc<Serving>,
    /// One Cleanup at a time.
    pub cleaning: tokio::sync::Mutex<()>,
}

/// Does something with the directory `path` where that holds up nobody.
async fn on_disk<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| Error::Directory(path.to_owned(), error))
}
