//! What holds for every bootstrap; the fuzz target and the tests call the same functions.

mod generate;
mod reference;

pub use crate::image::build::{Draft, DraftBlob, Entry, Node};
pub use generate::{damage, draft};

use crate::image::{Image, Problem, names};
use reference::Reference;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Mode and length of what each path, from the root, is a name of.
pub type Names = BTreeMap<Vec<u8>, (u16, u64)>;

/// What the walker sees in a bootstrap.
///
/// # Errors
/// Why it is not taken, in the words of [`crate::Error`].
pub fn seen(bytes: &[u8]) -> Result<Names, String> {
    let said = |problem| match problem {
        Problem::Damaged(what) => what,
        Problem::Unserved(why) => why.to_string(),
        Problem::Stopped => crate::Error::Stopped.to_string(),
    };
    Image::parse(bytes, &mut || ControlFlow::Continue(())).map_err(said)?;
    let names = names(bytes).map_err(said)?;
    Ok(names.into_iter().map(|(path, mode, size)| (path, (mode, size))).collect())
}

/// Takes the bytes as a bootstrap.
///
/// # Panics
/// When one is taken in which a reader that goes the kernel's ways sees other names, types, lengths
/// or places of data than the walker, or data that no digest covers; when reading takes more than
/// a small multiple of its size in steps.
pub fn bootstrap(data: &[u8]) {
    let mut asked = 0;
    let parsed = Image::parse(data, &mut || {
        asked += 1;
        ControlFlow::Continue(())
    });
    // A name costs 12 bytes at the least, an extent 8; asked once in 4,096 of them.
    assert!(asked <= data.len() / 8 / 4096 + 1, "asked {asked} times of {} bytes", data.len());
    let Ok(image) = parsed else { return };
    let seen = seen(data).unwrap_or_else(|what| panic!("taken, and then: {what}"));
    let reference = Reference::of(data);
    let listed = reference.list();
    assert!(seen == listed.names, "the walker sees {seen:?}\nthe reference {:?}", listed.names);
    for (file, blob, start, end) in listed.extents {
        let mut at = start;
        for chunk in image.chunks.iter().filter(|chunk| usize::from(chunk.blob) + 1 == blob) {
            if (chunk.offset..chunk.end()).contains(&at) {
                at = chunk.end().next_multiple_of(4096);
            }
        }
        let path = String::from_utf8_lossy(&file);
        assert!(at >= end, "{path}: bytes {start} to {end} of device {blob} end at {at}");
    }
    for sample in &image.samples {
        assert!(seen.contains_key(sample.path.as_bytes()), "{sample:?}");
    }
}
