//! A clean Debian, a copy of its own for each test, in which packages are installed. Its checks
//! panic where something is not as it must be.

#![allow(clippy::missing_panics_doc, reason = "see above")]

use crate::mounts::{Mount, mount_at};
use crate::programs;
use crate::run::{Ran, run_for};
use crate::stage::Stage;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a program finds in its environment.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Seconds that a command may take.
const LIMIT: i64 = 120;

/// The copy: it goes with its stage.
#[derive(Debug)]
pub struct Debian {
    stage: Stage,
}

impl Debian {
    /// `None` if it could not be made or we are not root of the machine.
    pub fn new() -> Option<Self> {
        let clean = fs::canonicalize(programs::tool("debian-12")?).ok()?;
        let stage = Stage::of_a_node()?;
        let this = Self { stage };
        for name in ["root", "changes"] {
            fs::create_dir(this.stage.join(name)).expect(name);
        }
        let changes = this.stage.join("changes");
        mount("changes", &changes, "tmpfs", MountFlags::empty(), None).expect("a tmpfs");
        let [upper, work] = ["upper", "work"].map(|name| changes.join(name));
        fs::create_dir(&upper).and_then(|()| fs::create_dir(&work)).expect("directories");
        let [clean, upper, work] = [clean, upper, work].map(|path| path.display().to_string());
        let layers = format!("lowerdir={clean},upperdir={upper},workdir={work}");
        let layers = std::ffi::CString::new(layers).expect("no NUL");
        mount("debian", this.path(""), "overlay", MountFlags::empty(), &*layers).expect("a copy");
        Some(this)
    }

    /// A path in it, without the first `/`.
    pub fn path(&self, path: &str) -> PathBuf {
        self.stage.join("root").join(path)
    }

    /// `words`, to be run in it.
    pub fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("chroot");
        command.arg(self.path("")).args(words).env_clear();
        command.env("PATH", PATH).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    /// Runs a line of words in it.
    pub fn run(&self, line: &str) -> Ran {
        run_for(&mut self.command(line.split(' ')), LIMIT)
    }

    /// The same; what it prints.
    #[track_caller]
    pub fn expect(&self, line: &str) -> String {
        let ran = self.run(line);
        assert!(ran.ok(), "{ran}");
        String::from_utf8_lossy(&ran.stdout).into_owned()
    }

    /// Copies `file` into it; its path there.
    pub fn bring(&self, file: &Path) -> String {
        let name = file.file_name().expect("a name").to_string_lossy();
        fs::copy(file, self.path(&format!("mnt/{name}"))).expect("a copy");
        format!("/mnt/{name}")
    }

    /// Gives it a /proc, or takes it away.
    pub fn set_proc(&self, there: bool) {
        let proc = self.path("proc");
        match there {
            true => mount("proc", proc, "proc", MountFlags::empty(), None).expect("/proc"),
            false => unmount(proc, UnmountFlags::DETACH).expect("/proc"),
        }
    }

    /// A file system for layers, at /mnt, with these directories.
    pub fn set_layers(&self, names: &[&str]) {
        mount("layers", self.path("mnt"), "tmpfs", MountFlags::empty(), None).expect("a tmpfs");
        for name in names {
            fs::create_dir(self.path("mnt").join(name)).expect(name);
        }
    }

    /// What is mounted there.
    pub fn mount_at(&self, path: &str) -> Option<Mount> {
        mount_at(&self.path(path))
    }

    /// All that is in it, but for dpkg's records, logs and what tests bring: mode, owner, size and
    /// time or target.
    pub fn files(&self) -> BTreeMap<PathBuf, String> {
        let mut files = BTreeMap::new();
        let root = self.path("");
        let mut todo = vec![root.clone()];
        while let Some(directory) = todo.pop() {
            for entry in fs::read_dir(&directory).expect("a directory").flatten() {
                let (path, meta) = (entry.path(), entry.metadata().expect("a file"));
                let name = path.strip_prefix(&root).expect("below").to_path_buf();
                if ["mnt", "proc", "var/lib/dpkg", "var/log"]
                    .iter()
                    .any(|other| name == Path::new(other))
                {
                    continue;
                }
                let what = match fs::read_link(&path) {
                    Ok(target) => target.display().to_string(),
                    Err(_) if meta.is_dir() => String::new(),
                    Err(_) => format!("{} {}", meta.len(), meta.mtime()),
                };
                if meta.is_dir() {
                    todo.push(path);
                }
                let [mode, uid, gid] = [meta.mode(), meta.uid(), meta.gid()];
                files.insert(name, format!("{mode:o} {uid}:{gid} {what}"));
            }
        }
        files
    }
}
