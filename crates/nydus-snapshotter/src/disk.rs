//! Files and directories, where not being there is no error.

use std::fs::{self, DirBuilder, DirEntry};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// What is removed and was not there is gone, too.
///
/// # Errors
/// It cannot be removed.
pub fn gone(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// What is in a directory: nothing, if there is none.
///
/// # Errors
/// It cannot be read.
pub fn entries(path: &Path) -> io::Result<impl Iterator<Item = io::Result<DirEntry>> + use<>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        entries => Some(entries?),
    };
    Ok(entries.into_iter().flatten())
}

/// Makes a directory and those above it, with this mode, where there is none.
///
/// # Errors
/// It cannot be made.
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}
