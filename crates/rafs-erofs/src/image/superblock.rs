//! RAFS v6's superblocks and tables, as Linux's `fs/erofs/erofs_fs.h` and nydus 2.2 have them.

use super::bytes::Bytes;
use super::fields::{BLOCK, blob, chunk, extended, slot, superblock};
use super::{Blob, Chunk, Digester, Problem, Read};
use crate::Unserved;

/// RAFS v5: magic and version at the beginning.
const V5: [u8; 8] = *b"SFAR\x00\x05\0\0";
/// EROFS_FEATURE_INCOMPAT_CHUNKED_FILE and _DEVICE_TABLE.
pub(super) const INCOMPATIBLE: u32 = 0x4 | 0x8;
/// EROFS_FEATURE_COMPAT_RAFS_V6.
pub(super) const COMPATIBLE: u32 = 0x4000_0000;
/// As many as an index of a chunk can name.
const BLOBS: u16 = 255;
/// nydus has no others either, bytes.
const CHUNK: std::ops::RangeInclusive<u32> = 4096..=16 << 20;
/// nydus reads no more either, 16 TiB; the number of the last block means that there is no data.
const LARGEST_BLOB: u64 = (1 << 44) - BLOCK;
/// Chunks of a blob: 256 GiB of the smallest, whose chunk map has 8 MiB.
const CHUNKS: u32 = 1 << 26;

/// Bits of the extended superblock: compressors, digesters, owners, attributes, digests inlined,
/// no encryption.
const FLAGS: u64 = 0x1ff | 0x0100_0000;
const SHA256: u64 = 0x8;
const BLAKE3: u64 = 0x4;
const EXPLICIT_OWNERS: u64 = 0x10;
const TARFS: u64 = 0x200;
const ENCRYPTED: u64 = 0x0200_0000;

/// Bits of a blob, as nydus-storage 0.7 has them in `device.rs`: aligned, chunk information v2,
/// digests inlined, of a dictionary of chunks; tar headers, table of contents.
const BLOB_FEATURES: u32 = ALIGNED | 0x4 | 0x20 | 0x200 | 0x7000_0000;
const ALIGNED: u32 = 0x1;
const UNSERVED: &[(u32, &str)] = &[
    (0x2, "a blob with the bootstrap in it"),
    (0x8, "a gzip blob read by zran"),
    (0x10, "a blob whose metadata is another blob"),
    (0x40, "a blob of tar files"),
    (0x80, "a blob with batches of chunks"),
    (0x100, "an encrypted blob"),
];

/// What the superblocks say.
#[derive(Debug)]
pub(super) struct Super {
    /// Where inodes are counted from, bytes.
    pub(super) inodes: u64,
    /// Where shared attributes are counted from, bytes.
    pub(super) attributes: u64,
    /// Number of the root directory.
    pub(super) root: u64,
    /// Largest chunk, bytes.
    chunk_size: u32,
    devices: (u64, u16),
    blobs: (u64, u64),
    chunks: (u64, u64),
}

/// Bytes in front of the first table.
pub(super) const HEAD: u64 = extended::AT + extended::SIZE;

