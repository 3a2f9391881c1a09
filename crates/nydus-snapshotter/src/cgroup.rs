//! The control group of all daemons: outside our unit's, so that they outlive it, and with a
//! limit of their own.

use crate::config::Memory;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

const GROUP: &str = "nydusd";
/// cgroups(7): version 2 has this file in its root, version 1 has controllers' directories.
const UNIFIED: &str = "/sys/fs/cgroup/cgroup.controllers";

/// Makes the group, or takes the one that is there, and sets its limit.
///
/// # Errors
/// The group cannot be made, or does not take the limit.
pub fn make(memory: &Memory) -> Result<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let unified = Path::new(UNIFIED).exists();
    let (parent, file, unlimited) = match unified {
        true => (root.to_owned(), "memory.max", "max"),
        false => (root.join("memory"), "memory.limit_in_bytes", "-1"),
    };
    if unified {
        // Refused where a manager has done so already, or does not let us; the limit then tells.
        let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
    }
    let group = parent.join(GROUP);
    let shown = group.display();
    fs::create_dir_all(&group).with_context(|| format!("cannot make control group {shown}"))?;
    let limit =
        memory.bytes(total_memory()).map_or(unlimited.to_owned(), |bytes| bytes.to_string());
    let set = fs::write(group.join(file), &limit);
    if limit != unlimited {
        set.with_context(|| format!("cannot set {file} of control group {shown} to {limit}"))?;
    }
    Ok(group)
}

/// Bytes of memory of this machine.
fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}
