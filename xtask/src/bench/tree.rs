//! The directories that are mounted, with the paths that a snapshotter would use.

use crate::stage::Stage;
use anyhow::Result;
use nydus_mount_slice::{ExtraOption, FsVersion};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// How a program is given the layers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// Full paths, as a snapshotter gives them, with a carried option behind.
    Slice,
    /// The same without the carried option.
    Full,
    /// Links of three letters to the full paths, so that 500 layers fit one mount(2): the kernel
    /// walks the same paths, the rest of the difference is the way of mounting.
    Links,
    /// Names relative to the snapshots' directory: fits too, and the kernel walks less.
    Relative,
}

pub(super) struct Tree {
    pub(super) target: PathBuf,
    snapshots: PathBuf,
    links: PathBuf,
}

impl Tree {
    /// `layers` lower layers, 1 the lowest, with a file each, and 0 for upper and work.
    pub(super) fn new(stage: &Stage, layers: usize) -> Result<Self> {
        let snapshots = "var/lib/containerd/io.containerd.snapshotter.v1.nydus/snapshots";
        let (target, links) = (stage.dir("merged")?, stage.dir("l")?);
        let tree = Self { target, snapshots: stage.dir(snapshots)?, links };
        for layer in 0..=layers {
            let dir = tree.snapshots.join(layer.to_string()).join("fs");
            fs::create_dir_all(&dir)?;
            fs::write(dir.join(format!("file-{layer}")), "")?;
            symlink(&dir, tree.links.join(layer.to_string()))?;
        }
        fs::create_dir_all(tree.snapshots.join("0/work"))?;
        Ok(tree)
    }

    /// The directory from which the names are meant.
    pub(super) fn cwd(&self, names: Names) -> &PathBuf {
        if names == Names::Links { &self.links } else { &self.snapshots }
    }

    /// The options as a slice has them.
    pub(super) fn options(&self, layers: usize, names: Names) -> Vec<String> {
        let snapshots = self.snapshots.display();
        let name = |layer: usize| match names {
            Names::Slice | Names::Full => format!("{snapshots}/{layer}/fs"),
            Names::Links => layer.to_string(),
            Names::Relative => format!("{layer}/fs"),
        };
        let lowers = (1..=layers).rev().map(name).collect::<Vec<_>>().join(":");
        let mut options = vec![
            format!("lowerdir={lowers}"),
            format!("upperdir={snapshots}/0/fs"),
            format!("workdir={snapshots}/0/work"),
        ];
        options.extend((names == Names::Slice).then(carried));
        options
    }
}

/// The option that Kata would read.
fn carried() -> String {
    let extra = ExtraOption {
        source: "/var/lib/nydus/image.boot".to_owned(),
        config: r#"{"device":{"backend":{"type":"registry","config":{}}}}"#.into(),
        snapshotdir: "/var/lib/nydus/snapshots/1".to_owned(),
        fs_version: Some(FsVersion::V6),
    };
    extra.to_option().expect("every field is set")
}
