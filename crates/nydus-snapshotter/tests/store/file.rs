//! The file: who may read it, what is refused, what a damaged value does.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use nydus_snapshotter::store::{Draft, Error, Kind, Lookup, Record, Set, Store};
use nydus_snapshotter::usage::Usage;
use redb::{Database, TableDefinition};

use crate::{all, class, labels, line};

fn corrupt(path: &Path, table: &str, key: &[u8], value: &[u8]) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    let definition: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new(table);
    transaction.open_table(definition).unwrap().insert(key, value).unwrap();
    transaction.commit().unwrap();
}

fn fill(draft: &mut Draft<'_>) -> Result<(), Error> {
    for key in ["a", "b", "c"] {
        draft.create(Kind::Active, key, "", labels("x=1"))?;
    }
    draft.commit("base", "b", labels(""), Usage::default())?;
    draft.create(Kind::View, "child", "base", labels("")).map(drop)
}

#[test]
fn only_root_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mode = || path.metadata().unwrap().permissions().mode() & 0o7777;
    drop(Store::open(&path).unwrap());
    assert_eq!(mode(), 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    drop(Store::open(&path).unwrap());
    assert_eq!(mode(), 0o600);
}

#[test]
fn refused_files() {
    let dir = tempfile::tempdir().unwrap();
    let [newer, other, text, held] =
        ["newer", "other", "text", "held"].map(|name| dir.path().join(name));
    drop(Store::open(&newer).unwrap());
    corrupt(&newer, "meta", b"version", &2_u64.to_be_bytes());
    drop(Database::create(&other).unwrap());
    corrupt(&other, "things", b"a", b"b");
    std::fs::write(&text, "no database").unwrap();
    let _held = Store::open(&held).unwrap();
    let missing = dir.path().join("none/store");
    let expected = [
        (&newer, "store has version 2, expected at most 1: start the newer program"),
        (&other, "other: it is a database, but not of snapshots"),
        (&text, "text: "),
        (&held, "held: it is in use by another process"),
        (&missing, "none/store: No such file"),
    ];
    for (path, words) in expected {
        let error = Store::open(path).err().unwrap().to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
    }
    assert_eq!(std::fs::read(&text).unwrap(), b"no database");
}

