//! Whether a process lives: its pidfd, or a connection to it that stays idle.

use crate::Error;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::sleep;

/// How a daemon ended: its status is known of our own children only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(pub Option<ExitStatus>);

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(status) => write!(f, "ended ({status})"),
            None => f.write_str("ended"),
        }
    }
}

/// A process, ours or not.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    watch: Watch,
    child: Mutex<Family>,
}

#[derive(Debug)]
enum Watch {
    PidFd(AsyncFd<OwnedFd>),
    /// Kernels before 5.3, and sandboxes without pidfd_open(2): our own child is asked.
    Child,
    /// The same, for a process that is not our child: its API socket.
    Connection(PathBuf),
}

#[derive(Debug)]
enum Family {
    Child(Child),
    Ended(Exit),
    Stranger,
}

impl Process {
    /// A child just started; it is killed if it cannot be watched.
    pub(crate) fn of_child(mut child: Child) -> Result<Self, Error> {
        let pid = child.id().and_then(|id| Pid::from_raw(id as i32)).ok_or_else(gone)?;
        let watch = pidfd(pid).inspect_err(|_| drop(child.start_kill()))?;
        let watch = watch.map_or(Watch::Child, Watch::PidFd);
        Ok(Self { pid, watch, child: Mutex::new(Family::Child(child)) })
    }

    /// The process that listens on a socket.
    pub(crate) async fn behind(socket: &Path, expected: Option<u32>) -> Result<Self, Error> {
        let pid = listener(socket).await?;
        let found = pid.as_raw_nonzero().get() as u32;
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(Error::OtherProcess { expected, found });
        }
        let watch = match pidfd(pid)? {
            // Asked again: now the pidfd is known to be that of the listener.
            Some(fd) if listener(socket).await? == pid => Watch::PidFd(fd),
            Some(_) => return Err(gone()),
            None => Watch::Connection(socket.to_owned()),
        };
        Ok(Self { pid, watch, child: Mutex::new(Family::Stranger) })
    }

    /// Waits until the process has ended; a child is reaped.
    pub(crate) async fn ended(&self) -> Exit {
        match &self.watch {
            Watch::PidFd(fd) => drop(fd.readable().await),
            Watch::Child => {}
            Watch::Connection(socket) => hung_up(socket).await,
        }
        // A child of an uncommon runtime may be seen as ended a moment before it can be reaped.
        loop {
            match self.exit() {
                Some(exit) => return exit,
                None if self.is_child() => sleep(Duration::from_millis(20)).await,
                None => return Exit(None),
            }
        }
    }

    /// Whether the process has ended, as far as that can be told without waiting.
    pub(crate) fn has_ended(&self) -> bool {
        match &self.watch {
            Watch::PidFd(fd) => {
                let mut ended = [PollFd::new(fd.get_ref(), PollFlags::IN)];
                poll(&mut ended, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
            }
            Watch::Child => self.exit().is_some(),
            Watch::Connection(_) => false,
        }
    }

    /// Sends a signal; an ended process is not an error.
    pub(crate) async fn signal(&self, signal: Signal) -> Result<(), Error> {
        if let Watch::Connection(socket) = &self.watch
            && listener(socket).await.ok() != Some(self.pid)
        {
            return Ok(());
        }
        self.signal_now(signal)
    }

    /// The same without waiting; without a pidfd, only a child can be signalled so.
    pub(crate) fn signal_now(&self, signal: Signal) -> Result<(), Error> {
        let family = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = match (&self.watch, &*family) {
            (_, Family::Ended(_)) => Ok(()),
            (Watch::PidFd(fd), _) => pidfd_send_signal(fd, signal),
            (Watch::Child | Watch::Connection(_), _) => kill_process(self.pid, signal),
        };
        match sent {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(host(format!("signal {signal:?}"), error.into())),
        }
    }

    fn is_child(&self) -> bool {
        let family = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(*family, Family::Stranger)
    }

    /// How a child has ended; without its status if another has waited for it.
    fn exit(&self) -> Option<Exit> {
        let mut family = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Family::Child(child) = &mut *family {
            match child.try_wait() {
                Ok(None) => {}
                ended => *family = Family::Ended(Exit(ended.ok().flatten())),
            }
        }
        if let Family::Ended(exit) = *family { Some(exit) } else { None }
    }
}

