//! Daemons of an earlier run: what the records say of them, which of them live, and the end of
//! those that no record knows.

use super::{
    DAEMONS, DaemonRecord, Error, Fuse, INSTANCES, Live, SHARED, Served, ServedImage, cached, files,
};
use crate::store::Lookup;
use nydus_mount_slice::Secret;
use nydusd_client::{Daemon, Error as Failed, Mode, Spec, State, clear_stale};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long a daemon of an earlier run may take to be RUNNING.
const SETTLE: Duration = Duration::from_secs(5);
/// How long it may take to answer at all: it does one thing at a time, and may be busy with a
/// slow call of that run.
const ANSWER: Duration = Duration::from_secs(60);

/// A daemon of an earlier run.
pub(in crate::serving) struct Recorded {
    pub(in crate::serving) id: String,
    pub(in crate::serving) spec: Spec,
    /// Its images, and where they are mounted.
    pub(in crate::serving) instances: Vec<(u64, PathBuf)>,
    /// Whether another record names its mountpoint.
    contested: bool,
}

impl Recorded {
    pub(in crate::serving) fn is_shared(&self) -> bool {
        matches!(self.spec.mode, Mode::Shared { .. })
    }
}

impl Fuse {
    /// All daemons of earlier runs. Those that no record knows are ended.
    pub(in crate::serving) fn recorded(&self) -> Result<Vec<Recorded>, Error> {
        cached::remove_unfinished(&self.config.cache);
        let read = self.store.read()?;
        let (daemons, instances) = (read.items(&DAEMONS)?, read.items(&INSTANCES)?);
        for damaged in daemons.damaged.iter().chain(&instances.damaged) {
            tracing::error!(record = damaged, "the record is damaged: its name must do");
        }
        let daemons = self.daemons_recorded(daemons);
        let instances = self.instances_recorded(instances, &daemons);
        let sockets: Vec<_> = daemons.iter().map(|(_, daemon)| &daemon.socket).collect();
        end_strays(
            &self.config.file.daemon.nydusd_path,
            &self.layout.root().join("socket"),
            &sockets,
        );
        let recorded = |(id, daemon): &(String, DaemonRecord)| {
            let own = instances.iter().filter(|(_, instance)| instance.daemon == *id);
            let own =
                own.filter_map(|(number, own)| Some((number.parse().ok()?, own.lower.clone())));
            let instances: Vec<(u64, _)> = own.collect();
            let contests = |(other, daemons): &(String, DaemonRecord)| {
                other != id && daemons.mountpoint == daemon.mountpoint
            };
            let contested = daemons.iter().any(contests);
            let mut spec = match (daemon.shared, instances.first()) {
                (true, _) => self.shared_spec(id),
                (false, first) => self.dedicated_spec(id, first.map_or(0, |(image, _)| *image)),
            };
            spec.apisock.clone_from(&daemon.socket);
            if let Mode::Dedicated { mountpoint, .. } | Mode::Shared { mountpoint } = &mut spec.mode
            {
                mountpoint.clone_from(&daemon.mountpoint);
            }
            Recorded { id: id.clone(), spec, instances, contested }
        };
        Ok(daemons.iter().map(recorded).collect())
    }

    /// Takes a daemon over that runs and answers, and says what it has mounted.
    pub(in crate::serving) async fn adopt(
        &self,
        recorded: &Recorded,
    ) -> Result<(Arc<Live>, Vec<String>), Failed> {
        let (daemon, mounted) = adopt(&recorded.spec).await?;
        let live = Live::new(&recorded.id, daemon, recorded.is_shared());
        tracing::info!(daemon = live.id, pid = live.daemon.pid(), "nydusd is taken over");
        self.watch(&live);
        Ok((live, mounted))
    }

