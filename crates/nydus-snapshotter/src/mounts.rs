//! What Prepare, View and Mounts answer: pure functions from a resolved snapshot to mount
//! entries. For plain snapshots, byte for byte those of containerd's overlayfs snapshotter.

use crate::idmap::IdMap;
use crate::labels::{LAYER_DIGEST, Labels, PROXY_MODE, image_ref};
use crate::layout::Layout;
use nydus_mount_slice::{
    EncodeError, ExtraOption, FsVersion, KataVirtualVolume, Mount, Secret, VolumeMetadata,
};
use std::path::{Path, PathBuf};

/// Kind of a snapshot that can be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Written to, with an upper and a work directory.
    Active,
    /// Read only.
    View,
}

/// A snapshot that can be mounted.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Number of its directory.
    pub id: u64,
    /// Active or view.
    pub kind: Kind,
    /// Whether its overlay shall not be synced.
    pub volatile: bool,
    /// Mapping of the user namespace that its container has.
    pub map: Option<IdMap>,
}

/// What the host and the configuration add to overlay mounts.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Options for every plain overlay: `index=off`, `userxattr` where they are needed.
    pub options: Vec<String>,
    /// The type of slices that carry something, such as `fuse.nydus-overlayfs`.
    pub slice_type: String,
}

/// What a slice carries for a VM runtime beside the image's own parts.
#[derive(Clone, Debug)]
pub struct Lower {
    /// Where the image is mounted on the host, or the bare directory of its meta layer.
    pub lower: PathBuf,
    /// The image for a guest; `None` where the slice shall carry nothing.
    pub carried: Option<Carried>,
}

/// The guest's view of an image.
#[derive(Clone, Debug)]
pub struct Carried {
    /// Path of the bootstrap.
    pub bootstrap: PathBuf,
    /// `nydusd`'s configuration.
    pub config: Secret,
    /// RAFS version.
    pub version: FsVersion,
}

/// Mounts of a snapshot over plain directories, nearest parent first.
pub fn plain(layout: &Layout, host: &Host, snapshot: &Snapshot, parents: &[u64]) -> Mount {
    let mode = match snapshot.kind {
        Kind::Active => "rw",
        Kind::View => "ro",
    };
    match (snapshot.kind, parents) {
        (_, []) => bind(&layout.fs(snapshot.id), snapshot, mode),
        (Kind::View, [only]) => bind(&layout.fs(*only), snapshot, mode),
        _ => {
            let lower = parents.iter().map(|id| layout.fs(*id));
            let mut options = host.options.clone();
            options.extend(overlay_options(layout, snapshot, lower));
            Mount {
                fs_type: "overlay".into(),
                source: "overlay".into(),
                options,
                ..Mount::default()
            }
        }
    }
}

fn bind(source: &Path, snapshot: &Snapshot, mode: &str) -> Mount {
    let mut options = map_options(snapshot);
    options.extend([mode.to_owned(), "rbind".to_owned()]);
    Mount { fs_type: "bind".into(), source: text(source), options, ..Mount::default() }
}

/// They come first, as containerd's own snapshotter has them.
fn map_options(snapshot: &Snapshot) -> Vec<String> {
    snapshot.map.iter().flat_map(IdMap::options).collect()
}

fn overlay_options(
    layout: &Layout,
    snapshot: &Snapshot,
    lower: impl Iterator<Item = PathBuf>,
) -> Vec<String> {
    let mut options = map_options(snapshot);
    if snapshot.kind == Kind::Active {
        options.push(format!("workdir={}", text(&layout.work(snapshot.id))));
        options.push(format!("upperdir={}", text(&layout.fs(snapshot.id))));
        options.extend(snapshot.volatile.then(|| "volatile".to_owned()));
    }
    let lower: Vec<_> = lower.map(|path| text(&path)).collect();
    options.push(format!("lowerdir={}", lower.join(":")));
    options
}

