//! The slice, as both runtimes read it.

use crate::{Error, Result, check};
use nydus_mount_slice::{ExtraOption, Finding, FsVersion, Mount, Reader, Reason, Secret};
use nydusd_client::bootstrap;
use std::path::{Path, PathBuf};

/// A container's root file system: an image and a snapshot to write to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rootfs {
    /// The image's bootstrap.
    pub bootstrap: String,
    /// `nydusd`'s configuration for it.
    pub config: Secret,
    /// Directory of the snapshot, with `fs` and `work` in it.
    pub snapshotdir: PathBuf,
    /// Layout of the bootstrap.
    pub version: FsVersion,
}

impl Rootfs {
    /// The root file system of the entries that containerd hands to a runtime. `reader` is the
    /// runtime whose rules for the mount type count; the payload must be one that both take, but
    /// for a missing `fs_version`, which the bootstrap itself tells.
    ///
    /// # Errors
    /// What was found, and what was expected. Nothing is made.
    pub fn recognise(mounts: &[Mount], reader: Reader) -> Result<Self> {
        let [mount] = mounts else { return Err(Error::Entries(mounts.len())) };
        if !reader.takes_type(&mount.fs_type) {
            return Err(Error::Type(mount.fs_type.clone(), reader));
        }
        let decoded = ExtraOption::from_options(&mount.options)?;
        let harmless = Finding::Refuses(Reader::Rust, Reason::Missing("fs_version"));
        if let Some(finding) = decoded.findings.into_iter().find(|finding| *finding != harmless) {
            return Err(Error::Disputed(finding));
        }
        let ExtraOption { source, config, snapshotdir, fs_version } = decoded.value;
        for (field, path) in [("source", &source), ("snapshotdir", &snapshotdir)] {
            if !check::is_plain(Path::new(path)) {
                return Err(Error::Path(field, path.clone()));
            }
        }
        let is = bootstrap::version(Path::new(&source))?;
        match fs_version {
            Some(says) if says != is => Err(Error::Version { path: source.into(), is, says }),
            _ => {
                let snapshotdir = snapshotdir.into();
                Ok(Self { bootstrap: source, config, snapshotdir, version: is })
            }
        }
    }

    /// Finds what would fail in `nydusd` or in the guest: a configuration that it refuses, a
    /// directory that is missing, a file system that cannot be written through overlayfs. Makes
    /// and removes a file in `work`, and nothing else.
    ///
    /// # Errors
    /// The first that is found.
    pub fn check(&self) -> Result<()> {
        check::config(self.config.expose(), self.version)?;
        check::snapshot(&self.snapshotdir)
    }
}
