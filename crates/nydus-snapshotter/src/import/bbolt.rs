//! Reads bbolt files, in which the Go snapshotter keeps its records: the last committed state of
//! a file that nobody has open. Every number in it is checked, so a damaged file is an error.
//!
//! The format is that of `go.etcd.io/bbolt` (`page.go`, `db.go`, `bucket.go`): pages of one
//! size, two of them with a meta record; a bucket is a B+ tree of pages, and its header stands as
//! a value in the bucket around it, followed by its only page if it is small.

use super::Error;
use std::fs::{self, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const PAGE_HEADER: usize = 16;
const BUCKET_HEADER: usize = 16;
/// Bytes of a meta record before its checksum.
const META: usize = 56;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
/// Flag of an entry that is a bucket.
const IS_BUCKET: u32 = 0x01;
/// Levels of a tree: with two entries a page, more than any file can have.
const DEPTH: usize = 64;

/// A whole file, and the lock that keeps others from writing it.
pub(super) struct File {
    path: PathBuf,
    data: Vec<u8>,
    meta: Meta,
    _lock: fs::File,
}

/// Where the last committed state begins.
#[derive(Clone, Copy)]
struct Meta {
    page_size: usize,
    root: u64,
    pages: u64,
    txid: u64,
}

/// What is in a bucket, in the order of the keys.
pub(super) struct Bucket<'a> {
    file: &'a File,
    /// The last number that the bucket gave.
    pub(super) sequence: u64,
    entries: Vec<(&'a [u8], Entry<'a>)>,
}

#[derive(Clone, Copy)]
enum Entry<'a> {
    Value(&'a [u8]),
    Bucket(&'a [u8]),
}

impl File {
    /// Reads the file; `None` if there is none, or it was never written to.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, Error> {
        let failed = |error| Error::File(path.to_owned(), error);
        let mut lock = match fs::File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        match lock.try_lock_shared() {
            Err(TryLockError::WouldBlock) => return Err(Error::InUse(path.to_owned())),
            locked => locked.map_err(|error| failed(error.into()))?,
        }
        let mut data = Vec::new();
        lock.read_to_end(&mut data).map_err(failed)?;
        if data.is_empty() {
            return Ok(None);
        }
        let damaged = || Error::Damaged(path.to_owned(), "it has no valid meta page".to_owned());
        let meta = last_meta(&data).ok_or_else(damaged)?;
        Ok(Some(Self { path: path.to_owned(), data, meta, _lock: lock }))
    }

    /// Number of the last committed transaction.
    pub(super) fn transaction(&self) -> u64 {
        self.meta.txid
    }

    /// The bucket `name` in `v1`; `None` in a file that nothing was put in.
    pub(super) fn section(&self, name: &str) -> Result<Option<Bucket<'_>>, Error> {
        let root = self.tree(self.meta.root, 0)?;
        let Some(version) = root.bucket(b"v1")? else {
            let empty = root.keys().next().is_none();
            return if empty { Ok(None) } else { Err(Error::Older(self.path.clone())) };
        };
        let missing = || self.damaged(&format!("it has no bucket {name:?}"));
        version.bucket(name.as_bytes())?.ok_or_else(missing).map(Some)
    }

    fn tree(&self, root: u64, sequence: u64) -> Result<Bucket<'_>, Error> {
        let mut bucket = Bucket { file: self, sequence, entries: Vec::new() };
        let mut left = self.meta.pages;
        self.walk(root, DEPTH, &mut left, &mut bucket.entries)?;
        Ok(bucket)
    }

    /// `left`: pages that the tree can still have.
    fn walk<'a>(
        &'a self,
        id: u64,
        depth: usize,
        left: &mut u64,
        entries: &mut Vec<(&'a [u8], Entry<'a>)>,
    ) -> Result<(), Error> {
        let damaged = |why: &str| self.damaged(&format!("page {id}: {why}"));
        *left = left.checked_sub(1).ok_or_else(|| damaged("it is there twice"))?;
        let depth = depth.checked_sub(1).ok_or_else(|| damaged("it is its own ancestor"))?;
        let page = self.page(id).ok_or_else(|| damaged("it is cut or another page"))?;
        if flags(page) == Some(LEAF) {
            return leaf(page, entries).ok_or_else(|| damaged("an entry is damaged"));
        }
        for child in branch(page).ok_or_else(|| damaged("it is no page of a tree"))? {
            self.walk(child, depth, left, entries)?;
        }
        Ok(())
    }

    /// A page with what belongs to it behind it.
    fn page(&self, id: u64) -> Option<&[u8]> {
        let start = usize::try_from(id).ok()?.checked_mul(self.meta.page_size)?;
        let page = self.data.get(start..)?;
        let overflow = usize::try_from(u32_at(page, 12)?).ok()?;
        let length = overflow.checked_add(1)?.checked_mul(self.meta.page_size)?;
        let own = u64_at(page, 0)? == id && id < self.meta.pages;
        page.get(..length).filter(|_| own)
    }

    /// This file is damaged there.
    pub(super) fn damaged(&self, why: &str) -> Error {
        Error::Damaged(self.path.clone(), why.to_owned())
    }
}

