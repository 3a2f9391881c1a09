//! What is sent and received: the parts of `nydusd`'s JSON that callers need. Unknown keys are
//! ignored and missing counters are zero, because both differ between versions.

use nydus_mount_slice::Secret;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// State of the daemon's state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// Started, serves the API only.
    Init,
    /// Has its FUSE session, does not serve it yet.
    Ready,
    /// Serves.
    Running,
    /// Ended.
    Stopped,
    /// Anything else.
    #[serde(other)]
    Unknown,
}

/// How a daemon was built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct BuildInfo {
    /// Version of the package.
    pub package_ver: String,
    /// Commit it was built from.
    pub git_commit: String,
    /// When.
    pub build_time: String,
    /// `release` or `debug`.
    pub profile: String,
    /// Compiler.
    pub rustc: String,
}

/// Reply to `GET daemon`.
#[derive(Clone, Debug, Deserialize)]
pub struct DaemonInfo {
    /// How it was built.
    #[serde(default)]
    pub version: BuildInfo,
    /// `--id` of its command line.
    pub id: Option<String>,
    /// `--supervisor` of its command line.
    pub supervisor: Option<String>,
    /// Where it is in its life.
    pub state: State,
    /// Mounted instances by mount point, as `nydusd` tells them (without secrets).
    #[serde(default)]
    pub backend_collection: Value,
}

/// File system of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filesystem {
    /// A Nydus image; the source is its bootstrap.
    Rafs,
    /// A directory of the host; the source is its path.
    PassthroughFs,
}

/// A request to mount an instance.
#[derive(Clone, Debug, Serialize)]
pub struct Mount {
    fs_type: Filesystem,
    source: String,
    pub(crate) config: Secret,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    prefetch_files: Vec<String>,
}

impl Mount {
    /// A Nydus image: its bootstrap's path and `nydusd`'s configuration (JSON).
    pub fn rafs(bootstrap: impl Into<String>, config: impl Into<Secret>) -> Self {
        let (source, config) = (bootstrap.into(), config.into());
        Self { fs_type: Filesystem::Rafs, source, config, prefetch_files: Vec::new() }
    }

    /// A directory of the host. `nydusd` wants a configuration here too and ignores it.
    pub fn passthrough(directory: impl Into<String>) -> Self {
        let (source, config) = (directory.into(), Secret::default());
        Self { fs_type: Filesystem::PassthroughFs, source, config, prefetch_files: Vec::new() }
    }

    /// Files and directories that are read ahead, as paths in the image.
    pub fn prefetch(mut self, files: Vec<String>) -> Self {
        self.prefetch_files = files;
        self
    }
}

/// Counters of one instance. Arrays are indexed as `nydusd`'s own `StatsFop` and size classes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FsMetrics {
    /// The instance's mount point.
    pub id: String,
    /// Bytes read through FUSE.
    pub data_read: u64,
    /// Files open now.
    pub nr_opens: u64,
    /// Reads by size: up to 1 KiB, 4, 16, 64, 128, 512 KiB, 1 MiB, larger.
    pub block_count_read: Vec<u64>,
    /// Calls by operation.
    pub fop_hits: Vec<u64>,
    /// Failed calls by operation.
    pub fop_errors: Vec<u64>,
    /// Total time by operation, microseconds.
    pub fop_cumulative_latency_total: Vec<u64>,
    /// Reads by how long they took.
    pub read_latency_dist: Vec<u64>,
}

/// Counters of one blob cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CacheMetrics {
    /// Blobs that are used now.
    pub underlying_files: Vec<String>,
    /// Directory of the cache.
    pub store_path: String,
    /// Reads answered in part from the cache.
    pub partial_hits: u64,
    /// Reads answered wholly from the cache.
    pub whole_hits: u64,
    /// Reads.
    pub total: u64,
    /// Chunks in the cache.
    pub entries_count: u64,
    /// Bytes read ahead.
    pub prefetch_data_amount: u64,
    /// Requests to read ahead.
    pub prefetch_requests_count: u64,
    /// Threads that read ahead now.
    pub prefetch_workers: u64,
    /// Bytes fetched and not yet written to the cache.
    pub buffered_backend_size: u64,
    /// Whether every blob is wholly in the cache.
    pub data_all_ready: bool,
}

/// A FUSE request that is not answered yet.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Inflight {
    /// Inode.
    pub inode: u64,
    /// FUSE operation code.
    pub opcode: u32,
    /// The request's number.
    pub unique: u64,
    /// When it came, seconds since 1970.
    pub timestamp_secs: u64,
}
