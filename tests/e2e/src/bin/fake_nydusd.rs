//! A `nydusd fuse` that hands its session over, which the only one that can be had (2.2) does not.
//! It serves a file `hello` instead of any image. Whatever else it is asked for, the real one
//! does. Files beside its API socket change what it does: with `pause` it does not answer
//! reads, with `stuck` it does not take over.

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
const TEXT: &[u8] = b"from the image\n";
/// The largest request: as fuse(4) wants it, with space for the headers.
const REQUEST: usize = 64 << 10;
const ROOT: u64 = 1;
const HELLO: u64 = 2;
/// Directories of the images of a shared daemon have their number added to this.
const IMAGES: u64 = 16;

const ENOENT: i32 = 2;
const ENOSYS: i32 = 38;

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
    let image = value("--bootstrap").map(|source| ("/".to_owned(), source.into()));
    let fake = Arc::new(Fake {
        directory: Path::new(&socket).parent().unwrap_or(Path::new("/")).to_owned(),
        daemon: Mutex::new(Daemon {
            id: value("--id").unwrap_or_default(),
            state: "INIT",
            supervisor: value("--supervisor").unwrap_or_default(),
            mounts: image.into_iter().collect(),
            minor: 0,
            session: None,
        }),
    });
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
                resend(self.daemon().session.as_deref())?;
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
    fn told(&self) -> Value {
        let (id, supervisor, mounts) = (&self.id, &self.supervisor, &self.mounts);
        json!({"id": id, "supervisor": supervisor, "state": self.state,
            "backend_collection": mounts})
    }

    /// Names in a directory, with the nodes that they are.
    fn names(&self, directory: u64) -> Vec<(String, u64)> {
        let hello = || ("hello".to_owned(), HELLO);
        if directory != ROOT {
            return vec![hello()];
        }
        let entry = |point: &String| match point[1..].parse::<u64>() {
            Ok(number) => (number.to_string(), IMAGES + number),
            Err(_) => hello(),
        };
        self.mounts.keys().map(entry).collect()
    }
}

/// FUSE_NOTIFY_RESEND: what the predecessor had read and not answered comes again. Linux 6.9.
fn resend(session: Option<&File>) -> io::Result<()> {
    let message: Vec<u8> = [16_u32, 7, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
    session.map_or(Ok(()), |mut session| session.write_all(&message))
}

/// The FUSE protocol, as fuse(4) and linux/fuse.h tell it.
impl Fake {
    fn serve(&self, session: &File) -> io::Error {
        loop {
            match self.serve_one(session) {
                // NotFound: who asked has gone meanwhile.
                Err(error)
                    if !matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::Interrupted
                    ) =>
                {
                    return error;
                }
                _ => {}
            }
        }
    }

    fn serve_one(&self, mut session: &File) -> io::Result<()> {
        let mut request = vec![0; REQUEST];
        let length = session.read(&mut request)?;
        request.truncate(length);
        let (error, reply) = match self.reply(&request) {
            None => return Ok(()),
            Some(Ok(reply)) => (0, reply),
            Some(Err(error)) => (-error, Vec::new()),
        };
        let mut answer = (16 + reply.len() as u32).to_ne_bytes().to_vec();
        answer.extend(error.to_ne_bytes());
        answer.extend(&request[8..16]);
        answer.extend(reply);
        session.write_all(&answer)
    }

    /// Nothing for what is not answered.
    fn reply(&self, request: &[u8]) -> Option<Result<Vec<u8>, i32>> {
        let (operation, node, body) = (word(request, 4), long(request, 16), &request[40..]);
        Some(Ok(match operation {
            // FORGET, BATCH_FORGET, INTERRUPT.
            2 | 42 | 36 => return None,
            // LOOKUP
            1 => return Some(self.lookup(node, body)),
            // GETATTR
            3 => [vec![0; 16], attributes(node)].concat(),
            // OPEN, OPENDIR: FOPEN_DIRECT_IO, so that every read comes here.
            14 | 27 => bytes(&[0, 1]),
            15 if self.directory.join("pause").exists() => {
                eprintln!("a read is not answered");
                return None;
            }
            // READ, READDIR
            15 => part(TEXT, body),
            28 => part(&self.listing(node), body),
            // STATFS: names of up to 255 bytes.
            17 => bytes(&[0, 0, 0, 0, 0, 255 << 32 | 4096, 4096, 0, 0, 0]),
            // RELEASE, FLUSH, RELEASEDIR, DESTROY.
            18 | 25 | 29 | 38 => Vec::new(),
            // INIT
            26 => self.init(body),
            _ => return Some(Err(ENOSYS)),
        }))
    }

    fn init(&self, body: &[u8]) -> Vec<u8> {
        let minor = word(body, 4).min(36);
        self.daemon().minor = minor;
        // Major and minor, no readahead, no flags, defaults, and the largest write.
        let mut reply: Vec<u8> = [7, minor, 0, 0, 0, 4096].map(u32::to_ne_bytes).concat();
        reply.resize(64, 0);
        reply
    }

    fn lookup(&self, directory: u64, name: &[u8]) -> Result<Vec<u8>, i32> {
        let names = self.daemon().names(directory);
        let is_it = |(known, _): &&(String, u64)| name.strip_suffix(b"\0") == Some(known.as_bytes());
        let (_, node) = names.iter().find(is_it).ok_or(ENOENT)?;
        // Valid for no time: it is asked for again.
        Ok([bytes(&[*node, 0, 0, 0, 0]), attributes(*node)].concat())
    }

    fn listing(&self, directory: u64) -> Vec<u8> {
        let mut all = Vec::new();
        for (name, node) in self.daemon().names(directory) {
            let padded = name.len().next_multiple_of(8);
            let kind = if node == HELLO { 8 } else { 4 };
            let next = (all.len() + 24 + padded) as u64;
            all.extend(bytes(&[node, next]));
            all.extend([name.len() as u32, kind].map(u32::to_ne_bytes).concat());
            all.extend(name.bytes().chain(std::iter::repeat_n(0, padded - name.len())));
        }
        all
    }
}

fn attributes(node: u64) -> Vec<u8> {
    let (mode, size) = if node == HELLO { (0o100_444, TEXT.len() as u64) } else { (0o40_555, 0) };
    // Number, size, blocks; no times; mode and links, owner, device and block size.
    let mut all = bytes(&[node, size, 1, 0, 0, 0]);
    all.extend([0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].map(u32::to_ne_bytes).concat());
    all
}

/// What a read asks for.
fn part(all: &[u8], body: &[u8]) -> Vec<u8> {
    let start = all.len().min(long(body, 8) as usize);
    let end = all.len().min(start + word(body, 16) as usize);
    all[start..end].to_vec()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn bytes(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}
