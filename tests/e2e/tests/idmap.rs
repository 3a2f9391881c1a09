//! Lower layers with mapped owners: `uidmap=` and `gidmap=`.

use nydus_e2e::mounts::{mount_at, mounts};
use nydus_e2e::programs::{self, BUILDS};
use nydus_e2e::run::{Ran, run};
use nydus_e2e::stage::Stage;
use nydus_e2e::trace::trace;
use nydus_e2e::tree::tree;
use nydus_e2e::{lacks, linux, not_run, seen};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;

const MAPS: &str = "uidmap=0:100000:65536,gidmap=0:100000:65536";
const NAMES: &str = "lowerdir=l1:l2,upperdir=u,workdir=w";
const TINYFS: &str = env!("CARGO_BIN_EXE_tinyfs");

/// Whether this kernel has overlays on id-mapped layers, and we may make them; else it is said.
fn possible() -> bool {
    let ids = fs::read_to_string("/proc/self/uid_map").expect("a map");
    let root = ids.split_whitespace().eq(["0", "0", "4294967295"]);
    if !root {
        not_run!("id-mapped layers need root of the machine");
    }
    if !linux(5, 19) {
        lacks!("id-mapped layers (5.19)");
    }
    root && linux(5, 19)
}

/// A stage with two layers; the files in the upper one are owned as they are named, `UID:GID`.
fn stage() -> Stage {
    let stage = Stage::with(&["l1", "l2", "u", "w", "t"]);
    fill(&stage.join("l1"));
    fs::write(stage.join("l2/lower"), "lower").expect("a file");
    for name in ["u", "w"] {
        chown(stage.join(name), Some(100_000), Some(100_000)).expect("an owner");
    }
    stage
}

fn fill(layer: &Path) {
    for (uid, gid) in [(0, 0), (5, 6), (1500, 999), (1500, 1000), (65_535, 0), (70_000, 1)] {
        let file = layer.join(format!("{uid}:{gid}"));
        fs::write(&file, "x").expect("a file");
        chown(&file, Some(uid), Some(gid)).expect("an owner");
    }
}

fn helper(stage: &Stage, build: &str, options: &str) -> Command {
    let mut command = stage.command(programs::ours(build));
    command.args(["overlay", "t", "-o", options]);
    command
}

/// What owners become.
type Map = fn(u32) -> u32;

/// Owners through the mount, and of a file that is copied up.
fn check(stage: &Stage, ran: &Ran, uid: Map, gid: Map) {
    assert!(ran.ok() && ran.stderr.is_empty(), "{ran}");
    let merged = stage.join("t");
    let owner = |path: &Path| fs::metadata(path).map(|file| (file.uid(), file.gid())).expect("it");
    let mut seen = 0;
    for entry in fs::read_dir(&merged).expect("the mount").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((user, group)) = name.split_once(':') else { continue };
        let expected = (uid(user.parse().expect("uid")), gid(group.parse().expect("gid")));
        assert_eq!(owner(&entry.path()), expected, "{name} {ran}");
        seen += 1;
    }
    assert_eq!(seen, 6, "{ran}");
    if stage.join("u").exists() && mount_at(&merged).expect("it").overlay().upper.is_some() {
        fs::write(merged.join("5:6"), "written").expect("writable");
        assert_eq!(owner(&stage.join("u/5:6")), (uid(5), gid(6)), "{ran}");
        assert_eq!(owner(&merged.join("5:6")), (uid(5), gid(6)), "{ran}");
    }
}

const NOBODY: u32 = 65_534;

fn shifted(id: u32) -> u32 {
    if id < 65_536 { id + 100_000 } else { NOBODY }
}