/// Mounts of a snapshot over a RAFS image with plain layers above it, nearest first. Layers with
/// mapped owners are the helper's matter in any case: containerd would map the directory that they
/// have in common, with every other image's mount below it.
///
/// # Errors
/// A part of what is carried that no reader would accept.
pub fn nydus(
    layout: &Layout,
    host: &Host,
    snapshot: &Snapshot,
    above: &[u64],
    image: &Lower,
) -> Result<Mount, EncodeError> {
    let mut lower: Vec<_> = above.iter().map(|id| layout.fs(*id)).collect();
    lower.push(image.lower.clone());
    // One lower directory alone is no overlay: a view's own empty directory is the second.
    if snapshot.kind == Kind::View && lower.len() == 1 {
        lower.push(layout.fs(snapshot.id));
    }
    let options = overlay_options(layout, snapshot, lower.into_iter());
    let Some(carried) = &image.carried else {
        let mapped = snapshot.map.is_some();
        let fs_type = if mapped { host.slice_type.clone() } else { "overlay".into() };
        let source = "overlay".into();
        return Ok(Mount { fs_type, source, options, ..Mount::default() });
    };
    let extra = ExtraOption {
        source: text(&carried.bootstrap),
        config: carried.config.clone(),
        snapshotdir: text(&layout.snapshot(snapshot.id)),
        fs_version: Some(carried.version),
    };
    Ok(Mount { fs_type: host.slice_type.clone(), ..Mount::nydus(options, &extra)? })
}

/// Mounts of a snapshot over an image that is pulled in the guest.
///
/// # Errors
/// Labels that no reader would accept.
pub fn guest(
    layout: &Layout,
    host: &Host,
    snapshot: &Snapshot,
    parents: &[u64],
    marked: Option<&Labels>,
) -> Result<Mount, EncodeError> {
    let mut lower: Vec<_> = parents.iter().map(|id| layout.fs(*id)).collect();
    if lower.is_empty() {
        lower.push(layout.snapshots());
    }
    let mut options = overlay_options(layout, snapshot, lower.into_iter());
    options.push(guest_volume(marked).to_option()?);
    let (fs_type, source) = (host.slice_type.clone(), "overlay".into());
    Ok(Mount { fs_type, source, options, ..Mount::default() })
}

