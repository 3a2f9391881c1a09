//! RAFS v6's superblocks and tables, as Linux's `fs/erofs/erofs_fs.h` and nydus 2.2 have them.

use super::bytes::{Bytes, u16, u32, u64};
use super::{Blob, Chunk, Digester, Problem, Read};
use crate::Unserved;

/// RAFS v5: magic and version at the beginning.
const V5: (u32, u32) = (0x5241_4653, 0x500);
/// EROFS_SUPER_MAGIC_V1, at byte 1024.
const MAGIC: u32 = 0xe0f5_e1e2;
const SUPER: u64 = 1024;
const SUPER_SIZE: u64 = 128;
const EXTENDED_SIZE: u64 = 256;
/// Bytes of a block: the only size that RAFS v6 has for images whose data is unpacked.
pub(super) const BLOCK: u64 = 4096;
const SLOT: u64 = 128;
/// EROFS_FEATURE_INCOMPAT_CHUNKED_FILE and _DEVICE_TABLE.
const INCOMPATIBLE: u32 = 0x4 | 0x8;
/// EROFS_FEATURE_COMPAT_RAFS_V6.
const COMPATIBLE: u32 = 0x4000_0000;
/// As many as an index of a chunk can name.
const BLOBS: u16 = 255;
/// nydus has no others either, bytes.
const CHUNK: std::ops::RangeInclusive<u32> = 4096..=16 << 20;
/// nydus reads no more either: 16 TiB.
const LARGEST_BLOB: u64 = 1 << 44;

/// Bits of the extended superblock: compressors, digesters, owners, attributes, digests inlined,
/// no encryption.
const FLAGS: u64 = 0x1ff | 0x0100_0000;
const SHA256: u64 = 0x8;
const BLAKE3: u64 = 0x4;
const EXPLICIT_OWNERS: u64 = 0x10;
const TARFS: u64 = 0x200;
const ENCRYPTED: u64 = 0x0200_0000;

/// Bits of a blob: aligned, chunk information v2, digests inlined; tar headers, table of contents.
const BLOB_FEATURES: u32 = ALIGNED | 0x4 | 0x20 | 0x7000_0000;
const ALIGNED: u32 = 0x1;
const UNSERVED: &[(u32, &str)] = &[
    (0x2, "a blob with the bootstrap in it"),
    (0x8, "a gzip blob read by zran"),
    (0x10, "a blob whose metadata is another blob"),
    (0x40, "a blob with batches of chunks"),
    (0x80, "an encrypted blob"),
];

/// What the superblocks say.
#[derive(Debug)]
pub(super) struct Super {
    /// Where inodes are counted from, bytes.
    pub(super) inodes: u64,
    /// Number of the root directory.
    pub(super) root: u64,
    /// Largest chunk, bytes.
    chunk_size: u32,
    devices: (u64, u16),
    blobs: (u64, u64),
    chunks: (u64, u64),
}

impl Super {
    pub(super) fn read(bytes: Bytes<'_>) -> Read<Self> {
        let is_v5 = bytes.0.len() >= 8 && (u32(bytes.0, 0), u32(bytes.0, 4)) == V5;
        if is_v5 {
            return Err(Unserved::Version5.into());
        }
        let base = bytes.slice(SUPER, SUPER_SIZE, "superblock")?;
        let extended = bytes.slice(SUPER + SUPER_SIZE, EXTENDED_SIZE, "extended superblock")?;
        if u32(base, 0) != MAGIC || u32(base, 8) & COMPATIBLE == 0 {
            return Err(Problem::Damaged("it has no superblock of RAFS v6".into()));
        }
        if base[12] != 12 {
            return Err(feature(format!("blocks of {} bytes", 1_u64 << (base[12] & 63))));
        }
        let incompatible = u32(base, 80);
        if incompatible & !INCOMPATIBLE != 0 {
            return Err(feature(format!("unknown features {:#x} of EROFS", incompatible)));
        }
        flags(u64(extended, 0))?;
        let chunk_size = u32(extended, 20);
        if !chunk_size.is_power_of_two() || !CHUNK.contains(&chunk_size) {
            return Err(Problem::Damaged(format!("it has chunks of {chunk_size} bytes")));
        }
        Ok(Self {
            inodes: u64::from(u32(base, 40)) * BLOCK,
            root: u16(base, 14).into(),
            chunk_size,
            devices: (u64::from(u16(base, 88)) * SLOT, u16(base, 86)),
            blobs: (u64(extended, 8), u32(extended, 16).into()),
            chunks: (u64(extended, 24), u64(extended, 32)),
        })
    }

