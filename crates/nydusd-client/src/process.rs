//! A running daemon: start, wait, watch, stop.

use crate::liveness::{Exit, Process, host};
use crate::nofile::limit_here;
use crate::report::{scrub, tail};
use crate::{Binary, Client, Error, Log, Spec, State};
use nydus_mount_slice::Secret;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use std::fs;
use std::io;
use std::mem;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

/// How long SIGTERM, and then SIGKILL, may take.
const STOP: Duration = Duration::from_secs(5);
/// How long a thread is held until a daemon that nobody waits for any more is dead.
const GIVEN_UP: Duration = Duration::from_millis(200);
/// First and longest pause between two questions for the state.
const PAUSE: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];

/// A daemon's process and its API. Dropping it leaves the daemon alone.
#[derive(Debug)]
pub struct Daemon {
    spec: Spec,
    client: Client,
    process: Process,
    /// Length of the log file before this daemon wrote to it.
    log_start: u64,
}

impl Daemon {
    /// Starts a daemon and waits until it is RUNNING, at most for `limit`, after
    /// [`clear_stale`]. If that fails, or the future is dropped, nothing stays: the process, its
    /// sockets and its mount are removed.
    ///
    /// RUNNING does not mean that the image can be read: wrong credentials show at the first
    /// read only.
    pub async fn start(binary: &Binary, spec: Spec, limit: Duration) -> Result<Self, Error> {
        clear_stale(&spec).await?;
        let daemon = Self::spawn(binary, spec)?;
        let unfinished = KillOnDrop(&daemon);
        let ready = daemon.wait_for(&[State::Running], limit).await;
        if ready.is_err() {
            daemon.kill().await?;
        }
        mem::forget(unfinished);
        ready.map(|()| daemon)
    }

    /// Starts a daemon and does not wait. For a successor, which finds its predecessor's socket
    /// and mount in place; else use [`Daemon::start`]. Needs a tokio runtime, as all here.
    pub fn spawn(binary: &Binary, spec: Spec) -> Result<Self, Error> {
        let args = spec.args(binary, limit_here())?;
        let log_start = length(&spec.log);
        let child = Command::new(&binary.program)
            .args(args)
            .stdin(Stdio::null())
            .stderr(stderr(&spec)?)
            // Signals for our group, such as a terminal's Ctrl-C, are not for the daemon.
            .process_group(0)
            .spawn()
            .map_err(|cause| Error::Run(binary.program.clone(), cause))?;
        let process = Process::of_child(child)?;
        let daemon = Self { client: Client::new(&spec.apisock), spec, process, log_start };
        match daemon.enter_cgroup() {
            Ok(()) => Ok(daemon),
            Err(error) => daemon.process.signal_now(Signal::KILL).and(Err(error)),
        }
    }

    fn enter_cgroup(&self) -> Result<(), Error> {
        let Some(group) = &self.spec.cgroup else { return Ok(()) };
        fs::write(group.join("cgroup.procs"), self.pid().to_string())
            .map_err(|cause| host(format!("enter control group {}", group.display()), cause))
    }

    /// Takes over a live daemon that an earlier run started as `spec` says, found through its
    /// API socket. `pid`, if recorded, must be the process that listens there.
    pub async fn adopt(spec: Spec, pid: Option<u32>) -> Result<Self, Error> {
        let process = Process::behind(&spec.apisock, pid).await?;
        let log_start = length(&spec.log);
        Ok(Self { client: Client::new(&spec.apisock), spec, process, log_start })
    }

    /// Its API.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// What it was started as.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Waits until the daemon is in one of the states, at most for `limit`.
    pub async fn wait_for(&self, wanted: &[State], limit: Duration) -> Result<(), Error> {
        let last = Mutex::new("not asked yet".to_owned());
        let reached = timeout(limit, self.poll(wanted, &last));
        tokio::select! {
            reached = reached => reached.map_err(|_| {
                let last = last.into_inner().unwrap_or_else(PoisonError::into_inner);
                Error::NotReady(wanted.to_vec(), limit, format!("{last}: {}", self.report()))
            }),
            exit = self.ended() => Err(Error::Exited(exit, self.report())),
        }
    }

