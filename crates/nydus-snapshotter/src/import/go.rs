//! The Go snapshotter's files together.

use super::bbolt::File;
use super::{Error, Imported, MOST, daemons, snapshots};
use crate::disk;
use crate::layout::Layout;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The last transaction in each file. The Go program makes one in `nydus.db` whenever it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    metadata: Option<u64>,
    nydus: Option<u64>,
}

impl State {
    /// Whether something was written since then. A file that is gone is no change.
    pub(super) fn differs(self, then: Self) -> bool {
        let differs = |now: Option<u64>, then| now.is_some() && now != then;
        differs(self.metadata, then.metadata) || differs(self.nydus, then.nydus)
    }
}

/// The Go snapshotter's files.
pub(super) struct Files {
    layout: Layout,
    metadata: Option<File>,
    /// The Go program opens this one when it starts, the other one at the first call.
    nydus: Option<File>,
}

impl Files {
    pub(super) fn open(root: &Path) -> Result<Self, Error> {
        let nydus = File::open(&root.join("nydus.db"))?;
        Ok(Self { layout: Layout::new(root), metadata: File::open(&metadata(root))?, nydus })
    }

    /// How far they are written.
    pub(super) fn state(&self) -> State {
        let last = |file: &Option<File>| file.as_ref().map(File::transaction);
        State { metadata: last(&self.metadata), nydus: last(&self.nydus) }
    }

    pub(super) fn read(&self) -> Result<Imported, Error> {
        let read = self.metadata.as_ref().map(snapshots::read).transpose()?.unwrap_or_default();
        let nydus = self.nydus.as_ref().map(daemons::read).transpose()?.unwrap_or_default();
        let numbers = read.records.iter().map(|record| record.id).chain(directories(&self.layout)?);
        let last = numbers.fold(read.last, u64::max);
        let mut imported = Imported {
            records: read.records,
            next_id: last + 1,
            daemons: nydus.daemons,
            instances: nydus.instances,
            warnings: [read.warnings, nydus.warnings].concat(),
        };
        imported.drop_strays();
        Ok(imported)
    }
}

impl Imported {
    /// Leaves out daemons and images that could not be found by what their records say.
    fn drop_strays(&mut self) {
        let Self { daemons, instances, warnings, .. } = self;
        daemons.retain(|daemon| {
            let found = [&daemon.api_socket, &daemon.mountpoint];
            let keep = !daemon.id.is_empty() && found.iter().all(|path| path.is_absolute());
            let (id, why) = (&daemon.id, "its record has no name, socket or mountpoint");
            if !keep {
                warnings.push(format!("daemon {id:?} is left out: {why}"));
            }
            keep
        });
        instances.retain(|instance| {
            let known = daemons.iter().any(|daemon| daemon.id == instance.daemon_id);
            let keep = known && instance.snapshot_id.parse::<u64>().is_ok();
            // An image for guests has no daemon.
            if !keep && !instance.daemon_id.is_empty() {
                let why = "its record has no known daemon or no number of a snapshot";
                warnings.push(format!("image {:?} is left out: {why}", instance.snapshot_id));
            }
            keep
        });
    }
}

/// Where its snapshots are.
pub(super) fn metadata(root: &Path) -> PathBuf {
    root.join("metadata.db")
}

/// Numbers of the snapshots' directories.
pub(super) fn directories(layout: &Layout) -> Result<Vec<u64>, Error> {
    let path = layout.snapshots();
    let failed = |error| Error::File(path.clone(), error);
    let mut numbers = Vec::new();
    for entry in disk::entries(&path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|name| name.parse::<u64>().ok());
        numbers.extend(number.filter(|number| *number <= MOST));
    }
    Ok(numbers)
}
