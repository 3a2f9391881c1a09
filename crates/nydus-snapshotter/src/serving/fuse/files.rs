//! Files and directories of a daemon and of an image.

use super::template::{self, TemplateInputs, is_registry};
use super::{Error, Fuse, SHARED, ServedImage};
use crate::config::{Config, DaemonMode, Recover};
use crate::disk::{self, make_directory};
use crate::labels::image_ref;
use crate::registry::credentials;
use crate::registry::reference::host_and_repository;
use nydus_mount_slice::Secret;
use nydusd_client::{Log, Mode, Spec};
use rustix::fs::CWD;
use rustix::mount::{FsPickFlags, fsconfig_reconfigure, fspick};
use serde_json::Value;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Bytes that must be free for an image to be served: its configuration, logs, maps of chunks.
const SPACE: u64 = 4 << 20;

/// The name of a daemon of its own.
pub(super) fn dedicated(image: u64) -> String {
    format!("d{image}")
}

/// The image that a daemon named by [`dedicated`] serves.
pub(super) fn image_of(daemon: &str) -> Option<u64> {
    daemon.strip_prefix('d')?.parse().ok()
}

/// Whether [`dedicated`] or [`SHARED`] names a daemon so; the Go snapshotter's names are others.
pub(super) fn is_own_name(daemon: &str) -> bool {
    daemon == SHARED || image_of(daemon).is_some()
}

/// Whether a socket is that of a daemon with a name of ours.
pub(super) fn is_ours(sockets: &Path, socket: &Path) -> bool {
    let name = socket.strip_prefix(sockets).ok().and_then(|below| below.iter().next()?.to_str());
    name.is_some_and(is_own_name)
}

/// Where the shared daemon serves an image, as its API names it.
pub(super) fn submount(image: u64) -> String {
    format!("/{image}")
}

/// Lets the kernel forget the entries below a FUSE mount that nobody uses. `nydusd` allows it to
/// know them forever: an image that is mounted at the same name again would have the directory that
/// is gone. A reconfiguration changes nothing else (`reconfigure_super()`).
pub(super) fn forget_entries(mountpoint: &Path) -> io::Result<()> {
    let picked = fspick(CWD, mountpoint, FsPickFlags::FSPICK_CLOEXEC)?;
    Ok(fsconfig_reconfigure(picked)?)
}

/// The configuration of `image` from the template, with credentials if those are to be asked for.
pub(super) async fn render(
    settings: &Config,
    image: &ServedImage,
    ask: bool,
) -> Result<Secret, Error> {
    let template = &settings.file.daemon.nydusd_config;
    let bad = |why: String| Error::Template(template.clone(), why);
    let text = fs::read(template).map_err(|error| bad(error.to_string()))?;
    let parsed = serde_json::from_slice(&text);
    // The error's own text may quote a password.
    let template: Value = parsed.map_err(|error| {
        bad(format!("no JSON: {:?} error in line {}", error.classify(), error.line()))
    })?;
    let reference = image_ref(&image.labels);
    let credential = match reference.filter(|_| ask && is_registry(&template)) {
        Some(reference) => {
            let (host, _) = host_and_repository(Some(reference)).map_err(template::Error::from)?;
            credentials::find(&image.labels, &host).await?
        }
        None => None,
    };
    let (cache, skip_verify) = (settings.cache.as_path(), settings.file.remote.skip_ssl_verify);
    let prefetch = settings.mode != DaemonMode::Shared;
    let parts = TemplateInputs { id: image.id, reference, cache, skip_verify, prefetch };
    Ok(template::render(&template, parts, credential.as_ref())?)
}

impl Fuse {
    /// How a daemon of one image is started.
    pub(super) fn dedicated_spec(&self, id: &str, image: u64) -> Spec {
        let mode = Mode::Dedicated {
            config: self.layout.daemon_config(id),
            bootstrap: self.layout.bootstrap(image),
            mountpoint: self.layout.dedicated_mount(image),
        };
        self.spec(id, mode)
    }

