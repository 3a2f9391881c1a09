//! Ordered bytes by bytes: all that the rules need of a database.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::error::Result;

/// The tables of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Version of the store, next numbers.
    Meta,
    /// Records by key.
    Snapshots,
    /// Which snapshot has which children.
    Children,
    /// Numbers of removed snapshots whose directories may still be there.
    Garbage,
    /// Daemons and RAFS instances.
    Items,
    /// Keys of the snapshots that hold an image's bootstrap, by their numbers.
    Images,
}

impl Table {
    /// All of them, in the order of their declaration.
    pub(super) const ALL: [Self; 6] =
        [Self::Meta, Self::Snapshots, Self::Children, Self::Garbage, Self::Items, Self::Images];

    /// Its name in the file.
    pub(super) fn name(self) -> &'static str {
        ["meta", "snapshots", "children", "garbage", "items", "images"][self as usize]
    }
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Which entries to look at: those whose key begins with `prefix` and comes after `after`.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// How the keys begin.
    pub prefix: &'a [u8],
    /// The last key that is left out.
    pub after: &'a [u8],
    /// At most so many.
    pub limit: usize,
}

impl Span<'_> {
    /// Where to begin.
    pub(super) fn start(&self) -> Bound<&[u8]> {
        if self.after < self.prefix {
            Bound::Included(self.prefix)
        } else {
            Bound::Excluded(self.after)
        }
    }
}

/// A consistent view of the tables.
pub trait Kv {
    /// The value of `key`.
    ///
    /// # Errors
    /// The database failed.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Entries in the order of their keys.
    ///
    /// # Errors
    /// The database failed.
    fn scan(&self, table: Table, span: Span<'_>) -> Result<Vec<Entry>>;
}

/// Changes that are not made yet: `None` removes a key.
pub(super) type Changes = BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>;

/// A view with changes laid over it.
pub(super) struct Overlay<'a> {
    pub(super) base: &'a dyn Kv,
    pub(super) changes: Changes,
}

impl Overlay<'_> {
    pub(super) fn put(&mut self, table: Table, key: &[u8], value: Vec<u8>) {
        self.changes.insert((table, key.to_vec()), Some(value));
    }

    pub(super) fn delete(&mut self, table: Table, key: &[u8]) {
        self.changes.insert((table, key.to_vec()), None);
    }
}

impl Kv for Overlay<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.changes.get(&(table, key.to_vec())) {
            Some(changed) => Ok(changed.clone()),
            None => self.base.get(table, key),
        }
    }

    fn scan(&self, table: Table, span: Span<'_>) -> Result<Vec<Entry>> {
        let start = span.start().map(|key| (table, key.to_vec()));
        let changed: Vec<_> = self
            .changes
            .range((start, Bound::Unbounded))
            .take_while(|((of, key), _)| *of == table && key.starts_with(span.prefix))
            .collect();
        // So many of the view's entries can be removed by changes.
        let limit = span.limit.saturating_add(changed.len());
        let below = self.base.scan(table, Span { limit, ..span })?;
        let mut merged: BTreeMap<_, _> = below.into_iter().collect();
        for ((_, key), value) in changed {
            match value {
                Some(value) => merged.insert(key.clone(), value.clone()),
                None => merged.remove(key),
            };
        }
        Ok(merged.into_iter().take(span.limit).collect())
    }
}
