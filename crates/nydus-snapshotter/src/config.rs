//! Configuration (stub).
#![allow(missing_docs)]
use std::path::PathBuf;
use std::time::Duration;

/// How many daemons there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaemonMode {
    Dedicated,
    Shared,
    None,
}

/// What is done when a daemon dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recover {
    None,
    Restart,
    Failover,
}
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Memory {
    Unlimited,
}
impl Memory {
    pub fn bytes(&self, _total: u64) -> Option<u64> {
        None
    }
}
#[derive(Clone, Debug)]
pub struct Daemon {
    pub nydusd: PathBuf,
    pub config: PathBuf,
    pub threads: u32,
    pub log_rotation_size: u32,
    pub recover: Recover,
    pub failover_policy: String,
}
#[derive(Clone, Debug)]
pub struct Log {
    pub to_stdout: bool,
    pub level: String,
    pub dir: PathBuf,
    pub max_size: u64,
    pub max_backups: u32,
    pub compress: bool,
}
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub nydus_overlayfs: bool,
    pub slice_type: String,
    pub kata_volume: bool,
    pub sync_remove: bool,
    pub volatile: bool,
}
#[derive(Clone, Debug)]
pub struct Cache {
    pub dir: PathBuf,
}
#[derive(Clone, Debug)]
pub struct Config {
    pub root: PathBuf,
    pub address: PathBuf,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mode: DaemonMode,
    pub driver: crate::resolve::Driver,
    pub cleanup_on_close: bool,
    pub daemon: Daemon,
    pub cgroup: Option<Memory>,
    pub log: Log,
    pub metrics: Option<String>,
    pub collect_interval: Duration,
    pub snapshot: Snapshot,
    pub cache: Cache,
    pub warnings: Vec<String>,
}
impl Config {
    pub fn effective(&self) -> String {
        format!("{self:?}")
    }
}
pub fn load(flags: &crate::cli::Flags) -> anyhow::Result<Config> {
    let var = |n: &str, d: &str| std::env::var(n).unwrap_or(d.to_owned());
    let root = flags.root.clone();
    let mode = match &*var("MODE", "dedicated") {
        "shared" => DaemonMode::Shared,
        "none" => DaemonMode::None,
        _ => DaemonMode::Dedicated,
    };
    Ok(Config {
        address: flags.address.clone(),
        uid: None,
        gid: None,
        mode,
        driver: crate::resolve::Driver::Fusedev,
        cleanup_on_close: false,
        daemon: Daemon {
            nydusd: var("NYDUSD", "nydusd").into(),
            config: var("NYDUSD_CONFIG", "/etc/nydus/nydusd-config.json").into(),
            threads: 0,
            log_rotation_size: 0,
            recover: Recover::Restart,
            failover_policy: "resend".into(),
        },
        cgroup: None,
        log: Log {
            to_stdout: true,
            level: var("LEVEL", "info"),
            dir: root.join("logs"),
            max_size: 200,
            max_backups: 5,
            compress: false,
        },
        metrics: None,
        collect_interval: Duration::from_secs(60),
        snapshot: Snapshot {
            nydus_overlayfs: true,
            slice_type: "fuse.nydus-overlayfs".into(),
            kata_volume: false,
            sync_remove: false,
            volatile: false,
        },
        cache: Cache { dir: root.join("cache") },
        warnings: vec![],
        root,
    })
}
