//! One HTTP/1.1 request over its own connection to a unix socket.

use crate::Failure;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

/// Replies are small; a larger one is not `nydusd`'s.
const MAX_REPLY: usize = 16 << 20;

/// What goes over the wire.
pub(crate) struct Call {
    /// For errors: what is asked, without secrets.
    pub(crate) name: String,
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) body: Vec<u8>,
    pub(crate) limit: Duration,
}

/// Sends the call; answers with status and body. Connects again, within the call's limit, while
/// the server's queue is full and, for a GET, while nothing listens yet for a short time.
pub(crate) async fn exchange(socket: &Path, call: &Call) -> Result<(u16, Bytes), Failure> {
    let all = async {
        let stream = connect(socket, &call.method).await?;
        send(stream, call).await.map_err(|cause| Failure::Broken(cause.to_string()))
    };
    timeout(call.limit, all).await.unwrap_or(Err(Failure::Timeout(call.limit)))
}

async fn connect(socket: &Path, method: &Method) -> Result<UnixStream, Failure> {
    let mut tries = 0;
    loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => return Ok(stream),
            Err(cause) if may_retry(method, &cause, tries) => tries += 1,
            Err(cause) => return Err(Failure::Connect(socket.to_owned(), cause)),
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Nothing was sent yet, so both cases are safe; the second only helps who asks.
fn may_retry(method: &Method, cause: &io::Error, tries: u32) -> bool {
    match cause.kind() {
        io::ErrorKind::WouldBlock => true,
        io::ErrorKind::ConnectionRefused => *method == Method::GET && tries < 3,
        _ => false,
    }
}

type Anything = Box<dyn std::error::Error + Send + Sync>;

async fn send(stream: UnixStream, call: &Call) -> Result<(u16, Bytes), Anything> {
    let request = Request::builder()
        .method(&call.method)
        .uri(&call.target)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(call.body.clone())))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let reply = async move {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let bytes = Limited::new(body, MAX_REPLY).collect().await?.to_bytes();
        Ok((parts.status.as_u16(), bytes))
    };
    // The connection ends when `sender` is dropped with the reply's future.
    tokio::join!(reply, connection).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unsent_requests_are_repeated() {
        use io::ErrorKind::{ConnectionRefused, NotFound, WouldBlock};
        for (method, kind, tries, want) in [
            (Method::GET, WouldBlock, 9, true),
            (Method::POST, WouldBlock, 9, true),
            (Method::GET, ConnectionRefused, 0, true),
            (Method::GET, ConnectionRefused, 3, false),
            (Method::POST, ConnectionRefused, 0, false),
            (Method::GET, NotFound, 0, false),
        ] {
            assert_eq!(may_retry(&method, &kind.into(), tries), want, "{method} {kind} {tries}");
        }
    }
}
