//! The tarball, to be unpacked below /usr/local.

use super::tree::Tree;
use super::{NAME, Packing, VERSION};
use crate::cmd::Cmd;
use anyhow::Result;

/// Makes it; returns its name.
pub(super) fn make(packing: &Packing) -> Result<String> {
    let directory = format!("{NAME}-{VERSION}-{}-linux", std::env::consts::ARCH);
    let name = format!("{directory}.tar.gz");
    let place = packing.scratch.join("tarball");
    let tree = Tree::new(place.join(&directory))?;
    packing.fill_for_local(&tree)?;
    tree.finish(packing)?;
    let mut tar = Cmd::new("tar", 120, "tar");
    tar.args(["--create", "--format=ustar", "--sort=name", "--use-compress-program=gzip -n"]);
    tar.args(["--owner=root:0", "--group=root:0", &format!("--mtime=@{}", packing.time)]);
    tar.arg("--file").arg(packing.out.join(&name)).arg("--directory").arg(place);
    tar.arg(directory).run()?;
    Ok(name)
}
