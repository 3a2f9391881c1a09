//! Starts and stops what serves an image.

use super::{
    DAEMONS, DaemonRecord, Error, Fuse, INSTANCES, InstanceRecord, Live, SHARED, Served,
    ServedImage, cached, files, first_file,
};
use crate::config::DaemonMode;
use crate::registry::explain;
use nydus_mount_slice::{FsVersion, Secret};
use nydusd_client::{Binary, Daemon, Mount, Spec, bootstrap, clear_stale};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long `nydusd` may take to be ready: it is fast, but nodes are busy.
const READY: Duration = Duration::from_secs(30);

impl Fuse {
    /// Serves an image that nobody serves. The registry is asked while the daemon starts, and a
    /// file is read: but never of an image of which something is cached, which is not to be refused
    /// because its registry is away, has lost a blob or does not know us any more.
    pub(in crate::serving) async fn launch(&self, image: ServedImage) -> Result<Served, Error> {
        let bootstrap = self.layout.bootstrap(image.id);
        if bootstrap::version(&bootstrap)? == FsVersion::V6 {
            self.mend_cache(&bootstrap).await;
        }
        let cached = self.is_cached(&image).await?;
        let config = self.config(&image).await?;
        files::space(self.layout.root())?;
        let probing =
            async { if cached { Ok(()) } else { explain::blobs(&config, &image.blobs).await } };
        let (mounted, readable) = if self.config.mode == DaemonMode::Shared {
            // Unmounting an image early is what the daemon of all others need not survive.
            probing.await?;
            (self.mount_shared(&image, &config).await, Ok(()))
        } else {
            tokio::join!(self.mount_dedicated(&image, &config), probing)
        };
        let (live, lower) = match mounted {
            // What the registry says explains more.
            Err(error) => return Err(readable.err().map_or(error, Error::from)),
            Ok(mounted) => mounted,
        };
        let served = Served { image, lower, config, live };
        let readable = match readable {
            Ok(()) => first_file::read(&served, cached).await,
            refused => refused.map_err(Error::from),
        };
        match readable {
            Ok(()) => {
                self.collect_session(&served.live);
                Ok(served)
            }
            Err(error) => {
                self.stop(&served).await?;
                Err(error)
            }
        }
    }

    async fn mount_dedicated(
        &self,
        image: &ServedImage,
        config: &Secret,
    ) -> Result<(Arc<Live>, PathBuf), Error> {
        let id = self.recorded_daemon(image.id)?;
        let spec = self.dedicated_spec(&id, image.id);
        let lower = self.layout.dedicated_mount(image.id);
        self.remember(&id, &spec, Some((image.id, &lower))).await?;
        let config_file = self.layout.daemon_config(&id);
        let started = async {
            // A dead mount would be in the way of its own directory.
            clear_stale(&spec).await?;
            files::prepare(&self.config, &spec)?;
            cached::bring_metadata(&self.config.cache, &self.layout.bootstrap(image.id)).await?;
            files::write_secret(&config_file, config)?;
            self.start(&id, spec.clone(), false).await
        };
        match started.await {
            Ok(live) => Ok((live, lower)),
            // One that lives and does not answer is left to its containers.
            Err(error @ Error::Daemon(nydusd_client::Error::SocketInUse(_))) => Err(error),
            Err(error) => {
                files::discard(&spec, &config_file);
                self.forget(Some(&id), Some(image.id)).await?;
                Err(error)
            }
        }
    }

    async fn mount_shared(
        &self,
        image: &ServedImage,
        config: &Secret,
    ) -> Result<(Arc<Live>, PathBuf), Error> {
        let lower = self.layout.shared_mount().join(image.id.to_string());
        let config_file = self.layout.instance_config(SHARED, image.id);
        let mounted = async {
            files::write_secret(&config_file, config)?;
            let live = self.shared_daemon().await?;
            cached::bring_metadata(&self.config.cache, &self.layout.bootstrap(image.id)).await?;
            self.remember(&live.id, live.daemon.spec(), Some((image.id, &lower))).await?;
            let source = self.layout.bootstrap(image.id).to_string_lossy().into_owned();
            let mount = Mount::rafs(source, config.clone());
            match live.daemon.client().mount(&files::submount(image.id), &mount).await {
                // Killed between this call and its record: it is ours.
                Err(error) if !error.is_already_mounted() => Err(Error::from(error)),
                _ => Ok(live),
            }
        };
        match mounted.await {
            Ok(live) => Ok((live, lower)),
            Err(error) => {
                files::discard_instance(&config_file);
                self.forget(None, Some(image.id)).await?;
                Err(error)
            }
        }
    }