#[test]
fn owners() {
    let two: Map = |id| match id {
        0..1000 => id + 200_000,
        1000..65_536 => id - 1000 + 301_000,
        _ => NOBODY,
    };
    let swapped: Map = |id| match id {
        0 => 5,
        5 => 0,
        _ => NOBODY,
    };
    let table: &[(&str, Map, Map)] = &[
        ("uidmap=0:100000:65536,gidmap=0:100000:65536", shifted, shifted),
        ("uidmap=0:200000:1000,1000:301000:64536,gidmap=0:100000:65536", two, shifted),
        ("gidmap=0:200000:1000,1000:301000:64536,ro=,rw,uidmap=0:100000:65536", shifted, two),
        ("uidmap=0:5:1,5:0:1,gidmap=0:0:4294967295", swapped, |id| id),
        ("uidmap=0:1:1,uidmap=0:100000:65536,gidmap=0:100000:65536", shifted, shifted),
    ];
    if !possible() {
        return;
    }
    for (build, (maps, uid, gid)) in
        BUILDS.into_iter().flat_map(|b| table.iter().map(move |r| (b, r)))
    {
        let stage = stage();
        let absolute = NAMES.replace("=", &format!("={}/", stage.path().display()));
        let absolute = absolute.replace(":l2", &format!(":{}/l2", stage.path().display()));
        for names in [NAMES, &absolute] {
            let ran = run(&mut helper(&stage, build, &format!("{names},{maps},extraoption=e30=")));
            check(&stage, &ran, *uid, *gid);
            let shown = mount_at(&stage.join("t")).expect("a mount").superblock;
            assert!(shown.to_string_lossy().contains(names), "{shown:?}");
            stage.unmount_all();
            fs::remove_file(stage.join("u/5:6")).expect("the copy");
        }
    }
}

/// A layer, or the upper and work directory, on a mount below another layer.
#[test]
fn mounts_below_a_layer() {
    if !possible() {
        return;
    }
    if !linux(6, 3) {
        return lacks!("id-mapped layers on tmpfs (6.3)");
    }
    for (build, options) in BUILDS.into_iter().flat_map(|build| {
        let table = ["lowerdir=l1:l1/sub/l", "lowerdir=l1:l2,upperdir=l1/sub/u,workdir=l1/sub/w"];
        table.map(|options| (build, options))
    }) {
        let stage = stage();
        let sub = stage.join("l1/sub");
        fs::create_dir(&sub).expect("a directory");
        mount("x", &sub, "tmpfs", MountFlags::empty(), None).expect("tmpfs");
        for name in ["l", "u", "w"] {
            fs::create_dir(sub.join(name)).expect(name);
        }
        let ran = run(&mut helper(&stage, build, &format!("{options},{MAPS}")));
        assert!(ran.ok(), "{ran}");
        stage.unmount_all();
    }
}

/// Each way to an overlay, with mapped layers.
#[test]
fn every_way() {
    if !possible() {
        return;
    }
    for build in BUILDS {
        for (count, absolute, refuse) in [
            (100, true, None),
            (499, false, None),
            (100, true, Some("fsconfig:error=EINVAL:when=4+")),
            (100, false, Some("fsconfig:error=EINVAL:when=4+")),
        ] {
            let stage = stage();
            let prefix = format!("{}/", stage.path().display());
            let prefix = if absolute { prefix.as_str() } else { "" };
            let mut lower = format!("{prefix}l1");
            for number in 0..count {
                let name = format!("{}{number}", "n".repeat(60));
                fs::create_dir(stage.join(&name)).expect("a layer");
                lower += &format!(":{prefix}{name}");
            }
            let options = format!("lowerdir={lower},upperdir={prefix}u,workdir={prefix}w,{MAPS}");
            let mut command = stage.command("strace");
            command.args(["-f", "-o", "trace"]).args(refuse.map(|rule| format!("--inject={rule}")));
            command.arg(programs::ours(build)).args(["overlay", "t", "-o", &options]);
            check(&stage, &run(&mut command), shifted, shifted);
            assert_eq!(mount_at(&stage.join("t")).expect("it").overlay().lower.len(), count + 1);
        }
    }
}

#[test]
fn propagation() {
    if !possible() {
        return;
    }
    for build in BUILDS {
        let stage = stage();
        let ran = run(&mut helper(&stage, build, &format!("{NAMES},{MAPS},shared,noatime")));
        check(&stage, &ran, shifted, shifted);
        let mount = mount_at(&stage.join("t")).expect("a mount");
        assert_eq!(mount.propagation, ["shared"]);
        assert!(mount.options.contains("noatime"), "{}", mount.options);
    }
}