impl Super {
    pub(super) fn read(bytes: Bytes<'_>) -> Read<Self> {
        if bytes.0.starts_with(&V5) {
            return Err(Unserved::Version5.into());
        }
        let base = bytes.slice(superblock::AT, superblock::SIZE, "superblock")?;
        let more = bytes.slice(extended::AT, extended::SIZE, "extended superblock")?;
        let (magic, expected) = superblock::MAGIC;
        if magic.get(base) != expected || superblock::COMPATIBLE.get(base) & COMPATIBLE == 0 {
            return Err(Problem::Damaged("it has no superblock of RAFS v6".into()));
        }
        let bits = superblock::BLOCK_BITS.get(base);
        if 1_u64.checked_shl(bits.into()) != Some(BLOCK) {
            return Err(feature(format!("blocks of 2^{bits} bytes")));
        }
        let incompatible = superblock::INCOMPATIBLE.get(base);
        if incompatible & !INCOMPATIBLE != 0 {
            return Err(feature(format!("unknown features {incompatible:#x} of EROFS")));
        }
        flags(extended::FLAGS.get(more))?;
        let chunk_size = extended::CHUNK_SIZE.get(more);
        if !chunk_size.is_power_of_two() || !CHUNK.contains(&chunk_size) {
            return Err(Problem::Damaged(format!("it has chunks of {chunk_size} bytes")));
        }
        let slots = u64::from(superblock::DEVICE_SLOT.get(base)) * slot::SIZE;
        Ok(Self {
            inodes: u64::from(superblock::INODES.get(base)) * BLOCK,
            attributes: u64::from(superblock::ATTRIBUTES.get(base)) * BLOCK,
            root: superblock::ROOT.get(base).into(),
            chunk_size,
            devices: (slots, superblock::DEVICES.get(base)),
            blobs: (extended::BLOBS.0.get(more), extended::BLOBS.1.get(more).into()),
            chunks: (extended::CHUNKS.0.get(more), extended::CHUNKS.1.get(more)),
        })
    }

    /// Where the tables for blobs end: all that [`Super::blobs`] needs is before that.
    pub(super) fn end_of_tables(&self) -> u64 {
        let devices = self.devices.0 + u64::from(self.devices.1) * slot::SIZE;
        self.blobs.0.saturating_add(self.blobs.1).max(devices)
    }

    /// The blobs; the table for the kernel and the table for nydusd must agree.
    pub(super) fn blobs(&self, bytes: Bytes<'_>) -> Read<Vec<Blob>> {
        let (at, count) = self.devices;
        if count > BLOBS {
            return Err(Unserved::TooMuch(format!("{count} blobs, expected up to {BLOBS}")).into());
        }
        let devices = bytes.table::<{ slot::SIZE as usize }>(
            at,
            u64::from(count) * slot::SIZE,
            "device table",
        )?;
        let blobs = bytes.table::<{ blob::SIZE }>(self.blobs.0, self.blobs.1, "blob table")?;
        if devices.len() != blobs.len() {
            let (devices, blobs) = (devices.len(), blobs.len());
            return Err(Problem::Damaged(format!("it has {devices} devices for {blobs} blobs")));
        }
        let pairs = devices.iter().zip(blobs).enumerate();
        pairs.map(|(number, (device, blob))| self::blob_of(number, device, blob)).collect()
    }

    /// The chunks by blob and offset.
    pub(super) fn chunks(&self, bytes: Bytes<'_>, blobs: &[Blob]) -> Read<Vec<Chunk>> {
        let (at, length) = self.chunks;
        let table = bytes.table::<{ chunk::SIZE }>(at, length, "chunk table")?;
        let chunks = table.iter().map(|entry| chunk_of(entry, blobs, self.chunk_size));
        let mut chunks = chunks.collect::<Read<Vec<_>>>()?;
        chunks.sort_unstable_by_key(|chunk| (chunk.blob, chunk.offset));
        let overlap =
            |pair: &[Chunk]| pair[0].blob == pair[1].blob && pair[0].end() > pair[1].offset;
        match chunks.windows(2).find(|pair| overlap(pair)) {
            Some(pair) => Err(Problem::Damaged(format!("chunks overlap: {:?}", pair[1]))),
            None => Ok(chunks),
        }
    }
}

fn flags(flags: u64) -> Read<()> {
    if flags & ENCRYPTED != 0 {
        return Err(Unserved::Encrypted.into());
    }
    if flags & TARFS != 0 {
        return Err(feature("tar files for blobs".into()));
    }
    if flags & !FLAGS != 0 {
        return Err(feature(format!("unknown features {:#x}", flags & !FLAGS)));
    }
    if flags & EXPLICIT_OWNERS == 0 {
        // nydusd shows its own user as the owner of everything.
        return Err(feature("no owners of its own".into()));
    }
    match flags & (SHA256 | BLAKE3) {
        SHA256 | BLAKE3 => Ok(()),
        _ => Err(Problem::Damaged("expected one of the two algorithms for digests".into())),
    }
}

