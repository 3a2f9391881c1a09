//! One container: its process in the guest, and what containerd knows of it.

use super::sandbox::{Failure, Sandbox};
use crate::protocol::{Frame, Process, Start};
use crate::vm::Vm;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::net::unix::pipe;
use tokio::sync::{Notify, watch};

/// How long the process may take to start in the guest.
const START: Duration = Duration::from_secs(30);
/// How long the guest may take to end after its process.
const POWER_OFF: Duration = Duration::from_secs(10);
/// Input that is handed on at once.
const CHUNK: usize = 16 << 10;
/// Exit code of a container whose machine went away.
const LOST: u32 = 255;

/// What containerd asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The container.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Paths of fifos, empty for none.
    pub stdin: String,
    /// Same.
    pub stdout: String,
    /// Same.
    pub stderr: String,
}

/// Where the process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The guest waits.
    Created,
    /// It runs.
    Running,
    /// It ended, or never began.
    Stopped {
        /// Exit code.
        code: u32,
        /// When.
        at: SystemTime,
        /// Why, if not by itself.
        why: Option<String>,
    },
}

/// One container.
pub struct Container {
    /// What containerd asked for.
    pub request: Request,
    /// Process of the virtual machine: containerd's "pid".
    pub pid: u32,
    sandbox: Sandbox,
    vm: Arc<Vm>,
    start: Mutex<Option<Start>>,
    stdin_closed: Notify,
    stdin_taken: Notify,
    state: watch::Sender<State>,
}

impl Container {
    /// A container whose guest is up and waits for [`Container::start`].
    ///
    /// # Errors
    /// A fifo cannot be opened.
    pub fn new(
        request: Request,
        sandbox: Sandbox,
        vm: Vm,
        start: Start,
    ) -> Result<Arc<Self>, Failure> {
        let outputs = [output(&request.stdout)?, output(&request.stderr)?];
        let vm = Arc::new(vm);
        let this = Arc::new(Self {
            pid: vm.pid(),
            request,
            sandbox,
            vm,
            start: Mutex::new(Some(start)),
            stdin_closed: Notify::new(),
            stdin_taken: Notify::new(),
            state: watch::Sender::new(State::Created),
        });
        let listener = Arc::clone(&this);
        std::thread::spawn(move || listener.listen(outputs));
        tokio::spawn(Arc::clone(&this).watch_daemon());
        Ok(this)
    }

    /// A guest whose files are gone would wait for them for ever.
    async fn watch_daemon(self: Arc<Self>) {
        let mut state = self.state.subscribe();
        tokio::select! {
            _ = self.sandbox.daemon.ended() => {
                self.stopped(LOST, Some("nydusd is gone".to_owned()));
                self.vm.kill();
            }
            _ = state.wait_for(|state| matches!(state, State::Stopped { .. })) => {}
        }
    }

    /// Hands on what the guest says until it is down.
    fn listen(&self, [mut stdout, mut stderr]: [Option<File>; 2]) {
        loop {
            match self.vm.receive() {
                Ok(Frame::Stdout(bytes)) => write(&mut stdout, &bytes),
                Ok(Frame::Stderr(bytes)) => write(&mut stderr, &bytes),
                Ok(Frame::Taken) => self.stdin_taken.notify_one(),
                Ok(Frame::Started) => drop(self.state.send_replace(State::Running)),
                Ok(Frame::Exited(code)) => {
                    // Files are in the snapshot once the guest has let go of them.
                    let _ = self.vm.wait(POWER_OFF);
                    self.vm.kill();
                    return self.stopped(code.unsigned_abs(), None);
                }
                Ok(Frame::Failed(why)) => {
                    // The kernel's own words are there.
                    let _ = self.vm.wait(POWER_OFF);
                    self.vm.kill();
                    return self.stopped(LOST, Some(why + &self.vm.console_tail()));
                }
                Ok(_) => {}
                Err(error) => {
                    self.vm.kill();
                    return self.stopped(LOST, Some(error.to_string()));
                }
            }
        }
    }

    fn stopped(&self, code: u32, why: Option<String>) {
        let ended = State::Stopped { code, at: SystemTime::now(), why };
        self.state.send_if_modified(|state| match state {
            State::Stopped { .. } => false,
            _ => {
                *state = ended;
                true
            }
        });
    }

    /// Where it is now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Runs the process.
    ///
    /// # Errors
    /// It was started before; the guest's reason.
    pub async fn start(self: &Arc<Self>) -> Result<(), Failure> {
        let start = self.start.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.vm.send(&Frame::Start(start.ok_or("it was started before")?.into()))?;
        let mut state = self.state.subscribe();
        let begun = state.wait_for(|state| *state != State::Created);
        let begun = tokio::time::timeout(START, begun).await;
        match begun.map_err(|_| format!("the guest did not start it within {START:?}"))??.clone() {
            State::Stopped { why: Some(why), .. } => Err(why.into()),
            _ => self.forward_stdin(),
        }
    }

