//! A snapshotter beside containerd: ours, or the Go one.

use crate::programs;
use crate::registry::encoded;
use crate::service::{Service, end_naming};
use crate::stage::Stage;
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// This project's.
    Ours,
    /// Go's `nydus-snapshotter`.
    Go,
}

/// A running snapshotter; it ends when dropped, with every nydusd.
#[derive(Debug)]
pub struct Snapshotter {
    service: Service,
    command: Command,
    directory: PathBuf,
}

impl Snapshotter {
    /// Starts one in the stage's directory `s`. `config` is its config.toml; in it, and in
    /// `nydusd`, the template of nydusd's configuration, these words are replaced by paths:
    /// ROOT, SOCKET, NYDUSD, TEMPLATE, CACHE. `None` if a program is missing.
    ///
    /// # Panics
    /// It does not come up.
    pub fn start(stage: &Stage, which: Which, config: &str, nydusd: &str) -> Option<Self> {
        let directory = stage.join("s");
        fs::create_dir_all(&directory).expect("a directory");
        let program = match which {
            Which::Ours => programs::ours("containerd-nydus-grpc"),
            Which::Go => programs::tool("nydus-snapshotter/usr/bin/containerd-nydus-grpc")?,
        };
        let daemon = without_limit(&directory, &programs::tool("nydusd/bin/nydusd")?, which);
        let fill = |text: &str| {
            let paths = [
                ("ROOT", directory.join("r")),
                ("SOCKET", directory.join("grpc.sock")),
                ("NYDUSD", daemon.clone()),
                ("TEMPLATE", directory.join("nydusd.json")),
                ("CACHE", directory.join("r/cache")),
            ];
            let replace = |text: String, (word, path): &(&str, PathBuf)| {
                text.replace(word, &path.to_string_lossy())
            };
            paths.iter().fold(text.to_owned(), replace)
        };
        fs::write(directory.join("nydusd.json"), fill(nydusd)).expect("a template");
        fs::write(directory.join("config.toml"), fill(config)).expect("a configuration");
        let mut command = Command::new(program);
        command.arg("--config").arg(directory.join("config.toml"));
        // No credentials but those that the test gives.
        command.env("HOME", &directory).env_remove("DOCKER_CONFIG").arg("--log-to-stdout");
        // For credential helpers.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", directory.display()));
        let service = Service::start(&mut command, directory.join("log"));
        let mut this = Self { service, command, directory };
        this.wait();
        Some(this)
    }

    fn wait(&mut self) {
        let socket = self.socket();
        self.service.wait("snapshotter's socket", || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
    }

    /// Gives it, as `docker login` does, the user and password of a registry.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn login(&self, host: &str, (user, password): (&str, &str)) {
        let docker = self.directory.join(".docker");
        fs::create_dir_all(&docker).expect("a directory");
        let auths = json!({ "auths": { host: { "auth": encoded(user, password) } } });
        fs::write(docker.join("config.json"), auths.to_string()).expect("config.json");
    }

    /// Starts it again with the same files, after [`Service::stop`] or [`Service::kill`].
    ///
    /// # Panics
    /// It does not come up.
    pub fn restart(&mut self) {
        let log = self.directory.join("log");
        self.service = Service::start(&mut self.command, log);
        self.wait();
    }

    /// The program itself, to be ended or signalled.
    pub fn service(&mut self) -> &mut Service {
        &mut self.service
    }

    /// The end of its log, and of each nydusd's, for the message of a failed assertion.
    pub fn said(&self) -> String {
        let logs = fs::read_dir(self.root().join("logs")).into_iter().flatten().flatten();
        let files = logs.filter_map(|daemon| fs::read_dir(daemon.path()).ok()).flatten().flatten();
        let tails = files.map(|file| {
            format!("{}:\n{}", file.path().display(), crate::service::tail(&file.path()))
        });
        std::iter::once(self.service.said()).chain(tails).collect::<Vec<_>>().join("\n")
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("grpc.sock")
    }

    /// Where it keeps its snapshots.
    pub fn root(&self) -> PathBuf {
        self.directory.join("r")
    }
}

impl Drop for Snapshotter {
    fn drop(&mut self) {
        self.service.stop();
        end_naming(&self.directory);
    }
}

/// nydusd wants a limit of a million open files and ends if it cannot have that. Ours tells it
/// not to; for the Go snapshotter, a script does.
fn without_limit(directory: &Path, nydusd: &Path, which: Which) -> PathBuf {
    let nydusd = fs::canonicalize(nydusd).expect("nydusd");
    if which == Which::Ours {
        return nydusd;
    }
    let script = directory.join("nydusd");
    let text = format!("#!/bin/sh\nexec {} \"$@\" --rlimit-nofile 0\n", nydusd.display());
    fs::write(&script, text).expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a script");
    script
}
