//! A tree of files that goes into a package: modes and times come from here, owners from the packer.

use super::Packing;
use crate::cmd::Cmd;
use anyhow::{Context, Result};
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Its root, a directory of its own.
pub(super) struct Tree {
    pub(super) root: PathBuf,
}

impl Tree {
    /// An empty one.
    pub(super) fn new(root: PathBuf) -> Result<Self> {
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        Ok(Self { root })
    }

    /// Writes a file, with the directories that it needs.
    pub(super) fn put(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let path = self.place(path)?;
        fs::write(&path, content)
            .and_then(|()| fs::set_permissions(&path, PermissionsExt::from_mode(mode)))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The same, compressed as `PATH.gz`.
    pub(super) fn put_compressed(&self, path: &str, content: &[u8]) -> Result<()> {
        self.put(path, content, 0o644)?;
        Cmd::new("gzip", 60, "gzip").arg("-9n").arg(self.root.join(path)).run()
    }

    pub(super) fn link(&self, path: &str, to: &str) -> Result<()> {
        let path = self.place(path)?;
        symlink(to, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Gives every directory its mode, and everything the time of the packing.
    pub(super) fn finish(&self, packing: &Packing) -> Result<()> {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(packing.time.unsigned_abs());
        self.walk(&mut |path| {
            let kind = fs::symlink_metadata(path)?.file_type();
            if kind.is_dir() {
                fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
            }
            // Links have the time of now, which the packers replace.
            if !kind.is_symlink() {
                File::open(path)?.set_times(FileTimes::new().set_modified(time))?;
            }
            Ok(())
        })
    }

    /// The files in it, sorted, by their paths from the root.
    pub(super) fn files(&self) -> Result<Vec<String>> {
        let mut files = Vec::new();
        self.walk(&mut |path| {
            if fs::symlink_metadata(path)?.is_file() {
                files.push(path.strip_prefix(&self.root)?.to_string_lossy().into_owned());
            }
            Ok(())
        })?;
        files.sort();
        Ok(files)
    }

    fn walk(&self, visit: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
        fn below(path: &Path, visit: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
            if fs::symlink_metadata(path)?.is_dir() {
                for entry in fs::read_dir(path)? {
                    below(&entry?.path(), visit)?;
                }
            }
            visit(path)
        }
        below(&self.root, visit)
    }

    fn place(&self, path: &str) -> Result<PathBuf> {
        let path = self.root.join(path);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        Ok(path)
    }
}
