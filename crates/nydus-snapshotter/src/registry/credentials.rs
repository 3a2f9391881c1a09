//! Registry credentials: from the snapshot's labels, then from Docker's configuration.

use crate::labels::{Labels, PULL_SECRET, PULL_USER};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use docker_credential::{CredentialRetrievalError as Failed, DockerCredential};
use nydus_mount_slice::Secret;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use serde_json::Value;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How long a credential helper may take.
const HELPER: Duration = Duration::from_secs(5);

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

/// Docker's credential helper gave no answer in this time; it is ended.
#[derive(Debug, thiserror::Error)]
#[error("docker's credential helper {0:?} gave no answer within {1:?}")]
pub struct Late(String, Duration);

/// The credentials for `host`, the first source that has some; a source that fails is named in
/// a warning and passed over.
///
/// # Errors
/// A credential helper that hangs.
pub async fn find(labels: &Labels, host: &str) -> Result<Option<Credential>, Late> {
    match from_labels(labels) {
        None => from_docker(host).await,
        found => Ok(found),
    }
}

fn from_labels(labels: &Labels) -> Option<Credential> {
    let (user, secret) = (labels.get(PULL_USER), labels.get(PULL_SECRET)?);
    match user.map_or("", String::as_str) {
        "" => Some(Credential::Token(secret.as_str().into())),
        user => Some(Credential::basic(user, secret)),
    }
}

async fn from_docker(host: &str) -> Result<Option<Credential>, Late> {
    let directory = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    // systemd sets no HOME for its services; then this one looks into /etc/passwd.
    let directory = directory.or_else(|| Some(std::env::home_dir()?.join(".docker")));
    let Some(directory) = directory else { return Ok(None) };
    match std::fs::read_to_string(directory.join("config.json")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            tracing::warn!(directory = %directory.display(), %error, "no docker configuration");
            Ok(None)
        }
        Ok(text) => in_docker(&text, host).await,
    }
}

/// Looks in the text of a `config.json`.
async fn in_docker(text: &str, host: &str) -> Result<Option<Credential>, Late> {
    let config = serde_json::from_str(text).unwrap_or_default();
    let key = key(&config, host);
    if let Some(name) = text_at(&config, &["credHelpers", &key]) {
        return from_helper(name, &key).await;
    }
    let stored = match docker_credential::get_credential_from_reader(
        &*without_store(config.clone()),
        &key,
    ) {
        Ok(stored) => Some(credential(stored)),
        Err(Failed::ConfigNotFound | Failed::NoCredentialConfigured) => None,
        Err(error) => {
            tracing::warn!(host, %error, "docker's configuration gives no credentials");
            None
        }
    };
    match text_at(&config, &["credsStore"]) {
        Some(name) if stored.is_none() => from_helper(name, &key).await,
        _ => Ok(stored),
    }
}

fn credential(docker: DockerCredential) -> Credential {
    match docker {
        DockerCredential::UsernamePassword(user, password) => Credential::basic(&user, &password),
        DockerCredential::IdentityToken(token) => Credential::Token(token.into()),
    }
}

fn text_at<'v>(config: &'v Value, path: &[&str]) -> Option<&'v str> {
    let found = path.iter().try_fold(config, |value, key| value.get(key))?;
    found.as_str().filter(|text| !text.is_empty())
}

/// Asks `docker-credential-NAME`, which may be any program.
async fn from_helper(name: &str, key: &str) -> Result<Option<Credential>, Late> {
    let program = format!("docker-credential-{name}");
    match tokio::time::timeout(HELPER, ask(&program, key)).await {
        Ok(Ok(found)) => Ok(Some(found)),
        Ok(Err(error)) => {
            tracing::warn!(host = key, helper = program, %error, "no credentials");
            Ok(None)
        }
        Err(_) => Err(Late(program, HELPER)),
    }
}

