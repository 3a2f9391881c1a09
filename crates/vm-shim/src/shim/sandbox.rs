//! What one container needs on the host: a directory, a share, a `nydusd`, a virtual machine.

use super::settings::Settings;
use crate::vm::pid_file;
use kata_handoff::{Guest, Reader, Rootfs, Share, Storage, to_the_end};
use nydusd_client::{Binary, Daemon, Log, Mode, Spec};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long `nydusd` may take to start.
const START: Duration = Duration::from_secs(10);

/// A container's half on the host, but for the machine itself.
pub struct Sandbox {
    directory: PathBuf,
    /// What the machine sees of the host; more containers can come into it.
    pub guest: Guest,
    /// Serves the share; watched by the container.
    pub daemon: Arc<Daemon>,
}

/// What went wrong, in one line.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Sandbox {
    /// Makes all of it. The guest mounts what is returned.
    ///
    /// # Errors
    /// As said; nothing is left then, nor where the future is dropped.
    pub async fn create(
        settings: &Settings,
        directory: PathBuf,
        id: &str,
        rootfs: &Rootfs,
    ) -> Result<(Self, Storage), Failure> {
        rootfs.check()?;
        private(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let (settings, id, rootfs) = (settings.clone(), id.to_owned(), rootfs.clone());
        let place = directory.clone();
        let work = async move {
            match Self::make(&settings, &place, &id, &rootfs).await {
                Ok(made) => Ok(made),
                Err(error) => Err(undone(error, clear(&place).await)),
            }
        };
        to_the_end(work, async move { drop(clear(&directory).await) }).await
    }

    async fn make(
        settings: &Settings,
        directory: &Path,
        id: &str,
        rootfs: &Rootfs,
    ) -> Result<(Self, Storage), Failure> {
        let share = Share::create(directory.join("share"), LAYOUT)?;
        let binary = Binary::probe(&settings.nydusd).await?;
        let mut spec = spec(directory);
        spec.extra = settings.nydusd_args.iter().map(Into::into).collect();
        let daemon = Arc::new(Daemon::start(&binary, spec, START).await?);
        let guest = Guest::attach(share, daemon.client().clone()).await?;
        let storage = guest.add(id, rootfs).await?;
        Ok((Self { directory: directory.to_owned(), guest, daemon }, storage))
    }

    /// Socket on which `nydusd` waits for the machine.
    pub fn vhost_socket(&self) -> PathBuf {
        vhost_socket(&self.directory)
    }

    /// Ends and removes all of it; the machine must be down.
    ///
    /// # Errors
    /// What is left.
    pub async fn remove(&self) -> Result<(), Failure> {
        let stopped = self.daemon.stop().await;
        clear(&self.directory).await?;
        stopped.map(drop).map_err(Into::into)
    }
}

/// The error, and what became of undoing.
pub(super) fn undone(error: Failure, undo: Result<(), Failure>) -> Failure {
    match undo {
        Ok(()) => error,
        Err(left) => format!("{error}; and is left: {left}").into(),
    }
}

/// The layout of Kata's Go runtime: what the guest sees is read-only but for its snapshot.
const LAYOUT: Reader = Reader::Go;

/// A new directory in which nobody else looks. One that is there is somebody else's.
fn private(directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory.parent().unwrap_or(directory))?;
    DirBuilder::new().mode(0o700).create(directory)
}

fn vhost_socket(directory: &Path) -> PathBuf {
    directory.join("fs.sock")
}

fn spec(directory: &Path) -> Spec {
    let mode = Mode::Virtiofs { sock: vhost_socket(directory), hybrid: None };
    let mut spec = Spec::new(mode, directory.join("api.sock"));
    // A guest can make it log as much as it likes: nydusd keeps ten old ones, compressed.
    let log = Some(directory.join("nydusd.log"));
    spec.log = Log { level: "info".to_owned(), file: log, rotation: 1 };
    spec.stderr = Some(directory.join("nydusd.err"));
    spec
}

/// Ends and removes what there is of a machine, also after a shim that was killed.
///
/// # Errors
/// What is left.
pub async fn clear(directory: &Path) -> Result<(), Failure> {
    if !directory.exists() {
        return Ok(());
    }
    // Each for itself: one that does not end keeps its directory, but no mount.
    let machine = end_machine(directory).await;
    let daemon = end_daemon(directory).await;
    let share = clear_share(directory).await;
    machine.and(daemon).and(share)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Never down into a directory: something may be mounted there.
        if !entry.file_type()?.is_dir() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(fs::remove_dir(directory)?)
}

async fn end_daemon(directory: &Path) -> Result<(), Failure> {
    let spec = spec(directory);
    match Daemon::adopt(spec.clone(), None).await {
        Ok(daemon) => drop(daemon.stop().await?),
        Err(_) => nydusd_client::clear_stale(&spec).await?,
    }
    Ok(())
}

/// A guest decides how long that takes.
async fn clear_share(directory: &Path) -> Result<(), Failure> {
    let share = Share::open(directory.join("share"), LAYOUT);
    Ok(tokio::task::spawn_blocking(move || share.remove()).await??)
}

/// Kills the virtual machine of a shim that is dead.
async fn end_machine(directory: &Path) -> Result<(), Failure> {
    let Ok(text) = fs::read_to_string(pid_file(directory)) else { return Ok(()) };
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(()) };
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    // Numbers come back: only a process that was told to write this very file is ours.
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let file = pid_file(directory);
    if !line.split(|&byte| byte == 0).any(|word| word == file.as_os_str().as_encoded_bytes()) {
        return Ok(());
    }
    let _ = pidfd_send_signal(&process, Signal::KILL);
    for _ in 0..250 {
        if !is_alive(pid) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(format!("process {} does not end", pid.as_raw_nonzero()).into())
}

fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| {
        !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Numbers come back: a process that has another's name in it is not killed.
    #[tokio::test]
    async fn only_the_own_machine_is_ended() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("c1");
        for (argument, ends) in [
            (pid_file(&directory), true),
            (pid_file(&place.path().join("c10")), false),
            (directory.join("qemu.pid.d"), false),
            (place.path().join("x").join("c1"), false),
        ] {
            private(&directory).unwrap();
            let mut command = Command::new("cat");
            command.arg("-").arg(&argument).stdin(Stdio::piped());
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            fs::write(pid_file(&directory), child.id().to_string()).unwrap();
            let cleared = clear(&directory).await.map_err(|error| error.to_string());
            let ended = child.try_wait().unwrap().is_some();
            let _ = child.kill();
            child.wait().unwrap();
            assert_eq!((ended, cleared), (ends, Ok(())), "{}", argument.display());
            assert!(!directory.exists());
        }
    }
}