/// The pidfd of a process; `None` where the kernel gives none.
fn pidfd(pid: Pid) -> Result<Option<AsyncFd<OwnedFd>>, Error> {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => register(fd).map(Some).map_err(|cause| host("watch".into(), cause)),
        Err(Errno::NOSYS | Errno::PERM) => Ok(None),
        Err(error) => Err(host(format!("pidfd of {pid}"), error.into())),
    }
}

#[expect(unsafe_code, reason = "tokio has no safe way, not even for descriptors that are owned")]
fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is open and the same until it is dropped, and the `AsyncFd`
    // owns it.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}

/// The process that listens on a socket (`SO_PEERCRED`).
async fn listener(socket: &Path) -> Result<Pid, Error> {
    let failed = |cause| host(format!("connect to {}", socket.display()), cause);
    let stream = UnixStream::connect(socket).await.map_err(failed)?;
    let pid = stream.peer_cred().map_err(failed)?.pid();
    pid.and_then(Pid::from_raw)
        .ok_or_else(|| failed(io::Error::other("its process is in another pid namespace")))
}

/// Waits until a connection that says nothing is closed. A full queue means life.
async fn hung_up(socket: &Path) {
    loop {
        match UnixStream::connect(socket).await {
            Ok(mut stream) => return while matches!(stream.read(&mut [0; 64]).await, Ok(1..)) {},
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn gone() -> Error {
    host("find the process".into(), io::Error::other("it has ended"))
}

pub(crate) fn host(what: String, cause: io::Error) -> Error {
    Error::Host(what, cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use tokio::net::UnixListener;
    use tokio::process::Command;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_millis(50);
    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn children_for_whom_another_waited_have_ended() {
        for pidfd in [true, false] {
            let child = Command::new("true").spawn().unwrap();
            let mut process = Process::of_child(child).unwrap();
            if !pidfd {
                process.watch = Watch::Child;
            }
            rustix::process::waitpid(Some(process.pid), rustix::process::WaitOptions::empty())
                .unwrap();
            let exit = timeout(LIMIT, process.ended()).await.unwrap();
            assert_eq!(exit, Exit(None));
            assert!(process.has_ended());
        }
    }

    #[tokio::test]
    async fn children_are_watched_with_and_without_pidfd() {
        for pidfd in [true, false] {
            let child = Command::new("sleep").arg("60").kill_on_drop(true).spawn().unwrap();
            let mut process = Process::of_child(child).unwrap();
            if !pidfd {
                process.watch = Watch::Child;
            }
            assert!(timeout(SOON, process.ended()).await.is_err());
            process.signal(Signal::TERM).await.unwrap();
            let (one, other) =
                timeout(LIMIT, async { tokio::join!(process.ended(), process.ended()) })
                    .await
                    .unwrap();
            assert_eq!(one.0.and_then(|status| status.signal()), Some(15));
            assert_eq!(one, other);
            process.signal(Signal::KILL).await.unwrap();
        }
    }

    #[tokio::test]
    async fn strangers_are_watched_without_pidfd() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut process = Process::behind(&socket, Some(std::process::id())).await.unwrap();
        process.watch = Watch::Connection(socket.clone());
        let serve = async {
            let connection = listener.accept().await.unwrap();
            sleep(SOON).await;
            drop((connection, listener));
            tokio::time::Instant::now()
        };
        let end = async { (timeout(LIMIT, process.ended()).await, tokio::time::Instant::now()) };
        let (closed, (ended, seen)) = tokio::join!(serve, end);
        assert_eq!(ended, Ok(Exit(None)));
        assert!(seen >= closed);
        // Whoever has the number now is not signalled: this very process would die.
        process.signal(Signal::KILL).await.unwrap();
    }
}
