//! Makes bootstraps in memory: the tiny one of the probe, and those of the tests.

#![cfg_attr(not(feature = "properties"), allow(dead_code, reason = "the probe has one file"))]
#![allow(unreachable_pub, reason = "public with the feature `properties`")]

use super::fields::{
    BLOCK, attribute, blob, chunk, dirent, extended, index, inode, slot, superblock,
};
use super::superblock::{COMPATIBLE, INCOMPATIBLE};

/// An image that is to be made. Its chunks are digested with BLAKE3.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The blobs, up to 21.
    pub blobs: Vec<DraftBlob>,
    /// Bytes of the largest chunk, a power of two.
    pub chunk_size: u32,
    /// What is in the root directory.
    pub root: Vec<Entry>,
}

/// A blob: its chunks lie one after the other, each at a block.
#[derive(Clone, Debug)]
pub struct DraftBlob {
    /// Up to 64 bytes.
    pub id: String,
    /// Length and digest of each chunk.
    pub chunks: Vec<(u32, [u8; 32])>,
}

/// A name in a directory. They are sorted when the image is made; nothing else is mended.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name.
    pub name: Vec<u8>,
    /// What it is.
    pub node: Node,
    /// Extended attributes: number of the prefix, the rest of the name, value.
    pub attributes: Vec<(u8, Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// One without attributes.
    pub fn new(name: impl Into<Vec<u8>>, node: Node) -> Self {
        Self { name: name.into(), node, attributes: Vec::new() }
    }
}

/// What a name is.
#[derive(Clone, Debug)]
pub enum Node {
    /// A directory.
    Directory(Vec<Entry>),
    /// A file of these chunks, each blob and number; all but the last are of the largest size.
    File(Vec<(u16, u32)>),
    /// A symbolic link.
    Link(Vec<u8>),
    /// Something else, with this mode.
    Special(u16),
}

/// An inode, and where it comes to be.
struct Inode<'a> {
    node: &'a Node,
    attributes: &'a [(u8, Vec<u8>, Vec<u8>)],
    /// Names and inodes, with `.` and `..`.
    names: Vec<(&'a [u8], usize)>,
    /// Of its data in blocks.
    block: u64,
    at: u64,
}

impl Draft {
    /// The bootstrap.
    pub fn build(&self) -> Vec<u8> {
        let root = Node::Directory(self.root.clone());
        let mut inodes =
            vec![Inode { node: &root, attributes: &[], names: vec![], block: 0, at: 0 }];
        collect(&mut inodes, 0, 0);
        let mut image = vec![0; 2 * BLOCK as usize];
        self.place(&mut inodes, &mut image);
        for number in 0..inodes.len() {
            self.write(&inodes, number, &mut image);
        }
        let (blobs, chunks) = (self.blob_table(), self.chunk_table());
        let at = image.len() as u64;
        image.extend_from_slice(&[&blobs[..], &chunks].concat());
        image.resize(image.len().next_multiple_of(BLOCK as usize), 0);
        let root = (inodes[0].at - BLOCK) / inode::UNIT;
        self.superblocks(&mut image, root as u16, at, (blobs.len(), chunks.len()));
        image
    }