    /// The blobs; the table for the kernel and the table for nydusd must agree.
    pub(super) fn blobs(&self, bytes: Bytes<'_>) -> Read<Vec<Blob>> {
        let (at, count) = self.devices;
        if count > BLOBS {
            return Err(Unserved::TooMuch(format!("{count} blobs, expected up to {BLOBS}")).into());
        }
        let devices = bytes.table::<128>(at, u64::from(count) * SLOT, "device table")?;
        let blobs = bytes.table::<256>(self.blobs.0, self.blobs.1, "blob table")?;
        if devices.len() != blobs.len() {
            let (devices, blobs) = (devices.len(), blobs.len());
            return Err(Problem::Damaged(format!("it has {devices} devices for {blobs} blobs")));
        }
        let pairs = devices.iter().zip(blobs).enumerate();
        pairs.map(|(number, (device, blob))| self::blob(number, device, blob)).collect()
    }

    /// The chunks by blob and offset.
    pub(super) fn chunks(&self, bytes: Bytes<'_>, blobs: &[Blob]) -> Read<Vec<Chunk>> {
        let (at, length) = self.chunks;
        let table = bytes.table::<80>(at, length, "chunk table")?;
        let chunks = table.iter().map(|entry| chunk(entry, blobs, self.chunk_size));
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

fn blob(number: usize, device: &[u8; 128], blob: &[u8; 256]) -> Read<Blob> {
    let damaged = |what: &str| Problem::Damaged(format!("blob {number}: {what}"));
    let id = |raw: &[u8]| {
        let id = str::from_utf8(raw).ok()?.trim_end_matches('\0');
        // It becomes the name of a file.
        let sane = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        (!id.is_empty() && !id.starts_with('.') && id.chars().all(sane)).then(|| id.to_owned())
    };
    let id = id(&blob[..64]).ok_or_else(|| damaged("its id is no file name"))?;
    if device[..64] != blob[..64] || u32(blob, 64) as usize != number {
        return Err(damaged("another one in the device table"));
    }
    if u32(device, 68) != 0 {
        return Err(feature("a device that is mapped into the first one".into()));
    }
    features(u32(blob, 84))?;
    let (compressor, features) = (u32(blob, 76), u32(blob, 84));
    if compressor == 2 && features & 0x4 == 0 {
        return Err(feature("an eStargz blob".into()));
    }
    let digester = match u32(blob, 80) {
        0 => Digester::Blake3,
        1 => Digester::Sha256,
        other => return Err(feature(format!("unknown algorithm {other} for digests"))),
    };
    let (compressed_size, uncompressed_size) = (u64(blob, 88), u64(blob, 96));
    if uncompressed_size > LARGEST_BLOB || uncompressed_size % BLOCK != 0 {
        return Err(damaged("its length is no number of blocks"));
    }
    let chunk_count = u32(blob, 72);
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

fn chunk(entry: &[u8; 80], blobs: &[Blob], largest: u32) -> Read<Chunk> {
    let mut digest = [0; 32];
    digest.copy_from_slice(&entry[..32]);
    let (blob, size) = (u32(entry, 32), u32(entry, 44));
    let (offset, index) = (u64(entry, 56), u32(entry, 72));
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
