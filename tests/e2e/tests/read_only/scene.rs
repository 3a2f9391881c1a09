//! Layers, an overlay of them that is written to, and a second mount beside it.

use nydus_e2e::mounts::{Mount, mount_at};
use nydus_e2e::programs::{self, BUILDS};
use nydus_e2e::run::{Ran, run};
use nydus_e2e::stage::Stage;
use nydus_e2e::tree::tree;
use rustix::fs::XattrFlags;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};

/// What is called as `mount.fuse3`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// fuse3's, which runs this build of the helper.
    Behind(&'static str),
    /// This build itself.
    Front(&'static str),
}

/// Each way; those that need fuse3 are reported as not run without it.
pub(crate) fn ways() -> Vec<Way> {
    let mut ways: Vec<_> = BUILDS.map(Way::Front).into();
    match programs::mount_fuse3() {
        Some(_) => ways.extend(BUILDS.map(Way::Behind)),
        None => nydus_e2e::not_run!("through mount.fuse3: no fuse3"),
    }
    ways
}

/// Layers, and where they are mounted: `t`, and for the second mount `look`.
pub(crate) struct Scene {
    pub(crate) stage: Stage,
    path: String,
}

/// Endings of the names of upper and work directories.
const UPPER: [&str; 3] = ["", ":c,m", "\\b"];

impl Scene {
    /// Fresh layers `l1`, `l:2` and, of data only, `d1`.
    pub(crate) fn new(way: Way) -> Self {
        let stage = Stage::with(&["bin", "t", "look", "l1/dir", "l1/kept", "l1/old", "l:2", "d1"]);
        for (name, text) in [
            ("l1/copied", "lower"),
            ("l1/one", "lower"),
            ("l1/gone", "lower"),
            ("l1/two", "lower"),
            ("l1/dir/file", "lower"),
            ("l1/kept/file", "lower"),
            ("l1/old/file", "lower"),
            ("l1/emptied/file", "lower"),
            ("l:2/two", "lower"),
            ("d1/blob", "in a data-only layer"),
        ] {
            let file = stage.join(name);
            fs::create_dir_all(file.parent().expect("a directory")).expect(name);
            fs::write(file, text).expect(name);
        }
        for path in ["l1/copied", "l1/one", "l1/dir/file"] {
            chown(stage.join(path), Some(5), Some(6)).expect("an owner");
        }
        for (name, end) in ["u", "w"].into_iter().flat_map(|name| UPPER.map(|end| (name, end))) {
            let directory = stage.join(format!("{name}{end}"));
            fs::create_dir(&directory).expect("a directory");
            chown(directory, Some(100_000), Some(100_000)).expect("an owner");
        }
        let (Way::Behind(build) | Way::Front(build)) = way;
        let helper = programs::ours(build);
        let fuse = match way {
            Way::Behind(_) => programs::mount_fuse3().expect("fuse3"),
            Way::Front(_) => helper.clone(),
        };
        for (name, program) in [("mount.fuse3", fuse), ("nydus-overlayfs", helper)] {
            let program = fs::canonicalize(program).expect(name);
            symlink(program, stage.join("bin").join(name)).expect("a link");
        }
        let path = format!("{}:/usr/bin:/bin", stage.join("bin").display());
        Self { stage, path }
    }

    /// A file of `l1` whose contents are in `d1`.
    pub(crate) fn point_to_data(&self) {
        let file = self.stage.join("l1/pointer");
        fs::File::create(&file).and_then(|file| file.set_len(20)).expect("a file");
        let set = |name: &str, value: &[u8]| {
            rustix::fs::setxattr(&file, name, value, XattrFlags::empty()).expect(name);
        };
        set("trusted.overlay.metacopy", b"");
        set("trusted.overlay.redirect", b"/blob");
    }

    /// Mounts on `target`; HERE in the options is the stage.
    pub(crate) fn mount(&self, target: &str, options: &str) -> Ran {
        let options = options.replace("HERE", &self.stage.path().to_string_lossy());
        let mut command = self.stage.command(self.stage.join("bin/mount.fuse3"));
        command.env("PATH", &self.path).env("LD_LIBRARY_PATH", programs::libraries());
        command.args(["overlay", target, "-t", "nydus-overlayfs"]);
        run(command.args(["-o", &options]))
    }

    /// Mounts on `target`, which works.
    pub(crate) fn mounted(&self, target: &str, options: &str) -> Mount {
        let ran = self.mount(target, options);
        assert!(ran.ok() && ran.stderr.is_empty(), "{ran}");
        mount_at(&self.stage.join(target)).unwrap_or_else(|| panic!("{ran}"))
    }

    /// Makes in the upper directory: a copy, a whiteout, an opaque and, if `renames`, a renamed
    /// directory.
    pub(crate) fn write_before(&self, renames: bool) {
        let file = |name: &str| self.stage.join("t").join(name);
        fs::write(file("copied"), "upper").expect("a file to copy up");
        fs::remove_file(file("gone")).expect("a file to remove");
        fs::remove_dir_all(file("emptied")).expect("a directory to remove");
        fs::create_dir(file("emptied")).expect("a directory");
        fs::write(file("emptied/new"), "upper").expect("a new file");
        if renames {
            fs::rename(file("old"), file("renamed")).expect("a directory to rename");
        }
    }

    /// Writes what needs the work directory.
    pub(crate) fn write_after(&self, upper: &Path) {
        let file = |name: &str| self.stage.join("t").join(name);
        let deeds = [
            ("copying up a file", fs::write(file("one"), "upper")),
            ("copying up a directory", fs::write(file("kept/new"), "upper")),
            ("removing a file", fs::remove_file(file("two"))),
            ("a new directory", fs::create_dir(file("new"))),
        ];
        let failed: Vec<_> = deeds.iter().filter(|(_, done)| done.is_err()).collect();
        assert!(failed.is_empty(), "after the look: {failed:?}");
        assert_eq!(fs::read_to_string(upper.join("one")).expect("the copy"), "upper");
        assert_eq!(fs::read_to_string(file("kept/new")).expect("a file"), "upper");
        assert!(!file("two").exists() && file("new").is_dir());
    }

    /// Detaches: a child that another test forks holds our open directories for a moment.
    pub(crate) fn unmount(&self, target: &str) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(self.stage.join(target), flags).expect(target);
    }
}

/// [`tree`], and the inode number and times of each directory: the kernel makes `work` anew where
/// it mounts for writing.
pub(crate) fn state(root: &Path) -> Vec<String> {
    let mut directories = vec![root.to_owned()];
    let mut lines = tree(root);
    while let Some(directory) = directories.pop() {
        let meta = fs::symlink_metadata(&directory).expect("a directory");
        let times = (meta.ctime(), meta.ctime_nsec(), meta.mtime(), meta.mtime_nsec());
        let name = directory.strip_prefix(root).expect("a path below");
        lines.push(format!("/{} {} {times:?}", name.display(), meta.ino()));
        let entries = fs::read_dir(&directory).expect("a directory").flatten();
        let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        directories.extend(below.map(|entry| entry.path()));
    }
    lines.sort();
    lines
}

/// Upper and work directory of a mount; `base` is the working directory of who made it.
pub(crate) fn directories(mount: &Mount, base: &Path) -> [PathBuf; 2] {
    let layers = mount.overlay();
    [layers.upper, layers.work].map(|path| base.join(path.expect("a mount to write to")))
}
