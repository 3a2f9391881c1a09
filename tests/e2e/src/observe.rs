//! What a mount helper did: everything that the comparison with `mount(8)` calls hard.

use crate::generate::{LAYERS, LONG_LAYERS, RAW_LAYER, long_layer};
use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// Whether the helper exited with 0.
    pub mounted: bool,
    /// The new lines of mountinfo, without ids.
    pub mounts: Vec<String>,
    /// statmount(2): superblock magic and flags, attributes and propagation of the mount.
    pub statmount: Option<[u64; 4]>,
    /// The merged tree: type and mode, owner, path, contents.
    pub tree: Vec<String>,
    /// What creating a file in it says.
    pub writing: String,
    /// What is left beside the target after unmounting.
    pub left: Vec<String>,
}

impl Observation {
    /// Each value that is not the same in `other`, one a line.
    pub fn differences(&self, other: &Self) -> String {
        let one = |what: &str, ours: &dyn Debug, theirs: &dyn Debug| {
            let (ours, theirs) = (format!("{ours:?}"), format!("{theirs:?}"));
            let line = format!("  {what}: {ours}\n  {}  not: {theirs}\n", " ".repeat(what.len()));
            if ours == theirs { String::new() } else { line }
        };
        [
            one("mounted", &self.mounted, &other.mounted),
            one("mounts", &self.mounts, &other.mounts),
            one("statmount", &self.statmount, &other.statmount),
            one("tree", &self.tree, &other.tree),
            one("writing", &self.writing, &other.writing),
            one("left", &self.left, &other.left),
        ]
        .concat()
    }
}

/// Moves this thread into a mount namespace of its own.
///
/// # Errors
/// No privilege to do so.
pub fn private_namespace() -> Result<()> {
    // SAFETY: a mount namespace of its own does not touch the memory or files of other threads.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
        .context("cannot unshare the mount namespace: root or a user namespace is needed")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).context("cannot make / private")
}

/// Runs `command` in a fresh tree at `base` and looks at what it did to the directory `base/m`.
///
/// # Errors
/// The tree cannot be made or looked at.
pub fn observe(base: &Path, command: &mut Command) -> Result<(Observation, Output)> {
    rustix::mount::mount(c"case", base, c"tmpfs", MountFlags::empty(), c"mode=0755")?;
    let done = populate(base).and_then(|()| look(base, command));
    rustix::process::chdir("/")?;
    rustix::mount::unmount(base, UnmountFlags::DETACH)?;
    done
}

fn populate(base: &Path) -> Result<()> {
    rustix::process::chdir(base)?;
    let long: Vec<_> = (0..LONG_LAYERS).map(long_layer).collect();
    let layers = LAYERS.iter().copied().chain(long.iter().map(String::as_str));
    let names = layers.map(OsStr::new).chain([OsStr::from_bytes(RAW_LAYER)]);
    for (number, name) in names.enumerate() {
        fs::create_dir_all(name)?;
        fs::write(Path::new(name).join(format!("from-{number}")), "")?;
        fs::write(Path::new(name).join("same"), number.to_string())?;
    }
    for name in ["d1", "u", "u,2", "w", "w:2", "u/in", "other", "m", "m/below"] {
        fs::create_dir(name)?;
    }
    rustix::mount::mount(c"other", "other", c"tmpfs", MountFlags::empty(), None)?;
    fs::create_dir("other/w")?;
    Ok(fs::write("file", "")?)
}

fn look(base: &Path, command: &mut Command) -> Result<(Observation, Output)> {
    let before = mountinfo()?;
    let output = command.stdin(Stdio::null()).output().context("cannot run the helper")?;
    let after = mountinfo()?;
    let fresh = after.into_iter().filter(|line| !before.contains(line));
    let mut seen = Observation {
        mounted: output.status.success(),
        mounts: fresh.map(|line| without_ids(&line)).collect(),
        ..Observation::default()
    };
    let target = base.join("m");
    if !seen.mounts.is_empty() {
        seen.statmount = statmount(&target);
        seen.tree = tree(&target);
        seen.writing = match fs::write(target.join("written"), "") {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.to_string(),
        };
    }
    while rustix::mount::unmount(&target, UnmountFlags::DETACH).is_ok() {}
    seen.left = tree(base);
    Ok((seen, output))
}

fn mountinfo() -> Result<Vec<Vec<u8>>> {
    let text = fs::read("/proc/thread-self/mountinfo")?;
    Ok(text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect())
}

/// Root, mount point, options, propagation without peer groups, type, source, superblock options.
fn without_ids(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let kept = text.split(' ').skip(3).map(|field| match field.split_once(':') {
        Some((kind @ ("shared" | "master" | "propagate_from"), _)) => kind,
        _ => field,
    });
    kept.collect::<Vec<_>>().join(" ")
}

/// A line for each file below `root`, sorted; what cannot be read is said in its line.
fn tree(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    add_tree(root, &mut Vec::new(), &mut lines);
    lines.sort();
    lines
}

fn add_tree(directory: &Path, name: &mut Vec<u8>, lines: &mut Vec<String>) {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return lines.push(format!("{} {error}", name.escape_ascii())),
    };
    for entry in entries.flatten() {
        let (path, length) = (entry.path(), name.len());
        name.push(b'/');
        name.extend(entry.file_name().as_bytes());
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let contents = if meta.is_file() { fs::read(&path).unwrap_or_default() } else { vec![] };
        let (mode, uid, gid) = (meta.mode(), meta.uid(), meta.gid());
        let (shown, contents) = (name.escape_ascii(), contents.escape_ascii());
        lines.push(format!("{mode:o} {uid}:{gid} {shown} {contents}"));
        if meta.is_dir() {
            add_tree(&path, name, lines);
        }
        name.truncate(length);
    }
}

/// statmount(2) of the mount at `target`: sb_magic, sb_flags, mnt_attr, mnt_propagation.
/// `None` before Linux 6.8.
fn statmount(target: &Path) -> Option<[u64; 4]> {
    const STATMOUNT: libc::c_long = 457;
    const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
    const SB_BASIC_AND_MNT_BASIC: u64 = 1 | 2;
    let unique = StatxFlags::from_bits_retain(STATX_MNT_ID_UNIQUE);
    let id = rustix::fs::statx(CWD, target, AtFlags::empty(), unique).ok()?.stx_mnt_id;
    // struct mnt_id_req { u32 size, spare; u64 mnt_id, param; }
    let request: [u64; 3] = [24, id, SB_BASIC_AND_MNT_BASIC];
    let mut reply = [0_u64; 64];
    // SAFETY: both buffers are as long as the kernel is told, and live through the call.
    let done = unsafe {
        libc::syscall(STATMOUNT, request.as_ptr(), reply.as_mut_ptr(), size_of_val(&reply), 0)
    };
    // struct statmount: sb_magic at 24, sb_flags at 32, mnt_attr at 64, mnt_propagation at 72.
    (done == 0).then(|| [reply[3], reply[4] & 0xffff_ffff, reply[8], reply[9]])
}