/// The others are listed, found, changed; the damaged one is named, and nothing of it removed.
#[test]
fn one_damaged_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    Store::open(&path).unwrap().write_blocking(fill).unwrap();
    for damage in [b"".as_slice(), b"garbage", b"{}", b"\xff\xfe", br#"{"id":"secret"}"#] {
        corrupt(&path, "snapshots", b"base", damage);
        let store = Store::open(&path).unwrap();
        let view = store.read().unwrap();
        let page = view.page("", 100).unwrap();
        let found: Vec<_> = page.found.iter().map(|record| record.key.as_str()).collect();
        assert_eq!((found, page.damaged), (vec!["a", "c", "child"], vec!["base".to_owned()]));
        let error = view.stat("base").unwrap_err().to_string();
        assert!(error.starts_with(r#"record "base" is damaged: "#), "{error}");
        assert!(!error.contains("secret"), "{error}");
        assert_eq!(class(&view.parents(&view.stat("child").unwrap())), "damaged");
        let on = |parent| {
            store.write_blocking(move |draft| draft.create(Kind::Active, "d", parent, labels("")))
        };
        assert_eq!(class(&on("base")), "damaged");
        assert_eq!(class(&on("")), "ok");
        let removed = |key| store.write_blocking(move |draft| draft.remove(key));
        assert_eq!(class(&removed("base")), "damaged");
        assert_eq!(class(&removed("d")), "ok");
        let taken = store.write_blocking(|draft| draft.create(Kind::View, "base", "", labels("")));
        assert_eq!(class(&taken), "already exists");
        assert!(!store.read().unwrap().garbage().unwrap().contains(&2));
    }
}

/// A version before kept no index of images, and may have written since: it is right at each open.
#[test]
fn images_are_indexed() {
    let image = || labels("containerd.io/snapshot/nydus-bootstrap=true");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let images = |store: &Store| store.read().unwrap().images().unwrap();
    let expected = |rows: &[(u64, &str)]| {
        rows.iter().map(|(id, key)| (*id, (*key).to_owned())).collect::<BTreeMap<_, _>>()
    };
    let store = Store::open(&path).unwrap();
    let made = store.write_blocking(move |draft| {
        fill(draft)?;
        draft.commit("image", "a", image(), Usage::default())?;
        draft.update("base", &image(), &[])?;
        draft.update("c", &image(), &[]).map(drop)
    });
    made.unwrap();
    assert_eq!(images(&store), expected(&[(1, "image"), (2, "base")]), "committed ones");
    let changed = store.write_blocking(|draft| draft.update("base", &labels(""), &[]));
    changed.unwrap();
    assert_eq!(images(&store), expected(&[(1, "image")]));
    assert_eq!(store.read().unwrap().image_key(1).unwrap().as_deref(), Some("image"));
    drop(store);
    let index: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("images");
    let spoil: [fn(&Path); 3] = [
        |_| {},
        |path| corrupt(path, "images", &9_u64.to_be_bytes(), b"gone"),
        |path| corrupt(path, "images", &1_u64.to_be_bytes(), b"renamed"),
    ];
    for spoil in spoil {
        spoil(&path);
        assert_eq!(images(&Store::open(&path).unwrap()), expected(&[(1, "image")]));
    }
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    assert!(transaction.delete_table(index).unwrap());
    transaction.commit().unwrap();
    drop(database);
    assert_eq!(images(&Store::open(&path).unwrap()), expected(&[(1, "image")]), "no index");
    // What is damaged is what it was, as far as it is known.
    corrupt(&path, "snapshots", b"image", b"garbage");
    let store = Store::open(&path).unwrap();
    assert_eq!(images(&store), expected(&[(1, "image")]));
}

#[test]
fn a_chain_in_a_circle_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let circle = [record("a", 1, "b"), record("b", 2, "a")];
    let store = Store::create_filled(&path, move |draft| draft.import(&circle, 0)).unwrap();
    let view = store.read().unwrap();
    assert_eq!(class(&view.parents(&view.stat("a").unwrap())), "damaged");
}

fn record(key: &str, id: u64, parent: &str) -> Record {
    Record {
        key: key.to_owned(),
        id,
        kind: Kind::Committed,
        parent: parent.to_owned(),
        labels: labels("x=1"),
        created: SystemTime::UNIX_EPOCH,
        updated: SystemTime::UNIX_EPOCH,
        kernel: false,
        usage: Usage { inodes: 1, size: 2 },
    }
}

/// Key, number and parent of each record; the other store's next number; the first new number.
type Import = (&'static [(&'static str, u64, &'static str)], u64, Result<u64, &'static str>);

#[test]
fn takes_over_another_store() {
    let table: &[Import] = &[
        (&[], 0, Ok(1)),
        (&[], 40, Ok(40)),
        (&[("a", 7, ""), ("b", 3, "a")], 0, Ok(8)),
        (&[("a", 7, ""), ("b", 3, "a")], 100, Ok(100)),
        (&[("b", 3, "lost")], 4, Ok(4)),
        (&[("a", 7, ""), ("a", 3, "")], 0, Err("already exists")),
        (&[("a", 7, ""), ("b", 7, "")], 0, Err("invalid argument")),
        (&[("", 7, "")], 0, Err("invalid argument")),
    ];
    for (records, next, expected) in table {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        // What a run that was killed left over.
        std::fs::write(path.with_extension("new"), "half").unwrap();
        let import: Vec<_> =
            records.iter().map(|(key, id, parent)| record(key, *id, parent)).collect();
        let (taken, next) = (import.clone(), *next);
        let made = Store::create_filled(&path, move |draft| draft.import(&taken, next));
        let Ok(first) = expected else {
            assert_eq!(class(&made), expected.unwrap_err());
            assert!(!path.exists(), "{records:?}");
            continue;
        };
        let store = made.unwrap();
        assert!(!path.with_extension("new").exists());
        assert_eq!(all(&store.read().unwrap(), 100), import);
        let new = |draft: &mut Draft<'_>| draft.create(Kind::Active, "new", "", labels(""));
        assert_eq!(store.write_blocking(new).unwrap().id, *first);
        assert_eq!(class(&Store::create_filled(&path, |_| Ok(()))), "already exists");
    }
}

