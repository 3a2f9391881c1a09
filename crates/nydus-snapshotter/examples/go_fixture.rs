//! Makes the fixtures of `tests/import`: roots of the real Go snapshotter, killed in the middle,
//! and what it answered about them.
//!
//! ```text
//! unshare -m cargo run -p nydus-snapshotter --example go_fixture -- \
//!     GO_SNAPSHOTTER NYDUSD NYDUS_IMAGE crates/nydus-snapshotter/tests/fixtures/go
//! ```
//!
//! Where a million open files are not allowed, NYDUSD is a script that adds `--rlimit-nofile 0`.

use containerd_proto::snapshots::snapshots_client::SnapshotsClient;
use containerd_proto::snapshots::{
    CommitSnapshotRequest, Info, ListSnapshotsRequest, Mount, PrepareSnapshotRequest,
    RemoveSnapshotRequest, UsageRequest, ViewSnapshotRequest,
};
use flate2::Compression;
use flate2::write::GzEncoder;
use nydus_snapshotter::import;
use nydus_snapshotter::labels::{IMAGE_REF, Labels, NYDUS_BLOB, NYDUS_BOOTSTRAP, SNAPSHOT_REF};
use nydus_snapshotter::store::{Kind, Record};
use nydus_snapshotter::usage::Usage;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};
use tonic::transport::{Channel, Endpoint};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The records have absolute paths of their root.
const PLACE: &str = "/tmp/nydus-go-fixture";

fn main() -> Outcome<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [go, nydusd, image, fixtures] = arguments.as_slice() else {
        return Err("expected: GO_SNAPSHOTTER NYDUSD NYDUS_IMAGE DIRECTORY".into());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for (name, mode) in [("dedicated", "dedicated"), ("shared", "shared"), ("large", "none")] {
        let _ = fs::remove_dir_all(PLACE);
        fs::create_dir_all(PLACE)?;
        make_image(image)?;
        let _entered = runtime.enter();
        let mut peer = Peer::start(go, nydusd, mode)?;
        let filled = runtime.block_on(async {
            let calls = if name == "large" { many(&mut peer).await } else { few(&mut peer).await };
            calls?;
            peer.records().await
        });
        peer.child.kill()?;
        peer.child.wait()?;
        save(&filled?, &fixtures.join(name))?;
    }
    Ok(fs::remove_dir_all(PLACE)?)
}

/// A Go snapshotter, and the numbers of its snapshots by key.
struct Peer {
    child: Child,
    client: SnapshotsClient<Channel>,
    numbers: HashMap<String, u64>,
}

