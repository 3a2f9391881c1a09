//! What the real Go snapshotter left, killed in the middle, as `examples/go_fixture.rs` made it.

use flate2::read::GzDecoder;
use nydus_snapshotter::import::{self, Found, Imported, found, open, read, take_over};
use nydus_snapshotter::labels::Labels;
use nydus_snapshotter::layout::Layout;
use nydus_snapshotter::serving::fuse::{DAEMONS, DaemonRecord, INSTANCES, InstanceRecord};
use nydus_snapshotter::store::{Kind, Lookup, Record};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Where the Go snapshotter ran.
const PLACE: &str = "/tmp/nydus-go-fixture/root";
const FILES: [&str; 2] = ["metadata.db", "nydus.db"];

/// A root with the files of this fixture.
fn root(fixture: &str) -> (TempDir, Layout) {
    let directory = tempfile::tempdir().unwrap();
    for file in FILES {
        let packed = File::open(path(fixture).join(file).with_extension("db.gz")).unwrap();
        let mut data = Vec::new();
        GzDecoder::new(packed).read_to_end(&mut data).unwrap();
        fs::write(directory.path().join(file), data).unwrap();
    }
    let layout = Layout::new(directory.path());
    (directory, layout)
}

fn path(fixture: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/go").join(fixture)
}

/// What the Go snapshotter itself told about its records.
fn told(fixture: &str) -> Vec<Record> {
    let lines = fs::read_to_string(path(fixture).join("records.jsonl")).unwrap();
    let parse = |line: &str| {
        let (key, record): (String, Record) = serde_json::from_str(line).unwrap();
        Record { key, ..record }
    };
    lines.lines().map(parse).collect()
}

/// Replaces these bytes, which must be there, everywhere in a file of the root.
fn patch(layout: &Layout, file: &str, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let path = layout.root().join(file);
    let mut data = fs::read(&path).unwrap();
    let places: Vec<_> = (0..data.len()).filter(|at| data[*at..].starts_with(from)).collect();
    assert!(!places.is_empty(), "{}", String::from_utf8_lossy(from));
    for at in places {
        data[at..at + to.len()].copy_from_slice(to);
    }
    fs::write(path, data).unwrap();
}

fn lower(name: &str) -> PathBuf {
    Path::new(PLACE).join(name)
}

#[test]
fn all_is_read() {
    for (fixture, next_id, mode, mountpoint, instance) in [
        ("dedicated", 8, "dedicated", "snapshots/6/mnt", "snapshots/6/mnt"),
        ("shared", 8, "shared", "mnt", "mnt/6"),
        ("large", 251, "", "", ""),
    ] {
        let (_kept, layout) = root(fixture);
        assert_eq!(found(&layout).unwrap(), Found::Go);
        let Imported { records, next_id: next, daemons, instances, warnings } =
            read(layout.root()).unwrap();
        assert_eq!(records, told(fixture), "{fixture}");
        assert_eq!((next, warnings), (next_id, vec![]), "{fixture}");
        let served = usize::from(!mode.is_empty());
        assert_eq!((daemons.len(), instances.len()), (served, served), "{fixture}");
        for (daemon, image) in daemons.iter().zip(&instances) {
            assert_eq!((&*daemon.daemon_mode, &*daemon.fs_driver), (mode, "fusedev"));
            assert_eq!(daemon.mountpoint, lower(mountpoint));
            assert_eq!(daemon.api_socket, lower("socket").join(&daemon.id).join("api.sock"));
            assert_eq!(image.image_id, "localhost:5000/test/image:1");
            assert_eq!((&image.daemon_id, &*image.snapshot_id), (&daemon.id, "6"));
            assert_eq!(image.mountpoint, lower(instance));
        }
    }
}

