//! The FUSE protocol, as fuse(4) and linux/fuse.h tell it.

use crate::{Daemon, Fake};
use nydus_e2e::fuse::{DIRECTORY, FILE, Node, bytes, entries, long, part, serve_one, word};
use std::fs::File;
use std::io::{self, Write};

const TEXT: &[u8] = b"from the image\n";
const ROOT: u64 = 1;
const HELLO: u64 = 2;
/// Directories of the images of a shared daemon have their number added to this.
const IMAGES: u64 = 16;

const ENOENT: i32 = 2;
const ENOSYS: i32 = 38;

/// FUSE_NOTIFY_RESEND: what the predecessor had read and not answered comes again. Linux 6.9.
pub(super) fn resend(session: Option<&File>) -> io::Result<()> {
    let message: Vec<u8> = [16_u32, 7, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
    session.map_or(Ok(()), |mut session| session.write_all(&message))
}

impl Fake {
    /// Serves until the session ends.
    pub(super) fn serve(&self, session: &File) -> io::Error {
        loop {
            match serve_one(session, |request| self.reply(request)) {
                Ok(()) => {}
                // Who asked has gone meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return error,
            }
        }
    }

    /// Nothing for what is not answered.
    fn reply(&self, request: &[u8]) -> Option<Result<Vec<u8>, i32>> {
        let (operation, node, body) = (word(request, 4), long(request, 16), &request[40..]);
        Some(Ok(match operation {
            // FORGET, BATCH_FORGET, INTERRUPT.
            2 | 42 | 36 => return None,
            // LOOKUP
            1 => return Some(self.lookup(node, body)),
            // GETATTR
            3 => [vec![0; 16], attributes(node)].concat(),
            // OPEN, OPENDIR: FOPEN_DIRECT_IO, so that every read comes here.
            14 | 27 => bytes(&[0, 1]),
            15 if self.directory.join("pause").exists() => {
                eprintln!("a read is not answered");
                return None;
            }
            // READ, READDIR
            15 => part(TEXT, body),
            28 => part(&self.listing(node), body),
            // STATFS: names of up to 255 bytes.
            17 => bytes(&[0, 0, 0, 0, 0, 255 << 32 | 4096, 4096, 0, 0, 0]),
            // RELEASE, FLUSH, RELEASEDIR, DESTROY.
            18 | 25 | 29 | 38 => Vec::new(),
            // INIT
            26 => self.init(body),
            _ => return Some(Err(ENOSYS)),
        }))
    }

    fn init(&self, body: &[u8]) -> Vec<u8> {
        let minor = word(body, 4).min(36);
        self.daemon().minor = minor;
        // Major and minor, no readahead, no flags, defaults, and the largest write.
        let mut reply: Vec<u8> = [7, minor, 0, 0, 0, 4096].map(u32::to_ne_bytes).concat();
        reply.resize(64, 0);
        reply
    }

    fn lookup(&self, directory: u64, name: &[u8]) -> Result<Vec<u8>, i32> {
        let names = self.daemon().names(directory);
        let is_it =
            |(known, _): &&(String, u64)| name.strip_suffix(b"\0") == Some(known.as_bytes());
        let (_, node) = names.iter().find(is_it).ok_or(ENOENT)?;
        // Valid for no time: it is asked for again.
        Ok([bytes(&[*node, 0, 0, 0, 0]), attributes(*node)].concat())
    }

    fn listing(&self, directory: u64) -> Vec<u8> {
        let names = self.daemon().names(directory);
        entries(names.iter().map(|(name, node)| (name.as_str(), *node, *node == HELLO)))
    }
}

fn attributes(node: u64) -> Vec<u8> {
    let (mode, size) = if node == HELLO { (FILE, TEXT.len() as u64) } else { (DIRECTORY, 0) };
    Node { number: node, mode, size, owner: 0 }.attributes()
}

impl Daemon {
    /// Names in a directory, with the nodes that they are.
    fn names(&self, directory: u64) -> Vec<(String, u64)> {
        let hello = || ("hello".to_owned(), HELLO);
        if directory != ROOT {
            return vec![hello()];
        }
        let entry = |point: &String| match point[1..].parse::<u64>() {
            Ok(number) => (number.to_string(), IMAGES + number),
            Err(_) => hello(),
        };
        self.mounts.keys().map(entry).collect()
    }
}
