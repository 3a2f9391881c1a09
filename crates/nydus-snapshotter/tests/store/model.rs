//! Many clients at once against a simple model: each change notes itself where it is made, and
//! the notes are played again on the model.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use nydus_snapshotter::store::{Draft, Error, Kind, Lookup, Record, Store};
use nydus_snapshotter::usage::Usage;

use crate::{Random, all, class, labels};

const CLIENTS: u64 = 8;
const CHANGES: u64 = 2_500;
const KEYS: u64 = 40;

#[derive(Clone, Debug)]
enum Change {
    Create(Kind, String, String),
    Commit(String, String),
    Remove(String),
    Update(String, String),
    /// What a layer that nobody unpacks does.
    CreateAndCommit(String, String),
}

/// A change in the order in which it was made, the class of its answer and its record's number.
type Note = (Change, &'static str, Option<u64>);

fn change(random: &mut Random) -> Change {
    let mut key = || format!("k{}", random.below(KEYS));
    let (first, second) = (key(), key());
    let parent = if random.below(3) == 0 { String::new() } else { second.clone() };
    match random.below(10) {
        0..=2 => Change::Create(Kind::Active, first, parent),
        3 => Change::Create(Kind::View, first, parent),
        4..=5 => Change::Commit(first, second),
        6..=7 => Change::Remove(first),
        8 => Change::Update(first, second),
        _ => Change::CreateAndCommit(first, parent),
    }
}

fn make(draft: &mut Draft<'_>, change: &Change) -> Result<Record, Error> {
    match change {
        Change::Create(kind, key, parent) => draft.create(*kind, key, parent, labels("made=1")),
        Change::Commit(name, key) => {
            draft.commit(name, key, labels("done=1"), Usage { inodes: 1, size: 2 })
        }
        Change::Remove(key) => draft.remove(key),
        Change::Update(key, value) => draft.update(key, &labels(&format!("set={value}")), &[]),
        Change::CreateAndCommit(name, parent) => {
            draft.create(Kind::Active, "temporary", parent, labels("made=1"))?;
            draft.commit(name, "temporary", labels("done=1"), Usage::default())
        }
    }
}

#[derive(Clone, Default)]
struct Model {
    snapshots: BTreeMap<String, (u64, Kind, String, String)>,
    garbage: Vec<u64>,
    last: u64,
}

impl Model {
    fn make(&mut self, change: &Change) -> Result<u64, &'static str> {
        match change {
            Change::Create(kind, key, parent) => self.create(*kind, key, parent),
            Change::Commit(name, key) => self.commit(name, key),
            Change::Remove(key) => self.remove(key),
            Change::Update(key, value) => {
                let found = self.snapshots.get_mut(key).ok_or("not found")?;
                found.3 = format!("set={value}");
                Ok(found.0)
            }
            Change::CreateAndCommit(name, parent) => {
                let before = self.clone();
                let made = self.create(Kind::Active, "temporary", parent);
                let done = made.and_then(|_| self.commit(name, "temporary"));
                if done.is_err() {
                    *self = before;
                }
                done
            }
        }
    }

    fn create(&mut self, kind: Kind, key: &str, parent: &str) -> Result<u64, &'static str> {
        match self.snapshots.get(parent) {
            None if !parent.is_empty() => return Err("not found"),
            Some((_, kind, ..)) if *kind != Kind::Committed => return Err("invalid argument"),
            _ if self.snapshots.contains_key(key) => return Err("already exists"),
            _ => self.last += 1,
        }
        let made = (self.last, kind, parent.to_owned(), "made=1".to_owned());
        self.snapshots.insert(key.to_owned(), made);
        Ok(self.last)
    }

    fn commit(&mut self, name: &str, key: &str) -> Result<u64, &'static str> {
        if self.snapshots.contains_key(name) {
            return Err("already exists");
        }
        let (id, kind, parent, _) = self.snapshots.get(key).ok_or("not found")?.clone();
        if kind != Kind::Active {
            return Err("failed precondition");
        }
        self.snapshots.remove(key);
        let done = (id, Kind::Committed, parent, "done=1".to_owned());
        self.snapshots.insert(name.to_owned(), done);
        Ok(id)
    }

    fn remove(&mut self, key: &str) -> Result<u64, &'static str> {
        let id = self.snapshots.get(key).ok_or("not found")?.0;
        if self.snapshots.values().any(|(_, _, parent, _)| parent == key) {
            return Err("failed precondition");
        }
        self.snapshots.remove(key);
        self.garbage.push(id);
        Ok(id)
    }
}

