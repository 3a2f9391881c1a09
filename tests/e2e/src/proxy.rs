//! A proxy before a registry: it counts what is read of each blob, and can be told to fail.

use crate::run::uninterrupted;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Result, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What happens to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// It goes to the registry.
    #[default]
    None,
    /// It is not authorised: the token was revoked.
    Unauthorized,
    /// It is not found, if it is for the blob of this digest.
    Missing(String),
    /// It gets no answer until the fault is another one, if it is for a blob.
    Stall,
}

#[derive(Debug, Default)]
struct State {
    fault: Fault,
    served: BTreeMap<String, u64>,
    requests: Vec<String>,
    over: bool,
}

/// A running proxy; it ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts one on a free port, before the server at `behind`.
    ///
    /// # Panics
    /// There is no port.
    pub fn start(behind: SocketAddr) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), behind)
    }

    /// Starts one at `address`, where another one was.
    ///
    /// # Panics
    /// Somebody else listens there.
    pub fn start_at(address: SocketAddr, behind: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || accept(&listener, behind, &shared));
        Self { address, state, thread: Some(thread) }
    }

    /// Its host and port, as an image's reference begins.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Where it listens, or did.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it: nobody listens there any more.
    pub fn stop(&mut self) {
        lock(&self.state).over = true;
        // A last connection, for the thread to see it.
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }

    /// From now on, this happens.
    pub fn fail(&self, fault: Fault) {
        lock(&self.state).fault = fault;
    }

    /// How many bytes of the blob with this digest were served.
    pub fn served(&self, digest: &str) -> u64 {
        lock(&self.state).served.get(digest).copied().unwrap_or(0)
    }

    /// All requests up to now: method and path.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.state).requests.clone()
    }

    /// Counts from zero again.
    pub fn reset(&self) {
        let mut state = lock(&self.state);
        state.served.clear();
        state.requests.clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A thread that panicked has said so; its state is as good as any.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn accept(listener: &TcpListener, behind: SocketAddr, state: &Arc<Mutex<State>>) {
    for client in listener.incoming().flatten() {
        if lock(state).over {
            return;
        }
        let state = Arc::clone(state);
        // A client that goes away in the middle is no matter.
        thread::spawn(move || handle(&client, behind, &state).unwrap_or(()));
    }
}

/// Serves one request; both sides are told that the connection ends with it.
fn handle(client: &TcpStream, behind: SocketAddr, state: &Mutex<State>) -> Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(client);
    // A TLS greeting: as Go's servers answer it.
    if reader.fill_buf()?.first() == Some(&0x16) {
        return write!(&*client, "HTTP/1.0 400 Bad Request\r\n\r\n");
    }
    let head = head(&mut reader)?;
    let [method, path] = words(&head[0])?;
    lock(state).requests.push(format!("{method} {path}"));
    let digest = path.split_once("/blobs/").map(|(_, digest)| digest.to_owned());
    if let Some(status) = refusal(state, digest.as_deref()) {
        let close = "Content-Length: 0\r\nConnection: close\r\n\r\n";
        return write!(&*client, "HTTP/1.1 {status}\r\n{close}");
    }
    let server = TcpStream::connect(behind)?;
    server.set_read_timeout(Some(Duration::from_secs(60)))?;
    (&server).write_all(passed_on(&head).as_bytes())?;
    let mut answer = BufReader::new(&server);
    let lines = self::head(&mut answer)?;
    (&*client).write_all(format!("{}\r\n\r\n", lines.join("\r\n")).as_bytes())?;
    // Without a length, or with HEAD, this waits for the end of the connection, which comes.
    copy(&mut answer, client, |bytes| {
        let Some(digest) = &digest else { return };
        *lock(state).served.entry(digest.clone()).or_default() += bytes as u64;
    })?;
    client.shutdown(Shutdown::Write)
}

/// The lines up to the empty one.
fn head(reader: &mut impl BufRead) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for line in reader.lines() {
        match line? {
            line if line.is_empty() => break,
            line => lines.push(line),
        }
    }
    if lines.is_empty() { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(lines) }
}

fn words(line: &str) -> Result<[String; 2]> {
    let mut words = line.split(' ').map(str::to_owned);
    let [method, path] = [words.next(), words.next()];
    Ok([method.ok_or(ErrorKind::InvalidData)?, path.ok_or(ErrorKind::InvalidData)?])
}

/// The request without its wish to keep the connection.
fn passed_on(head: &[String]) -> String {
    let kept = head.iter().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let lines: Vec<_> = kept.map(String::as_str).chain(["Connection: close"]).collect();
    format!("{}\r\n\r\n", lines.join("\r\n"))
}

/// The status with which the present fault answers, after the time that it takes.
fn refusal(state: &Mutex<State>, digest: Option<&str>) -> Option<&'static str> {
    loop {
        let fault = lock(state).fault.clone();
        match fault {
            _ if lock(state).over => return Some("503 Service Unavailable"),
            Fault::Unauthorized => return Some("401 Unauthorized"),
            Fault::Missing(missing) if Some(missing.as_str()) == digest => {
                return Some("404 Not Found");
            }
            Fault::Stall if digest.is_some() => thread::sleep(Duration::from_millis(20)),
            _ => return None,
        }
    }
}

fn copy(from: &mut impl Read, mut to: &TcpStream, mut count: impl FnMut(usize)) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = uninterrupted(|| from.read(&mut buffer))?;
        if length == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..length])?;
        count(length);
    }
}
