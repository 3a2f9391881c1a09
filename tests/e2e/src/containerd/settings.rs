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

/// config.toml for one of `VERSIONS`: the file that we hand out, and what a test needs.
pub(super) fn text(version: &str, directory: &Path, plugin: &Path, root: &Path) -> String {
    let text = match version {
        version if version < "containerd-2" => format!("{PACKAGED_1}{V2}"),
        version if version.ends_with("transfer") => format!("{}{V3}", for_transfer()),
        _ => format!("{PACKAGED_2}{V3}"),
    };
    let words = [
        ("version = 2\n", "version = 2\nDIRECTORIES"),
        ("version = 3\n", "version = 3\nDIRECTORIES"),
        ("DIRECTORIES", "root = \"DIRECTORY/root\"\nstate = \"DIRECTORY/state\"\n"),
        ("DIRECTORY", &directory.to_string_lossy()),
        ("/run/containerd-nydus/containerd-nydus-grpc.sock", &plugin.to_string_lossy()),
        ("/var/lib/containerd/io.containerd.snapshotter.v1.nydus", &root.to_string_lossy()),
    ];
    let fill = |text: String, (word, with): (&str, &str)| text.replace(word, with);
    words.into_iter().fold(format!("{text}{BOTH}"), fill)
}

const PACKAGED_1: &str = include_str!("../../../../packaging/containerd-1.toml");
const PACKAGED_2: &str = include_str!("../../../../packaging/containerd-2.toml");

/// Without what makes CRI pull by itself.
fn for_transfer() -> String {
    let own =
        |line: &&str| ["disable_", "discard_"].iter().any(|word| line.trim().starts_with(word));
    let kept = PACKAGED_2.lines().filter(|line| !own(line));
    kept.map(|line| format!("{line}\n")).collect()
}

/// Versions 1.6 and 1.7.
const V2: &str = r#"
[plugins."io.containerd.grpc.v1.cri".cni]
  conf_dir = "DIRECTORY/cni"
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "DIRECTORY/hosts"
"#;

/// Versions from 2.0 on.
const V3: &str = r#"
[plugins."io.containerd.cri.v1.runtime".cni]
  conf_dir = "DIRECTORY/cni"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "DIRECTORY/hosts"
"#;

const BOTH: &str = r#"
[plugins."io.containerd.internal.v1.opt"]
  path = "DIRECTORY/opt"
[grpc]
  address = "DIRECTORY/containerd.sock"
"#;