#[test]
fn all_is_taken_over_and_the_files_stay() {
    for (fixture, shared) in [("dedicated", false), ("shared", true), ("large", false)] {
        let (_kept, layout) = root(fixture);
        let before = FILES.map(|file| fs::read(layout.root().join(file)).unwrap());
        let (store, imported) = take_over(&layout).unwrap();
        assert_eq!(FILES.map(|file| fs::read(layout.root().join(file)).unwrap()), before);
        assert_eq!(found(&layout).unwrap(), Found::Ours);

        let view = store.read().unwrap();
        assert_eq!(view.page("", usize::MAX).unwrap().found, told(fixture));
        let (daemons, instances) = (view.items(&DAEMONS).unwrap(), view.items(&INSTANCES).unwrap());
        let of = |id: &String, socket: &PathBuf, mountpoint: &PathBuf| {
            let (socket, mountpoint) = (socket.clone(), mountpoint.clone());
            (id.clone(), DaemonRecord { socket, mountpoint, shared })
        };
        let known = imported.daemons.iter().map(|d| of(&d.id, &d.api_socket, &d.mountpoint));
        assert_eq!(daemons.found, known.collect::<Vec<_>>());
        let known = imported.instances.iter().map(|instance| {
            let (daemon, lower) = (instance.daemon_id.clone(), instance.mountpoint.clone());
            (instance.snapshot_id.clone(), InstanceRecord { daemon, lower })
        });
        assert_eq!(instances.found, known.collect::<Vec<_>>());

        let made = store.write_blocking(|draft| draft.create(Kind::Active, "n", "", Labels::new()));
        assert_eq!(made.unwrap().id, imported.next_id);
        assert!(view.garbage().unwrap().is_empty());
    }
}

#[test]
fn whose_records_are_there() {
    let cases: [(&[&str], &[&str], Found); 9] = [
        (&[], &[], Found::Empty),
        (&["snapshots"], &[], Found::Empty),
        (&["snapshots/new-123"], &[], Found::Empty),
        (&["snapshots/1"], &[], Found::Lost),
        (&["snapshots/1"], &["nydus.db"], Found::Lost),
        (&["snapshots/1"], &["metadata.db"], Found::Go),
        (&[], &["metadata.db"], Found::Go),
        (&[], &["metadata.db", "snapshots.redb"], Found::Ours),
        (&["snapshots/1"], &["snapshots.redb"], Found::Ours),
    ];
    for (directories, files, expected) in cases {
        let directory = tempfile::tempdir().unwrap();
        for name in directories {
            fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        for name in files {
            fs::write(directory.path().join(name), "x").unwrap();
        }
        let layout = Layout::new(directory.path());
        assert_eq!(found(&layout).unwrap(), expected, "{directories:?} {files:?}");
        // Never touched.
        fs::write(directory.path().join("metadata.db"), "").unwrap();
        let untouched = found(&layout).unwrap();
        assert!(expected == Found::Ours || untouched != Found::Go, "{directories:?} {files:?}");
    }
}

#[test]
fn a_lost_store_is_no_empty_one() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("snapshots/7")).unwrap();
    let layout = Layout::new(directory.path());
    let error = open(&layout, None).err().unwrap().to_string();
    assert!(error.contains("restore one from a backup") && !error.contains('\n'), "{error}");
    assert!(!layout.store().exists());
}

/// An empty store beside directories would give their numbers again, and with them what is in
/// them.
#[test]
fn a_store_without_records_is_not_that_of_a_root_with_snapshots() {
    let lost = |layout: &Layout| {
        fs::create_dir_all(layout.snapshots().join("7")).unwrap();
        let error = open(layout, None).err().unwrap().to_string();
        assert!(error.contains("restore one from a backup") && !error.contains('\n'), "{error}");
    };
    let directory = tempfile::tempdir().unwrap();
    let layout = Layout::new(directory.path());
    // Killed when it made the file: nothing is there yet.
    fs::write(layout.store(), "").unwrap();
    drop(open(&layout, None).unwrap());
    lost(&layout);
    fs::write(layout.store(), "").unwrap();
    lost(&layout);
    let (_kept, layout) = root("shared");
    fs::write(layout.store(), "").unwrap();
    patch(&layout, "metadata.db", b"kind", b"kinx");
    lost(&layout);
    let (_kept, layout) = root("shared");
    fs::write(layout.store(), "").unwrap();
    let store = open(&layout, None).unwrap();
    assert_eq!(store.read().unwrap().page("", usize::MAX).unwrap().found, told("shared"));
}

