//! The store: its rules, against a simple model, killed at any instant.

mod file;
mod kill;
mod model;
mod rules;

use nydus_snapshotter::labels::Labels;
use nydus_snapshotter::store::{Error, Kind, Lookup, Reader, Record};

/// The error's class, `ok` for none.
fn class<T>(result: &Result<T, Error>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(Error::NotFound(_)) => "not found",
        Err(Error::AlreadyExists(_)) => "already exists",
        Err(Error::FailedPrecondition(_)) => "failed precondition",
        Err(Error::InvalidArgument(_)) => "invalid argument",
        Err(Error::Damaged(..)) => "damaged",
        Err(Error::Newer { .. }) => "newer",
        Err(Error::Storage(_)) => "storage",
    }
}

/// Labels from `a=1,b=2`.
fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// All records, read in pages of this size.
fn all(view: &Reader, limit: usize) -> Vec<Record> {
    let (mut found, mut after) = (Vec::new(), Some(String::new()));
    while let Some(from) = after {
        let page = view.page(&from, limit).unwrap();
        assert!(page.found.len() <= limit);
        found.extend(page.found);
        after = page.next;
    }
    found
}

/// A record in one line: `key kind parent labels`.
fn line(record: &Record) -> String {
    let Record { key, kind, parent, labels, .. } = record;
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{key} {} {parent:?} {}", kind.name(), labels.join(","))
}

fn kind(name: &str) -> Kind {
    [Kind::View, Kind::Active, Kind::Committed]
        .into_iter()
        .find(|kind| kind.name() == name)
        .unwrap()
}

/// A small random generator (splitmix64): the same numbers for the same seed everywhere.
struct Random(u64);

impl Random {
    /// From `NYDUS_SEED`, else of the clock; printed, so that a failure can be repeated.
    fn seed() -> u64 {
        let given = std::env::var("NYDUS_SEED").ok().map(|seed| seed.parse().unwrap());
        let clock = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        let seed = given.unwrap_or_else(clock);
        println!("NYDUS_SEED={seed}");
        seed
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}
