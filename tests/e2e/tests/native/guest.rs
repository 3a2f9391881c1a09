//! The same on another kernel: the tier `kernels` prepares an image here and runs this there.
//!
//! `NATIVE_PREPARE` is a directory to make; `NATIVE_PREPARED` is one that was made, `NATIVE_WAY`
//! the way that its kernel is expected to take: `File`, `Loop` or `None`.

use crate::world::{World, check_equal, loops};
use nydus_e2e::facts::Facts;
use nydus_e2e::rafs::{Form, Recipe};
use nydus_e2e::run::run;
use nydus_e2e::{lacks, not_run, seen, specimens};
use rafs_erofs::{Cache, Native, Placement, Promotion, probe};
use rustix::mount::{MountFlags, mount};
use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

#[test]
fn prepare() {
    // Nothing to do where nobody asks for it.
    let Some(directory) = variable("NATIVE_PREPARE") else { return };
    let make = |number: usize, layer: &Path| match number {
        0 => specimens::tree(layer, 0),
        _ => fs::write(layer.join("common"), b"of the upper layer").expect("a file"),
    };
    let Some(world) = World::of(&Recipe::of(Form::Layers), 2, make) else { return };
    let facts = world.fill();
    fs::write(directory.join("facts.json"), serde_json::to_vec(&facts).expect("JSON"))
        .expect("facts");
    fs::copy(&world.rafs.bootstrap, directory.join("image.boot")).expect("a bootstrap");
    let mut copy = Command::new("cp");
    let ran = run(copy.args(["-a", "--sparse=always"]).arg(&world.cache).arg(&directory));
    assert!(ran.ok(), "{ran}");
}

#[test]
fn prepared() {
    let Some(directory) = variable("NATIVE_PREPARED") else { return };
    let expected = std::env::var("NATIVE_WAY").expect("a way");
    let found = probe(&directory);
    seen!(
        "complete RAFS images: {}",
        match &found {
            Ok(way) => format!("{way:?}"),
            Err(why) => why.to_string(),
        }
    );
    let way = found.as_ref().map_or("None".to_owned(), |way| format!("{way:?}"));
    assert_eq!(way, expected, "{found:?}");
    let Ok(way) = found else { return };
    let facts = fs::read(directory.join("facts.json")).expect("facts");
    let facts: Facts = serde_json::from_slice(&facts).expect("facts");
    let native = promote(&directory, &directory.join("cache"), &directory.join("native"));
    check_equal("on the disk", &native, &facts, &[way]);
    with_verity(&directory, way, &facts);
    assert_eq!(loops(&directory), Vec::<PathBuf>::new());
}

fn promote(directory: &Path, cache: &Path, into: &Path) -> Native {
    let bootstrap = &directory.join("image.boot");
    let promotion = Promotion { bootstrap, cache, into, verity: true, shared: &BTreeSet::new() };
    promotion.run(&mut |_| ControlFlow::Continue(())).expect("a promotion")
}

/// On an ext4 that has fs-verity, files are guarded by it, and nydusd's are not.
fn with_verity(directory: &Path, way: rafs_erofs::Way, facts: &Facts) {
    if !Path::new("/sys/fs/ext4/features/verity").exists() {
        return lacks!("fs-verity");
    }
    let (image, point) = (directory.join("ext4"), directory.join("verity"));
    let mut make = Command::new("mke2fs");
    let ran =
        run(make.args(["-q", "-t", "ext4", "-b", "4096", "-O", "verity"]).arg(&image).arg("300M"));
    if !ran.ok() {
        return not_run!("no mke2fs: {}", ran.said());
    }
    fs::create_dir(&point).expect("a directory");
    let mut attach = Command::new("losetup");
    let ran = run(attach.args(["--find", "--show"]).arg(&image));
    assert!(ran.ok(), "{ran}");
    let device = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
    mount(&*device, &point, "ext4", MountFlags::empty(), None).expect("ext4");
    let ran = run(Command::new("cp").arg("-a").arg(directory.join("cache")).arg(&point));
    assert!(ran.ok(), "{ran}");
    let native = promote(directory, &point.join("cache"), &point.join("native"));
    assert!(native.devices().all(|device| device.verity && device.placement == Placement::Copy));
    check_equal("with fs-verity", &native, facts, &[way]);
    let data = point.join("native/0");
    assert!(fs::OpenOptions::new().write(true).open(&data).is_err(), "{}", data.display());
    // Another file with the same bytes, but without a guard.
    fs::copy(&data, point.join("copy")).expect("a copy");
    fs::rename(point.join("copy"), &data).expect("a file");
    let changed = native.check().expect_err("a file without fs-verity");
    assert_eq!(changed.how, rafs_erofs::How::Verity);
    assert!(Cache::new(point.join("cache")).data("x").starts_with(&point));
    rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH).expect("unmounted");
    let ran = run(Command::new("losetup").arg("--detach").arg(&device));
    assert!(ran.ok(), "{ran}");
}
