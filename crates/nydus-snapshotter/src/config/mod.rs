//! The configuration: defaults, then the file, then the flags; checked, and in types that say
//! what may be.
//!
//! What is in the file counts, also where it is `false` or `0`. An empty text is none, and so is
//! a log's size of 0: the default counts, as in the Go snapshotter.

pub mod file;
mod kata;
mod memory;
mod unbuilt;
mod values;

use crate::resolve::Driver;
use file::File;
pub use memory::Memory;
use nydus_mount_slice::is_nydus_type;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::{Table, Value};
use values::{
    cgroup, expect, interval, kernel_native, level, mode_and_driver, recover, value, warm,
    warm_rate,
};

/// Longest root, bytes: `sun_path` has 108 for `ROOT/socket/<20 characters>/apiN.sock`.
pub const MAX_ROOT: usize = 70;

/// Longest name of a socket, bytes: `sun_path` with the zero at its end.
const MAX_SOCKET: usize = 107;

/// How many daemons there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaemonMode {
    /// One for each image.
    Dedicated,
    /// One for all.
    Shared,
    /// None: images are served elsewhere, such as in a guest.
    None,
}

/// What is done when a daemon dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recover {
    /// Nothing.
    None,
    /// It is started again.
    Restart,
    /// Another one takes over; where `nydusd` cannot, it is started again.
    Failover,
}

/// Whether the kernel serves images that are completely cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelNative {
    /// Never.
    Off,
    /// Where it can.
    Auto,
    /// Nobody else does: a container starts when its image is complete.
    Required,
}

/// When caches are completed in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warm {
    /// Never.
    Never,
    /// Once the containers' own reading pauses.
    Idle,
    /// As soon as a container uses the image.
    Now,
}

/// The configuration that runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where everything is kept.
    pub root: PathBuf,
    /// Socket of the service.
    pub address: PathBuf,
    /// How images are served.
    pub mode: DaemonMode,
    /// By whom.
    pub driver: Driver,
    /// What is done when a daemon dies.
    pub recover: Recover,
    /// Limit of the daemons' control group; `None` for no group.
    pub cgroup: Option<Memory>,
    /// Where our log and those of daemons are.
    pub logs: PathBuf,
    /// Where blobs are cached.
    pub cache: PathBuf,
    /// Address of the metrics, if any.
    pub metrics: Option<String>,
    /// How often images are looked at.
    pub collect_interval: Duration,
    /// Whether the kernel serves images.
    pub kernel_native: KernelNative,
    /// When caches are completed in the background.
    pub warm: Warm,
    /// Bytes a second that this may read; `None` for no limit.
    pub warm_rate: Option<u64>,
    /// Type of the mounts that carry an image.
    pub slice_type: String,
    /// All of it, as a file with these contents would say it.
    pub file: File,
    /// What is in the file and has no effect.
    pub warnings: Vec<String>,
}

/// A configuration that cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read configuration {0:?}: {1}")]
    Unreadable(PathBuf, std::io::Error),
    /// It is not TOML, or a value has the wrong type.
    #[error("configuration {0:?}: {1}")]
    NotToml(PathBuf, String),
    /// A value that is not possible.
    #[error("{key} = {found:?}: expected {expected}")]
    Value {
        /// The key, with its section.
        key: &'static str,
        /// What is there.
        found: String,
        /// What may be.
        expected: &'static str,
    },
    /// What would change what runs, and is not built.
    #[error("{0} is not built: {1}")]
    NotBuilt(String, &'static str),
}

/// A file, and what is in it without effect.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Its values.
    pub file: File,
    /// What has no effect.
    pub warnings: Vec<String>,
}

impl Parsed {
    /// Reads the file at `path`, if it is given. No other file is looked for, as in the Go
    /// snapshotter.
    ///
    /// # Errors
    /// It cannot be read, or is no configuration.
    pub fn read(path: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
            return Ok(Self::default());
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::Unreadable(path.to_owned(), error))?;
        parse(&text).map_err(|error| Error::NotToml(path.to_owned(), error))
    }

    /// What runs.
    ///
    /// # Errors
    /// What cannot run.
    pub fn check(self) -> Result<Config, Error> {
        let Self { mut file, mut warnings } = self;
        unbuilt::refuse(&file)?;
        bounds(&file)?;
        for (path, name) in
            [(&mut file.log.dir, "logs"), (&mut file.cache_manager.cache_dir, "cache")]
        {
            if path.as_os_str().is_empty() {
                *path = file.root.join(name);
            }
        }
        file.log.level = level(&file.log.level)?.to_owned();
        let (mode, driver) = mode_and_driver(&file)?;
        Ok(Config {
            root: file.root.clone(),
            address: file.address.clone(),
            mode,
            driver,
            recover: recover(&file.daemon.recover_policy)?,
            cgroup: cgroup(&file.cgroup)?,
            logs: file.log.dir.clone(),
            cache: file.cache_manager.cache_dir.clone(),
            metrics: Some(listening(&file.metrics.address)).filter(|address| !address.is_empty()),
            collect_interval: interval(&file.metrics.collect_interval)?,
            kernel_native: kernel_native(&file.native.kernel_native, mode)?,
            warm: warm(&file.native.warm)?,
            warm_rate: warm_rate(&file.native.warm_rate)?,
            slice_type: slice_type(&file.snapshot.nydus_overlayfs_path, &mut warnings)?,
            file,
            warnings,
        })
    }
}

