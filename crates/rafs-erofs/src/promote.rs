//! From a complete cache to files of our own that are verified.

use crate::{Native, Result};
use std::ops::ControlFlow;
use std::path::Path;

/// What a promotion is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Copying data, which only some file systems need.
    Copying,
    /// Computing digests.
    Verifying,
}

/// A piece of work that is done; at most 4 MiB since the last.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What is being done.
    pub phase: Phase,
    /// Bytes done in this phase.
    pub done: u64,
    /// Bytes of this phase.
    pub total: u64,
}

/// What to promote.
#[derive(Clone, Copy, Debug)]
pub struct Promotion<'a> {
    /// The bootstrap. It is copied.
    pub bootstrap: &'a Path,
    /// nydusd's cache.
    pub cache: &'a Path,
    /// The directory to make, on the same file system as the cache. What is there and has no
    /// record, as after a crash, is removed first.
    pub into: &'a Path,
    /// Enable fs-verity where the file system has it.
    pub verity: bool,
}

impl Promotion<'_> {
    /// Gives every file a name, or a copy, below `into`, verifies every chunk, enables fs-verity,
    /// and writes the record last: whenever this is killed, either the record is there and true, or
    /// [`Native::load`] finds nothing.
    ///
    /// `step` is called again and again; it may sleep, to keep a rate, and ends the promotion with
    /// `Break`.
    ///
    /// # Errors
    /// As [`crate::Error`] says; what was made is removed.
    pub fn run(&self, step: &mut dyn FnMut(Step) -> ControlFlow<()>) -> Result<Native> {
        let _ = step;
        unimplemented!()
    }
}