impl<'a> Bucket<'a> {
    /// The value of `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<&'a [u8]> {
        match self.find(key)? {
            Entry::Value(value) => Some(value),
            Entry::Bucket(_) => None,
        }
    }

    /// The bucket `key`.
    pub(super) fn bucket(&self, key: &[u8]) -> Result<Option<Self>, Error> {
        match self.find(key) {
            Some(Entry::Bucket(header)) => self.open(header).map(Some),
            Some(Entry::Value(_)) => Err(self.file.damaged("a value stands for a bucket")),
            None => Ok(None),
        }
    }

    /// The keys of all values and buckets.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a [u8]> {
        self.entries.iter().map(|(key, _)| *key)
    }

    fn find(&self, key: &[u8]) -> Option<Entry<'a>> {
        let at = self.entries.binary_search_by(|(there, _)| (*there).cmp(key)).ok()?;
        self.entries.get(at).map(|(_, entry)| *entry)
    }

    fn open(&self, header: &'a [u8]) -> Result<Self, Error> {
        let damaged = || self.file.damaged("a small bucket is damaged");
        let root = u64_at(header, 0).ok_or_else(damaged)?;
        let sequence = u64_at(header, 8).ok_or_else(damaged)?;
        if root != 0 {
            return self.file.tree(root, sequence);
        }
        let page = header.get(BUCKET_HEADER..).ok_or_else(damaged)?;
        let mut entries = Vec::new();
        let read = flags(page) == Some(LEAF) && leaf(page, &mut entries).is_some();
        read.then_some(Self { file: self.file, sequence, entries }).ok_or_else(damaged)
    }
}

/// The later of the two meta records. The second stands on the second page, whose place depends
/// on the page size.
fn last_meta(data: &[u8]) -> Option<Meta> {
    let places = std::iter::once(0).chain((9..=16).map(|power| 1 << power));
    let metas = places.filter_map(|at| {
        let meta = meta(data.get(at..)?)?;
        Some(meta).filter(|meta| at == 0 || at == meta.page_size)
    });
    metas.max_by_key(|meta| meta.txid)
}

fn meta(page: &[u8]) -> Option<Meta> {
    let meta = page.get(PAGE_HEADER..PAGE_HEADER + META + 8)?;
    let (magic, version) = (u32_at(meta, 0)?, u32_at(meta, 4)?);
    let valid = u64_at(meta, META)? == fnv64a(&meta[..META]);
    let (root, pages, txid) = (u64_at(meta, 16)?, u64_at(meta, 40)?, u64_at(meta, 48)?);
    let page_size = usize::try_from(u32_at(meta, 8)?).ok()?;
    let meta = Meta { page_size, root, pages, txid };
    (magic == MAGIC && version == VERSION && valid && page_size >= 512).then_some(meta)
}

fn flags(page: &[u8]) -> Option<u16> {
    page.get(8..10).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// Where the elements of a page begin.
fn elements(page: &[u8], size: usize) -> Option<impl Iterator<Item = usize>> {
    let count = page.get(10..12).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))?;
    Some((0..usize::from(count)).map(move |index| PAGE_HEADER + index * size))
}

/// Pages below a branch page.
fn branch(page: &[u8]) -> Option<Vec<u64>> {
    let elements = elements(page, 16).filter(|_| flags(page) == Some(BRANCH))?;
    elements.map(|at| u64_at(page, at + 8)).collect()
}

/// Adds what is on a leaf page. All keys of a tree ascend.
fn leaf<'a>(page: &'a [u8], entries: &mut Vec<(&'a [u8], Entry<'a>)>) -> Option<()> {
    for at in elements(page, 16)? {
        let number = |field| usize::try_from(u32_at(page, at + field)?).ok();
        let start = at.checked_add(number(4)?)?;
        let middle = start.checked_add(number(8)?)?;
        let end = middle.checked_add(number(12)?)?;
        let (key, value) = (page.get(start..middle)?, page.get(middle..end)?);
        if entries.last().is_some_and(|(last, _)| *last >= key) {
            return None;
        }
        let is_bucket = u32_at(page, at)? & IS_BUCKET != 0;
        entries.push((key, if is_bucket { Entry::Bucket(value) } else { Entry::Value(value) }));
    }
    Some(())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>.
fn fnv64a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}
