//! The Go snapshotter's daemons and RAFS instances, in `nydus.db` (its `pkg/store/database.go`):
//! bucket `v1`, in it `daemons` and `instances`, JSON by their names.

use super::Error;
use super::bbolt::File;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::PathBuf;

/// A `nydusd` of the Go snapshotter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct GoDaemon {
    /// Its name.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its process, when it was recorded.
    #[serde(rename = "ProcessID")]
    pub process_id: i64,
    /// Socket of its API.
    #[serde(rename = "APISocket")]
    pub api_socket: PathBuf,
    /// `shared` or `dedicated`.
    pub daemon_mode: String,
    /// `fusedev` or `fscache`.
    pub fs_driver: String,
    /// Where it mounts.
    pub mountpoint: PathBuf,
}

/// An image that the Go snapshotter serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct GoInstance {
    /// The image's reference.
    #[serde(rename = "ImageID")]
    pub image_id: String,
    /// Who serves it.
    #[serde(rename = "DaemonID")]
    pub daemon_id: String,
    /// Number of the snapshot with the bootstrap; with a suffix for a user namespace.
    #[serde(rename = "SnapshotID")]
    pub snapshot_id: String,
    /// `fusedev`, `fscache`, `blockdev`, `proxy`, `nodev`.
    pub fs_driver: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
}

/// What could be read.
#[derive(Default)]
pub(super) struct Daemons {
    pub(super) daemons: Vec<GoDaemon>,
    pub(super) instances: Vec<GoInstance>,
    pub(super) warnings: Vec<String>,
}

pub(super) fn read(file: &File) -> Result<Daemons, Error> {
    let mut read = Daemons::default();
    read.daemons = items(file, "daemons", &mut read.warnings)?;
    read.instances = items(file, "instances", &mut read.warnings)?;
    let daemons = read.daemons.iter().map(|daemon| ("daemon", &daemon.id, &daemon.fs_driver));
    let instances = read.instances.iter().map(|i| ("image", &i.image_id, &i.fs_driver));
    for (what, name, driver) in daemons.chain(instances) {
        // What those mounted, nobody would serve.
        if matches!(driver.as_str(), "fscache" | "blockdev") {
            return Err(Error::Driver { what, name: name.clone(), driver: driver.clone() });
        }
    }
    Ok(read)
}

fn items<T: DeserializeOwned>(
    file: &File,
    name: &str,
    warnings: &mut Vec<String>,
) -> Result<Vec<T>, Error> {
    let Some(bucket) = file.section(name)? else { return Ok(vec![]) };
    let mut items = Vec::new();
    for key in bucket.keys() {
        match serde_json::from_slice(bucket.get(key).unwrap_or_default()) {
            Ok(item) => items.push(item),
            Err(error) => {
                let (key, at) = (String::from_utf8_lossy(key), error.column());
                warnings.push(format!("{name}: {key:?} is left out: damaged at byte {at}"));
            }
        }
    }
    Ok(items)
}
