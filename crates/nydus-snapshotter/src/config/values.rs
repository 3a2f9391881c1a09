//! Values of the file in types that say what may be.

use super::file::{self, File};
use super::{DaemonMode, Error, KernelNative, Memory, Recover, Warm};
use crate::resolve::Driver;
use std::time::Duration;

pub(super) fn value(key: &'static str, found: impl ToString, expected: &'static str) -> Error {
    Error::Value { key, found: found.to_string(), expected }
}

pub(super) fn expect(
    right: bool,
    key: &'static str,
    found: impl ToString,
    expected: &'static str,
) -> Result<(), Error> {
    if right { Ok(()) } else { Err(value(key, found, expected)) }
}

pub(super) fn mode_and_driver(file: &File) -> Result<(DaemonMode, Driver), Error> {
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

pub(super) fn recover(policy: &str) -> Result<Recover, Error> {
    match policy {
        "none" => Ok(Recover::None),
        "restart" => Ok(Recover::Restart),
        "failover" => Ok(Recover::Failover),
        other => Err(value("daemon.recover_policy", other, "none, restart or failover")),
    }
}

pub(super) fn kernel_native(name: &str, mode: DaemonMode) -> Result<KernelNative, Error> {
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

pub(super) fn warm(name: &str) -> Result<Warm, Error> {
    match name {
        "never" => Ok(Warm::Never),
        "idle" => Ok(Warm::Idle),
        "now" => Ok(Warm::Now),
        other => Err(value("native.warm", other, "never, idle or now")),
    }
}

pub(super) fn warm_rate(text: &str) -> Result<Option<u64>, Error> {
    match Memory::parse(text) {
        _ if text == "0" => Ok(None),
        Some(Memory::Bytes(bytes)) => Ok(Some(bytes)),
        _ => {
            Err(value("native.warm_rate", text, "bytes a second, such as 50MiB, or 0 for no limit"))
        }
    }
}

pub(super) fn cgroup(section: &file::Cgroup) -> Result<Option<Memory>, Error> {
    let expected = "bytes, a size such as 200MiB, or a share such as 10%";
    let limit = Memory::parse(&section.memory_limit)
        .ok_or_else(|| value("cgroup.memory_limit", &section.memory_limit, expected))?;
    Ok(section.enable.then_some(limit))
}

/// A level by any name that the Go snapshotter takes.
pub(super) fn level(name: &str) -> Result<&'static str, Error> {
    match name.to_ascii_lowercase().as_str() {
        "trace" => Ok("trace"),
        "debug" => Ok("debug"),
        "info" => Ok("info"),
        "warn" | "warning" => Ok("warn"),
        "error" | "fatal" | "panic" => Ok("error"),
        _ => Err(value("log.level", name, "trace, debug, info, warn or error")),
    }
}

pub(super) fn interval(text: &str) -> Result<Duration, Error> {
    // Shorter ones would do nothing but look.
    let interval = humantime::parse_duration(text).ok().filter(|time| time.as_secs() > 0);
    interval
        .ok_or_else(|| value("metrics.collect_interval", text, "a time such as 1m, at least 1s"))
}
