//! The calls of `nydusd`'s HTTP API.

use crate::report::scrub;
use crate::transport::{Call, exchange};
use crate::{CacheMetrics, DaemonInfo, Error, Failure, FsMetrics, Inflight, Mount, Refusal, State};
use hyper::Method;
use hyper::body::Bytes;
use nydus_mount_slice::Secret;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `nydusd` form-decodes its query: `+` would come out as a space, so all but the unreserved
/// characters of RFC 3986 is encoded. `/` needs none, and a request line has 1024 bytes only.
const QUERY: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// How long a call may take, waiting for the server included: it handles one at a time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Calls that only ask.
    pub read: Duration,
    /// Calls that change something.
    pub change: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { read: Duration::from_secs(5), change: Duration::from_secs(30) }
    }
}

/// A daemon's API. Cheap to clone; every call has its own connection.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    limits: Limits,
}

#[derive(Deserialize)]
struct ErrorReply {
    code: String,
    message: String,
}

impl Client {
    /// The daemon that listens on `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), limits: Limits::default() }
    }

    /// The same daemon with other time limits.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The API socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the daemon is and does.
    pub async fn daemon(&self) -> Result<DaemonInfo, Error> {
        self.get("daemon", "").await
    }

    /// State of the daemon.
    pub async fn state(&self) -> Result<State, Error> {
        Ok(self.daemon().await?.state)
    }

    /// Mounts an instance at a path inside the daemon's tree. Blobs of a local directory are
    /// opened here, a registry's only when they are read.
    pub async fn mount(&self, mountpoint: &str, mount: &Mount) -> Result<(), Error> {
        self.put_instance(Method::POST, mountpoint, mount).await
    }

    /// Replaces an instance by one with another source or configuration.
    pub async fn remount(&self, mountpoint: &str, mount: &Mount) -> Result<(), Error> {
        self.put_instance(Method::PUT, mountpoint, mount).await
    }

    /// Unmounts an instance. `nydusd` does so even while its files are in use.
    pub async fn unmount(&self, mountpoint: &str) -> Result<(), Error> {
        let call = self.call(Method::DELETE, "mount", query("mountpoint", mountpoint));
        self.done(call, &Secret::default()).await
    }

    /// Counters of the instance at a mount point; `None` if the daemon has exactly one.
    pub async fn metrics(&self, mountpoint: Option<&str>) -> Result<FsMetrics, Error> {
        self.get("metrics", &id_query(mountpoint)).await
    }

    /// Counters of a cache by the `device.id` of its configuration; `None` if there is one.
    pub async fn cache_metrics(&self, id: Option<&str>) -> Result<CacheMetrics, Error> {
        self.get("metrics/blobcache", &id_query(id)).await
    }

    /// FUSE requests that are not answered yet.
    pub async fn inflight(&self) -> Result<Vec<Inflight>, Error> {
        let call = self.call(Method::GET, "metrics/inflight", String::new());
        match self.send(&call, &Secret::default()).await? {
            body if body.is_empty() => Ok(Vec::new()),
            body => parse(&call.name, &body),
        }
    }

    /// Starts to serve, from READY or after a take-over.
    pub async fn start(&self) -> Result<(), Error> {
        self.put("daemon/start").await
    }

    /// Takes the FUSE session and state over from the supervisor.
    pub async fn takeover(&self) -> Result<(), Error> {
        self.put("daemon/fuse/takeover").await
    }

    /// Sends the FUSE session and state to the supervisor. 2.2 says yes and does nothing.
    pub async fn send_fd(&self) -> Result<(), Error> {
        self.put("daemon/fuse/sendfd").await
    }

    /// Ends the daemon without unmounting: for a successor that has the FUSE session.
    pub async fn exit(&self) -> Result<(), Error> {
        self.put("daemon/exit").await
    }

    /// Gives an instance new registry credentials (base64 of `user:password`), where the version
    /// can ([`Error::is_unknown_call`] if not).
    pub async fn set_registry_auth(&self, mountpoint: &str, auth: &Secret) -> Result<(), Error> {
        let mut call = self.call(Method::PUT, "config", query("id", mountpoint));
        call.body = serde_json::json!({ "registry_auth": auth }).to_string().into_bytes();
        let hidden = Secret::from(String::from_utf8_lossy(&call.body));
        self.done(call, &hidden).await
    }

    async fn put_instance(
        &self,
        method: Method,
        mountpoint: &str,
        mount: &Mount,
    ) -> Result<(), Error> {
        let mut call = self.call(method, "mount", query("mountpoint", mountpoint));
        call.body = serde_json::to_vec(mount).map_err(|error| bad_reply(&call.name, &error))?;
        self.done(call, &mount.config).await
    }

    async fn put(&self, path: &str) -> Result<(), Error> {
        self.done(self.call(Method::PUT, path, String::new()), &Secret::default()).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &str) -> Result<T, Error> {
        let call = self.call(Method::GET, path, query.to_owned());
        parse(&call.name, &self.send(&call, &Secret::default()).await?)
    }

    fn call(&self, method: Method, path: &str, query: String) -> Call {
        let limit = if method == Method::GET { self.limits.read } else { self.limits.change };
        let name = format!("{method} {path}{query}");
        Call { name, target: format!("/api/v1/{path}{query}"), method, body: Vec::new(), limit }
    }

    async fn done(&self, call: Call, secret: &Secret) -> Result<(), Error> {
        self.send(&call, secret).await.map(drop)
    }

    /// The reply's body, or the server's refusal without what `secret` holds.
    async fn send(&self, call: &Call, secret: &Secret) -> Result<Bytes, Error> {
        let (status, body) =
            exchange(&self.socket, call).await.map_err(|f| Error::Call(call.name.clone(), f))?;
        if matches!(status, 200 | 204) {
            return Ok(body);
        }
        let reply = serde_json::from_slice(&body).unwrap_or_else(|_| ErrorReply {
            code: String::new(),
            message: String::from_utf8_lossy(&body).trim().to_owned(),
        });
        let message = scrub(&reply.message, secret);
        let refusal = Refusal { status, code: reply.code, message };
        Err(Error::Call(call.name.clone(), Failure::Refused(refusal)))
    }
}

