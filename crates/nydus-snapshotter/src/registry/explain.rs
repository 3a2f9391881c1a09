//! What a registry says of an image's blobs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nydus_mount_slice::Secret;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use serde_json::Value;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Until the registry lets us in, or not; and then for one answer: with the rest of a start, one
/// that is down is told within 10 seconds.
const LOGIN: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(4);
const CONNECT: Duration = Duration::from_secs(3);
/// Questions at once.
const AT_ONCE: usize = 8;

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
/// be asked is left to reading.
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
    // As nydusd has it where it is not given.
    let fallback = backend.pointer("/proxy/fallback").and_then(Value::as_bool).unwrap_or(true);
    mirrors || !proxy(backend).is_empty() && fallback
}

/// The proxy's URL, empty for none.
fn proxy(backend: &Value) -> &str {
    backend.pointer("/proxy/url").and_then(Value::as_str).unwrap_or_default()
}

async fn ask(backend: &Value, blobs: &[String]) -> Result<(), Error> {
    let host = backend["host"].as_str().unwrap_or_default();
    let Some(registry) = in_time(host, LOGIN, Registry::enter(backend)).await? else {
        return Ok(());
    };
    let registry = Arc::new(registry);
    for some in blobs.chunks(AT_ONCE) {
        let ask = |blob: &String| {
            let (registry, blob) = (Arc::clone(&registry), blob.clone());
            async move { registry.has(&blob).await }
        };
        let asked: JoinSet<_> = some.iter().map(ask).collect();
        asked.join_all().await.into_iter().collect::<Result<(), _>>()?;
    }
    Ok(())
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
        if let Some(rustls::Error::InvalidMessage(_)) = error.downcast_ref() {
            return true;
        }
        // What an I/O error was made of is not its source, but it.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = inner.map(|inner| inner as &dyn std::error::Error).or_else(|| error.source());
    }
    false
}

fn client_config(config: &Value, protocol: ClientProtocol) -> ClientConfig {
    let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
    let proxy = Some(proxy(config)).filter(|url| !url.is_empty()).map(str::to_owned);
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

#[cfg(test)]
mod tests;
