//! A job: completes an image's cache, if that must be, and promotes it.

use super::{Error, Known, Natives, Reins, blocking, private, promoted, read};
use crate::cache::{self, Blobs};
use crate::images::{self, Image, Images};
use nydusd_client::bootstrap;
use rafs_erofs::{Cache, Error as Erofs, Phase, Progress, Promotion};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often it is tried: `nydusd` may be writing.
const ATTEMPTS: u32 = 3;
const AGAIN: Duration = Duration::from_secs(1);
/// How often progress is told.
const TELL: Duration = Duration::from_millis(200);

/// What a job is doing.
#[derive(Clone, Debug)]
pub enum Stage {
    /// It begins.
    Begun,
    /// Reading through `nydusd` what is not cached.
    Caching(Progress),
    /// Copying files, bytes of bytes.
    Copying(u64, u64),
    /// Verifying digests, bytes of bytes.
    Verifying(u64, u64),
    /// The image is promoted.
    Done,
    /// It is not.
    Failed(Arc<Error>),
}

/// A job that runs.
#[derive(Clone, Debug)]
pub struct Job {
    pub(super) reins: Arc<Reins>,
    stage: watch::Receiver<Stage>,
}

impl Job {
    /// What it is doing.
    pub fn stage(&self) -> Stage {
        self.stage.borrow().clone()
    }

    /// What it does next, later; `None` after its end.
    pub async fn next(&mut self) -> Option<Stage> {
        self.stage.changed().await.ok()?;
        Some(self.stage.borrow_and_update().clone())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The image is not promoted.
    pub async fn ended(mut self) -> Result<(), Arc<Error>> {
        let over = |stage: &Stage| matches!(stage, Stage::Done | Stage::Failed(_));
        match self.stage.wait_for(over).await.as_deref() {
            Ok(Stage::Failed(error)) => Err(Arc::clone(error)),
            Ok(_) => Ok(()),
            // It was dropped with the runtime.
            Err(_) => Err(Arc::new(Erofs::Stopped.into())),
        }
    }
}

/// What a job works with.
#[derive(Clone)]
struct Work {
    natives: Arc<Natives>,
    images: Arc<Images>,
    image: Image,
    reins: Arc<Reins>,
    stage: watch::Sender<Stage>,
}

impl Natives {
    /// Promotes an image, or joins the job that is at it. In a `hurry` no rate counts.
    pub fn promote(self: &Arc<Self>, images: &Arc<Images>, image: &Image, hurry: bool) -> Job {
        let mut known = self.known();
        let entry = known.entry(image.id).or_default();
        let job = entry.job.clone().unwrap_or_else(|| {
            let (stage, receiver) = watch::channel(Stage::Begun);
            let job = Job { reins: Arc::default(), stage: receiver };
            let (natives, images) = (Arc::clone(self), Arc::clone(images));
            let (image, reins) = (image.clone(), Arc::clone(&job.reins));
            tokio::spawn(Work { natives, images, image, reins, stage }.run());
            entry.job.insert(job).clone()
        });
        if hurry {
            job.reins.hurry();
        }
        job
    }

