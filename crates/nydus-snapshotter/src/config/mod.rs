//! The configuration: defaults, then the file, then the flags; checked, and in types that say
//! what may be.
//!
//! What is in the file counts, also where it is `false` or `0`. An empty text is none, and so is
//! a log's size of 0: the default counts, as in the Go snapshotter.

pub mod file;
mod kata;
mod memory;
mod unbuilt;

use crate::cli::Flags;
use crate::resolve::Driver;
use file::File;
pub use memory::Memory;
use nydus_mount_slice::is_nydus_type;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::{Table, Value};

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

/// Reads the file that the flags name, and lets the flags override it. No other file is looked
/// for, as in the Go snapshotter.
///
/// # Errors
/// What cannot run.
pub fn load(flags: &Flags) -> Result<Config, Error> {
    let Parsed { mut file, mut warnings } = match &flags.config {
        Some(path) if !path.as_os_str().is_empty() => read(path)?,
        _ => Parsed::default(),
    };
    flags.override_file(&mut file);
    warnings.extend(flags.nydus_image.as_ref().map(|_| "--nydus-image has no effect".to_owned()));
    check(file, warnings)
}

/// A file, and what is in it without effect.
#[derive(Debug, Default)]
struct Parsed {
    file: File,
    warnings: Vec<String>,
}

