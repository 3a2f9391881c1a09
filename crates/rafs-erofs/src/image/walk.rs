//! Every inode of the image, to know what the kernel would read, and where.

use super::bytes::Bytes;
use super::fields::{BLOCK, attribute, dirent, index, inode};
use super::superblock::Super;
use super::{Chunk, Problem, Read};
use crate::Unserved;
use std::ops::Range;

/// Layouts of an inode's data.
const PLAIN: u16 = 0;
const INLINE: u16 = 2;
const CHUNKS: u16 = 4;
/// A chunk's format: indexes follow; the rest is the logarithm of its blocks.
const INDEXES: u32 = 0x20;
const SIZE_BITS: u32 = 0x1f;
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

/// What a walk finds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found<'a> {
    /// A name, and mode and length of what it is a name of.
    #[cfg_attr(not(feature = "properties"), allow(dead_code, reason = "counted only"))]
    Name(Path<'a>, u16, u64),
    /// Data of a file, whichever of its names is seen first.
    Extent(Extent<'a>),
}

/// Whoever is told, and may end the walk by an error.
pub(super) type Visit<'a> = dyn FnMut(Found<'_>) -> Read<()> + 'a;

struct Inode<'a> {
    /// Where what follows it begins: indexes or inline data.
    end: u64,
    layout: u16,
    mode: u16,
    size: u64,
    union: u32,
    attributes: &'a [u8],
}

impl Inode<'_> {
    fn kind(&self) -> u16 {
        self.mode & 0o170_000
    }
}

/// Calls `visit` with every name and with every extent of every file, each inode's once.
///
/// # Errors
/// What `visit` said, or the tree is broken.
pub(super) fn walk(bytes: Bytes<'_>, of: &Super, visit: &mut Visit<'_>) -> Read<()> {
    let root = of.root;
    let seen = vec![0; bytes.0.len() / inode::UNIT as usize / 64 + 1];
    let mut tree = Tree { bytes, of, left: bytes.0.len() as u64, seen };
    let mut directories = vec![Directory { parent: ROOT, name: b"" }];
    let mut pending = vec![(root, ROOT)];
    let first = tree.inode(root)?;
    if first.kind() != 0o040_000 {
        return Err(damaged(root, "the root is no directory"));
    }
    tree.is_new(root);
    tree.attributes(root, first.attributes)?;
    while let Some((directory, parent)) = pending.pop() {
        let inode = tree.inode(directory)?;
        let mut last: Option<&[u8]> = None;
        for block in 0..inode.size.div_ceil(BLOCK) {
            for (number, name) in tree.entries(directory, &inode, block)? {
                // The kernel looks names up by halves. If they are in another order, or if one is
                // there twice, it finds others than are listed. nydus sorts them.
                if last.is_some_and(|last| last >= name) {
                    return Err(damaged(directory, "its names are not in ascending order"));
                }
                last = Some(name);
                if matches!(name, b"." | b"..") {
                    continue;
                }
                let child = tree.inode(number)?;
                let path = Path { directories: &directories, parent, name };
                visit(Found::Name(path, child.mode, child.size))?;
                if !tree.is_new(number) {
                    match child.kind() {
                        0o040_000 => return Err(damaged(number, "a directory with two names")),
                        _ => continue,
                    }
                }
                tree.attributes(number, child.attributes)?;
                match child.kind() {
                    0o040_000 => {
                        pending.push((number, directories.len()));
                        directories.push(Directory { parent, name });
                    }
                    0o100_000 => tree.extents(&child, path, visit)?,
                    0o120_000 if child.size >= PATH_MAX as u64 => {
                        return Err(damaged(number, "its target is too long"));
                    }
                    0o120_000 => drop(tree.content(&child, 0)?),
                    0o020_000 | 0o060_000 | 0o010_000 | 0o140_000 => {}
                    _ => return Err(damaged(number, "its type is unknown")),
                }
            }
        }
    }
    Ok(())
}

struct Tree<'a> {
    bytes: Bytes<'a>,
    of: &'a Super,
    /// Bytes of directories, attributes and indexes that are still to be seen: never more than the
    /// file has.
    left: u64,
    /// A bit for each inode's number.
    seen: Vec<u64>,
}

