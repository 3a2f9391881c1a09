//! What happens when a daemon ends by itself: a successor goes on where it stopped, or it is
//! started anew.

use super::Serving;
use super::fuse::{self, Live, Served};
use crate::config::Recover;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

/// A daemon that lived shorter is not started again before somebody asks for its image: what
/// ends at once would end at once again.
const LIVED: Duration = Duration::from_secs(5);

impl Serving {
    /// Does for each daemon that ends what the policy says.
    pub(super) async fn replace(self: Arc<Self>, mut died: UnboundedReceiver<Arc<Live>>) {
        while let Some(dead) = died.recv().await {
            let serving = Arc::clone(&self);
            tokio::spawn(async move {
                let succeeded = serving.hand_to_successor(&dead).await;
                if let Err(error) = &succeeded {
                    tracing::error!(daemon = dead.id, %error, "no successor: nydusd is started anew");
                }
                if !succeeded.unwrap_or_default() {
                    serving.revive(&dead).await;
                }
            });
        }
    }

    /// Images that this daemon serves.
    fn images_on(&self, live: &Arc<Live>) -> Vec<Arc<Served>> {
        self.served().into_iter().filter(|served| Arc::ptr_eq(&served.live, live)).collect()
    }

    /// Lets a successor go on where a dead daemon stopped, or finds that it has one; false if that
    /// is not possible. Who asks for the daemon's images meanwhile waits.
    async fn hand_to_successor(&self, dead: &Arc<Live>) -> Result<bool, fuse::Error> {
        let Some(session) = dead.session.lock().await.take() else { return Ok(false) };
        let first = self.images_on(dead).first().map(|served| served.image.id);
        let (mut shared, _turn) = match (dead.shared, first) {
            (true, _) => (Some(self.fuse.shared.lock().await), None),
            (false, Some(id)) => (None, Some(self.turn(id).await)),
            (false, None) => return Ok(true),
        };
        let is_dead = |live: &Arc<Live>| Arc::ptr_eq(live, dead);
        let replaced = match &shared {
            Some(shared) => !shared.as_ref().is_some_and(is_dead),
            None => self.images_on(dead).is_empty(),
        };
        if replaced {
            return Ok(true);
        }
        let live = self.fuse.start_successor(dead, session).await?;
        if let Some(shared) = &mut shared {
            **shared = Some(Arc::clone(&live));
        }
        for served in self.entries().values_mut().filter_map(|entry| entry.fuse.as_mut()) {
            if is_dead(&served.live) {
                *served = Arc::new(Served { live: Arc::clone(&live), ..Served::clone(served) });
            }
        }
        self.fuse.collect_session(&live);
        Ok(true)
    }

    /// Serves its images again.
    async fn revive(self: &Arc<Self>, dead: &Arc<Live>) {
        if self.config.recover == Recover::None || dead.since.elapsed() < LIVED {
            return;
        }
        for Served { image, .. } in self.images_on(dead).iter().map(AsRef::as_ref) {
            let turn = self.turn(image.id).await;
            if !self.images_on(dead).iter().any(|served| served.image.id == image.id) {
                continue;
            }
            match self.launch(turn, image.clone()).await {
                Ok(served) => {
                    let daemon = &served.live.id;
                    tracing::info!(snapshot = image.id, daemon, "the image is served again");
                }
                Err(error) => {
                    tracing::error!(snapshot = image.id, %error, "the image is not served again");
                }
            }
        }
    }
}
