//! From the configuration to a server, and its end.

use crate::background::Background;
use crate::config::file::File;
use crate::config::{Config, DaemonMode, KernelNative, MAX_ROOT};
use crate::disk::make_directory;
use crate::grpc::Service;
use crate::layout::Layout;
use crate::mounts::Host;
use crate::operator::metrics::{self, Metrics};
use crate::operator::status::Status;
use crate::serving::Serving;
use crate::snapshots::{Snapshots, directories};
use crate::{cgroup, import};
use anyhow::{Context, Result, bail, ensure};
use containerd_proto::nydus::status_server::StatusServer;
use containerd_proto::snapshots::snapshots_server::SnapshotsServer;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

/// Default root of the Go snapshotter 0.13.4 of Debian 13.
const DEBIAN_ROOT: &str = "/var/lib/containerd-nydus";
/// How often images are looked for that may be promoted, or were.
const TICK: Duration = Duration::from_secs(1);
/// How long calls may take to end when we are told to.
const FAREWELL: Duration = Duration::from_secs(10);

/// Serves until a signal ends it.
///
/// # Errors
/// Whatever keeps it from serving, in one line.
pub async fn run(mut config: Config) -> Result<()> {
    directories::set_umask();
    config.root = root(&config.root)?;
    let config = Arc::new(config);
    // Before anybody can know that we are here.
    let told = signals()?;
    let listener = listen(&config.address, config.file.uid, config.file.gid)?;
    let snapshots = Arc::new(open(&config)?);
    let (metrics, serving) = (Arc::new(Metrics::default()), Arc::clone(&snapshots.serving));
    // Clients that have connected already wait for this.
    let recovering = tokio::spawn(serving.adopt(|id| snapshots.image(id))?);
    if config.kernel_native == KernelNative::Required {
        serving.kernel.support().await.context("kernel_native = \"required\"")?;
    }
    let background = background(&config, &snapshots);
    if let Some(address) = &config.metrics {
        let (metrics, serving) = (Arc::clone(&metrics), Arc::clone(&serving));
        metrics::serve(address, move || metrics.text(&serving))
            .await
            .with_context(|| format!("metrics address {address}"))?;
    }
    let service = Service { snapshots: Arc::clone(&snapshots), metrics };
    let status = Status { snapshots };
    let (end, ended) = tokio::sync::oneshot::channel();
    let server = Server::builder()
        .add_service(SnapshotsServer::new(service))
        .add_service(StatusServer::new(status))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
            let _ = ended.await;
        });
    let server = tokio::spawn(server);
    // Without systemd there is nobody to be told.
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    tracing::info!(address = %config.address.display(), root = %config.root.display(), "serving");
    told.await;
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
    let _ = end.send(());
    let _ = tokio::time::timeout(FAREWELL, server).await;
    recovering.abort();
    drop(background);
    // Containers go on without us, so their daemons stay; unless the configuration wants them gone.
    serving.close(config.file.cleanup_on_close).await;
    let _ = fs::remove_file(&config.address);
    Ok(())
}

/// What is done in the background.
fn background(config: &Config, snapshots: &Arc<Snapshots>) -> Background {
    let mut tasks = Background::default();
    let serving = Arc::clone(&snapshots.serving);
    tasks.every(config.collect_interval, move || Arc::clone(&serving).look_at_health());
    if config.kernel_native != KernelNative::Off {
        let serving = Arc::clone(&snapshots.serving);
        tasks.every(TICK, move || Arc::clone(&serving).promote_next());
        let snapshots = Arc::clone(snapshots);
        tasks.every(TICK, move || Arc::clone(&snapshots).release_promoted());
    }
    tasks
}

/// The store and the images of a configuration.
fn open(config: &Arc<Config>) -> Result<Snapshots> {
    let layout = Layout::new(&config.root);
    private_directory(&layout.snapshots())?;
    ensure!(
        directories::tells_types(&layout.snapshots())?,
        "root {}: its file system does not tell file types (d_type), which overlayfs needs",
        config.root.display()
    );
    let usual = config.root == File::default().root;
    let store = import::open(&layout, usual.then_some(Path::new(DEBIAN_ROOT)))?;
    let cgroup = config.cgroup.as_ref().filter(|_| config.mode != DaemonMode::None);
    let cgroup = cgroup.map(cgroup::make).transpose()?;
    let serving = Serving::new(config, cgroup, &layout, store.clone())?;
    let host = Host { options: overlay_options(), slice_type: config.slice_type.clone() };
    let cleaning = tokio::sync::Mutex::new(());
    let config = Arc::clone(config);
    Ok(Snapshots { store, layout, host, config, serving, cleaning })
}

/// What plain overlays need on this host, as containerd's own snapshotter decides it.
fn overlay_options() -> Vec<String> {
    let index = Path::new("/sys/module/overlay/parameters/index").exists();
    let whole = "         0          0 4294967295";
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_else(|_| whole.to_owned());
    let namespace = map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"];
    let options = [("index=off", index), ("userxattr", namespace)];
    options.into_iter().filter(|(_, needed)| *needed).map(|(option, _)| option.into()).collect()
}

fn root(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    private_directory(path)?;
    let root = fs::canonicalize(path).with_context(|| format!("root {shown}"))?;
    let length = root.as_os_str().len();
    ensure!(
        length <= MAX_ROOT,
        "root {shown}: {length} bytes, expected at most {MAX_ROOT}: sockets have their names below it"
    );
    Ok(root)
}

fn private_directory(path: &Path) -> Result<()> {
    make_directory(path, 0o700).with_context(|| format!("cannot make directory {}", path.display()))
}

/// Listens on a unix socket, in place of one that nobody listens on any more.
fn listen(address: &Path, uid: u32, gid: u32) -> Result<UnixListener> {
    let shown = address.display();
    private_directory(address.parent().unwrap_or(Path::new("/")))?;
    match fs::symlink_metadata(address) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("address {shown}")),
        Ok(meta) if !meta.file_type().is_socket() => bail!("address {shown}: it is no socket"),
        Ok(_) if UnixStream::connect(address).is_ok() => {
            bail!("address {shown}: another process listens there")
        }
        Ok(_) => fs::remove_file(address)?,
    }
    let listener = UnixListener::bind(address).with_context(|| format!("address {shown}"))?;
    chown(address, Some(uid), Some(gid)).with_context(|| format!("address {shown}"))?;
    Ok(listener)
}

/// Waits for a signal that asks us to end. A second one ends the process.
fn signals() -> Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            std::process::exit(1);
        });
    })
}
