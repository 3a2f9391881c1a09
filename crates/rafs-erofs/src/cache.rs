//! nydusd's blob cache: `<id>.blob.data`, `<id>.chunk_map`, `<id>.blob.meta` and what else it makes.
//! As nydus-storage 0.6 has it in `cache/state/persist_map.rs`.

use crate::error::{Result, io};
use crate::{Blob, Image};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

const HEADER: usize = 4096;
const MAGIC: [u8; 4] = 0x424d_4150_u32.to_le_bytes();
const MAGIC_2: [u8; 4] = 0x434d_4150_u32.to_le_bytes();
const ALL_READY: [u8; 4] = 0x4d4d_4150_u32.to_le_bytes();

/// What nydusd appends to a blob's id for its files, earlier releases too, in the order in which
/// they may go: what says that data is there before the data.
pub const SUFFIXES: [&str; 9] = [
    ".chunk_map",
    ".blob.data.chunk_map",
    ".blob.digest",
    ".blob.toc",
    ".blob.meta",
    ".blob.meta.new",
    ".blob.data",
    ".blob.raw",
    "",
];

/// How much of an image is cached. Only what the bootstrap refers to counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Chunks that are there.
    pub ready: u64,
    /// Chunks that the image refers to.
    pub chunks: u64,
    /// Bytes, unpacked, that are there.
    pub ready_bytes: u64,
    /// Bytes, unpacked, that the image refers to.
    pub bytes: u64,
}

impl Progress {
    /// Everything is there.
    pub fn complete(self) -> bool {
        self.ready == self.chunks
    }
}

/// A directory of cache files.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// The cache in this directory, `work_dir` in nydusd's configuration.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The file with a blob's unpacked data.
    pub fn data(&self, blob: &str) -> PathBuf {
        self.file(blob, ".blob.data")
    }

    fn file(&self, blob: &str, suffix: &str) -> PathBuf {
        self.directory.join(format!("{blob}{suffix}"))
    }

    /// How much of `image` is there, as the chunk maps and the lengths of the files say. Cheap;
    /// proves nothing. A blob whose files are missing or do not fit has nothing ready.
    ///
    /// # Errors
    /// A file is there but cannot be read.
    pub fn progress(&self, image: &Image) -> Result<Progress> {
        let mut sum = Progress::default();
        for (number, blob) in image.blobs.iter().enumerate() {
            let map = match self.data_fits(blob)? {
                true => self.map(blob)?.ok(),
                false => None,
            };
            for chunk in image.chunks_of(number) {
                let ready = map.as_ref().is_some_and(|map| map.is_ready(chunk.index));
                sum.chunks += 1;
                sum.bytes += u64::from(chunk.size);
                sum.ready += u64::from(ready);
                sum.ready_bytes += u64::from(ready) * u64::from(chunk.size);
            }
        }
        Ok(sum)
    }

    /// All chunks of a blob are there, so nydusd has nothing to write into its file.
    pub(crate) fn is_whole(&self, blob: &Blob) -> Result<bool> {
        let map = self.map(blob)?;
        Ok(map.is_ok_and(|map| (0..blob.chunk_count).all(|index| map.is_ready(index))))
    }

    /// Before `nydusd` is started: discards blobs whose files do not fit together, and says which.
    /// With a chunk map that says ready, and no data, nydusd 2.2 serves zeros; with data of another
    /// length it does not start.
    ///
    /// # Errors
    /// A file cannot be looked at or removed.
    pub fn mend(&self, image: &Image) -> Result<Vec<String>> {
        let mut discarded = Vec::new();
        for blob in &image.blobs {
            let fits = match self.map(blob)? {
                Ok(map) => map.is_empty() || self.data_fits(blob)?,
                Err(there) => there == Broken::Missing,
            };
            if !fits {
                self.discard(&blob.id)?;
                discarded.push(blob.id.clone());
            }
        }
        Ok(discarded)
    }

    /// Removes a blob's cache files, the chunk map first. A nydusd that has them open keeps them;
    /// the next one starts with none.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn discard(&self, blob: &str) -> Result<()> {
        for suffix in SUFFIXES {
            let path = self.file(blob, suffix);
            match fs::remove_file(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                done => done.map_err(io("remove", path))?,
            }
        }
        Ok(())
    }

    fn data_fits(&self, blob: &Blob) -> Result<bool> {
        let path = self.data(&blob.id);
        match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            found => Ok(found.map_err(io("look at", path))?.len() == blob.uncompressed_size),
        }
    }

    fn map(&self, blob: &Blob) -> Result<Result<Map, Broken>> {
        let path = self.file(&blob.id, ".chunk_map");
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Err(Broken::Missing)),
            file => file.map_err(io("open", &path))?,
        };
        let length = Map::length(blob.chunk_count);
        let mut bytes = Vec::with_capacity(length);
        // A byte more shows that it is too long.
        file.by_ref().take(length as u64 + 1).read_to_end(&mut bytes).map_err(io("read", path))?;
        Ok(Map::new(bytes, blob.chunk_count).ok_or(Broken::Garbage))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Missing,
    Garbage,
}

/// A chunk map: a bit a chunk, the first in the highest.
struct Map {
    bits: Vec<u8>,
    all: bool,
}

impl Map {
    fn length(chunks: u32) -> usize {
        HEADER + (chunks as usize).div_ceil(8)
    }

    fn new(mut bytes: Vec<u8>, chunks: u32) -> Option<Self> {
        if bytes.len() != Self::length(chunks) || bytes[..4] != MAGIC {
            return None;
        }
        let version = bytes[4..8] != [0; 4];
        if version && bytes[8..12] != MAGIC_2 {
            return None;
        }
        let all = version && bytes[12..16] == ALL_READY;
        Some(Self { bits: bytes.split_off(HEADER), all })
    }

    fn is_ready(&self, index: u32) -> bool {
        let bits = self.bits.get(index as usize / 8);
        self.all || bits.is_some_and(|bits| bits & (0x80 >> (index % 8)) != 0)
    }

    fn is_empty(&self) -> bool {
        !self.all && self.bits.iter().all(|&bits| bits == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(bits: &[u8], all: [u8; 4]) -> Vec<u8> {
        let mut map = [&MAGIC[..], &1_u32.to_le_bytes(), &MAGIC_2, &all].concat();
        map.resize(HEADER, 0);
        [map, bits.to_vec()].concat()
    }

    #[test]
    fn maps() {
        let none = [0; 4];
        type Row<'a> = (Vec<u8>, u32, Option<&'a [u32]>);
        let table: &[Row<'_>] = &[
            (map(&[0b1010_0000], none), 5, Some(&[0, 2])),
            (map(&[0, 0x40], none), 16, Some(&[9])),
            (map(&[0, 0], ALL_READY), 10, Some(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9])),
            (map(&[0], none), 9, None),
            (map(&[0, 0], none), 8, None),
            (vec![0; HEADER + 1], 1, None),
            (Vec::new(), 1, None),
        ];
        for (bytes, chunks, expected) in table {
            let ready = Map::new(bytes.clone(), *chunks)
                .map(|map| (0..*chunks).filter(|&index| map.is_ready(index)).collect::<Vec<_>>());
            assert_eq!(ready.as_deref(), *expected, "{chunks} chunks, {:?}", &bytes.get(HEADER..));
        }
    }
}
