//! A bootstrap as Linux reads it (fs/erofs: inode.c, dir.c, namei.c, data.c), for those that the
//! walker has taken. It shares no code with the walker, and cares for neither speed nor damage.

use super::Names;
use std::collections::BTreeSet;

const BLOCK: u64 = 4096;

pub(super) struct Reference<'a> {
    image: &'a [u8],
}

/// What is found by going through all directories.
#[derive(Default)]
pub(super) struct Listed {
    pub(super) names: Names,
    /// File, device, and where the data is in it: from the first byte to the last one's end.
    pub(super) extents: Vec<(Vec<u8>, usize, u64, u64)>,
}

/// An inode: its mode, its length, the format of its data, what that begins with, what follows it.
struct Inode {
    mode: u16,
    size: u64,
    layout: u64,
    start: u64,
    end: u64,
}

impl<'a> Reference<'a> {
    pub(super) fn of(image: &'a [u8]) -> Self {
        Self { image }
    }

    fn number(&self, at: u64, bytes: usize) -> u64 {
        let bytes = &self.image[at as usize..at as usize + bytes];
        bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn inode(&self, number: u64) -> Inode {
        let at = self.number(1024 + 40, 4) * BLOCK + number * 32;
        let format = self.number(at, 2);
        let long = format % 2 == 1;
        let attributes = match self.number(at + 2, 2) {
            0 => 0,
            count => 12 + 4 * (count - 1),
        };
        Inode {
            mode: self.number(at + 4, 2) as u16,
            size: self.number(at + 8, if long { 8 } else { 4 }),
            layout: format / 2,
            start: self.number(at + 16, 4),
            end: at + if long { 64 } else { 32 } + attributes,
        }
    }

    /// A block of a directory as the page cache has it.
    fn block(&self, inode: &Inode, number: u64) -> Vec<u8> {
        let left = inode.size - number * BLOCK;
        let tail = inode.layout == 2 && left <= BLOCK;
        let (at, length) = match tail {
            true => (inode.end, left),
            false => ((inode.start + number) * BLOCK, BLOCK),
        };
        let end = (at + length).min(self.image.len() as u64);
        let mut block = self.image[at as usize..end as usize].to_vec();
        block.resize(BLOCK as usize, 0);
        block
    }

    /// Names as readdir(3) tells them, with their inodes.
    fn read(&self, inode: &Inode) -> Vec<(Vec<u8>, u64)> {
        let mut names = Vec::new();
        for number in 0..inode.size.div_ceil(BLOCK) {
            let block = Block(self.block(inode, number));
            let length = (inode.size - number * BLOCK).min(BLOCK) as usize;
            for entry in 0..block.entries() {
                let name = match entry + 1 == block.entries() {
                    true => until_zero(&block.0[block.name(entry)..length]),
                    false => &block.0[block.name(entry)..block.name(entry + 1)],
                };
                names.push((name.to_vec(), block.inode(entry)));
            }
        }
        names
    }

    /// The inode that a name is found to be: by halves among the blocks by their first names, then
    /// by halves in one.
    fn look_up(&self, inode: &Inode, name: &[u8]) -> Option<u64> {
        let (mut low, mut high) = (0, inode.size.div_ceil(BLOCK));
        let mut candidate = None;
        while low < high {
            let middle = low + (high - 1 - low) / 2;
            let block = Block(self.block(inode, middle));
            match name.cmp(block.whole_name(0)) {
                std::cmp::Ordering::Equal => return Some(block.inode(0)),
                std::cmp::Ordering::Less => high = middle,
                std::cmp::Ordering::Greater => {
                    low = middle + 1;
                    candidate = Some(block);
                }
            }
        }
        let block = candidate?;
        let (mut low, mut high) = (1, block.entries());
        while low < high {
            let middle = low + (high - 1 - low) / 2;
            match name.cmp(block.whole_name(middle)) {
                std::cmp::Ordering::Equal => return Some(block.inode(middle)),
                std::cmp::Ordering::Less => high = middle,
                std::cmp::Ordering::Greater => low = middle + 1,
            }
        }
        None
    }

    pub(super) fn list(&self) -> Listed {
        let mut listed = Listed::default();
        let mut known = BTreeSet::new();
        let root = self.number(1024 + 14, 2);
        let mut pending = vec![(Vec::new(), root)];
        while let Some((path, number)) = pending.pop() {
            let directory = self.inode(number);
            for (name, number) in self.read(&directory) {
                if name == b"." || name == b".." {
                    continue;
                }
                let found = self.look_up(&directory, &name);
                assert_eq!(found, Some(number), "{:?} is found as another", name);
                let inode = self.inode(number);
                let path = match path.is_empty() {
                    true => name,
                    false => [&path[..], &name].join(&b'/'),
                };
                let kind = inode.mode >> 12;
                if kind == 0o10 && known.insert(number) {
                    self.extents(&path, &inode, &mut listed);
                }
                if path.len() < 4096 {
                    let before = listed.names.insert(path.clone(), (inode.mode, inode.size));
                    assert!(before.is_none(), "{path:?} is there twice");
                }
                if kind == 0o04 {
                    pending.push((path, number));
                }
            }
        }
        listed
    }

    fn extents(&self, path: &[u8], inode: &Inode, listed: &mut Listed) {
        let chunk = BLOCK << (inode.start & 31);
        let indexes = inode.end.next_multiple_of(8);
        for number in 0..inode.size.div_ceil(chunk) {
            let at = indexes + 8 * number;
            let device = self.number(at + 2, 2) as usize;
            let devices = self.number(1024 + 86, 2) as usize;
            let device = device & ((devices + 1).next_power_of_two() - 1);
            let block = self.number(at + 4, 4);
            assert_ne!(block, u64::from(u32::MAX), "{path:?} has a hole");
            let size = chunk.min(inode.size - number * chunk);
            listed.extents.push((path.to_vec(), device, block * BLOCK, block * BLOCK + size));
        }
    }
}

struct Block(Vec<u8>);

impl Block {
    fn name(&self, entry: usize) -> usize {
        usize::from(u16::from_le_bytes([self.0[entry * 12 + 8], self.0[entry * 12 + 9]]))
    }

    fn entries(&self) -> usize {
        self.name(0) / 12
    }

    fn inode(&self, entry: usize) -> u64 {
        let bytes = &self.0[entry * 12..entry * 12 + 8];
        bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// A name as it is compared: to the next one, or to the block's end, and to the first zero.
    fn whole_name(&self, entry: usize) -> &[u8] {
        let end = if entry + 1 == self.entries() { self.0.len() } else { self.name(entry + 1) };
        until_zero(&self.0[self.name(entry)..end])
    }
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}
