//! What a bootstrap says.
//!
//! Read here by some 400 lines and not by nydus's own crates: those map the file and trust it in
//! places, bring tokio, reqwest, OpenSSL and FUSE, and have no way to ask which data a file's
//! inode refers to as the kernel does.

mod bytes;
mod superblock;
mod walk;

use crate::error::{Error, Result, Unserved, io};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use superblock::Super;

/// Larger bootstraps are left to nydusd; this is an image of some five million files.
const LARGEST: u64 = 1 << 30;
/// Chunks in all files together, each counted as often as it is used: 16 TiB at the least.
const LOOKS: usize = 1 << 32;

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
    /// SHA-256 of the bootstrap.
    pub digest: [u8; 32],
    /// The blobs, in the order in which the kernel takes them as devices.
    pub blobs: Vec<Blob>,
    /// The chunks that it refers to, by blob and offset. Every byte of every file is in one.
    pub chunks: Vec<Chunk>,
    /// At most one a blob.
    pub(crate) samples: Vec<Sample>,
}

impl Image {
    /// Reads the bootstrap at `path`.
    ///
    /// # Errors
    /// [`Error::Unserved`] if the kernel cannot serve the image; it cannot be read; it is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(io("open bootstrap", path))?;
        Self::read(&file, path)
    }

    /// The same of an open file, which is called `path` in errors.
    pub(crate) fn read(file: &File, path: &Path) -> Result<Self> {
        let length = file.metadata().map_err(io("look at bootstrap", path))?.len();
        if length > LARGEST {
            let what = format!("a bootstrap of {length} bytes, expected up to {LARGEST}");
            return Err(Unserved::TooMuch(what).into());
        }
        let mut bytes = Vec::with_capacity(length as usize);
        file.take(length).read_to_end(&mut bytes).map_err(io("read bootstrap", path))?;
        Self::parse(&bytes).map_err(|problem| match problem {
            Problem::Damaged(what) => Error::Bootstrap { path: path.to_owned(), what },
            Problem::Unserved(why) => why.into(),
        })
    }

    fn parse(bytes: &[u8]) -> Read<Self> {
        let digest = Sha256::digest(bytes).into();
        let bytes = Bytes(bytes);
        let of = Super::read(bytes)?;
        let blobs = of.blobs(bytes)?;
        let chunks = of.chunks(bytes, &blobs)?;
        let mut samples = Samples::new(&blobs, &chunks);
        let mut looks = 0;
        walk::walk(bytes, &of, &mut |extent| {
            let Some(covered) = walk::covered(&extent, &chunks) else {
                let path = extent.path.whole().unwrap_or_default();
                let what = format!("data of file {:?}", String::from_utf8_lossy(&path));
                return Err(Unserved::NoDigest(what).into());
            };
            samples.look(&extent, covered);
            looks += covered.len();
            match looks {
                ..=LOOKS => Ok(()),
                _ => Err(Unserved::TooMuch(format!("more than {LOOKS} chunks in files")).into()),
            }
        })?;
        let samples = samples.found.into_iter().flatten().collect();
        Ok(Self { digest, blobs, chunks, samples })
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

/// Looks for a [`Sample`] of each blob.
struct Samples<'a> {
    blobs: &'a [Blob],
    /// How many blobs have this chunk at this place.
    alike: HashMap<(u64, [u8; 32]), u32>,
    found: Vec<Option<Sample>>,
}

impl<'a> Samples<'a> {
    fn new(blobs: &'a [Blob], chunks: &[Chunk]) -> Self {
        let mut alike = HashMap::new();
        if blobs.len() > 1 {
            for chunk in chunks {
                *alike.entry((chunk.offset, chunk.digest)).or_default() += 1;
            }
        }
        Self { blobs, alike, found: vec![None; blobs.len()] }
    }

    fn look(&mut self, extent: &walk::Extent<'_>, covered: &[Chunk]) {
        let blob = usize::from(extent.blob);
        if self.found[blob].is_some() {
            return;
        }
        let end = extent.offset + extent.size;
        let telling = |chunk: &&Chunk| {
            let inside = chunk.offset >= extent.offset && chunk.end() <= end;
            let alike = self.alike.get(&(chunk.offset, chunk.digest));
            inside && alike.is_none_or(|&blobs| blobs == 1)
        };
        let Some(chunk) = covered.iter().find(telling) else { return };
        // A record is JSON.
        let path = extent.path.whole().and_then(|path| String::from_utf8(path).ok());
        let Some(path) = path else { return };
        self.found[blob] = Some(Sample {
            blob,
            path,
            at: extent.at + (chunk.offset - extent.offset),
            size: chunk.size,
            digester: self.blobs[blob].digester,
            digest: hex(&chunk.digest),
        });
    }
}

/// `bytes` in hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why a bootstrap is not taken.
#[derive(Debug)]
enum Problem {
    Damaged(String),
    Unserved(Unserved),
}

impl From<Unserved> for Problem {
    fn from(why: Unserved) -> Self {
        Self::Unserved(why)
    }
}

type Read<T> = std::result::Result<T, Problem>;
