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
use std::time::Duration;

/// For one registry, all its answers together: with the rest of a start below 10 seconds.
const LIMIT: Duration = Duration::from_secs(6);
const CONNECT: Duration = Duration::from_secs(3);
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
/// backends are not asked.
///
/// # Errors
/// The first blob that cannot be had, and why.
pub async fn blobs(config: &Secret, blobs: &[String]) -> Result<(), Error> {
    let config: Value = serde_json::from_str(config.expose()).unwrap_or_default();
    let backend = config.pointer("/device/backend");
    let Some(backend) = backend.filter(|backend| backend["type"] == "registry") else {
        return Ok(());
    };
    let backend = &backend["config"];
    match backend["scheme"].as_str() {
        Some("http") => ask(backend, ClientProtocol::Http, blobs).await,
        Some(_) => ask(backend, ClientProtocol::Https, blobs).await,
        // As nydusd does.
        None => match ask(backend, ClientProtocol::Https, blobs).await {
            Err(Error::Unreachable(..)) => ask(backend, ClientProtocol::Http, blobs).await,
            outcome => outcome,
        },
    }
}

async fn ask(backend: &Value, protocol: ClientProtocol, blobs: &[String]) -> Result<(), Error> {
    let Some(registry) = Registry::of(backend, protocol) else { return Ok(()) };
    let asked = async {
        for blob in blobs {
            registry.has(blob).await?;
        }
        Ok(())
    };
    let late = |_| Error::Unreachable(registry.host.clone(), format!("no answer in {LIMIT:?}"));
    tokio::time::timeout(LIMIT, asked).await.map_err(late)?
}

impl Registry {
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

    async fn has(&self, blob: &str) -> Result<(), Error> {
        let asked = async {
            self.client.auth(&self.image, &self.auth, RegistryOperation::Pull).await?;
            self.client.blob_exists(&self.image, blob).await
        };
        let (host, repository) = (self.host.clone(), self.image.repository().to_owned());
        match asked.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::NoBlob(host, blob.to_owned(), repository)),
            Err(error) if refused(&error) => {
                Err(Error::Unauthorized(host, repository, cause(&error)))
            }
            Err(error) => Err(Error::Unreachable(host, cause(&error))),
        }
    }
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
        let nowhere = json!({"scheme": "http", "host": "127.0.0.1:1", "repo": "t/img"});
        let down = config(json!({"type": "registry", "config": nowhere}));
        let said = blobs(&down, &[blob]).await.unwrap_err().to_string();
        assert!(said.contains("registry 127.0.0.1:1 cannot be asked: "), "{said}");
        let local = config(json!({"type": "localfs", "config": {"dir": "/b"}}));
        blobs(&local, &["sha256:b".to_owned()]).await.unwrap();
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