/// Nothing of the work shows up in a shared tree, and what was open at the end is closed.
#[test]
fn nothing_else_is_seen() {
    if !possible() {
        return;
    }
    for build in BUILDS {
        let stage = stage();
        let base = stage.path();
        mount(c"base", base, c"tmpfs", MountFlags::empty(), None).expect("a tmpfs");
        rustix::mount::mount_change(base, rustix::mount::MountPropagationFlags::SHARED)
            .expect("shared");
        for name in ["l1", "l2", "u", "w", "t"] {
            fs::create_dir(stage.join(name)).expect(name);
        }
        fill(&stage.join("l1"));
        let before = mounts();
        check_tmpfs(&stage, build, &before);
        stage.unmount_all();
    }
}

fn check_tmpfs(stage: &Stage, build: &str, before: &[nydus_e2e::mounts::Mount]) {
    let ran = run(&mut helper(stage, build, &format!("{NAMES},{MAPS}")));
    if !ran.ok() && ran.said().contains("is on tmpfs, which cannot be id-mapped") {
        assert!(!linux(6, 3), "{ran}");
        return lacks!("id-mapped layers on tmpfs (6.3)");
    }
    check(stage, &ran, shifted, shifted);
    seen!("id-mapped layers on tmpfs");
    let fresh: Vec<_> = mounts().into_iter().filter(|mount| !before.contains(mount)).collect();
    assert_eq!(fresh.len(), 1, "{fresh:?}");
    unmount(stage.join("t"), UnmountFlags::empty()).expect("not busy");
    // A mount namespace that somebody kept would keep a copy of this mount, and it busy.
    for name in ["u", "w"] {
        assert!(stage.join(name).exists());
    }
}

/// Layers in an image of erofs, behind FUSE that allows it, and behind FUSE that does not.
#[test]
fn file_systems() {
    if !possible() {
        return;
    }
    for build in BUILDS {
        erofs(build);
        fuse(build);
    }
}

fn erofs(build: &str) {
    let stage = stage();
    fill(&stage.join("l2"));
    let Some(mkfs) = programs::tool("erofs-utils/usr/bin/mkfs.erofs") else {
        return not_run!("no mkfs.erofs");
    };
    let ran = run(Command::new(mkfs).arg(stage.join("image")).arg(stage.join("l2")));
    assert!(ran.ok(), "{ran}");
    let ran = run(Command::new("mount")
        .args(["-t", "erofs", "-o", "loop"])
        .arg(stage.join("image"))
        .arg(stage.join("l1")));
    if !ran.ok() {
        return not_run!("erofs by loop device: {}", ran.said().trim());
    }
    let ran = run(&mut helper(&stage, build, &format!("{NAMES},{MAPS}")));
    check(&stage, &ran, shifted, shifted);
    seen!("id-mapped layers on erofs");
}

fn fuse(build: &str) {
    for option in ["idmap", "plain"] {
        let stage = stage();
        let mut tinyfs = stage.command(TINYFS);
        let ran = run(tinyfs.args(["x", "l2", "-o", option]));
        assert!(ran.ok(), "{ran}");
        // Only then has it told the kernel what it can do.
        fs::read(stage.join("l2/hello")).expect("a file");
        let ran = run(&mut helper(&stage, build, &format!("{NAMES},{MAPS}")));
        let why = "lower layer 2 of 2 'l2' is on fuse, which cannot be id-mapped here \
            (uidmap=, gidmap=): invalid argument\n";
        if option == "idmap" && ran.ok() {
            check(&stage, &ran, shifted, shifted);
            let owner = fs::metadata(stage.join("t/hello")).expect("a file").uid();
            assert_eq!(owner, 101_000);
            seen!("id-mapped layers on FUSE");
        } else {
            assert!(ran.code() == Some(32) && ran.said().ends_with(why), "{ran}");
            assert!(mount_at(&stage.join("t")).is_none());
            if option == "idmap" {
                assert!(!linux(6, 12), "{ran}");
                lacks!("id-mapped layers on FUSE (6.12)");
            }
        }
        stage.unmount_all();
    }
}