fn parse(text: &str) -> Result<Parsed, String> {
    let one_line = |error: toml::de::Error| {
        let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
        format!("line {line}: {}", error.message().lines().next().unwrap_or_default())
    };
    let mut warnings = Vec::new();
    let document = toml::Deserializer::parse(text).map_err(one_line)?;
    let ignored = |path: serde_ignored::Path<'_>| warnings.push(format!("{path} is not known"));
    let _: File = serde_ignored::deserialize(document, ignored).map_err(one_line)?;
    // The first reading said where a value is wrong; this one leaves out those that say nothing.
    let mut table: Table = text.parse().map_err(one_line)?;
    drop_empty(&mut table);
    warnings.extend(unbuilt::without_effect(&table));
    Ok(Parsed { file: table.try_into().map_err(one_line)?, warnings })
}

fn drop_empty(table: &mut Table) {
    table.retain(|key, value| match value {
        Value::Table(section) => {
            drop_empty(section);
            true
        }
        Value::String(text) => !text.is_empty(),
        Value::Integer(0) => !["log_rotation_size", "log_rotation_max_size"].contains(&key),
        _ => true,
    });
}

/// Values that need nothing but a look.
fn bounds(file: &File) -> Result<(), Error> {
    let (daemon, metrics, address) = (&file.daemon, &file.metrics.address, file.address.display());
    let policy = &*daemon.failover_policy;
    let form = "HOST:PORT, or :PORT for all addresses";
    expect(file.version == 1, "version", file.version, "1")?;
    expect(file.root.is_absolute(), "root", file.root.display(), "an absolute path")?;
    expect(file.address.is_absolute(), "address", &address, "an absolute path")?;
    let length = file.address.as_os_str().len();
    expect(length <= MAX_SOCKET, "address", &address, "at most 107 bytes")?;
    expect(metrics.is_empty() || has_port(metrics), "metrics.address", metrics, form)?;
    let (key, threads) = ("daemon.threads_number", daemon.threads_number);
    expect(threads <= 1024, key, threads, "at most 1024")?;
    let (key, known) = ("daemon.failover_policy", ["none", "resend", "flush"].contains(&policy));
    expect(known, key, policy, "none, resend or flush")
}

fn has_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

/// Go takes `:9110` for all addresses of the host.
fn listening(address: &str) -> String {
    match address.strip_prefix(':') {
        Some(_) if Path::new("/proc/net/if_inet6").exists() => format!("[::]{address}"),
        Some(_) => format!("0.0.0.0{address}"),
        None => address.to_owned(),
    }
}

/// `fuse.` and the program; a value that begins with `fuse.` or `fuse3.` is the type itself.
/// Warns of a program that is not ours.
fn slice_type(path: &str, warnings: &mut Vec<String>) -> Result<String, Error> {
    let key = "snapshot.nydus_overlayfs_path";
    if path.is_empty() || path.ends_with('/') || path.contains([',', ' ', '\t', '\n']) {
        return Err(value(key, path, "the name or path of a program, without blanks"));
    }
    let typed = path.starts_with("fuse.") || path.starts_with("fuse3.");
    let slice_type = if typed { path.to_owned() } else { format!("fuse.{path}") };
    if !is_nydus_type(&slice_type) {
        warnings.push(format!(
            "{key} {path:?}: expected a program named nydus-overlayfs or nydus-overlayfs-NAME; \
             Kata Containers and nydus-overlayfs as mount.fuse do not recognize others"
        ));
    }
    Ok(slice_type)
}

impl Config {
    /// The configuration as a file that says all that has an effect.
    pub fn effective(&self) -> String {
        let mut table = Table::try_from(&self.file).unwrap_or_default();
        unbuilt::drop_ignored(&mut table);
        toml::to_string(&table).unwrap_or_default()
    }

    /// What would be in its way here and now, as far as a look tells.
    pub fn obstacles(&self) -> Vec<String> {
        let file::Daemon { nydusd_path, nydusd_config, .. } = &self.file.daemon;
        let root = self.root.canonicalize().unwrap_or_else(|_| self.root.clone());
        let mut found = Vec::new();
        if root.as_os_str().len() > MAX_ROOT {
            found.push(format!("root = {root:?}: expected at most {MAX_ROOT} bytes"));
        }
        if self.mode != DaemonMode::None && !is_program(nydusd_path) {
            found.push(format!("daemon.nydusd_path = {nydusd_path:?}: there is no such program"));
        }
        if self.driver == Driver::Fusedev
            && let Err(error) = template(nydusd_config)
        {
            found.push(format!("daemon.nydusd_config = {nydusd_config:?}: {error}"));
        }
        found
    }
}

/// Whether the template of `nydusd`'s configuration may be one.
fn template(path: &Path) -> Result<(), String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    let parsed = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&text);
    // The error's own text may quote a password.
    parsed.map(drop).map_err(|error| format!("line {}: expected an object of JSON", error.line()))
}

/// Whether there is a file of that path, or of that name in the PATH.
fn is_program(name: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = || std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
    if name.components().count() > 1 { name.is_file() } else { in_path() }
}

#[cfg(test)]
mod tests;