    /// An image of a daemon that was taken over, if that has it mounted.
    pub(in crate::serving) async fn adopted(
        &self,
        live: &Arc<Live>,
        mounted: &[String],
        image: ServedImage,
        lower: PathBuf,
    ) -> Option<Arc<Served>> {
        if live.shared && !mounted.contains(&files::submount(image.id)) {
            let _ = self.forget(None, Some(image.id)).await;
            return None;
        }
        let config = self.config_of(live, &image).await;
        Some(Arc::new(Served { image, lower, config, live: Arc::clone(live) }))
    }

    /// The configuration that it was started with, as far as it can be found.
    async fn config_of(&self, live: &Live, image: &ServedImage) -> Secret {
        let paths = match live.shared {
            true => [SHARED, &live.id].map(|id| self.layout.instance_config(id, image.id)).to_vec(),
            false => vec![self.layout.daemon_config(&live.id)],
        };
        match paths.iter().find_map(|path| fs::read_to_string(path).ok()) {
            Some(config) => config.into(),
            None => self.config(image).await.unwrap_or_default(),
        }
    }

    /// Removes what a daemon left that is not there any more.
    pub(in crate::serving) async fn clear(&self, recorded: &Recorded) {
        let Recorded { id, spec, instances, contested } = recorded;
        // Another daemon may serve there now.
        if *contested {
            tracing::warn!(daemon = id, "another record names its mountpoint");
        } else if let Err(error) = clear_stale(spec).await {
            tracing::warn!(daemon = id, %error, "what it left cannot be removed");
        } else {
            files::discard(spec, &self.layout.daemon_config(id));
        }
        let images = instances.iter().map(|(image, _)| Some(*image));
        for image in images.chain([None]) {
            if let Err(error) = self.forget(Some(id), image).await {
                tracing::error!(daemon = id, %error, "the record cannot be removed");
            }
        }
    }
}

/// A daemon that runs and answers, and what it has mounted. One that answers and serves nothing
/// is ended.
async fn adopt(spec: &Spec) -> Result<(Daemon, Vec<String>), Failed> {
    let daemon = Daemon::adopt(spec.clone(), None).await?;
    if let Err(error) = daemon.wait_for(&[State::Running], SETTLE).await {
        if daemon.client().state().await.is_ok_and(|state| state != State::Running) {
            daemon.kill().await?;
            return Err(Failed::Exited(daemon.ended().await, error.to_string()));
        }
        daemon.wait_for(&[State::Running], ANSWER).await?;
    }
    let info = daemon.client().daemon().await?;
    let mounted = info.backend_collection.as_object().map(|all| all.keys().cloned());
    Ok((daemon, mounted.into_iter().flatten().collect()))
}

/// Ends daemons of ours that no record knows: started by a run that was killed right then. The Go
/// snapshotter's have other names and are left alone, as a container may be on them.
fn end_strays(program: &Path, sockets: &Path, known: &[&PathBuf]) {
    let Ok(processes) = fs::read_dir("/proc") else { return };
    for process in processes.flatten().filter(|process| may_be(&process.path(), program)) {
        let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else { continue };
        let Ok(line) = fs::read(process.path().join("cmdline")) else { continue };
        let words: Vec<_> = line.split(|byte| *byte == 0).collect();
        let after = words.iter().skip_while(|word| **word != b"--apisock").nth(1);
        let socket = after.map(|word| PathBuf::from(String::from_utf8_lossy(word).into_owned()));
        let stray = |socket: &PathBuf| files::is_ours(sockets, socket) && !known.contains(&socket);
        if let Some(socket) = socket.filter(stray) {
            tracing::warn!(pid = pid.as_raw_nonzero(), socket = %socket.display(), "a nydusd that no record knows is ended");
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Whether a process may be `program`, by its name: reading its command line would wait for one
/// that hangs in its own memory, whoever's it is.
fn may_be(process: &Path, program: &Path) -> bool {
    /// Longest name, bytes (`TASK_COMM_LEN`).
    const NAME: usize = 15;
    let Ok(name) = fs::read(process.join("comm")) else { return false };
    let program = program.file_name().unwrap_or_default().as_bytes();
    [program, b"nydusd"].iter().any(|word| name.trim_ascii_end() == &word[..word.len().min(NAME)])
}
