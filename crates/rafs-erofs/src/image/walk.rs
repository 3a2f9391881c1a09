//! Every inode of the image, to know what the kernel would read, and where.

use super::bytes::{Bytes, u16, u32, u64};
use super::superblock::{BLOCK, Super};
use super::{Chunk, Problem, Read};
use crate::Unserved;
use std::collections::HashSet;

/// Layouts of an inode's data.
const PLAIN: u16 = 0;
const INLINE: u16 = 2;
const CHUNKS: u16 = 4;
/// A chunk's format: indexes follow; the rest is the logarithm of its blocks.
const INDEXES: u32 = 0x20;
const SIZE_BITS: u32 = 0x1f;
const DIRENT: usize = 12;
/// Names longer than this are none to any Linux.
const NAME: usize = 255;
/// The same of paths, with the zero at their end.
const PATH_MAX: usize = 4096;
/// Index of the root in the list of directories.
const ROOT: usize = 0;

/// A directory; the root is its own parent.
#[derive(Debug)]
struct Directory<'a> {
    parent: usize,
    name: &'a [u8],
}

/// The path of a file. Kept by its parts: a bootstrap of a few MiB can have paths of gigabytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path<'a> {
    directories: &'a [Directory<'a>],
    parent: usize,
    name: &'a [u8],
}

impl Path<'_> {
    /// From the root, without a slash at its beginning; `None` if no process could open it.
    pub(super) fn whole(&self) -> Option<Vec<u8>> {
        let (mut names, mut length, mut at) = (vec![self.name], self.name.len(), self.parent);
        while at != ROOT {
            let Directory { parent, name } = &self.directories[at];
            length += name.len() + 1;
            if length >= PATH_MAX {
                return None;
            }
            names.push(name);
            at = *parent;
        }
        names.reverse();
        Some(names.join(&b'/'))
    }
}

/// Data of a file that lies together in a blob.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent<'a> {
    /// The file.
    pub(super) path: Path<'a>,
    /// Where in the file, bytes.
    pub(super) at: u64,
    /// The blob.
    pub(super) blob: u16,
    /// Where in it, bytes.
    pub(super) offset: u64,
    /// Its length, bytes.
    pub(super) size: u64,
}

struct Inode {
    /// Where what follows it begins: indexes or inline data.
    end: u64,
    layout: u16,
    mode: u16,
    size: u64,
    union: u32,
}

/// Calls `visit` with every extent of every file. Each inode is seen once.
///
/// # Errors
/// What `visit` said, or the tree is broken.
pub(super) fn walk(
    bytes: Bytes<'_>,
    of: &Super,
    visit: &mut dyn FnMut(Extent<'_>) -> Read<()>,
) -> Read<()> {
    let mut tree = Tree { bytes, of, left: bytes.0.len() as u64 };
    let mut seen = HashSet::from([of.root]);
    let mut directories = vec![Directory { parent: ROOT, name: b"" }];
    let mut pending = vec![(of.root, ROOT)];
    if tree.inode(of.root)?.mode & 0o170_000 != 0o040_000 {
        return Err(damaged(of.root, "the root is no directory"));
    }
    while let Some((number, parent)) = pending.pop() {
        for (number, name) in tree.entries(number)? {
            // Names of one inode: a link, or a loop in a damaged bootstrap.
            if !seen.insert(number) {
                continue;
            }
            let child = tree.inode(number)?;
            match child.mode & 0o170_000 {
                0o040_000 => {
                    pending.push((number, directories.len()));
                    directories.push(Directory { parent, name });
                }
                0o100_000 => {
                    let path = Path { directories: &directories, parent, name };
                    tree.extents(&child, path, visit)?;
                }
                0o120_000 => drop(tree.content(&child, 0)?),
                0o020_000 | 0o060_000 | 0o010_000 | 0o140_000 => {}
                _ => return Err(damaged(number, "its type is unknown")),
            }
        }
    }
    Ok(())
}

struct Tree<'a> {
    bytes: Bytes<'a>,
    of: &'a Super,
    /// Bytes of directories and indexes that are still to be seen: never more than the file has.
    left: u64,
}

impl<'a> Tree<'a> {
    fn inode(&self, number: u64) -> Read<Inode> {
        let at = number.checked_mul(32).and_then(|at| at.checked_add(self.of.inodes));
        let at = at.ok_or_else(|| damaged(number, "its number is too large"))?;
        let compact = self.bytes.slice(at, 32, "inode")?;
        let format = u16(compact, 0);
        let attributes = match u64::from(u16(compact, 2)) {
            0 => 0,
            count => 12 + (count - 1) * 4,
        };
        let (mode, union) = (u16(compact, 4), u32(compact, 16));
        let (size, length) = match format & 1 {
            0 => (u32(compact, 8).into(), 32),
            _ => (u64(self.bytes.slice(at, 64, "inode")?, 8), 64),
        };
        let length = length + attributes;
        self.bytes.slice(at, length, "inode")?;
        match format >> 1 {
            layout @ (PLAIN | INLINE | CHUNKS) => {
                Ok(Inode { end: at + length, layout, mode, size, union })
            }
            other => Err(Unserved::Feature(format!("an inode of format {other:#x}")).into()),
        }
    }

