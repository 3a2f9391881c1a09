//! The rules of containerd's snapshots: each change looks first and writes after, and touches
//! nothing but the view it is given.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde::Serialize;

use super::error::{Error, Result};
use super::kv::{Changes, Entry, Kv, Overlay, Span, Table};
use super::lookup::{Lookup, SNAPSHOT_IDS, Set, child_link};
use super::record::{Kind, Record, encode};
use crate::labels::Labels;
use crate::usage::Usage;

/// A view that can be changed. Several changes in one draft are made together or not at all;
/// later ones see the earlier ones.
pub struct Draft<'a> {
    over: Overlay<'a>,
    now: SystemTime,
}

impl Kv for Draft<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.over.get(table, key)
    }

    fn scan(&self, table: Table, span: Span<'_>) -> Result<Vec<Entry>> {
        self.over.scan(table, span)
    }
}

impl<'a> Draft<'a> {
    pub(super) fn new(base: &'a dyn Kv, now: SystemTime) -> Self {
        Self { over: Overlay { base, changes: Changes::new() }, now }
    }

    pub(super) fn into_changes(self) -> Changes {
        self.over.changes
    }

    /// A new active or view snapshot on `parent` (empty for none), with a number of its own.
    ///
    /// # Errors
    /// A key that is taken or empty, a parent that is missing or not committed.
    pub fn create(
        &mut self,
        kind: Kind,
        key: &str,
        parent: &str,
        labels: Labels,
    ) -> Result<Record> {
        self.check_parent(parent)?;
        self.check_free(key, "snapshot")?;
        if kind == Kind::Committed {
            let context = "snapshot type committed cannot be created, only active and view";
            return Err(Error::InvalidArgument(context.to_owned()));
        }
        let id = self.take_number(SNAPSHOT_IDS)?;
        let (key, parent, usage) = (key.to_owned(), parent.to_owned(), Usage::default());
        let (created, updated) = (self.now, self.now);
        let kernel = false;
        let record = Record { key, id, kind, parent, labels, created, updated, kernel, usage };
        self.insert(&record)?;
        Ok(record)
    }

    /// Notes who serves the image of an active or view snapshot, if it is still the one with this
    /// number.
    ///
    /// # Errors
    /// A damaged record.
    pub fn set_kernel(&mut self, key: &str, id: u64, kernel: bool) -> Result<()> {
        match self.find(key)? {
            Some(record) if record.id == id => self.insert(&Record { kernel, ..record }),
            _ => Ok(()),
        }
    }

    /// Makes the active snapshot `key` the committed snapshot `name`, with these labels only.
    ///
    /// # Errors
    /// A name that is taken or empty, a key that is missing or not active.
    pub fn commit(
        &mut self,
        name: &str,
        key: &str,
        labels: Labels,
        usage: Usage,
    ) -> Result<Record> {
        self.check_free(name, "committed snapshot")?;
        let missing = || Error::NotFound(format!("failed to get active snapshot {key:?}"));
        let active = self.find(key)?.ok_or_else(missing)?;
        if active.kind != Kind::Active {
            return Err(Error::FailedPrecondition(format!("snapshot {key:?} is not active")));
        }
        self.erase(&active);
        let (key, kind, created, updated) = (name.to_owned(), Kind::Committed, self.now, self.now);
        let kernel = false;
        let record = Record { key, kind, labels, usage, created, updated, kernel, ..active };
        self.insert(&record)?;
        Ok(record)
    }

    /// Removes a snapshot of any kind. Its number is kept as garbage until [`Draft::forget`].
    ///
    /// # Errors
    /// A key that is missing or has children.
    pub fn remove(&mut self, key: &str) -> Result<Record> {
        let missing = || Error::NotFound(format!("snapshot {key:?}"));
        let record = self.find(key)?.ok_or_else(missing)?;
        if self.has_children(key)? {
            let context = "cannot remove snapshot with child";
            return Err(Error::FailedPrecondition(context.to_owned()));
        }
        self.erase(&record);
        self.over.put(Table::Garbage, &record.id.to_be_bytes(), vec![]);
        Ok(record)
    }

    /// Sets labels: all with no paths or `labels`, one with `labels.<name>`, where an empty value
    /// removes it.
    ///
    /// # Errors
    /// A key that is missing, another path.
    pub fn update(&mut self, key: &str, labels: &Labels, paths: &[String]) -> Result<Record> {
        let mut record = self.stat(key)?;
        if paths.is_empty() {
            record.labels.clone_from(labels);
        }
        for path in paths {
            set_path(&mut record, labels, path)?;
        }
        record.updated = self.now;
        self.insert(&record)?;
        Ok(record)
    }

