//! What the tests have in common.

use containerd_proto::snapshots as proto;
use nydus_e2e::{bare, service};
use nydus_mount_slice::Mount;
use std::fs;
use std::path::Path;

/// The slice that our snapshotter makes for a new container of its image.
pub(crate) fn prepared(node: &bare::Node, key: &str) -> (proto::Mount, Mount) {
    let entry = node.container(key, &node.unpack());
    let proto::Mount { r#type: fs_type, source, target, options } = entry.clone();
    (entry, Mount { fs_type, source, target, options })
}

/// Processes of this program that name this place.
pub(crate) fn named(place: &Path, program: &str) -> Vec<rustix::process::Pid> {
    let is = |pid: &rustix::process::Pid| {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_pid()));
        let line = line.unwrap_or_default();
        let name = Path::new(line.split('\0').next().unwrap_or_default()).file_name();
        name.is_some_and(|name| name.to_string_lossy().starts_with(program))
    };
    service::naming(place).into_iter().filter(is).collect()
}
