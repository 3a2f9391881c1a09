//! A `nydusd fuse` that hands its session over, which the only one that can be had (2.2) does not.
//! It serves a file `hello` instead of any image. Whatever else it is asked for, the real one
//! does. Files beside its API socket change what it does: with `pause` it does not answer
//! reads, with `stuck` it does not take over.

mod fuse;

use nydus_e2e::programs;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde_json::{Map, Value, json};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// How long the other end of a connection may be silent.
const LIMIT: Duration = Duration::from_secs(10);

/// What it is and does now.
struct Daemon {
    id: String,
    state: &'static str,
    supervisor: String,
    /// Sources by mount point, `/` if there is just one image.
    mounts: Map<String, Value>,
    /// Of the FUSE protocol.
    minor: u32,
    session: Option<Arc<File>>,
}

/// The same for all threads, and the directory of its API socket.
struct Fake {
    daemon: Mutex<Daemon>,
    directory: PathBuf,
}

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().skip_while(|arg| *arg != name).nth(1).cloned();
    let (Some(socket), Some(mountpoint)) = (value("--apisock"), value("--mountpoint")) else {
        let real = programs::tool("nydusd/bin/nydusd").ok_or(io::ErrorKind::NotFound)?;
        return Err(Command::new(real).args(&args).exec());
    };
    // Before any other thread is there, so that none of them gets the signal.
    let mut ended = nix::sys::signal::SigSet::empty();
    ended.add(nix::sys::signal::SIGTERM);
    ended.thread_block()?;
    let directory = Path::new(&socket).parent().unwrap_or(Path::new("/")).to_owned();
    let daemon = Mutex::new(Daemon::new(value));
    let fake = Arc::new(Fake { daemon, directory });
    // A socket means that somebody died: wait until told to take over.
    if fs::remove_file(&socket).is_err() {
        fake.daemon().session = Some(Arc::new(mount(&mountpoint)?));
        fake.start();
    }
    let listener = UnixListener::bind(&socket)?;
    let api = Arc::clone(&fake);
    thread::spawn(move || api.listen(&listener));
    ended.wait()?;
    rustix::mount::unmount(&mountpoint, UnmountFlags::DETACH)?;
    fs::remove_file(&socket)
}

fn mount(at: &str) -> io::Result<File> {
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    let fd = device.as_raw_fd();
    let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other");
    let options = CString::new(options)?;
    rustix::mount::mount("rafs", at, "fuse", MountFlags::RDONLY, options.as_c_str())?;
    Ok(device)
}

