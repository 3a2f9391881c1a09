//! The service that the commands ask.

use super::images::ImageRow;
use super::report::{Daemon, Instance, Report, Snapshot, State};
use crate::serving::{Job, Serving, Stage};
use crate::snapshots::{self, Snapshots};
use crate::store::Record;
use containerd_proto::nydus::status_server::Status as Calls;
use containerd_proto::nydus::{GetRequest, GetResponse, WarmProgress, WarmRequest};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio_stream::Stream;
use tonic::{Request, Response, Status as Failed};

/// How often a job's progress is told at least, so that each end knows that the other is there.
const ALIVE: Duration = Duration::from_secs(5);

/// The service that answers.
pub struct Status {
    /// What it tells of.
    pub snapshots: Arc<Snapshots>,
}

impl Status {
    fn report(&self) -> snapshots::Result<Report> {
        let Snapshots { serving, config, .. } = &*self.snapshots;
        let entries = serving.all();
        let instances = entries.values().filter_map(|entry| {
            let (served, seen) = (entry.fuse.as_ref()?, &entry.seen);
            Some(Instance {
                snapshot: served.image.id,
                image: served.image.reference().to_owned(),
                daemon: served.live.id.clone(),
                mountpoint: served.lower.clone(),
                trouble: seen.trouble.clone(),
                failed_operations: seen.failed_operations,
                bytes_read: seen.bytes_read,
            })
        });
        let images = self.snapshots.images()?.into_iter().map(|(id, reference)| {
            ImageRow::new(id, reference, entries.get(&id), serving.kernel.obstacle())
        });
        Ok(Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            root: config.root.clone(),
            daemon_mode: format!("{:?}", config.mode).to_lowercase(),
            daemons: daemons(serving),
            images: images.collect(),
            instances: instances.collect(),
            snapshots: self.list()?,
        })
    }

    fn list(&self) -> snapshots::Result<Vec<Snapshot>> {
        let mut all = Vec::new();
        self.snapshots.each(|record| all.push(snapshot(record)))?;
        all.sort_by_key(|snapshot| snapshot.id);
        Ok(all)
    }
}

fn daemons(serving: &Serving) -> Vec<Daemon> {
    let lives = serving.daemons().into_iter().map(|live| Daemon {
        id: live.id.clone(),
        pid: Some(live.daemon.pid()),
        shared: live.shared,
        state: if live.is_gone() { State::Dead } else { State::Running },
        socket: live.daemon.spec().apisock.clone(),
    });
    let left = serving.unanswering().into_iter().map(|(id, (shared, socket))| Daemon {
        id,
        pid: None,
        shared,
        state: State::Unanswering,
        socket,
    });
    lives.chain(left).collect()
}

fn snapshot(record: Record) -> Snapshot {
    let kind = record.kind.name().to_owned();
    Snapshot { id: record.id, kind, key: record.key, parent: record.parent }
}

#[tonic::async_trait]
impl Calls for Status {
    async fn get(&self, _: Request<GetRequest>) -> Result<Response<GetResponse>, Failed> {
        let report = self.report().map_err(failed)?;
        let json = serde_json::to_string(&report);
        let json = json.map_err(|error| Failed::internal(error.to_string()))?;
        Ok(Response::new(GetResponse { json }))
    }

    type WarmStream = Pin<Box<dyn Stream<Item = Result<WarmProgress, Failed>> + Send>>;

    async fn warm(
        &self,
        request: Request<WarmRequest>,
    ) -> Result<Response<Self::WarmStream>, Failed> {
        let wanted = request.into_inner().image;
        let found = self.snapshots.find_image(&wanted).map_err(failed)?;
        let image = found.ok_or_else(|| {
            Failed::not_found("no Nydus image of that reference or number is here: see status")
        })?;
        let serving = &self.snapshots.serving;
        if serving.is_promoted(image.id) {
            return Ok(Response::new(Box::pin(tokio_stream::empty())));
        }
        let job = serving.promote(&image, true);
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        tokio::spawn(tell(job, sender));
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }
}

/// It is the store that fails.
fn failed(error: snapshots::Error) -> Failed {
    Failed::unknown(error.to_string())
}

/// Says what a job does, until its end or that of the client.
async fn tell(mut job: Job, client: Sender<Result<WarmProgress, Failed>>) {
    let mut stage = Some(job.stage());
    while let Some(now) = stage {
        let failed = matches!(now, Stage::Failed(_));
        let said = match &now {
            Stage::Done => return,
            Stage::Failed(error) if error.is_final() => {
                Err(Failed::failed_precondition(error.to_string()))
            }
            Stage::Failed(error) => Err(Failed::unknown(error.to_string())),
            now => {
                let (stage, done, total) = now.told();
                Ok(WarmProgress { stage: stage.to_owned(), done, total })
            }
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
