//! Looks for a [`Sample`] of each blob.

use super::walk::Extent;
use super::{Blob, Chunk, Sample, hex};
use std::ops::Range;

pub(super) struct Samples<'a> {
    blobs: &'a [Blob],
    chunks: &'a [Chunk],
    /// Whether no other blob has this chunk at this place.
    telling: Vec<bool>,
    found: Vec<Option<Sample>>,
    /// How many more paths may be put together.
    paths: u32,
}

/// Paths that are tried. Images whose first files all have names that no record can hold are rare.
const PATHS: u32 = 1 << 16;

impl<'a> Samples<'a> {
    pub(super) fn new(blobs: &'a [Blob], chunks: &'a [Chunk]) -> Self {
        let key = |&number: &u32| {
            let chunk = &chunks[number as usize];
            (chunk.offset, &chunk.digest)
        };
        let mut order: Vec<_> = (0..chunks.len() as u32).collect();
        order.sort_unstable_by_key(key);
        let mut telling = vec![false; chunks.len()];
        for alike in order.chunk_by(|one, other| key(one) == key(other)) {
            telling[alike[0] as usize] = alike.len() == 1;
        }
        Self { blobs, chunks, telling, found: vec![None; blobs.len()], paths: PATHS }
    }

    /// Looks for one among the chunks `covered` that `extent` is in.
    pub(super) fn look(&mut self, extent: &Extent<'_>, covered: Range<usize>) {
        let blob = usize::from(extent.blob);
        if self.found[blob].is_some() || self.paths == 0 {
            return;
        }
        let end = extent.offset + extent.size;
        let is_inside = |chunk: &Chunk| chunk.offset >= extent.offset && chunk.end() <= end;
        let mut telling = covered.filter(|&number| self.telling[number]);
        let Some(number) = telling.find(|&number| is_inside(&self.chunks[number])) else { return };
        self.paths -= 1;
        // A record is JSON.
        let path = extent.path.whole().and_then(|path| String::from_utf8(path).ok());
        let Some(path) = path else { return };
        let chunk = &self.chunks[number];
        self.found[blob] = Some(Sample {
            blob,
            path,
            at: extent.at + (chunk.offset - extent.offset),
            size: chunk.size,
            digester: self.blobs[blob].digester,
            digest: hex(&chunk.digest),
        });
    }

    pub(super) fn found(self) -> Vec<Sample> {
        self.found.into_iter().flatten().collect()
    }
}
