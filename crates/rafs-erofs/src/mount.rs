//! EROFS mounts.

use crate::{Result, Unsupported};
use std::path::Path;

/// How the kernel reads the files of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The files themselves, Linux 6.12 with `CONFIG_EROFS_FS_BACKED_BY_FILE`.
    File,
    /// Loop devices, Linux 5.16.
    Loop,
}

/// The way that is open here, tried with a tiny image in `scratch` (a directory on the file system
/// of the promoted images) and an overlay on it. Leaves nothing behind. Needs a private mount
/// namespace no more than any mount does: it is never attached to a path.
///
/// # Errors
/// None is, and why.
pub fn probe(scratch: &Path) -> Result<Way, Unsupported> {
    let _ = scratch;
    unimplemented!()
}

/// Unmounts what is mounted at `target`, all of it: users keep it until they let go.
/// Nothing mounted is no error.
///
/// # Errors
/// It cannot be unmounted.
pub fn unmount(target: &Path) -> Result<()> {
    let _ = target;
    unimplemented!()
}
