//! containerd's part towards a snapshotter: calls and labels as it makes them, without it.

use crate::image::{Blob, Image, digest_of};
use crate::run::run;
use containerd_proto::snapshots::snapshots_client::SnapshotsClient;
use containerd_proto::snapshots::{
    CleanupRequest, CommitSnapshotRequest, Info, ListSnapshotsRequest, Mount, MountsRequest,
    PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest, ViewSnapshotRequest,
};
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// How long a call may take, where a test says nothing else.
const LIMIT: Duration = Duration::from_secs(60);
/// The label that a client needs for a lazily read image.
pub const IMAGE_REF: &str = "containerd.io/snapshot/cri.image-ref";

/// Labels of a snapshot.
pub type Labels = HashMap<String, String>;

/// A client of the snapshotter at a socket. Each call has a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    limit: Duration,
}

/// A method for each call, for which a request is made from its arguments.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $kind:ty),*) -> $out:ty = $request:expr, $answer:expr;)*) => {
        $($(#[$doc])*
        ///
        /// # Errors
        /// What the snapshotter answers; DEADLINE_EXCEEDED after the client's limit.
        pub fn $name(&self, $($argument: $kind),*) -> Result<$out, Status> {
            let request = $request;
            self.call(async |mut client| Ok($answer(client.$name(request).await?.into_inner())))
        })*
    };
}

impl Client {
    /// Of the snapshotter that listens at `socket`.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, limit: LIMIT }
    }

    /// One that gives up after `limit`.
    #[must_use]
    pub fn patient_for(&self, limit: Duration) -> Self {
        Self { limit, ..self.clone() }
    }

    calls! {
        /// Makes an active snapshot.
        prepare(key: &str, parent: &str, labels: &Labels) -> Vec<Mount> = PrepareSnapshotRequest {
            key: key.into(), parent: parent.into(), labels: labels.clone(), ..Default::default()
        }, |answer: containerd_proto::snapshots::PrepareSnapshotResponse| answer.mounts;
        /// Makes a view.
        view(key: &str, parent: &str) -> Vec<Mount> = ViewSnapshotRequest {
            key: key.into(), parent: parent.into(), ..Default::default()
        }, |answer: containerd_proto::snapshots::ViewSnapshotResponse| answer.mounts;
        /// Asks how to mount a snapshot.
        mounts(key: &str) -> Vec<Mount> =
            MountsRequest { key: key.into(), ..Default::default() },
            |answer: containerd_proto::snapshots::MountsResponse| answer.mounts;
        /// Makes an active snapshot a committed one.
        commit(name: &str, key: &str, labels: &Labels) -> () = CommitSnapshotRequest {
            name: name.into(), key: key.into(), labels: labels.clone(), ..Default::default()
        }, std::convert::identity;
        /// Removes a snapshot.
        remove(key: &str) -> () =
            RemoveSnapshotRequest { key: key.into(), ..Default::default() },
            std::convert::identity;
        /// What is known of a snapshot.
        stat(key: &str) -> Option<Info> =
            StatSnapshotRequest { key: key.into(), ..Default::default() },
            |answer: containerd_proto::snapshots::StatSnapshotResponse| answer.info;
        /// Removes what belongs to nobody.
        cleanup() -> () = CleanupRequest::default(), std::convert::identity;
    }

    /// The names of all snapshots, sorted.
    ///
    /// # Errors
    /// What the snapshotter answers.
    pub fn keys(&self) -> Result<Vec<String>, Status> {
        self.call(async |mut client| {
            let mut stream = client.list(ListSnapshotsRequest::default()).await?.into_inner();
            let mut keys = Vec::new();
            while let Some(batch) = stream.message().await? {
                keys.extend(batch.info.into_iter().map(|info| info.name));
            }
            keys.sort();
            Ok(keys)
        })
    }

    /// Unpacks an image as containerd does when it pulls; layers that are there are passed over.
    /// Returns the names of the layers' snapshots, lowest first.
    ///
    /// # Errors
    /// What the snapshotter answers to the first call that fails.
    pub fn unpack(&self, image: &Image, labels: &Labels) -> Result<Vec<String>, Status> {
        let mut names: Vec<String> = Vec::new();
        for layer in &image.layers {
            let parent = names.last().cloned().unwrap_or_default();
            let name = digest_of(format!("{parent} {}", layer.digest).as_bytes());
            match self.stat(&name) {
                Err(status) if status.code() == Code::NotFound => {
                    self.layer(layer, &name, &parent, labels)?;
                }
                there => drop(there?),
            }
            names.push(name);
        }
        Ok(names)
    }

    fn layer(&self, layer: &Blob, name: &str, parent: &str, more: &Labels) -> Result<(), Status> {
        let mut labels: Labels = layer.labels().chain(more.clone()).collect();
        labels.insert("containerd.io/snapshot.ref".into(), name.into());
        labels.insert("containerd.io/snapshot/cri.layer-digest".into(), layer.digest.clone());
        let key = format!("extract-{name}");
        match self.prepare(&key, parent, &labels) {
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            mounts => {
                let ran = run(Command::new("tar")
                    .arg("-xzf")
                    .arg(&layer.path)
                    .arg("-C")
                    .arg(upper(&mounts?[0])));
                assert!(ran.ok(), "{ran}");
                self.commit(name, &key, &labels)
            }
        }
    }

    fn call<T>(
        &self,
        call: impl AsyncFnOnce(SnapshotsClient<Channel>) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let address = format!("unix://{}", self.socket.display());
        let internal = |error: &dyn std::fmt::Display| Status::internal(error.to_string());
        let endpoint = Endpoint::from_shared(address).map_err(|error| internal(&error))?;
        let called = async {
            let channel = endpoint.connect().await;
            call(SnapshotsClient::new(channel.map_err(|e| Status::unavailable(e.to_string()))?))
                .await
        };
        let late = || Status::deadline_exceeded(format!("no answer in {:?}", self.limit));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| internal(&error))?;
        // What is not done in time is dropped: the snapshotter sees the request cancelled.
        let in_time = async { tokio::time::timeout(self.limit, called).await };
        runtime.block_on(in_time).unwrap_or_else(|_| Err(late()))
    }
}

/// The directory that takes what is written to a mount.
pub fn upper(mount: &Mount) -> PathBuf {
    let option = mount.options.iter().find_map(|option| option.strip_prefix("upperdir="));
    PathBuf::from(option.unwrap_or(&mount.source))
}
