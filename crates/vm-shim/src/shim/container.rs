//! One container: its process in the guest, and what containerd knows of it.

use super::sandbox::{Failure, Sandbox};
use super::stdio::{Output, Stdio};
use crate::protocol::{CHUNK, Frame, Process, Start};
use crate::vm::{Vm, reason};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::unix::pipe;
use tokio::sync::{Notify, watch};

/// How long the process may take to start in the guest.
const START: Duration = Duration::from_secs(30);
/// How long the guest may take to end after its process.
const POWER_OFF: Duration = Duration::from_secs(10);
/// How long a reader may take for the last of the output.
const FLUSH: Duration = Duration::from_secs(5);
/// SIGKILL.
const KILL: u32 = 9;
/// Exit code of a container whose machine went away.
const LOST: u32 = 255;

/// Why a container is given up whose guest does not keep to [`WINDOW`](crate::protocol::WINDOW).
const FLOOD: &str = "the guest sends more output than was asked for";

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
    start: Mutex<Option<(Start, Option<pipe::Receiver>)>>,
    stdin_closed: Notify,
    stdin_taken: Notify,
    state: watch::Sender<State>,
}

impl Container {
    /// A container whose guest is up and waits for [`Container::start`].
    pub fn new(
        request: Request,
        (sandbox, vm): (Sandbox, Vm),
        start: Start,
        stdio: Stdio,
    ) -> Arc<Self> {
        let vm = Arc::new(vm);
        let this = Arc::new(Self {
            pid: vm.pid(),
            request,
            sandbox,
            vm: Arc::clone(&vm),
            start: Mutex::new(Some((start, stdio.stdin))),
            stdin_closed: Notify::new(),
            stdin_taken: Notify::new(),
            state: watch::Sender::new(State::Created),
        });
        let [stdout, stderr] = stdio.outputs;
        let outputs = [(stdout, Frame::StdoutWritten), (stderr, Frame::StderrWritten)];
        let outputs = outputs.map(|(file, written)| {
            let vm = Arc::clone(&vm);
            Output::new(file, move || drop(vm.send(&written)))
        });
        let listener = Arc::clone(&this);
        std::thread::spawn(move || listener.listen(outputs));
        tokio::spawn(Arc::clone(&this).watch_daemon());
        this
    }

    /// A guest whose files are gone would wait for them for ever.
    async fn watch_daemon(self: Arc<Self>) {
        tokio::select! {
            _ = self.sandbox.daemon.ended() => {
                self.stopped(LOST, Some("nydusd is gone".to_owned()));
                self.end().await;
            }
            _ = self.wait() => {}
        }
    }

    /// Hands on what the guest says until it is down.
    fn listen(&self, outputs: [Output; 2]) {
        let (code, why) = self.hear(&outputs);
        self.vm.kill();
        let limit = Instant::now() + FLUSH;
        outputs.into_iter().for_each(|output| output.finish(limit));
        self.stopped(code, why);
    }

    /// Exit code, and why if not by itself.
    fn hear(&self, [stdout, stderr]: &[Output; 2]) -> (u32, Option<String>) {
        loop {
            let written = match self.vm.receive() {
                Ok(Frame::Stdout(bytes)) => stdout.write(bytes),
                Ok(Frame::Stderr(bytes)) => stderr.write(bytes),
                Ok(frame) => match self.obey(frame) {
                    None => Ok(()),
                    Some(end) => return end,
                },
                Err(error) => return (LOST, Some(error.to_string())),
            };
            if written.is_err() {
                return (LOST, Some(FLOOD.to_owned()));
            }
        }
    }

    /// Does what the guest says; the end, if that is what it says.
    fn obey(&self, frame: Frame) -> Option<(u32, Option<String>)> {
        match frame {
            Frame::Taken => self.stdin_taken.notify_one(),
            Frame::Started => self.change(State::Running),
            Frame::Exited(code) => {
                // Files are in the snapshot once the guest has let go of them.
                let _ = self.vm.wait(POWER_OFF);
                return Some((code.unsigned_abs(), None));
            }
            Frame::Failed(why) => {
                // The kernel's own words are there.
                let _ = self.vm.wait(POWER_OFF);
                return Some((LOST, Some(reason(&why) + &self.vm.console_tail())));
            }
            _ => {}
        }
        None
    }

    fn stopped(&self, code: u32, why: Option<String>) {
        self.change(State::Stopped { code, at: SystemTime::now(), why });
    }

    /// Nothing follows the end, and nothing but the end the start.
    fn change(&self, new: State) {
        self.state.send_if_modified(|state| {
            let may = *state == State::Created
                || *state == State::Running && matches!(new, State::Stopped { .. });
            if may {
                *state = new;
            }
            may
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
        let (start, stdin) = start.ok_or("it was started before")?;
        self.send(Frame::Start(start.into())).await?;
        let mut state = self.state.subscribe();
        let begun = state.wait_for(|state| *state != State::Created);
        let begun = tokio::time::timeout(START, begun).await;
        let late = |_| format!("the guest did not start it within {START:?}");
        let begun = begun.map_err(late)?.map(|state| state.clone())?;
        match begun {
            State::Stopped { why: Some(why), .. } => return Err(why.into()),
            State::Stopped { .. } | State::Created => {}
            State::Running => self.forward_stdin(stdin).await,
        }
        Ok(())
    }

    /// Waits until it has stopped: exit code and time.
    pub async fn wait(&self) -> (u32, SystemTime) {
        let mut state = self.state.subscribe();
        match state.wait_for(|state| matches!(state, State::Stopped { .. })).await.as_deref() {
            Ok(State::Stopped { code, at, .. }) => (*code, *at),
            _ => (LOST, SystemTime::now()),
        }
    }

    /// Sends the process a signal. SIGKILL ends the machine if the guest does not answer.
    ///
    /// # Errors
    /// It has stopped; the guest does not listen.
    pub async fn kill(&self, signal: u32) -> Result<(), Failure> {
        let sent = match self.state() {
            State::Stopped { .. } => return Err("the process has ended".into()),
            State::Created => {
                self.stopped(128 + signal, None);
                self.end().await;
                return Ok(());
            }
            State::Running => self.send(Frame::Signal(signal.cast_signed())).await,
        };
        if signal != KILL {
            return Ok(sent?);
        }
        if sent.is_err() || tokio::time::timeout(POWER_OFF, self.wait()).await.is_err() {
            self.stopped(128 + signal, None);
            self.end().await;
        }
        Ok(())
    }

    /// A guest may not listen for long: nobody else must wait for it.
    async fn send(&self, frame: Frame) -> io::Result<()> {
        let vm = Arc::clone(&self.vm);
        tokio::task::spawn_blocking(move || vm.send(&frame)).await?
    }

    /// Ends the machine.
    async fn end(&self) {
        let vm = Arc::clone(&self.vm);
        let _ = tokio::task::spawn_blocking(move || vm.kill()).await;
    }

    /// Hands containerd's input on, until [`Container::close_stdin`] or the end of the container.
    async fn forward_stdin(self: &Arc<Self>, fifo: Option<pipe::Receiver>) {
        let Some(fifo) = fifo else {
            // One that has ended meanwhile reads nothing.
            let _ = self.send(Frame::StdinEnd).await;
            return;
        };
        let this = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                _ = this.copy_stdin(fifo) => {}
                _ = this.wait() => {}
            }
        });
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
            let is_end = frame == Frame::StdinEnd;
            self.send(frame).await?;
            if !is_end {
                self.stdin_taken.notified().await;
            }
            if closed && !is_end {
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
        self.end().await;
        self.sandbox.remove().await
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
