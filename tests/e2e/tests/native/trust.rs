//! What is not the image is never mounted.

use crate::world::{WAYS, World, check_equal, loops};
use nydus_e2e::rafs::{Form, Recipe};
use nydus_e2e::specimens::noise;
use rafs_erofs::{Cache, Error, How, Native, Placement, Way};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Two layers, so two devices, with several chunks each.
fn world() -> Option<World> {
    let make = |number: usize, layer: &Path| {
        for file in 0..6_u64 {
            let name = format!("{number}-{file}");
            fs::write(layer.join(name), noise(file + 10 * number as u64, 150_001)).expect("a file");
        }
    };
    World::of(&Recipe { chunk: 64 << 10, ..Recipe::of(Form::Layers) }, 2, make)
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("a byte");
}

fn resize(path: &Path, by: i64) {
    let file = OpenOptions::new().write(true).open(path).expect("a file");
    let length = file.metadata().expect("a file").len();
    file.set_len(length.checked_add_signed(by).expect("a length")).expect("a file");
}

/// A cache in which something is wrong is not promoted.
#[test]
fn damaged_caches() {
    let Some(world) = world() else { return };
    world.fill();
    let image = world.image();
    let whole = world.stage.join("whole");
    fs::rename(&world.cache, &whole).expect("a cache");
    let blob = |number: usize| image.blobs[number].id.as_str();
    let last = *image.chunks_of(1).last().expect("a chunk");
    // What is done to the cache, and the beginning of what is said.
    type Harm<'a> = Box<dyn Fn(&Cache) + 'a>;
    let damaged = |number: usize, at: u64| {
        format!("cached data of blob {} at byte {at} has not the digest", blob(number))
    };
    let chunks = image.chunks.len();
    let map = |number: usize| world.cache.join(format!("{}.chunk_map", blob(number)));
    let missing = |number| chunks - image.chunks_of(number).len();
    let table: Vec<(&str, Harm<'_>, String)> = vec![
        ("the first byte", Box::new(|cache| flip(&cache.data(blob(0)), 0)), damaged(0, 0)),
        (
            "the last byte",
            Box::new(|cache| flip(&cache.data(blob(1)), last.end() - 1)),
            damaged(1, last.offset),
        ),
        (
            "what fills up a block",
            Box::new(|cache| flip(&cache.data(blob(1)), last.end())),
            damaged(1, last.offset),
        ),
        (
            "truncated",
            Box::new(|cache| resize(&cache.data(blob(0)), -1)),
            format!("{} of {chunks} chunks are cached", missing(0)),
        ),
        (
            "extended",
            Box::new(|cache| resize(&cache.data(blob(1)), 4096)),
            format!("{} of {chunks} chunks are cached", missing(1)),
        ),
        (
            "no data",
            Box::new(|cache| fs::remove_file(cache.data(blob(0))).expect("it")),
            format!("{} of {chunks} chunks are cached", missing(0)),
        ),
        (
            "a bit of the map",
            Box::new(|_| flip_bit(&map(0), 0)),
            format!("{} of {chunks} chunks are cached", chunks - 1),
        ),
        (
            "no map",
            Box::new(|_| fs::remove_file(map(1)).expect("it")),
            format!("{} of {chunks} chunks are cached", missing(1)),
        ),
        (
            "a cut map",
            Box::new(|_| resize(&map(1), -1)),
            format!("{} of {chunks} chunks are cached", missing(1)),
        ),
        (
            "blobs exchanged",
            Box::new(|cache| {
                let (first, second) = (cache.data(blob(0)), cache.data(blob(1)));
                fs::rename(&first, world.stage.join("aside")).expect("it");
                fs::rename(&second, &first).expect("it");
                fs::rename(world.stage.join("aside"), &second).expect("it");
            }),
            String::new(),
        ),
    ];
    for (case, harm, expected) in table {
        copy(&whole, &world.cache);
        harm(&Cache::new(&world.cache));
        let error = world.promote("native").expect_err(case).to_string();
        assert!(error.starts_with(&expected), "{case}: {error}");
        assert!(!world.stage.join("native").exists(), "{case}");
        fs::remove_dir_all(&world.cache).expect("a cache");
    }
    copy(&whole, &world.cache);
    world.promote("native").expect("a promotion of the whole cache");
}