/// What it prints may be a password, on its standard error too: no error of ours has it.
async fn ask(program: &str, key: &str) -> io::Result<Credential> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let (piped, null) = (Stdio::piped, Stdio::null);
    let mut command = Command::new(program);
    command.arg("get").stdin(piped()).stdout(piped()).stderr(null()).kill_on_drop(true);
    let mut child = command.process_group(0).spawn()?;
    let _group = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).map(Group);
    if let Some(mut input) = child.stdin.take() {
        // One that reads nothing may answer all the same.
        let _ = input.write_all(key.as_bytes()).await;
    }
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        return Err(io::Error::other(format!("it failed: {}", output.status)));
    }
    let answer = serde_json::from_slice(&output.stdout);
    let no_answer = |_| io::Error::other("it gave no JSON with Username and Secret");
    let Answer { username, secret } = answer.map_err(no_answer)?;
    Ok(credential(match username.as_str() {
        "<token>" => DockerCredential::IdentityToken(secret),
        _ => DockerCredential::UsernamePassword(username, secret),
    }))
}

/// Processes that end when it is dropped: a helper is often a script that runs others.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = kill_process_group(self.0, Signal::KILL);
    }
}

/// The same without helpers: those are ours to run, and to end.
fn without_store(mut config: Value) -> Vec<u8> {
    if let Some(config) = config.as_object_mut() {
        config.remove("credsStore");
        config.remove("credHelpers");
    }
    config.to_string().into_bytes()
}
/// Docker keeps the hub's credentials under a name from its first days, which helpers know too.
const HUB: &str = "https://index.docker.io/v1/";

/// The name under which the configuration has this host: with or without scheme and path.
fn key(config: &Value, host: &str) -> String {
    let is_hub =
        |host: &str| ["docker.io", "index.docker.io", "registry-1.docker.io"].contains(&host);
    let host_of = |key: &str| {
        let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
        bare.unwrap_or(key).split('/').next().unwrap_or_default().to_owned()
    };
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

    #[tokio::test]
    async fn docker_gives_credentials() {
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
            let given = in_docker(&text, host).await.unwrap();
            assert_eq!(given, expected.clone().filter(|_| found), "{text} {host}");
        }
    }

    /// A helper's answer, its failure, and one that hangs: that one is ended, with what it runs.
    #[tokio::test]
    async fn helpers_are_asked() {
        let directory = tempfile::tempdir().unwrap();
        let left = directory.path().join("left");
        let hang = format!("sleep 1000 & echo $! > {}; wait", left.display());
        let table = [
            (r#"read k; echo "{\"Username\":\"u\",\"Secret\":\"$k\"}""#, Some("u:p")),
            (r#"echo '{"Username":"<token>","Secret":"t"}'"#, Some("t")),
            ("echo hunter2; exit 1", None),
            ("echo hunter2", None),
        ];
        // A name with a way to it: the PATH of a test is not its own.
        let program = |name: &str, text: &str| {
            let path = directory.path().join(name);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, mode).unwrap();
            path.to_str().unwrap().to_owned()
        };
        for (number, (text, expected)) in table.into_iter().enumerate() {
            let program = program(&number.to_string(), text);
            let given = ask(&program, "p").await;
            let expected = expected.map(|text| match text.split_once(':') {
                Some((user, password)) => Credential::basic(user, password),
                None => Credential::Token(text.into()),
            });
            assert!(!format!("{given:?}").contains("hunter2"));
            assert_eq!(given.ok(), expected, "{text}");
        }
        let program = program("hangs", &hang);
        let soon = Duration::from_millis(100);
        let asked = async {
            let runs = || std::fs::read_to_string(&left).is_ok_and(|text| text.ends_with('\n'));
            while !runs() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(soon).await;
        };
        tokio::select! {
            given = ask(&program, "p") => panic!("{given:?}"),
            () = asked => {}
        }
        let pid: i32 = std::fs::read_to_string(&left).unwrap().trim().parse().unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid()));
        let ended = || state().map_or(true, |text| text.contains(") Z"));
        for _ in 0..1000 {
            if ended() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{}", state().unwrap());
    }
}
