//! What a runtime starts from: a slice, and a `nydusd` for its guest.

use crate::image::Rafs;
use crate::programs;
use crate::rootfs;
use crate::run::{run, uninterrupted};
use crate::stage::Stage;
use nydus_mount_slice::{ExtraOption, FsVersion, Mount};
use nydusd_client::{Binary, Daemon, Mode, Spec};
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The slice of a small image whose blobs lie beside it; `None` if a program is missing.
///
/// # Panics
/// It cannot be made.
pub fn slice(stage: &Stage, version: Rafs) -> Option<Mount> {
    let [lower, _] = rootfs::layers(&stage.join("small"), 1 << 20)?;
    let (bootstrap, blobs) = (stage.join("image.boot"), stage.join("blobs"));
    let (cache, snapshot) = (stage.join("cache"), stage.join("snapshot"));
    for directory in [&blobs, &cache, &snapshot.join("fs"), &snapshot.join("work")] {
        fs::create_dir_all(directory).expect("a directory");
    }
    let (number, fs_version) = match version {
        Rafs::V5 => ("5", FsVersion::V5),
        Rafs::V6 => ("6", FsVersion::V6),
    };
    let mut create = Command::new(programs::nydus_image()?);
    create.args(["create", "-t", "dir-rafs", "-v", number, "-B"]).arg(&bootstrap);
    let ran = run(create.arg("-D").arg(&blobs).arg(lower));
    assert!(ran.ok(), "{ran}");
    let config = json!({
        "device": {
            "backend": { "type": "localfs", "config": { "dir": blobs } },
            "cache": { "type": "blobcache", "config": { "work_dir": cache } },
        },
        "mode": "direct", "digest_validate": false, "enable_xattr": true,
    });
    let extra = ExtraOption {
        source: bootstrap.display().to_string(),
        config: config.to_string().as_str().into(),
        snapshotdir: snapshot.display().to_string(),
        fs_version: Some(fs_version),
    };
    let options = vec![
        "lowerdir=/lower".to_owned(),
        format!("upperdir={}/fs", snapshot.display()),
        format!("workdir={}/work", snapshot.display()),
    ];
    Some(Mount::nydus(options, &extra).expect("a slice"))
}

/// Starts a `nydusd` for a guest, its files in the stage.
///
/// # Panics
/// It does not come up.
pub async fn daemon(stage: &Stage, binary: &Binary) -> Daemon {
    let mode = Mode::Virtiofs { sock: stage.join("fs.sock"), hybrid: None };
    let mut spec = Spec::new(mode, stage.join("api.sock"));
    spec.extra = vec!["--rlimit-nofile".into(), "0".into()];
    spec.stderr = Some(stage.join("nydusd.log"));
    Daemon::start(binary, spec, Duration::from_secs(10)).await.expect("nydusd")
}

/// What lies between a client and `nydusd`, and may lose answers.
#[derive(Debug)]
pub struct Wire {
    socket: PathBuf,
    lost: Arc<Mutex<String>>,
}

impl Wire {
    /// One from a new `socket` to that of a server.
    ///
    /// # Panics
    /// No socket.
    pub fn new(socket: &Path, server: &Path) -> Self {
        let listener = UnixListener::bind(socket).expect("a socket");
        let wire = Self { socket: socket.to_owned(), lost: Arc::default() };
        wire.lose("none");
        let (lost, server) = (Arc::clone(&wire.lost), server.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let _ = pass(client, &server, || lost.lock().expect("a lock").clone());
            }
        });
        wire
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// From now on answers to requests that begin so are lost.
    ///
    /// # Panics
    /// Never.
    pub fn lose(&self, start: &str) {
        start.clone_into(&mut self.lost.lock().expect("a lock"));
    }
}

/// One request and its answer.
fn pass(mut client: UnixStream, server: &Path, lost: impl Fn() -> String) -> std::io::Result<()> {
    let request = message(&client)?;
    let mut server = UnixStream::connect(server)?;
    server.write_all(&request)?;
    let answer = message(&server)?;
    let is_lost = request.starts_with(lost().as_bytes());
    if is_lost { Ok(()) } else { client.write_all(&answer) }
}

/// A whole one, in however many pieces it comes.
fn message(mut from: &UnixStream) -> std::io::Result<Vec<u8>> {
    let (mut message, mut bytes) = (Vec::new(), vec![0; 1 << 16]);
    while !is_whole(&message) {
        match uninterrupted(|| from.read(&mut bytes))? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            length => message.extend(&bytes[..length]),
        }
    }
    Ok(message)
}

fn is_whole(message: &[u8]) -> bool {
    let text = String::from_utf8_lossy(message).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}