    /// How the daemon of all images is started.
    pub(super) fn shared_spec(&self, id: &str) -> Spec {
        self.spec(id, Mode::Shared { mountpoint: self.layout.shared_mount() })
    }

    fn spec(&self, id: &str, mode: Mode) -> Spec {
        let (layout, daemon) = (&self.layout, &self.config.file.daemon);
        let file = layout.daemon_log(&self.config.logs, id);
        let failover = self.config.recover == Recover::Failover;
        Spec {
            threads: daemon.threads_number,
            failover_policy: daemon.failover_policy.clone(),
            stderr: Some(file.with_extension("stderr")),
            log: Log {
                level: self.config.file.log.level.clone(),
                file: Some(file),
                rotation: daemon.log_rotation_size,
            },
            instances: layout.daemon_config(id).parent().map(Path::to_owned),
            cgroup: self.cgroup.clone(),
            id: failover.then(|| id.to_owned()),
            supervisor: failover.then(|| layout.supervisor(id)),
            ..Spec::new(mode, layout.api_socket(id))
        }
    }
}

/// Refuses a disk that is full, or nearly: where it cannot write, `nydusd` hangs or dies.
pub(super) fn space(path: &Path) -> Result<(), Error> {
    let failed = |error| Error::File(path.to_owned(), error);
    let disk = rustix::fs::statvfs(path).map_err(|error| failed(error.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free >= SPACE || disk.f_blocks == 0 {
        return Ok(());
    }
    let text = format!("No space left on device: {free} bytes are free, expected {SPACE}");
    Err(failed(io::Error::new(io::ErrorKind::StorageFull, text)))
}

/// Makes the directories that a daemon needs.
pub(super) fn prepare(settings: &Config, spec: &Spec) -> Result<(), Error> {
    let parents = [Some(spec.apisock.as_path()), spec.log.file.as_deref()];
    for path in parents.into_iter().flatten().filter_map(Path::parent) {
        directory(path, 0o700)?;
    }
    directory(&settings.cache, 0o755)?;
    spec.mountpoint().map_or(Ok(()), |path| directory(path, 0o755))
}

/// Removes what [`prepare`] and [`write_secret`] made for a daemon. The logs stay for as long as
/// the image might be asked about; the next daemon of that name writes them anew.
pub(super) fn discard(spec: &Spec, config: &Path) {
    let parents = [spec.apisock.parent(), config.parent(), spec.mountpoint()];
    let [socket, config, mountpoint] = parents;
    for path in [socket, config].into_iter().flatten() {
        gone(path, fs::remove_dir_all(path));
    }
    if let Some(path) = &spec.supervisor {
        gone(path, fs::remove_file(path));
    }
    // Never with what is in it: it may be mounted.
    if let Some(path) = mountpoint {
        gone(path, fs::remove_dir(path));
    }
}

/// Removes a daemon's logs.
pub(super) fn discard_logs(settings: &Config, id: &str) -> io::Result<()> {
    disk::gone(fs::remove_dir_all(settings.logs.join(id)))
}

/// Removes the configuration of one image of the shared daemon.
pub(super) fn discard_instance(config: &Path) {
    if let Some(path) = config.parent() {
        gone(path, fs::remove_dir_all(path));
    }
}

fn gone(path: &Path, outcome: io::Result<()>) {
    if let Err(error) = disk::gone(outcome) {
        tracing::warn!(path = %path.display(), %error, "cannot be removed");
    }
}

/// Writes a secret so that it is there whole or not at all, for its owner only.
pub(super) fn write_secret(path: &Path, secret: &Secret) -> Result<(), Error> {
    let failed = |error| Error::File(path.to_owned(), error);
    let parent = path.parent().unwrap_or(Path::new("/"));
    directory(parent, 0o700)?;
    let mut file = tempfile::NamedTempFile::new_in(parent).map_err(failed)?;
    file.as_file().set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
    file.write_all(secret.expose().as_bytes()).map_err(failed)?;
    file.persist(path).map(drop).map_err(|error| failed(error.error))
}

fn directory(path: &Path, mode: u32) -> Result<(), Error> {
    make_directory(path, mode).map_err(|error| Error::File(path.to_owned(), error))
}
