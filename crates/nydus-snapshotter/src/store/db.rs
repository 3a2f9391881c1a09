//! The rules' tables in redb.

use std::ops::Bound;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use redb::{
    Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, TableHandle,
};

use super::disk::Disk;
use super::error::{Error, Result};
use super::kv::{Changes, Entry, Kv, Span, Table};
use super::lookup::number;

/// Version of what this program writes.
const VERSION: u64 = 1;
/// Where the version stands in `meta`.
const VERSION_KEY: &str = "version";
/// Bytes of the file that are kept in memory, at most.
const CACHE: usize = 16 << 20;

type Bytes = &'static [u8];
type Opener = Box<dyn Fn() -> Result<Database> + Send + Sync>;

fn definition(table: Table) -> TableDefinition<'static, Bytes, Bytes> {
    TableDefinition::new(table.name())
}

/// The database. After a failed write redb refuses all others until it is opened again, so
/// that is done here.
pub(super) struct Db {
    open: Opener,
    live: RwLock<Option<Database>>,
}

impl Db {
    /// Opens or makes the file at `path`, mode 0600.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let (file, path) = (path.to_owned(), path.to_owned());
        let at = move |error| match error {
            Error::Storage(why) => Error::Storage(format!("{}: {why}", path.display())),
            other => other,
        };
        let open = |file: &Path| open_database(Disk::open(file)?);
        Self::with_opener(Box::new(move || open(&file).map_err(&at)))
    }

    fn with_opener(open: Opener) -> Result<Self> {
        let live = RwLock::new(Some(open()?));
        Ok(Self { open, live })
    }

    /// The last committed state; waits for no writer.
    pub(super) fn read(&self) -> Result<Reader> {
        self.with(|database| Ok(Reader(database.begin_read()?)))
    }

    /// One durable transaction, if `fill` changes anything.
    pub(super) fn transaction<T>(&self, fill: impl FnOnce(&mut Writing<'_>) -> T) -> Result<T> {
        let outcome = self.with(|database| transact(database, fill));
        if outcome.is_err() {
            self.reopen();
        }
        outcome
    }

    fn with<T>(&self, use_it: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        if self.live.read().unwrap_or_else(PoisonError::into_inner).is_none() {
            let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
            if live.is_none() {
                *live = Some((self.open)()?);
            }
        }
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.as_ref().map_or_else(|| Err(Error::Storage("closed".to_owned())), use_it)
    }

    fn reopen(&self) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        // It must be closed before: it holds the file's lock.
        drop(live.take());
        *live = (self.open)().ok();
    }
}

fn open_database(backend: impl StorageBackend) -> Result<Database> {
    let database = Builder::new().set_cache_size(CACHE).create_with_backend(backend)?;
    check_version(&database)?;
    Ok(database)
}

/// Makes the tables that are missing; refuses those of another version.
fn check_version(database: &Database) -> Result<()> {
    let transaction = database.begin_write()?;
    let names: Vec<_> = transaction.list_tables()?.map(|table| table.name().to_owned()).collect();
    let there = |table: &Table| names.iter().any(|name| name == table.name());
    if names.is_empty() {
        let mut meta = transaction.open_table(definition(Table::Meta))?;
        meta.insert(VERSION_KEY.as_bytes(), VERSION.to_be_bytes().as_slice())?;
    } else {
        let meta = || transaction.open_table(definition(Table::Meta));
        let version = |meta| get(&meta, VERSION_KEY.as_bytes());
        let value = there(&Table::Meta).then(|| version(meta()?)).transpose()?.flatten();
        match value.as_deref().and_then(number) {
            Some(found) if found > VERSION => return Err(Error::Newer { found, known: VERSION }),
            Some(_) => {}
            None => {
                return Err(Error::Storage("it is a database, but not of snapshots".to_owned()));
            }
        }
    }
    if Table::ALL.iter().all(there) {
        return Ok(transaction.abort()?);
    }
    for table in Table::ALL {
        transaction.open_table(definition(table))?;
    }
    Ok(transaction.commit()?)
}

