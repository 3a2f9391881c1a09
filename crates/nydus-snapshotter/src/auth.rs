//! Registry credentials: from the snapshot's labels, then from Docker's configuration.

use crate::labels::{Labels, PULL_SECRET, PULL_USER};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use docker_credential::{CredentialRetrievalError as Failed, DockerCredential};
use nydus_mount_slice::Secret;
use serde_json::Value;
use std::io;
use std::path::PathBuf;

/// Credentials for a registry, as `nydusd` takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// `auth`: base64 of `user:password`.
    Basic(Secret),
    /// `registry_token`.
    Token(Secret),
}

impl Credential {
    fn basic(user: &str, password: &str) -> Self {
        Self::Basic(STANDARD.encode(format!("{user}:{password}")).into())
    }
}

/// The credentials for `host`, the first source that has some; a source that fails is named in
/// a warning and passed over.
pub fn find(labels: &Labels, host: &str) -> Option<Credential> {
    from_labels(labels).or_else(|| from_docker(host))
}

fn from_labels(labels: &Labels) -> Option<Credential> {
    let (user, secret) = (labels.get(PULL_USER), labels.get(PULL_SECRET)?);
    match user.map_or("", String::as_str) {
        "" => Some(Credential::Token(secret.as_str().into())),
        user => Some(Credential::basic(user, secret)),
    }
}

fn from_docker(host: &str) -> Option<Credential> {
    let directory = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    // systemd sets no HOME for its services; then this one looks into /etc/passwd.
    let directory = directory.or_else(|| Some(std::env::home_dir()?.join(".docker")))?;
    let text = match std::fs::read_to_string(directory.join("config.json")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(directory = %directory.display(), %error, "no docker configuration");
            return None;
        }
        Ok(text) => text,
    };
    in_docker(&text, host)
}

/// Looks in the text of a `config.json`.
fn in_docker(text: &str, host: &str) -> Option<Credential> {
    match docker_credential::get_credential_from_reader(text.as_bytes(), &key(text, host)) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Some(Credential::basic(&user, &password))
        }
        Ok(DockerCredential::IdentityToken(token)) => Some(Credential::Token(token.into())),
        Err(Failed::ConfigNotFound | Failed::NoCredentialConfigured) => None,
        Err(error) => {
            // What a helper printed may be a password.
            let why = match &error {
                Failed::HelperFailure { helper, .. } => format!("helper {helper:?} failed"),
                other => other.to_string(),
            };
            tracing::warn!(host, why, "docker's configuration gives no credentials");
            None
        }
    }
}

/// Docker keeps the hub's credentials under a name from its first days, which helpers know too.
const HUB: &str = "https://index.docker.io/v1/";

/// The name under which the configuration has this host: with or without scheme and path.
fn key(text: &str, host: &str) -> String {
    let is_hub =
        |host: &str| ["docker.io", "index.docker.io", "registry-1.docker.io"].contains(&host);
    let host_of = |key: &str| {
        let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
        bare.unwrap_or(key).split('/').next().unwrap_or_default().to_owned()
    };
    let config: Value = serde_json::from_str(text).unwrap_or_default();
    let keys =
        ["credHelpers", "auths"].into_iter().filter_map(|section| config[section].as_object());
    let mut keys = keys.flat_map(|section| section.keys());
    let found = keys.find(|key| {
        let of = host_of(key);
        of == host || is_hub(&of) && is_hub(host)
    });
    let usual = if is_hub(host) { HUB } else { host };
    found.map_or(usual, String::as_str).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_give_credentials() {
        let basic = |text: &str| Some(Credential::Basic(text.into()));
        type Row = (&'static [(&'static str, &'static str)], Option<Credential>);
        let table: &[Row] = &[
            (&[], None),
            (&[(PULL_USER, "u")], None),
            (&[(PULL_USER, "u"), (PULL_SECRET, "p")], basic("dTpw")),
            (&[(PULL_SECRET, "t")], Some(Credential::Token("t".into()))),
            (&[(PULL_USER, ""), (PULL_SECRET, "t")], Some(Credential::Token("t".into()))),
        ];
        for (labels, expected) in table {
            let labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            assert_eq!(from_labels(&labels), *expected);
        }
    }

    #[test]
    fn docker_gives_credentials() {
        let auths = |key: &str| format!(r#"{{"auths":{{"{key}":{{"auth":"dTpw"}}}}}}"#);
        let table = [
            (auths("p:5000"), "p:5000", true),
            (auths("https://p:5000"), "p:5000", true),
            (auths("p:5000/v2/"), "p:5000", true),
            (auths("p:5001"), "p:5000", false),
            (auths("https://index.docker.io/v1/"), "docker.io", true),
            (auths("index.docker.io"), "docker.io", true),
            (auths("docker.io"), "registry-1.docker.io", true),
            (auths("p"), "docker.io", false),
            ("{}".into(), "p", false),
            ("no JSON".into(), "p", false),
        ];
        let expected = Some(Credential::Basic("dTpw".into()));
        for (text, host, found) in table {
            assert_eq!(in_docker(&text, host), expected.clone().filter(|_| found), "{text} {host}");
        }
    }
}
