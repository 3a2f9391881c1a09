//! The service that the commands ask.

use super::health::Health;
use super::images::ImageRow;
use super::report::{Daemon, Instance, Report, Snapshot, State};
use crate::config::Config;
use crate::serving::fuse::Images;
use crate::serving::kernel::{Job, Stage};
use crate::snapshots::{self, Snapshots};
use crate::store::Record;
use containerd_proto::nydus::status_server::Status as Calls;
use containerd_proto::nydus::{GetRequest, GetResponse, WarmProgress, WarmRequest};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio_stream::Stream;
use tonic::{Request, Response, Status as Failed};

/// How often a job's progress is told at least, so that each end knows that the other is there.
const ALIVE: Duration = Duration::from_secs(5);

type Result<T, E = snapshots::Error> = std::result::Result<T, E>;

/// The service that answers.
pub struct Status {
    root: PathBuf,
    mode: String,
    snapshots: Arc<Snapshots>,
    health: Arc<Health>,
}

impl Status {
    /// Tells of this snapshotter.
    pub fn new(config: &Config, snapshots: Arc<Snapshots>, health: Arc<Health>) -> Self {
        let mode = format!("{:?}", config.mode).to_lowercase();
        Self { root: config.root.clone(), mode, snapshots, health }
    }

    fn report(&self) -> Result<Report> {
        let (images, health) = (&self.snapshots.images, self.health.all());
        let mut instances = Vec::new();
        for served in images.served() {
            let (live, id) = (&served.live, served.image.id);
            let seen = health.get(&id).cloned().unwrap_or_default();
            let image = crate::labels::image_ref(&served.image.labels).unwrap_or_default();
            instances.push(Instance {
                snapshot: id,
                image: image.to_owned(),
                daemon: live.id.clone(),
                mountpoint: served.lower.clone(),
                trouble: seen.trouble,
                failed_operations: seen.failed_operations,
                bytes_read: seen.bytes_read,
            });
        }
        Ok(Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            root: self.root.clone(),
            daemon_mode: self.mode.clone(),
            daemons: daemons(images),
            images: ImageRow::all(&self.snapshots, &instances)?,
            instances,
            snapshots: self.list()?,
        })
    }

    fn list(&self) -> Result<Vec<Snapshot>> {
        let (mut after, mut all) = (String::new(), Vec::new());
        loop {
            let (records, next) = self.snapshots.list(|_| true, &after)?;
            all.extend(records.into_iter().map(snapshot));
            match next {
                Some(next) => after = next,
                None => break,
            }
        }
        all.sort_by_key(|snapshot| snapshot.id);
        Ok(all)
    }
}

fn daemons(images: &Images) -> Vec<Daemon> {
    let lives = images.daemons().into_iter().map(|live| Daemon {
        id: live.id.clone(),
        pid: Some(live.daemon.pid()),
        shared: live.shared,
        state: if live.is_gone() { State::Dead } else { State::Running },
        socket: live.daemon.spec().apisock.clone(),
    });
    let left = images.unanswering().into_iter().map(|(id, (shared, socket))| Daemon {
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
        let natives = &self.snapshots.natives;
        if natives.is_promoted(image.id) {
            return Ok(Response::new(Box::pin(tokio_stream::empty())));
        }
        let job = natives.promote(&self.snapshots.images, &image, true);
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
