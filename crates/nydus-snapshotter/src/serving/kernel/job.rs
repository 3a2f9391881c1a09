//! A job: completes an image's cache, if that must be, and promotes it.

use super::{Error, Known, Natives, Reins, blocking, private, promoted, read};
use crate::cache::{self, Blobs};
use crate::serving::fuse::{self, Image, Images};
use nydusd_client::bootstrap;
use rafs_erofs::{Cache, Error as Erofs, Phase, Progress, Promotion};
use std::io;
use std::ops::ControlFlow;
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

impl Stage {
    /// Its name, and bytes of bytes.
    pub fn told(&self) -> (&'static str, u64, u64) {
        match self {
            Self::Caching(progress) => ("caching", progress.ready_bytes, progress.bytes),
            Self::Copying(done, total) => ("copying", *done, *total),
            Self::Verifying(done, total) => ("verifying", *done, *total),
            Self::Begun | Self::Done | Self::Failed(_) => ("waiting", 0, 0),
        }
    }
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

    /// How much of an image is cached now, noted.
    pub(super) async fn look(self: &Arc<Self>, id: u64) -> Result<Progress, Error> {
        let (bootstrap, cache) = (self.layout.bootstrap(id), self.settings.cache.clone());
        let shown = bootstrap.clone();
        // Whoever made the image may have put anything there, such as a FIFO.
        bootstrap::version(&bootstrap).map_err(fuse::Error::from)?;
        let looked = move || {
            let image = rafs_erofs::Image::open(&bootstrap);
            Ok(image.and_then(|image| Cache::new(cache).progress(&image)))
        };
        let looked = blocking(&shown, looked).await?.map_err(Error::from);
        let mut known = self.known();
        let entry = known.entry(id).or_default();
        entry.looked = Some(Instant::now());
        match &looked {
            Ok(progress) => entry.progress = Some(*progress),
            Err(error) => entry.refused(error),
        }
        looked
    }
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
            let progress = self.natives.look(id).await?;
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
            let image = match rafs_erofs::Image::open(&bootstrap) {
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
        self.natives.look(self.image.id).await.map(drop)
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
                    Phase::Copying => Stage::Copying(step.done, step.total),
                    Phase::Verifying => Stage::Verifying(step.done, step.total),
                };
                work.tell(Some(stage));
                work.reins.worked(bytes, natives.pace.as_ref())
            });
            if let Err(Erofs::Damaged { blob, .. }) = &outcome
                && let Err(error) = Cache::new(cache).discard(blob)
            {
                return Ok(Err(error));
            }
            Ok(outcome.map(drop))
        };
        Ok(blocking(&shown, verified).await??)
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
