//! `containerd-nydus-grpc warm`: completes an image, done by the running snapshotter. Both ends.

use crate::native::{Job, Stage};
use crate::status;
use anyhow::{Context, bail};
use containerd_proto::nydus::{WarmProgress, WarmRequest};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tonic::Status;

/// How often something is said, so that each end knows that the other is there.
const ALIVE: Duration = Duration::from_secs(5);
/// How long nothing may be said.
const LIMIT: Duration = Duration::from_secs(30);

/// Asks the snapshotter at `address`, and shows how far it is.
///
/// # Errors
/// Nobody answers there; the image is not promoted, and why.
pub async fn run(address: &Path, image: &str) -> anyhow::Result<()> {
    let mut client = status::connect(address).await?;
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

fn style() -> anyhow::Result<ProgressStyle> {
    let template = "{msg:<10} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    Ok(ProgressStyle::with_template(template)?)
}

/// Says what a job does, until its end or that of the client.
pub(crate) async fn tell(mut job: Job, client: Sender<Result<WarmProgress, Status>>) {
    let mut stage = Some(job.stage());
    while let Some(now) = stage {
        let failed = matches!(now, Stage::Failed(_));
        let said = match &now {
            Stage::Done => return,
            Stage::Failed(error) if error.is_final() => {
                Err(Status::failed_precondition(error.to_string()))
            }
            Stage::Failed(error) => Err(Status::unknown(error.to_string())),
            now => Ok(told(now)),
        };
        if client.send(said).await.is_err() || failed {
            return;
        }
        stage = match tokio::time::timeout(ALIVE, job.next()).await {
            Ok(next) => next,
            Err(_) => Some(job.stage()),
        };
    }
}

/// A stage in the words of the wire.
pub(crate) fn told(stage: &Stage) -> WarmProgress {
    let (stage, done, total) = match stage {
        Stage::Caching(progress) => ("caching", progress.ready_bytes, progress.bytes),
        Stage::Copying(done, total) => ("copying", *done, *total),
        Stage::Verifying(done, total) => ("verifying", *done, *total),
        Stage::Begun | Stage::Done | Stage::Failed(_) => ("waiting", 0, 0),
    };
    WarmProgress { stage: stage.to_owned(), done, total }
}
