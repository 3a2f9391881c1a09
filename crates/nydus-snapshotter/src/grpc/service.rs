//! The service: what the calls do is in [`crate::snapshots`].

use super::codes::Error;
use super::filter::Filters;
use crate::labels::Labels;
use crate::operator::metrics::Metrics;
use crate::snapshots::{self, New, Snapshots};
use crate::store::{Kind, Record};
use containerd_proto::snapshots::snapshots_server::Snapshots as Calls;
use containerd_proto::snapshots::{
    CleanupRequest, CommitSnapshotRequest, Info, Kind as WireKind, ListSnapshotsRequest,
    ListSnapshotsResponse, Mount as WireMount, MountsRequest, MountsResponse,
    PrepareSnapshotRequest, PrepareSnapshotResponse, RemoveSnapshotRequest, StatSnapshotRequest,
    StatSnapshotResponse, UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest,
    UsageResponse, ViewSnapshotRequest, ViewSnapshotResponse,
};
use nydus_mount_slice::Mount;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};
use tracing::Instrument;

type Answer<T> = Result<Response<T>, Status>;

/// The service; clones share the snapshotter.
#[derive(Clone)]
pub struct Service {
    /// What does it.
    pub snapshots: Arc<Snapshots>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Service {
    /// Counts and logs a call. Labels and mounts may hold secrets and are not logged.
    async fn call<T, E: Into<Error>>(
        &self,
        method: &'static str,
        key: &str,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Status> {
        let start = Instant::now();
        let span = tracing::info_span!("call", method, key, id = tracing::field::Empty);
        let outcome = call.instrument(span.clone()).await.map_err(Into::into);
        let code = outcome.as_ref().err().map_or(Code::Ok, Error::code);
        self.metrics.called(method, code, start.elapsed());
        let _inside = span.enter();
        match &outcome {
            Ok(_) => tracing::debug!("done"),
            // These are answers that containerd lives with.
            Err(error) if code != Code::Unknown => tracing::debug!(%error, "refused"),
            Err(error) => tracing::error!(%error, "failed"),
        }
        outcome.map_err(Status::from)
    }

    /// Prepares to the end also when the client is gone, and then takes back what nobody waits
    /// for.
    async fn prepare_or_undo(&self, new: New) -> snapshots::Result<Vec<WireMount>> {
        let snapshots = Arc::clone(&self.snapshots);
        let prepare = Box::pin(async move { snapshots.prepare(new).await });
        let snapshots = Arc::clone(&self.snapshots);
        let mut unfinished = Unfinished { prepare, snapshots, done: false };
        let outcome = (&mut unfinished.prepare).await;
        unfinished.done = true;
        let (_, mount) = outcome?;
        Ok(vec![wire_mount(mount)])
    }
}

type Preparing = Pin<Box<dyn Future<Output = snapshots::Result<(Record, Mount)>> + Send>>;

/// A Prepare whose client may go away.
struct Unfinished {
    prepare: Preparing,
    snapshots: Arc<Snapshots>,
    done: bool,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let prepare = std::mem::replace(&mut self.prepare, Box::pin(std::future::pending()));
        let snapshots = Arc::clone(&self.snapshots);
        tokio::spawn(async move {
            if let Ok((record, _)) = prepare.await {
                tracing::warn!(key = record.key, id = record.id, "the client is gone: undone");
                snapshots.undo(&record).await;
            }
        });
    }
}

#[tonic::async_trait]
impl Calls for Service {
    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Answer<PrepareSnapshotResponse> {
        let PrepareSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let new = New { kind: Kind::Active, key: key.clone(), parent, labels: sorted(labels) };
        let mounts = self.call("prepare", &key, self.prepare_or_undo(new)).await?;
        Ok(Response::new(PrepareSnapshotResponse { mounts }))
    }

    async fn view(&self, request: Request<ViewSnapshotRequest>) -> Answer<ViewSnapshotResponse> {
        let ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let new = New { kind: Kind::View, key: key.clone(), parent, labels: sorted(labels) };
        let mounts = self.call("view", &key, self.prepare_or_undo(new)).await?;
        Ok(Response::new(ViewSnapshotResponse { mounts }))
    }

    async fn mounts(&self, request: Request<MountsRequest>) -> Answer<MountsResponse> {
        let key = request.into_inner().key;
        let mount = self.call("mounts", &key, self.snapshots.mounts(&key)).await?;
        Ok(Response::new(MountsResponse { mounts: vec![wire_mount(mount)] }))
    }