    /// Takes over records of another store as they are; new ones get numbers from `next_id`, or
    /// above the greatest that is taken over. A parent may be missing, as it was there.
    ///
    /// # Errors
    /// A key or number that is there twice.
    pub fn import(&mut self, records: &[Record], next_id: u64) -> Result<()> {
        let mut next = next_id.max(self.next_id()?);
        let mut ids = BTreeSet::new();
        for record in records {
            self.check_free(&record.key, "imported snapshot")?;
            if !ids.insert(record.id) {
                let context = format!("imported snapshot {:?} has a number twice", record.key);
                return Err(Error::InvalidArgument(context));
            }
            next = next.max(record.id.saturating_add(1));
            self.insert(record)?;
        }
        self.over.put(Table::Meta, SNAPSHOT_IDS.as_bytes(), next.to_be_bytes().to_vec());
        Ok(())
    }

    /// Makes [`Lookup::images`] right: a version that does not keep it may have written since.
    pub(super) fn index_images(&mut self) -> Result<()> {
        let page = self.page("", usize::MAX)?;
        let indexed = self.images()?;
        let found = page.found.into_iter().filter(Record::is_image);
        let mut images: BTreeMap<_, _> = found.map(|record| (record.id, record.key)).collect();
        // What is damaged is what it was.
        let damaged = indexed.iter().filter(|(_, key)| page.damaged.contains(key));
        images.extend(damaged.map(|(id, key)| (*id, key.clone())));
        for id in indexed.keys().filter(|id| !images.contains_key(id)) {
            self.over.delete(Table::Images, &id.to_be_bytes());
        }
        for (id, key) in images.into_iter().filter(|(id, key)| indexed.get(id) != Some(key)) {
            self.over.put(Table::Images, &id.to_be_bytes(), key.into_bytes());
        }
        Ok(())
    }

    /// These directories are gone: they are no garbage any more.
    pub fn forget(&mut self, ids: impl IntoIterator<Item = u64>) {
        for id in ids {
            self.over.delete(Table::Garbage, &id.to_be_bytes());
        }
    }

    /// A number that this counter never gave before, from 1.
    ///
    /// # Errors
    /// A damaged counter.
    pub fn take_number(&mut self, counter: &str) -> Result<u64> {
        let number = self.next_number(counter)?;
        let next = (number + 1).to_be_bytes().to_vec();
        self.over.put(Table::Meta, counter.as_bytes(), next);
        Ok(number)
    }

    /// Stores a value of a set.
    ///
    /// # Errors
    /// A value that JSON cannot express.
    pub fn put_item<T: Serialize>(&mut self, set: &Set<T>, id: &str, value: &T) -> Result<()> {
        let key = set.key(id);
        let value = encode(&key, value)?;
        self.over.put(Table::Items, key.as_bytes(), value);
        Ok(())
    }

    /// Removes a value of a set, if it is there.
    pub fn remove_item<T>(&mut self, set: &Set<T>, id: &str) {
        self.over.delete(Table::Items, set.key(id).as_bytes());
    }

    fn check_parent(&self, parent: &str) -> Result<()> {
        if parent.is_empty() {
            return Ok(());
        }
        let missing = || Error::NotFound(format!("missing parent {parent:?} bucket"));
        let record = self.find(parent)?.ok_or_else(missing)?;
        if record.kind != Kind::Committed {
            let context = format!("parent {parent:?} is not committed snapshot");
            return Err(Error::InvalidArgument(context));
        }
        Ok(())
    }

    /// A damaged record takes its key as well.
    fn check_free(&self, key: &str, what: &str) -> Result<()> {
        if key.is_empty() {
            return Err(Error::InvalidArgument(format!("name of {what} is empty")));
        }
        match self.get(Table::Snapshots, key.as_bytes())? {
            Some(_) => Err(Error::AlreadyExists(format!("{what} {key:?}"))),
            None => Ok(()),
        }
    }

    fn insert(&mut self, record: &Record) -> Result<()> {
        let value = encode(&record.key, record)?;
        self.over.put(Table::Snapshots, record.key.as_bytes(), value);
        if !record.parent.is_empty() {
            let link = child_link(&record.parent, &record.key);
            self.over.put(Table::Children, &link, vec![]);
        }
        if record.is_image() {
            let key = record.key.clone().into_bytes();
            self.over.put(Table::Images, &record.id.to_be_bytes(), key);
        } else if record.kind == Kind::Committed {
            self.over.delete(Table::Images, &record.id.to_be_bytes());
        }
        Ok(())
    }

    fn erase(&mut self, record: &Record) {
        self.over.delete(Table::Snapshots, record.key.as_bytes());
        self.over.delete(Table::Children, &child_link(&record.parent, &record.key));
        if record.is_image() {
            self.over.delete(Table::Images, &record.id.to_be_bytes());
        }
    }
}

fn set_path(record: &mut Record, labels: &Labels, path: &str) -> Result<()> {
    let label = path.strip_prefix("labels.");
    match label.map(|name| (name, labels.get(name).filter(|value| !value.is_empty()))) {
        Some((name, Some(value))) => {
            record.labels.insert(name.to_owned(), value.clone());
        }
        Some((name, None)) => {
            record.labels.remove(name);
        }
        None if path == "labels" => record.labels.clone_from(labels),
        None => {
            let context = format!("cannot update {path:?} field on snapshot {:?}", record.key);
            return Err(Error::InvalidArgument(context));
        }
    }
    Ok(())
}
