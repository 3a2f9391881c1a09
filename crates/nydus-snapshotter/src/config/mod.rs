//! The configuration: defaults, then the file, then the flags; checked, and in types that say
//! what may be.
//!
//! What is in the file counts, also where it is `false`, `0` or empty.

pub mod file;
mod memory;

use crate::cli::Flags;
use crate::resolve::Driver;
use file::File;
pub use memory::Memory;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    #[error("configuration {0:?}: {1}")]
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

/// Reads the file that the flags name, and lets the flags override it.
///
/// # Errors
/// What cannot run.
pub fn load(flags: &Flags) -> Result<Config, Error> {
    let (mut file, unknown) = match &flags.config {
        Some(path) => read(path)?,
        None => (File::default(), Vec::new()),
    };
    flags.override_file(&mut file);
    check(file, unknown)
}

fn read(path: &Path) -> Result<(File, Vec<String>), Error> {
    let text =
        std::fs::read_to_string(path).map_err(|error| Error::Unreadable(path.to_owned(), error))?;
    parse(&text).map_err(|error| Error::NotToml(path.to_owned(), error))
}

/// A file's text, and the keys in it that nobody knows.
fn parse(text: &str) -> Result<(File, Vec<String>), String> {
    let one_line = |error: toml::de::Error| {
        let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
        format!("line {line}: {}", error.message().lines().next().unwrap_or_default())
    };
    let mut unknown = Vec::new();
    let document = toml::Deserializer::parse(text).map_err(one_line)?;
    let file = serde_ignored::deserialize(document, |path| unknown.push(path.to_string()));
    Ok((file.map_err(one_line)?, unknown))
}

