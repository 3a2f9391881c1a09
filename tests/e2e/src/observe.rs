//! What a mount helper did: everything that the comparison with `mount(8)` calls hard.

pub use crate::stage::private_namespace;

use crate::mounts::{Mount, Overlay, mounts, statmount};
use crate::run::{Ran, run};
use crate::tree::tree;
use crate::vocabulary::{LAYERS, LONG_LAYERS, RAW_LAYER, long_layer};
use anyhow::Result;
use rustix::fs::XattrFlags;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount,
};
use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

/// What is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// Whether the helper exited with 0.
    pub mounted: bool,
    /// Lines of mountinfo that were not there before, without numbers.
    pub mounts: Vec<Mount>,
    /// The layers of the new mounts, below the directory of the case.
    pub layers: Vec<Overlay>,
    /// statmount(2) of the new mounts.
    pub statmount: Vec<Option<[u64; 4]>>,
    /// The merged tree.
    pub tree: Vec<String>,
    /// What creating a file in it says.
    pub writing: Vec<String>,
    /// What is left beside the target after unmounting.
    pub left: Vec<String>,
}

impl Observation {
    /// Each value that is not the same in `other`, one a line.
    pub fn differences(&self, other: &Self) -> String {
        [
            one("mounted", &self.mounted, &other.mounted),
            one("mounts", &self.mounts, &other.mounts),
            one("layers", &self.layers, &other.layers),
            one("statmount", &self.statmount, &other.statmount),
            one("tree", &only(&self.tree, &other.tree), &only(&other.tree, &self.tree)),
            one("writing", &self.writing, &other.writing),
            one("left", &only(&self.left, &other.left), &only(&other.left, &self.left)),
        ]
        .concat()
    }

    /// Without the form in which mountinfo shows the layers.
    pub fn without_form(mut self) -> Self {
        self.mounts.iter_mut().for_each(|mount| mount.superblock.clear());
        self
    }
}

fn one<T: Debug + PartialEq>(what: &str, ours: &T, theirs: &T) -> String {
    let width = what.len();
    let lines = || format!("  {what}: {ours:?}\n  {:width$}  not: {theirs:?}\n", "");
    if ours == theirs { String::new() } else { lines() }
}

/// Lines of `list` that `other` has not.
fn only<'a>(list: &'a [String], other: &[String]) -> Vec<&'a String> {
    list.iter().filter(|line| !other.contains(line)).collect()
}

/// A fresh tree for a command.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// The directory to mount it on.
    pub base: &'a Path,
    /// Whether its mount is shared.
    pub shared: bool,
    /// Whether names are as `plain` makes them. In the observation they always are.
    pub plain: bool,
}

/// `name` without what `mount(8)` cannot be told: a quote, and after a comma one of its words.
fn plain(name: &str) -> String {
    name.replace('"', "!").replace(",ro", "!ro")
}

/// Runs `command` in a fresh tree and looks at what it did.
///
/// # Errors
/// The tree cannot be made or looked at.
pub fn observe(scene: Scene<'_>, command: &mut Command) -> Result<(Observation, Ran)> {
    let base = scene.base;
    mount(c"case", base, c"tmpfs", MountFlags::empty(), c"mode=0755")?;
    if scene.shared {
        mount_change(base, MountPropagationFlags::SHARED)?;
    }
    let done = populate(scene).map(|()| look(scene, command));
    rustix::process::chdir("/")?;
    unmount(base, UnmountFlags::DETACH)?;
    done
}

/// Makes layers, upper and work directories, and makes `base` the working directory.
fn populate(scene: Scene<'_>) -> Result<()> {
    rustix::process::chdir(scene.base)?;
    let named = |name: &str| if scene.plain { plain(name) } else { name.to_owned() };
    let long: Vec<_> = (0..LONG_LAYERS).map(long_layer).collect();
    let layers = LAYERS.iter().map(|name| named(name)).chain(long);
    let raw = OsStr::from_bytes(RAW_LAYER).to_owned();
    for (number, name) in layers.map(OsString::from).chain([raw]).enumerate() {
        fs::create_dir_all(&name)?;
        fs::write(Path::new(&name).join(format!("from-{number}")), "")?;
        fs::write(Path::new(&name).join("same"), number.to_string())?;
    }
    for name in ["d1", "u", "u,2", "u:3", "u\"q", "w", "w:2", "u/in", "other", "m", "m/below"] {
        fs::create_dir(named(name))?;
    }
    chown("l1/same", Some(1), Some(2))?;
    fs::set_permissions("l1/same", PermissionsExt::from_mode(0o4755))?;
    rustix::fs::setxattr("l2/same", c"trusted.mark", b"here", XattrFlags::empty())?;
    symlink("m", "link")?;
    mount(c"other", "other", c"tmpfs", MountFlags::empty(), None)?;
    fs::create_dir("other/w")?;
    Ok(fs::write("file", "")?)
}

fn look(scene: Scene<'_>, command: &mut Command) -> (Observation, Ran) {
    let before = mounts();
    let ran = run(command);
    let fresh: Vec<_> = mounts().into_iter().filter(|mount| !before.contains(mount)).collect();
    let points: Vec<PathBuf> = fresh.iter().map(|mount| mount.point.clone()).collect();
    let write = |point: &PathBuf| match fs::write(point.join("written"), "") {
        Ok(()) => "ok".to_owned(),
        Err(error) => error.to_string(),
    };
    let mut seen = Observation {
        mounted: ran.ok(),
        layers: fresh.iter().map(|mount| below(scene, mount.overlay())).collect(),
        mounts: fresh.into_iter().map(|mount| Mount { id: 0, ..mount }).collect(),
        statmount: points.iter().map(|point| statmount(point)).collect(),
        tree: points.iter().flat_map(|point| tree(point)).collect(),
        writing: points.iter().map(write).collect(),
        left: vec![],
    };
    for point in points.iter().rev() {
        // One that was only changed may be in use.
        let _ = unmount(point, UnmountFlags::DETACH);
    }
    seen.left = tree(scene.base);
    for line in &mut seen.left {
        *line = plain(&line.replace("\\\"", "\""));
    }
    seen.left.sort();
    (seen, ran)
}

/// `layers` with the base and each `.` cut off.
fn below(scene: Scene<'_>, mut layers: Overlay) -> Overlay {
    let Overlay { lower, data, upper, work, .. } = &mut layers;
    for path in lower.iter_mut().chain(data).chain(upper).chain(work) {
        let rest = path.strip_prefix(scene.base).unwrap_or(path).components();
        let rest: PathBuf = rest.filter(|part| *part != Component::CurDir).collect();
        *path = match rest.to_str() {
            Some(text) => plain(text).into(),
            None => rest,
        };
    }
    layers
}
