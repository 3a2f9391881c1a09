//! After a start of ours: daemons of an earlier run are taken over where they live. What is dead
//! is cleared, and served again when somebody asks for it.

use super::fuse::adopt::Recorded;
use super::fuse::{self, Live};
use super::{ServedImage, Serving, Turn, locked};
use nydusd_client::Error as Failed;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinSet;

/// An image of a daemon, where it is mounted, and its turn: who asks for it waits.
type Held = (ServedImage, PathBuf, Turn);
/// The daemon of all images, locked.
type HeldShared = Option<OwnedMutexGuard<Option<Arc<Live>>>>;

impl Serving {
    /// Takes over what an earlier run left, beside the calls that come meanwhile: who asks for an
    /// image that is being looked at waits for that. To be called before the first of them; what
    /// it returns is done when all are looked at.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn adopt(
        self: &Arc<Self>,
        image: impl Fn(u64) -> ServedImage,
    ) -> Result<impl Future<Output = ()> + Send + 'static, fuse::Error> {
        let hold = |recorded: Recorded| {
            let held = recorded
                .instances
                .iter()
                .filter_map(|(id, lower)| Some((image(*id), lower.clone(), self.try_turn(*id)?)));
            (held.collect::<Vec<Held>>(), recorded)
        };
        let recorded = self.fuse.recorded()?.into_iter().map(hold);
        let (shared, dedicated): (Vec<_>, Vec<_>) =
            recorded.partition(|(_, recorded)| recorded.is_shared());
        let mut tasks = JoinSet::new();
        for (held, recorded) in dedicated {
            let serving = Arc::clone(self);
            tasks.spawn(async move { serving.take_over(recorded, held, &mut None).await });
        }
        let mut slot = Arc::clone(&self.fuse.shared).try_lock_owned().ok();
        let serving = Arc::clone(self);
        tasks.spawn(async move {
            for (held, recorded) in shared {
                serving.take_over(recorded, held, &mut slot).await;
            }
        });
        Ok(async move { while tasks.join_next().await.is_some() {} })
    }

    async fn take_over(&self, recorded: Recorded, held: Vec<Held>, shared: &mut HeldShared) {
        let id = recorded.id.clone();
        match self.fuse.adopt(&recorded).await {
            Ok((live, mounted)) => {
                for (image, lower, _turn) in held {
                    let id = image.id;
                    let served = self.fuse.adopted(&live, &mounted, image, lower).await;
                    self.entry(id, |entry| entry.fuse = served);
                }
                self.fuse.collect_session(&live);
                if let Some(shared) = shared.as_mut().filter(|shared| shared.is_none()) {
                    **shared = Some(live);
                }
            }
            // Containers may be on it: nothing of it is touched.
            Err(error @ (Failed::NotReady(..) | Failed::Call(..))) => {
                tracing::error!(daemon = id, %error, "nydusd lives and does not answer: left alone");
                let left = (recorded.is_shared(), recorded.spec.apisock);
                locked(&self.unanswering).insert(id, left);
            }
            Err(error) => {
                tracing::warn!(daemon = id, %error, "nydusd of an earlier run is not there");
                self.fuse.clear(&recorded).await;
            }
        }
    }
}
