//! From the slice to a guest's share, by real `nydusd`; the guest itself is in the tier `guest`.

mod host;
mod moved;
mod undo;

use host::{on, on_stage};
use kata_handoff::{Error, Guest, MOUNTS, Reader, Rootfs, Share};
use nydus_e2e::image::Rafs;
use nydus_e2e::mounts::mounts;
use nydus_e2e::not_run;
use nydus_e2e::run::run;
use nydus_e2e::stage::Stage;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

#[test]
fn containers_come_and_go() {
    for (reader, rafs) in [(Reader::Go, Rafs::V6), (Reader::Rust, Rafs::V5)] {
        on(reader, rafs, async |host| {
            let served = host.share.served();
            for id in ["c1", "a.b_c-D9"] {
                host.guest.add(id, &host.rootfs()).await.expect(id);
                let seen = served.join(id).join("snapshotdir/fs");
                assert_eq!(fs::read_to_string(seen.join("kept")).expect("kept"), "kept");
                fs::write(seen.join(id), "written").expect("the snapshot is written");
                assert!(host.snapshot().join("fs").join(id).exists());
            }
            // Kata's Go runtime shows the guest a view that is read-only but for the snapshot.
            let evil = fs::write(served.join("evil"), "").err().map(|error| error.kind());
            let read_only = std::io::ErrorKind::ReadOnlyFilesystem;
            assert_eq!(evil, (reader == Reader::Go).then_some(read_only));
            let _ = symlink("/", served.join("a.b_c-D9/rootfs/evil"));
            let _ = fs::write(served.join("a.b_c-D9/evil"), "");
            for id in ["c1", "a.b_c-D9", "c1"] {
                host.guest.remove(id).await.expect(id);
            }
            host.is_clean();
            let again = host.guest.add("c1", &host.rootfs()).await.expect_err("used before");
            assert!(matches!(again, Error::UsedId(_)), "{again}");
        });
    }
}

#[test]
fn ids_are_names() {
    on(Reader::Go, Rafs::V6, async |host| {
        let long = "x".repeat(77);
        for id in ["", ".", "..", "-c", "a/b", "a b", "a:b", "a%2f", "\u{e9}", "a\n", &long] {
            let refused = host.guest.add(id, &host.rootfs()).await.expect_err(id);
            assert!(matches!(refused, Error::Id(_)), "{refused}");
        }
        // None leads out of the share, or to all of it.
        let outside = host.stage.join("share/outside");
        fs::create_dir_all(outside.join("snapshotdir")).expect("a directory");
        for id in ["", ".", "..", "../outside", "c1/../../outside", "outside/"] {
            let refused = host.guest.remove(id).await.expect_err(id);
            assert!(matches!(refused, Error::Id(_)), "{refused}");
        }
        fs::remove_dir(outside.join("snapshotdir")).expect("it is there");
        fs::remove_dir(outside).expect("it is there");
    });
}

/// Whatever fails, nothing of it is left; what it says names the culprit.
#[test]
fn failures_are_undone() {
    on(Reader::Go, Rafs::V6, async |host| {
        let good = host.rootfs();
        let truncated = host.stage.join("truncated.boot");
        let bytes = fs::read(&good.bootstrap).expect("a bootstrap");
        fs::write(&truncated, &bytes[..4096.min(bytes.len() / 2)]).expect("a bootstrap");
        let half = host.stage.join("half");
        fs::create_dir_all(half.join("fs")).expect("a directory");
        let bootstrap = |path: &Path| path.display().to_string();
        let rows = [
            (
                "missing",
                Rootfs { bootstrap: bootstrap(Path::new("/missing")), ..good.clone() },
                "No such file",
            ),
            (
                "truncated",
                Rootfs { bootstrap: bootstrap(&truncated), ..good.clone() },
                "UnexpectedEof",
            ),
            ("half", Rootfs { snapshotdir: half, ..good.clone() }, "half/work"),
            ("none", Rootfs { snapshotdir: "/missing".into(), ..good.clone() }, "/missing/fs"),
            ("config", Rootfs { config: "{}".into(), ..good.clone() }, "no backend"),
        ];
        for (id, rootfs, expected) in rows {
            let error = host.guest.add(id, &rootfs).await.expect_err(id).to_string();
            assert!(error.contains(expected), "{id}: {error}");
            assert!(!error.contains("blobcache"), "a configuration is secret: {error}");
            host.is_clean();
        }
        // What was refused before the guest could see anything of it is not used up.
        for id in ["half", "none", "config"] {
            host.guest.add(id, &good).await.expect(id);
            host.guest.remove(id).await.expect(id);
        }
        let twice = Guest::attach(host.share.clone(), host.daemon.client().clone()).await;
        let error = twice.expect_err("served already").to_string();
        assert!(error.contains("/containers"), "{error}");
        host.guest.add("good", &good).await.expect("a good one");
        host.guest.remove("good").await.expect("removed");
    });
}