    /// Number and name of each entry but `.` and `..`.
    fn entries(&mut self, number: u64) -> Read<Vec<(u64, &'a [u8])>> {
        let directory = self.inode(number)?;
        let broken = || damaged(number, "its entries are broken");
        let mut entries = Vec::new();
        for block in 0..directory.size.div_ceil(BLOCK) {
            let block = self.content(&directory, block)?;
            self.spend(block.len() as u64, number)?;
            let offset = |index: usize| {
                let entry = block.get(index * DIRENT..(index + 1) * DIRENT);
                entry.map(|entry| usize::from(u16(entry, 8))).ok_or_else(broken)
            };
            let count = offset(0)? / DIRENT;
            if count == 0 || offset(0)? % DIRENT != 0 {
                return Err(broken());
            }
            for index in 0..count {
                let end = if index + 1 < count { offset(index + 1)? } else { block.len() };
                let name = block.get(offset(index)?..end).ok_or_else(broken)?;
                // The last name of a block may be followed by zeros.
                let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
                match name {
                    b"." | b".." => {}
                    _ if name.is_empty() || name.len() > NAME || name.contains(&b'/') => {
                        return Err(broken());
                    }
                    _ => entries.push((u64(block, index * DIRENT), name)),
                }
            }
        }
        Ok(entries)
    }

    /// A block, or the last part of one, of what an inode has in the bootstrap itself.
    fn content(&self, inode: &Inode, block: u64) -> Read<&'a [u8]> {
        let left = inode.size.saturating_sub(block * BLOCK);
        let at = match inode.layout {
            PLAIN => (u64::from(inode.union) + block) * BLOCK,
            INLINE if left > BLOCK => (u64::from(inode.union) + block) * BLOCK,
            INLINE if inode.end % BLOCK + left <= BLOCK => inode.end,
            INLINE => return Err(damaged(inode.end, "its inline data crosses a block")),
            _ => return Err(damaged(inode.end, "its content has the layout of a file")),
        };
        self.bytes.slice(at, left.min(BLOCK), "content")
    }

    fn extents(
        &mut self,
        file: &Inode,
        path: Path<'_>,
        visit: &mut dyn FnMut(Extent<'_>) -> Read<()>,
    ) -> Read<()> {
        if file.size == 0 {
            return Ok(());
        }
        if file.layout != CHUNKS || file.union & !SIZE_BITS != INDEXES {
            let what = format!("a file of layout {}, format {:#x}", file.layout, file.union);
            return Err(Unserved::Feature(what).into());
        }
        let chunk = BLOCK << (file.union & SIZE_BITS);
        let length = file.size.div_ceil(chunk).saturating_mul(8);
        let table = self.bytes.table::<8>(file.end.next_multiple_of(8), length, "indexes")?;
        self.spend(length, file.end)?;
        for (number, index) in (0..).zip(table) {
            let at = number * chunk;
            let (device, block) = (u16(index, 2) & 0xff, u32(index, 4));
            let blob = device.checked_sub(1);
            let blob = blob.ok_or_else(|| damaged(file.end, "its data is in no blob"))?;
            let size = chunk.min(file.size - at);
            visit(Extent { path, at, blob, offset: u64::from(block) * BLOCK, size })?;
        }
        Ok(())
    }

    fn spend(&mut self, bytes: u64, number: u64) -> Read<()> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or_else(|| damaged(number, "it shares its content with others"))?;
        Ok(())
    }
}

/// The chunks that `extent` is in.
pub(super) fn covered<'a>(extent: &Extent<'_>, chunks: &'a [Chunk]) -> Option<&'a [Chunk]> {
    let place = (extent.blob, extent.offset);
    let first = chunks.partition_point(|chunk| (chunk.blob, chunk.offset) <= place);
    let first = first.checked_sub(1)?;
    let (mut at, end) = (extent.offset, extent.offset.checked_add(extent.size)?);
    for (number, chunk) in chunks.iter().enumerate().skip(first) {
        // Between chunks there is at most what fills up a block.
        let in_it = chunk.blob == extent.blob && (chunk.offset..chunk.end()).contains(&at);
        if !in_it {
            return None;
        }
        if end <= chunk.end() {
            return Some(&chunks[first..=number]);
        }
        at = chunk.end().next_multiple_of(BLOCK);
        if at != chunk.end() {
            return None;
        }
    }
    None
}

fn damaged(number: u64, what: &str) -> Problem {
    Problem::Damaged(format!("inode {number}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let name = "n".repeat(NAME);
        let directory = |parent, name| Directory { parent, name };
        let mut directories =
            vec![directory(ROOT, &b""[..]), directory(0, b"a"), directory(1, b"b")];
        let whole = |directories: &[Directory<'_>], parent| {
            Path { directories, parent, name: b"file" }.whole()
        };
        for (parent, expected) in [(0, "file"), (1, "a/file"), (2, "a/b/file")] {
            assert_eq!(whole(&directories, parent).unwrap(), expected.as_bytes());
        }
        for _ in 0..16 {
            directories.push(directory(directories.len() - 1, name.as_bytes()));
        }
        assert_eq!(whole(&directories, 17).unwrap().len(), "a/b/".len() + 15 * 256 + "file".len());
        assert_eq!(whole(&directories, 18), None);
    }
}
