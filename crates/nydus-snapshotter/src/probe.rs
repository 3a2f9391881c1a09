//! Whether an image can be read: `nydusd` says RUNNING with wrong credentials, a missing blob or
//! a dead registry just the same, and the container finds out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nydus_mount_slice::Secret;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use serde_json::Value;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};

/// Until the registry lets us in, or not; and then for one answer: with the rest of a start, one
/// that is down is told within 10 seconds.
const LOGIN: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(4);
const CONNECT: Duration = Duration::from_secs(3);
/// Questions at once.
const AT_ONCE: usize = 8;
/// How much of a tree is looked through for a file to read.
const ENTRIES: usize = 512;

/// An image that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry does not have a blob.
    #[error("registry {0} does not have blob {1} of repository {2}")]
    NoBlob(String, String, String),
    /// It refuses the credentials, or wants some.
    #[error("registry {0} refuses the credentials for repository {1}: {2}")]
    Unauthorized(String, String, String),
    /// It cannot be asked.
    #[error("registry {0} cannot be asked: {1}")]
    Unreachable(String, String),
    /// Reading through the mount failed.
    #[error("cannot read {0} through nydusd: {1}")]
    Unreadable(String, io::Error),
}

/// The registry in a configuration for `nydusd`, asked with the same credentials.
struct Registry {
    client: Client,
    host: String,
    image: Reference,
    auth: RegistryAuth,
}

/// Asks the registry of a rendered configuration for each of `blobs` (`sha256:…`). Other
/// backends are not asked. Where `nydusd` knows another way than the registry, one that cannot
/// be asked is left to [`read`].
///
/// # Errors
/// A blob that cannot be had, and why.
pub async fn blobs(config: &Secret, blobs: &[String]) -> Result<(), Error> {
    let config: Value = serde_json::from_str(config.expose()).unwrap_or_default();
    let backend = config.pointer("/device/backend");
    let Some(backend) = backend.filter(|backend| backend["type"] == "registry") else {
        return Ok(());
    };
    match ask(&backend["config"], blobs).await {
        Err(Error::Unreachable(..)) if has_another_way(&backend["config"]) => Ok(()),
        outcome => outcome,
    }
}

fn has_another_way(backend: &Value) -> bool {
    let mirrors = backend["mirrors"].as_array().is_some_and(|mirrors| !mirrors.is_empty());
    let proxy = backend.pointer("/proxy/url").and_then(Value::as_str).unwrap_or_default();
    // As nydusd has it where it is not given.
    let fallback = backend.pointer("/proxy/fallback").and_then(Value::as_bool).unwrap_or(true);
    mirrors || !proxy.is_empty() && fallback
}

async fn ask(backend: &Value, blobs: &[String]) -> Result<(), Error> {
    let host = backend["host"].as_str().unwrap_or_default();
    let Some(registry) = in_time(host, LOGIN, Registry::enter(backend)).await? else {
        return Ok(());
    };
    let registry = Arc::new(registry);
    let mut asked = JoinSet::new();
    for blob in blobs.iter().cloned() {
        if asked.len() == AT_ONCE {
            joined(asked.join_next().await)?;
        }
        let registry = Arc::clone(&registry);
        asked.spawn(async move { registry.has(&blob).await });
    }
    while let Some(answer) = asked.join_next().await {
        joined(Some(answer))?;
    }
    Ok(())
}

fn joined(answer: Option<Result<Result<(), Error>, JoinError>>) -> Result<(), Error> {
    // It does not panic.
    answer.and_then(Result::ok).unwrap_or(Ok(()))
}

async fn in_time<T>(
    host: &str,
    limit: Duration,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let late = |_| Error::Unreachable(host.to_owned(), format!("no answer in {limit:?}"));
    tokio::time::timeout(limit, answer).await.map_err(late)?
}

impl Registry {
    /// With what it takes to be answered; `None` if nothing says which registry.
    async fn enter(backend: &Value) -> Result<Option<Self>, Error> {
        let protocol = match backend["scheme"].as_str() {
            Some("http") => ClientProtocol::Http,
            _ => ClientProtocol::Https,
        };
        let Some(registry) = Self::of(backend, protocol) else { return Ok(None) };
        match registry.login().await {
            // As nydusd does: that server does not know TLS. Any other failure sends no password
            // in clear text.
            Err(error) if backend["scheme"].is_null() && is_no_tls(&error) => {
                let Some(registry) = Self::of(backend, ClientProtocol::Http) else {
                    return Ok(None);
                };
                registry.login().await.map_err(|error| registry.trouble(&error))?;
                Ok(Some(registry))
            }
            outcome => outcome.map_err(|error| registry.trouble(&error)).map(|()| Some(registry)),
        }
    }

    fn of(backend: &Value, protocol: ClientProtocol) -> Option<Self> {
        let text = |key: &str| backend.get(key).and_then(Value::as_str).filter(|t| !t.is_empty());
        let host = text("host")?.to_owned();
        let image = Reference::with_tag(host.clone(), text("repo")?.to_owned(), "latest".into());
        let auth = match (text("auth"), text("registry_token")) {
            (Some(auth), _) => basic(auth).unwrap_or(RegistryAuth::Anonymous),
            (None, Some(token)) => RegistryAuth::Bearer(token.to_owned()),
            (None, None) => RegistryAuth::Anonymous,
        };
        // Fails when it is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::try_from(client_config(backend, protocol)).ok()?;
        Some(Self { client, host, image, auth })
    }