fn query(key: &str, value: &str) -> String {
    format!("?{key}={}", utf8_percent_encode(value, QUERY))
}

fn id_query(id: Option<&str>) -> String {
    id.map(|id| query("id", id)).unwrap_or_default()
}

fn parse<T: DeserializeOwned>(call: &str, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| bad_reply(call, &error))
}

fn bad_reply(call: &str, error: &serde_json::Error) -> Error {
    let what = format!("{:?} error at column {}", error.classify(), error.column());
    Error::Call(call.to_owned(), Failure::Reply(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    /// Asks a server that answers whatever it is asked with these bytes.
    async fn ask(answer: &'static str) -> Result<State, Error> {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("api.sock")).unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_ne!(stream.read(&mut [0; 1024]).await.unwrap(), 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let limit = Duration::from_secs(10);
        let limits = Limits { read: limit, change: limit };
        let client = Client::new(dir.path().join("api.sock")).with_limits(limits);
        tokio::join!(client.state(), serve).0
    }

    #[tokio::test]
    async fn answers_of_any_kind() {
        for (answer, want) in [
            ("HTTP/1.1 200 \r\nContent-Length: 17\r\n\r\n{\"state\":\"READY\"}", "Ready"),
            ("HTTP/1.1 200 \r\nContent-Length: 16\r\n\r\n{\"state\":\"DEAD\"}", "Unknown"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"a\":\"b\"",
                "nydusd: GET daemon: unexpected reply: Eof error at column 8",
            ),
            (
                "HTTP/1.1 503 \r\nContent-Length: 6\r\n\r\nbusy \n",
                "nydusd: GET daemon: busy (status 503)",
            ),
            (
                "HTTP/1.1 500 \r\nContent-Length: 25\r\n\r\n{\"code\":\"X\",\"message\":\"\"}",
                "nydusd: GET daemon:  (status 500)",
            ),
            (
                "HTTP/1.1 200 \r\nContent-Length: 99\r\n\r\n{",
                "nydusd: GET daemon: the connection broke: error reading a body from connection",
            ),
            (
                "",
                "nydusd: GET daemon: the connection broke: connection closed before message completed",
            ),
            ("?\r\n\r\n", "nydusd: GET daemon: the connection broke: invalid HTTP version parsed"),
        ] {
            let got = ask(answer).await.map_or_else(|e| e.to_string(), |s| format!("{s:?}"));
            assert_eq!(got, want, "{answer}");
        }
    }

    #[test]
    fn nothing_shows_a_configuration() {
        let mount = Mount::rafs("/boot", r#"{"auth":"dTpw"}"#);
        assert!(!format!("{mount:?}").contains("dTpw"));
        assert_eq!(
            serde_json::to_string(&mount).unwrap(),
            r#"{"fs_type":"rafs","source":"/boot","config":"{\"auth\":\"dTpw\"}"}"#
        );
    }

    #[test]
    fn form_decoding_gives_the_mountpoint_back() {
        for (mountpoint, want) in [
            ("/7", "?mountpoint=/7"),
            ("/rafs/c-1_2.x~/lowerdir", "?mountpoint=/rafs/c-1_2.x~/lowerdir"),
            ("/a+b", "?mountpoint=/a%2Bb"),
            ("/a b", "?mountpoint=/a%20b"),
            ("/a&id=1#?", "?mountpoint=/a%26id%3D1%23%3F"),
            ("/50%", "?mountpoint=/50%25"),
            ("/é:\n", "?mountpoint=/%C3%A9%3A%0A"),
        ] {
            assert_eq!(query("mountpoint", mountpoint), want);
        }
    }
}
