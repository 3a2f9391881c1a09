//! `containerd-nydus-grpc status`: what runs, asked of the running snapshotter; the service that
//! answers it and `warm`.

mod images;

use crate::config::Config;
use crate::health::Health;
use crate::images::Images;
use crate::snapshots::Snapshots;
use crate::{store, warm};
use anyhow::{Context, Result};
use containerd_proto::nydus::status_client::StatusClient;
use containerd_proto::nydus::status_server::Status as Calls;
use containerd_proto::nydus::{GetRequest, GetResponse, WarmProgress, WarmRequest};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use tabwriter::TabWriter;
use tokio_stream::Stream;
use tonic::transport::Channel;
use tonic::{Request, Response};

/// Bytes of an answer, at most: some 200,000 snapshots.
const LARGEST: usize = 64 << 20;

pub use images::Image;

/// All that `status` shows.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version of the snapshotter that answers.
    pub version: String,
    /// Its root directory.
    pub root: PathBuf,
    /// How images are served.
    pub daemon_mode: String,
    /// `nydusd` processes.
    pub daemons: Vec<Daemon>,
    /// Images that `nydusd` serves.
    pub instances: Vec<Instance>,
    /// All Nydus images.
    #[serde(default)]
    pub images: Vec<Image>,
    /// Snapshots.
    pub snapshots: Vec<Snapshot>,
}

/// A `nydusd` process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Daemon {
    /// Its name.
    pub id: String,
    /// Its process, if known.
    pub pid: Option<u32>,
    /// Whether it serves all images.
    pub shared: bool,
    /// Whether it lives.
    pub state: State,
    /// Socket of its API.
    pub socket: PathBuf,
}

/// What a `nydusd` process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It serves images.
    Running,
    /// It has ended.
    Dead,
    /// It lived when we were started, and did not answer: it is left to its containers.
    Unanswering,
}

/// An image that is served.
#[derive(Debug, Serialize, Deserialize)]
pub struct Instance {
    /// Number of the snapshot with its bootstrap.
    pub snapshot: u64,
    /// The image's reference, empty if not known.
    pub image: String,
    /// The daemon that serves it.
    pub daemon: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Why its data cannot be had from the registry now.
    pub trouble: Option<String>,
    /// File operations that failed.
    pub failed_operations: u64,
    /// Bytes read from it.
    pub bytes_read: u64,
}