#[test]
fn refused() {
    let table = [
        ("uidmap=0:100000:65536", 1, "uidmap= and gidmap= must be given together"),
        ("gidmap=0:1:1", 1, "uidmap= and gidmap= must be given together"),
        (
            "uidmap=0:1,gidmap=0:1:1",
            1,
            "option 'uidmap=0:1' … expected CONTAINER:HOST:SIZE[,CONTAINER:HOST:SIZE]..., decimal, SIZE not 0",
        ),
        ("uidmap=0:1:1,gidmap=0:1:0", 1, "option 'gidmap=0:1:0' … expected CONTAINER:HOST:SIZE"),
        (
            "uidmap=0:0:10,5:50:10,gidmap=0:1:1",
            32,
            "mapping ids by uidmap= and gidmap=: invalid argument",
        ),
        (
            "lowerdir=l1:gone,uidmap=0:1:1,gidmap=0:1:1",
            32,
            "lower layer 2 of 2 'gone': no such file or directory",
        ),
        ("workdir=u,uidmap=0:1:1,gidmap=0:1:1", 32, "upperdir and workdir must not be the same"),
    ];
    for (build, (more, code, text)) in
        BUILDS.into_iter().flat_map(|b| table.iter().map(move |r| (b, r)))
    {
        if *code == 32 && !possible() {
            continue;
        }
        let stage = stage();
        let (before, files) = (mounts(), tree(stage.path()));
        let ran = run(&mut helper(&stage, build, &format!("{NAMES},{more}")));
        assert!(ran.code() == Some(*code) && ran.tells(text), "{ran}");
        assert_eq!(ran.said().lines().count(), 1, "{ran}");
        assert_eq!((mounts(), tree(stage.path())), (before, files), "{ran}");
    }
}

/// Killed at each system call: the mount is there as a whole, or nothing is.
#[test]
fn killed_at_each_system_call() {
    if !possible() {
        return;
    }
    let mut kills = 0;
    for build in BUILDS {
        for kill in 0.. {
            let stage = stage();
            let before = mounts();
            let mut command = helper(&stage, build, &format!("{NAMES},{MAPS}"));
            let code = trace(&mut command, |_, stop| stop.index < kill);
            if mount_at(&stage.join("t")).is_some() {
                let owner = fs::metadata(stage.join("t/5:6")).expect("a file").uid();
                assert_eq!(owner, 100_005, "killed at {kill}");
                stage.unmount_all();
            }
            assert_eq!(mounts(), before, "{build} killed at {kill}");
            if code.is_some() {
                break;
            }
            kills += 1;
        }
    }
    println!("killed {kills} times");
    assert!(kills > 100, "{kills}");
}

#[test]
fn older_kernels_say_so() {
    if !possible() {
        return;
    }
    for (refuse, text) in [
        (
            "mount_setattr:error=ENOSYS",
            "lower layer 1 of 2 'l1' cannot be id-mapped by this kernel",
        ),
        ("fsopen:error=ENOSYS", "mapping ids by uidmap= and gidmap=: function not implemented"),
        ("fsopen:error=EPERM", "operation not permitted"),
        ("mount:error=EINVAL:when=2+", "on id-mapped layers … Linux … 5.19"),
    ] {
        let stage = stage();
        let before = mounts();
        let mut command = stage.command("strace");
        command.args(["-f", "-o", "trace", &format!("--inject={refuse}")]);
        command.arg(programs::ours(BUILDS[0])).args(["overlay", "t", "-o"]);
        let ran = run(command.arg(format!("{NAMES},{MAPS}")));
        assert!(ran.code() == Some(32) && ran.tells(text), "{ran}");
        // We have the capability.
        assert!(!ran.said().contains("must be root"), "{ran}");
        assert_eq!(mounts(), before, "{ran}");
    }
}