#[test]
fn records_elsewhere_are_named() {
    let (other, _) = root("shared");
    let directory = tempfile::tempdir().unwrap();
    let layout = Layout::new(directory.path());
    let error = open(&layout, Some(other.path())).err().unwrap().to_string();
    assert!(error.contains("set root to that directory") && !error.contains('\n'), "{error}");
    assert!(!layout.store().exists());
    drop(open(&layout, Some(directory.path())).unwrap());
    // It has a store of its own now.
    drop(open(&layout, Some(other.path())).unwrap());
}

#[test]
fn numbers_of_directories_are_not_given_later_either() {
    let (_kept, layout) = root("shared");
    drop(open(&layout, None).unwrap());
    fs::create_dir_all(layout.snapshots().join("41")).unwrap();
    for _ in 0..2 {
        assert_eq!(open(&layout, None).unwrap().read().unwrap().next_id().unwrap(), 42);
    }
}

#[test]
fn numbers_of_directories_are_not_used_again() {
    let (_kept, layout) = root("shared");
    for name in ["1", "41", "new-99", "99999999999999999999999", "-3"] {
        fs::create_dir_all(layout.snapshots().join(name)).unwrap();
    }
    assert_eq!(read(layout.root()).unwrap().next_id, 42);
}

#[test]
fn a_running_one_is_not_taken_over() {
    for file in FILES {
        let (_kept, layout) = root("shared");
        let held = File::open(layout.root().join(file)).unwrap();
        held.lock().unwrap();
        let error = open(&layout, None).err().unwrap().to_string();
        let expected = "another process uses it: stop the Go snapshotter first";
        assert_eq!(error, format!("{}: {expected}", layout.root().join(file).display()));
        assert!(!layout.store().exists());
        held.unlock().unwrap();
        drop(open(&layout, None).unwrap());
        // The same if it is started beside us.
        held.lock().unwrap();
        assert!(open(&layout, None).err().unwrap().to_string().contains(expected));
    }
}

#[test]
fn a_store_is_stale_after_the_go_snapshotter_ran_again() {
    for file in FILES {
        let (_kept, layout) = root("shared");
        drop(open(&layout, None).unwrap());
        drop(open(&layout, None).unwrap());
        // As another fixture has it, whose last transaction is another one.
        let (other, _) = root("large");
        fs::copy(other.path().join(file), layout.root().join(file)).unwrap();
        let error = open(&layout, None).err().unwrap().to_string();
        assert!(error.contains("move snapshots.redb away"), "{error}");
        fs::remove_file(layout.store()).unwrap();
        drop(open(&layout, None).unwrap());
        fs::write(layout.root().join(file), "damaged").unwrap();
        drop(open(&layout, None).unwrap());
        fs::remove_file(layout.root().join(file)).unwrap();
        drop(open(&layout, None).unwrap());
    }
}

