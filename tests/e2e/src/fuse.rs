//! The FUSE protocol, as fuse(4) and linux/fuse.h tell it, for programs that stand in for others.

use crate::run::uninterrupted;
use std::fs::File;
use std::io::{self, Read, Write};

/// The largest request: as fuse(4) wants it, with space for the headers.
const REQUEST: usize = 64 << 10;

/// Mode of a file that all may read.
pub const FILE: u32 = 0o100_444;
/// Mode of a directory that all may read.
pub const DIRECTORY: u32 = 0o40_555;

/// Answers the next request with what `reply` makes of it: a body or an error number, or nothing
/// for what is not answered.
///
/// # Errors
/// The session has ended.
pub fn serve_one(
    mut session: &File,
    reply: impl FnOnce(&[u8]) -> Option<Result<Vec<u8>, i32>>,
) -> io::Result<()> {
    let mut request = vec![0; REQUEST];
    let length = uninterrupted(|| session.read(&mut request))?;
    request.truncate(length);
    let (error, reply) = match reply(&request) {
        None => return Ok(()),
        Some(Ok(reply)) => (0, reply),
        Some(Err(error)) => (-error, Vec::new()),
    };
    let mut answer = (16 + reply.len() as u32).to_ne_bytes().to_vec();
    answer.extend(error.to_ne_bytes());
    answer.extend(&request[8..16]);
    answer.extend(reply);
    session.write_all(&answer)
}

/// A file or directory.
#[allow(missing_docs, reason = "the names of linux/fuse.h")]
#[derive(Clone, Copy, Debug)]
pub struct Node {
    pub number: u64,
    pub mode: u32,
    pub size: u64,
    /// User and group.
    pub owner: u32,
}

impl Node {
    /// `struct fuse_attr`.
    pub fn attributes(&self) -> Vec<u8> {
        // Number, size, blocks; no times; mode and links, owner, device and block size.
        let mut all = bytes(&[self.number, self.size, 1, 0, 0, 0]);
        let words = [0, 0, 0, self.mode, 1, self.owner, self.owner, 0, 4096, 0];
        all.extend(words.map(u32::to_ne_bytes).concat());
        all
    }
}

/// A directory's names with their nodes, and whether each is a file: `struct fuse_dirent`s.
pub fn entries<'n>(names: impl Iterator<Item = (&'n str, u64, bool)>) -> Vec<u8> {
    let mut all = Vec::new();
    for (name, node, is_file) in names {
        let padded = name.len().next_multiple_of(8);
        let kind = if is_file { 8 } else { 4 };
        let next = (all.len() + 24 + padded) as u64;
        all.extend(bytes(&[node, next]));
        all.extend([name.len() as u32, kind].map(u32::to_ne_bytes).concat());
        all.extend(name.bytes().chain(std::iter::repeat_n(0, padded - name.len())));
    }
    all
}

/// What a read asks for.
pub fn part(all: &[u8], body: &[u8]) -> Vec<u8> {
    let start = all.len().min(long(body, 8) as usize);
    let end = all.len().min(start + word(body, 16) as usize);
    all[start..end].to_vec()
}

/// 32 bits at an offset.
///
/// # Panics
/// There are fewer.
pub fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// 64 bits at an offset.
///
/// # Panics
/// There are fewer.
pub fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Numbers of 64 bits as they are sent.
pub fn bytes(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}
