//! Where the numbers of a bootstrap are: Linux's `fs/erofs/erofs_fs.h` and nydus 2.2's
//! `rafs/src/metadata/layout/v6.rs`. The reader and the builder use the same table.

/// A little-endian number at this byte of its structure.
macro_rules! number {
    ($name:ident, $type:ty) => {
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $name(pub(super) usize);

        impl $name {
            /// The number. The caller knows that the structure is all there.
            pub(super) fn get(self, of: &[u8]) -> $type {
                let mut number = [0; size_of::<$type>()];
                number.copy_from_slice(&of[self.0..self.0 + size_of::<$type>()]);
                <$type>::from_le_bytes(number)
            }

            pub(super) fn set(self, of: &mut [u8], number: $type) {
                of[self.0..self.0 + size_of::<$type>()].copy_from_slice(&number.to_le_bytes());
            }
        }
    };
}

number!(U8, u8);
number!(U16, u16);
number!(U32, u32);
number!(U64, u64);

/// Bytes of a block: the only size that RAFS v6 has for images whose data is unpacked.
pub(super) const BLOCK: u64 = 4096;

/// `struct erofs_super_block`, at byte 1024.
pub(super) mod superblock {
    use super::{U8, U16, U32};
    pub(in crate::image) const AT: u64 = 1024;
    pub(in crate::image) const SIZE: u64 = 128;
    /// EROFS_SUPER_MAGIC_V1.
    pub(in crate::image) const MAGIC: (U32, u32) = (U32(0), 0xe0f5_e1e2);
    pub(in crate::image) const COMPATIBLE: U32 = U32(8);
    pub(in crate::image) const BLOCK_BITS: U8 = U8(12);
    pub(in crate::image) const ROOT: U16 = U16(14);
    pub(in crate::image) const BLOCKS: U32 = U32(36);
    /// Block from which inodes are counted.
    pub(in crate::image) const INODES: U32 = U32(40);
    /// Block from which shared attributes are counted.
    pub(in crate::image) const ATTRIBUTES: U32 = U32(44);
    pub(in crate::image) const INCOMPATIBLE: U32 = U32(80);
    pub(in crate::image) const DEVICES: U16 = U16(86);
    /// The first slot's number.
    pub(in crate::image) const DEVICE_SLOT: U16 = U16(88);
}

/// `struct RafsV6SuperBlockExt`, right after it.
pub(super) mod extended {
    use super::{U32, U64};
    pub(in crate::image) const AT: u64 = 1152;
    pub(in crate::image) const SIZE: u64 = 256;
    pub(in crate::image) const FLAGS: U64 = U64(0);
    /// Tables: where, and how many bytes.
    pub(in crate::image) const BLOBS: (U64, U32) = (U64(8), U32(16));
    pub(in crate::image) const CHUNK_SIZE: U32 = U32(20);
    pub(in crate::image) const CHUNKS: (U64, U64) = (U64(24), U64(32));
}

/// `struct erofs_deviceslot`.
pub(super) mod slot {
    use super::U32;
    pub(in crate::image) const SIZE: u64 = 128;
    pub(in crate::image) const ID: std::ops::Range<usize> = 0..64;
    pub(in crate::image) const BLOCKS: U32 = U32(64);
    /// Where it is in the first device, if it is mapped into that.
    pub(in crate::image) const MAPPED: U32 = U32(68);
}

/// `struct RafsV6Blob`.
pub(super) mod blob {
    use super::{U32, U64};
    pub(in crate::image) const SIZE: usize = 256;
    pub(in crate::image) const ID: std::ops::Range<usize> = 0..64;
    pub(in crate::image) const NUMBER: U32 = U32(64);
    pub(in crate::image) const CHUNK_SIZE: U32 = U32(68);
    pub(in crate::image) const CHUNKS: U32 = U32(72);
    pub(in crate::image) const COMPRESSOR: U32 = U32(76);
    pub(in crate::image) const DIGESTER: U32 = U32(80);
    pub(in crate::image) const FEATURES: U32 = U32(84);
    pub(in crate::image) const COMPRESSED_SIZE: U64 = U64(88);
    pub(in crate::image) const UNCOMPRESSED_SIZE: U64 = U64(96);
}

/// `struct RafsV5ChunkInfo`, which v6 keeps.
pub(super) mod chunk {
    use super::{U32, U64};
    pub(in crate::image) const SIZE: usize = 80;
    pub(in crate::image) const DIGEST: std::ops::Range<usize> = 0..32;
    pub(in crate::image) const BLOB: U32 = U32(32);
    pub(in crate::image) const UNCOMPRESSED_SIZE: U32 = U32(44);
    pub(in crate::image) const UNCOMPRESSED_OFFSET: U64 = U64(56);
    pub(in crate::image) const INDEX: U32 = U32(72);
}

/// `struct erofs_inode_compact` and `_extended`, which begin alike.
pub(super) mod inode {
    use super::{U16, U32, U64};
    /// Inodes are counted in units of this.
    pub(in crate::image) const UNIT: u64 = 32;
    pub(in crate::image) const COMPACT: u64 = 32;
    pub(in crate::image) const EXTENDED: u64 = 64;
    /// Bit 0 tells compact from extended, the others are the layout of the data.
    pub(in crate::image) const FORMAT: U16 = U16(0);
    pub(in crate::image) const ATTRIBUTES: U16 = U16(2);
    pub(in crate::image) const MODE: U16 = U16(4);
    /// Of a compact one.
    pub(in crate::image) const LINKS: U16 = U16(6);
    pub(in crate::image) const COMPACT_SIZE: U32 = U32(8);
    pub(in crate::image) const EXTENDED_SIZE: U64 = U64(8);
    /// By the layout: the block of its data, or the format of its chunks.
    pub(in crate::image) const UNION: U32 = U32(16);
}

/// `struct erofs_xattr_ibody_header` and `struct erofs_xattr_entry`.
pub(super) mod attribute {
    use super::{U8, U16};
    pub(in crate::image) const HEADER: usize = 12;
    /// Shared attributes, whose numbers of four bytes follow the header.
    pub(in crate::image) const SHARED: U8 = U8(4);
    pub(in crate::image) const ENTRY: usize = 4;
    pub(in crate::image) const NAME: U8 = U8(0);
    /// Number of the prefix that its name has.
    pub(in crate::image) const PREFIX: U8 = U8(1);
    pub(in crate::image) const VALUE: U16 = U16(2);
}

/// `struct erofs_dirent`.
pub(super) mod dirent {
    use super::{U8, U16, U64};
    pub(in crate::image) const SIZE: usize = 12;
    pub(in crate::image) const INODE: U64 = U64(0);
    pub(in crate::image) const NAME: U16 = U16(8);
    pub(in crate::image) const KIND: U8 = U8(10);
}

/// `struct erofs_inode_chunk_index`.
pub(super) mod index {
    use super::{U16, U32};
    pub(in crate::image) const SIZE: usize = 8;
    pub(in crate::image) const DEVICE: U16 = U16(2);
    pub(in crate::image) const BLOCK: U32 = U32(4);
}
