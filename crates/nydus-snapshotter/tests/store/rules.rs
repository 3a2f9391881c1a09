//! containerd's rules, one line a step.

use nydus_snapshotter::store::{Draft, Lookup, Record, Store};
use nydus_snapshotter::usage::Usage;

use crate::{all, kind, labels, line};

/// Makes one change, written in words; `-` stands for an empty word.
fn step(draft: &mut Draft<'_>, words: &str) -> nydus_snapshotter::store::Result<Record> {
    let words: Vec<&str> =
        words.split(' ').map(|word| if word == "-" { "" } else { word }).collect();
    match words[..] {
        ["create", of, key, parent, with] => draft.create(kind(of), key, parent, labels(with)),
        ["commit", name, key, with] => {
            draft.commit(name, key, labels(with), Usage { inodes: 3, size: 4096 })
        }
        ["remove", key] => draft.remove(key),
        ["update", key, with, paths] => {
            let paths: Vec<_> = paths.split_terminator(';').map(str::to_owned).collect();
            draft.update(key, &labels(with), &paths)
        }
        ["stat", key] => draft.stat(key),
        ["mountable", key] => draft.mountable(key),
        _ => panic!("no such step: {words:?}"),
    }
}

/// Each step with what it answers: the record, or the error.
const STEPS: &[(&str, &str)] = &[
    // Create.
    ("create active a - x=1,y=2", r#"a active "" x=1,y=2"#),
    ("create active a - -", r#"snapshot "a": already exists"#),
    ("create view a - -", r#"snapshot "a": already exists"#),
    ("create active - - -", "name of snapshot is empty: invalid argument"),
    ("create active b p -", r#"missing parent "p" bucket: not found"#),
    ("create view b p -", r#"missing parent "p" bucket: not found"#),
    ("create active a p -", r#"missing parent "p" bucket: not found"#),
    ("create active b a -", r#"parent "a" is not committed snapshot: invalid argument"#),
    ("create active b b -", r#"missing parent "b" bucket: not found"#),
    (
        "create committed b - -",
        "snapshot type committed cannot be created, only active and view: invalid argument",
    ),
    ("create view v - x=1", r#"v view "" x=1"#),
    ("create active b v -", r#"parent "v" is not committed snapshot: invalid argument"#),
    // Commit: labels are not inherited, the key is free again.
    ("commit l1 v -", r#"snapshot "v" is not active: failed precondition"#),
    ("commit l1 none -", r#"failed to get active snapshot "none": not found"#),
    ("commit v a -", r#"committed snapshot "v": already exists"#),
    ("commit a a -", r#"committed snapshot "a": already exists"#),
    ("commit v none -", r#"committed snapshot "v": already exists"#),
    ("commit - a -", "name of committed snapshot is empty: invalid argument"),
    ("commit l1 a z=3", r#"l1 committed "" z=3"#),
    ("stat a", r#"snapshot "a" does not exist: not found"#),
    ("commit l2 a -", r#"failed to get active snapshot "a": not found"#),
    ("commit l2 l1 -", r#"snapshot "l1" is not active: failed precondition"#),
    ("create active a l1 -", r#"a active "l1" "#),
    ("commit l1 a -", r#"committed snapshot "l1": already exists"#),
    ("commit l2 a -", r#"l2 committed "l1" "#),
    ("create view w l2 k=v", r#"w view "l2" k=v"#),
    ("create active c l2 k=v", r#"c active "l2" k=v"#),
    // Mounts.
    ("mountable w", r#"w view "l2" k=v"#),
    ("mountable c", r#"c active "l2" k=v"#),
    ("mountable l2", r#"requested snapshot "l2" not active or view: failed precondition"#),
    ("mountable none", r#"snapshot "none" does not exist: not found"#),
    // Update.
    ("update c x=1,y=2 -", r#"c active "l2" x=1,y=2"#),
    ("update c x=3 labels", r#"c active "l2" x=3"#),
    ("update c x=4,y=5,z=6 labels.y;labels.z", r#"c active "l2" x=3,y=5,z=6"#),
    ("update c y= labels.y;labels.none", r#"c active "l2" x=3,z=6"#),
    ("update c x=9 labels.x;labels.a.b", r#"c active "l2" x=9,z=6"#),
    ("update c a.b=1 labels.a.b", r#"c active "l2" a.b=1,x=9,z=6"#),
    ("update c x=0 kind", r#"cannot update "kind" field on snapshot "c": invalid argument"#),
    (
        "update c x=0 labels.x;parent",
        r#"cannot update "parent" field on snapshot "c": invalid argument"#,
    ),
    ("update c x=0 label", r#"cannot update "label" field on snapshot "c": invalid argument"#),
    ("stat c", r#"c active "l2" a.b=1,x=9,z=6"#),
    ("update l1 q=1 -", r#"l1 committed "" q=1"#),
    ("update none x=1 -", r#"snapshot "none" does not exist: not found"#),
    // Remove.
    ("remove l1", "cannot remove snapshot with child: failed precondition"),
    ("remove l2", "cannot remove snapshot with child: failed precondition"),
    ("remove none", r#"snapshot "none": not found"#),
    ("remove w", r#"w view "l2" k=v"#),
    ("remove w", r#"snapshot "w": not found"#),
    ("create active w - -", r#"w active "" "#),
    ("remove c", r#"c active "l2" a.b=1,x=9,z=6"#),
    ("remove l2", r#"l2 committed "l1" "#),
    ("remove l1", r#"l1 committed "" q=1"#),
];

const LEFT: &[&str] = &[r#"v view "" x=1"#, r#"w active "" "#];

fn check(mut make: impl FnMut(&'static str) -> nydus_snapshotter::store::Result<Record>) {
    for (words, expected) in STEPS {
        let answer = match make(words) {
            Ok(record) => line(&record),
            Err(error) => error.to_string(),
        };
        assert_eq!(answer, *expected, "{words}");
    }
}

#[test]
fn one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    check(|words| store.write_blocking(move |draft| step(draft, words)));
    let view = store.read().unwrap();
    let left: Vec<_> = all(&view, 1).iter().map(line).collect();
    assert_eq!(left, LEFT);
    // Each record had a number of its own, the removed ones are garbage.
    assert_eq!(all(&view, 100).iter().map(|record| record.id).collect::<Vec<_>>(), [2, 6]);
    assert_eq!(view.garbage().unwrap().into_iter().collect::<Vec<_>>(), [1, 3, 4, 5]);
    assert_eq!(view.next_id().unwrap(), 7);
    let forget = |draft: &mut Draft<'_>| {
        draft.forget([1, 4, 9]);
        Ok(())
    };
    store.write_blocking(forget).unwrap();
    let garbage = store.read().unwrap().garbage().unwrap();
    assert_eq!(garbage.into_iter().collect::<Vec<_>>(), [3, 5]);
}

/// A change sees what was changed before it in the same draft.
#[test]
fn in_one_draft() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let whole = |draft: &mut Draft<'_>| {
        check(|words| step(draft, words));
        Ok(())
    };
    store.write_blocking(whole).unwrap();
    let left: Vec<_> = all(&store.read().unwrap(), 100).iter().map(line).collect();
    assert_eq!(left, LEFT);
}

#[test]
fn a_change_that_fails_is_undone_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let half = |draft: &mut Draft<'_>| {
        step(draft, "create active a - -")?;
        step(draft, "commit l a -")?;
        step(draft, "remove none")
    };
    let error = store.write_blocking(half).unwrap_err();
    assert_eq!(error.to_string(), r#"snapshot "none": not found"#);
    let view = store.read().unwrap();
    assert_eq!(all(&view, 100), []);
    assert_eq!(view.next_id().unwrap(), 1);
}

#[test]
fn times_usage_and_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let make = |words| store.write_blocking(move |draft| step(draft, words)).unwrap();
    let prepared = make("create active a - -");
    assert_eq!((prepared.created, prepared.usage), (prepared.updated, Usage::default()));
    let committed = make("commit l a -");
    assert_eq!(committed.id, prepared.id);
    assert_eq!(committed.usage, Usage { inodes: 3, size: 4096 });
    assert_eq!(committed.created, committed.updated);
    assert!(committed.created > prepared.created);
    let updated = make("update l x=1 -");
    assert_eq!((updated.created, updated.usage), (committed.created, committed.usage));
    assert!(updated.updated > committed.updated);
    assert_eq!(store.read().unwrap().stat("l").unwrap(), updated);
}

#[test]
fn parents_nearest_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let chain = |draft: &mut Draft<'_>| {
        for at in 1..=100 {
            let parent = if at == 1 { String::new() } else { format!("l{}", at - 1) };
            draft.create(kind("active"), "a", &parent, labels(""))?;
            draft.commit(&format!("l{at}"), "a", labels(""), Usage::default())?;
        }
        draft.create(kind("view"), "top", "l100", labels(""))
    };
    let top = store.write_blocking(chain).unwrap();
    let view = store.read().unwrap();
    let ids: Vec<_> = view.parents(&top).unwrap().iter().map(|parent| parent.id).collect();
    assert_eq!(ids, (1..=100).rev().collect::<Vec<_>>());
    // `l1` is the start of `l10` and `l100`, but they are not its children.
    assert!(view.has_children("l1").unwrap());
    assert!(view.has_children("l100").unwrap());
    assert!(!view.has_children("top").unwrap());
    assert!(!view.has_children("l").unwrap());
}

/// A label may be a password.
#[test]
fn labels_stay_out_of_debug() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let with = |draft: &mut Draft<'_>| step(draft, "create active a - pullsecret=hunter2");
    let shown = format!("{:?}", store.write_blocking(with).unwrap());
    assert!(shown.contains("pullsecret") && !shown.contains("hunter2"), "{shown}");
}
