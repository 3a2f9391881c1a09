//! Damaged bootstraps, each with what is said of it.

use super::build::{Draft, DraftBlob, Entry, Node};
use super::fields::{BLOCK, attribute, blob, chunk, dirent, extended, index, inode, superblock};
use super::{Image, Problem};
use std::ops::ControlFlow;

/// What a part of the image below is called.
#[derive(Clone, Copy, Debug)]
enum At {
    Super,
    Extended,
    Blob(usize),
    Chunk(usize),
    /// The entry of a name in the root directory, its name, its inode, its attributes, its indexes.
    Entry(&'static str),
    Name(&'static str),
    Inode(&'static str),
    Attributes(&'static str),
    Indexes(&'static str),
}

fn draft() -> Draft {
    let chunks = |digest| vec![(4096, [digest; 32]), (4096, [digest + 1; 32]), (100, [9; 32])];
    let blobs = [1, 3].map(|digest| DraftBlob { id: format!("{digest}"), chunks: chunks(digest) });
    let mut entries: Vec<_> = vec![
        Entry::new("b", Node::File(vec![(0, 0), (0, 1), (0, 2)])),
        Entry::new("c", Node::File(vec![(1, 0)])),
        Entry::new("d", Node::Directory(vec![Entry::new("e", Node::File(vec![(0, 0)]))])),
        Entry::new("f", Node::Link(b"elsewhere".to_vec())),
        Entry::new("g", Node::Special(0o010_644)),
    ];
    entries[0].attributes = vec![(1, b"name".to_vec(), b"value".to_vec())];
    Draft { blobs: blobs.into(), chunk_size: 4096, root: entries }
}

fn place(image: &[u8], at: At) -> usize {
    let base = &image[superblock::AT as usize..];
    let inodes = u64::from(superblock::INODES.get(base)) * BLOCK;
    let place = |number: u64| (inodes + number * inode::UNIT) as usize;
    let root = place(superblock::ROOT.get(base).into()) + inode::COMPACT as usize;
    let more = &image[extended::AT as usize..];
    let named = |name: &str| {
        let count = usize::from(dirent::NAME.get(&image[root..])) / dirent::SIZE;
        let entries = (0..count).map(|entry| root + entry * dirent::SIZE);
        let start = |entry: &usize| root + usize::from(dirent::NAME.get(&image[*entry..]));
        let entry =
            entries.clone().find(|entry| image[start(entry)..].starts_with(name.as_bytes()));
        let entry = entry.expect(name);
        (entry, start(&entry), place(dirent::INODE.get(&image[entry..])))
    };
    match at {
        At::Super => superblock::AT as usize,
        At::Extended => extended::AT as usize,
        At::Blob(number) => extended::BLOBS.0.get(more) as usize + number * blob::SIZE,
        At::Chunk(number) => extended::CHUNKS.0.get(more) as usize + number * chunk::SIZE,
        At::Entry(name) => named(name).0,
        At::Name(name) => named(name).1,
        At::Inode(name) => named(name).2,
        At::Attributes(name) => named(name).2 + inode::COMPACT as usize,
        At::Indexes(name) => {
            let words = usize::from(inode::ATTRIBUTES.get(&image[named(name).2..]));
            let attributes = words.checked_sub(1).map_or(0, |rest| attribute::HEADER + rest * 4);
            (named(name).2 + inode::COMPACT as usize + attributes).next_multiple_of(8)
        }
    }
}

fn parse(image: &[u8]) -> Result<Image, String> {
    Image::parse(image, &mut || ControlFlow::Continue(())).map_err(|problem| match problem {
        Problem::Damaged(what) => what,
        Problem::Unserved(why) => why.to_string(),
        Problem::Stopped => "stopped".into(),
    })
}

#[test]
fn what_a_sound_one_says() {
    let image = parse(&draft().build()).unwrap();
    assert_eq!((image.blobs.len(), image.chunks.len()), (2, 6));
    let samples: Vec<_> = image.samples.iter().map(|sample| (sample.blob, &*sample.path)).collect();
    assert_eq!(samples, [(0, "b"), (1, "c")]);
}

#[test]
fn damaged() {
    use At::{Attributes, Blob, Chunk, Entry, Extended, Indexes, Inode, Name, Super};
    let order = "not in ascending order";
    // Where, behind that, the bytes that are put there, and what is said.
    let table: &[(At, usize, &[u8], &str)] = &[
        (Super, superblock::MAGIC.0.0, b"\0", "no superblock of RAFS v6"),
        (Super, superblock::COMPATIBLE.0 + 3, b"\0", "no superblock of RAFS v6"),
        (Super, superblock::BLOCK_BITS.0, &[9], "blocks of 2^9 bytes"),
        (Super, superblock::BLOCK_BITS.0, &[76], "blocks of 2^76 bytes"),
        (Super, superblock::ROOT.0, &[0xff, 0xff], "inode at byte"),
        (Super, superblock::ROOT.0, &[9], "no directory"),
        (Super, superblock::INODES.0, &[0xff; 4], "inode at byte"),
        (Super, superblock::INCOMPATIBLE.0, &[0x1c], "unknown features 0x1c of EROFS"),
        (Super, superblock::DEVICES.0, &[1], "it has 1 devices for 2 blobs"),
        (Super, superblock::DEVICES.0, &[0, 1], "256 blobs, expected up to 255"),
        (Super, superblock::DEVICE_SLOT.0, &[0xff, 0xff], "device table at byte"),
        (Super, superblock::DEVICE_SLOT.0, &[1], "another one in the device table"),
        (Extended, extended::FLAGS.0 + 1, &[0x2], "tar files for blobs"),
        (Extended, extended::FLAGS.0 + 3, &[0x2], "image is encrypted"),
        (Extended, extended::FLAGS.0, &[0x5], "no owners of its own"),
        (Extended, extended::FLAGS.0, &[0x1d], "one of the two algorithms"),
        (Extended, extended::BLOBS.0.0, &[0xff; 8], "blob table at byte"),
        (Extended, extended::BLOBS.1.0, &[1], "no multiple of 256"),
        (Extended, extended::CHUNK_SIZE.0, &[1], "chunks of 4097 bytes"),
        (Extended, extended::CHUNKS.1.0, &[0xff; 8], "chunk table at byte"),
        (Blob(0), 0, b"/", "its id is no file name"),
        (Blob(0), blob::FEATURES.0, &[0x0], "not aligned to blocks"),
        (Blob(0), blob::FEATURES.0, &[0x41], "a blob of tar files"),
        (Blob(0), blob::FEATURES.0, &[0x81], "batches of chunks"),
        (Blob(0), blob::FEATURES.0, &[0x1, 0x1], "an encrypted blob"),
        (Blob(0), blob::FEATURES.0, &[0x1, 0x4], "unknown features 0x401"),
        (Blob(0), blob::DIGESTER.0, &[2], "unknown algorithm 2"),
        (Blob(0), blob::CHUNKS.0, &[1, 0, 0, 4], "a blob of 67108865 chunks"),
        (Blob(0), blob::UNCOMPRESSED_SIZE.0, &[1], "no number of blocks"),
        (Blob(0), blob::UNCOMPRESSED_SIZE.0 + 5, &[0x10], "no number of blocks"),
        (Chunk(0), 0, &[0; 32], "no digest for chunk 0 of blob 0"),
        (Chunk(0), chunk::BLOB.0, &[2], "no such place"),
        (Chunk(0), chunk::INDEX.0, &[3], "no such place"),
        (Chunk(0), chunk::UNCOMPRESSED_OFFSET.0 + 1, &[0x10], "chunks overlap"),
        (Chunk(0), chunk::UNCOMPRESSED_OFFSET.0, &[1], "no such place"),
        (Chunk(0), chunk::UNCOMPRESSED_SIZE.0, &[1, 0], "no digest for data of file \"b\""),
        (Chunk(5), chunk::UNCOMPRESSED_SIZE.0 + 1, &[0x11], "no such place"),
        (Name("c"), 0, b"a", order),
        (Name("c"), 0, b"b", order),
        (Name("c"), 0, b".", order),
        (Name("d"), 0, b"/", "entries are broken"),
        (Name("d"), 0, b"\0", "entries are broken"),
        (Entry("."), dirent::NAME.0, &[0, 0], "entries are broken"),
        (Entry("."), dirent::NAME.0, &[85], "entries are broken"),
        (Entry("."), dirent::NAME.0, &[0xf0, 0xff], "entries are broken"),
        (Entry("d"), dirent::NAME.0, &[0xff, 0xff], "entries are broken"),
        (Entry("d"), dirent::INODE.0, &[0xff; 8], "its number is too large"),
        (Entry("d"), dirent::INODE.0 + 3, &[1], "inode at byte"),
        // The root once more, by another name.
        (Entry("d"), dirent::INODE.0, &[1], "a directory with two names"),
        (Inode("b"), inode::FORMAT.0, &[2], "an inode of format 0x1"),
        (Inode("b"), inode::FORMAT.0, &[0], "a file of layout 0"),
        (Inode("b"), inode::FORMAT.0 + 1, &[1], "an inode of format 0x84"),
        (Inode("b"), inode::MODE.0 + 1, &[0xf0], "its type is unknown"),
        (Inode("b"), inode::UNION.0, &[0], "format 0x0"),
        (Inode("b"), inode::UNION.0 + 1, &[1], "chunks of format 0x120"),
        (Inode("b"), inode::COMPACT_SIZE.0 + 3, &[0xff], "indexes at byte"),
        (Inode("b"), inode::ATTRIBUTES.0, &[0xff, 0xff], "attributes at byte"),
        (Inode("c"), inode::ATTRIBUTES.0, &[2], "its data is in no blob"),
        (Inode("d"), inode::COMPACT_SIZE.0, &[0xff, 0xf], "inline data crosses a block"),
        (Inode("f"), inode::COMPACT_SIZE.0, &[0xff, 0xf], "inline data crosses a block"),
        (Inode("f"), inode::COMPACT_SIZE.0, &[0x00, 0x10], "its target is too long"),
        (Inode("d"), inode::FORMAT.0, &[8], "the layout of a file"),
        (Attributes("b"), attribute::SHARED.0, &[200], "attributes are broken"),
        (Attributes("b"), attribute::HEADER + attribute::NAME.0, &[255], "attributes are broken"),
        (Attributes("b"), attribute::HEADER + attribute::VALUE.0, &[9], "attributes are broken"),
        // Its own attribute as the number of a shared one.
        (Attributes("b"), attribute::SHARED.0, &[1], "shared attribute at byte"),
        (Indexes("b"), index::DEVICE.0, &[0], "its data is in no blob"),
        (Indexes("b"), index::DEVICE.0, &[3], "no digest for data of file \"b\""),
        (Indexes("b"), index::BLOCK.0, &[7], "no digest for data of file \"b\""),
        (Indexes("b"), index::BLOCK.0, &[0xff; 4], "no digest for data of file \"b\""),
    ];
    let mut wrong = Vec::new();
    for (at, behind, bytes, expected) in table {
        let mut image = draft().build();
        let start = place(&image, *at) + behind;
        image[start..start + bytes.len()].copy_from_slice(bytes);
        match parse(&image) {
            Err(what) if what.contains(expected) => {}
            other => wrong.push(format!("{at:?} {behind} {bytes:x?} {expected:?}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Behind the last table there are only zeros.
    let image = draft().build();
    let end = place(&image, At::Chunk(6));
    for length in (0..end).step_by(97).chain([end - 1]) {
        assert!(parse(&image[..length]).is_err(), "{length}");
    }
}

/// Names over the end of a block, and names that end with the directory.
#[test]
fn directories_of_blocks() {
    let many = |number: u32| Entry::new(format!("{number:0200}"), Node::Special(0o010_644));
    let root = (0..50).map(many).collect();
    let image = Draft { root, ..draft() }.build();
    parse(&image).unwrap();
    // The first name of the second block, which follows the last one of the first.
    let (first, digits) = (format!("{:0200}", 19), 199);
    let at = |image: &[u8]| {
        let found = image.windows(200).position(|name| name == first.as_bytes());
        found.expect("a name") + digits
    };
    for (digit, is_right) in [(b'9', true), (b'8', false), (b'7', false)] {
        let mut image = image.clone();
        let at = at(&image);
        image[at] = digit;
        assert_eq!(parse(&image).is_ok(), is_right, "{}", char::from(digit));
    }
    let end = image.windows(200).position(|name| name == format!("{:0200}", 49).as_bytes());
    let mut image = image;
    image[end.expect("a name") + 200] = b'x';
    assert!(parse(&image).unwrap_err().contains("entries are broken"));
}

/// One index says that all chunks are a file's, and many files have such an index.
#[test]
fn looks_are_counted() {
    let chunks = vec![(4096, [1; 32]); 1000];
    let blobs = vec![DraftBlob { id: "a".into(), chunks }];
    let file = |number: u32| Entry::new(format!("{number:05}"), Node::File(vec![(0, 999)]));
    let root = (0..2000).map(file).collect();
    let mut image = Draft { blobs, chunk_size: 4096, root }.build();
    assert_eq!(parse(&image).unwrap().samples.len(), 1);
    // Chunks of 2^10 blocks, each file as long as all of the blob, from its first block.
    let mut at = BLOCK as usize;
    while at + 40 <= image.len() {
        let is_file = inode::MODE.get(&image[at..]) == 0o100_644 && image[at] == 8;
        if is_file {
            inode::UNION.set(&mut image[at..], 0x2a);
            inode::COMPACT_SIZE.set(&mut image[at..], 1000 * 4096);
            index::BLOCK.set(&mut image[at + 32..], 0);
        }
        at += inode::UNIT as usize;
    }
    let what = parse(&image).unwrap_err();
    assert!(what.contains("chunks in files"), "{what}");
}

#[test]
fn can_be_stopped() {
    let root = (0..5000).map(|n| Entry::new(format!("{n:05}"), Node::Special(0o010_644))).collect();
    let image = Draft { root, ..draft() }.build();
    let stopped = Image::parse(&image, &mut || ControlFlow::Break(()));
    assert!(matches!(stopped, Err(Problem::Stopped)));
}
