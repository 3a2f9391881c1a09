//! Guests that do whatever they can, at random: nothing is left on the host, and nothing that they
//! could not reach is lost. Some seconds; ten minutes with `--full`. `NYDUS_SEED` repeats a run.

use kata_handoff::{Guest, Reader, Rootfs, Share};
use nydus_e2e::generate::Rng;
use nydus_e2e::handoff::{daemon, slice};
use nydus_e2e::image::Rafs;
use nydus_e2e::machines::{self, Machine};
use nydus_e2e::mounts::mounts;
use nydus_e2e::node::LIMIT;
use nydus_e2e::stage::Stage;
use nydus_e2e::{not_run, programs, service};
use nydusd_client::{Binary, Daemon};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::Runtime;
use vm_shim::shim::sandbox;

/// Names that are used again and again, so that they meet.
const NAMES: [&str; 8] = ["c0", "c1", "c2", "rootfs", "snapshotdir", "x", "y \n", "moved-1"];
const CONTAINERS: usize = 3;

fn seed() -> u64 {
    let given = std::env::var("NYDUS_SEED").ok().and_then(|text| text.parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    given.unwrap_or_else(|| u64::from(now().subsec_nanos()))
}

/// Calls `round` with the seed and its number until the time is over, but once at least.
fn rounds(short: Duration, mut round: impl FnMut(u64, u64)) {
    let full = std::env::var_os("NYDUS_FULL").is_some();
    let limit = if full { Duration::from_secs(300) } else { short };
    let (seed, start) = (seed(), Instant::now());
    for number in 0.. {
        println!("NYDUS_SEED={seed}, round {number}");
        round(seed, number);
        if start.elapsed() > limit {
            return;
        }
    }
}

/// A path in the share, which may be anything by now.
fn somewhere(rng: &mut Rng, share: &Path) -> PathBuf {
    let parts = 1 + rng.below(3);
    (0..parts).fold(share.to_owned(), |path, _| path.join(rng.pick(&NAMES)))
}

/// One thing that a guest can do; most of them fail. What is in a snapshot is the guest's own, so
/// only what is around it is changed.
fn attack(rng: &mut Rng, share: &Path, outside: &Path) {
    let (one, other) = (somewhere(rng, share), somewhere(rng, share));
    let is_inside = |path: &Path| path.components().any(|part| part.as_os_str() == "fs");
    assert!(!is_inside(&one) && !is_inside(&other));
    let _ = match rng.below(8) {
        0..4 => fs::rename(one, other),
        4 => fs::create_dir_all(one),
        5 => symlink(outside, one),
        6 => fs::write(one, "filled"),
        _ => fs::create_dir_all(&one).and_then(|()| {
            (0..100).try_for_each(|n| fs::write(one.join(format!("{n}")), "filled"))
        }),
    };
}

/// The share of one guest, and a snapshot for each container.
struct Scene {
    guest: Guest,
    daemon: Daemon,
    snapshots: Vec<PathBuf>,
}

async fn scene(stage: &Stage, binary: &Binary, rootfs: &Rootfs, reader: Reader) -> Scene {
    let daemon = daemon(stage, binary).await;
    let share = Share::create(stage.join("share"), reader).expect("a share");
    let guest = Guest::attach(share, daemon.client().clone()).await.expect("a guest");
    let snapshots: Vec<_> =
        (0..CONTAINERS).map(|number| stage.join(format!("snapshot-{number}"))).collect();
    for (number, snapshotdir) in snapshots.iter().enumerate() {
        fs::create_dir_all(snapshotdir.join("work")).expect("a directory");
        fs::create_dir_all(snapshotdir.join("fs")).expect("a directory");
        fs::write(snapshotdir.join("fs/kept"), "kept").expect("a file");
        let rootfs = Rootfs { snapshotdir: snapshotdir.clone(), ..rootfs.clone() };
        guest.add(&format!("c{number}"), &rootfs).await.expect("a container");
    }
    Scene { guest, daemon, snapshots }
}

/// Containers are removed while a guest renames and fills; then runtime or `nydusd` may die.
#[test]
fn a_share_withstands_its_guest() {
    let Some(stage) = Stage::of_a_node() else { return not_run!("not root of the machine") };
    let (Some(nydusd), Some(slice)) =
        (programs::tool("nydusd/bin/nydusd"), slice(&stage, Rafs::V6))
    else {
        return not_run!("no nydusd, nydus-image or busybox");
    };
    let runtime = Runtime::new().expect("a runtime");
    let rootfs = Rootfs::recognise(&[slice], Reader::Rust).expect("a slice");
    let binary = runtime.block_on(Binary::probe(nydusd)).expect("nydusd");
    let outside = stage.join("outside");
    fs::create_dir_all(outside.join("snapshotdir/fs")).expect("a directory");
    rounds(Duration::from_secs(5), |seed, number| {
        let mut rng = Rng::new(seed, number);
        let reader = if rng.chance(50) { Reader::Go } else { Reader::Rust };
        let made = runtime.block_on(scene(&stage, &binary, &rootfs, reader));
        round(&runtime, &mut rng, &stage, reader, made);
        assert!(outside.join("snapshotdir/fs").exists());
    });
}

fn round(runtime: &Runtime, rng: &mut Rng, stage: &Stage, reader: Reader, scene: Scene) {
    let (root, outside) = (stage.join("share"), stage.join("outside"));
    let Scene { guest, daemon, snapshots } = scene;
    let writable = root.join(if reader == Reader::Go { "mounts" } else { "rw" });
    let is_over = AtomicBool::new(false);
    let mut attacker = Rng::new(rng.below(1 << 30) as u64, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                attack(&mut attacker, &writable, &outside);
            }
        });
        for (number, snapshot) in snapshots.iter().enumerate() {
            std::thread::sleep(Duration::from_millis(rng.below(30) as u64));
            if rng.chance(20) {
                let pid = i32::try_from(daemon.pid()).ok().and_then(Pid::from_raw);
                let _ = kill_process(pid.expect("a process"), Signal::KILL);
            }
            if rng.chance(60) {
                // That a directory cannot be removed now may be said; the snapshot is out.
                let removed = runtime.block_on(guest.remove(&format!("c{number}")));
                let bound = |mount: &nydus_e2e::mounts::Mount| {
                    mount.point.starts_with(&root)
                        && mount.root.ends_with(snapshot.file_name().expect("a name"))
                };
                assert!(!mounts().iter().any(bound), "{number}: {removed:?}");
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    // The guest is gone, and so may be the runtime.
    let share = guest.share().clone();
    drop(guest);
    let share = if rng.chance(50) { Share::open(&root, reader) } else { share };
    let removed = share.remove();
    runtime.block_on(daemon.kill()).expect("the end of nydusd");
    removed.expect("nothing is left");
    let left: Vec<_> = mounts().into_iter().map(|mount| mount.point).collect();
    assert!(!left.iter().any(|point| point.starts_with(stage.path())), "{left:?}");
    assert!(!root.exists());
    assert_eq!(service::naming(stage.path()), []);
    for snapshot in snapshots {
        assert_eq!(fs::read_to_string(snapshot.join("fs/kept")).expect("kept"), "kept");
    }
}

/// What a real guest can reach: its snapshot, the share, the port, the console.
const WORK: &str = "echo kept > /data/kept; sync; echo ready
share=/proc/1/root/run/kata-containers/shared/containers
mv $share/c1 $share/x; mkdir $share/evil; ln -s / $share/c1/snapshotdir/link
(while :; do cat /bin/busybox; done) & (while :; do cat /bin/busybox >&2; done) &
(while :; do echo flood; done > /dev/kmsg) & (while :; do find $share | wc -l; done) &
n=0; while :; do n=$((n + 1)); mkdir /data/d$n; mv /data/d$n /data/e$n; echo $n > /data/e$n/f; done";

/// It is killed at any time, or its `nydusd` is.
#[test]
fn a_host_withstands_a_guest() {
    let Some(stage) = Stage::of_a_node() else { return not_run!("not root of the machine") };
    let state = stage.join("vm");
    let Some(settings) = machines::settings("guest-6.1", &state) else {
        return not_run!("no QEMU or no guest kernel");
    };
    let Some(slice) = slice(&stage, Rafs::V6) else { return not_run!("no nydus-image") };
    let runtime = Runtime::new().expect("a runtime");
    rounds(Duration::ZERO, |seed, number| {
        let mut rng = Rng::new(seed, number);
        let slices = std::slice::from_ref(&slice);
        let machine = Machine::start(&runtime, &settings, slices, WORK).expect("a guest");
        let kept = stage.join("snapshot/fs/data/kept");
        let written = || fs::read_to_string(&kept).is_ok_and(|text| text == "kept\n");
        assert!(service::until(LIMIT, written), "it does not begin");
        std::thread::sleep(Duration::from_millis(rng.below(3000) as u64));
        let Machine { sandbox, vm } = machine;
        let directory = settings.directory("test", "c1");
        match rng.below(3) {
            0 => vm.kill(),
            1 => runtime.block_on(sandbox.daemon.kill()).map(drop).expect("the end of nydusd"),
            // The snapshot is taken out while the guest goes on writing to it.
            _ => runtime.block_on(sandbox.guest.remove("c1")).expect("out of the guest"),
        }
        if rng.chance(50) {
            vm.kill();
            runtime.block_on(sandbox.remove()).expect("nothing is left");
        } else {
            // As after a shim that was killed.
            runtime.block_on(sandbox::clear(&directory)).expect("nothing is left");
        }
        drop(vm);
        assert!(!directory.exists());
        assert_eq!(service::naming(&state), []);
        assert!(!mounts().iter().any(|mount| mount.point.starts_with(&state)));
        assert!(written(), "{}", kept.display());
        for part in ["fs/data", "work"] {
            fs::remove_dir_all(stage.join("snapshot").join(part)).expect(part);
        }
        fs::create_dir(stage.join("snapshot/work")).expect("work");
    });
}
