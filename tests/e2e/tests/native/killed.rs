//! Promotions and mounts that are killed at each of their system calls.

use crate::world::{WAYS, World, check_equal, loops};
use nydus_e2e::mounts::mount_at;
use nydus_e2e::rafs::{Form, Recipe};
use nydus_e2e::service::until;
use nydus_e2e::specimens::noise;
use nydus_e2e::trace::trace;
use rafs_erofs::{Native, Way, unmount};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_promote");

fn world() -> Option<World> {
    let make = |number: usize, layer: &Path| {
        fs::write(layer.join(number.to_string()), noise(number as u64, 9000)).expect("a file");
    };
    World::of(&Recipe::of(Form::Layers), 2, make)
}

/// Old state or new state: no record, or one that is true.
#[test]
fn promotions() {
    let Some(world) = world() else { return };
    let expected = world.fill();
    let into = world.stage.join("native");
    let mut kills = 0;
    for kill in 0.. {
        let mut command = Command::new(PROGRAM);
        command.args([&world.rafs.bootstrap, &world.cache, &into]);
        let code = trace(&mut command, |_, stop| stop.index < kill);
        if let Some(native) = Native::load(&into).expect("a record that is whole or none") {
            native.check().unwrap_or_else(|changed| panic!("killed at {kill}: {changed}"));
            check_equal(&format!("killed at {kill}"), &native, &expected, &[Way::File]);
            Native::remove(&into).expect("removed");
        }
        if code.is_some() {
            assert_eq!(code, Some(0));
            break;
        }
        kills += 1;
    }
    println!("killed {kills} times");
    assert!(kills > 100, "{kills}");
}

#[test]
fn mounts() {
    let Some(world) = world() else { return };
    let expected = world.fill();
    let native = world.promote("native").expect("a promotion");
    for way in WAYS {
        let target = world.stage.join(format!("{way:?}"));
        fs::create_dir(&target).expect("a directory");
        let name = format!("{way:?}").to_lowercase();
        for kill in 0.. {
            let mut command = Command::new(PROGRAM);
            command.arg(native.directory()).arg(&name).arg(&target);
            let code = trace(&mut command, |_, stop| stop.index < kill);
            if mount_at(&target).is_some() {
                assert!(native.is_mounted(&target).expect("mounts"), "{kill}");
                unmount(&target).expect("unmounted");
            }
            // The kernel frees them a moment later.
            let left = || loops(world.stage.path());
            let freed = until(Duration::from_secs(10), || left().is_empty());
            assert!(freed, "killed at {kill}: {:?}", left());
            if code.is_some() {
                assert_eq!(code, Some(0));
                break;
            }
        }
    }
    check_equal("after all", &native, &expected, &WAYS);
}
