//! The packages of `cargo xtask dist`: a .deb and a static tarball with checksums and an SBOM.
//! The same programs and commit give the same bytes.

mod deb;
mod files;
mod sbom;
mod tarball;
mod tree;

use crate::cmd::Cmd;
use crate::{dist, paths, ui};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What the packages are called.
const NAME: &str = "nydus-overlayfs";
/// All parts of the workspace have this version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where things come from and go to.
struct Packing {
    /// The release binaries.
    programs: PathBuf,
    /// For the packages.
    out: PathBuf,
    scratch: PathBuf,
    /// Of every file in them, in seconds since 1970.
    time: i64,
    /// JSON.
    sbom: Vec<u8>,
}

/// Makes all of them from the binaries in `programs`, in `packages` there.
pub(crate) fn run(programs: &Path) -> Result<()> {
    ui::step("packages", || {
        let time = dist::time();
        let packing = Packing {
            out: programs.join("packages"),
            programs: programs.to_owned(),
            scratch: paths::target().join("package"),
            time,
            sbom: sbom::make(time)?,
        };
        packing.make()
    })
}

impl Packing {
    fn make(&self) -> Result<()> {
        // Those of another version would look like ours.
        let _ = fs::remove_dir_all(&self.out);
        fs::create_dir_all(&self.out).context("cannot make the directory of the packages")?;
        let sbom = format!("{NAME}-{VERSION}.cdx.json");
        fs::write(self.out.join(&sbom), &self.sbom).context("cannot write the SBOM")?;
        let names = [deb::make(self)?, tarball::make(self)?, sbom];
        let mut sha256sum = Cmd::new("sha256sum", 60, "sha256sum");
        let sums = sha256sum.arg("--").args(&names).dir(&self.out).output()?;
        fs::write(self.out.join("SHA256SUMS"), sums).context("cannot write the checksums")
    }

    fn source(&self, path: &str) -> Result<Vec<u8>> {
        read(&paths::root().join(path))
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::Mode;
    use rustix::process::umask;
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    /// Stands in for a program, of which completions are asked.
    const PROGRAM: &str = "#!/bin/sh\necho \"$0\" | sed 's,.*/,,'\necho \"$@\"\n";

    /// The packages that are made in a new place, by name.
    fn made(mask: u32) -> BTreeMap<String, Vec<u8>> {
        let place = tempfile::tempdir().expect("a directory");
        let [programs, out, scratch] = ["programs", "out", "scratch"].map(|n| place.path().join(n));
        fs::create_dir(&programs).expect("a directory");
        for name in files::PROGRAMS {
            let path = programs.join(name);
            fs::write(&path, PROGRAM).expect("a program");
            fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).expect("a mode");
        }
        let sbom = b"{}".to_vec();
        let packing = Packing { programs, out, scratch, time: 1_700_000_000, sbom };
        let old = umask(Mode::from_raw_mode(mask));
        let made = packing.make();
        umask(old);
        made.expect("packages");
        let entries = fs::read_dir(&packing.out).expect("packages").flatten();
        let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
        entries.map(|e| (name(&e.path()), fs::read(e.path()).expect("a package"))).collect()
    }

    #[test]
    fn same_bytes_whoever_makes_them() {
        let first = made(0o077);
        // Files are written at another second, and other directories list them in another order.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let second = made(0o002);
        assert_eq!(first.len(), 4, "{:?}", first.keys());
        for (name, bytes) in &first {
            assert!(second.get(name) == Some(bytes), "{name} differs");
        }
    }
}
