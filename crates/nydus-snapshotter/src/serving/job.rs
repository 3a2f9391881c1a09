//! A job: completes an image's cache, if that must be, and promotes it.

use super::rate::JobControl;
use super::{Error, Known, ServedImage, Serving, fuse, kernel, read};
use crate::cache::{self, Blobs};
use rafs_erofs::{Cache, Error as Erofs, Phase, Progress};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

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
    pub(super) control: Arc<JobControl>,
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

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Done | Stage::Failed(_))
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
            Err(_) => Err(Arc::new(stopped())),
        }
    }
}

/// What a job works with.
#[derive(Clone)]
struct Work {
    serving: Arc<Serving>,
    image: ServedImage,
    control: Arc<JobControl>,
    stage: watch::Sender<Stage>,
}

impl Serving {
    /// Promotes an image, or joins the job that is at it. In a `hurry` no rate counts.
    pub fn promote(self: &Arc<Self>, image: &ServedImage, hurry: bool) -> Job {
        let job = self.entry(image.id, |entry| {
            let begin = || {
                let (stage, receiver) = watch::channel(Stage::Begun);
                let job = Job { control: Arc::default(), stage: receiver };
                let (image, control) = (image.clone(), Arc::clone(&job.control));
                tokio::spawn(Work { serving: Arc::clone(self), image, control, stage }.run());
                job
            };
            entry.known.job.get_or_insert_with(begin).clone()
        });
        if hurry {
            job.control.hurry();
        }
        job
    }

    /// How much of an image is cached now, noted. The bootstrap is read only if what is cached of
    /// its blobs is not as it was; `stopped` ends that.
    pub(super) async fn count_cached(
        &self,
        id: u64,
        stopped: impl Fn() -> bool + Send + 'static,
    ) -> Result<Progress, Error> {
        let before = self.entry(id, |entry| entry.known.cached.clone());
        let counted = self.kernel.count_cached(id, before, stopped).await.map_err(Error::from);
        self.entry(id, |entry| {
            entry.known.looked = Some(Instant::now());
            match &counted {
                Ok(cached) => {
                    entry.known.progress = Some(cached.progress);
                    entry.known.cached = Some(Arc::clone(cached));
                }
                Err(error) => entry.known.refused(error),
            }
        });
        counted.map(|cached| cached.progress)
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
        // The image may have been removed meanwhile.
        let stage = self.serving.entry_if_there(id, |entry| {
            let known = &mut entry.known;
            known.job = None;
            match outcome {
                Ok(()) => {
                    tracing::info!(snapshot = id, "the image is promoted: the kernel serves it");
                    *known = Known { promoted: true, progress: known.progress, ..Known::default() };
                    Stage::Done
                }
                Err(error) => {
                    tracing::warn!(snapshot = id, %error, "the image is not promoted");
                    known.refused(&error);
                    Stage::Failed(Arc::new(error))
                }
            }
        });
        self.stage.send_replace(stage);
        self.serving.changed.store(true, Ordering::Release);
    }

    async fn promoted(&self) -> Result<(), Error> {
        let (serving, id) = (&self.serving, self.image.id);
        // What is being removed of an image of this number is gone first.
        drop(serving.turn(id).await);
        for attempt in 1.. {
            if serving.is_promoted(id) {
                return Ok(());
            }
            let progress = self.count_cached().await?;
            if self.control.is_stopped() {
                return Err(stopped());
            }
            if !progress.complete() {
                self.cache().await?;
            }
            serving.kernel.support().await?;
            match self.verify().await {
                Err(Error::Kernel(kernel::Error::Erofs(Erofs::Incomplete(_) | Erofs::Busy(_))))
                    if attempt < ATTEMPTS =>
                {
                    tokio::time::sleep(AGAIN).await;
                }
                outcome => return outcome,
            }
        }
        Ok(())
    }