    async fn poll(&self, wanted: &[State], last: &Mutex<String>) {
        let mut pause = PAUSE[0];
        loop {
            let seen = match self.client.state().await {
                Ok(state) if wanted.contains(&state) => return,
                Ok(state) => format!("it is {state:?}"),
                Err(error) => error.to_string(),
            };
            *last.lock().unwrap_or_else(PoisonError::into_inner) = seen;
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE[1]);
        }
    }

    /// Whether the process has ended, as far as that can be told without waiting.
    pub fn has_ended(&self) -> bool {
        self.process.has_ended()
    }

    /// Waits until the process has ended, however it does. Any number of tasks may wait.
    pub async fn ended(&self) -> Exit {
        self.process.ended().await
    }

    /// Ends the daemon: SIGTERM, which also unmounts; after 5 s as [`Daemon::kill`]. A `nydusd`
    /// in virtiofs mode without a virtual machine ignores SIGTERM. Then its sockets and mount
    /// are removed. A daemon that is dead already is cleaned up after.
    pub async fn stop(&self) -> Result<Exit, Error> {
        self.process.signal(Signal::TERM).await?;
        match timeout(STOP, self.ended()).await {
            Ok(exit) => clean(&self.spec).map(|()| exit),
            Err(_) => self.kill().await,
        }
    }

    /// The same at once, by SIGKILL.
    pub async fn kill(&self) -> Result<Exit, Error> {
        self.process.signal(Signal::KILL).await?;
        let stuck = |_| Error::Unkillable(self.pid(), STOP);
        let exit = timeout(STOP, self.ended()).await.map_err(stuck)?;
        clean(&self.spec).map(|()| exit)
    }

    /// The daemon's last words in one line: its standard error and what it logged since it was
    /// started or adopted, without the credentials of its configurations.
    pub fn report(&self) -> String {
        let stderr = self.spec.stderr.as_deref().map(|path| tail(path, 0));
        let log = self.spec.log.current().map(|path| tail(&path, self.log_start));
        let words: Vec<_> = stderr.into_iter().chain(log).filter(|text| !text.is_empty()).collect();
        if words.is_empty() {
            return "it said nothing".to_owned();
        }
        let configs =
            self.spec.configs().into_iter().filter_map(|path| fs::read_to_string(path).ok());
        configs.fold(words.join(" | "), |text, config| scrub(&text, &Secret::from(config)))
    }
}

/// For a start that is given up.
struct KillOnDrop<'a>(&'a Daemon);

impl Drop for KillOnDrop<'_> {
    fn drop(&mut self) {
        // Nobody is left to tell; the next start clears what could not be.
        let _ = self.0.process.signal_now(Signal::KILL);
        // It may be inside mount(2), whose outcome would come after the cleaning.
        let start = Instant::now();
        while !self.0.has_ended() && start.elapsed() < GIVEN_UP {
            std::thread::sleep(PAUSE[0]);
        }
        let _ = clean(&self.0.spec);
    }
}

fn length(log: &Log) -> u64 {
    log.current().and_then(|path| fs::metadata(path).ok()).map_or(0, |file| file.len())
}

fn stderr(spec: &Spec) -> Result<Stdio, Error> {
    let Some(path) = &spec.stderr else { return Ok(Stdio::inherit()) };
    let file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.map(Stdio::from).map_err(|cause| host(format!("open {}", path.display()), cause))
}

/// Removes the sockets and the mount of a daemon that is dead: with them a new one would wait
/// for a take-over.
///
/// # Errors
/// [`Error::SocketInUse`] if something listens on the API socket: nothing is touched then.
pub async fn clear_stale(spec: &Spec) -> Result<(), Error> {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    match UnixStream::connect(&spec.apisock).await {
        Err(error) if matches!(error.kind(), ConnectionRefused | NotFound) => clean(spec),
        Ok(_) => Err(Error::SocketInUse(spec.apisock.clone())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(Error::SocketInUse(spec.apisock.clone()))
        }
        Err(cause) => Err(host(format!("connect to {}", spec.apisock.display()), cause)),
    }
}

fn clean(spec: &Spec) -> Result<(), Error> {
    for socket in spec.sockets() {
        remove_socket(socket)
            .map_err(|cause| host(format!("remove {}", socket.display()), cause))?;
    }
    spec.mountpoint().map_or(Ok(()), |path| {
        detach(path).map_err(|cause| host(format!("unmount {}", path.display()), cause))
    })
}

fn remove_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Err(io::Error::other("it is not a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Detaching never waits for the dead server; users of the mount keep it until they let go.
fn detach(mountpoint: &Path) -> io::Result<()> {
    match unmount(mountpoint, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // Not a mount point, or not there.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