/// The bit of chunk 0.
fn flip_bit(map: &Path, chunk: u64) {
    let file = OpenOptions::new().read(true).write(true).open(map).expect("a map");
    let (mut byte, at) = ([0], 4096 + chunk / 8);
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ (0x80 >> (chunk % 8))], at).expect("a byte");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a file");
    }
}

/// After a promotion, files that are not what was verified.
#[test]
fn changed_files() {
    let Some(world) = world() else { return };
    let expected = world.fill();
    let directory = world.stage.join("native");
    let [boot, first, second] = ["image.boot", "0", "1"].map(|name| directory.join(name));
    let again = |path: &Path| {
        let copy = path.with_extension("copy");
        fs::copy(path, &copy).expect("a copy");
        same_times(path, &copy);
        fs::rename(copy, path).expect("a file");
    };
    let exchange = || {
        let aside = directory.join("aside");
        for (from, to) in [(&first, &aside), (&second, &first), (&aside, &second)] {
            fs::rename(from, to).expect("a file");
        }
    };
    type Harm<'a> = Box<dyn Fn() + 'a>;
    type Seen = fn(&How) -> bool;
    let table: Vec<(&str, Harm<'_>, &PathBuf, Seen)> = vec![
        ("flipped", Box::new(|| flip(&first, 100)), &first, |how| *how == How::Modified),
        ("flipped", Box::new(|| flip(&boot, 5000)), &boot, |how| *how == How::Modified),
        ("touched", Box::new(|| touch(&second)), &second, |how| *how == How::Modified),
        ("truncated", Box::new(|| resize(&second, -4096)), &second, is_size),
        ("extended", Box::new(|| resize(&boot, 4096)), &boot, is_size),
        ("missing", Box::new(|| fs::remove_file(&first).expect("it")), &first, |how| {
            *how == How::Missing
        }),
        ("another of the same", Box::new(|| again(&second)), &second, |how| *how == How::Replaced),
        ("exchanged", Box::new(exchange), &first, |how| {
            matches!(how, How::Replaced | How::Size(..))
        }),
    ];
    for (case, harm, file, is_right) in table {
        let native = fresh(&world);
        harm();
        let changed = native.check().expect_err(case);
        assert!(changed.file == *file && is_right(&changed.how), "{case}: {changed}");
        for way in WAYS {
            check_refused(case, &native, way, file);
        }
        Native::remove(&directory).expect(case);
        world.renew();
    }
    check_equal("at last", &fresh(&world), &expected, &WAYS);
}

fn is_size(how: &How) -> bool {
    matches!(how, How::Size(..))
}

impl World {
    /// A cache that nothing shares.
    fn renew(&self) {
        let aside = self.stage.join("pristine");
        if !aside.exists() {
            fs::remove_dir_all(&self.cache).expect("a cache");
            self.fill();
            fs::create_dir(&aside).expect("a directory");
        }
        fs::remove_dir_all(&self.cache).expect("a cache");
        self.fill();
    }
}

/// Promotes, and looks that it is as it must be.
fn fresh(world: &World) -> Native {
    let native = world.promote("native").expect("a promotion");
    native.check().expect("nothing changed");
    let loaded = Native::load(native.directory()).expect("a record").expect("a record");
    assert_eq!(loaded.digest(), native.digest());
    loaded
}

fn check_refused(case: &str, native: &Native, way: Way, file: &Path) {
    let target = native.directory().with_file_name("target");
    fs::create_dir_all(&target).expect("a directory");
    match native.mount(way, &target) {
        Err(Error::Changed(changed)) => assert_eq!(changed.file, file, "{case} {way:?}"),
        other => panic!("{case} {way:?}: {other:?}"),
    }
    assert!(fs::read_dir(&target).expect("a directory").next().is_none(), "{case} {way:?}");
    let place = target.parent().expect("a stage");
    assert_eq!(loops(place), Vec::<PathBuf>::new(), "{case} {way:?}");
}

