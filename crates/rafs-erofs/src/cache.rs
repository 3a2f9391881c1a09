//! nydusd's blob cache: `<id>.blob.data`, `<id>.chunk_map`, `<id>.blob.meta` and what else it makes.
//! As nydus-storage 0.6 has it in `cache/state/persist_map.rs`.

use crate::error::{Error, Result, io};
use crate::image::regular;
use crate::promote::{Step, Work};
use crate::verify::verify;
use crate::{Blob, Image};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
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

/// What [`Cache::mend`] did, by blobs' ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Their files are removed.
    pub discarded: Vec<String>,
    /// Their files do not fit what this image says, but what another one says.
    pub kept: Vec<String>,
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

    /// What [`Cache::progress`] depends on, beside the image: as long as it is the same, so is that.
    /// The times of chunk maps do not tell: `nydusd` writes to them by mmap(2).
    ///
    /// # Errors
    /// A file is there but cannot be read.
    pub fn state(&self, blobs: &[Blob]) -> Result<[u8; 32]> {
        let mut state = blake3::Hasher::new();
        for blob in blobs {
            let data = self.data_file(blob)?.map(|(length, _)| length);
            state.update(format!("{} {data:?} ", blob.id).as_bytes());
            match self.map(blob)? {
                Ok(map) => state.update(&[map.all.into()]).update(&map.bits),
                Err(broken) => state.update(format!("{broken:?}").as_bytes()),
            };
        }
        Ok(state.finalize().into())
    }

    /// Before `nydusd` is started: discards those of an image's `blobs` whose files do not fit, each
    /// to the others and to what the image says. With a chunk map that says ready, and no data,
    /// nydusd 2.2 serves zeros; with data of another length, or another number of chunks, it does
    /// not start; without a chunk map it writes to data that is there.
    ///
    /// `others` are blobs as images say that are served or promoted. It is called at most once. What
    /// fits one of them is kept, and `nydusd` refuses this image: it says what is not so.
    ///
    /// # Errors
    /// A file cannot be looked at or removed.
    pub fn mend(&self, blobs: &[Blob], others: impl FnOnce() -> Vec<Blob>) -> Result<Mended> {
        let (mut mended, mut others) = (Mended::default(), Some(others));
        let mut known = Vec::new();
        for blob in blobs {
            if self.fits(blob)? {
                continue;
            }
            known = others.take().map_or(known, |others| others());
            let mut same = known.iter().filter(|other| other.id == blob.id);
            if same.try_fold(false, |any, other| Ok::<_, Error>(any || self.fits(other)?))? {
                mended.kept.push(blob.id.clone());
            } else {
                self.discard(&blob.id)?;
                mended.discarded.push(blob.id.clone());
            }
        }
        Ok(mended)
    }

    /// Whether `nydusd` can go on with a blob's files, and does no harm to others.
    fn fits(&self, blob: &Blob) -> Result<bool> {
        let (map, data) = (self.map(blob)?, self.data_file(blob)?);
        let is_new = data.is_none_or(|(length, links)| length == 0 && links == 1);
        let is_whole = data.is_some_and(|(length, _)| length == blob.uncompressed_size);
        Ok(match map {
            Ok(map) => is_whole || is_new && map.is_empty(),
            // Killed in `discard`: the data may also be a promoted image's.
            Err(Broken::Missing) => is_new || is_whole && data.is_some_and(|(_, links)| links == 1),
            Err(Broken::Garbage) => false,
        })
    }

    /// Whether `image` bears witness to what is cached of `blob`: something is, and all that it
    /// refers to has the digest that it names.
    ///
    /// # Errors
    /// A file cannot be read; [`Error::Stopped`].
    pub fn is_right(
        &self,
        (image, blob): (&Image, &str),
        step: &mut dyn FnMut(Step) -> ControlFlow<()>,
    ) -> Result<bool> {
        let Some(number) = image.blobs.iter().position(|of| of.id == blob) else {
            return Ok(false);
        };
        let of = &image.blobs[number];
        let Ok(map) = self.map(of)? else { return Ok(false) };
        let mut ready = image.chunks_of(number).to_vec();
        ready.retain(|chunk| map.is_ready(chunk.index));
        if ready.is_empty() || !self.data_fits(of)? {
            return Ok(false);
        }
        let path = self.data(blob);
        let file = regular(&path)?;
        let mut work = Work::new(step, ready.iter().map(|chunk| u64::from(chunk.size)).sum());
        match verify((of, &ready), (&path, &file), &mut work) {
            Err(Error::Damaged { .. }) => Ok(false),
            verified => verified.map(|()| true),
        }
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
        Ok(self.data_file(blob)?.is_some_and(|(length, _)| length == blob.uncompressed_size))
    }

    /// Length and number of names of the file with a blob's data.
    fn data_file(&self, blob: &Blob) -> Result<Option<(u64, u64)>> {
        let path = self.data(&blob.id);
        match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            found => {
                let found = found.map_err(io("look at", path))?;
                Ok(Some((found.len(), found.nlink())))
            }
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
