//! Gives a blob's data a file of ours.

use crate::error::{Error, Result, io};
use crate::image::regular;
use crate::native::Placement;
use crate::promote::{Phase, Work};
use crate::{Blob, Cache, Chunk, ioctl};
use rustix::fs::{copy_file_range, ioctl_ficlone};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Data of `blob` from the cache at `to`. With `own`, as a file that nydusd has not.
pub(crate) fn place(
    (cache, blob, chunks): (&Cache, &Blob, &[Chunk]),
    to: &Path,
    own: bool,
    work: &mut Work<'_>,
) -> Result<Placement> {
    let from = cache.data(&blob.id);
    if reflink(&from, to)? {
        return Ok(Placement::Clone);
    }
    // Where a chunk is missing that this image does not need, nydusd may yet write to the file.
    if !own && cache.is_whole(blob)? {
        fs::hard_link(&from, to).map_err(io("link", to))?;
        return Ok(Placement::Link);
    }
    let source = regular(&from)?;
    let target = create(to)?;
    target.set_len(blob.uncompressed_size).map_err(io("make", to))?;
    for range in ranges(chunks) {
        let (start, end) = (range[0].offset, range[range.len() - 1].end());
        copy((&source, &target), start, end).map_err(io("copy to", to))?;
        work.done(Phase::Copying, end - start)?;
    }
    Ok(Placement::Copy)
}

/// A copy of the file `from` at `to`.
pub(crate) fn whole(from: &Path, to: &Path) -> Result<()> {
    if reflink(from, to)? {
        return Ok(());
    }
    let mut source = regular(from)?;
    std::io::copy(&mut source, &mut create(to)?).map_err(io("copy to", to))?;
    Ok(())
}

/// Makes `to` share the space of `from`; false if the file system cannot.
fn reflink(from: &Path, to: &Path) -> Result<bool> {
    let source = regular(from)?;
    match ioctl_ficlone(create(to)?, source) {
        Ok(()) => Ok(true),
        Err(_) => {
            fs::remove_file(to).map_err(io("remove", to))?;
            Ok(false)
        }
    }
}

fn create(path: &Path) -> Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(io("make", path))
}

/// Copies bytes from `start` to `end` to the same place.
fn copy((from, to): (&File, &File), start: u64, end: u64) -> std::io::Result<()> {
    let (mut read, mut written) = (start, start);
    while read < end {
        let left = (end - read) as usize;
        match copy_file_range(from, Some(&mut read), to, Some(&mut written), left) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Bytes read or copied at once, unless a chunk is larger.
const RANGE: u64 = 4 << 20;
/// Chunks begin at blocks.
pub(crate) const BLOCK: u64 = 4096;

/// Chunks that follow each other, each some of them.
pub(crate) fn ranges(chunks: &[Chunk]) -> impl Iterator<Item = &[Chunk]> {
    let mut rest = chunks;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let fits = |pair: &&[Chunk]| {
            let next = pair[0].end().next_multiple_of(BLOCK) == pair[1].offset;
            next && pair[1].end() - first.offset <= RANGE
        };
        let more = rest.windows(2).take_while(fits).count();
        let (range, left) = rest.split_at(1 + more);
        rest = left;
        Some(range)
    })
}

/// Lets fs-verity guard the file at `path`, which is of use only if nobody has to write to it ever
/// again; false if the file system cannot.
pub(crate) fn guard(path: &Path) -> Result<bool> {
    let file = File::open(path).map_err(io("open", path))?;
    match ioctl::verity_enable(&file) {
        Ok(()) => Ok(true),
        // Not permitted: the kernel is set to want signatures (fs.verity.require_signatures).
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM) => Ok(false),
        // Somebody has it open for writing: a child of ours between fork and exec.
        Err(Errno::TXTBSY) => Err(Error::Busy(path.to_owned())),
        Err(error) => Err(io("enable fs-verity on", path)(error.into())),
    }
}
