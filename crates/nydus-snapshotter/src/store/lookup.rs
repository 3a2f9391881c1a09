//! What can be asked of a consistent view, the same in a read and in the middle of a change.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use super::error::{Error, Result};
use super::kv::{Kv, Span, Table};
use super::record::{Kind, Record, decode};

/// Counter of the numbers of snapshots.
pub(super) const SNAPSHOT_IDS: &str = "next_id";

/// A named set of values by id, beside the snapshots: daemons, RAFS instances.
pub struct Set<T> {
    pub(super) name: &'static str,
    of: PhantomData<fn() -> T>,
}

impl<T> Set<T> {
    /// The set with this name, which has no `/`.
    pub const fn new(name: &'static str) -> Self {
        Self { name, of: PhantomData }
    }

    pub(super) fn key(&self, id: &str) -> String {
        format!("{}/{id}", self.name)
    }
}

/// Part of a listing, in the order of the keys.
#[derive(Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// What could be decoded.
    pub found: Vec<T>,
    /// Keys of what could not.
    pub damaged: Vec<String>,
    /// Where the next page begins, if there is more.
    pub next: Option<String>,
}

/// Questions to a view.
pub trait Lookup: Kv {
    /// The record of `key`, if there is one.
    ///
    /// # Errors
    /// A damaged record.
    fn find(&self, key: &str) -> Result<Option<Record>> {
        let value = self.get(Table::Snapshots, key.as_bytes())?;
        value.map(|value| Record::decode(key, &value)).transpose()
    }

    /// The record of `key`.
    ///
    /// # Errors
    /// No such snapshot; a damaged record.
    fn stat(&self, key: &str) -> Result<Record> {
        let missing = || Error::NotFound(format!("snapshot {key:?} does not exist"));
        self.find(key)?.ok_or_else(missing)
    }

    /// The record of a snapshot that can be mounted.
    ///
    /// # Errors
    /// Like [`Lookup::stat`]; a committed snapshot.
    fn mountable(&self, key: &str) -> Result<Record> {
        let record = self.stat(key)?;
        if record.kind == Kind::Committed {
            let context = format!("requested snapshot {key:?} not active or view");
            return Err(Error::FailedPrecondition(context));
        }
        Ok(record)
    }

    /// The record's parents, nearest first.
    ///
    /// # Errors
    /// A parent that is missing, damaged or its own ancestor.
    fn parents(&self, record: &Record) -> Result<Vec<Record>> {
        let mut chain: Vec<Record> = Vec::new();
        let mut seen = BTreeSet::from([record.id]);
        let mut next = record.parent.clone();
        while !next.is_empty() {
            let missing = || Error::NotFound(format!("missing parent {next:?} bucket"));
            let parent = self.find(&next)?.ok_or_else(missing)?;
            if !seen.insert(parent.id) {
                return Err(Error::Damaged(next, "it is its own ancestor".to_owned()));
            }
            next.clone_from(&parent.parent);
            chain.push(parent);
        }
        Ok(chain)
    }

    /// Whether a snapshot has this one as its parent.
    ///
    /// # Errors
    /// The database failed.
    fn has_children(&self, key: &str) -> Result<bool> {
        let prefix = child_link(key, "");
        let span = Span { prefix: &prefix, after: &[], limit: 1 };
        Ok(!self.scan(Table::Children, span)?.is_empty())
    }

    /// Whether an active snapshot or a view that `counts` is on this committed one, however many
    /// layers above. A damaged record may be one.
    ///
    /// # Errors
    /// The database failed.
    fn is_mountable_above(&self, key: &str, counts: impl Fn(&Record) -> bool) -> Result<bool> {
        let mut below = vec![key.to_owned()];
        while let Some(key) = below.pop() {
            let prefix = child_link(&key, "");
            for (link, _) in self.scan(Table::Children, Span { prefix: &prefix, ..ALL })? {
                let child = String::from_utf8_lossy(&link[prefix.len()..]).into_owned();
                match self.find(&child) {
                    Ok(Some(record)) if record.kind == Kind::Committed => below.push(child),
                    Ok(None) => {}
                    Ok(Some(record)) if !counts(&record) => {}
                    _ => return Ok(true),
                }
            }
        }
        Ok(false)
    }

