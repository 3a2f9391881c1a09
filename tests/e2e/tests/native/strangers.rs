//! Images of strangers: what the kernel sees in them, and what is opened of them.

use crate::world::{WAYS, World, check_equal};
use nydus_e2e::mounts::mounts;
use nydus_e2e::not_run;
use nydus_e2e::rafs::{Form, Recipe};
use nydus_e2e::run::run;
use nydus_e2e::specimens::noise;
use nydus_e2e::stage::Stage;
use rafs_erofs::properties::{Names, damage, draft, seen};
use rafs_erofs::{Error, How, Native};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// A file with data, and what nobody shall open.
fn make(_: usize, layer: &Path) {
    fs::write(layer.join("data"), noise(1, 50_000)).expect("a file");
    fs::create_dir(layer.join("directory")).expect("a directory");
    let node = |name: &str, kind, device| {
        mknodat(CWD, layer.join(name), kind, Mode::from_raw_mode(0o666), device).expect(name);
    };
    node("fifo", FileType::Fifo, 0);
    node("null", FileType::CharacterDevice, makedev(1, 3));
    symlink("/dev", layer.join("link")).expect("a link");
    symlink("data", layer.join("link-to-data")).expect("a link");
    fs::copy("/usr/bin/id", layer.join("id")).expect("a program");
    fs::set_permissions(layer.join("id"), Permissions::from_mode(0o4755)).expect("setuid");
}

/// The sample check opens regular files of the image, and nothing else that a path may lead to.
#[test]
fn only_regular_files_are_opened() {
    let Some(world) = World::of(&Recipe::of(Form::Directory), 1, make) else { return };
    world.fill();
    let native = world.promote("native").expect("a promotion");
    let record = native.directory().join("verified.json");
    let text = fs::read_to_string(&record).expect("a record");
    let target = world.stage.join("target");
    fs::create_dir(&target).expect("a directory");
    let others =
        ["fifo", "null", "directory", "link-to-data", "link/null", "../target", "/dev/null", ""];
    for path in others {
        let mut value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        value["samples"][0]["path"] = path.into();
        fs::write(&record, value.to_string()).expect("a record");
        let native = Native::load(native.directory()).expect("a record").expect("a record");
        for way in WAYS {
            match native.mount(way, &target) {
                Err(Error::Changed(changed)) => {
                    assert!(matches!(changed.how, How::Reads(_)), "{path} {way:?}: {changed}");
                }
                other => panic!("{path} {way:?}: {other:?}"),
            }
        }
    }
}

/// On the mount itself nothing of the image has an effect; in a container everything has.
#[test]
fn a_container_has_its_devices_and_setuid_programs() {
    let Some(world) = World::of(&Recipe::of(Form::Directory), 1, make) else { return };
    world.fill();
    let native = world.promote("native").expect("a promotion");
    // A user without rights comes to the program.
    fs::set_permissions(world.stage.path(), Permissions::from_mode(0o755)).expect("a directory");
    let names = ["lower", "upper", "work", "root"];
    let [lower, upper, work, root] = names.map(|name| world.stage.join(name));
    for way in WAYS {
        for made in [&lower, &upper, &work, &root] {
            fs::create_dir_all(made).expect("a directory");
        }
        native.mount(way, &lower).expect("a mount");
        let mounts = mounts();
        let mount = mounts.iter().find(|mount| mount.point == lower).expect("the mount");
        for flag in ["ro", "nosuid", "nodev", "nosymfollow"] {
            assert!(mount.options.split(',').any(|is| is == flag), "{flag}: {}", mount.options);
        }
        assert!(File::open(lower.join("null")).is_err(), "{way:?}");
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).expect("overlay");
        for (key, path) in [("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)] {
            fsconfig_set_string(&context, key, path).expect(key);
        }
        fsconfig_create(&context).expect("an overlay");
        show(&context, MountAttrFlags::empty(), &root);
        File::open(root.join("null")).expect("a device that opens");
        assert_eq!(fs::read(root.join("link-to-data")).expect("a file"), noise(1, 50_000));
        let ran = run(Command::new(root.join("id")).arg("-u").uid(65_534).gid(65_534));
        assert!(ran.ok() && ran.stdout == b"0\n", "{way:?}: {ran}");
        for target in [&root, &lower] {
            unmount(target, UnmountFlags::DETACH).expect("unmounted");
        }
    }
}

