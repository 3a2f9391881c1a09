//! Bootstraps from a seed.

use super::{Draft, DraftBlob, Entry, Node};
use fastrand::Rng;

/// An image: the same for the same `seed`.
pub fn draft(seed: u64) -> Draft {
    let mut rng = Rng::with_seed(seed);
    let chunk_size = 4096 << rng.u32(0..3);
    let blob = |number: usize, rng: &mut Rng| {
        let chunk = |_| (rng.u32(1..=chunk_size), std::array::from_fn(|_| rng.u8(1..)));
        DraftBlob { id: format!("{number:064x}"), chunks: (0..6).map(chunk).collect() }
    };
    let mut blobs: Vec<_> = (0..rng.usize(1..4)).map(|number| blob(number, &mut rng)).collect();
    // Two in each are of the largest size, so that files can have more than one.
    for blob in &mut blobs {
        (blob.chunks[0].0, blob.chunks[1].0) = (chunk_size, chunk_size);
    }
    let root = entries(&mut rng, blobs.len() as u16, 3);
    Draft { blobs, chunk_size, root }
}

fn entries(rng: &mut Rng, blobs: u16, depth: u32) -> Vec<Entry> {
    // Now and then so many that they fill blocks.
    let is_crowd = rng.u8(..) < 16;
    let (count, depth) = match is_crowd {
        true => (rng.usize(200..600), 0),
        false => (rng.usize(0..8), depth),
    };
    let mut names = std::collections::BTreeSet::new();
    while names.len() < count {
        let length = if rng.u8(..) < 8 { 255 } else { rng.usize(1..10) };
        let letter = |_| *rng.choice(b"ab.-!~\xc3\xff").unwrap_or(&b'a');
        let name: Vec<u8> = (0..length).map(letter).collect();
        if !matches!(&name[..], b"." | b"..") {
            names.insert(name);
        }
    }
    names.into_iter().map(|name| entry(rng, name, blobs, depth)).collect()
}

fn entry(rng: &mut Rng, name: Vec<u8>, blobs: u16, depth: u32) -> Entry {
    let node = match rng.u8(0..8) {
        0..2 if depth > 0 => Node::Directory(entries(rng, blobs, depth - 1)),
        0..5 => {
            let mut chunks: Vec<_> =
                (0..rng.usize(0..4)).map(|_| (rng.u16(0..blobs), rng.u32(0..2))).collect();
            chunks.push((rng.u16(0..blobs), rng.u32(0..6)));
            Node::File(chunks)
        }
        5 => Node::Link(vec![b'x'; rng.usize(1..100)]),
        6 => {
            Node::Special(*rng.choice(&[0o010_644, 0o020_600, 0o060_600, 0o140_755]).unwrap_or(&0))
        }
        _ => Node::File(Vec::new()),
    };
    let attribute = |rng: &mut Rng| {
        let bytes = |rng: &mut Rng, most| vec![b'v'; rng.usize(1..most)];
        (*rng.choice(&[1, 4, 6]).unwrap_or(&1), bytes(rng, 12), bytes(rng, 40))
    };
    let attributes = if rng.u8(..) < 64 { rng.usize(1..4) } else { 0 };
    Entry { name, node, attributes: (0..attributes).map(|_| attribute(rng)).collect() }
}

/// Damages a few places of a bootstrap: the same for the same `seed`.
pub fn damage(seed: u64, image: &mut [u8]) {
    let mut rng = Rng::with_seed(seed);
    for _ in 0..rng.usize(1..4) {
        // Most of it is inodes and directories; the superblocks are before them.
        let at = match rng.u8(0..8) {
            0 => rng.usize(1024..2048.min(image.len())),
            _ => rng.usize(4096.min(image.len() - 8)..image.len()),
        };
        match rng.u8(0..4) {
            0 => image[at] ^= 1 << rng.u8(0..8),
            1 => image[at] = rng.u8(..),
            2 => image[at] = image[at].wrapping_add(1),
            // What is there twice, such as a name or an entry.
            _ => {
                let length = rng.usize(1..=24).min(image.len() - at);
                let from = rng.usize(0..=image.len() - length);
                image.copy_within(from..from + length, at);
            }
        }
    }
}