#[test]
fn sets() {
    const DAEMONS: Set<Vec<u32>> = Set::new("daemons");
    const OTHERS: Set<String> = Set::new("daemon");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    let put = |draft: &mut Draft<'_>| {
        draft.put_item(&DAEMONS, "a", &vec![1])?;
        draft.put_item(&DAEMONS, "b", &vec![2])?;
        draft.put_item(&DAEMONS, "a", &vec![3])?;
        draft.put_item(&OTHERS, "a", &"x".to_owned())?;
        draft.remove_item(&DAEMONS, "none");
        Ok((draft.take_number("seq")?, draft.take_number("seq")?))
    };
    assert_eq!(store.write_blocking(put).unwrap(), (1, 2));
    drop(store);
    corrupt(&path, "items", b"daemons/c", b"garbage");
    let store = Store::open(&path).unwrap();
    let view = store.read().unwrap();
    let page = view.items(&DAEMONS).unwrap();
    assert_eq!(page.found, [("a".to_owned(), vec![3]), ("b".to_owned(), vec![2])]);
    assert_eq!(page.damaged, ["daemons/c"]);
    assert_eq!(view.item(&DAEMONS, "b").unwrap(), Some(vec![2]));
    assert_eq!(view.item(&OTHERS, "b").unwrap(), None);
    assert_eq!(class(&view.item(&DAEMONS, "c")), "damaged");
    let remove = |draft: &mut Draft<'_>| {
        draft.remove_item(&DAEMONS, "c");
        Ok(())
    };
    store.write_blocking(remove).unwrap();
    assert_eq!(store.read().unwrap().item(&DAEMONS, "c").unwrap(), None);
    // A view shows the state it was taken of.
    assert_eq!(view.items(&DAEMONS).unwrap().damaged, ["daemons/c"]);
    assert_eq!(store.write_blocking(|draft| draft.take_number("seq")).unwrap(), 3);
}

#[test]
fn survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let lines = |store: &Store| all(&store.read().unwrap(), 2).iter().map(line).collect::<Vec<_>>();
    let store = Store::open(&path).unwrap();
    store.write_blocking(fill).unwrap();
    let before = lines(&store);
    drop(store);
    let expected = [
        r#"a active "" x=1"#,
        r#"base committed "" "#,
        r#"c active "" x=1"#,
        r#"child view "base" "#,
    ];
    assert_eq!(before, expected);
    assert_eq!(lines(&Store::open(&path).unwrap()), expected);
}

/// A change that panics is not made, and nobody waits for it for ever.
#[test]
fn a_panic_ends_one_change() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&root.path().join("s.redb")).unwrap();
    for round in 0..3 {
        let broken = store.write_blocking(|draft| -> Result<(), Error> {
            draft.create(Kind::Active, "broken", "", Default::default())?;
            panic!("as it must")
        });
        assert!(matches!(broken, Err(Error::Storage(_))), "{broken:?}");
        let key = format!("k{round}");
        let made = store
            .write_blocking(move |draft| draft.create(Kind::Active, &key, "", Default::default()));
        assert_eq!(made.unwrap().key, format!("k{round}"));
    }
    assert_eq!(all(&store.read().unwrap(), 10).len(), 3);
}
