//! The two versions of `mount(8)` that the helper is compared with.

use crate::programs::tool;
use crate::run::run;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A version of util-linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 2.38, the last one that passes the options to mount(2).
    V2_38,
    /// 2.41, which sets each option with fsconfig(2).
    V2_41,
}

impl Version {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V2_38, Self::V2_41];

    fn folder(self) -> &'static str {
        match self {
            Self::V2_38 => "mount-2.38",
            Self::V2_41 => "mount-2.41",
        }
    }
}

/// `mount(8)` of one version.
#[derive(Clone, Debug)]
pub struct Mount8 {
    version: Version,
    /// The program, or its loader and the arguments that make it start the program.
    start: Vec<OsString>,
}

impl Mount8 {
    /// The unpacked program with its own libraries; instead of 2.38 also the host's, made to use
    /// mount(2). `None` if 2.41 was not to be had.
    pub fn find(version: Version) -> Option<Self> {
        let start = match (unpacked(version), version) {
            (Some([loader, libraries, program]), _) => {
                vec![loader.into(), "--library-path".into(), libraries.into(), program.into()]
            }
            (None, Version::V2_38) => vec!["mount".into()],
            (None, Version::V2_41) => return None,
        };
        Some(Self { version, start })
    }

    /// The unpacked program, its loader and its libraries; none if it is the host's.
    pub fn files(&self) -> Vec<PathBuf> {
        let [loader, _, libraries, program] = &self.start[..] else { return Vec::new() };
        let directories = std::env::split_paths(libraries);
        let entries = directories.flat_map(std::fs::read_dir).flat_map(Iterator::flatten);
        let files = entries.map(|entry| entry.path()).filter(|path| path.is_file());
        files.chain([loader.into(), program.into()]).collect()
    }

    /// What `--version` says after "util-linux", and of which library.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn full_version(&self) -> String {
        let ran = run(self.program().arg("--version"));
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        let (_, numbers) = text.split_once("util-linux ").unwrap_or_else(|| panic!("{ran}"));
        numbers.split(':').next().unwrap_or_default().replace(" (", ", ")
    }

    /// Mounts an overlay on `target` with these options.
    pub fn overlay(&self, target: &Path, options: &[u8]) -> Command {
        let mut command = self.command();
        command.arg("overlay").arg(target).arg("-o").arg(OsStr::from_bytes(options));
        command
    }

    /// Mounts an overlay, without helpers; source, target and options are to be added.
    pub fn command(&self) -> Command {
        let mut command = self.program();
        command.args(["-i", "-t", "overlay"]);
        command
    }

    fn program(&self) -> Command {
        let mut command = Command::new(&self.start[0]);
        command.args(&self.start[1..]).env_remove("LIBMOUNT_FORCE_MOUNT2");
        if self.version == Version::V2_38 {
            // The host's may be newer: then only this makes it use mount(2).
            command.env("LIBMOUNT_FORCE_MOUNT2", "always");
        }
        command
    }
}

/// The loader, the libraries' directories and the program.
fn unpacked(version: Version) -> Option<[PathBuf; 3]> {
    let arch = std::env::consts::ARCH;
    let loader =
        format!("ld-linux-{}.so.{}", arch.replace('_', "-"), if arch == "aarch64" { 1 } else { 2 });
    let find = |path: String| tool(&format!("{}/{path}", version.folder()));
    let first = |file: &str, places: &[&str]| {
        places.iter().find_map(|place| find(format!("{place}/{file}")))
    };
    // Before Debian 13 some are in /lib and /bin.
    let places = ["lib", "usr/lib"].map(|lib| format!("{lib}/{arch}-linux-gnu"));
    let libraries = places.iter().filter_map(|place| find(place.clone()));
    let libraries = libraries.map(|path| path.display().to_string()).collect::<Vec<_>>().join(":");
    let loader = first(&loader, &places.each_ref().map(String::as_str))?;
    Some([loader, libraries.into(), first("mount", &["bin", "usr/bin"])?])
}