fn transact<T>(database: &Database, fill: impl FnOnce(&mut Writing<'_>) -> T) -> Result<T> {
    let transaction = database.begin_write()?;
    let mut writing = Writing { transaction: &transaction, changed: false, failed: None };
    let filled = fill(&mut writing);
    match writing {
        Writing { failed: Some(error), .. } => return Err(error),
        Writing { changed: true, .. } => transaction.commit()?,
        Writing { changed: false, .. } => transaction.abort()?,
    }
    Ok(filled)
}

/// A transaction that is being written.
pub(super) struct Writing<'a> {
    transaction: &'a redb::WriteTransaction,
    changed: bool,
    failed: Option<Error>,
}

impl Writing<'_> {
    /// Makes the changes. A failure in the middle fails the whole transaction.
    pub(super) fn apply(&mut self, changes: Changes) -> Result<()> {
        let made = self.try_apply(changes);
        self.failed = self.failed.take().or_else(|| made.as_ref().err().cloned());
        made
    }

    fn try_apply(&mut self, changes: Changes) -> Result<()> {
        self.changed |= !changes.is_empty();
        for ((table, key), value) in changes {
            let mut table = self.transaction.open_table(definition(table))?;
            match value {
                Some(value) => drop(table.insert(&*key, &*value)?),
                None => drop(table.remove(&*key)?),
            }
        }
        Ok(())
    }
}

impl Kv for Writing<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        get(&self.transaction.open_table(definition(table))?, key)
    }

    fn scan(&self, table: Table, span: Span<'_>) -> Result<Vec<Entry>> {
        scan(&self.transaction.open_table(definition(table))?, span)
    }
}

/// One committed state of the store, whatever is written meanwhile. Hold it for a short time:
/// the space of what is removed meanwhile is used again only after it is dropped.
pub struct Reader(ReadTransaction);

impl Kv for Reader {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        get(&self.0.open_table(definition(table))?, key)
    }

    fn scan(&self, table: Table, span: Span<'_>) -> Result<Vec<Entry>> {
        scan(&self.0.open_table(definition(table))?, span)
    }
}

fn get(table: &impl ReadableTable<Bytes, Bytes>, key: &[u8]) -> Result<Option<Vec<u8>>> {
    Ok(table.get(key)?.map(|value| value.value().to_vec()))
}