    async fn commit(&self, request: Request<CommitSnapshotRequest>) -> Answer<()> {
        let CommitSnapshotRequest { name, key, labels, .. } = request.into_inner();
        let commit = self.snapshots.commit(name, key.clone(), sorted(labels));
        self.call("commit", &key, commit).await.map(Response::new)
    }

    async fn remove(&self, request: Request<RemoveSnapshotRequest>) -> Answer<()> {
        let key = request.into_inner().key;
        let remove = self.snapshots.remove(key.clone());
        self.call("remove", &key, remove).await.map(Response::new)
    }

    async fn stat(&self, request: Request<StatSnapshotRequest>) -> Answer<StatSnapshotResponse> {
        let key = request.into_inner().key;
        let record = self.call("stat", &key, async { self.snapshots.stat(&key) }).await?;
        Ok(Response::new(StatSnapshotResponse { info: Some(info(record)) }))
    }

    async fn update(
        &self,
        request: Request<UpdateSnapshotRequest>,
    ) -> Answer<UpdateSnapshotResponse> {
        let UpdateSnapshotRequest { info: wanted, update_mask, .. } = request.into_inner();
        let wanted = wanted.ok_or_else(|| Status::invalid_argument("info is missing"))?;
        let (key, labels) = (wanted.name, sorted(wanted.labels));
        let paths = update_mask.map(|mask| mask.paths).unwrap_or_default();
        let update = self.snapshots.update(key.clone(), labels, paths);
        let record = self.call("update", &key, update).await?;
        Ok(Response::new(UpdateSnapshotResponse { info: Some(info(record)) }))
    }

    type ListStream = Pin<Box<dyn Stream<Item = Result<ListSnapshotsResponse, Status>> + Send>>;

    async fn list(&self, request: Request<ListSnapshotsRequest>) -> Answer<Self::ListStream> {
        let filters = request.into_inner().filters;
        let parsed = async { Filters::parse(&filters) };
        let filters = self.call("list", "", parsed).await?;
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let snapshots = Arc::clone(&self.snapshots);
        tokio::task::spawn_blocking(move || {
            let _ = send_all(&snapshots, &filters, &sender);
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    async fn usage(&self, request: Request<UsageRequest>) -> Answer<UsageResponse> {
        let key = request.into_inner().key;
        let usage = self.call("usage", &key, self.snapshots.usage(&key)).await?;
        let signed = |value: u64| value.try_into().unwrap_or(i64::MAX);
        let (size, inodes) = (signed(usage.size), signed(usage.inodes));
        Ok(Response::new(UsageResponse { size, inodes }))
    }

    async fn cleanup(&self, _: Request<CleanupRequest>) -> Answer<()> {
        self.call("cleanup", "", self.snapshots.cleanup()).await.map(Response::new)
    }
}

type Batches = tokio::sync::mpsc::Sender<Result<ListSnapshotsResponse, Status>>;

/// Page by page: a client that calls us for each snapshot meanwhile holds up nothing. Ends when
/// the client is gone.
fn send_all(
    snapshots: &Snapshots,
    filters: &Filters,
    batches: &Batches,
) -> Result<(), tokio::sync::mpsc::error::SendError<Result<ListSnapshotsResponse, Status>>> {
    let mut after = String::new();
    loop {
        let (found, next) = match snapshots.list(|record| filters.matches(record), &after) {
            Ok(page) => page,
            Err(error) => return batches.blocking_send(Err(Error::from(error).into())),
        };
        let found = found.into_iter().map(info).collect();
        batches.blocking_send(Ok(ListSnapshotsResponse { info: found }))?;
        match next {
            Some(next) => after = next,
            None => return Ok(()),
        }
    }
}

fn sorted(labels: HashMap<String, String>) -> Labels {
    labels.into_iter().collect()
}

fn wire_mount(mount: Mount) -> WireMount {
    WireMount {
        r#type: mount.fs_type,
        source: mount.source,
        target: String::new(),
        options: mount.options,
    }
}

fn info(record: Record) -> Info {
    let kind = match record.kind {
        Kind::View => WireKind::View,
        Kind::Active => WireKind::Active,
        Kind::Committed => WireKind::Committed,
    };
    Info {
        name: record.key,
        parent: record.parent,
        kind: kind.into(),
        created_at: Some(record.created.into()),
        updated_at: Some(record.updated.into()),
        labels: record.labels.into_iter().collect(),
    }
}