/// What somebody else has put there stays as it is.
#[test]
fn a_share_wants_a_place_of_its_own() {
    let Some(stage) = Stage::of_a_node() else { return not_run!("not root of the machine") };
    let (used, file) = (stage.join("used"), stage.join("used/rw"));
    fs::create_dir_all(&file).expect("a directory");
    for (root, expected) in
        [(&used, "directory not empty"), (&"/proc/share".into(), "No such file")]
    {
        for reader in [Reader::Go, Reader::Rust] {
            let error = Share::create(root, reader).expect_err("no place").to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!mounts().iter().any(|mount| mount.point.starts_with(root)));
        }
    }
    assert_eq!(fs::read_dir(&used).expect("the directory").count(), 1);
}

/// A file system on which a guest's overlay could not write is refused before anything is made.
#[test]
fn upper_directories_have_needs() {
    on(Reader::Go, Rafs::V6, async |host| {
        let layers = ["L", "U", "W"].map(|layer| host.stage.join(layer));
        let [lower, upper, work] = layers.each_ref().map(|path| path.display());
        let overlay = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        layers.iter().for_each(|layer| fs::create_dir(layer).expect("a directory"));
        for (kind, options, read_only, expected) in [
            ("overlay", &*overlay, false, "no whiteouts: "),
            ("tmpfs", "", true, "read-only filesystem"),
            ("ramfs", "", false, "no trusted extended attributes: "),
        ] {
            let place = host.stage.join(kind);
            fs::create_dir(&place).expect("a directory");
            let mut command = std::process::Command::new("mount");
            command.args(["-t", kind, kind]).arg(&place);
            let ran = run(
                command.args((!options.is_empty()).then_some(["-o", options]).iter().flatten())
            );
            assert!(ran.ok(), "{ran}");
            for part in ["fs", "work"] {
                fs::create_dir(place.join(part)).expect(part);
            }
            let flags = if read_only { MountFlags::RDONLY } else { MountFlags::empty() };
            rustix::mount::mount_remount(&place, flags, "").expect("another mode");
            let rootfs = Rootfs { snapshotdir: place.clone(), ..host.rootfs() };
            let error = host.guest.add(kind, &rootfs).await.expect_err(kind).to_string();
            assert!(error.contains("cannot carry an upper directory"), "{error}");
            assert!(error.contains(expected), "{error}");
            unmount(&place, UnmountFlags::empty()).expect(kind);
            host.is_clean();
        }
    });
}

/// systemd makes the mounts of a host shared. The snapshot is seen once on either side of the
/// share, and what the host has mounted in it is the host's.
#[test]
fn mounts_of_the_host_stay_as_they_are() {
    for reader in [Reader::Go, Reader::Rust] {
        let Some(stage) = Stage::of_a_node() else { return not_run!("not root of the machine") };
        let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
        mount_change("/", shared).expect("shared mounts");
        on_stage(stage, reader, Rafs::V6, async |host| {
            let points = || {
                let points = mounts().into_iter().map(|mount| mount.point);
                points.filter(|point| point.starts_with(host.stage.path())).collect::<Vec<_>>()
            };
            let before = points();
            let foreign = host.snapshot().join("fs/foreign");
            fs::create_dir(&foreign).expect("a directory");
            host.guest.add("c1", &host.rootfs()).await.expect("c1");
            assert_eq!(points().len(), before.len() + 2, "{:?}", points());
            mount("foreign", &foreign, "tmpfs", MountFlags::empty(), None).expect("a mount");
            fs::write(foreign.join("file"), "").expect("a file");
            host.guest.remove("c1").await.expect("c1");
            assert!(foreign.join("file").exists());
            assert_eq!(points(), [before, vec![foreign.clone()]].concat());
            unmount(&foreign, UnmountFlags::empty()).expect("a mount");
        });
    }
}

/// A mount that somebody has made for the share stays as well.
#[test]
fn a_share_takes_away_its_own_only() {
    let Some(stage) = Stage::of_a_node() else { return not_run!("not root of the machine") };
    let root = stage.join("share");
    fs::create_dir(&root).expect("a directory");
    mount("own", &root, "tmpfs", MountFlags::empty(), None).expect("a mount");
    for reader in [Reader::Go, Reader::Rust] {
        let share = Share::create(&root, reader).expect("a share");
        share.remove().expect("nothing is in it");
        let left: Vec<_> = mounts().into_iter().filter(|mount| mount.point == root).collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(fs::read_dir(&root).expect("the directory").count(), 0);
    }
}

/// As many images as one nydusd serves, and not one more.
#[test]
fn a_guest_is_full() {
    on(Reader::Go, Rafs::V6, async |host| {
        let rootfs = host.rootfs();
        let ids: Vec<_> = (0..MOUNTS).map(|number| format!("c{number}")).collect();
        for id in &ids {
            host.guest.add(id, &rootfs).await.expect(id);
        }
        let error = host.guest.add("more", &rootfs).await.expect_err("full");
        assert!(matches!(error, Error::Full(MOUNTS)), "{error}");
        let mount = nydusd_client::Mount::rafs(&rootfs.bootstrap, rootfs.config.clone());
        let refused = host.daemon.client().mount("/rafs/more/lowerdir", &mount).await;
        assert!(refused.is_err(), "nydusd would have taken one more");
        for id in &ids {
            host.guest.remove(id).await.expect(id);
        }
    });
}
