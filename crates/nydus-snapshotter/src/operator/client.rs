//! The commands `status` and `warm`: they ask the running snapshotter.

use super::report;
use anyhow::{Context, Result, bail};
use containerd_proto::nydus::status_client::StatusClient;
use containerd_proto::nydus::{GetRequest, WarmRequest};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use tonic::Status;
use tonic::transport::Channel;

/// How long nothing may be said.
const LIMIT: Duration = Duration::from_secs(30);
/// Bytes of an answer, at most: some 200,000 snapshots.
const LARGEST: usize = 64 << 20;

/// Asks the snapshotter at `address` and prints what it says.
///
/// # Errors
/// Nobody answers there.
pub async fn status(address: &Path, json: bool) -> Result<()> {
    let mut client = connect(address).await?;
    let answer = client.get(GetRequest {}).await.with_context(|| nobody(address))?.into_inner();
    let text = match json {
        true => answer.json + "\n",
        false => report::table(&serde_json::from_str(&answer.json)?)?,
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// A client of the snapshotter at `address`.
async fn connect(address: &Path) -> Result<StatusClient<Channel>> {
    let client = StatusClient::connect(format!("unix://{}", address.display()));
    let client = client.await.with_context(|| nobody(address))?;
    Ok(client.max_decoding_message_size(LARGEST))
}

fn nobody(address: &Path) -> String {
    format!("no snapshotter answers on {}", address.display())
}

/// Asks the snapshotter at `address`, and shows how far it is.
///
/// # Errors
/// Nobody answers there; the image is not promoted, and why.
pub async fn warm(address: &Path, image: &str) -> Result<()> {
    let mut client = connect(address).await?;
    let request = WarmRequest { image: image.to_owned() };
    let refused = |status: Status| anyhow::anyhow!("{image}: {}", status.message());
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