fn check(mut file: File, unknown: Vec<String>) -> Result<Config, Error> {
    refuse_unbuilt(&file)?;
    let mut warnings: Vec<_> = unknown.iter().map(|key| format!("{key} is not known")).collect();
    warnings.extend(without_effect(&file));
    if file.version != 1 {
        return Err(value("version", file.version, "1"));
    }
    if !file.root.is_absolute() {
        return Err(value("root", file.root.display(), "an absolute path"));
    }
    for (path, name) in [(&mut file.log.dir, "logs"), (&mut file.cache_manager.cache_dir, "cache")]
    {
        if path.as_os_str().is_empty() {
            *path = file.root.join(name);
        }
    }
    if file.daemon.threads_number > 1024 {
        return Err(value("daemon.threads_number", file.daemon.threads_number, "at most 1024"));
    }
    if !["trace", "debug", "info", "warn", "error"].contains(&&*file.log.level) {
        let expected = "trace, debug, info, warn or error";
        return Err(value("log.level", &file.log.level, expected));
    }
    let (mode, driver) = mode_and_driver(&file)?;
    let interval = humantime::parse_duration(&file.metrics.collect_interval);
    Ok(Config {
        root: file.root.clone(),
        address: file.address.clone(),
        mode,
        driver,
        recover: recover(&file.daemon.recover_policy)?,
        cgroup: cgroup(&file.cgroup)?,
        logs: file.log.dir.clone(),
        cache: file.cache_manager.cache_dir.clone(),
        metrics: Some(file.metrics.address.clone()).filter(|address| !address.is_empty()),
        collect_interval: interval.map_err(|_| {
            value("metrics.collect_interval", &file.metrics.collect_interval, "a time such as 1m")
        })?,
        slice_type: slice_type(&file.snapshot.nydus_overlayfs_path)?,
        file,
        warnings,
    })
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

fn cgroup(section: &file::Cgroup) -> Result<Option<Memory>, Error> {
    let expected = "bytes, a size such as 200MiB, or a share such as 10%";
    let limit = Memory::parse(&section.memory_limit)
        .ok_or_else(|| value("cgroup.memory_limit", &section.memory_limit, expected))?;
    Ok(section.enable.then_some(limit))
}

/// `fuse.` and the program; a type with a kind of its own (`fuse3.`) is taken as it is.
fn slice_type(path: &str) -> Result<String, Error> {
    let typed = path.starts_with("fuse.") || path.starts_with("fuse3.");
    if path.is_empty() || path.contains([',', ' ', '\t', '\n']) {
        let key = "snapshot.nydus_overlayfs_path";
        return Err(value(key, path, "a program's name or path without blanks"));
    }
    Ok(if typed { path.to_owned() } else { format!("fuse.{path}") })
}

/// What would run otherwise than the operator wants is not started at all.
fn refuse_unbuilt(file: &File) -> Result<(), Error> {
    let keys = "credentials are taken from labels and Docker's configuration";
    let auth = &file.remote.auth;
    let table = [
        (auth.enable_cri_keychain, "remote.auth.enable_cri_keychain", keys),
        (auth.enable_kubeconfig_keychain, "remote.auth.enable_kubeconfig_keychain", keys),
        (
            auth.enable_kubelet_credential_providers,
            "remote.auth.enable_kubelet_credential_providers",
            keys,
        ),
        (file.remote.convert_vpc_registry, "remote.convert_vpc_registry", "expected false"),
        (file.image.validate_signature, "image.validate_signature", "expected false"),
        (
            std::fs::read_dir(&file.remote.mirrors_config.dir)
                .is_ok_and(|mut entries| entries.next().is_some()),
            "remote.mirrors_config.dir",
            "expected an empty directory or none; name mirrors in nydusd's configuration",
        ),
    ];
    if let Some((_, key, instead)) = table.into_iter().find(|(set, ..)| *set) {
        return Err(Error::NotBuilt(key.to_owned(), instead));
    }
    match switched_on(&file.experimental, "experimental") {
        Some(key) => Err(Error::NotBuilt(key, "expected false")),
        None => Ok(()),
    }
}

/// The first key that is `true`.
fn switched_on(table: &toml::Table, path: &str) -> Option<String> {
    table.iter().find_map(|(name, value)| match value {
        toml::Value::Boolean(true) => Some(format!("{path}.{name}")),
        toml::Value::Table(inner) => switched_on(inner, &format!("{path}.{name}")),
        _ => None,
    })
}

/// Harmless keys that are not built, where they are set to something.
fn without_effect(file: &File) -> impl Iterator<Item = String> + use<> {
    let usual = File::default();
    let table = [
        ("system", file.system != usual.system),
        ("daemon.nydusimage_path", file.daemon.nydusimage_path != usual.daemon.nydusimage_path),
        ("log.log_rotation_max_age", file.log.log_rotation_max_age != 0),
        ("log.log_rotation_local_time", !file.log.log_rotation_local_time),
        (
            "metrics.hung_io_interval",
            file.metrics.hung_io_interval != usual.metrics.hung_io_interval,
        ),
        ("cache_manager.disable", file.cache_manager.disable),
        ("cache_manager.gc_period", file.cache_manager.gc_period != usual.cache_manager.gc_period),
        ("image.public_key_file", !file.image.public_key_file.is_empty()),
        ("remote.auth", file.remote.auth != usual.remote.auth),
        ("experimental", !file.experimental.is_empty()),
    ];
    table.into_iter().filter(|(_, set)| *set).map(|(key, _)| format!("{key} has no effect"))
}

impl Config {
    /// The configuration as a file that says it all.
    pub fn effective(&self) -> String {
        toml::to_string(&self.file).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<Config, Error> {
        let (file, unknown) = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        check(file, unknown)
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
            ("[snapshot]\nnydus_overlayfs_path = '/opt/n-1'", |c| c.slice_type == "fuse./opt/n-1"),
            ("[snapshot]\nnydus_overlayfs_path = 'fuse3.n'", |c| c.slice_type == "fuse3.n"),
            ("[metrics]\ncollect_interval = '1h30m'", |c| c.collect_interval.as_secs() == 5400),
            ("[metrics]\naddress = ':9110'", |c| c.metrics.as_deref() == Some(":9110")),
            (
                "daemon_mode = 'none'\n[daemon]\nfs_driver = 'proxy'\n[snapshot]\nenable_kata_volume = true",
                |c| c.driver == Driver::Proxy,
            ),
            ("new = 1\n[daemon]\nother = 2", |c| {
                c.warnings == ["daemon.other is not known", "new is not known"]
            }),
            ("[system]\nenable = false", |c| c.warnings == ["system has no effect"]),
            ("[experimental]\nenable_stargz = false", |c| c.warnings.len() == 1),
        ];
        for (text, effect) in table {
            let config = checked(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(effect(&config), "{text}: {config:?}");
            let again = checked(&config.effective()).unwrap();
            assert_eq!(again.file, config.file, "{text}");
        }
    }

    #[test]
    fn what_cannot_run_is_refused() {
        let table = [
            ("version = 2", "version = \"2\": expected 1"),
            ("root = 'r'", "root = \"r\": expected an absolute path"),
            ("daemon_mode = 'one'", "expected dedicated, shared or none"),
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
            ("[cgroup]\nmemory_limit = '10 apples'", "such as 200MiB"),
            ("[log]\nlevel = 'loud'", "log.level = \"loud\""),
            ("[metrics]\ncollect_interval = 'soon'", "a time such as 1m"),
            ("[remote.auth]\nenable_cri_keychain = true", "enable_cri_keychain is not built"),
            ("[remote.mirrors_config]\ndir = '/usr'", "mirrors_config.dir is not built"),
            ("[image]\nvalidate_signature = true", "validate_signature is not built"),
            ("[experimental]\nenable_stargz = true", "experimental.enable_stargz is not built"),
            (
                "[experimental.tarfs]\nenable_tarfs = true",
                "experimental.tarfs.enable_tarfs is not built",
            ),
            ("[snapshot]\nnydus_overlayfs_path = 'a b'", "without blanks"),
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
    fn the_example_says_the_defaults() {
        let text = include_str!("../../../../packaging/config.toml");
        let config = checked(text).unwrap();
        assert_eq!(config.file, checked("").unwrap().file);
        assert_eq!(config.warnings, Vec::<String>::new());
    }
}
