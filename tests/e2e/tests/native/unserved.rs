//! Images that stay with nydusd, and why.

use crate::world::World;
use nydus_e2e::rafs::{Form, Recipe};
use nydus_e2e::{not_run, programs, run::run};
use rafs_erofs::{Error, Image, Unserved};
use std::fs;
use std::path::Path;
use std::process::Command;

fn make(_: usize, layer: &Path) {
    fs::write(layer.join("file"), vec![b'x'; 200_000]).expect("a file");
}

/// Images that `nydus-image` makes.
#[test]
fn of_other_kinds() {
    let Some(program) = programs::nydus_image() else { return not_run!("no nydus-image") };
    let Some(world) = World::of(&Recipe::of(Form::Directory), 1, make) else { return };
    let archive = world.stage.join("layer.tar.gz");
    let mut tar = Command::new("tar");
    let ran =
        run(tar.arg("-czf").arg(&archive).arg("-C").arg(world.stage.join("layer-0")).arg("."));
    assert!(ran.ok(), "{ran}");
    let layer = world.stage.join("layer-0");
    let table: &[(&[&str], &Path, &str)] = &[
        (&["--type", "dir-rafs", "--fs-version", "5"], &layer, "image is RAFS v5"),
        (
            &["--type", "dir-rafs", "--fs-version", "6", "--repeatable"],
            &layer,
            "no owners of its own",
        ),
        (&["--type", "targz-ref", "--fs-version", "6"], &archive, "a gzip blob read by zran"),
    ];
    for (number, (words, source, expected)) in table.iter().enumerate() {
        let directory = world.stage.join(format!("image-{number}"));
        fs::create_dir(&directory).expect("a directory");
        let mut create = Command::new(&program);
        create.args(["create", "--log-level", "warn"]).args(*words);
        create.arg("-B").arg(directory.join("boot")).arg("-D").arg(&directory).arg(source);
        let ran = run(&mut create);
        assert!(ran.ok(), "{ran}");
        let error = Image::open(&directory.join("boot")).expect_err(expected);
        assert!(
            matches!(error, Error::Unserved(_)) && error.to_string().contains(expected),
            "{error}"
        );
    }
}

/// Features that no builder here makes, in the place where a bootstrap has them.
#[test]
fn with_features() {
    let Some(world) = World::of(&Recipe::of(Form::Directory), 1, make) else { return };
    let bytes = fs::read(&world.rafs.bootstrap).expect("a bootstrap");
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a number"));
    let blob = number(1152 + 8) as usize;
    let is = |why: &str| Unserved::Feature(why.to_owned()).to_string();
    let table: &[(usize, u8, String)] = &[
        (1024 + 80, 0x1, is("unknown features 0xd of EROFS")),
        (1152 + 1, 0x2, is("tar files for blobs")),
        (1152 + 3, 0x2, Unserved::Encrypted.to_string()),
        (1152 + 3, 0x10, is("unknown features 0x10000000")),
        (blob + 84, 0x2, is("a blob with the bootstrap in it")),
        (blob + 84, 0x10, is("a blob whose metadata is another blob")),
        (blob + 84, 0x40, is("a blob of tar files")),
        (blob + 84, 0x80, is("a blob with batches of chunks")),
        (blob + 85, 0x01, is("an encrypted blob")),
        (blob + 87, 0x08, is("a blob with unknown features")),
    ];
    for (at, bit, expected) in table {
        let mut bytes = bytes.clone();
        bytes[*at] ^= bit;
        let path = world.stage.join("changed");
        fs::write(&path, &bytes).expect("a bootstrap");
        let error = Image::open(&path).expect_err(expected);
        let expected = expected.split(',').next().unwrap_or_default();
        assert!(error.to_string().starts_with(expected), "{error}, expected {expected}");
    }
}