    /// Lets `nydusd` read all of the image.
    async fn cache(&self) -> Result<(), Error> {
        let served = self.serving.by_fuse(&self.image).await?;
        let (work, lower) = (self.clone(), served.lower.clone());
        let read = move || -> Result<(), Error> {
            let bootstrap = work.serving.kernel.layout.bootstrap(work.image.id);
            let is_stopped = || work.control.is_stopped();
            let image = rafs_erofs::Image::open_unless(&bootstrap, &is_stopped);
            let image = image.map_err(kernel::Error::from)?;
            let cache = Cache::new(&work.serving.config.cache);
            let last = Mutex::new(Instant::now());
            let tell = || {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.elapsed() >= TELL {
                    *last = Instant::now();
                    drop(last);
                    let _ = cache
                        .progress(&image)
                        .map(|now| work.stage.send_replace(Stage::Caching(now)));
                }
            };
            let step = |bytes| {
                tell();
                work.control.worked(bytes, work.serving.rate.as_ref())
            };
            match read::all(&lower, &step) {
                Err((path, error)) => Err(fuse::Error::Unreadable(path, error).into()),
                Ok(ControlFlow::Break(())) => Err(stopped()),
                Ok(ControlFlow::Continue(())) => Ok(()),
            }
        };
        spawn_blocking(read).await.map_err(kernel::Error::from)??;
        self.count_cached().await.map(drop)
    }

    async fn count_cached(&self) -> Result<Progress, Error> {
        let control = Arc::clone(&self.control);
        self.serving.count_cached(self.image.id, move || control.is_stopped()).await
    }

    /// Proves that all of it is cached, and keeps what was proven.
    async fn verify(&self) -> Result<(), Error> {
        let (work, id) = (self.clone(), self.image.id);
        let verified = move || {
            let serving = &work.serving;
            let files = serving.kernel.files(id);
            let shared = work.shared_blobs().map_err(|error| kernel::Error::File(files, error))?;
            let mut before = 0;
            let outcome = serving.kernel.promote(id, &shared, &mut |step| {
                let bytes = step.done.saturating_sub(before);
                before = step.done;
                let stage = match step.phase {
                    Phase::Reading => Stage::Begun,
                    Phase::Copying => Stage::Copying(step.done, step.total),
                    Phase::Verifying => Stage::Verifying(step.done, step.total),
                };
                work.stage.send_replace(stage);
                work.control.worked(bytes, serving.rate.as_ref())
            });
            if let Err(kernel::Error::Erofs(Erofs::Damaged { blob, .. })) = &outcome {
                work.judge(blob)?;
            }
            outcome
        };
        Ok(spawn_blocking(verified).await.map_err(kernel::Error::from)??)
    }

    /// Discards the cached files of a blob that are not what this image says, unless they are what
    /// another one says.
    fn judge(&self, blob: &str) -> Result<(), Erofs> {
        if !self.is_right_for_others(blob)? {
            return Cache::new(&self.serving.config.cache).discard(blob);
        }
        tracing::warn!(
            snapshot = self.image.id,
            blob,
            "what it says of the blob is not so, and what another image says is: \
            the cached files are kept"
        );
        Ok(())
    }

    /// Whether another image that is served or promoted names what is cached of a blob by its right
    /// digests. Then this image is wrong, not the cache.
    fn is_right_for_others(&self, blob: &str) -> Result<bool, Erofs> {
        let (serving, own) = (&self.serving, self.image.id);
        let kernel = &serving.kernel;
        let served = serving.served().into_iter().map(|served| served.image.id);
        let served = served.filter(|&id| id != own).map(|id| kernel.layout.bootstrap(id));
        let promoted = serving.promoted().into_iter().filter(|&id| id != own);
        let promoted = promoted.map(|id| kernel.files(id).join("image.boot"));
        let cache = Cache::new(&serving.config.cache);
        let names_it = |path: &PathBuf| {
            let blobs = rafs_erofs::Image::blobs_of(path);
            blobs.is_ok_and(|blobs| blobs.iter().any(|of| of.id == blob))
        };
        for path in served.chain(promoted).filter(names_it) {
            let stopped = || self.control.is_stopped();
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
                self.control.worked(bytes, serving.rate.as_ref())
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
        let kernel = &self.serving.kernel;
        let cached = cache::blobs(&self.serving.config.cache)?;
        let mut shared = Blobs::new();
        for served in self.serving.served() {
            if served.image.id != self.image.id && !served.live.shared {
                cache::add(&mut shared, &cached, &kernel.layout.bootstrap(served.image.id))?;
            }
        }
        Ok(shared)
    }
}

fn stopped() -> Error {
    kernel::Error::from(Erofs::Stopped).into()
}
