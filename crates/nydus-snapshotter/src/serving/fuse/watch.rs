//! What happens when a daemon ends by itself.

use super::{Images, Live, Served};
use crate::config::Recover;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A daemon that lived shorter is not started again before somebody asks for its image: what
/// ends at once would end at once again.
const LIVED: Duration = Duration::from_secs(5);

impl Images {
    /// Waits for the end of a daemon, and does what the policy says.
    pub(super) fn watch(self: &Arc<Self>, live: Arc<Live>) {
        let images = Arc::clone(self);
        tokio::spawn(async move {
            let exit = live.daemon.ended().await;
            live.gone.store(true, Ordering::Release);
            if !live.stopping.load(Ordering::Acquire) {
                let report = live.daemon.report();
                tracing::error!(daemon = live.id, %exit, report, "nydusd has died");
                if !images.succeed(&live).await {
                    images.revive(&live).await;
                }
            }
        });
    }

    async fn revive(self: &Arc<Self>, live: &Arc<Live>) {
        if self.settings.recover == Recover::None || live.since.elapsed() < LIVED {
            return;
        }
        let ids = self.known();
        for id in ids {
            if let Err(error) = self.revive_image(live, id).await {
                tracing::error!(snapshot = id, %error, "the image is not served again");
            }
        }
    }

    /// Serves the image again, if it was this daemon that did.
    async fn revive_image(self: &Arc<Self>, live: &Arc<Live>, id: u64) -> Result<(), super::Error> {
        let slot = self.slot(id);
        let mut slot = slot.lock().await;
        let lost = slot.as_ref().filter(|served| Arc::ptr_eq(&served.live, live));
        let Some(lost) = lost.map(Arc::clone) else { return Ok(()) };
        let served: Served = self.launch(lost.image.clone()).await?;
        tracing::info!(snapshot = id, daemon = served.live.id, "the image is served again");
        *slot = Some(Arc::new(served));
        Ok(())
    }
}
