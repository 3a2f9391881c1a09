//! Directories of snapshots.

use super::{Error, Result};
use crate::disk::{entries, gone};
use crate::idmap::IdMap;
use crate::labels::NYDUS_BLOB;
use crate::layout::Layout;
use crate::store::{Kind, Record};
use rustix::process::{getegid, geteuid};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::Path;

/// Makes what a snapshot needs and does not have: `fs` as its parent's owner has it, and `work`
/// for an active one.
///
/// # Errors
/// A full disk, and the like.
pub fn make(layout: &Layout, record: &Record, parent: Option<&Record>) -> Result<()> {
    let (fs, work) = (layout.fs(record.id), layout.work(record.id));
    let active = record.kind == Kind::Active;
    let made = || -> io::Result<()> {
        directory(&layout.snapshot(record.id), 0o700)?;
        if active {
            directory(&work, 0o711)?;
        }
        let made = directory(&fs, 0o755)?;
        if let Ok(Some(map)) = IdMap::of(&record.labels) {
            // A layer's owners are mapped by the mount, but what is written here is not.
            map.own(&fs)?;
            return if active { map.own(&work) } else { Ok(()) };
        }
        if let (true, Some(parent)) = (made, parent) {
            let owner = fs::metadata(layout.fs(parent.id))?;
            if (owner.uid(), owner.gid()) != (0, 0) {
                chown(&fs, Some(owner.uid()), Some(owner.gid()))?;
            }
        }
        Ok(())
    };
    made().map_err(|error| Error::Directory(fs.clone(), error))
}

/// The same where nothing is missing most times.
///
/// # Errors
/// A full disk, and the like.
pub fn recreate_missing(layout: &Layout, record: &Record, parent: Option<&Record>) -> Result<()> {
    let (fs, work) = (layout.fs(record.id), layout.work(record.id));
    let whole = fs.exists() && (record.kind != Kind::Active || work.exists());
    if whole { Ok(()) } else { make(layout, record, parent) }
}

/// Makes the directories of committed layers again that hold nothing: they were not synced.
///
/// # Errors
/// A full disk, and the like.
pub fn recreate_missing_layers(layout: &Layout, parents: &[Record]) -> Result<()> {
    let empty =
        |record: &&Record| record.usage.inodes <= 1 || record.labels.contains_key(NYDUS_BLOB);
    for record in parents.iter().filter(empty) {
        recreate_missing(layout, record, None)?;
    }
    Ok(())
}

/// Makes a directory; whether it is new. The umask is [`set_umask`]'s.
fn directory(path: &Path, mode: u32) -> io::Result<bool> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Lets this process make what it makes with exactly the modes that it asks for.
pub fn set_umask() {
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
}

/// Whether a directory is as [`make`] makes it again when it is missed: nothing is in it, and
/// owner and mode are the usual ones.
pub fn is_untouched(path: &Path) -> bool {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let usual =
        |meta: fs::Metadata| (meta.uid(), meta.gid(), meta.mode() & 0o7777) == (uid, gid, 0o755);
    fs::metadata(path).is_ok_and(usual)
        && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Removes the directory of a snapshot. A mount in it is not descended into.
///
/// # Errors
/// Something is still mounted there, and the like.
pub fn remove(snapshot: &Path) -> io::Result<()> {
    for entry in entries(snapshot)? {
        let path = entry?.path();
        match path.file_name().and_then(|name| name.to_str()) {
            Some("fs" | "work") => fs::remove_dir_all(path)?,
            // Where an image is mounted, or what is not ours.
            _ => fs::remove_dir(path)?,
        }
    }
    gone(fs::remove_dir(snapshot))
}

/// Waits until all that was written to the file system of `path` is on disk.
///
/// # Errors
/// The disk failed.
pub fn sync_file_system(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}

/// Whether a directory's entries come with their types; overlayfs needs that of its layers.
///
/// # Errors
/// The directory cannot be read.
pub fn tells_types(path: &Path) -> io::Result<bool> {
    let entry = rustix::fs::Dir::read_from(File::open(path)?)?.next().transpose()?;
    Ok(entry.is_none_or(|entry| entry.file_type() != rustix::fs::FileType::Unknown))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::Labels;
    use crate::usage::Usage;
    use std::time::SystemTime;

    fn record(id: u64, kind: Kind) -> Record {
        let (created, updated) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH);
        let (key, parent, labels) = (id.to_string(), String::new(), Labels::new());
        let (kernel, usage) = (false, Usage::default());
        Record { key, id, kind, parent, labels, created, updated, kernel, usage }
    }

    #[test]
    fn made_once_with_exact_modes_and_removed() {
        set_umask();
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        fs::create_dir(layout.snapshots()).unwrap();
        let mode = |path: &Path| fs::metadata(path).map(|meta| meta.mode() & 0o7777).unwrap_or(0);
        for (id, kind, work) in
            [(1, Kind::Active, 0o711), (2, Kind::View, 0), (3, Kind::Committed, 0)]
        {
            for _ in 0..2 {
                make(&layout, &record(id, kind), None).unwrap();
                assert_eq!(mode(&layout.fs(id)), 0o755);
                assert_eq!(mode(&layout.work(id)), work);
            }
        }
        fs::write(layout.fs(1).join("file"), "x").unwrap();
        fs::create_dir_all(layout.dedicated_mount(1)).unwrap();
        fs::write(layout.dedicated_mount(1).join("mounted"), "x").unwrap();
        assert!(remove(&layout.snapshot(1)).is_err(), "what may be mounted is not emptied");
        fs::remove_file(layout.dedicated_mount(1).join("mounted")).unwrap();
        for id in 1..=3 {
            remove(&layout.snapshot(id)).unwrap();
            remove(&layout.snapshot(id)).unwrap();
            assert!(!layout.snapshot(id).exists());
        }
    }
}