impl Peer {
    fn start(go: &Path, nydusd: &Path, mode: &str) -> Outcome<Self> {
        let (address, template) = (format!("{PLACE}/s.sock"), format!("{PLACE}/nydusd.json"));
        let child = Command::new(go)
            .args(["--root", &format!("{PLACE}/root"), "--address", &address])
            .args(["--nydusd-config", &template, "--daemon-mode", mode, "--log-to-stdout"])
            .arg("--nydusd")
            .arg(nydusd)
            .stdout(Stdio::null())
            .spawn()?;
        let start = Instant::now();
        while std::os::unix::net::UnixStream::connect(&address).is_err() {
            if start.elapsed() > Duration::from_secs(20) {
                return Err("the Go snapshotter does not listen".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let channel = Endpoint::from_shared(format!("unix://{address}"))?.connect_lazy();
        Ok(Self { child, client: SnapshotsClient::new(channel), numbers: HashMap::new() })
    }

    async fn prepare(&mut self, key: &str, parent: &str, labels: Labels) -> Outcome<u64> {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let labels = labels.into_iter().collect();
        let request =
            PrepareSnapshotRequest { key: key.clone(), parent, labels, ..Default::default() };
        let mounts = self.client.prepare(request).await?.into_inner().mounts;
        self.number(key, &mounts)
    }

    async fn view(&mut self, key: &str, parent: &str) -> Outcome<u64> {
        let (key, parent) = (key.to_owned(), parent.to_owned());
        let request = ViewSnapshotRequest { key: key.clone(), parent, ..Default::default() };
        self.client.view(request).await?;
        // A view's number is in no mount; it is the next one.
        let number = self.numbers.values().max().unwrap_or(&0) + 1;
        self.numbers.insert(key, number);
        Ok(number)
    }

    async fn commit(&mut self, name: &str, key: &str, labels: Labels) -> Outcome<()> {
        let (name, key) = (name.to_owned(), key.to_owned());
        let number = self.numbers.remove(&key).ok_or("an unknown key")?;
        self.numbers.insert(name.clone(), number);
        let labels = labels.into_iter().collect();
        let request = CommitSnapshotRequest { name, key, labels, ..Default::default() };
        self.client.commit(request).await?;
        Ok(())
    }

    async fn remove(&mut self, key: &str) -> Outcome<()> {
        let request = RemoveSnapshotRequest { key: key.to_owned(), ..Default::default() };
        self.client.remove(request).await?;
        self.numbers.remove(key);
        Ok(())
    }

    /// The number, as the mount of an active snapshot tells it.
    fn number(&mut self, key: String, mounts: &[Mount]) -> Outcome<u64> {
        let mount = mounts.first().ok_or("no mount")?;
        let upper = mount.options.iter().find_map(|option| option.strip_prefix("upperdir="));
        let directory = Path::new(upper.unwrap_or(&mount.source)).parent().ok_or("no directory")?;
        let number = directory.file_name().and_then(|name| name.to_str()).ok_or("no name")?;
        let number = number.parse()?;
        self.numbers.insert(key, number);
        Ok(number)
    }

    /// All records, as the Go snapshotter tells them.
    async fn records(&mut self) -> Outcome<Vec<Record>> {
        let mut list = self.client.list(ListSnapshotsRequest::default()).await?.into_inner();
        let mut infos = Vec::new();
        while let Some(page) = list.message().await? {
            infos.extend(page.info);
        }
        let mut records = Vec::new();
        for info in infos {
            records.push(self.record(info).await?);
        }
        records.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(records)
    }

    async fn record(&mut self, info: Info) -> Outcome<Record> {
        let kind = [Kind::View, Kind::Active, Kind::Committed][usize::try_from(info.kind)? - 1];
        let mut usage = Usage::default();
        if kind == Kind::Committed {
            let request = UsageRequest { key: info.name.clone(), ..Default::default() };
            let stored = self.client.usage(request).await?.into_inner();
            usage = Usage { inodes: stored.inodes.try_into()?, size: stored.size.try_into()? };
        }
        let time = |time: Option<prost_types::Timestamp>| -> Outcome<SystemTime> {
            Ok(time.ok_or("no time")?.try_into()?)
        };
        Ok(Record {
            id: *self.numbers.get(&info.name).ok_or("an unknown key")?,
            key: info.name,
            kind,
            parent: info.parent,
            labels: info.labels.into_iter().collect(),
            created: time(info.created_at)?,
            updated: time(info.updated_at)?,
            kernel: false,
            usage,
        })
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Every kind of snapshot, and a container of a Nydus image that is served.
async fn few(peer: &mut Peer) -> Outcome<()> {
    let number = peer.prepare("k8s.io/1/extract base", "", Labels::new()).await?;
    fs::write(format!("{PLACE}/root/snapshots/{number}/fs/file"), vec![1; 10_000])?;
    let chain = "k8s.io/2/sha256:base";
    peer.commit(chain, "k8s.io/1/extract base", labels(&[("a", "1"), ("ä", "ö")])).await?;
    peer.prepare("k8s.io/3/gone", chain, Labels::new()).await?;
    peer.remove("k8s.io/3/gone").await?;
    peer.prepare("k8s.io/4/container", chain, labels(&[("b", "2")])).await?;
    peer.view("k8s.io/5/view", chain).await?;

    let image = (IMAGE_REF, "localhost:5000/test/image:1");
    let blob = labels(&[image, (SNAPSHOT_REF, "sha256:data"), (NYDUS_BLOB, "true")]);
    // Nobody needs to unpack it, so it is committed at once.
    let skipped = peer.prepare("k8s.io/6/extract data", "", blob).await;
    skipped.err().ok_or("a data layer is to be unpacked")?;
    let number = peer.numbers.values().max().unwrap_or(&0) + 1;
    peer.numbers.insert("sha256:data".to_owned(), number);
    let meta = labels(&[image, (SNAPSHOT_REF, "sha256:meta"), (NYDUS_BOOTSTRAP, "true")]);
    let number = peer.prepare("k8s.io/7/extract meta", "sha256:data", meta.clone()).await?;
    let place = format!("{PLACE}/root/snapshots/{number}/fs/image");
    fs::create_dir(&place)?;
    fs::copy(format!("{PLACE}/image.boot"), format!("{place}/image.boot"))?;
    peer.commit("k8s.io/8/sha256:meta", "k8s.io/7/extract meta", meta).await?;
    peer.prepare("k8s.io/9/nydus", "k8s.io/8/sha256:meta", Labels::new()).await?;
    Ok(())
}

/// So many that trees have branch pages, with labels in pages of their own and over several.
async fn many(peer: &mut Peer) -> Outcome<()> {
    let mut parent = String::new();
    for layer in 0..250 {
        let key = format!("k8s.io/{layer}/extract");
        let name = format!("k8s.io/{layer}/sha256:{:064x}", layer * 7919);
        let size = match layer % 50 {
            0 => 9_000,
            1 => 1_500,
            _ => 60,
        };
        let all = labels(&[("containerd.io/snapshot/test", &"x".repeat(size))]);
        peer.prepare(&key, &parent, Labels::new()).await?;
        if layer % 10 == 3 {
            peer.remove(&key).await?;
            continue;
        }
        peer.commit(&name, &key, all).await?;
        parent = if layer % 25 == 0 { String::new() } else { name };
    }
    Ok(())
}

/// A bootstrap, and a template of `nydusd`'s configuration that finds its data.
fn make_image(nydus_image: &Path) -> Outcome<()> {
    let source = format!("{PLACE}/source");
    fs::create_dir(&source)?;
    fs::write(format!("{source}/hello"), "hello")?;
    fs::create_dir(format!("{PLACE}/blobs"))?;
    let made = Command::new(nydus_image)
        .args(["create", "-t", "dir-rafs", "-v", "6", "--log-level", "warn"])
        .args(["-B", &format!("{PLACE}/image.boot"), "-D", &format!("{PLACE}/blobs"), &source])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    let backend = format!(r#"{{"type":"localfs","config":{{"dir":"{PLACE}/blobs"}}}}"#);
    let device = format!(
        r#"{{"backend":{backend},"cache":{{"type":"blobcache","config":{{"work_dir":"{PLACE}/cache"}}}}}}"#
    );
    let template =
        format!(r#"{{"device":{device},"mode":"direct","fs_prefetch":{{"enable":false}}}}"#);
    fs::write(format!("{PLACE}/nydusd.json"), template)?;
    made.success().then_some(()).ok_or_else(|| "nydus-image failed".into())
}

/// Its files and the records; ends the daemons, which outlive it.
fn save(records: &[Record], fixture: &Path) -> Outcome<()> {
    fs::create_dir_all(fixture)?;
    for file in ["metadata.db", "nydus.db"] {
        let packed = File::create(fixture.join(file).with_extension("db.gz"))?;
        let mut packer = GzEncoder::new(packed, Compression::best());
        packer.write_all(&fs::read(format!("{PLACE}/root/{file}"))?)?;
        packer.finish()?;
    }
    let lines: Result<Vec<_>, _> =
        records.iter().map(|record| serde_json::to_string(&(&record.key, record))).collect();
    fs::write(fixture.join("records.jsonl"), lines?.join("\n") + "\n")?;
    for daemon in import::read(&Path::new(PLACE).join("root"))?.daemons {
        if let Some(pid) = i32::try_from(daemon.process_id).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    Ok(())
}