impl<'a> Tree<'a> {
    fn inode(&self, number: u64) -> Read<Inode<'a>> {
        let at = number.checked_mul(inode::UNIT).and_then(|at| at.checked_add(self.of.inodes));
        let at = at.ok_or_else(|| damaged(number, "its number is too large"))?;
        let compact = self.bytes.slice(at, inode::COMPACT, "inode")?;
        let format = inode::FORMAT.get(compact);
        let attributes = match u64::from(inode::ATTRIBUTES.get(compact)) {
            0 => 0,
            count => attribute::HEADER as u64 + (count - 1) * 4,
        };
        let (mode, union) = (inode::MODE.get(compact), inode::UNION.get(compact));
        let (size, length) = match format & 1 {
            0 => (inode::COMPACT_SIZE.get(compact).into(), inode::COMPACT),
            _ => {
                let whole = self.bytes.slice(at, inode::EXTENDED, "inode")?;
                (inode::EXTENDED_SIZE.get(whole), inode::EXTENDED)
            }
        };
        if i64::try_from(size).is_err() {
            return Err(damaged(number, "its length is too large"));
        }
        let attributes = self.bytes.slice(at + length, attributes, "attributes")?;
        let end = at + length + attributes.len() as u64;
        match format >> 1 {
            // Also where there is no data: the kernel does not show such an inode.
            CHUNKS if union & 0xffff & !(INDEXES | SIZE_BITS) != 0 => {
                Err(Unserved::Feature(format!("chunks of format {union:#x}")).into())
            }
            layout @ (PLAIN | INLINE | CHUNKS) => {
                Ok(Inode { end, layout, mode, size, union, attributes })
            }
            other => Err(Unserved::Feature(format!("an inode of format {other:#x}")).into()),
        }
    }

    /// Whether an inode, which is in the file, was not seen before.
    fn is_new(&mut self, number: u64) -> bool {
        let (word, bit) = (number as usize / 64, 1 << (number % 64));
        let is_new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        is_new
    }

    /// Number and name of each entry of a block.
    fn entries(
        &mut self,
        number: u64,
        directory: &Inode<'a>,
        at: u64,
    ) -> Read<Vec<(u64, &'a [u8])>> {
        let broken = || damaged(number, "its entries are broken");
        let block = self.content(directory, at)?;
        self.spend(block.len() as u64, number)?;
        let entry = |index: usize| {
            let entry = block.get(index * dirent::SIZE..(index + 1) * dirent::SIZE);
            let entry = entry.ok_or_else(broken)?;
            Ok::<_, Problem>((dirent::INODE.get(entry), usize::from(dirent::NAME.get(entry))))
        };
        let (_, start) = entry(0)?;
        let count = start / dirent::SIZE;
        if count == 0 || start % dirent::SIZE != 0 {
            return Err(broken());
        }
        let mut entries = Vec::with_capacity(count.min(block.len() / dirent::SIZE));
        for index in 0..count {
            let (inode, start) = entry(index)?;
            let is_last = index + 1 == count;
            let end = if is_last { block.len() } else { entry(index + 1)?.1 };
            let name = block.get(start..end).ok_or_else(broken)?;
            // Only the last name of a block may be followed by zeros.
            let length = name.iter().position(|&byte| byte == 0);
            let name = match length {
                Some(length) if is_last => &name[..length],
                Some(_) => return Err(broken()),
                None if is_last && !self.ends(directory, at) => return Err(broken()),
                None => name,
            };
            if name.is_empty() || name.len() > NAME || name.contains(&b'/') {
                return Err(broken());
            }
            entries.push((inode, name));
        }
        Ok(entries)
    }

    /// Whether the kernel finds an inode's attributes, its own and shared ones, in the file.
    fn attributes(&mut self, number: u64, body: &[u8]) -> Read<()> {
        if body.is_empty() {
            return Ok(());
        }
        self.spend(body.len() as u64, number)?;
        let broken = || damaged(number, "its attributes are broken");
        let own = attribute::HEADER + usize::from(attribute::SHARED.get(body)) * 4;
        let (shared, mut own) = body.split_at_checked(own).ok_or_else(broken)?;
        let length = |entry: &[u8]| {
            let name = usize::from(attribute::NAME.get(entry));
            attribute::ENTRY + name + usize::from(attribute::VALUE.get(entry))
        };
        let shared = shared[attribute::HEADER..].as_chunks().0;
        for at in shared.iter().map(|id| u64::from(u32::from_le_bytes(*id)) * 4) {
            let at = self.of.attributes + at;
            let entry = self.bytes.slice(at, attribute::ENTRY as u64, "shared attribute")?;
            self.bytes.slice(at, length(entry) as u64, "shared attribute")?;
        }
        while !own.is_empty() {
            let entry = own.get(..attribute::ENTRY).ok_or_else(broken)?;
            own = own.get(length(entry).next_multiple_of(4)..).ok_or_else(broken)?;
        }
        Ok(())
    }

    /// A block, or the last part of one, of what an inode has in the bootstrap itself.
    fn content(&self, inode: &Inode<'_>, block: u64) -> Read<&'a [u8]> {
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

    /// Whether a name at the end of a directory's content ends there to the kernel, too, which
    /// looks at all of the last block. Behind inline data it sees zeros.
    fn ends(&self, directory: &Inode<'_>, block: u64) -> bool {
        let end = (u64::from(directory.union) * BLOCK).checked_add(directory.size);
        let next = end.and_then(|end| self.bytes.0.get(usize::try_from(end).ok()?));
        let is_cut = directory.layout == PLAIN && directory.size - block * BLOCK < BLOCK;
        !is_cut || next.is_none_or(|&byte| byte == 0)
    }

    fn extents(&mut self, file: &Inode<'_>, path: Path<'_>, visit: &mut Visit<'_>) -> Read<()> {
        if file.size == 0 {
            return Ok(());
        }
        if file.layout != CHUNKS || file.union & !SIZE_BITS != INDEXES {
            let what = format!("a file of layout {}, format {:#x}", file.layout, file.union);
            return Err(Unserved::Feature(what).into());
        }
        let chunk = BLOCK << (file.union & SIZE_BITS);
        let length = file.size.div_ceil(chunk).saturating_mul(index::SIZE as u64);
        let table =
            self.bytes.table::<{ index::SIZE }>(file.end.next_multiple_of(8), length, "indexes")?;
        self.spend(length, file.end)?;
        for (number, entry) in (0..).zip(table) {
            let at = number * chunk;
            let (device, block) = (index::DEVICE.get(entry) & 0xff, index::BLOCK.get(entry));
            let blob = device.checked_sub(1);
            let blob = blob.ok_or_else(|| damaged(file.end, "its data is in no blob"))?;
            let (offset, size) = (u64::from(block) * BLOCK, chunk.min(file.size - at));
            visit(Found::Extent(Extent { path, at, blob, offset, size }))?;
        }
        Ok(())
    }

    fn spend(&mut self, bytes: u64, number: u64) -> Read<()> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or_else(|| damaged(number, "it shares its content with others"))?;
        Ok(())
    }
}

/// The chunks that `extent` is in, by their places in `chunks`.
pub(super) fn covered(extent: &Extent<'_>, chunks: &[Chunk]) -> Option<Range<usize>> {
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
            return Some(first..number + 1);
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
