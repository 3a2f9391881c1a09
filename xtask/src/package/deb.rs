//! The Debian package.

use super::tree::Tree;
use super::{NAME, Packing};
use crate::cmd::Cmd;
use anyhow::{Context, Result};
use std::fs;

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Makes it; returns its name.
pub(super) fn make(packing: &Packing) -> Result<String> {
    let tree = Tree::new(packing.scratch.join("deb"))?;
    packing.fill_for_debian(&tree)?;
    let changelog = String::from_utf8(packing.source("packaging/debian/changelog")?)?;
    let version = version(&changelog).context("packaging/debian/changelog: no version")?;
    let architecture = Cmd::new("architecture", 60, "dpkg").arg("--print-architecture").output()?;
    let architecture = architecture.trim();
    describe(packing, &tree, [version, architecture])?;
    tree.finish(packing)?;
    let name = format!("{NAME}_{version}_{architecture}.deb");
    let mut dpkg = Cmd::new("dpkg-deb-build", 120, "dpkg-deb");
    dpkg.env("SOURCE_DATE_EPOCH", packing.time.to_string());
    // gzip: quick, and there is no dpkg that cannot read it.
    dpkg.args(["--root-owner-group", "-Zgzip", "--build"]);
    dpkg.arg(&tree.root).arg(packing.out.join(&name)).run()?;
    Ok(name)
}

/// The one in the first line: `NAME (VERSION) …`.
fn version(changelog: &str) -> Option<&str> {
    Some(changelog.split_once('(')?.1.split_once(')')?.0)
}

/// Writes the directory DEBIAN.
fn describe(packing: &Packing, tree: &Tree, [version, architecture]: [&str; 2]) -> Result<()> {
    let (mut conffiles, mut hashed, mut bytes) = (String::new(), Vec::new(), 0);
    for file in tree.files()? {
        bytes += fs::metadata(tree.root.join(&file))?.len();
        match file.starts_with("etc/") {
            true => conffiles += &format!("/{file}\n"),
            false => hashed.push(file),
        }
    }
    let control = String::from_utf8(packing.source("packaging/debian/control")?)?;
    let control = control.replace("@VERSION@", version).replace("@ARCHITECTURE@", architecture);
    let control = control.replace("@SIZE@", &bytes.div_ceil(1024).to_string());
    let sums = Cmd::new("md5sum", 60, "md5sum").args(hashed).dir(&tree.root).output()?;
    tree.put("DEBIAN/control", control.as_bytes(), 0o644)?;
    tree.put("DEBIAN/conffiles", conffiles.as_bytes(), 0o644)?;
    tree.put("DEBIAN/md5sums", sums.as_bytes(), 0o644)?;
    for script in SCRIPTS {
        let content = packing.source(&format!("packaging/debian/{script}"))?;
        tree.put(&format!("DEBIAN/{script}"), &content, 0o755)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn version_is_that_of_the_workspace() {
        let changelog = include_str!("../../../packaging/debian/changelog");
        let version = super::version(changelog).and_then(|version| version.rsplit_once('-'));
        assert_eq!(version.map(|(upstream, _)| upstream), Some(super::super::VERSION));
    }
}
