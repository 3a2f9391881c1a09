//! `containerd-nydus-grpc warm`: completes an image, done by the running snapshotter.

use crate::status::{self, LIMIT};
use anyhow::{Context, Result, bail};
use containerd_proto::nydus::WarmRequest;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::Path;

/// Asks the snapshotter at `address`, and shows how far it is.
///
/// # Errors
/// Nobody answers there; the image is not promoted, and why.
pub async fn run(address: &Path, image: &str) -> Result<()> {
    let mut client = status::connect(address).await?;
    let request = WarmRequest { image: image.to_owned() };
    let refused = |status: tonic::Status| anyhow::anyhow!("{image}: {}", status.message());
    let mut progress = client.warm(request).await.map_err(refused)?.into_inner();
    let bar = ProgressBar::new(0).with_style(style()?);
    loop {
        let told = tokio::time::timeout(LIMIT, progress.message()).await;
        let told = told.with_context(|| format!("no word in {LIMIT:?}"))?;
        match told.map_err(refused) {
            Ok(Some(told)) => {
                bar.set_message(told.stage);
                bar.set_length(told.total);
                bar.set_position(told.done);
            }
            Ok(None) => break,
            Err(error) => {
                bar.finish_and_clear();
                bail!(error);
            }
        }
    }
    bar.finish_and_clear();
    println!("{image}: the kernel serves it to new containers");
    Ok(())
}

fn style() -> Result<ProgressStyle> {
    let template = "{msg:<10} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    Ok(ProgressStyle::with_template(template)?)
}
