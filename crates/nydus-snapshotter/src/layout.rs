//! Where things lie below the snapshotter's root: the Go snapshotter's layout, which operators
//! and other programs know.

use std::path::{Path, PathBuf};

/// The snapshotter's root directory.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The root itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Directory of all snapshots.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Directory of one snapshot.
    pub fn snapshot(&self, id: u64) -> PathBuf {
        self.snapshots().join(id.to_string())
    }

    /// Its contents, or the upper directory of an overlay.
    pub fn fs(&self, id: u64) -> PathBuf {
        self.snapshot(id).join("fs")
    }

    /// Its overlay's work directory.
    pub fn work(&self, id: u64) -> PathBuf {
        self.snapshot(id).join("work")
    }

    /// Where a daemon of its own mounts the image whose bootstrap this snapshot holds.
    pub fn dedicated_mount(&self, id: u64) -> PathBuf {
        self.snapshot(id).join("mnt")
    }

    /// Where the shared daemon mounts all images.
    pub fn shared_mount(&self) -> PathBuf {
        self.root.join("mnt")
    }

    /// Directory of images that the kernel serves, where the cache is on the root's file system.
    pub fn native(&self) -> PathBuf {
        self.root.join("native")
    }

    /// The bootstrap in a meta layer: where builders put it today, or where they did.
    pub fn bootstrap(&self, id: u64) -> PathBuf {
        let (today, before) =
            (self.fs(id).join("image/image.boot"), self.fs(id).join("image.boot"));
        if !today.exists() && before.exists() { before } else { today }
    }

    /// Socket of a daemon's API.
    pub fn api_socket(&self, daemon: &str) -> PathBuf {
        self.root.join("socket").join(daemon).join("api.sock")
    }

    /// Configuration of a daemon, with credentials.
    pub fn daemon_config(&self, daemon: &str) -> PathBuf {
        self.root.join("config").join(daemon).join("config.json")
    }

    /// Configuration of one image of the shared daemon, with credentials.
    pub fn instance_config(&self, daemon: &str, id: u64) -> PathBuf {
        self.root.join("config").join(daemon).join(id.to_string()).join("config.json")
    }

    /// Socket on which a daemon's session is kept for a successor.
    pub fn supervisor(&self, daemon: &str) -> PathBuf {
        self.root.join("supervisor").join(format!("{daemon}.sock"))
    }

    /// Log of a daemon.
    pub fn daemon_log(&self, logs: &Path, daemon: &str) -> PathBuf {
        logs.join(daemon).join("nydusd.log")
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.root.join("snapshots.redb")
    }
}
