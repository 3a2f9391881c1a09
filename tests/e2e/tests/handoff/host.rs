//! A guest's share and its `nydusd`, without the guest.

use kata_handoff::{Guest, Reader, Rootfs, Share};
use nydus_e2e::handoff::{daemon, slice};
use nydus_e2e::image::Rafs;
use nydus_e2e::mounts::mounts;
use nydus_e2e::stage::Stage;
use nydus_e2e::{not_run, programs, service};
use nydus_mount_slice::Mount;
use nydusd_client::{Binary, Daemon};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

/// A stage with a share, served by a nydusd.
pub(crate) struct Host {
    pub(crate) stage: Stage,
    pub(crate) slice: Mount,
    pub(crate) share: Share,
    pub(crate) guest: Guest,
    pub(crate) daemon: Daemon,
}

impl Host {
    pub(crate) fn rootfs(&self) -> Rootfs {
        recognise(&self.slice)
    }

    pub(crate) fn snapshot(&self) -> PathBuf {
        self.stage.join("snapshot")
    }

    /// There is no container in the share, nor anything of one.
    #[track_caller]
    pub(crate) fn is_clean(&self) {
        assert_eq!(self.mounted(), Vec::<PathBuf>::new());
        assert_eq!(self.share.containers().expect("a share"), Vec::<OsString>::new());
        assert_eq!(fs::read_to_string(self.snapshot().join("fs/kept")).expect("kept"), "kept");
    }

    /// What is mounted below the share, but for its own mounts.
    pub(crate) fn mounted(&self) -> Vec<PathBuf> {
        let share = self.stage.join("share");
        let below: Vec<_> = mounts().into_iter().map(|mount| mount.point).collect();
        let own = [share.clone(), share.join("shared"), share.join("ro")];
        let is_left = |point: &PathBuf| point.starts_with(&share) && !own.contains(point);
        below.into_iter().filter(is_left).collect()
    }
}

impl Host {
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.daemon.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process"), signal).expect("a signal");
    }

    /// Whether `nydusd` has an instance there.
    pub(crate) async fn serves(&self, at: &str) -> bool {
        let info = self.daemon.client().daemon().await.expect("nydusd");
        info.backend_collection.get(at).is_some()
    }
}

pub(crate) fn recognise(slice: &Mount) -> Rootfs {
    Rootfs::recognise(std::slice::from_ref(slice), Reader::Rust).expect("a slice")
}

/// Runs `test`; afterwards the share goes, and what the snapshot has in it stays.
pub(crate) fn on(reader: Reader, rafs: Rafs, test: impl AsyncFnOnce(&Host)) {
    match Stage::of_a_node() {
        Some(stage) => on_stage(stage, reader, rafs, test),
        None => not_run!("not root of the machine"),
    }
}

pub(crate) fn on_stage(stage: Stage, reader: Reader, rafs: Rafs, test: impl AsyncFnOnce(&Host)) {
    let (Some(nydusd), Some(slice)) = (programs::tool("nydusd/bin/nydusd"), slice(&stage, rafs))
    else {
        return not_run!("no nydusd, nydus-image or busybox");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        fs::write(stage.join("snapshot/fs/kept"), "kept").expect("a file");
        let binary = Binary::probe(nydusd).await.expect("nydusd");
        let daemon = daemon(&stage, &binary).await;
        let share = Share::create(stage.join("share"), reader).expect("a share");
        let guest = Guest::attach(share.clone(), daemon.client().clone()).await.expect("a guest");
        let host = Host { stage, slice, share, guest, daemon };
        test(&host).await;
        host.share.remove().expect("nothing is left");
        assert!(!host.stage.join("share").exists());
        assert_eq!(host.mounted(), Vec::<PathBuf>::new());
        assert_eq!(fs::read_to_string(host.snapshot().join("fs/kept")).expect("kept"), "kept");
        // Without a machine it does not end when it is asked to.
        host.daemon.kill().await.expect("the end of nydusd");
        assert_eq!(service::naming(host.stage.path()), []);
    });
}
