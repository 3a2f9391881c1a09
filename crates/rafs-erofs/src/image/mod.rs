//! What a bootstrap says.
//!
//! Read here by some 400 lines and not by nydus's own crates: those map the file and trust it in
//! places, bring tokio, reqwest, OpenSSL and FUSE, and have no way to ask which data a file's
//! inode refers to as the kernel does.

pub(crate) mod build;
mod bytes;
mod fields;
mod samples;
mod superblock;
#[cfg(test)]
mod tests;
mod walk;

use crate::error::{Error, Result, Unserved, io};
use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use samples::Samples;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use superblock::Super;

/// Larger bootstraps are left to nydusd; this is an image of more than a million files.
const LARGEST: u64 = 256 << 20;
/// One bootstrap at a time is in memory.
static TURN: Mutex<()> = Mutex::new(());
/// How often the caller is asked whether to go on: once in so many names and extents.
const ASK: u64 = 4096;

/// How chunks are digested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Digester {
    /// BLAKE3.
    Blake3,
    /// SHA-256.
    Sha256,
}

impl Digester {
    /// The digest of `data`.
    pub fn digest(self, data: &[u8]) -> [u8; 32] {
        match self {
            Self::Blake3 => blake3::hash(data).into(),
            Self::Sha256 => Sha256::digest(data).into(),
        }
    }
}

/// A blob, which is a device of the kernel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// What its cache files are named after; most often its SHA-256 in hex.
    pub id: String,
    /// Bytes in the registry.
    pub compressed_size: u64,
    /// Bytes unpacked, which is the length of its cache file.
    pub uncompressed_size: u64,
    /// Chunks that it has, whether this image refers to them or not: bits of its chunk map.
    pub chunk_count: u32,
    /// How its chunks are digested.
    pub digester: Digester,
}

/// A chunk that the bootstrap refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Its blob, in the order of [`Image::blobs`].
    pub blob: u16,
    /// Its bit in the blob's chunk map.
    pub index: u32,
    /// Where it begins in the blob's uncompressed data.
    pub offset: u64,
    /// Its length, bytes.
    pub size: u32,
    /// Digest of its uncompressed data.
    pub digest: [u8; 32],
}

impl Chunk {
    /// Where it ends in the blob's uncompressed data.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.size)
    }
}

/// A chunk of a blob as a file shows it, which tells that blob from all others of the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Its blob.
    pub(crate) blob: usize,
    /// The file, from the root, without a slash at its beginning.
    pub(crate) path: String,
    /// Where in the file.
    pub(crate) at: u64,
    pub(crate) size: u32,
    pub(crate) digester: Digester,
    /// In hex.
    pub(crate) digest: String,
}

/// A RAFS v6 image that the kernel can serve.
#[derive(Clone, Debug)]
pub struct Image {
    /// The blobs, in the order in which the kernel takes them as devices.
    pub blobs: Vec<Blob>,
    /// The chunks that it refers to, by blob and offset. Every byte of every file is in one.
    pub chunks: Vec<Chunk>,
    /// At most one a blob.
    pub(crate) samples: Vec<Sample>,
}

/// Asked again and again while a bootstrap is read: `Break` ends that.
pub(crate) type GoOn<'a> = dyn FnMut() -> ControlFlow<()> + 'a;

