//! Little-endian numbers in a bootstrap; nothing outside of it is ever read.

use super::{Problem, Read};

/// All of a bootstrap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    /// `length` bytes at `at`, which hold `what`.
    pub(super) fn slice(self, at: u64, length: u64, what: &str) -> Read<&'a [u8]> {
        let range = || {
            let start = usize::try_from(at).ok()?;
            let end = start.checked_add(usize::try_from(length).ok()?)?;
            self.0.get(start..end)
        };
        range().ok_or_else(|| {
            Problem::Damaged(format!("{what} at byte {at}: {length} bytes do not fit in the file"))
        })
    }

    /// A table of entries of `N` bytes.
    pub(super) fn table<const N: usize>(
        self,
        at: u64,
        length: u64,
        what: &str,
    ) -> Read<&'a [[u8; N]]> {
        let (entries, rest) = self.slice(at, length, what)?.as_chunks();
        match rest {
            [] => Ok(entries),
            _ => Err(Problem::Damaged(format!("{what} has {length} bytes, no multiple of {N}"))),
        }
    }
}