fn same_times(of: &Path, to: &Path) {
    let meta = fs::metadata(of).expect("a file");
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    utimensat(CWD, to, &times, AtFlags::empty()).expect("times");
}

fn touch(path: &Path) {
    File::open(path)
        .and_then(|file| file.set_modified(std::time::SystemTime::UNIX_EPOCH))
        .expect("it");
}

/// Identities of files say nothing about their order: a record that is wrong about it is found out
/// by what the mount shows.
#[test]
fn wrong_order() {
    let Some(world) = world() else { return };
    world.fill();
    let native = fresh(&world);
    let record = native.directory().join("verified.json");
    let text = fs::read_to_string(&record).expect("a record");
    let mut value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let devices = value["devices"].as_array_mut().expect("devices");
    devices.swap(0, 1);
    fs::write(&record, value.to_string()).expect("a record");
    let [first, second, aside] = ["0", "1", "aside"].map(|name| native.directory().join(name));
    for (from, to) in [(&first, &aside), (&second, &first), (&aside, &second)] {
        fs::rename(from, to).expect("a file");
    }
    let native = Native::load(native.directory()).expect("a record").expect("a record");
    if let Err(changed) = native.check() {
        // Files of our own show by their ctime that they got another name.
        assert_eq!(changed.how, How::Modified);
        return;
    }
    for way in WAYS {
        let target = world.stage.join("target");
        fs::create_dir_all(&target).expect("a directory");
        match native.mount(way, &target) {
            Err(Error::Changed(changed)) => {
                assert!(matches!(changed.how, How::Reads(_)), "{way:?}: {changed}");
            }
            other => panic!("{way:?}: {other:?}"),
        }
    }
}

/// nydusd that starts with these caches would serve zeros, or not start.
#[test]
fn mended_caches() {
    let Some(world) = world() else { return };
    let expected = world.fill();
    let (image, cache) = (world.image(), Cache::new(&world.cache));
    let ids: Vec<_> = image.blobs.iter().map(|blob| blob.id.clone()).collect();
    let mend = || cache.mend(&image.blobs, Vec::new).expect("a cache").discarded;
    assert_eq!(mend(), Vec::<String>::new());
    let map = |id: &str| world.cache.join(format!("{id}.chunk_map"));
    type Harm<'a> = &'a dyn Fn(&str);
    let table: [(&str, Harm<'_>); 4] = [
        ("no data", &|id| fs::remove_file(cache.data(id)).expect("it")),
        ("cut data", &|id| resize(&cache.data(id), -4096)),
        ("empty data", &|id| drop(File::create(cache.data(id)).expect("it"))),
        ("cut map", &|id| resize(&map(id), -1)),
    ];
    for (case, harm) in table {
        harm(&ids[1]);
        assert_eq!(mend(), ids[1..], "{case}");
        assert!(!map(&ids[1]).exists() && cache.data(&ids[0]).exists(), "{case}");
        // The other blob is still there; this one is fetched again, and right.
        assert_eq!(world.fill(), expected, "{case}");
    }
}

/// What this crate relies on: nydusd opens complete cache files again and writes nothing to them.
#[test]
fn nydusd_leaves_complete_files_alone() {
    let Some(world) = world() else { return };
    let expected = world.fill();
    let times = || {
        let meta = world.image().blobs.into_iter().map(|blob| {
            let meta = fs::metadata(Cache::new(&world.cache).data(&blob.id)).expect("a file");
            (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
        });
        meta.collect::<Vec<_>>()
    };
    let before = times();
    assert_eq!(world.fill(), expected);
    assert_eq!(times(), before);
}

/// A file that another daemon may write to once more is not used by its name.
#[test]
fn shared_blobs_are_copied() {
    let Some(world) = world() else { return };
    let expected = world.fill();
    let shared = |native: &Native| native.devices().map(|device| device.blob.clone()).collect();
    let shared = shared(&world.promote("alone").expect("a promotion"));
    let native = world.promote_beside("native", &shared).expect("a promotion");
    assert!(native.devices().all(|device| device.placement != Placement::Link));
    check_equal("shared", &native, &expected, &WAYS);
}