/// One client; every eighth change is given up at once, made or not.
fn client(store: &Store, notes: &Arc<Mutex<Vec<Note>>>, seed: u64) {
    let mut random = Random(seed);
    for _ in 0..CHANGES {
        let (change, notes) = (change(&mut random), Arc::clone(notes));
        let noted = move |draft: &mut Draft<'_>| {
            let made = make(draft, &change);
            let note = (change, class(&made), made.as_ref().ok().map(|record| record.id));
            notes.lock().unwrap().push(note);
            made
        };
        if random.below(8) == 0 {
            let mut given_up = pin!(store.write(noted));
            let _ = given_up.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        } else {
            let answer = store.write_blocking(noted);
            assert!(!matches!(class(&answer), "storage" | "damaged"), "{answer:?}");
            check_seen(store, answer);
        }
    }
}

/// What was answered can be read at once, unless another client changed it since.
fn check_seen(store: &Store, answer: Result<Record, Error>) {
    if let (Ok(record), Ok(view)) = (answer, store.read()) {
        let known = view.find(&record.key).unwrap().is_some_and(|now| now.id == record.id);
        assert!(view.next_id().unwrap() > record.id, "{record:?}");
        let gone = view.garbage().unwrap().contains(&record.id);
        let renamed = || all(&view, 100).iter().any(|now| now.id == record.id);
        assert!(known || gone || renamed(), "{record:?}");
    }
}

/// Every view is consistent in itself.
fn watch(store: &Store, done: &AtomicBool) -> usize {
    let mut views = 0;
    while !done.load(Ordering::Relaxed) {
        let view = store.read().unwrap();
        let (records, garbage) = (all(&view, 7), view.garbage().unwrap());
        for record in &records {
            for parent in view.parents(record).unwrap() {
                assert_eq!(parent.kind, Kind::Committed, "{record:?}");
                assert!(view.has_children(&parent.key).unwrap(), "{parent:?}");
            }
            assert!(!garbage.contains(&record.id), "{record:?}");
        }
        assert_eq!(view.next_id().unwrap(), (records.len() + garbage.len()) as u64 + 1);
        views += 1;
        std::thread::yield_now();
    }
    views
}

fn check(store: &Store, model: &Model) {
    let view = store.read().unwrap();
    let found: BTreeMap<_, _> = all(&view, 3)
        .into_iter()
        .map(|record| {
            let label: Vec<_> =
                record.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            (record.key, (record.id, record.kind, record.parent, label.join(",")))
        })
        .collect();
    assert_eq!(found, model.snapshots);
    let garbage: Vec<_> = view.garbage().unwrap().into_iter().collect();
    let mut expected = model.garbage.clone();
    expected.sort_unstable();
    assert_eq!(garbage, expected);
    for key in model.snapshots.keys() {
        let child = model.snapshots.values().any(|(_, _, parent, _)| parent == key);
        assert_eq!(view.has_children(key).unwrap(), child, "{key}");
    }
}

#[test]
fn many_clients_against_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    let (notes, done, seed) = (Arc::default(), AtomicBool::new(false), Random::seed());
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&store, &done));
        let run = |at| {
            let (store, notes) = (&store, &notes);
            scope.spawn(move || client(store, notes, seed.wrapping_add(at)))
        };
        let clients: Vec<_> = (0..CLIENTS).map(run).collect();
        let failed = clients.into_iter().filter_map(|client| client.join().err()).count();
        done.store(true, Ordering::Relaxed);
        assert_eq!(failed, 0, "clients that failed");
        assert!(watcher.join().unwrap() > 0);
    });
    // Those that were given up may still run: the last one answered ends them.
    store.write_blocking(|_| Ok(())).unwrap();
    let mut model = Model::default();
    let notes = notes.lock().unwrap();
    for (at, (change, class, id)) in notes.iter().enumerate() {
        let expected = model.make(change);
        assert_eq!(
            (*class, *id),
            (expected.err().unwrap_or("ok"), expected.ok()),
            "{at} {change:?}"
        );
    }
    assert!(notes.len() as u64 > CLIENTS * CHANGES * 3 / 4, "{} made", notes.len());
    check(&store, &model);
    drop(store);
    check(&Store::open(&path).unwrap(), &model);
}
