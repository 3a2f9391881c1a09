//! The kernel's mount of an image against nydusd's.

use crate::world::{WAYS, World, check_equal};
use nydus_e2e::facts::facts;
use nydus_e2e::rafs::{Form, Recipe};
use nydus_e2e::specimens;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::fs;
use std::path::Path;

/// nydusd goes on serving the image while the kernel does.
fn check(case: &str, world: &World) {
    let fuse = world.fuse();
    let mut expected = facts(&fuse.mount).expect(case);
    world.settle();
    let wrong = world.correct(&mut expected);
    println!("{case}: nydusd reads {wrong:?} in another way than they are");
    let native = world.promote("native").unwrap_or_else(|error| panic!("{case}: {error}"));
    check_equal(case, &native, &expected, &WAYS);
    fuse.stop();
    let placed: Vec<_> = native.devices().map(|device| device.placement).collect();
    println!("{case}: {} files, {placed:?}", expected.len());
}

fn specimens(number: usize, layer: &Path) {
    specimens::tree(layer, number as u64);
}

#[test]
fn whatever_packs_it() {
    let full = std::env::var_os("NYDUS_FULL").is_some();
    let (compressors, chunks) =
        (["none", "lz4_block", "zstd"], [4 << 10, 64 << 10, 1 << 20, 4 << 20]);
    for (row, compressor) in compressors.into_iter().enumerate() {
        for (column, chunk) in chunks.into_iter().enumerate() {
            // A third of the table has each compressor and each size.
            if !full && (row + column) % 3 != 0 {
                continue;
            }
            let recipe = Recipe { compressor, chunk, ..Recipe::of(Form::Directory) };
            let Some(world) = World::of(&recipe, 1, specimens) else { return };
            check(&format!("{compressor}, chunks of {chunk} bytes"), &world);
        }
    }
}

#[test]
fn digests_by_sha256() {
    let recipe = Recipe { more: &["--digester", "sha256"], ..Recipe::of(Form::Directory) };
    let Some(world) = World::of(&recipe, 1, specimens) else { return };
    check("sha256", &world);
}

/// Layer 0 has everything; those above add, replace, remove and hide.
fn layer(number: usize, layer: &Path) {
    if number == 0 {
        specimens::tree(layer, 0);
    }
    let file = |name: &str, bytes: &[u8]| {
        let path = layer.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect(name);
        fs::write(path, bytes).expect(name);
    };
    let noise = specimens::noise(number as u64, 70_000);
    file(&format!("only/{number}"), &noise);
    file("common", &noise[..5000]);
    file(&format!("of-{number}/a/file"), &noise[..10]);
    file(&format!("of-{number}/b"), b"the same in each layer");
    match number {
        1 => {
            file("sizes/.wh.twin", b"");
            file("names/.wh.crowd", b"");
        }
        2 => {
            file("of-1/.wh..wh..opq", b"");
            file("of-1/new", b"new");
        }
        3 => {
            // A directory for a file, and a file for a directory.
            fs::remove_file(layer.join("common")).expect("a file");
            file("common/file", b"in a directory");
            file("of-2", b"a file");
        }
        4 => {
            // overlayfs's own whiteout is an ordinary device here.
            let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o600));
            mknodat(CWD, layer.join("device"), kind, mode, makedev(0, 0)).expect("a device");
        }
        _ => {}
    }
}

#[test]
fn of_one_to_five_layers() {
    for layers in 1..=5 {
        let recipe = Recipe::of(Form::Layers);
        let Some(world) = World::of(&recipe, layers, layer) else { return };
        assert_eq!(world.image().blobs.len(), layers);
        check(&format!("{layers} layers"), &world);
    }
}

/// Chunks of another image's blob, of which this image needs a part.
#[test]
fn with_a_dictionary() {
    let make = |number: usize, layer: &Path| {
        for file in 0..20_u64 {
            // Half of them are in both.
            let seed = if file < 10 { file } else { file + 100 * number as u64 };
            fs::write(layer.join(file.to_string()), specimens::noise(seed, 300_000)).expect("it");
        }
    };
    for chunk in [64 << 10, 1 << 20] {
        let recipe = Recipe { chunk, ..Recipe::of(Form::Dictionary) };
        let Some(world) = World::of(&recipe, 2, make) else { return };
        assert_eq!(world.image().blobs.len(), 2, "{chunk}");
        check(&format!("dictionary, chunks of {chunk} bytes"), &world);
    }
}

#[test]
fn of_a_crowded_directory() {
    let make = |_: usize, layer: &Path| specimens::crowd(&layer.join("crowd"), 100_000);
    let Some(world) = World::of(&Recipe::of(Form::Directory), 1, make) else { return };
    check("a crowd", &world);
}

/// No blob, no device.
#[test]
fn of_no_data() {
    let make = |_: usize, layer: &Path| {
        fs::create_dir(layer.join("directory")).expect("a directory");
        fs::write(layer.join("empty"), b"").expect("a file");
    };
    let Some(world) = World::of(&Recipe::of(Form::Directory), 1, make) else { return };
    check("no data", &world);
}
