//! What the guest's agent is told to mount (`Storage` of Kata's agent protocol).

use nydus_mount_slice::Reader;
use serde::Serialize;

/// Where the guest mounts the share.
pub const GUEST_SHARE: &str = "/run/kata-containers/shared";
/// The share's tag on the virtual machine's bus.
pub const TAG: &str = "kataShared";

/// One mount in the guest. Its JSON has Kata's names and order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Storage {
    /// Which handler of the agent makes it.
    pub driver: String,
    /// For that handler.
    pub driver_options: Vec<String>,
    /// What is mounted.
    pub source: String,
    /// File system type.
    pub fs_type: String,
    /// Where in the guest; for a container this is its root.
    pub mount_point: String,
    /// Mount options.
    pub options: Vec<String>,
}

impl Storage {
    /// The share, to be mounted once when the guest starts.
    pub fn share(reader: Reader) -> Self {
        let options = match reader {
            Reader::Go => vec![],
            Reader::Rust => vec!["nodev".to_owned()],
        };
        Self {
            driver: "virtio-fs".to_owned(),
            driver_options: vec![],
            source: TAG.to_owned(),
            fs_type: "virtiofs".to_owned(),
            mount_point: format!("{GUEST_SHARE}/"),
            options,
        }
    }

    /// The root of a container; the same for both runtimes.
    pub fn rootfs(cid: &str) -> Self {
        let container = format!("{GUEST_SHARE}/containers/{cid}");
        let snapshot = format!("{container}/snapshotdir");
        Self {
            driver: "overlayfs".to_owned(),
            driver_options: vec![],
            source: "overlay".to_owned(),
            fs_type: "overlay".to_owned(),
            mount_point: format!("{container}/rootfs"),
            options: vec![
                format!("upperdir={snapshot}/fs"),
                format!("workdir={snapshot}/work"),
                format!("lowerdir={GUEST_SHARE}{}", lower(cid)),
                // Whatever the guest's kernel does by default: an upper directory with an index
                // is refused over another lower one, and what metacopy leaves there for a file
                // of which only the mode changed cannot be read on a host without it.
                "index=off".to_owned(),
                "metacopy=off".to_owned(),
            ],
        }
    }
}

/// Where `nydusd` serves the image of a container, as its API names it.
pub(crate) fn lower(cid: &str) -> String {
    format!("/rafs/{cid}/lowerdir")
}
