//! The one resolver: what kind of root file system a snapshot has.
//!
//! Prepare, View and Mounts all ask here, with the snapshot's own labels and its chain of
//! parents, so that they can never disagree. The answer depends on nothing else.

use crate::labels::{
    IMAGE_REF, LAYER_DIGEST, Labels, NYDUS_BLOB, NYDUS_BOOTSTRAP, PROXY_MODE, SNAPSHOT_REF,
};

/// A committed parent, as far as the resolver looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Number of its directory.
    pub id: u64,
    /// Its name.
    pub key: String,
    /// Its labels.
    pub labels: Labels,
}

/// How images are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// By `nydusd` over FUSE, or not at all (`daemon_mode = none`).
    Fusedev,
    /// Pulled in the guest.
    Proxy,
}

/// What a new snapshot is for, decided from the request alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A layer that nobody unpacks: committed at once under the name that containerd asks for,
    /// with one more label where there is one.
    Skip(Option<&'static str>),
    /// A layer that containerd unpacks into a plain directory.
    Unpack,
    /// A container's root file system.
    Container,
}

/// The root file system that lies below a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rootfs {
    /// Plain directories of these snapshots, nearest first.
    Plain(Vec<u64>),
    /// A RAFS image with plain layers above it, nearest first.
    Nydus {
        /// The snapshot with the bootstrap.
        meta: Parent,
        /// Plain layers above it.
        above: Vec<u64>,
    },
    /// An image that is pulled in the guest.
    Guest {
        /// Labels that the guest's puller is told; `None` for an image it does not know.
        marked: Option<Labels>,
        /// All parents, nearest first.
        parents: Vec<u64>,
    },
}

/// A snapshot that cannot be what is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Guest pull needs to know the layer.
    #[error(
        "label {LAYER_DIGEST} is missing: guest pull needs the layer's digest: invalid argument"
    )]
    NoLayerDigest,
    /// A RAFS data layer alone is no file system.
    #[error(
        "parent is a nydus data layer: only the topmost layer of a nydus image can be used: failed precondition"
    )]
    DataLayer,
}

/// What a snapshot with these labels is for.
///
/// # Errors
/// A layer for guest pull without its digest.
pub fn purpose(own: &Labels, driver: Driver) -> Result<Purpose, Refused> {
    let has = |label| own.contains_key(label);
    match driver {
        _ if !has(SNAPSHOT_REF) => Ok(Purpose::Container),
        Driver::Proxy if own.get(LAYER_DIGEST).is_none_or(String::is_empty) => {
            Err(Refused::NoLayerDigest)
        }
        Driver::Proxy => Ok(Purpose::Skip(Some(PROXY_MODE))),
        Driver::Fusedev if has(NYDUS_BOOTSTRAP) => Ok(Purpose::Unpack),
        Driver::Fusedev if has(NYDUS_BLOB) => Ok(Purpose::Skip(None)),
        Driver::Fusedev => Ok(Purpose::Unpack),
    }
}

/// The root file system below a snapshot with labels `own` and these parents, nearest first.
///
/// # Errors
/// Parents that make no file system.
pub fn rootfs(own: &Labels, parents: &[Parent], driver: Driver) -> Result<Rootfs, Refused> {
    let plain = || Rootfs::Plain(ids(parents));
    if purpose(own, driver)? != Purpose::Container {
        return Ok(plain());
    }
    let Some(nearest) = parents.first() else { return Ok(plain()) };
    if driver == Driver::Proxy {
        return Ok(guest(nearest, parents));
    }
    let is_meta = |parent: &Parent| parent.labels.contains_key(NYDUS_BOOTSTRAP);
    match parents.iter().position(is_meta) {
        Some(at) => Ok(Rootfs::Nydus { meta: parents[at].clone(), above: ids(&parents[..at]) }),
        None if nearest.labels.contains_key(NYDUS_BLOB) => Err(Refused::DataLayer),
        None => Ok(plain()),
    }
}

