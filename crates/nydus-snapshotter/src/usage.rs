//! Disk space that a snapshot takes, counted as containerd does: each inode once, in blocks.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes in a block of `stat(2)`.
const BLOCK: u64 = 512;
const GONE: Option<io::ErrorKind> = Some(io::ErrorKind::NotFound);

/// What a directory tree takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of inodes.
    pub inodes: u64,
    /// Bytes on disk.
    pub size: u64,
}

impl Usage {
    /// What one file takes.
    pub fn of(file: &std::fs::Metadata) -> Self {
        Self { inodes: 1, size: file.blocks() * BLOCK }
    }
}

impl std::ops::Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { inodes: self.inodes + other.inodes, size: self.size + other.size }
    }
}

/// What the tree at `root` takes, itself included; a file that vanishes meanwhile counts nothing.
///
/// # Errors
/// A directory that cannot be read.
pub fn of_tree(root: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    for entry in walkdir::WalkDir::new(root).same_file_system(true) {
        let meta = match entry.and_then(|entry| entry.metadata()) {
            Ok(meta) => meta,
            Err(error) if error.io_error().map(io::Error::kind) == GONE => continue,
            Err(error) => return Err(error.into()),
        };
        // Only a file with several names can be met twice.
        let seen = !meta.is_dir() && meta.nlink() > 1 && !linked.insert((meta.dev(), meta.ino()));
        if !seen {
            usage = usage + Usage::of(&meta);
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn counts_each_inode_once() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/f"), vec![1; 10_000]).unwrap();
        fs::hard_link(at("d/f"), at("again")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("link")).unwrap();
        let usage = of_tree(root.path()).unwrap();
        assert_eq!(usage.inodes, 4);
        let blocks: u64 = ["", "d", "d/f", "link"]
            .map(|name| fs::symlink_metadata(at(name)).unwrap().blocks())
            .iter()
            .sum();
        assert_eq!(usage.size, blocks * BLOCK);
        assert_eq!(of_tree(&at("missing")).unwrap(), Usage::default());
    }
}
