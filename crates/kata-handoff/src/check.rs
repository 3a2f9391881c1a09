//! What can be known before anything is started.

use crate::{Error, Result};
use nydus_mount_slice::FsVersion;
use rustix::fs::{
    CWD, Dir, FileType, Mode, OFlags, RenameFlags, XattrFlags, openat, renameat_with, setxattr,
};
use serde_json::Value;
use std::io;
use std::path::{Component, Path};

/// Whether a path is absolute and goes down only.
pub(crate) fn is_plain(path: &Path) -> bool {
    let mut parts = path.components();
    parts.next() == Some(Component::RootDir)
        && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// The two forms of `nydusd`'s configuration: where they say the same.
const VALIDATE: [&str; 2] = ["/digest_validate", "/rafs/validate"];
const BACKEND: [[&str; 2]; 2] = [
    ["/device/backend/type", "/device/backend/config/dir"],
    ["/backend/type", "/backend/localfs/dir"],
];
const CACHE: [&str; 3] =
    ["/device/cache/config/work_dir", "/cache/filecache/work_dir", "/cache/config/work_dir"];

/// Whether `nydusd` will take the configuration for an image of this version.
pub(crate) fn config(text: &str, version: FsVersion) -> Result<()> {
    let bad = |what: &str| Error::Config(what.to_owned());
    // The parser's own words may quote a password.
    let config: Value = serde_json::from_str(text)
        .map_err(|error| Error::Config(format!("no JSON at byte {}", error.column())))?;
    if !config.is_object() {
        return Err(bad("expected a JSON object"));
    }
    let says = |at: &&str| config.pointer(at) == Some(&Value::Bool(true));
    if version == FsVersion::V6
        && let Some(at) = VALIDATE.iter().find(|at| says(at))
    {
        let key = at[1..].replace('/', ".");
        return Err(Error::Config(format!("{key} is true, expected false for RAFS v6")));
    }
    if BACKEND.iter().all(|[kind, _]| config.pointer(kind).is_none()) {
        return Err(bad("no backend, expected device.backend or backend"));
    }
    for [kind, directory] in BACKEND {
        if config.pointer(kind).and_then(Value::as_str) == Some("localfs") {
            there("blob directory", config.pointer(directory))?;
        }
    }
    CACHE.iter().try_for_each(|at| there("cache directory", config.pointer(at)))
}

/// A directory that the configuration names must exist: `nydusd` does not make it.
fn there(what: &'static str, path: Option<&Value>) -> Result<()> {
    match path.and_then(Value::as_str).filter(|path| !path.is_empty()) {
        Some(path) => directory(what, Path::new(path)),
        None => Ok(()),
    }
}

fn directory(what: &'static str, path: &Path) -> Result<()> {
    let cause = match path.metadata() {
        Ok(meta) if meta.is_dir() => return Ok(()),
        Ok(_) => io::ErrorKind::NotADirectory.into(),
        Err(error) => error,
    };
    Err(Error::Directory { what, path: path.to_owned(), cause })
}

/// Whether a guest's overlay can have its upper directory in this snapshot. The guest sees it
/// through FUSE, so it is "remote" to overlayfs, which then insists on all of this
/// (`ovl_make_workdir` in the kernel).
pub(crate) fn snapshot(snapshotdir: &Path) -> Result<()> {
    for part in ["fs", "work"] {
        directory("snapshotdir", &snapshotdir.join(part))?;
    }
    let refused = |why: String| Error::Upper(snapshotdir.to_owned(), why);
    if !tells_types(snapshotdir).map_err(|error| refused(error.to_string()))? {
        return Err(refused("it does not tell file types (d_type)".to_owned()));
    }
    let work = snapshotdir.join("work");
    let probe = tempfile::NamedTempFile::new_in(&work)
        .map_err(|error| refused(format!("{}: {}", work.display(), error.kind())))?;
    setxattr(probe.path(), "trusted.overlay.nydus", b"y", XattrFlags::empty())
        .map_err(|error| refused(format!("no trusted extended attributes: {error}")))?;
    whiteout(probe).map_err(|error| refused(format!("no whiteouts: {error}")))
}

/// Moves a file away and leaves a whiteout in its place; then both go.
fn whiteout(probe: tempfile::NamedTempFile) -> io::Result<()> {
    let (file, at) = probe.keep()?;
    drop(file);
    let moved = at.with_extension("moved");
    let outcome = renameat_with(CWD, &at, CWD, &moved, RenameFlags::WHITEOUT);
    for path in [&at, &moved] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(outcome?)
}

fn tells_types(directory: &Path) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = openat(CWD, directory, flags, Mode::empty())?;
    for entry in Dir::read_from(open)? {
        let entry = entry?;
        if entry.file_name().to_bytes() == b"fs" {
            return Ok(entry.file_type() != FileType::Unknown);
        }
    }
    Ok(true)
}