/// The API.
impl Fake {
    fn daemon(&self) -> MutexGuard<'_, Daemon> {
        self.daemon.lock().expect("no thread has panicked")
    }

    fn listen(self: Arc<Self>, listener: &UnixListener) {
        for stream in listener.incoming().flatten() {
            let fake = Arc::clone(&self);
            thread::spawn(move || fake.answer(stream));
        }
    }

    /// One request of a connection.
    fn answer(self: Arc<Self>, mut stream: UnixStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let (mut request, mut line, mut length) = (String::new(), String::new(), 0);
        reader.read_line(&mut request)?;
        while reader.read_line(&mut line)? > 2 {
            let header = line.to_ascii_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let (status, text) = match self.call(&request, &body) {
            Ok(value) if value.is_null() => ("204 No Content", String::new()),
            Ok(value) => ("200 OK", value.to_string()),
            Err(error) => {
                eprintln!("{}: {error}", request.trim_end());
                let reply = json!({"code": "UNDEFINED", "message": error.to_string()});
                ("500 Internal Server Error", reply.to_string())
            }
        };
        let length = text.len();
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{text}")
    }

    fn call(self: &Arc<Self>, request: &str, body: &[u8]) -> io::Result<Value> {
        let target = request.rsplit_once(' ').map_or(request, |(target, _)| target);
        let (call, query) = target.split_once('?').unwrap_or((target, ""));
        let point = query.strip_prefix("mountpoint=").unwrap_or_default().to_owned();
        match call.replace("/api/v1/", "").as_str() {
            "GET daemon" => return Ok(self.daemon().told()),
            "GET metrics/inflight" => return Ok(json!([])),
            "GET metrics" | "GET metrics/blobcache" => return Ok(json!({})),
            "POST mount" => {
                let source = serde_json::from_slice::<Value>(body)?["source"].take();
                self.daemon().mounts.insert(point, source);
            }
            "DELETE mount" => drop(self.daemon().mounts.remove(&point)),
            "PUT daemon/fuse/sendfd" => self.hand_over()?,
            "PUT daemon/fuse/takeover" => self.take_over()?,
            "PUT daemon/start" if self.daemon().state == "READY" => {
                fuse::resend(self.daemon().session.as_deref())?;
                self.start();
            }
            _ => return Err(io::Error::other("no such call, or not in this state")),
        }
        Ok(Value::Null)
    }

    fn hand_over(&self) -> io::Result<()> {
        let daemon = self.daemon();
        let stream = UnixStream::connect(&daemon.supervisor)?;
        let state = json!({"minor": daemon.minor, "mounts": daemon.mounts}).to_string();
        let session = daemon.session.as_ref().ok_or_else(|| io::Error::other("no session"))?;
        let descriptors = [session.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        beside.push(SendAncillaryMessage::ScmRights(&descriptors));
        let from = [IoSlice::new(state.as_bytes())];
        let sent = sendmsg(&stream, &from, &mut beside, SendFlags::NOSIGNAL)?;
        (&stream).write_all(&state.as_bytes()[sent..])?;
        eprintln!("handed over: {}", daemon.mounts.len());
        Ok(())
    }

    fn take_over(&self) -> io::Result<()> {
        while self.directory.join("stuck").exists() {
            thread::sleep(Duration::from_millis(10));
        }
        let mut daemon = self.daemon();
        let mut stream = UnixStream::connect(&daemon.supervisor)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut state = vec![0; 1 << 10];
        let into = &mut [IoSliceMut::new(&mut state)];
        let read = recvmsg(&stream, into, &mut beside, RecvFlags::CMSG_CLOEXEC)?.bytes;
        state.truncate(read);
        stream.read_to_end(&mut state)?;
        let mut state: Value = serde_json::from_slice(&state)?;
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                daemon.session = descriptors.map(|one| Arc::new(File::from(one))).next();
            }
        }
        daemon.minor = state["minor"].as_u64().unwrap_or_default() as u32;
        daemon.mounts = serde_json::from_value(state["mounts"].take())?;
        // As the real one, which reads them again.
        for source in daemon.mounts.values().filter_map(Value::as_str) {
            fs::metadata(source).map_err(|error| io::Error::other(format!("{source}: {error}")))?;
        }
        daemon.state = "READY";
        Ok(())
    }

    /// Serves its session from now on.
    fn start(self: &Arc<Self>) {
        let mut daemon = self.daemon();
        let Some(session) = daemon.session.clone() else { return };
        daemon.state = "RUNNING";
        let fake = Arc::clone(self);
        thread::spawn(move || {
            let error = fake.serve(&session);
            eprintln!("the session has ended: {error}");
        });
    }
}

impl Daemon {
    /// With the values of its options.
    fn new(value: impl Fn(&str) -> Option<String>) -> Self {
        let image = value("--bootstrap").map(|source| ("/".to_owned(), source.into()));
        Self {
            id: value("--id").unwrap_or_default(),
            state: "INIT",
            supervisor: value("--supervisor").unwrap_or_default(),
            mounts: image.into_iter().collect(),
            minor: 0,
            session: None,
        }
    }

    fn told(&self) -> Value {
        let (id, supervisor, mounts) = (&self.id, &self.supervisor, &self.mounts);
        json!({"id": id, "supervisor": supervisor, "state": self.state,
            "backend_collection": mounts})
    }
}