    /// Waits until it has stopped: exit code and time.
    pub async fn wait(&self) -> (u32, SystemTime) {
        let mut state = self.state.subscribe();
        loop {
            if let State::Stopped { code, at, .. } = *state.borrow_and_update() {
                return (code, at);
            }
            if state.changed().await.is_err() {
                return (LOST, SystemTime::now());
            }
        }
    }

    /// Sends the process a signal. SIGKILL ends the machine if the guest does not answer.
    ///
    /// # Errors
    /// It has stopped.
    pub async fn kill(&self, signal: u32) -> Result<(), Failure> {
        match self.state() {
            State::Stopped { .. } => return Err("the process has ended".into()),
            State::Created => {
                self.stopped(128 + signal, None);
                self.vm.kill();
                return Ok(());
            }
            State::Running => self.vm.send(&Frame::Signal(signal.cast_signed()))?,
        }
        if signal == 9 && tokio::time::timeout(POWER_OFF, self.wait()).await.is_err() {
            self.stopped(128 + signal, None);
            self.vm.kill();
        }
        Ok(())
    }

    /// Hands containerd's input on, until [`Container::close_stdin`] or the end of the container.
    fn forward_stdin(self: &Arc<Self>) -> Result<(), Failure> {
        let path = &self.request.stdin;
        if path.is_empty() {
            return self.vm.send(&Frame::StdinEnd).map_err(Into::into);
        }
        // For both ways, so that clients that come and go are no end of the input.
        let fifo = pipe::OpenOptions::new().read_write(true).open_receiver(path);
        let fifo = fifo.map_err(|error| format!("cannot open {path}: {error}"))?;
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let mut state = this.state.subscribe();
            tokio::select! {
                _ = this.copy_stdin(fifo) => {}
                _ = state.wait_for(|state| matches!(state, State::Stopped { .. })) => {}
            }
        });
        Ok(())
    }

    async fn copy_stdin(&self, fifo: pipe::Receiver) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let closed = tokio::select! {
                biased;
                readable = fifo.readable() => readable.map(|()| false)?,
                () = self.stdin_closed.notified() => true,
            };
            let frame = match fifo.try_read(&mut buffer) {
                Ok(length) => Frame::Stdin(buffer[..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && closed => {
                    Frame::StdinEnd
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            tokio::task::block_in_place(|| self.vm.send(&frame))?;
            if frame != Frame::StdinEnd {
                self.stdin_taken.notified().await;
            }
            if closed && frame != Frame::StdinEnd {
                self.stdin_closed.notify_one();
            } else if closed {
                return Ok(());
            }
        }
    }

    /// No more input comes than is in the fifo.
    pub fn close_stdin(&self) {
        self.stdin_closed.notify_one();
    }

    /// Removes all that the host has of it but the snapshot.
    ///
    /// # Errors
    /// It runs; what is left.
    pub async fn remove(&self) -> Result<(), Failure> {
        if self.state() == State::Running {
            return Err("the process runs".into());
        }
        self.stopped(LOST, None);
        self.vm.kill();
        self.sandbox.remove(&self.request.id).await
    }
}

/// Opens a fifo for output. For both ways: neither this nor a write fails while nobody reads.
fn output(path: &str) -> Result<Option<File>, Failure> {
    if path.is_empty() {
        return Ok(None);
    }
    if path.contains("://") {
        return Err(format!("output {path:?}: only fifos are supported").into());
    }
    let opened = OpenOptions::new().read(true).write(true).open(path);
    Ok(Some(opened.map_err(|error| format!("cannot open {path}: {error}"))?))
}

/// A reader that went away is no failure of the container.
fn write(file: &mut Option<File>, bytes: &[u8]) {
    if file.as_mut().is_some_and(|file| file.write_all(bytes).is_err()) {
        *file = None;
    }
}

/// The process of an OCI specification.
///
/// # Errors
/// What is not supported.
pub fn process(spec: &oci_spec::runtime::Spec) -> Result<Process, Failure> {
    let process = spec.process().as_ref().ok_or("config.json has no process")?;
    if process.terminal().unwrap_or(false) {
        return Err("a terminal is not supported".into());
    }
    let mounts = spec.mounts().iter().flatten();
    let binds = mounts.filter(|mount| mount.typ().as_deref() == Some("bind"));
    if let Some(bind) = binds.map(|mount| mount.destination()).next() {
        return Err(format!("{}: bind mounts are not supported", bind.display()).into());
    }
    let user = process.user();
    Ok(Process {
        args: process.args().clone().unwrap_or_default(),
        env: process.env().clone().unwrap_or_default(),
        cwd: process.cwd().display().to_string(),
        uid: user.uid(),
        gid: user.gid(),
        additional_gids: user.additional_gids().clone().unwrap_or_default(),
    })
}

/// Whether nothing may be written to the root.
pub fn is_read_only(spec: &oci_spec::runtime::Spec) -> bool {
    spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false)
}