fn read(path: &Path) -> Result<Parsed, Error> {
    let text =
        std::fs::read_to_string(path).map_err(|error| Error::Unreadable(path.to_owned(), error))?;
    parse(&text).map_err(|error| Error::NotToml(path.to_owned(), error))
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

fn check(mut file: File, mut warnings: Vec<String>) -> Result<Config, Error> {
    unbuilt::refuse(&file)?;
    bounds(&file)?;
    for (path, name) in [(&mut file.log.dir, "logs"), (&mut file.cache_manager.cache_dir, "cache")]
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

/// Values that need nothing but a look.
fn bounds(file: &File) -> Result<(), Error> {
    let (daemon, root) = (&file.daemon, file.root.display());
    let policies = ["none", "resend", "flush"];
    let table = [
        (file.version != 1, value("version", file.version, "1")),
        (!file.root.is_absolute(), value("root", root, "an absolute path")),
        (!file.address.is_absolute(), value("address", file.address.display(), "an absolute path")),
        (
            file.address.as_os_str().len() > MAX_SOCKET,
            value("address", file.address.display(), "at most 107 bytes"),
        ),
        (
            !file.metrics.address.is_empty() && !has_port(&file.metrics.address),
            value(
                "metrics.address",
                &file.metrics.address,
                "HOST:PORT, or :PORT for all addresses",
            ),
        ),
        (
            daemon.threads_number > 1024,
            value("daemon.threads_number", daemon.threads_number, "at most 1024"),
        ),
        (
            !policies.contains(&&*daemon.failover_policy),
            value("daemon.failover_policy", &daemon.failover_policy, "none, resend or flush"),
        ),
    ];
    table.into_iter().find(|(wrong, _)| *wrong).map_or(Ok(()), |(_, error)| Err(error))
}

fn value(key: &'static str, found: impl ToString, expected: &'static str) -> Error {
    Error::Value { key, found: found.to_string(), expected }
}

fn mode_and_driver(file: &File) -> Result<(DaemonMode, Driver), Error> {
    let mode = match file.daemon_mode.as_str() {
        "dedicated" | "multiple" => DaemonMode::Dedicated,
        "shared" => DaemonMode::Shared,
        "none" => DaemonMode::None,
        other => return Err(value("daemon_mode", other, "dedicated, shared or none")),
    };
    match file.daemon.fs_driver.as_str() {
        "fusedev" => Ok((mode, Driver::Fusedev)),
        "proxy" if mode != DaemonMode::None => {
            Err(value("daemon_mode", &file.daemon_mode, "none, because fs_driver is proxy"))
        }
        "proxy" if !file.snapshot.enable_kata_volume => {
            let key = "snapshot.enable_kata_volume";
            Err(value(key, false, "true, because fs_driver is proxy"))
        }
        "proxy" => Ok((mode, Driver::Proxy)),
        "fscache" | "blockdev" | "nodev" => {
            let what = format!("fs_driver = {:?}", file.daemon.fs_driver);
            Err(Error::NotBuilt(what, "expected fusedev or proxy"))
        }
        other => Err(value("daemon.fs_driver", other, "fusedev or proxy")),
    }
}

fn recover(policy: &str) -> Result<Recover, Error> {
    match policy {
        "none" => Ok(Recover::None),
        "restart" => Ok(Recover::Restart),
        "failover" => Ok(Recover::Failover),
        other => Err(value("daemon.recover_policy", other, "none, restart or failover")),
    }
}

fn kernel_native(name: &str, mode: DaemonMode) -> Result<KernelNative, Error> {
    let key = "native.kernel_native";
    match name {
        "off" => Ok(KernelNative::Off),
        // Nothing is ever cached here.
        "auto" if mode == DaemonMode::None => Ok(KernelNative::Off),
        "auto" => Ok(KernelNative::Auto),
        "required" if mode == DaemonMode::None => {
            Err(value(key, name, "auto or off, because daemon_mode is none"))
        }
        "required" => Ok(KernelNative::Required),
        other => Err(value(key, other, "auto, off or required")),
    }
}

fn warm(name: &str) -> Result<Warm, Error> {
    match name {
        "never" => Ok(Warm::Never),
        "idle" => Ok(Warm::Idle),
        "now" => Ok(Warm::Now),
        other => Err(value("native.warm", other, "never, idle or now")),
    }
}

fn warm_rate(text: &str) -> Result<Option<u64>, Error> {
    match Memory::parse(text) {
        _ if text == "0" => Ok(None),
        Some(Memory::Bytes(bytes)) => Ok(Some(bytes)),
        _ => {
            Err(value("native.warm_rate", text, "bytes a second, such as 50MiB, or 0 for no limit"))
        }
    }
}

fn cgroup(section: &file::Cgroup) -> Result<Option<Memory>, Error> {
    let expected = "bytes, a size such as 200MiB, or a share such as 10%";
    let limit = Memory::parse(&section.memory_limit)
        .ok_or_else(|| value("cgroup.memory_limit", &section.memory_limit, expected))?;
    Ok(section.enable.then_some(limit))
}

/// A level by any name that the Go snapshotter takes.
fn level(name: &str) -> Result<&'static str, Error> {
    match name.to_ascii_lowercase().as_str() {
        "trace" => Ok("trace"),
        "debug" => Ok("debug"),
        "info" => Ok("info"),
        "warn" | "warning" => Ok("warn"),
        "error" | "fatal" | "panic" => Ok("error"),
        _ => Err(value("log.level", name, "trace, debug, info, warn or error")),
    }
}

fn interval(text: &str) -> Result<Duration, Error> {
    // Shorter ones would do nothing but look.
    let interval = humantime::parse_duration(text).ok().filter(|time| time.as_secs() > 0);
    interval
        .ok_or_else(|| value("metrics.collect_interval", text, "a time such as 1m, at least 1s"))
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
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn checked(text: &str) -> Result<Config, Error> {
        let Parsed { file, warnings } =
            parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        check(file, warnings)
    }

    /// A program, the mount type that it gives, and whether it is ours.
    #[test]
    fn programs_of_the_slice() {
        for (path, slice_type, ours) in [
            ("nydus-overlayfs", "fuse.nydus-overlayfs", true),
            ("/opt/nydus-overlayfs-1", "fuse./opt/nydus-overlayfs-1", true),
            ("fuse3.nydus-overlayfs", "fuse3.nydus-overlayfs", true),
            ("fuse./opt/nydus-overlayfs", "fuse./opt/nydus-overlayfs", true),
            ("/opt/n-1", "fuse./opt/n-1", false),
            ("nydus-overlayfsX", "fuse.nydus-overlayfsX", false),
        ] {
            let config = checked(&format!("[snapshot]\nnydus_overlayfs_path = '{path}'"));
            let config = config.unwrap_or_else(|error| panic!("{path}: {error}"));
            assert_eq!((&*config.slice_type, config.warnings.is_empty()), (slice_type, ours));
            let expected = |warning: &String| warning.contains("expected a program named");
            assert!(config.warnings.iter().all(expected), "{:?}", config.warnings);
        }
    }

    #[test]
    fn values_have_effects() {
        type Row = (&'static str, fn(&Config) -> bool);
        let table: &[Row] = &[
            ("", |c| c.mode == DaemonMode::Dedicated && c.driver == Driver::Fusedev),
            ("", |c| c.logs == c.root.join("logs") && c.cache == c.root.join("cache")),
            ("", |c| c.slice_type == "fuse.nydus-overlayfs" && c.warnings.is_empty()),
            ("daemon_mode = 'multiple'", |c| c.mode == DaemonMode::Dedicated),
            ("daemon_mode = 'shared'", |c| c.mode == DaemonMode::Shared),
            ("root = '/r'", |c| c.cache == Path::new("/r/cache")),
            ("[log]\nlog_to_stdout = false", |c| !c.file.log.log_to_stdout),
            ("[daemon]\nrecover_policy = 'failover'", |c| c.recover == Recover::Failover),
            ("[cgroup]\nenable = true\nmemory_limit = '10%'", |c| {
                c.cgroup.is_some_and(|limit| limit.bytes(1000) == Some(100))
            }),
            ("[cgroup]\nmemory_limit = '10%'", |c| c.cgroup.is_none()),
            ("[metrics]\ncollect_interval = '1h30m'", |c| c.collect_interval.as_secs() == 5400),
            ("[metrics]\naddress = 'h:1'", |c| c.metrics.as_deref() == Some("h:1")),
            ("[metrics]\naddress = ':9110'", |c| {
                c.metrics.as_ref().is_some_and(|address| address.parse::<SocketAddr>().is_ok())
            }),
            ("[metrics]\naddress = ''", |c| c.metrics.is_none()),
            ("[log]\nlevel = 'WARNING'", |c| c.file.log.level == "warn"),
            ("[log]\nlevel = 'fatal'", |c| c.file.log.level == "error"),
            ("[daemon]\nnydusd_path = ''\nnydusd_config = ''", |c| {
                c.file.daemon == file::Daemon::default()
            }),
            ("root = ''\naddress = ''\ndaemon_mode = ''\n[log]\nlevel = ''", |c| {
                c.file == checked("").expect("the defaults").file
            }),
            ("[daemon]\nlog_rotation_size = 0\n[log]\nlog_rotation_max_size = 0", |c| {
                c.file.daemon.log_rotation_size == 100 && c.file.log.log_rotation_max_size == 200
            }),
            ("", |c| c.kernel_native == KernelNative::Auto && c.warm == Warm::Never),
            ("", |c| c.warm_rate == Some(50 << 20)),
            ("daemon_mode = 'none'", |c| c.kernel_native == KernelNative::Off),
            ("[native]\nkernel_native = 'required'\nwarm = 'idle'\nwarm_rate = '1.5M'", |c| {
                c.kernel_native == KernelNative::Required
                    && c.warm == Warm::Idle
                    && c.warm_rate == Some(1_500_000)
            }),
            ("[native]\nkernel_native = 'off'\nwarm = 'now'\nwarm_rate = '0'", |c| {
                c.kernel_native == KernelNative::Off && c.warm == Warm::Now && c.warm_rate.is_none()
            }),
            ("[daemon]\nfailover_policy = 'flush'", |c| c.file.daemon.failover_policy == "flush"),
            (
                "daemon_mode = 'none'\n[daemon]\nfs_driver = 'proxy'\n[snapshot]\nenable_kata_volume = true",
                |c| c.driver == Driver::Proxy,
            ),
            ("new = 1\n[daemon]\nother = 2", |c| {
                c.warnings == ["daemon.other is not known", "new is not known"]
            }),
            ("[system]\nenable = false", |c| c.warnings.is_empty()),
            ("[system]\nenable = true\naddress = '/s'", |c| {
                c.warnings
                    == ["system.address", "system.enable"].map(|k| format!("{k} has no effect"))
            }),
            ("[metrics]\nhung_io_interval = '10s'", |c| {
                c.warnings == ["metrics.hung_io_interval has no effect"]
            }),
            ("[system.debug]\npprof_address = ''", |c| c.warnings.is_empty()),
            ("[system.debug]\npprof_address = ':1'", |c| {
                c.warnings == ["system.debug.pprof_address has no effect"]
            }),
            ("[experimental]\nenable_stargz = false", |c| c.warnings.is_empty()),
            ("[experimental.tarfs]\nexport_mode = 'x'\nmax_concurrent_proc = 0", |c| {
                c.warnings == ["experimental.tarfs.export_mode has no effect"]
            }),
            ("[remote.auth]\nkubeconfig_path = 'k'", |c| {
                c.warnings == ["remote.auth.kubeconfig_path has no effect"]
            }),
            ("[remote.mirrors_config]\ndir = '/nowhere'", |c| {
                c.warnings == ["remote.mirrors_config.dir has no effect"]
            }),
            ("[daemon]\nnydusimage_path = 'i'\n[cache_manager]\ngc_period = '24h'", |c| {
                c.warnings
                    == ["cache_manager.gc_period", "daemon.nydusimage_path"]
                        .map(|key| format!("{key} has no effect"))
            }),
        ];
        for (text, effect) in table {
            let config = checked(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(effect(&config), "{text}: {config:?}");
            let again = checked(&config.effective()).unwrap();
            assert_eq!(again.effective(), config.effective(), "{text}");
            assert_eq!(again.warnings, Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn what_cannot_run_is_refused() {
        let long = format!("address = '/{}'", "a".repeat(MAX_SOCKET));
        let table = [
            ("version = 2", "version = \"2\": expected 1"),
            ("root = 'r'", "root = \"r\": expected an absolute path"),
            ("address = 'a.sock'", "address = \"a.sock\": expected an absolute path"),
            ("daemon_mode = 'one'", "expected dedicated, shared or none"),
            (&*long, "expected at most 107 bytes"),
            ("[metrics]\naddress = 'foo'", "metrics.address = \"foo\": expected HOST:PORT"),
            ("[metrics]\naddress = 'foo:http'", "expected HOST:PORT"),
            (
                "[daemon]\nfs_driver = 'fscache'",
                "\"fscache\" is not built: expected fusedev or proxy",
            ),
            ("[daemon]\nfs_driver = 'blockdev'", "is not built"),
            ("[daemon]\nfs_driver = 'x'", "daemon.fs_driver = \"x\": expected fusedev or proxy"),
            ("[daemon]\nfs_driver = 'proxy'", "expected none, because fs_driver is proxy"),
            (
                "daemon_mode = 'none'\n[daemon]\nfs_driver = 'proxy'",
                "enable_kata_volume = \"false\": expected true",
            ),
            ("[daemon]\nrecover_policy = 'x'", "expected none, restart or failover"),
            ("[daemon]\nthreads_number = 1025", "expected at most 1024"),
            ("[daemon]\nfailover_policy = 'x'", "expected none, resend or flush"),
            ("[native]\nkernel_native = 'on'", "expected auto, off or required"),
            (
                "daemon_mode = 'none'\n[native]\nkernel_native = 'required'",
                "expected auto or off, because daemon_mode is none",
            ),
            ("[native]\nwarm = 'soon'", "expected never, idle or now"),
            ("[native]\nwarm_rate = '10%'", "expected bytes a second, such as 50MiB"),
            ("[cgroup]\nmemory_limit = '10 apples'", "such as 200MiB"),
            ("[log]\nlevel = 'loud'", "log.level = \"loud\""),
            ("[metrics]\ncollect_interval = 'soon'", "a time such as 1m"),
            ("[metrics]\ncollect_interval = '0'", "at least 1s"),
            ("[metrics]\ncollect_interval = '999ms'", "at least 1s"),
            ("[remote.auth]\nenable_cri_keychain = true", "enable_cri_keychain is not built"),
            ("[remote.mirrors_config]\ndir = '/usr'", "mirrors_config.dir is not built"),
            ("[image]\nvalidate_signature = true", "validate_signature is not built"),
            ("[experimental]\nenable_stargz = true", "experimental.enable_stargz is not built"),
            (
                "[experimental.tarfs]\nenable_tarfs = true",
                "experimental.tarfs.enable_tarfs is not built",
            ),
            ("[snapshot]\nnydus_overlayfs_path = 'a b'", "without blanks"),
            ("[snapshot]\nnydus_overlayfs_path = '/opt/nydus-overlayfs/'", "without blanks"),
        ];
        for (text, expected) in table {
            let error = checked(text).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(expected) && !error.contains('\n'), "{text}: {error}");
        }
        for (text, expected) in
            [("a = ", "line 1: "), ("\n\nroot = 1", "line 3: "), ("root = 1", "")]
        {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn obstacles_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (good, bad) = (file("good", "{}"), file("bad", "{\n\"password\": hunter2}"));
        let long = format!("/{}", "r".repeat(MAX_ROOT));
        let table = [
            ("dedicated", "fusedev", "/", "sh", good.as_str(), &[][..]),
            ("dedicated", "fusedev", "/", &good, &good, &[]),
            ("dedicated", "fusedev", &long, "sh", &good, &["root = ", "at most 70 bytes"]),
            ("dedicated", "fusedev", "/", "no-such", &good, &["nydusd_path = \"no-such\""]),
            ("shared", "fusedev", "/", "/no/such", &good, &["nydusd_path = \"/no/such\""]),
            (
                "shared",
                "fusedev",
                "/",
                "sh",
                "/no/such",
                &["nydusd_config = \"/no/such\"", "No such"],
            ),
            ("none", "fusedev", "/", "no-such", &bad, &["line 2: expected an object of JSON"]),
            ("none", "proxy", "/", "no-such", &bad, &[]),
        ];
        for (mode, driver, root, program, template, expected) in table {
            let text = format!(
                "daemon_mode = '{mode}'\nroot = '{root}'\n[daemon]\nfs_driver = '{driver}'\n\
                 nydusd_path = '{program}'\nnydusd_config = '{template}'\n\
                 [snapshot]\nenable_kata_volume = true"
            );
            let found = checked(&text).unwrap().obstacles().join("\n");
            assert_eq!(found.is_empty(), expected.is_empty(), "{text}: {found}");
            assert!(expected.iter().all(|word| found.contains(word)), "{text}: {found}");
            assert!(!found.contains("hunter2"), "{found}");
        }
    }

    #[test]
    fn the_example_says_the_defaults() {
        let text = include_str!("../../../../packaging/config.toml");
        let config = checked(text).unwrap();
        assert_eq!(config.file, checked("").unwrap().file);
        assert_eq!(config.warnings, Vec::<String>::new());
    }
}
