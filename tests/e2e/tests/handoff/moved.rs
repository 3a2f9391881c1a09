//! A guest that may write to the share renames, nests and fills what is in it.

use crate::host::{Host, on};
use kata_handoff::{Reader, Rootfs, Share};
use nydus_e2e::image::Rafs;
use nydus_e2e::mounts::mounts;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// What is done to the directory that holds `c1` and `c2`; `outside` is none of theirs.
type Deed = fn(share: &Path, outside: &Path);

const DEEDS: [(&str, Deed); 9] = [
    ("nothing", |_, _| {}),
    ("renamed", |share, _| rename(share, "c1", "x")),
    ("nested", |share, _| {
        fs::create_dir_all(share.join("y/z")).expect("directories");
        rename(share, "c1", "y/z/c1");
    }),
    ("into the other", |share, _| rename(share, "c1", "c2/rootfs/c1")),
    ("the other into it", |share, _| rename(share, "c2", "c1/rootfs/c2")),
    ("swapped", |share, _| {
        rename(share, "c1", "t");
        rename(share, "c2", "c1");
        rename(share, "t", "c2");
    }),
    ("a link in its place", |share, outside| {
        rename(share, "c1", "x");
        symlink(outside, share.join("c1")).expect("a link");
        symlink(outside, share.join("x/rootfs/link")).expect("a link");
    }),
    ("filled", |share, _| {
        for name in ["c1", "c1/rootfs", "c1/rootfs/a \n\\b", "beside"] {
            let directory = share.join(name);
            fs::create_dir_all(directory.join("some/more")).expect("directories");
            (0..300).for_each(|n| fs::write(directory.join(format!("{n}")), "x").expect("a file"));
        }
    }),
    ("deep", |share, _| {
        let mut at = fs::File::open(share.join("c1/rootfs")).map(OwnedFd::from);
        for _ in 0..1000 {
            let above = at.expect("a directory");
            rustix::fs::mkdirat(&above, "d", Mode::RWXU).expect("a directory");
            let flags = OFlags::PATH;
            at = rustix::fs::openat(&above, "d", flags, Mode::empty()).map_err(Into::into);
        }
    }),
];

fn rename(share: &Path, from: &str, to: &str) {
    fs::rename(share.join(from), share.join(to)).expect("renamed");
}

/// A snapshot of its own.
fn snapshot(host: &Host, id: &str) -> (PathBuf, Rootfs) {
    let directory = host.stage.join(format!("of-{id}"));
    fs::create_dir_all(directory.join("work")).expect("a directory");
    fs::create_dir_all(directory.join("fs/deep/er")).expect("a directory");
    fs::write(directory.join("fs/deep/er/kept"), "kept").expect("a file");
    (directory.clone(), Rootfs { snapshotdir: directory, ..host.rootfs() })
}

/// How often a snapshot is mounted in the share.
fn bound(host: &Host, id: &str) -> usize {
    let share = host.stage.join("share");
    let name = format!("of-{id}");
    let is = |mount: &nydus_e2e::mounts::Mount| {
        mount.point.starts_with(&share) && mount.root.ends_with(&name)
    };
    mounts().iter().filter(|mount| is(mount)).count()
}

/// Writes to an open directory.
fn write(directory: &OwnedFd) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    rustix::fs::openat(directory, "written", flags, Mode::RUSR).map(drop)
}

fn keeps(host: &Host, id: &str) -> bool {
    let kept = host.stage.join(format!("of-{id}/fs/deep/er/kept"));
    fs::read_to_string(kept).is_ok_and(|text| text == "kept")
}

fn check(reader: Reader, test: impl AsyncFn(&Host, &str, &OwnedFd)) {
    for (what, deed) in DEEDS {
        on(reader, Rafs::V6, async |host| {
            let outside = host.stage.join("outside");
            fs::create_dir_all(outside.join("snapshotdir/fs")).expect("a directory");
            fs::create_dir_all(outside.join("rootfs")).expect("a directory");
            for id in ["c1", "c2"] {
                host.guest.add(id, &snapshot(host, id).1).await.expect(id);
                assert_eq!(bound(host, id), 2, "{what}: on either side");
            }
            let writable = match reader {
                Reader::Go => "share/mounts",
                Reader::Rust => "share/rw",
            };
            // As nydusd holds what the guest remembers.
            let upper = host.share.served().join("c1/snapshotdir/fs");
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let held = rustix::fs::open(&upper, flags, Mode::empty()).expect("a directory");
            write(&held).expect("a snapshot is written");
            deed(&host.stage.join(writable), &outside);
            test(host, what, &held).await;
            assert!(keeps(host, "c1") && keeps(host, "c2"), "{reader:?} {what}");
            let left = [outside.join("snapshotdir/fs"), outside.join("rootfs")];
            assert!(left.iter().all(|path| path.exists()), "{reader:?} {what}");
        });
    }
}

/// What is removed is out of the guest, wherever that has put it; what is not removed is not.
#[test]
fn a_snapshot_is_taken_out_wherever_it_is() {
    for reader in [Reader::Go, Reader::Rust] {
        check(reader, async |host, what, held| {
            host.guest.remove("c1").await.unwrap_or_else(|error| panic!("{what}: {error}"));
            let refused = write(held).err();
            assert_eq!(refused, Some(rustix::io::Errno::ROFS), "{reader:?} {what}");
            assert_eq!((bound(host, "c1"), bound(host, "c2")), (0, 2), "{reader:?} {what}");
            host.guest.remove("c2").await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(host.mounted(), Vec::<PathBuf>::new(), "{reader:?} {what}");
        });
    }
}

/// A runtime that died left mounts behind: the next one takes them away, by whatever names.
#[test]
fn a_share_is_cleared_by_others() {
    for reader in [Reader::Go, Reader::Rust] {
        check(reader, async |host, what, _| {
            let found = Share::open(host.stage.join("share"), reader);
            found.remove().unwrap_or_else(|error| panic!("{reader:?} {what}: {error}"));
            assert_eq!(host.mounted(), Vec::<PathBuf>::new(), "{reader:?} {what}");
            assert!(!host.stage.join("share").exists(), "{reader:?} {what}");
        });
    }
}

/// Kata's Go runtime does not bind the share to itself: what is below is found all the same.
#[test]
fn mounts_of_a_share_without_its_own_are_found() {
    let Some(stage) = nydus_e2e::stage::Stage::of_a_node() else {
        return nydus_e2e::not_run!("not root of the machine");
    };
    let [root, snapshot] = ["share", "snapshot"].map(|name| stage.join(name));
    let moved = root.join("mounts/x \n/y");
    fs::create_dir_all(snapshot.join("fs")).expect("a directory");
    fs::write(snapshot.join("fs/kept"), "kept").expect("a file");
    for place in [&moved, &root.join("shared")] {
        fs::create_dir_all(place).expect("a directory");
        rustix::mount::mount_bind(&snapshot, place).expect("a mount");
    }
    mount("tmpfs", moved.join("fs"), "tmpfs", MountFlags::empty(), None).expect("a mount");
    Share::open(&root, Reader::Go).remove().expect("nothing is left");
    assert!(!mounts().iter().any(|mount| mount.point.starts_with(&root)));
    assert!(!root.exists() && snapshot.join("fs/kept").exists());
}