impl Image {
    /// Reads the bootstrap at `path`, in a time that its size bounds. Others that are read at the
    /// same time wait.
    ///
    /// # Errors
    /// [`Error::Unserved`] if the kernel cannot serve the image; it cannot be read; it is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_unless(path, &|| false)
    }

    /// The same, and ends it when `stopped` says so.
    ///
    /// # Errors
    /// Those of [`Image::open`], and [`Error::Stopped`].
    pub fn open_unless(path: &Path, stopped: &dyn Fn() -> bool) -> Result<Self> {
        let mut go_on = || match stopped() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        read(&regular(path)?, path, LARGEST, |bytes| Self::parse(bytes, &mut go_on))
    }

    /// Of an open file, which is called `path` in errors, with the file's SHA-256.
    pub(crate) fn digested(
        file: &File,
        path: &Path,
        go_on: &mut GoOn<'_>,
    ) -> Result<(Self, [u8; 32])> {
        let parsed = |bytes: &[u8]| Ok((Self::parse(bytes, go_on)?, Sha256::digest(bytes).into()));
        read(file, path, LARGEST, parsed)
    }

    /// The blobs that the bootstrap at `path` names, without a look at its files and chunks.
    ///
    /// # Errors
    /// Those of [`Image::open`].
    pub fn blobs_of(path: &Path) -> Result<Vec<Blob>> {
        let file = regular(path)?;
        let end = read(&file, path, superblock::HEAD, |head| {
            Ok(Super::read(Bytes(head))?.end_of_tables())
        });
        read(&file, path, end?, |bytes| Super::read(Bytes(bytes))?.blobs(Bytes(bytes)))
    }

    pub(crate) fn parse(bytes: &[u8], go_on: &mut GoOn<'_>) -> Read<Self> {
        let of = Super::read(Bytes(bytes))?;
        let blobs = of.blobs(Bytes(bytes))?;
        let chunks = of.chunks(Bytes(bytes), &blobs)?;
        let mut samples = Samples::new(&blobs, &chunks);
        // An index of 8 bytes is in one chunk, in all images of nydus.
        let (mut looks, most) = (0, bytes.len() / 4);
        let mut found = 0;
        walk::walk(Bytes(bytes), &of, &mut |what| {
            found += 1;
            if found % ASK == 0 && go_on().is_break() {
                return Err(Problem::Stopped);
            }
            let walk::Found::Extent(extent) = what else { return Ok(()) };
            let Some(covered) = walk::covered(&extent, &chunks) else {
                let path = extent.path.whole().unwrap_or_default();
                let what = format!("data of file {:?}", String::from_utf8_lossy(&path));
                return Err(Unserved::NoDigest(what).into());
            };
            looks += covered.len();
            if looks > most {
                return Err(Unserved::TooMuch(format!("more than {most} chunks in files")).into());
            }
            samples.look(&extent, covered);
            Ok(())
        })?;
        let samples = samples.found();
        Ok(Self { blobs, chunks, samples })
    }

    /// Bytes, unpacked, that it refers to.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.size)).sum()
    }

    /// The chunks of one blob.
    pub fn chunks_of(&self, blob: usize) -> &[Chunk] {
        let start = self.chunks.partition_point(|chunk| usize::from(chunk.blob) < blob);
        let end = self.chunks.partition_point(|chunk| usize::from(chunk.blob) <= blob);
        &self.chunks[start..end]
    }
}

/// Opens a file of an image: never a link, and nothing that waits or acts when it is opened.
pub(crate) fn regular(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = || {
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(std::io::Error::other("expected a regular file")),
        }
    };
    opened().map_err(io("open", path))
}

/// Lets `parse` see a bootstrap, of which no more than `most` bytes are read.
fn read<T>(
    mut file: &File,
    path: &Path,
    most: u64,
    parse: impl FnOnce(&[u8]) -> Read<T>,
) -> Result<T> {
    let failed = |error| io("read bootstrap", path)(error);
    let length = file.metadata().map_err(failed)?.len();
    if length > LARGEST {
        let what = format!("a bootstrap of {length} bytes, expected up to {LARGEST}");
        return Err(Unserved::TooMuch(what).into());
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let most = length.min(most);
    let mut bytes = Vec::with_capacity(most as usize);
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    file.take(most).read_to_end(&mut bytes).map_err(failed)?;
    parse(&bytes).map_err(|problem| match problem {
        Problem::Damaged(what) => Error::Bootstrap { path: path.to_owned(), what },
        Problem::Unserved(why) => why.into(),
        Problem::Stopped => Error::Stopped,
    })
}

/// `bytes` in hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All names, each with mode and length of what it is a name of.
#[cfg(feature = "properties")]
pub(crate) fn names(bytes: &[u8]) -> Read<Vec<(Vec<u8>, u16, u64)>> {
    let (mut names, of) = (Vec::new(), Super::read(Bytes(bytes))?);
    walk::walk(Bytes(bytes), &of, &mut |found| {
        if let walk::Found::Name(path, mode, size) = found {
            names.extend(path.whole().map(|path| (path, mode, size)));
        }
        Ok(())
    })?;
    Ok(names)
}

/// Why a bootstrap is not taken.
#[derive(Debug)]
pub(crate) enum Problem {
    Damaged(String),
    Unserved(Unserved),
    Stopped,
}

impl From<Unserved> for Problem {
    fn from(why: Unserved) -> Self {
        Self::Unserved(why)
    }
}

pub(crate) type Read<T> = std::result::Result<T, Problem>;