    /// How much of an image is cached now, noted. The bootstrap is read only if what is cached of
    /// its blobs is not as it was; `stopped` ends that.
    pub(super) async fn look(
        self: &Arc<Self>,
        id: u64,
        stopped: impl Fn() -> bool + Send + 'static,
    ) -> Result<Progress, Error> {
        let (bootstrap, cache) = (self.layout.bootstrap(id), self.settings.cache.clone());
        let shown = bootstrap.clone();
        // Whoever made the image may have put anything there, such as a FIFO.
        bootstrap::version(&bootstrap).map_err(images::Error::from)?;
        let before = self.known().get(&id).and_then(|known| known.cached.clone());
        let looked = move || Ok(cached(&bootstrap, &Cache::new(cache), before, &stopped));
        let looked = blocking(&shown, looked).await?.map_err(Error::from);
        let mut known = self.known();
        let entry = known.entry(id).or_default();
        entry.looked = Some(Instant::now());
        match looked {
            Ok(cached) => {
                entry.progress = Some(cached.progress);
                entry.cached = Some(Arc::clone(&cached));
                Ok(cached.progress)
            }
            Err(error) => {
                entry.refused(&error);
                Err(error)
            }
        }
    }
}

/// What was cached of an image when it was looked at.
#[derive(Debug)]
pub(super) struct Cached {
    blobs: Vec<rafs_erofs::Blob>,
    state: [u8; 32],
    progress: Progress,
}

fn cached(
    bootstrap: &Path,
    cache: &Cache,
    before: Option<Arc<Cached>>,
    stopped: &dyn Fn() -> bool,
) -> Result<Arc<Cached>, Erofs> {
    if let Some(before) = before
        && cache.state(&before.blobs)? == before.state
    {
        return Ok(before);
    }
    let image = rafs_erofs::Image::open_unless(bootstrap, stopped)?;
    // First, so that what changes meanwhile is seen the next time.
    let state = cache.state(&image.blobs)?;
    let progress = cache.progress(&image)?;
    Ok(Arc::new(Cached { blobs: image.blobs, state, progress }))
}

impl Known {
    fn refused(&mut self, error: &Error) {
        self.why = Some(error.to_string());
        self.never = error.is_final();
        self.failed = Some(Instant::now());
    }
}

impl Work {
    async fn run(self) {
        let (id, outcome) = (self.image.id, self.promoted().await);
        let stage = {
            let mut known = self.natives.known();
            // The image may have been removed meanwhile.
            let mut nobody = Known::default();
            let entry = known.get_mut(&id).unwrap_or(&mut nobody);
            entry.job = None;
            match outcome {
                Ok(()) => {
                    tracing::info!(snapshot = id, "the image is promoted: the kernel serves it");
                    *entry = promoted(entry.progress);
                    Stage::Done
                }
                Err(error) => {
                    tracing::warn!(snapshot = id, %error, "the image is not promoted");
                    entry.refused(&error);
                    Stage::Failed(Arc::new(error))
                }
            }
        };
        self.stage.send_replace(stage);
        self.natives.changed.notify_one();
    }

    async fn promoted(&self) -> Result<(), Error> {
        let id = self.image.id;
        for attempt in 1.. {
            if self.natives.is_promoted(id) {
                return Ok(());
            }
            let progress = self.look().await?;
            if self.reins.is_stopped() {
                return Err(Erofs::Stopped.into());
            }
            if !progress.complete() {
                self.cache().await?;
            }
            self.natives.way().await?;
            match self.verify().await {
                Err(Error::Erofs(Erofs::Incomplete(_) | Erofs::Busy(_))) if attempt < ATTEMPTS => {
                    tokio::time::sleep(AGAIN).await;
                }
                outcome => return outcome,
            }
        }
        Ok(())
    }

    /// Lets `nydusd` read all of the image.
    async fn cache(&self) -> Result<(), Error> {
        let served = self.images.serve(self.image.clone()).await?;
        let (work, lower) = (self.clone(), served.lower.clone());
        let shown = lower.clone();
        let read = move || {
            let bootstrap = work.natives.layout.bootstrap(work.image.id);
            let stopped = || work.reins.is_stopped();
            let image = match rafs_erofs::Image::open_unless(&bootstrap, &stopped) {
                Ok(image) => image,
                Err(error) => return Ok(Err(error.into())),
            };
            let cache = Cache::new(&work.natives.settings.cache);
            let last = Mutex::new(Instant::now());
            let tell = || {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.elapsed() >= TELL {
                    *last = Instant::now();
                    drop(last);
                    work.tell(cache.progress(&image).ok().map(Stage::Caching));
                }
            };
            let step = |bytes| {
                tell();
                work.reins.worked(bytes, work.natives.pace.as_ref())
            };
            Ok(match read::all(&lower, &step) {
                Err((path, error)) => Err(Error::Read(path, error)),
                Ok(ControlFlow::Break(())) => Err(Erofs::Stopped.into()),
                Ok(ControlFlow::Continue(())) => Ok(()),
            })
        };
        blocking(&shown, read).await??;
        self.look().await.map(drop)
    }

    async fn look(&self) -> Result<Progress, Error> {
        let reins = Arc::clone(&self.reins);
        self.natives.look(self.image.id, move || reins.is_stopped()).await
    }

