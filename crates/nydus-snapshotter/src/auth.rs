//! Registry credentials: from the snapshot's labels, then from Docker's configuration.

use crate::labels::{Labels, PULL_SECRET, PULL_USER};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use nydus_mount_slice::Secret;

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
    // Docker keeps the hub's under a name from its first days.
    let key = match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => "https://index.docker.io/v1/",
        host => host,
    };
    match docker_credential::get_credential(key) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            Some(Credential::basic(&user, &password))
        }
        Ok(DockerCredential::IdentityToken(token)) => Some(Credential::Token(token.into())),
        Err(
            CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::NoCredentialConfigured,
        ) => None,
        Err(error) => {
            tracing::warn!(host, %error, "docker's configuration gives no credentials");
            None
        }
    }
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
}