    /// Once: the client asks for a token each time.
    async fn login(&self) -> Result<(), OciDistributionError> {
        self.client.auth(&self.image, &self.auth, RegistryOperation::Pull).await.map(drop)
    }

    async fn has(&self, blob: &str) -> Result<(), Error> {
        let asked = async {
            let answer = self.client.blob_exists(&self.image, blob).await;
            answer.map_err(|error| self.trouble(&error))
        };
        match in_time(&self.host, ANSWER, asked).await? {
            true => Ok(()),
            false => {
                let repository = self.image.repository().to_owned();
                Err(Error::NoBlob(self.host.clone(), blob.to_owned(), repository))
            }
        }
    }

    fn trouble(&self, error: &OciDistributionError) -> Error {
        let (host, repository) = (self.host.clone(), self.image.repository().to_owned());
        match refused(error) {
            true => Error::Unauthorized(host, repository, cause(error)),
            false => Error::Unreachable(host, cause(error)),
        }
    }
}

/// Whether what answered a TLS greeting is no TLS.
fn is_no_tls(error: &OciDistributionError) -> bool {
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        // What an I/O error was made of is not its source, but itself.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let error = inner.map_or(error, |inner| inner);
        if let Some(rustls::Error::InvalidMessage(_)) = error.downcast_ref() {
            return true;
        }
        next = error.source();
    }
    false
}

fn client_config(config: &Value, protocol: ClientProtocol) -> ClientConfig {
    let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
    let proxy = config.pointer("/proxy/url").and_then(Value::as_str).map(str::to_owned);
    let certificates = config.get("ca_cert_files").and_then(Value::as_array);
    let certificate = |path: &Value| {
        let data = std::fs::read(path.as_str()?).ok()?;
        Some(Certificate { encoding: CertificateEncoding::Pem, data })
    };
    ClientConfig {
        protocol,
        accept_invalid_certificates: flag("skip_verify"),
        extra_root_certificates: certificates
            .into_iter()
            .flatten()
            .filter_map(certificate)
            .collect(),
        connect_timeout: Some(CONNECT),
        http_proxy: proxy.clone(),
        https_proxy: proxy,
        ..ClientConfig::default()
    }
}

fn basic(auth: &str) -> Option<RegistryAuth> {
    let text = String::from_utf8(STANDARD.decode(auth).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(RegistryAuth::Basic(user.to_owned(), password.to_owned()))
}

fn refused(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::AuthenticationFailure(_)
        | OciDistributionError::UnauthorizedError { .. } => true,
        OciDistributionError::RequestError(error) => {
            error.status().is_some_and(|status| matches!(status.as_u16(), 401 | 403))
        }
        _ => false,
    }
}

/// The innermost cause says most; the outer ones repeat the URL.
fn cause(error: &OciDistributionError) -> String {
    if let OciDistributionError::RequestError(error) = error
        && let Some(status) = error.status()
    {
        return format!("it answers {status}");
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(inner) = innermost.source() {
        innermost = inner;
    }
    innermost.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Reads the first bytes of a file in the tree: what the registry says is not all that can be
/// wrong. A tree without files near its root has nothing to be tried.
///
/// # Errors
/// The tree cannot be listed, or the file not be read.
pub fn read(root: &Path) -> Result<(), Error> {
    let unreadable = |path: &Path, error| Error::Unreadable(path.display().to_string(), error);
    for entry in walkdir::WalkDir::new(root).sort_by_file_name().into_iter().take(ENTRIES) {
        let entry = entry.map_err(|error| unreadable(root, error.into()))?;
        let file = entry.file_type().is_file();
        if file && entry.metadata().is_ok_and(|meta| meta.len() > 0) {
            return File::open(entry.path())
                .and_then(|mut file| file.read_exact(&mut [0]))
                .map_err(|error| unreadable(entry.path(), error));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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
            (
                "401 Unauthorized",
                Some("refuses the credentials for repository t/img: it answers 401"),
            ),
            ("403 Forbidden", Some("refuses the credentials")),
            ("500 Internal Server Error", Some("cannot be asked: it answers 500")),
        ];
        for (status, expected) in table {
            let host = answering(status).await;
            let backend =
                json!({"scheme": "http", "host": host, "repo": "t/img", "auth": "dTpwdw=="});
            let config = config(json!({"type": "registry", "config": backend}));
            let outcome = blobs(&config, std::slice::from_ref(&blob)).await;
            let said = outcome.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.contains(expected.unwrap_or("")) && !said.contains("pw"), "{said}");
            assert_eq!(said.is_empty(), expected.is_none(), "{said}");
        }
        let down =
            config(json!({"type": "registry", "config": {"host": "127.0.0.1:1", "repo": "t"}}));
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
            let backend =
                json!({"scheme": scheme, "host": host, "repo": "t/img", "auth": "dTpwdw=="});
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

    #[test]
    fn first_file_is_read() {
        let root = tempfile::tempdir().unwrap();
        read(root.path()).unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        std::fs::write(root.path().join("a/b/file"), "x").unwrap();
        read(root.path()).unwrap();
        assert!(read(&root.path().join("missing")).is_err());
    }
}
