//! What `status` shows, as JSON and for people.

use super::images::ImageRow;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use tabwriter::TabWriter;

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
    pub images: Vec<ImageRow>,
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

/// The report for people.
pub fn table(report: &Report) -> Result<String> {
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
    ImageRow::rows(&report.images, &mut rows)?;
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
                ImageRow {
                    snapshot: 3,
                    image: "reg/img:1".into(),
                    served: "fuse".into(),
                    ready_bytes: 1 << 29,
                    bytes: 1 << 30,
                    doing: Some("caching".into()),
                    why: None,
                },
                ImageRow {
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