    /// Proves that all of it is cached, and keeps what was proven.
    async fn verify(&self) -> Result<(), Error> {
        let id = self.image.id;
        let lock = self.natives.lock(id).lock_owned().await;
        let (work, shown) = (self.clone(), self.natives.files(id));
        let verified = move || {
            let _lock = lock;
            let natives = &work.natives;
            private(&natives.own(id))?;
            let (bootstrap, into) = (natives.layout.bootstrap(id), natives.files(id));
            let cache = &natives.settings.cache;
            let shared = &work.shared_blobs()?;
            let (bootstrap, into, verity) = (&*bootstrap, &*into, true);
            let promotion = Promotion { bootstrap, cache, into, verity, shared };
            let mut before = 0;
            let outcome = promotion.run(&mut |step| {
                let bytes = step.done.saturating_sub(before);
                before = step.done;
                let stage = match step.phase {
                    Phase::Reading => Stage::Begun,
                    Phase::Copying => Stage::Copying(step.done, step.total),
                    Phase::Verifying => Stage::Verifying(step.done, step.total),
                };
                work.tell(Some(stage));
                work.reins.worked(bytes, natives.pace.as_ref())
            });
            if let Err(Erofs::Damaged { blob, .. }) = &outcome {
                match work.is_right_for_others(blob) {
                    Ok(true) => {
                        tracing::warn!(
                            snapshot = id,
                            blob,
                            "what it says of the blob is not so, \
                            and what another image says is: the cached files are kept"
                        );
                    }
                    Ok(false) => {
                        if let Err(error) = Cache::new(cache).discard(blob) {
                            return Ok(Err(error));
                        }
                    }
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(outcome.map(drop))
        };
        Ok(blocking(&shown, verified).await??)
    }

    /// Whether another image that is served or promoted names what is cached of a blob by its right
    /// digests. Then this image is wrong, not the cache.
    fn is_right_for_others(&self, blob: &str) -> Result<bool, Erofs> {
        let (natives, own) = (&self.natives, self.image.id);
        let served = self.images.served().into_iter().map(|served| served.image.id);
        let served = served.filter(|&id| id != own).map(|id| natives.layout.bootstrap(id));
        let promoted = natives.mounted().into_iter().filter(|&id| id != own);
        let promoted = promoted.map(|id| natives.files(id).join("image.boot"));
        let cache = Cache::new(&natives.settings.cache);
        let names_it = |path: &PathBuf| {
            let blobs = rafs_erofs::Image::blobs_of(path);
            blobs.is_ok_and(|blobs| blobs.iter().any(|of| of.id == blob))
        };
        for path in served.chain(promoted).filter(names_it) {
            let stopped = || self.reins.is_stopped();
            let image = match rafs_erofs::Image::open_unless(&path, &stopped) {
                Err(Erofs::Stopped) => return Err(Erofs::Stopped),
                // It bears no witness.
                Err(_) => continue,
                Ok(image) => image,
            };
            let mut before = 0;
            let is_right = cache.is_right((&image, blob), &mut |step| {
                let bytes = step.done.saturating_sub(before);
                before = step.done;
                self.reins.worked(bytes, natives.pace.as_ref())
            });
            if is_right? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Cached blobs of images that other daemons serve: each of them may have begun to fetch a chunk
    /// before it was there, and writes it once more.
    fn shared_blobs(&self) -> io::Result<Blobs> {
        let cached = cache::blobs(&self.natives.settings.cache)?;
        let mut shared = Blobs::new();
        for served in self.images.served() {
            if served.image.id != self.image.id && !served.live.shared {
                let bootstrap = self.natives.layout.bootstrap(served.image.id);
                cache::add(&mut shared, &cached, &bootstrap)?;
            }
        }
        Ok(shared)
    }

    fn tell(&self, stage: Option<Stage>) {
        if let Some(stage) = stage {
            self.stage.send_replace(stage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rafs_erofs::properties::draft;
    use std::fs;

    /// As long as nothing was cached meanwhile, the bootstrap need not even be there.
    #[test]
    fn a_bootstrap_is_read_once() {
        let root = tempfile::tempdir().unwrap();
        let (path, cache) = (root.path().join("image.boot"), Cache::new(root.path()));
        fs::write(&path, draft(1).build()).unwrap();
        let look = |before| cached(&path, &cache, before, &|| false);
        let first = look(None).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(Arc::ptr_eq(&first, &look(Some(Arc::clone(&first))).unwrap()));
        let map = root.path().join(format!("{}.chunk_map", first.blobs[0].id));
        fs::write(map, "another").unwrap();
        assert!(look(Some(first)).is_err(), "it is read again");
    }
}