fn blob_of(number: usize, device: &[u8], entry: &[u8]) -> Read<Blob> {
    let damaged = |what: &str| Problem::Damaged(format!("blob {number}: {what}"));
    let id = |raw: &[u8]| {
        let id = str::from_utf8(raw).ok()?.trim_end_matches('\0');
        // It becomes the name of a file.
        let sane = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        (!id.is_empty() && !id.starts_with('.') && id.chars().all(sane)).then(|| id.to_owned())
    };
    let id = id(&entry[blob::ID]).ok_or_else(|| damaged("its id is no file name"))?;
    if device[slot::ID] != entry[blob::ID] || blob::NUMBER.get(entry) as usize != number {
        return Err(damaged("another one in the device table"));
    }
    if slot::MAPPED.get(device) != 0 {
        return Err(feature("a device that is mapped into the first one".into()));
    }
    let of = blob::FEATURES.get(entry);
    features(of)?;
    if blob::COMPRESSOR.get(entry) == 2 && of & 0x4 == 0 {
        return Err(feature("an eStargz blob".into()));
    }
    let digester = match blob::DIGESTER.get(entry) {
        0 => Digester::Blake3,
        1 => Digester::Sha256,
        other => return Err(feature(format!("unknown algorithm {other} for digests"))),
    };
    let uncompressed_size = blob::UNCOMPRESSED_SIZE.get(entry);
    if uncompressed_size > LARGEST_BLOB || !uncompressed_size.is_multiple_of(BLOCK) {
        return Err(damaged("its length is no number of blocks"));
    }
    let chunk_count = blob::CHUNKS.get(entry);
    if chunk_count > CHUNKS {
        let what = format!("a blob of {chunk_count} chunks, expected up to {CHUNKS}");
        return Err(Unserved::TooMuch(what).into());
    }
    let compressed_size = blob::COMPRESSED_SIZE.get(entry);
    Ok(Blob { id, compressed_size, uncompressed_size, chunk_count, digester })
}

fn features(features: u32) -> Read<()> {
    if let Some((_, name)) = UNSERVED.iter().find(|(bit, _)| features & bit != 0) {
        return Err(feature((*name).into()));
    }
    if features & !BLOB_FEATURES != 0 {
        return Err(feature(format!("a blob with unknown features {:#x}", features)));
    }
    match features & ALIGNED {
        0 => Err(feature("a blob whose chunks are not aligned to blocks".into())),
        _ => Ok(()),
    }
}

fn chunk_of(entry: &[u8], blobs: &[Blob], largest: u32) -> Read<Chunk> {
    let mut digest = [0; 32];
    digest.copy_from_slice(&entry[chunk::DIGEST]);
    let (blob, size) = (chunk::BLOB.get(entry), chunk::UNCOMPRESSED_SIZE.get(entry));
    let (offset, index) = (chunk::UNCOMPRESSED_OFFSET.get(entry), chunk::INDEX.get(entry));
    let of = blobs.get(blob as usize);
    let fits = |of: &Blob| {
        let end = offset.checked_add(size.into());
        size > 0
            && size <= largest
            && offset % BLOCK == 0
            && index < of.chunk_count
            && end.is_some_and(|end| end <= of.uncompressed_size)
    };
    if !of.is_some_and(fits) {
        let what = format!("chunk {index} of blob {blob} at byte {offset}: no such place");
        return Err(Problem::Damaged(what));
    }
    if digest == [0; 32] {
        return Err(Unserved::NoDigest(format!("chunk {index} of blob {blob}")).into());
    }
    Ok(Chunk { blob: blob as u16, index, offset, size, digest })
}

fn feature(what: String) -> Problem {
    Unserved::Feature(what).into()
}