    /// Gives each inode its place: with its data behind it, unless that would cross a block.
    fn place(&self, inodes: &mut [Inode<'_>], image: &mut Vec<u8>) {
        // Number 0 is no inode to some readers of directories.
        let mut at = BLOCK + inode::UNIT;
        for inode in inodes.iter_mut() {
            let (head, data) = (self.head(inode), self.data(inode).len() as u64);
            let tail = if self.is_inline(inode) { data } else { 0 };
            if at % BLOCK + head + tail > BLOCK && head + tail <= BLOCK {
                at = at.next_multiple_of(BLOCK);
            }
            inode.at = at;
            let chunks = matches!(inode.node, Node::File(_));
            let end =
                if chunks { (at + head).next_multiple_of(8) + data } else { at + head + tail };
            at = end.next_multiple_of(inode::UNIT);
        }
        let mut block = at.div_ceil(BLOCK);
        for inode in inodes.iter_mut().filter(|inode| !matches!(inode.node, Node::File(_))) {
            if !self.is_inline(inode) {
                inode.block = block;
                block += (self.data(inode).len() as u64).div_ceil(BLOCK);
            }
        }
        image.resize((block * BLOCK) as usize, 0);
    }

    fn head(&self, inode: &Inode<'_>) -> u64 {
        inode::COMPACT + attributes(inode.attributes).len() as u64
    }

    fn is_inline(&self, inode: &Inode<'_>) -> bool {
        self.head(inode) + self.data(inode).len() as u64 <= BLOCK
    }

    /// What is its data here: names, a link's target, indexes. Names without their inodes' numbers
    /// have the same length.
    fn data(&self, inode: &Inode<'_>) -> Vec<u8> {
        match inode.node {
            Node::Directory(_) => directory(&inode.names, &|_| (0, 0)),
            Node::Link(target) => target.clone(),
            Node::Special(_) => Vec::new(),
            Node::File(chunks) => {
                let entry = |&(number, chunk): &(u16, u32)| {
                    let mut entry = [0; index::SIZE];
                    index::DEVICE.set(&mut entry, number + 1);
                    let offset = self.blobs[usize::from(number)].offset(chunk);
                    index::BLOCK.set(&mut entry, (offset / BLOCK) as u32);
                    entry
                };
                chunks.iter().flat_map(entry).collect()
            }
        }
    }

    fn write(&self, inodes: &[Inode<'_>], number: usize, image: &mut [u8]) {
        let inode = &inodes[number];
        let data = match inode.node {
            Node::Directory(_) => directory(&inode.names, &|of| {
                ((inodes[of].at - BLOCK) / inode::UNIT, kind(mode(inodes[of].node)))
            }),
            _ => self.data(inode),
        };
        let (file, inline) = (matches!(inode.node, Node::File(_)), self.is_inline(inode));
        let size = match inode.node {
            Node::File(chunks) => self.size(chunks),
            _ => data.len() as u64,
        };
        let (layout, union) = match (file, inline) {
            (true, _) => (4, 0x20 | (u64::from(self.chunk_size) / BLOCK).trailing_zeros()),
            (false, true) => (2, 0),
            (false, false) => (0, inode.block as u32),
        };
        let attributes = attributes(inode.attributes);
        let mut head = [&[0; inode::COMPACT as usize][..], &attributes].concat();
        inode::FORMAT.set(&mut head, layout << 1);
        let words = attributes.len().checked_sub(attribute::HEADER).map_or(0, |rest| rest / 4 + 1);
        inode::ATTRIBUTES.set(&mut head, words as u16);
        inode::MODE.set(&mut head, mode(inode.node));
        inode::LINKS.set(&mut head, 1);
        inode::COMPACT_SIZE.set(&mut head, size as u32);
        inode::UNION.set(&mut head, union);
        let end = inode.at as usize + head.len();
        image[inode.at as usize..end].copy_from_slice(&head);
        let start = match (file, inline) {
            (true, _) => end.next_multiple_of(8),
            (false, true) => end,
            (false, false) => inode.block as usize * BLOCK as usize,
        };
        image[start..start + data.len()].copy_from_slice(&data);
    }

    fn size(&self, chunks: &[(u16, u32)]) -> u64 {
        let Some((&(blob, chunk), before)) = chunks.split_last() else { return 0 };
        let last = self.blobs[usize::from(blob)].chunks[chunk as usize].0;
        before.len() as u64 * u64::from(self.chunk_size) + u64::from(last)
    }

    fn superblocks(&self, image: &mut [u8], root: u16, at: u64, (blobs, chunks): (usize, usize)) {
        let blocks = image.len() as u64 / BLOCK;
        let (head, rest) = image[superblock::AT as usize..].split_at_mut(superblock::SIZE as usize);
        superblock::MAGIC.0.set(head, superblock::MAGIC.1);
        superblock::COMPATIBLE.set(head, COMPATIBLE);
        superblock::BLOCK_BITS.set(head, BLOCK.trailing_zeros() as u8);
        superblock::ROOT.set(head, root);
        superblock::BLOCKS.set(head, blocks as u32);
        superblock::INODES.set(head, 1);
        superblock::INCOMPATIBLE.set(head, INCOMPATIBLE);
        superblock::DEVICES.set(head, self.blobs.len() as u16);
        let slots = extended::AT + extended::SIZE;
        superblock::DEVICE_SLOT.set(head, (slots / slot::SIZE) as u16);
        // No compression, BLAKE3, owners of its own.
        extended::FLAGS.set(rest, 0x1 | 0x4 | 0x10);
        extended::BLOBS.0.set(rest, at);
        extended::BLOBS.1.set(rest, blobs as u32);
        extended::CHUNK_SIZE.set(rest, self.chunk_size);
        extended::CHUNKS.0.set(rest, at + blobs as u64);
        extended::CHUNKS.1.set(rest, chunks as u64);
        let slots = rest[extended::SIZE as usize..].chunks_exact_mut(slot::SIZE as usize);
        for (blob, slot) in self.blobs.iter().zip(slots) {
            slot[slot::ID][..blob.id.len()].copy_from_slice(blob.id.as_bytes());
            slot::BLOCKS.set(slot, (blob.size() / BLOCK) as u32);
        }
    }

    fn blob_table(&self) -> Vec<u8> {
        let entry = |(number, of): (usize, &DraftBlob)| {
            let mut entry = [0; blob::SIZE];
            entry[blob::ID][..of.id.len()].copy_from_slice(of.id.as_bytes());
            blob::NUMBER.set(&mut entry, number as u32);
            blob::CHUNK_SIZE.set(&mut entry, self.chunk_size);
            blob::CHUNKS.set(&mut entry, of.chunks.len() as u32);
            // Aligned chunks.
            blob::FEATURES.set(&mut entry, 1);
            blob::COMPRESSED_SIZE.set(&mut entry, of.size());
            blob::UNCOMPRESSED_SIZE.set(&mut entry, of.size());
            entry
        };
        self.blobs.iter().enumerate().flat_map(entry).collect()
    }

    fn chunk_table(&self) -> Vec<u8> {
        let mut table = Vec::new();
        for (number, blob) in self.blobs.iter().enumerate() {
            for (index, (size, digest)) in (0..).zip(&blob.chunks) {
                let mut entry = [0; chunk::SIZE];
                entry[chunk::DIGEST].copy_from_slice(digest);
                chunk::BLOB.set(&mut entry, number as u32);
                chunk::UNCOMPRESSED_SIZE.set(&mut entry, *size);
                chunk::UNCOMPRESSED_OFFSET.set(&mut entry, blob.offset(index));
                chunk::INDEX.set(&mut entry, index);
                table.extend_from_slice(&entry);
            }
        }
        table
    }
}

impl DraftBlob {
    /// Where a chunk begins, bytes.
    pub fn offset(&self, chunk: u32) -> u64 {
        let before = &self.chunks[..chunk as usize];
        before.iter().map(|(size, _)| u64::from(*size).next_multiple_of(BLOCK)).sum()
    }

    /// Its length, bytes.
    pub fn size(&self) -> u64 {
        self.offset(self.chunks.len() as u32)
    }
}

/// Appends what is in the directory `number`, a directory's own entries next to each other.
fn collect<'a>(inodes: &mut Vec<Inode<'a>>, number: usize, parent: usize) {
    let Node::Directory(entries) = inodes[number].node else { return };
    let mut names: Vec<(&[u8], usize)> = vec![(b".", number), (b"..", parent)];
    for entry in entries {
        names.push((&entry.name, inodes.len()));
        let (node, attributes) = (&entry.node, &entry.attributes[..]);
        inodes.push(Inode { node, attributes, names: vec![], block: 0, at: 0 });
    }
    let children: Vec<_> = names[2..].iter().map(|(_, child)| *child).collect();
    names.sort();
    inodes[number].names = names;
    for child in children {
        collect(inodes, child, number);
    }
}

/// The blocks of a directory; `of` says an inode's number and kind.
fn directory(names: &[(&[u8], usize)], of: &dyn Fn(usize) -> (u64, u8)) -> Vec<u8> {
    let mut data = Vec::new();
    let mut rest = names;
    while !rest.is_empty() {
        data.resize(data.len().next_multiple_of(BLOCK as usize), 0);
        let mut length = 0;
        let fits = |(name, _): &&(&[u8], usize)| {
            length += dirent::SIZE + name.len();
            length <= BLOCK as usize
        };
        let (block, left) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        let mut name_at = block.len() * dirent::SIZE;
        for (name, number) in block {
            let mut entry = [0; dirent::SIZE];
            let (number, kind) = of(*number);
            dirent::INODE.set(&mut entry, number);
            dirent::NAME.set(&mut entry, name_at as u16);
            dirent::KIND.set(&mut entry, kind);
            data.extend_from_slice(&entry);
            name_at += name.len();
        }
        data.extend(block.iter().flat_map(|(name, _)| name.iter()));
        rest = left;
    }
    data
}

fn attributes(all: &[(u8, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![0; if all.is_empty() { 0 } else { attribute::HEADER }];
    for (prefix, name, value) in all {
        let mut entry = [0; attribute::ENTRY];
        attribute::NAME.set(&mut entry, name.len() as u8);
        attribute::PREFIX.set(&mut entry, *prefix);
        attribute::VALUE.set(&mut entry, value.len() as u16);
        body.extend_from_slice(&[&entry[..], name, value].concat());
        body.resize(body.len().next_multiple_of(4), 0);
    }
    body
}

fn mode(node: &Node) -> u16 {
    match node {
        Node::Directory(_) => 0o040_755,
        Node::File(_) => 0o100_644,
        Node::Link(_) => 0o120_777,
        Node::Special(mode) => *mode,
    }
}

/// EROFS's own numbers (FT_REG_FILE and so on).
fn kind(mode: u16) -> u8 {
    match mode >> 12 {
        0o10 => 1,
        0o04 => 2,
        0o02 => 3,
        0o06 => 4,
        0o01 => 5,
        0o14 => 6,
        0o12 => 7,
        _ => 0,
    }
}