/// A snapshot.
#[derive(Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// Number of its directory.
    pub id: u64,
    /// `active`, `view` or `committed`.
    pub kind: String,
    /// Its name.
    pub key: String,
    /// Its parent's name.
    pub parent: String,
}

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

    fn report(&self) -> crate::error::Result<Report> {
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
            images: Image::all(&self.snapshots, &instances)?,
            instances,
            snapshots: self.list()?,
        })
    }

    fn list(&self) -> crate::error::Result<Vec<Snapshot>> {
        let (mut after, mut all) = (String::new(), Vec::new());
        loop {
            let (records, next) = self.snapshots.list(&Default::default(), &after)?;
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

fn snapshot(record: store::Record) -> Snapshot {
    let kind = record.kind.name().to_owned();
    Snapshot { id: record.id, kind, key: record.key, parent: record.parent }
}

#[tonic::async_trait]
impl Calls for Status {
    async fn get(&self, _: Request<GetRequest>) -> Result<Response<GetResponse>, tonic::Status> {
        let report = self.report()?;
        let json = serde_json::to_string(&report);
        let json = json.map_err(|error| tonic::Status::internal(error.to_string()))?;
        Ok(Response::new(GetResponse { json }))
    }

    type WarmStream = Pin<Box<dyn Stream<Item = Result<WarmProgress, tonic::Status>> + Send>>;

    async fn warm(
        &self,
        request: Request<WarmRequest>,
    ) -> Result<Response<Self::WarmStream>, tonic::Status> {
        let wanted = request.into_inner().image;
        let found = self.snapshots.find_image(&wanted)?;
        let image = found.ok_or_else(|| {
            tonic::Status::not_found(
                "no Nydus image of that reference or number is here: see status",
            )
        })?;
        let natives = &self.snapshots.natives;
        if natives.is_promoted(image.id) {
            return Ok(Response::new(Box::pin(tokio_stream::empty())));
        }
        let job = natives.promote(&self.snapshots.images, &image, true);
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        tokio::spawn(warm::tell(job, sender));
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }
}

/// Asks the snapshotter at `address` and prints what it says.
///
/// # Errors
/// Nobody answers there.
pub async fn print(address: &Path, json: bool) -> Result<()> {
    let mut client = connect(address).await?;
    let answer = client.get(GetRequest {}).await.with_context(|| nobody(address))?.into_inner();
    let text = match json {
        true => answer.json + "\n",
        false => table(&serde_json::from_str(&answer.json)?)?,
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// A client of the snapshotter at `address`.
pub(crate) async fn connect(address: &Path) -> Result<StatusClient<Channel>> {
    let client = StatusClient::connect(format!("unix://{}", address.display()));
    let client = client.await.with_context(|| nobody(address))?;
    Ok(client.max_decoding_message_size(LARGEST))
}

fn nobody(address: &Path) -> String {
    format!("no snapshotter answers on {}", address.display())
}

/// The report for people.
fn table(report: &Report) -> Result<String> {
    let mut rows = String::new();
    writeln!(rows, "DAEMON\tPID\tMODE\tSTATE\tSOCKET")?;
    for Daemon { id, pid, shared, state, socket } in &report.daemons {
        let mode = if *shared { "shared" } else { "dedicated" };
        let pid = pid.map_or("-".to_owned(), |pid| pid.to_string());
        let state = format!("{state:?}").to_lowercase();
        writeln!(rows, "{id}\t{pid}\t{mode}\t{state}\t{}", socket.display())?;
    }
    writeln!(rows, "\nSNAPSHOT\tIMAGE\tDAEMON\tREAD\tFAILED\tTROUBLE")?;
    for instance in &report.instances {
        let Instance { snapshot, image, daemon, bytes_read, failed_operations, .. } = instance;
        let trouble = instance.trouble.as_deref().unwrap_or("-");
        writeln!(
            rows,
            "{snapshot}\t{image}\t{daemon}\t{bytes_read}\t{failed_operations}\t{trouble}"
        )?;
    }
    Image::rows(&report.images, &mut rows)?;
    writeln!(rows, "\nID\tKIND\tKEY\tPARENT")?;
    for Snapshot { id, kind, key, parent } in &report.snapshots {
        let parent = if parent.is_empty() { "-" } else { parent };
        writeln!(rows, "{id}\t{kind}\t{key}\t{parent}")?;
    }
    let mut aligned = TabWriter::new(Vec::new());
    aligned.write_all(rows.as_bytes())?;
    aligned.flush()?;
    Ok(String::from_utf8_lossy(&aligned.into_inner().unwrap_or_default()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_aligned() {
        let report = Report {
            version: "0".into(),
            root: "/r".into(),
            daemon_mode: "dedicated".into(),
            daemons: vec![Daemon {
                id: "d3".into(),
                pid: Some(42),
                shared: false,
                state: State::Running,
                socket: "/r/socket/d3/api.sock".into(),
            }],
            instances: vec![Instance {
                snapshot: 3,
                image: "reg/img:1".into(),
                daemon: "d3".into(),
                mountpoint: "/r/snapshots/3/mnt".into(),
                trouble: Some("registry reg refuses the credentials".into()),
                failed_operations: 1,
                bytes_read: 4096,
            }],
            images: vec![
                Image {
                    snapshot: 3,
                    image: "reg/img:1".into(),
                    served: "fuse".into(),
                    ready_bytes: 1 << 29,
                    bytes: 1 << 30,
                    doing: Some("caching".into()),
                    why: None,
                },
                Image {
                    snapshot: 5,
                    image: "reg/img:2".into(),
                    served: "-".into(),
                    ready_bytes: 0,
                    bytes: 0,
                    doing: None,
                    why: Some("image is encrypted".into()),
                },
            ],
            snapshots: vec![Snapshot {
                id: 3,
                kind: "committed".into(),
                key: "k8s.io/1/sha256:aa".into(),
                parent: String::new(),
            }],
        };
        let expected = "\
DAEMON  PID  MODE       STATE    SOCKET
d3      42   dedicated  running  /r/socket/d3/api.sock

SNAPSHOT  IMAGE      DAEMON  READ  FAILED  TROUBLE
3         reg/img:1  d3      4096  1       registry reg refuses the credentials

IMAGE  REFERENCE  SERVED  CACHED                    WHY
3      reg/img:1  fuse    50% of 1.00 GiB, caching  -
5      reg/img:2  -       -                         image is encrypted

ID  KIND       KEY                 PARENT
3   committed  k8s.io/1/sha256:aa  -
";
        assert_eq!(table(&report).unwrap(), expected);
    }
}
