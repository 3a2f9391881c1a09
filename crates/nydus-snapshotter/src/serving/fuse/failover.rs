//! Failover: a daemon's FUSE session and state are kept here for its successor, so that requests
//! wait and do not fail when it dies. Releases before 2.3 say yes and hand nothing over; then, and
//! whenever it takes too long, the daemon is started anew instead.

use super::{Error, Fuse, Live};
use crate::config::Recover;
use crate::disk;
use nydusd_client::{Daemon, Limits, State};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::time::timeout;

/// How long a daemon may take to hand its session over.
const HAND_OVER: Duration = Duration::from_secs(2);
/// How long its successor may take for each step.
const TAKE_OVER: Duration = Duration::from_secs(10);
/// Descriptors in one message: nydusd sends one, the session.
const DESCRIPTORS: usize = 4;

/// What a daemon handed over: its own words, and the session.
#[derive(Debug)]
pub(in crate::serving) struct Session {
    state: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Fuse {
    /// Asks a daemon for its session, in the background: after each image that it mounts or
    /// unmounts, because a successor finds what the session names, and nothing else.
    pub(in crate::serving) fn collect_session(&self, live: &Arc<Live>) {
        if self.config.recover != Recover::Failover {
            return;
        }
        let live = Arc::clone(live);
        tokio::spawn(async move {
            // Held meanwhile: one at a time listens, and an older session never comes last.
            let mut kept = live.session.lock().await;
            let ended = || live.is_gone() || live.stopping.load(Ordering::Acquire);
            if ended() {
                return;
            }
            let session = collect(&live).await;
            if let Err(error) = &session
                && !ended()
            {
                tracing::warn!(
                    daemon = live.id,
                    %error,
                    "nydusd hands no session over: when it dies it is started anew"
                );
            }
            *kept = session.ok();
        });
    }

    /// Starts a daemon that goes on with this session.
    pub(in crate::serving) async fn start_successor(
        &self,
        dead: &Live,
        session: Session,
    ) -> Result<Arc<Live>, Error> {
        let spec = dead.daemon.spec().clone();
        let path = spec.supervisor.clone().unwrap_or_default();
        let failed = |error| Error::File(path.clone(), error);
        let listener = Listener::new(&path).map_err(failed)?;
        let daemon = Daemon::spawn(self.binary().await?, spec)?;
        let limits = Limits { read: TAKE_OVER, change: TAKE_OVER };
        let client = daemon.client().clone().with_limits(limits);
        let taken_over = async {
            daemon.wait_for(&[State::Init], TAKE_OVER).await?;
            let (given, taken) = tokio::join!(give(&listener, session), client.takeover());
            given.map_err(failed)?;
            taken?;
            daemon.wait_for(&[State::Ready, State::Running], TAKE_OVER).await?;
            client.start().await?;
            Ok(daemon.wait_for(&[State::Running], TAKE_OVER).await?)
        };
        match taken_over.await {
            Ok(()) => {
                let live = Live::new(&dead.id, daemon, dead.shared);
                tracing::info!(
                    daemon = live.id,
                    pid = live.daemon.pid(),
                    "a successor has taken over"
                );
                self.watch(&live);
                Ok(live)
            }
            Err(error) => {
                daemon.kill().await?;
                Err(error)
            }
        }
    }
}

async fn collect(live: &Live) -> io::Result<Session> {
    let path = live.daemon.spec().supervisor.clone().unwrap_or_default();
    let listener = Listener::new(&path)?;
    live.daemon.client().send_fd().await.map_err(io::Error::other)?;
    let stream = listener.accept(HAND_OVER).await?;
    tokio::task::spawn_blocking(move || receive(&stream)).await.map_err(io::Error::other)?
}

async fn give(listener: &Listener, session: Session) -> io::Result<()> {
    let stream = listener.accept(TAKE_OVER).await?;
    tokio::task::spawn_blocking(move || send(&stream, &session)).await.map_err(io::Error::other)?
}

/// A daemon's supervisor. Its socket goes with it.
struct Listener(UnixListener, PathBuf);

impl Listener {
    fn new(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        disk::gone(fs::remove_file(path))?;
        Ok(Self(UnixListener::bind(path)?, path.to_owned()))
    }

    async fn accept(&self, limit: Duration) -> io::Result<UnixStream> {
        let late = |_| io::Error::other(format!("no connection within {limit:?}"));
        let stream = timeout(limit, self.0.accept()).await.map_err(late)??.0.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(HAND_OVER))?;
        stream.set_write_timeout(Some(HAND_OVER))?;
        Ok(stream)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.1);
    }
}

/// Reads to the end: bytes, and descriptors beside them.
fn receive(stream: &UnixStream) -> io::Result<Session> {
    let mut session = Session { state: Vec::new(), descriptors: Vec::new() };
    let mut bytes = vec![0; 64 << 10];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut bytes)];
        let read = recvmsg(stream, into, &mut beside, RecvFlags::CMSG_CLOEXEC)?.bytes;
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                session.descriptors.extend(descriptors);
            }
        }
        if read == 0 {
            return Ok(session);
        }
        session.state.extend_from_slice(&bytes[..read]);
    }
}

/// The descriptors go with the first bytes.
fn send(mut stream: &UnixStream, session: &Session) -> io::Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = session.descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !beside.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other(format!("more than {DESCRIPTORS} descriptors")));
    }
    let from = &[IoSlice::new(&session.state)];
    let sent = sendmsg(stream, from, &mut beside, SendFlags::NOSIGNAL)?;
    stream.write_all(&session.state[sent..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    #[test]
    fn a_session_goes_through_a_socket_and_back() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"session").unwrap();
        let state: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        let session = Session { state: state.clone(), descriptors: vec![file.into()] };
        let (one, other) = UnixStream::pair().unwrap();
        let sender = std::thread::spawn(move || send(&one, &session));
        let received = receive(&other).unwrap();
        sender.join().unwrap().unwrap();
        assert_eq!((received.state, received.descriptors.len()), (state, 1));
        let mut file = fs::File::from(received.descriptors.into_iter().next().unwrap());
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "session");
    }
}