fn show(context: &rustix::fd::OwnedFd, attributes: MountAttrFlags, target: &Path) {
    let mount = fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).expect("a mount");
    move_mount(&mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).expect("a target");
}

/// Directories with names that no parameter of a mount can hold.
#[test]
fn long_paths() {
    let Some(world) = World::of(&Recipe::of(Form::Directory), 1, make) else { return };
    let expected = world.fill();
    let directory = ["n", "m"].map(|letter| letter.repeat(200)).join("/");
    fs::create_dir_all(world.stage.join(&directory)).expect("a directory");
    let native = world.promote(&format!("{directory}/native")).expect("a promotion");
    check_equal("long paths", &native, &expected, &WAYS);
}

/// Images that were damaged, and that the walker takes nevertheless: it knows what the kernel will
/// show. Nothing in them is opened but directories.
#[test]
fn the_kernel_sees_what_the_walker_sees() {
    let Some(stage) = Stage::of_a_node() else { return not_run!("needs root") };
    if let Err(why) = rafs_erofs::try_way(&stage.join("probe"), rafs_erofs::Way::File) {
        return not_run!("{why}");
    }
    let target = stage.join("target");
    fs::create_dir(&target).expect("a directory");
    let (mut compared, mut refused, mut wrong) = (0, Vec::new(), Vec::new());
    for seed in 0..1500 {
        let draft = draft(seed % 150);
        let mut image = draft.build();
        // Each of them undamaged, too.
        if seed >= 150 {
            damage(seed, &mut image);
        }
        let Ok(expected) = seen(&image) else { continue };
        let devices = draft.blobs.iter().map(|blob| blob.size());
        match mounted(&stage, &image, devices, &target) {
            Ok(()) => {}
            Err(error) => {
                refused.push(format!("{seed}: {error}"));
                continue;
            }
        }
        let mut found = Names::new();
        let listed = list(&target, Path::new(""), &mut found);
        unmount(&target, UnmountFlags::DETACH).expect("unmounted");
        if let Err(error) = listed {
            wrong.push(format!("seed {seed}: {error}"));
        } else if found != expected {
            wrong.push(format!("seed {seed}: the kernel {found:?}\nthe walker {expected:?}"));
        }
        compared += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("{compared} compared, the kernel refused {refused:?}");
    assert!(compared > 300, "{compared} compared, the kernel refused {refused:?}");
}

fn mounted(
    stage: &Stage,
    image: &[u8],
    devices: impl Iterator<Item = u64>,
    target: &Path,
) -> io::Result<()> {
    let path = stage.join("image");
    fs::write(&path, image)?;
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", &path)?;
    for (number, size) in devices.enumerate() {
        let path = stage.join(number.to_string());
        File::create(&path)?.set_len(size)?;
        fsconfig_set_string(&context, "device", &path)?;
    }
    fsconfig_set_flag(&context, "ro")?;
    fsconfig_create(&context)?;
    show(&context, MountAttrFlags::MOUNT_ATTR_RDONLY, target);
    Ok(())
}

fn list(root: &Path, below: &Path, names: &mut Names) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let path = below.join(entry?.file_name());
        let about = fs::symlink_metadata(root.join(&path))?;
        names.insert(path.as_os_str().as_bytes().to_vec(), (about.mode() as u16, about.size()));
        if about.is_dir() {
            list(root, &path, names)?;
        }
    }
    Ok(())
}
