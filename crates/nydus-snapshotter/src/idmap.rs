//! User namespaces: how a container's ids become the host's, as labels tell it.

use crate::labels::{GID_MAPPING, Labels, UID_MAPPING};
use std::path::Path;

/// The mapping of a container's snapshot, in the labels' own words: `CONTAINER:HOST:LENGTH`, and
/// more of these after commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap {
    uid: String,
    gid: String,
    root: (u32, u32),
}

/// Labels that are no mapping.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// One without the other.
    #[error("label {0} is missing: users and groups are mapped together: invalid argument")]
    Half(&'static str),
    /// Not of the form, or without an id for root.
    #[error(
        "label {0}={1:?}: expected CONTAINER:HOST:LENGTH[,...] with an id for 0: invalid argument"
    )]
    Malformed(&'static str, String),
}

impl IdMap {
    /// What the labels say; `None` if they say nothing.
    ///
    /// # Errors
    /// Labels that are no mapping.
    pub fn of(labels: &Labels) -> Result<Option<Self>, Error> {
        let (uid, gid) = match (labels.get(UID_MAPPING), labels.get(GID_MAPPING)) {
            (None, None) => return Ok(None),
            (Some(_), None) => return Err(Error::Half(GID_MAPPING)),
            (None, Some(_)) => return Err(Error::Half(UID_MAPPING)),
            (Some(uid), Some(gid)) => (uid.clone(), gid.clone()),
        };
        let root = |label, text: &String| {
            let host = host_of_root(text);
            host.ok_or_else(|| Error::Malformed(label, text.clone()))
        };
        let root = (root(UID_MAPPING, &uid)?, root(GID_MAPPING, &gid)?);
        Ok(Some(Self { uid, gid, root }))
    }

    /// The host's ids of the container's root.
    pub fn root(&self) -> (u32, u32) {
        self.root
    }

    /// What a mount is told, in the order of containerd's own snapshotter.
    pub fn options(&self) -> [String; 2] {
        [format!("uidmap={}", self.uid), format!("gidmap={}", self.gid)]
    }

    /// Gives a directory to the container's root.
    ///
    /// # Errors
    /// It is not there, and the like.
    pub fn own(&self, directory: &Path) -> std::io::Result<()> {
        std::os::unix::fs::chown(directory, Some(self.root.0), Some(self.root.1))
    }
}

fn host_of_root(text: &str) -> Option<u32> {
    let mut root = None;
    for range in text.split(',') {
        let mut numbers = range.split(':').map(|number| {
            number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse::<u32>().ok())?
        });
        let (inside, host, length) = (numbers.next()??, numbers.next()??, numbers.next()??);
        if numbers.next().is_some() || length == 0 {
            return None;
        }
        root = root.or((inside == 0).then_some(host));
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_mappings() {
        let table = [
            (None, None, Ok(None)),
            (Some("0:100000:65536"), Some("0:200000:65536"), Ok(Some((100_000, 200_000)))),
            (Some("1:5:9,0:7:1"), Some("0:0:4294967295"), Ok(Some((7, 0)))),
            (Some("0:1:1"), None, Err("gidmapping is missing")),
            (None, Some("0:1:1"), Err("uidmapping is missing")),
            (Some("1:5:9"), Some("0:1:1"), Err("uidmapping=\"1:5:9\": expected")),
            (Some("0:1:1"), Some("0:1"), Err("gidmapping=\"0:1\": expected")),
            (Some("0:1:0"), Some("0:1:1"), Err("expected")),
            (Some("0:1:1:1"), Some("0:1:1"), Err("expected")),
            (Some("0:+1:1"), Some("0:1:1"), Err("expected")),
            (Some("0:1:1,"), Some("0:1:1"), Err("expected")),
        ];
        for (uid, gid, expected) in table {
            let both = [(UID_MAPPING, uid), (GID_MAPPING, gid)];
            let labels = both
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
            match (IdMap::of(&labels.collect()), expected) {
                (Ok(map), Ok(root)) => assert_eq!(map.map(|map| map.root()), root),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (found, _) => panic!("{uid:?} {gid:?}: {found:?}"),
            }
        }
    }
}
