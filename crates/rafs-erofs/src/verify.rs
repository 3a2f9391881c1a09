//! Every chunk's digest.

use crate::error::{Error, Result, io};
use crate::place::{BLOCK, ranges};
use crate::promote::{Phase, Work};
use crate::{Blob, Chunk};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Compares all `chunks` of `blob` in its file.
///
/// # Errors
/// [`Error::Damaged`] at the first that differs.
pub(crate) fn verify(
    (blob, chunks): (&Blob, &[Chunk]),
    (path, file): (&Path, &File),
    work: &mut Work<'_>,
) -> Result<()> {
    let mut buffer = Vec::new();
    for range in ranges(chunks) {
        let start = range[0].offset;
        // A mapped file shows the rest of its last block, which must be zeros.
        let end = range[range.len() - 1].end().next_multiple_of(BLOCK);
        buffer.resize((end - start) as usize, 0);
        file.read_exact_at(&mut buffer, start).map_err(io("read", path))?;
        for chunk in range {
            let data = &buffer[(chunk.offset - start) as usize..];
            let (data, rest) = data.split_at(chunk.size as usize);
            let rest = &rest[..rest.len() % BLOCK as usize];
            if blob.digester.digest(data) != chunk.digest || rest.iter().any(|&byte| byte != 0) {
                return Err(Error::Damaged { blob: blob.id.clone(), offset: chunk.offset });
            }
        }
        work.done(Phase::Verifying, range.iter().map(|chunk| u64::from(chunk.size)).sum())?;
    }
    Ok(())
}
