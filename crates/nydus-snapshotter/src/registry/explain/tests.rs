//! Questions to registries that answer as they like.

use super::*;
use serde_json::json;
use std::sync::atomic::{AtomicU32, Ordering};

fn config(backend: Value) -> Secret {
    json!({ "device": { "backend": backend } }).to_string().into()
}

/// A registry of one answer.
async fn answering(status: &'static str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let blob = String::from_utf8_lossy(&request[..length]).contains("/blobs/");
            let status = if blob { status } else { "200 OK" };
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn registries_are_asked() {
    let blob = format!("sha256:{}", "a".repeat(64));
    let table = [
        ("200 OK", None),
        ("404 Not Found", Some("does not have blob sha256:aaa")),
        ("401 Unauthorized", Some("refuses the credentials for repository t/img: it answers 401")),
        ("403 Forbidden", Some("refuses the credentials")),
        ("500 Internal Server Error", Some("cannot be asked: it answers 500")),
    ];
    for (status, expected) in table {
        let host = answering(status).await;
        let backend = json!({"scheme": "http", "host": host, "repo": "t/img", "auth": "dTpwdw=="});
        let config = config(json!({"type": "registry", "config": backend}));
        let outcome = blobs(&config, std::slice::from_ref(&blob)).await;
        let said = outcome.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains(expected.unwrap_or("")) && !said.contains("pw"), "{said}");
        assert_eq!(said.is_empty(), expected.is_none(), "{said}");
    }
    let down = config(json!({"type": "registry", "config": {"host": "127.0.0.1:1", "repo": "t"}}));
    assert!(blobs(&down, &[]).await.is_err(), "no blob, but no registry either");
    let nowhere = json!({"scheme": "http", "host": "127.0.0.1:1", "repo": "t/img"});
    let down = config(json!({"type": "registry", "config": nowhere}));
    let said = blobs(&down, &[blob]).await.unwrap_err().to_string();
    assert!(said.contains("registry 127.0.0.1:1 cannot be asked: "), "{said}");
    let local = config(json!({"type": "localfs", "config": {"dir": "/b"}}));
    blobs(&local, &["sha256:b".to_owned()]).await.unwrap();
}

/// A registry that gives a token for a password, takes its time for each answer, and counts
/// questions of each kind: for itself, for a token, for a blob.
async fn far_away(time: Duration) -> (String, Arc<[AtomicU32; 3]>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (host, counts) = (address.clone(), Arc::new([const { AtomicU32::new(0) }; 3]));
    let counted = Arc::clone(&counts);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (host, counts) = (host.clone(), Arc::clone(&counts));
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let kind = match () {
                    () if request.contains("/blobs/") => 2,
                    () if request.starts_with("GET /token") => 1,
                    () => 0,
                };
                counts[kind].fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(time).await;
                let (status, header, body) = match kind {
                    0 => {
                        let realm = format!(
                            "WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"s\"\r\n"
                        );
                        ("401 Unauthorized", realm, "")
                    }
                    1 => ("200 OK", String::new(), r#"{"token":"t"}"#),
                    _ if request.to_lowercase().contains("authorization: bearer t") => {
                        ("200 OK", String::new(), "")
                    }
                    _ => ("401 Unauthorized", String::new(), ""),
                };
                let answer = format!(
                    "HTTP/1.1 {status}\r\n{header}content-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    (address, counted)
}

#[tokio::test]
async fn many_layers_on_a_far_registry() {
    let (host, counts) = far_away(Duration::from_millis(100)).await;
    let layers: Vec<_> = (0..100).map(|number| format!("sha256:{number:064x}")).collect();
    for scheme in [json!("http"), Value::Null] {
        let backend = json!({"scheme": scheme, "host": host, "repo": "t/img", "auth": "dTpwdw=="});
        let config = config(json!({"type": "registry", "config": backend}));
        counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        blobs(&config, &layers).await.unwrap();
        let counts = [0, 1, 2].map(|kind: usize| counts[kind].load(Ordering::Relaxed));
        // Without a scheme, the greeting that is not understood counts as well.
        assert_eq!(counts, [if scheme.is_null() { 2 } else { 1 }, 1, 100]);
    }
}

/// Only a server that knows no TLS is asked without it.
#[tokio::test]
async fn no_password_in_clear_text() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let seen = tokio::spawn(async move {
        use tokio::io::AsyncReadExt;
        let mut first = Vec::new();
        // A connection that breaks: no protocol at all.
        while let Ok(Ok((mut stream, _))) =
            tokio::time::timeout(Duration::from_secs(1), listener.accept()).await
        {
            first.push(stream.read_u8().await.unwrap());
        }
        first
    });
    let backend = json!({"host": host, "repo": "t/img", "auth": "dTpwdw=="});
    let bare = config(json!({"type": "registry", "config": backend}));
    let said = blobs(&bare, &["sha256:b".into()]).await.unwrap_err().to_string();
    assert!(said.contains("cannot be asked: "), "{said}");
    let first = seen.await.unwrap();
    assert!(!first.is_empty() && first.iter().all(|byte| *byte == 0x16), "no TLS: {first:?}");
}

/// A registry that is down is no news where there is another way to its data.
#[tokio::test]
async fn other_ways_are_left_to_reading() {
    let mirror = json!({"mirrors": [{"host": "http://127.0.0.1:1"}]});
    let table = [
        (mirror, true),
        (json!({"mirrors": []}), false),
        (json!({"proxy": {"url": "http://127.0.0.1:1", "fallback": true}}), true),
        (json!({"proxy": {"url": "http://127.0.0.1:1", "fallback": false}}), false),
        (json!({"proxy": {"url": "", "fallback": true}}), false),
    ];
    for (more, left) in table {
        let mut backend = json!({"scheme": "http", "host": "127.0.0.1:1", "repo": "t/img"});
        for (key, value) in more.as_object().unwrap() {
            backend[key] = value.clone();
        }
        let config = config(json!({"type": "registry", "config": backend}));
        assert_eq!(blobs(&config, &["sha256:b".into()]).await.is_ok(), left, "{more}");
    }
}