#[test]
fn a_damaged_record_is_left_out_and_named() {
    type Case = (&'static str, &'static [u8], &'static [u8], &'static [&'static str]);
    let cases: [Case; 5] = [
        (
            "metadata.db",
            b"id\x03",
            b"id\x04",
            &[
                r#"snapshot "k8s.io/4/container" is left out: another one has its number 4 too"#,
                r#"snapshot "k8s.io/5/view" is left out: another one has its number 4 too"#,
            ],
        ),
        (
            "metadata.db",
            "ö".as_bytes(),
            b"\xff\xff",
            &[r#"snapshot "k8s.io/2/sha256:base" is left out: a label is damaged"#],
        ),
        (
            "metadata.db",
            b"createdat\x01",
            b"createdat\x07",
            &[r#"snapshot "k8s.io/2/sha256:base" is left out: its createdat is damaged"#],
        ),
        (
            "nydus.db",
            b"{\"ID\"",
            b"{\"ID;",
            &[
                "daemons: ",
                r#"image "6" is left out: its record has no known daemon or no number of a snapshot"#,
            ],
        ),
        ("nydus.db", b"{\"Seq\"", b"[\"Seq\"", &[r#"instances: "6" is left out: damaged at byte"#]),
    ];
    for (file, from, to, warnings) in cases {
        let (_kept, layout) = root("shared");
        patch(&layout, file, from, to);
        let (store, imported) = take_over(&layout).unwrap();
        let got = &imported.warnings;
        for warning in warnings {
            assert!(got.iter().any(|line| line.starts_with(warning)), "{got:?}, not {warning}");
        }
        let left_out = got.iter().filter(|line| line.starts_with("snapshot ")).count();
        assert_eq!(imported.records.len() + left_out, told("shared").len());
        assert_eq!(imported.next_id, 8);
        assert!(store.read().unwrap().garbage().unwrap().is_empty());
    }
}

#[test]
fn what_we_cannot_serve_is_refused() {
    let (_kept, layout) = root("shared");
    patch(&layout, "nydus.db", b"fusedev", b"fscache");
    let error = open(&layout, None).err().unwrap().to_string();
    let expected = "has driver \"fscache\", expected fusedev: remove its images first";
    assert!(error.ends_with(expected), "{error}");
    let cases: [(&str, &[u8], &[u8], &str); 4] = [
        ("metadata.db", b"v1", b"v0", "it has no bucket v1"),
        ("nydus.db", b"v1", b"v0", "it has no bucket v1"),
        ("metadata.db", b"snapshots", b"snapshott", "it has no bucket \"snapshots\""),
        ("nydus.db", b"instances", b"instancet", "it has no bucket \"instances\""),
    ];
    for (file, from, to, expected) in cases {
        let (_kept, layout) = root("shared");
        patch(&layout, file, from, to);
        let error = open(&layout, None).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!layout.store().exists());
    }
}

/// Whatever is in the files: a result, or one line.
#[test]
fn damage_is_an_error_and_nothing_worse() {
    let seed = std::env::var("SEED").ok().map_or(1, |seed| seed.parse().unwrap());
    let mut random = fastrand::Rng::with_seed(seed);
    let (_kept, layout) = root("dedicated");
    let good = FILES.map(|file| fs::read(layout.root().join(file)).unwrap());
    let mut refused = 0;
    for round in 0..3_000 {
        for (file, good) in FILES.iter().zip(&good) {
            fs::write(layout.root().join(file), damage(&mut random, good)).unwrap();
        }
        let read: Result<Imported, import::Error> = read(layout.root());
        refused += u32::from(read.is_err());
        match read {
            Ok(imported) => assert!(imported.next_id > 0),
            Err(error) => assert!(!error.to_string().contains('\n'), "{seed} {round}: {error}"),
        }
    }
    assert!(refused > 300 && refused < 2_700, "{refused}: too little or too much is damaged");
}

/// The file with some bytes changed, or cut, or none.
fn damage(random: &mut fastrand::Rng, good: &[u8]) -> Vec<u8> {
    let mut data = good.to_vec();
    let used: Vec<_> = (0..data.len()).filter(|at| data[*at] != 0).collect();
    for _ in 0..random.usize(0..20) {
        // Mostly where something stands, and beside it.
        let at = random.choice(&used).map_or(0, |at| at + random.usize(0..4)) % data.len();
        let any = random.u8(..);
        data[at] = random.choice([0, 1, 2, 0x7f, 0x80, 0xff, any]).unwrap_or(any);
    }
    if random.usize(0..8) == 0 {
        data.truncate(random.usize(0..data.len()));
    }
    data
}
