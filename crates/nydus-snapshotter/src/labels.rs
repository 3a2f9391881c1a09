//! Labels that containerd and image builders put on snapshots.

use std::collections::BTreeMap;

/// Labels of a snapshot, by name.
pub type Labels = BTreeMap<String, String>;

/// containerd asks for the unpacked layer under this name (its chain id).
pub const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";
/// The image's reference, as it was pulled.
pub const IMAGE_REF: &str = "containerd.io/snapshot/cri.image-ref";
/// Fallback for the image's reference (buildkit).
pub const STARGZ_REF: &str = "containerd.io/snapshot/remote/stargz.reference";
/// Digest of the layer.
pub const LAYER_DIGEST: &str = "containerd.io/snapshot/cri.layer-digest";
/// Marks a RAFS data layer.
pub const NYDUS_BLOB: &str = "containerd.io/snapshot/nydus-blob";
/// Marks a RAFS meta layer, which holds the bootstrap.
pub const NYDUS_BOOTSTRAP: &str = "containerd.io/snapshot/nydus-bootstrap";
/// Marks a layer that is pulled in the guest.
pub const PROXY_MODE: &str = "containerd.io/snapshot/nydus-proxy-mode";
/// Asks for a `volatile` overlay.
pub const VOLATILE: &str = "containerd.io/snapshot/overlay.volatile";
/// How users of a container's user namespace are mapped: `CONTAINER:HOST:LENGTH[,...]`.
pub const UID_MAPPING: &str = "containerd.io/snapshot/uidmapping";
/// The same for groups.
pub const GID_MAPPING: &str = "containerd.io/snapshot/gidmapping";
/// Registry user, from the client.
pub const PULL_USER: &str = "containerd.io/snapshot/pullusername";
/// Registry password, from the client.
pub const PULL_SECRET: &str = "containerd.io/snapshot/pullsecret";

/// The image's reference, if a label tells.
pub fn image_ref(labels: &Labels) -> Option<&str> {
    let text = labels.get(IMAGE_REF).or_else(|| labels.get(STARGZ_REF))?;
    Some(text.as_str()).filter(|text| !text.is_empty())
}
