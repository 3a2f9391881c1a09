//! After a start of ours: daemons of an earlier run are taken over where they live. What is dead
//! is cleared, and served again when somebody asks for it.

use super::{DAEMONS, DaemonRecord, Error, INSTANCES, Image, Images, Live, SHARED, Served, files};
use crate::store::Lookup;
use nydus_mount_slice::Secret;
use nydusd_client::{Daemon, Error as Failed, Mode, Spec, State, clear_stale};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinSet;

/// How long a daemon of an earlier run may take to be RUNNING.
const SETTLE: Duration = Duration::from_secs(5);
/// How long it may take to answer at all: it does one thing at a time, and may be busy with a
/// slow call of that run.
const ANSWER: Duration = Duration::from_secs(60);

/// An image, where it was mounted, and its slot.
type Held = (Image, PathBuf, OwnedMutexGuard<Option<Arc<Served>>>);

/// A daemon to be taken over. Its images' slots are locked until that is done.
struct Pending {
    id: String,
    spec: Spec,
    instances: Vec<Held>,
    /// Whether another record names its mountpoint.
    contested: bool,
}

/// The slot of the daemon of all images, locked.
type HeldShared = Option<OwnedMutexGuard<Option<Arc<Live>>>>;

impl Images {
    /// Takes over what an earlier run left, beside the calls that come meanwhile: who asks for an
    /// image that is being looked at waits for that. To be called before the first of them; what
    /// it returns is done when all are looked at.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn recover(
        self: &Arc<Self>,
        image: impl Fn(u64) -> Image,
    ) -> Result<impl Future<Output = ()> + Send + 'static, Error> {
        let read = self.store.read()?;
        let (daemons, instances) = (read.items(&DAEMONS)?, read.items(&INSTANCES)?);
        for damaged in daemons.damaged.iter().chain(&instances.damaged) {
            tracing::error!(record = damaged, "the record is damaged: its name must do");
        }
        let daemons = self.daemons_recorded(daemons);
        let instances = self.instances_recorded(instances, &daemons);
        let sockets: Vec<_> = daemons.iter().map(|(_, daemon)| &daemon.socket).collect();
        end_strays(&self.settings.program, &self.layout.root().join("socket"), &sockets);
        let pending = |(id, daemon): &(String, DaemonRecord)| {
            let mine = instances.iter().filter(|(_, instance)| instance.daemon == *id);
            let held = mine.filter_map(|(number, instance)| {
                let number = number.parse().ok()?;
                let slot = self.slot(number).try_lock_owned().ok()?;
                Some((image(number), instance.lower.clone(), slot))
            });
            let contested = |(other, daemons): &(String, DaemonRecord)| {
                other != id && daemons.mountpoint == daemon.mountpoint
            };
            let contested = daemons.iter().any(contested);
            Pending { contested, ..self.pending(id, daemon, held.collect()) }
        };
        let (shared, dedicated): (Vec<_>, Vec<_>) =
            daemons.iter().map(pending).partition(|pending| is_shared(&pending.spec));
        let mut tasks = JoinSet::new();
        for pending in dedicated {
            let images = Arc::clone(self);
            tasks.spawn(async move { images.take_over(pending, &mut None).await });
        }
        let mut held = Arc::clone(&self.shared).try_lock_owned().ok();
        let images = Arc::clone(self);
        tasks.spawn(async move {
            for pending in shared {
                images.take_over(pending, &mut held).await;
            }
        });
        Ok(async move { while tasks.join_next().await.is_some() {} })
    }

    fn pending(&self, id: &str, daemon: &DaemonRecord, instances: Vec<Held>) -> Pending {
        let first = instances.first().map_or(0, |(image, ..)| image.id);
        let mut spec = if daemon.shared {
            files::shared_spec(&self.settings, &self.layout, id)
        } else {
            files::dedicated_spec(&self.settings, &self.layout, id, first)
        };
        spec.apisock.clone_from(&daemon.socket);
        if let Mode::Dedicated { mountpoint, .. } | Mode::Shared { mountpoint } = &mut spec.mode {
            mountpoint.clone_from(&daemon.mountpoint);
        }
        Pending { id: id.to_owned(), spec, instances, contested: false }
    }

    async fn take_over(self: &Arc<Self>, pending: Pending, shared: &mut HeldShared) {
        let id = pending.id.clone();
        match adopt(&pending.spec).await {
            Ok((daemon, mounted)) => {
                let live = self.adopted(daemon, &mounted, pending).await;
                if let Some(shared) = shared.as_mut().filter(|shared| shared.is_none()) {
                    **shared = Some(live);
                }
            }
            // Containers may be on it: nothing of it is touched.
            Err(error @ (Failed::NotReady(..) | Failed::Call(..))) => {
                tracing::error!(daemon = id, %error, "nydusd lives and does not answer: left alone");
                let mut unanswering =
                    self.unanswering.lock().unwrap_or_else(PoisonError::into_inner);
                unanswering.insert(id, (is_shared(&pending.spec), pending.spec.apisock));
            }
            Err(error) => {
                tracing::warn!(daemon = id, %error, "nydusd of an earlier run is not there");
                self.clear(pending).await;
            }
        }
    }

    async fn adopted(
        self: &Arc<Self>,
        daemon: Daemon,
        mounted: &[String],
        pending: Pending,
    ) -> Arc<Live> {
        let live = Live::new(&pending.id, daemon, is_shared(&pending.spec));
        tracing::info!(daemon = live.id, pid = live.daemon.pid(), "nydusd is taken over");
        for (image, lower, mut slot) in pending.instances {
            if live.shared && !mounted.contains(&files::submount(image.id)) {
                let _ = self.forget(None, Some(image.id)).await;
                continue;
            }
            let config = self.config_of(&live, &image).await;
            *slot = Some(Arc::new(Served { image, lower, config, live: Arc::clone(&live) }));
        }
        self.keep_session(&live);
        self.watch(Arc::clone(&live));
        live
    }

    /// The configuration that it was started with, as far as it can be found.
    async fn config_of(&self, live: &Live, image: &Image) -> Secret {
        let paths = match live.shared {
            true => [SHARED, &live.id].map(|id| self.layout.instance_config(id, image.id)).to_vec(),
            false => vec![self.layout.daemon_config(&live.id)],
        };
        match paths.iter().find_map(|path| fs::read_to_string(path).ok()) {
            Some(config) => config.into(),
            None => self.config(image).await.unwrap_or_default(),
        }
    }

    async fn clear(&self, pending: Pending) {
        // Another daemon may serve there now.
        if pending.contested {
            tracing::warn!(daemon = pending.id, "another record names its mountpoint");
        } else if let Err(error) = clear_stale(&pending.spec).await {
            tracing::warn!(daemon = pending.id, %error, "what it left cannot be removed");
        } else {
            files::discard(&pending.spec, &self.layout.daemon_config(&pending.id));
        }
        let images = pending.instances.iter().map(|(image, ..)| Some(image.id));
        for image in images.chain([None]) {
            if let Err(error) = self.forget(Some(&pending.id), image).await {
                tracing::error!(daemon = pending.id, %error, "the record cannot be removed");
            }
        }
    }
}

fn is_shared(spec: &Spec) -> bool {
    matches!(spec.mode, Mode::Shared { .. })
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