    /// The daemon of all images, started if there is none.
    pub(super) async fn shared_daemon(&self) -> Result<Arc<Live>, Error> {
        let mut shared = self.shared.lock().await;
        if let Some(live) = shared.as_ref().filter(|live| !live.is_gone()) {
            return Ok(Arc::clone(live));
        }
        let id = shared.as_ref().map_or(SHARED, |dead| &dead.id).to_owned();
        let spec = self.shared_spec(&id);
        self.remember(&id, &spec, None).await?;
        clear_stale(&spec).await?;
        files::prepare(&self.config, &spec)?;
        let live = self.start(&id, spec, true).await?;
        *shared = Some(Arc::clone(&live));
        Ok(live)
    }

    /// What `nydusd` knows, asked once.
    pub(super) async fn binary(&self) -> Result<&Binary, nydusd_client::Error> {
        self.binary.get_or_try_init(|| Binary::probe(&self.config.file.daemon.nydusd_path)).await
    }

    async fn start(&self, id: &str, spec: Spec, shared: bool) -> Result<Arc<Live>, Error> {
        let daemon = Daemon::start(self.binary().await?, spec, READY).await?;
        let live = Live::new(id, daemon, shared);
        tracing::info!(daemon = id, pid = live.daemon.pid(), "nydusd runs");
        self.watch(&live);
        Ok(live)
    }

    /// Stops what serves an image, and forgets it.
    pub(in crate::serving) async fn stop(&self, served: &Served) -> Result<(), Error> {
        let (live, id) = (&served.live, served.image.id);
        if live.shared {
            let unmounted = live.daemon.client().unmount(&files::submount(id)).await;
            match unmounted {
                Err(error) if !error.is_not_mounted() && !live.is_gone() => {
                    return Err(error.into());
                }
                _ => {}
            }
            self.collect_session(live);
            // One that was taken over may have either name.
            for daemon in [SHARED, &live.id] {
                files::discard_instance(&self.layout.instance_config(daemon, id));
            }
            return self.forget(None, Some(id)).await;
        }
        self.stop_daemon(live, Some(id)).await
    }

    /// Stops a daemon, and forgets it and the only image that it serves.
    pub(in crate::serving) async fn stop_daemon(
        &self,
        live: &Live,
        image: Option<u64>,
    ) -> Result<(), Error> {
        live.stopping.store(true, Ordering::Release);
        live.daemon.stop().await?;
        live.gone.store(true, Ordering::Release);
        files::discard(live.daemon.spec(), &self.layout.daemon_config(&live.id));
        tracing::info!(daemon = live.id, "nydusd is stopped");
        // Of one that was taken over: no snapshot's end takes them along, and none of that name
        // comes again.
        if !files::is_own_name(&live.id)
            && let Err(error) = files::discard_logs(&self.config, &live.id)
        {
            tracing::warn!(daemon = live.id, %error, "its logs cannot be removed");
        }
        self.forget(Some(&live.id), image).await
    }

    async fn remember(
        &self,
        id: &str,
        spec: &Spec,
        instance: Option<(u64, &Path)>,
    ) -> Result<(), Error> {
        let (id, record) = (id.to_owned(), DaemonRecord::of(spec));
        let instance = instance.map(|(image, lower)| {
            (image.to_string(), InstanceRecord { daemon: id.clone(), lower: lower.to_owned() })
        });
        let write = self.store.write(move |draft| {
            draft.put_item(&DAEMONS, &id, &record)?;
            instance
                .map_or(Ok(()), |(image, instance)| draft.put_item(&INSTANCES, &image, &instance))
        });
        Ok(write.await?)
    }

    pub(super) async fn forget(
        &self,
        daemon: Option<&str>,
        image: Option<u64>,
    ) -> Result<(), Error> {
        let daemon = daemon.map(str::to_owned);
        let write = self.store.write(move |draft| {
            if let Some(daemon) = daemon {
                draft.remove_item(&DAEMONS, &daemon);
            }
            if let Some(image) = image {
                draft.remove_item(&INSTANCES, &image.to_string());
            }
            Ok(())
        });
        Ok(write.await?)
    }
}
