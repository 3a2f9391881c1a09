//! The real program on a directory of its own.

use containerd_proto::snapshots::snapshots_client::SnapshotsClient;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

pub(crate) type Client = SnapshotsClient<Channel>;

/// A running snapshotter. Ended, with its directory, when it is dropped.
pub(crate) struct Server {
    directory: TempDir,
    options: Vec<String>,
    child: Child,
}

impl Server {
    /// One without any image support.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// The same with these lines in its configuration.
    pub(crate) fn with(lines: &[&str]) -> Self {
        Self::with_environment(lines, &[])
    }

    /// The same with these variables.
    pub(crate) fn with_environment(lines: &[&str], environment: &[(&str, String)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut options = Vec::new();
        if !lines.is_empty() {
            let file = directory.path().join("config.toml");
            std::fs::write(&file, lines.join("\n")).unwrap();
            options = vec!["--config".to_owned(), file.display().to_string()];
        }
        let child = spawn(&directory, &options, environment);
        let server = Self { directory, options, child };
        server.wait();
        server
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    pub(crate) fn address(&self) -> PathBuf {
        self.directory.path().join("run/s.sock")
    }

    /// A client that finds the server again after it was started again.
    pub(crate) fn client(&self) -> Client {
        let address = format!("unix://{}", self.address().display());
        Client::new(Endpoint::from_shared(address).unwrap().connect_lazy())
    }

    /// Ends it as a power cut would, but for the disk, and starts it again.
    pub(crate) fn kill_and_start(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.directory, &self.options, &[]);
        self.wait();
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// Numbers of the directories of snapshots.
    pub(crate) fn directories(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root().join("snapshots")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn wait(&self) {
        let start = Instant::now();
        while std::os::unix::net::UnixStream::connect(self.address()).is_err() {
            assert!(start.elapsed() < Duration::from_secs(60), "the server does not listen");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn spawn(directory: &TempDir, options: &[String], environment: &[(&str, String)]) -> Child {
    let log = std::fs::File::create(directory.path().join("log")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_containerd-nydus-grpc"))
        .arg("--root")
        .arg(directory.path().join("root"))
        .arg("--address")
        .arg(directory.path().join("run/s.sock"))
        .args(options)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log)
        .spawn()
        .unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.path().join("log"));
            println!("{}", log.unwrap_or_default());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // It may have been killed while it tried what the kernel can mount.
        let _ = rafs_erofs::unmount(&self.root().join("native/.probe/mount"));
    }
}
