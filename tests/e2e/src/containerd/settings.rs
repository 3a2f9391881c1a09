//! What containerd finds when it starts.

use crate::programs::{self, tool};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// A directory of what containerd looks for in its PATH. Where the version ends with `front`,
/// `mount.fuse` is ours, and there is no other helper.
pub(super) fn links(directory: &Path, version: &str) -> Option<String> {
    let bin = directory.join("bin");
    fs::create_dir_all(&bin).expect("a directory");
    let helper = programs::ours("nydus-overlayfs");
    let is_front = version.ends_with("front");
    let fuse = if is_front { helper.clone() } else { programs::mount_fuse3()? };
    for (name, program) in [
        ("runc", tool("runc/usr/sbin/runc")?),
        ("mount.fuse", fuse.clone()),
        ("mount.fuse3", fuse),
        (if is_front { "unused" } else { "nydus-overlayfs" }, helper),
    ] {
        symlink(fs::canonicalize(program).expect(name), bin.join(name)).expect(name);
    }
    Some(bin.display().to_string())
}

/// config.toml for one of `VERSIONS`.
pub(super) fn text(version: &str, directory: &Path, plugin: &Path, root: &Path) -> String {
    let text = match version {
        version if version < "containerd-2" => V2.to_owned(),
        version if version.ends_with("transfer") => format!("{V3}{TRANSFER}"),
        _ => format!("{V3}{LOCAL}"),
    };
    let maps = if version < "containerd-2" { "" } else { MAPS };
    let paths = [("DIRECTORY", directory), ("PLUGIN", plugin), ("EXPORTED", root)];
    let fill =
        |text: String, (word, path): (&str, &Path)| text.replace(word, &path.to_string_lossy());
    let text = text + &BOTH.replace("MAPS", maps);
    paths.into_iter().fold(text, fill)
}

/// Versions 1.6 and 1.7.
const V2: &str = r#"version = 2
root = "DIRECTORY/root"
state = "DIRECTORY/state"
[plugins."io.containerd.internal.v1.opt"]
  path = "DIRECTORY/opt"
[plugins."io.containerd.grpc.v1.cri".cni]
  conf_dir = "DIRECTORY/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "nydus"
  disable_snapshot_annotations = false
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "DIRECTORY/hosts"
"#;

/// Versions from 2.0 on.
const V3: &str = r#"version = 3
root = "DIRECTORY/root"
state = "DIRECTORY/state"
[plugins."io.containerd.internal.v1.opt"]
  path = "DIRECTORY/opt"
[plugins."io.containerd.cri.v1.runtime".cni]
  conf_dir = "DIRECTORY/cni"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "DIRECTORY/hosts"
"#;

/// CRI pulls by itself: a word about annotations is enough for that.
const LOCAL: &str = r#"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "nydus"
  disable_snapshot_annotations = false
"#;

/// The transfer service pulls, as it does by default since 2.1.
const TRANSFER: &str = r#"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "nydus"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = "nydus"
"#;

/// The snapshotter maps owners: else containerd makes a copy of the image for each mapping.
const MAPS: &str = "  capabilities = [\"remap-ids\"]\n";

const BOTH: &str = r#"
[grpc]
  address = "DIRECTORY/containerd.sock"
[proxy_plugins.nydus]
  type = "snapshot"
  address = "PLUGIN"
MAPS[proxy_plugins.nydus.exports]
  root = "EXPORTED"
  enable_remote_snapshot_annotations = "true"
"#;