fn scan(table: &impl ReadableTable<Bytes, Bytes>, span: Span<'_>) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in table.range::<&[u8]>((span.start(), Bound::Unbounded))?.take(span.limit) {
        let (key, value) = entry?;
        if !key.value().starts_with(span.prefix) {
            break;
        }
        found.push((key.value().to_vec(), value.value().to_vec()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    /// A file on a disk that is full after so many more bytes.
    #[derive(Debug)]
    struct Filling {
        file: Disk,
        space: Arc<AtomicU64>,
    }

    impl StorageBackend for Filling {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.file.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.file.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            let length = data.len() as u64;
            let take = |space: u64| space.checked_sub(length);
            match self.space.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
                Ok(_) => self.file.write(offset, data),
                Err(_) => Err(io::ErrorKind::StorageFull.into()),
            }
        }

        fn close(&self) -> io::Result<()> {
            self.file.close()
        }
    }

    type Writes = Vec<(u64, Vec<u8>)>;
    /// What the power could leave: the disk, the writes that may be lost, answers up to then.
    type Instants = Vec<(Vec<u8>, Writes, u64)>;

    /// A file whose writes the disk has only once they are synced, and each of those instants.
    #[derive(Debug)]
    struct Losing {
        file: Disk,
        unsynced: Mutex<Writes>,
        instants: Arc<Mutex<Instants>>,
        answers: Arc<AtomicU64>,
    }

    fn locked<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
        of.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    impl StorageBackend for Losing {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read(offset, out)?;
            for (at, data) in locked(&self.unsynced).iter() {
                let end = offset + out.len() as u64;
                let (from, to) = (offset.max(*at), end.min(at + data.len() as u64));
                if from < to {
                    let within = |start| (from - start) as usize..(to - start) as usize;
                    out[within(offset)].copy_from_slice(&data[within(*at)]);
                }
            }
            Ok(())
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.file.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            let mut disk = vec![0; self.file.len()? as usize];
            self.file.read(0, &mut disk)?;
            let writes = std::mem::take(&mut *locked(&self.unsynced));
            writes.iter().try_for_each(|(offset, data)| self.file.write(*offset, data))?;
            let answers = self.answers.load(Ordering::Relaxed);
            locked(&self.instants).push((disk, writes, answers));
            Ok(())
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            locked(&self.unsynced).push((offset, data.to_vec()));
            Ok(())
        }

        fn close(&self) -> io::Result<()> {
            self.file.close()
        }
    }

    fn put(db: &Db, key: u64) -> Result<()> {
        let key = (Table::Items, key.to_be_bytes().to_vec());
        db.transaction(|writing| writing.apply([(key, Some(vec![0; 300]))].into()))?
    }

    fn keys(db: &Db) -> Vec<u64> {
        let span = Span { prefix: &[], after: &[], limit: usize::MAX };
        let entries = db.read().unwrap().scan(Table::Items, span).unwrap();
        entries.iter().filter_map(|(key, _)| number(key)).collect()
    }

    /// Wherever in a write the disk fills: an error, then all that was answered is there, and
    /// with space again it goes on.
    #[test]
    fn a_full_disk() {
        for space in (0..80_000).step_by(2_048) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("store");
            let left = Arc::new(AtomicU64::new(u64::MAX));
            let disk = Arc::clone(&left);
            let open = move || {
                open_database(Filling { file: Disk::open(&path)?, space: Arc::clone(&disk) })
            };
            let db = Db::with_opener(Box::new(open)).unwrap();
            put(&db, 0).unwrap();
            left.store(space, Ordering::Relaxed);
            let answered: Vec<u64> = (1..100).take_while(|key| put(&db, *key).is_ok()).collect();
            assert!(answered.len() < 99, "{space}");
            let error = put(&db, 1_000).unwrap_err();
            assert!(matches!(error, Error::Storage(_)), "{error}");
            left.store(u64::MAX, Ordering::Relaxed);
            let found = keys(&db);
            assert!(found.starts_with(&[0]) && found[1..].starts_with(&answered), "{found:?}");
            put(&db, 2_000).unwrap();
            assert_eq!(keys(&db).last(), Some(&2_000), "{space}");
        }
    }

    /// Whenever the power is cut, and whatever part of what was not synced reaches the disk: all
    /// that was answered is there, and at most what was asked for.
    #[test]
    fn a_power_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let (instants, answers) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let (shared, answered) = (Arc::clone(&instants), Arc::clone(&answers));
        let file = path.clone();
        let open = move || {
            open_database(Losing {
                file: Disk::open(&file)?,
                unsynced: Mutex::default(),
                instants: Arc::clone(&shared),
                answers: Arc::clone(&answered),
            })
        };
        let db = Db::with_opener(Box::new(open)).unwrap();
        // What a new file is made of is no answer yet.
        instants.lock().unwrap().clear();
        for key in 0..12 {
            put(&db, key).unwrap();
            answers.store(key + 1, Ordering::Relaxed);
        }
        drop(db);
        let parts: [fn(usize, usize) -> bool; 5] = [
            |_, _| false,
            |number, all| number < all / 2,
            |number, all| number >= all / 2,
            |number, _| number % 2 == 1,
            |_, _| true,
        ];
        let instants = std::mem::take(&mut *instants.lock().unwrap());
        assert!(instants.len() >= 12, "{}", instants.len());
        for (mut disk, writes, answers) in instants {
            let before = disk.clone();
            for part in parts {
                disk.clone_from(&before);
                for (number, (offset, data)) in writes.iter().enumerate() {
                    if part(number, writes.len()) {
                        let start = usize::try_from(*offset).unwrap();
                        disk[start..start + data.len()].copy_from_slice(data);
                    }
                }
                std::fs::write(&path, &disk).unwrap();
                let found = keys(&Db::open(&path).unwrap());
                let all: Vec<_> = (0..=answers).collect();
                assert!(
                    all.starts_with(&found) && found.len() as u64 >= answers,
                    "{found:?} {answers}"
                );
            }
        }
    }
}
