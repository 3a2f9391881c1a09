//! What single calls answer.

use crate::server::{Client, Server};
use containerd_proto::snapshots::{
    CleanupRequest, CommitSnapshotRequest, ListSnapshotsRequest, MountsRequest,
    PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest, UsageRequest,
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
    for (lost, code) in [("snapshots/1/fs", Code::Unknown), ("snapshots/1", Code::Ok)] {
        std::fs::remove_dir_all(server.root().join(lost)).unwrap();
        let (name, key) = ("committed".to_owned(), "a".to_owned());
        let request = CommitSnapshotRequest { name, key, ..Default::default() };
        let answer = client.commit(request).await;
        assert_eq!(answer.err().map_or(Code::Ok, |status| status.code()), code, "{lost}");
    }
    assert!(server.root().join("snapshots/1/fs").is_dir());
}

/// So it can be with layers that nobody unpacks, or that hold nothing: those, too, were never
/// synced. Killed right after its record, such a layer never had one.
#[tokio::test]
async fn lost_directories_of_layers_are_made_again() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(
        prepare(&mut client, "1/a", "", &[(REF, "data"), (BLOB, "true")]).await,
        Code::AlreadyExists
    );
    assert_eq!(prepare(&mut client, "1/b", "data", &[]).await, Code::FailedPrecondition);
    let unpack = [(REF, "empty")];
    assert_eq!(prepare(&mut client, "1/b", "data", &unpack).await, Code::Ok);
    let (name, key) = ("empty".to_owned(), "1/b".to_owned());
    let request = CommitSnapshotRequest { name, key, ..Default::default() };
    client.commit(request).await.unwrap();
    let layers = ["snapshots/1", "snapshots/3"].map(|layer| server.root().join(layer));
    let lose = || layers.iter().for_each(|layer| std::fs::remove_dir_all(layer).unwrap());
    lose();
    assert_eq!(prepare(&mut client, "1/c", "empty", &[(REF, "next")]).await, Code::Ok);
    assert!(layers.iter().all(|layer| layer.join("fs").is_dir()));
    lose();
    let request = MountsRequest { key: "1/c".to_owned(), ..Default::default() };
    client.mounts(request).await.unwrap();
    assert!(layers.iter().all(|layer| layer.join("fs").is_dir()));
}