fn guest_volume(marked: Option<&Labels>) -> KataVirtualVolume {
    const UNKNOWN: &str = "dummy-image-reference";
    let told = marked.map(|labels| {
        let of = |name: &str| Some((name.to_owned(), labels.get(name)?.clone()));
        [LAYER_DIGEST, PROXY_MODE].into_iter().filter_map(of).collect::<Vec<_>>()
    });
    let source = marked.and_then(image_ref).unwrap_or(UNKNOWN);
    let told = told.unwrap_or_default();
    KataVirtualVolume {
        volume_type: "image_guest_pull".into(),
        source: source.into(),
        options: told.iter().map(|(name, value)| format!("{name}={value}").into()).collect(),
        image_pull: Some(VolumeMetadata {
            metadata: Some(told.into_iter().map(|(name, value)| (name, value.into())).collect()),
        }),
        ..KataVirtualVolume::default()
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::{IMAGE_REF, Labels};

    fn snapshot(kind: Kind) -> Snapshot {
        Snapshot { id: 9, kind, volatile: false, map: None }
    }

    fn host() -> Host {
        Host { options: vec!["index=off".into()], slice_type: "fuse.nydus-overlayfs".into() }
    }

    fn show(mount: &Mount) -> String {
        format!("{} {} [{}]", mount.fs_type, mount.source, mount.options.join(" "))
    }

    #[test]
    fn plain_mounts_are_those_of_containerd() {
        let table: &[(Kind, &[u64], &str)] = &[
            (Kind::Active, &[], "bind /r/snapshots/9/fs [rw rbind]"),
            (Kind::View, &[], "bind /r/snapshots/9/fs [ro rbind]"),
            (Kind::View, &[4], "bind /r/snapshots/4/fs [ro rbind]"),
            (
                Kind::Active,
                &[4, 3],
                "overlay overlay [index=off workdir=/r/snapshots/9/work \
                 upperdir=/r/snapshots/9/fs lowerdir=/r/snapshots/4/fs:/r/snapshots/3/fs]",
            ),
            (
                Kind::View,
                &[4, 3],
                "overlay overlay [index=off lowerdir=/r/snapshots/4/fs:/r/snapshots/3/fs]",
            ),
        ];
        for (kind, parents, expected) in table {
            let mount = plain(&Layout::new("/r"), &host(), &snapshot(*kind), parents);
            assert_eq!(show(&mount), *expected);
        }
    }

    #[test]
    fn nydus_mounts() {
        let carried = Carried {
            bootstrap: "/r/snapshots/3/fs/image/image.boot".into(),
            config: "{}".into(),
            version: FsVersion::V6,
        };
        let upper = "workdir=/r/snapshots/9/work upperdir=/r/snapshots/9/fs";
        type Row<'a> = (Kind, &'a [u64], Option<Carried>, String);
        let table: &[Row<'_>] = &[
            (Kind::Active, &[], None, format!("overlay overlay [{upper} lowerdir=/m]")),
            (Kind::View, &[], None, "overlay overlay [lowerdir=/m:/r/snapshots/9/fs]".into()),
            (
                Kind::Active,
                &[5, 4],
                None,
                format!(
                    "overlay overlay [{upper} lowerdir=/r/snapshots/5/fs:/r/snapshots/4/fs:/m]"
                ),
            ),
            (
                Kind::Active,
                &[],
                Some(carried),
                format!("fuse.nydus-overlayfs overlay [{upper} lowerdir=/m EXTRA]"),
            ),
        ];
        for (kind, above, carried, expected) in table {
            let image = Lower { lower: "/m".into(), carried: carried.clone() };
            let layout = Layout::new("/r");
            let mut mount = nydus(&layout, &host(), &snapshot(*kind), above, &image).unwrap();
            if carried.is_some() {
                let extra = ExtraOption::from_options(&mount.options).unwrap();
                assert!(extra.findings.is_empty());
                assert_eq!(extra.value.snapshotdir, "/r/snapshots/9");
                *mount.options.last_mut().unwrap() = "EXTRA".into();
            }
            assert_eq!(show(&mount), *expected);
        }
    }

    #[test]
    fn mapped_owners() {
        let labels = ["containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping"];
        let labels = labels.map(|name| (name.to_owned(), "0:9:1".to_owned()));
        let map = IdMap::of(&labels.into()).unwrap();
        let (layout, host) = (Layout::new("/r"), host());
        let image = Lower { lower: "/m".into(), carried: None };
        let maps = "uidmap=0:9:1 gidmap=0:9:1";
        let upper = "workdir=/r/snapshots/9/work upperdir=/r/snapshots/9/fs";
        for (kind, above, expected) in [
            (Kind::Active, None, format!("bind /r/snapshots/9/fs [{maps} rw rbind]")),
            (Kind::View, Some(4), format!("bind /r/snapshots/4/fs [{maps} ro rbind]")),
            (
                Kind::Active,
                Some(4),
                format!("overlay overlay [index=off {maps} {upper} lowerdir=/r/snapshots/4/fs]"),
            ),
        ] {
            let snapshot = Snapshot { map: map.clone(), ..snapshot(kind) };
            let mount = plain(&layout, &host, &snapshot, above.as_slice());
            assert_eq!(show(&mount), expected);
        }
        let snapshot = Snapshot { map, ..snapshot(Kind::Active) };
        let mount = nydus(&layout, &host, &snapshot, &[], &image).unwrap();
        let expected = format!("fuse.nydus-overlayfs overlay [{maps} {upper} lowerdir=/m]");
        assert_eq!(show(&mount), expected);
    }

    #[test]
    fn guest_mounts_carry_one_volume() {
        let mark = |names: &[(&str, &str)]| {
            let labels: Labels =
                names.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            labels
        };
        let digest = (LAYER_DIGEST, "sha256:aa");
        let table: &[(Option<Labels>, &str, &[&str])] = &[
            (None, "dummy-image-reference", &[]),
            (
                Some(mark(&[digest, (PROXY_MODE, "true"), (IMAGE_REF, "reg/img:1")])),
                "reg/img:1",
                &[
                    "containerd.io/snapshot/cri.layer-digest=sha256:aa",
                    "containerd.io/snapshot/nydus-proxy-mode=true",
                ],
            ),
        ];
        for (marked, source, told) in table {
            let active = snapshot(Kind::Active);
            let layout = Layout::new("/r");
            let mount = guest(&layout, &host(), &active, &[4], marked.as_ref()).unwrap();
            let volumes = KataVirtualVolume::from_options(&mount.options);
            let volume = &volumes[0].as_ref().unwrap().value;
            assert_eq!(volume.source, *source);
            let options: Vec<_> = volume.options.iter().map(Secret::expose).collect();
            assert_eq!(options, *told);
        }
    }
}
