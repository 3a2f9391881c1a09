//! Whether the kernel serves an image to a snapshot, or `nydusd`.

use super::{Error, ServedImage, Serving, kernel};
use rafs_erofs::Error as Erofs;
use std::path::PathBuf;
use std::sync::Arc;

/// What a snapshot needs of its image.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Only the kernel may serve it.
    pub only_kernel: bool,
    /// It was made for the kernel's mount.
    pub kernel: bool,
}

impl Serving {
    /// Where the kernel serves an image for a snapshot; `None` if `nydusd` shall.
    ///
    /// # Errors
    /// Only the kernel may, and cannot.
    pub async fn lower(
        self: &Arc<Self>,
        image: &ServedImage,
        need: Need,
    ) -> Result<Option<PathBuf>, Arc<Error>> {
        if need.only_kernel {
            return self.completed(image).await.map(Some);
        }
        // A snapshot that got a daemon's mount keeps it as long as that daemon serves the image.
        if !need.kernel && self.is_served(image.id).await {
            return Ok(None);
        }
        Ok(self.by_kernel(image.id).await.unwrap_or_else(|error| {
            tracing::warn!(image = image.id, %error, "the image goes back to nydusd");
            None
        }))
    }

    /// The image by the kernel, however long it takes to complete it.
    async fn completed(self: &Arc<Self>, image: &ServedImage) -> Result<PathBuf, Arc<Error>> {
        let kernel = |error: kernel::Error| Arc::new(Error::from(error));
        // Again where its files have changed meanwhile.
        for _ in 0..2 {
            match self.by_kernel(image.id).await {
                Ok(Some(lower)) => return Ok(lower),
                Ok(None) => {}
                Err(error) => tracing::warn!(image = image.id, %error, "it is promoted again"),
            }
            tracing::info!(image = image.id, "a container waits until the image is complete");
            self.promote(image, true).ended().await?;
        }
        let mounted = self.by_kernel(image.id).await.map_err(kernel)?;
        mounted.ok_or_else(|| kernel(Erofs::Stopped.into()))
    }

    /// Whether `nydusd` serves an image. Waits for who is at it.
    async fn is_served(&self, id: u64) -> bool {
        let _turn = self.turn(id).await;
        self.entry(id, |entry| entry.fuse.as_ref().is_some_and(|served| !served.live.is_gone()))
    }

    /// Mounts an image, unless that is done already, and says where; `None` if it is not promoted.
    /// Every file is looked at each time: one that is not what was verified ends that.
    async fn by_kernel(self: &Arc<Self>, id: u64) -> Result<Option<PathBuf>, kernel::Error> {
        if !self.is_promoted(id) {
            return Ok(None);
        }
        let way = self.kernel.support().await?;
        let turn = self.turn(id).await;
        if !self.is_promoted(id) {
            return Ok(None);
        }
        self.kernel_in_turn(turn, move |serving| {
            let mounted = serving.kernel.mount(id, way);
            if let Err(kernel::Error::Demoted(error)) = &mounted {
                serving.entry(id, |entry| entry.known.demoted(error.to_string()));
            }
            mounted.map(Some)
        })
        .await
    }
}