/// One damaged thing does not stop the others: an image without a configuration of nydusd.
#[tokio::test]
async fn errors_say_what_is_missing() {
    let server = Server::start();
    let mut client = server.client();
    let bootstrap = "containerd.io/snapshot/nydus-bootstrap";
    let meta = [(REF, "meta"), (bootstrap, "true")];
    assert_eq!(prepare(&mut client, "1/m", "", &meta).await, Code::Ok);
    let commit = CommitSnapshotRequest {
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

/// What the program answers, its mounts in full.
async fn mounts(client: &mut Client, key: &str, parent: &str) -> (String, String, Vec<String>) {
    let (key, parent) = (key.to_owned(), parent.to_owned());
    let request = PrepareSnapshotRequest { key, parent, ..Default::default() };
    let mount = client.prepare(request).await.unwrap().into_inner().mounts.remove(0);
    (mount.r#type, mount.source, mount.options)
}

/// Commits an image of one data layer and a bootstrap, as containerd pulls it: the bootstrap is
/// unpacked into the directory of the second snapshot.
async fn pull(server: &Server, client: &mut Client, bootstrap: &[u8]) {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let digest = ("containerd.io/snapshot/cri.layer-digest", digest.as_str());
    let data = prepare(client, "1/d", "", &[(REF, "data"), (BLOB, "true"), digest]).await;
    assert_eq!(data, Code::AlreadyExists);
    let marks = [("containerd.io/snapshot/nydus-bootstrap", "true"), IMAGE];
    let labels = [&[(REF, "meta")], marks.as_slice()].concat();
    assert_eq!(prepare(client, "1/m", "data", &labels).await, Code::Ok);
    let image = server.root().join("snapshots/2/fs/image");
    std::fs::create_dir_all(&image).unwrap();
    std::fs::write(image.join("image.boot"), bootstrap).unwrap();
    let labels = marks.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let (name, key) = ("meta".to_owned(), "1/m".to_owned());
    let commit = CommitSnapshotRequest { name, key, labels, ..Default::default() };
    client.commit(commit).await.unwrap();
}

const IMAGE: (&str, &str) = ("containerd.io/snapshot/cri.image-ref", "127.0.0.1:1/t/img:1");

/// Without any daemon everything comes from the disk and the labels; the slice is Kata's.
#[tokio::test]
async fn daemon_mode_none_only_describes_the_image() {
    let directory = tempfile::tempdir().unwrap();
    let template = directory.path().join("nydusd.json");
    std::fs::write(&template, TEMPLATE).unwrap();
    let daemon = format!("[daemon]\nnydusd_config = {template:?}");
    let mut server = Server::with(&["daemon_mode = 'none'", &daemon]);
    let mut client = server.client();
    let v5 = [0x5241_4653_u32.to_le_bytes(), 0x500_u32.to_le_bytes()].concat();
    pull(&server, &mut client, &v5).await;
    let (fs_type, source, options) = mounts(&mut client, "c", "meta").await;
    assert_eq!((fs_type.as_str(), source.as_str()), ("fuse.nydus-overlayfs", "overlay"));
    let at = |name: &str| server.root().join("snapshots").join(name).display().to_string();
    let (work, upper, lower) = (at("3/work"), at("3/fs"), at("2/fs"));
    let plain =
        [format!("workdir={work}"), format!("upperdir={upper}"), format!("lowerdir={lower}")];
    assert_eq!(options[..3], plain);
    let slice = nydus_mount_slice::ExtraOption::from_options(&options).unwrap();
    let carried = &slice.value;
    assert_eq!(carried.source, at("2/fs/image/image.boot"));
    assert_eq!(carried.snapshotdir, at("3"));
    assert!(carried.config.expose().contains(r#""host":"127.0.0.1:1""#));
    // Nothing of it is only in memory.
    server.kill_and_start();
    let request = MountsRequest { key: "c".to_owned(), ..Default::default() };
    let again = server.client().mounts(request).await.unwrap().into_inner().mounts.remove(0);
    assert_eq!(again.options, options);
}

const TEMPLATE: &str = r#"{"device": {"backend": {"type": "registry", "config": {"scheme":
"http"}}, "cache": {"type": "blobcache", "config": {}}}, "mode": "direct"}"#;

/// With the proxy driver every layer is skipped, and the guest is told what to pull.
#[tokio::test]
async fn proxy_driver_leaves_layers_to_the_guest() {
    let server = Server::with(&[
        "daemon_mode = 'none'",
        "[daemon]\nfs_driver = 'proxy'",
        "[snapshot]\nenable_kata_volume = true",
    ]);
    let mut client = server.client();
    let digest = ("containerd.io/snapshot/cri.layer-digest", "sha256:aa");
    let missing = prepare(&mut client, "1/a", "", &[(REF, "a")]).await;
    assert_eq!(missing, Code::InvalidArgument);
    let skipped = prepare(&mut client, "1/a", "", &[(REF, "a"), digest, IMAGE]).await;
    assert_eq!(skipped, Code::AlreadyExists);
    let (fs_type, _, options) = mounts(&mut client, "c", "a").await;
    assert_eq!(fs_type, "fuse.nydus-overlayfs");
    let volumes = nydus_mount_slice::KataVirtualVolume::from_options(&options);
    let volume = &volumes[0].as_ref().unwrap().value;
    assert_eq!(
        (volume.volume_type.as_str(), volume.source.as_str()),
        ("image_guest_pull", IMAGE.1)
    );
    let told: Vec<_> = volume.options.iter().map(|option| option.expose()).collect();
    let mark = "containerd.io/snapshot/nydus-proxy-mode=true";
    assert_eq!(told, ["containerd.io/snapshot/cri.layer-digest=sha256:aa", mark]);
}

/// systemd is told when we serve, and not before.
#[tokio::test]
async fn readiness_is_notified() {
    let directory = tempfile::tempdir().unwrap();
    let socket = tokio::net::UnixDatagram::bind(directory.path().join("notify")).unwrap();
    let notify = ("NOTIFY_SOCKET", directory.path().join("notify").display().to_string());
    let server = Server::with_environment(&[], &[notify]);
    let mut said = vec![0; 4096];
    let limit = std::time::Duration::from_secs(60);
    let length = tokio::time::timeout(limit, socket.recv(&mut said)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&said[..length]).contains("READY=1"));
    assert_eq!(names(&mut server.client(), "kind==active").await, Vec::<String>::new());
}

/// Labels hold registry passwords; slices hold credentials. The log has neither.
#[tokio::test]
async fn secrets_are_not_logged() {
    let server = Server::with(&["[log]\nlevel = 'trace'"]);
    let mut client = server.client();
    let labels = [
        ("containerd.io/snapshot/pullusername", "user"),
        ("containerd.io/snapshot/pullsecret", "hunter2"),
    ];
    assert_eq!(prepare(&mut client, "key-in-log", "", &labels).await, Code::Ok);
    assert_eq!(prepare(&mut client, "key-in-log", "", &labels).await, Code::AlreadyExists);
    let log = server.log();
    assert!(log.contains("key-in-log") && !log.contains("hunter2"), "{log}");
}
