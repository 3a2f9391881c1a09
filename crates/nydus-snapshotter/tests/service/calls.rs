//! What single calls answer.

use crate::server::{Client, Server};
use containerd_proto::snapshots::{
    CleanupRequest, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest, UsageRequest,
};
use std::collections::HashMap;
use tonic::Code;

const REF: &str = "containerd.io/snapshot.ref";
const BLOB: &str = "containerd.io/snapshot/nydus-blob";

async fn prepare(client: &mut Client, key: &str, parent: &str, labels: &[(&str, &str)]) -> Code {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let (key, parent, labels) = (key.to_owned(), parent.to_owned(), labels.collect());
    let request = PrepareSnapshotRequest { key, parent, labels, ..Default::default() };
    client.prepare(request).await.err().map_or(Code::Ok, |status| status.code())
}

async fn names(client: &mut Client, filter: &str) -> Vec<String> {
    let filters = vec![filter.to_owned()];
    let request = ListSnapshotsRequest { filters, ..Default::default() };
    let mut stream = client.list(request).await.unwrap().into_inner();
    let mut names = Vec::new();
    while let Some(batch) = stream.message().await.unwrap() {
        names.extend(batch.info.into_iter().map(|info| info.name));
    }
    names
}

/// What containerd does when it pulls an image with data layers.
#[tokio::test]
async fn data_layers_are_committed_at_once() {
    let server = Server::start();
    let mut client = server.client();
    let labels = |target| [(REF, target), (BLOB, "true")];
    for _ in 0..2 {
        // The second time another namespace pulls it.
        assert_eq!(prepare(&mut client, "1/a", "", &labels("one")).await, Code::AlreadyExists);
        assert_eq!(prepare(&mut client, "1/b", "one", &labels("two")).await, Code::AlreadyExists);
    }
    let found = names(&mut client, r#"labels."containerd.io/snapshot.ref"==two,parent=="one""#);
    assert_eq!(found.await, ["two"]);
    assert_eq!(names(&mut client, "kind==committed").await, ["one", "two"]);
    assert_eq!(names(&mut client, "kind==active").await, Vec::<String>::new());
    assert_eq!(server.directories(), ["1", "2"], "a target that exists makes nothing");
    // The same name over another parent is not the same layer.
    let other = prepare(&mut client, "1/c", "", &labels("two")).await;
    assert_eq!(other, Code::FailedPrecondition);
    // A data layer alone is no file system, and the attempt leaves nothing.
    assert_eq!(prepare(&mut client, "c", "two", &[]).await, Code::FailedPrecondition);
    assert_eq!(names(&mut client, "kind==active").await, Vec::<String>::new());
    assert_eq!(server.directories(), ["1", "2"]);
}

#[tokio::test]
async fn usage_counts_what_is_there() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(prepare(&mut client, "a", "", &[]).await, Code::Ok);
    std::fs::write(server.root().join("snapshots/1/fs/file"), [1; 10_000]).unwrap();
    let request = UsageRequest { key: "a".to_owned(), ..Default::default() };
    let usage = client.usage(request).await.unwrap().into_inner();
    assert_eq!((usage.inodes, usage.size >= 10_000), (2, true));
}

/// A directory that our store never had is nobody's to remove.
#[tokio::test]
async fn cleanup_removes_only_what_was_removed() {
    let server = Server::start();
    let mut client = server.client();
    for key in ["a", "b"] {
        assert_eq!(prepare(&mut client, key, "", &[]).await, Code::Ok);
    }
    std::fs::create_dir_all(server.root().join("snapshots/77/fs/precious")).unwrap();
    let request = RemoveSnapshotRequest { key: "a".to_owned(), ..Default::default() };
    client.remove(request).await.unwrap();
    assert_eq!(server.directories(), ["1", "2", "77"]);
    client.cleanup(CleanupRequest::default()).await.unwrap();
    assert_eq!(server.directories(), ["2", "77"]);
}

/// The power cut can take a directory that was never synced; it held nothing.
#[tokio::test]
async fn lost_directories_are_made_again() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(prepare(&mut client, "a", "", &[]).await, Code::Ok);
    std::fs::remove_dir_all(server.root().join("snapshots/1")).unwrap();
    let request = MountsRequest { key: "a".to_owned(), ..Default::default() };
    client.mounts(request).await.unwrap();
    assert!(server.root().join("snapshots/1/fs").is_dir());
}

/// One damaged thing does not stop the others: an image without a configuration of nydusd.
#[tokio::test]
async fn errors_say_what_is_missing() {
    let server = Server::start();
    let mut client = server.client();
    let bootstrap = "containerd.io/snapshot/nydus-bootstrap";
    let meta = [(REF, "meta"), (bootstrap, "true")];
    assert_eq!(prepare(&mut client, "1/m", "", &meta).await, Code::Ok);
    let commit = containerd_proto::snapshots::CommitSnapshotRequest {
        name: "m".to_owned(),
        key: "1/m".to_owned(),
        labels: HashMap::from([(bootstrap.to_owned(), "true".to_owned())]),
        ..Default::default()
    };
    client.commit(commit).await.unwrap();
    let request = PrepareSnapshotRequest {
        key: "c".to_owned(),
        parent: "m".to_owned(),
        ..Default::default()
    };
    let status = client.prepare(request).await.unwrap_err();
    assert!(status.message().contains("cannot read bootstrap "), "{status}");
    let request = StatSnapshotRequest { key: "c".to_owned(), ..Default::default() };
    assert_eq!(client.stat(request).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(prepare(&mut client, "c", "", &[]).await, Code::Ok);
}
