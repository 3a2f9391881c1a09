//! What a bootstrap says.

use crate::Result;
use std::path::Path;

/// How chunks are digested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digester {
    /// BLAKE3.
    Blake3,
    /// SHA-256.
    Sha256,
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

/// A RAFS v6 image that the kernel can serve.
#[derive(Clone, Debug)]
pub struct Image {
    /// SHA-256 of the bootstrap.
    pub digest: [u8; 32],
    /// The blobs, in the order in which the kernel takes them as devices.
    pub blobs: Vec<Blob>,
    /// The chunks that it refers to, by blob and offset.
    pub chunks: Vec<Chunk>,
}

impl Image {
    /// Reads the bootstrap at `path`.
    ///
    /// # Errors
    /// [`crate::Error::Unserved`] if the kernel cannot serve the image; it cannot be read; it is
    /// damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let _ = path;
        unimplemented!()
    }

    /// Bytes, unpacked, that it refers to.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.size)).sum()
    }
}