    /// Keys of the snapshots that hold an image's bootstrap, by their numbers. A record that was
    /// damaged since is among them.
    ///
    /// # Errors
    /// The database failed.
    fn images(&self) -> Result<BTreeMap<u64, String>> {
        let entries = self.scan(Table::Images, ALL)?.into_iter();
        Ok(entries
            .filter_map(|(id, key)| Some((number(&id)?, String::from_utf8(key).ok()?)))
            .collect())
    }

    /// One of [`Lookup::images`].
    ///
    /// # Errors
    /// The database failed.
    fn image_key(&self, id: u64) -> Result<Option<String>> {
        let key = self.get(Table::Images, &id.to_be_bytes())?;
        Ok(key.and_then(|key| String::from_utf8(key).ok()))
    }

    /// At most `limit` records whose key comes after `after`.
    ///
    /// # Errors
    /// The database failed; a damaged record is no error, but named.
    fn page(&self, after: &str, limit: usize) -> Result<Page<Record>> {
        let span = Span { prefix: &[], after: after.as_bytes(), limit };
        page(self.scan(Table::Snapshots, span)?, limit, Record::decode)
    }

    /// Numbers of removed snapshots whose directories may still be there.
    ///
    /// # Errors
    /// The database failed.
    fn garbage(&self) -> Result<BTreeSet<u64>> {
        let entries = self.scan(Table::Garbage, ALL)?;
        Ok(entries.iter().filter_map(|(key, _)| number(key)).collect())
    }

    /// The number that the next snapshot gets: every directory that the store ever asked for
    /// has a smaller one.
    ///
    /// # Errors
    /// The database failed.
    fn next_id(&self) -> Result<u64> {
        self.next_number(SNAPSHOT_IDS)
    }

    /// The next number of this counter, 1 at first.
    ///
    /// # Errors
    /// A damaged counter.
    fn next_number(&self, counter: &str) -> Result<u64> {
        let damaged = || Error::Damaged(counter.to_owned(), "it is no number".to_owned());
        match self.get(Table::Meta, counter.as_bytes())? {
            Some(value) => number(&value).ok_or_else(damaged),
            None => Ok(1),
        }
    }

    /// One value of a set.
    ///
    /// # Errors
    /// A damaged value.
    fn item<T: DeserializeOwned>(&self, set: &Set<T>, id: &str) -> Result<Option<T>> {
        let key = set.key(id);
        self.get(Table::Items, key.as_bytes())?.map(|value| decode(&key, &value)).transpose()
    }

    /// All values of a set with their ids.
    ///
    /// # Errors
    /// The database failed; a damaged value is no error, but named.
    fn items<T: DeserializeOwned>(&self, set: &Set<T>) -> Result<Page<(String, T)>> {
        let prefix = set.key("");
        let entries = self.scan(Table::Items, Span { prefix: prefix.as_bytes(), ..ALL })?;
        let id = |key: &str| key[prefix.len()..].to_owned();
        page(entries, usize::MAX, |key, value| Ok((id(key), decode(key, value)?)))
    }
}

impl<K: Kv + ?Sized> Lookup for K {}

const ALL: Span<'static> = Span { prefix: &[], after: &[], limit: usize::MAX };

fn page<T>(
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    limit: usize,
    decode: impl Fn(&str, &[u8]) -> Result<T>,
) -> Result<Page<T>> {
    let full = entries.len() == limit;
    let mut page = Page { found: Vec::with_capacity(entries.len()), damaged: vec![], next: None };
    for (key, value) in entries {
        let key = String::from_utf8_lossy(&key).into_owned();
        match decode(&key, &value) {
            Ok(found) => page.found.push(found),
            Err(_) => page.damaged.push(key.clone()),
        }
        page.next = full.then_some(key);
    }
    Ok(page)
}

/// The number in a key or value.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// Key that says that `child` is a child of `parent`. The length in front keeps the children of
/// `a` from those of `ab`.
pub(super) fn child_link(parent: &str, child: &str) -> Vec<u8> {
    let length = (parent.len() as u64).to_be_bytes();
    [&length, parent.as_bytes(), child.as_bytes()].concat()
}