fn guest(nearest: &Parent, parents: &[Parent]) -> Rootfs {
    if nearest.labels.contains_key(PROXY_MODE) {
        let marked = Some(nearest.labels.clone());
        return Rootfs::Guest { marked, parents: vec![nearest.id] };
    }
    // Unpacked by another snapshotter: its directories are there.
    if nearest.labels.contains_key(IMAGE_REF) {
        return Rootfs::Plain(ids(parents));
    }
    Rootfs::Guest { marked: None, parents: ids(parents) }
}

fn ids(parents: &[Parent]) -> Vec<u64> {
    parents.iter().map(|parent| parent.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(names: &[&str]) -> Labels {
        names.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect()
    }

    fn parent(id: u64, names: &[&str]) -> Parent {
        Parent { id, key: id.to_string(), labels: labels(names) }
    }

    #[test]
    fn purposes() {
        use Driver::{Fusedev, Proxy};
        let table: &[(&[&str], Driver, Result<Purpose, Refused>)] = &[
            (&[], Fusedev, Ok(Purpose::Container)),
            (&[NYDUS_BOOTSTRAP], Fusedev, Ok(Purpose::Container)),
            (&[SNAPSHOT_REF], Fusedev, Ok(Purpose::Unpack)),
            (&[SNAPSHOT_REF, NYDUS_BOOTSTRAP], Fusedev, Ok(Purpose::Unpack)),
            (&[SNAPSHOT_REF, NYDUS_BLOB], Fusedev, Ok(Purpose::Skip(None))),
            (&[], Proxy, Ok(Purpose::Container)),
            (&[SNAPSHOT_REF], Proxy, Err(Refused::NoLayerDigest)),
            (&[SNAPSHOT_REF, LAYER_DIGEST], Proxy, Ok(Purpose::Skip(Some(PROXY_MODE)))),
        ];
        for (own, driver, expected) in table {
            assert_eq!(purpose(&labels(own), *driver), *expected, "{own:?} {driver:?}");
        }
    }

    #[test]
    fn root_file_systems() {
        use Driver::{Fusedev, Proxy};
        let meta = parent(3, &[NYDUS_BOOTSTRAP]);
        let blob = parent(2, &[NYDUS_BLOB]);
        let plain = |ids: &[u64]| Ok(Rootfs::Plain(ids.to_vec()));
        let nydus = |above: &[u64]| {
            Ok(Rootfs::Nydus { meta: parent(3, &[NYDUS_BOOTSTRAP]), above: above.to_vec() })
        };
        type Row = (Vec<&'static str>, Vec<Parent>, Driver, Result<Rootfs, Refused>);
        let table: Vec<Row> = vec![
            (vec![], vec![], Fusedev, plain(&[])),
            (vec![], vec![parent(1, &[])], Fusedev, plain(&[1])),
            (vec![], vec![meta.clone(), blob.clone()], Fusedev, nydus(&[])),
            (
                vec![],
                vec![parent(5, &[]), parent(4, &[]), meta.clone(), blob.clone()],
                Fusedev,
                nydus(&[5, 4]),
            ),
            (vec![SNAPSHOT_REF], vec![meta.clone(), blob.clone()], Fusedev, plain(&[3, 2])),
            (vec![SNAPSHOT_REF, NYDUS_BOOTSTRAP], vec![blob.clone()], Fusedev, plain(&[2])),
            (vec![], vec![blob.clone()], Fusedev, Err(Refused::DataLayer)),
            (
                vec![],
                vec![parent(4, &[PROXY_MODE]), parent(3, &[])],
                Proxy,
                Ok(Rootfs::Guest { marked: Some(labels(&[PROXY_MODE])), parents: vec![4] }),
            ),
            (vec![], vec![parent(4, &[IMAGE_REF]), parent(3, &[])], Proxy, plain(&[4, 3])),
            (
                vec![],
                vec![parent(4, &[]), parent(3, &[])],
                Proxy,
                Ok(Rootfs::Guest { marked: None, parents: vec![4, 3] }),
            ),
        ];
        for (own, parents, driver, expected) in table {
            assert_eq!(rootfs(&labels(&own), &parents, driver), expected, "{own:?} {parents:?}");
        }
    }
}
