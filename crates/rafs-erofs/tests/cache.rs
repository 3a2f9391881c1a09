//! What is believed of cached files, and of images that name the same blob.

use rafs_erofs::properties::{Draft, DraftBlob, Entry, Node};
use rafs_erofs::{Blob, Cache, Image, Mended};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use tempfile::TempDir;

const ID: &str = "blob";
const CHUNK: usize = 4096;

/// Chunks of the blob.
fn data() -> Vec<u8> {
    (0..3_u8).flat_map(|chunk| [chunk + 1; CHUNK]).collect()
}

/// An image of one file for each of the `chunks`, with the digests of `content`.
fn image(root: &Path, content: &[u8], chunks: &[u32]) -> Image {
    let digest = |chunk: &[u8]| (CHUNK as u32, blake3::hash(chunk).into());
    let blob = DraftBlob { id: ID.into(), chunks: content.chunks(CHUNK).map(digest).collect() };
    let file = |chunk: &u32| Entry::new(chunk.to_string(), Node::File(vec![(0, *chunk)]));
    let root_directory = chunks.iter().map(file).collect();
    let draft = Draft { blobs: vec![blob], chunk_size: CHUNK as u32, root: root_directory };
    let path = root.join("bootstrap");
    fs::write(&path, draft.build()).unwrap();
    let image = Image::open(&path).unwrap();
    assert_eq!(Image::blobs_of(&path).unwrap(), image.blobs);
    image
}

/// A chunk map of this length.
fn write_map(root: &Path, length: usize, bits: u8) {
    let magic = [0x424d_4150_u32, 1, 0x434d_4150].map(u32::to_le_bytes).concat();
    let mut map = vec![0; 4096 + length];
    map[..12].copy_from_slice(&magic);
    map[4096] = bits;
    fs::write(root.join("blob.chunk_map"), map).unwrap();
}

/// Files that fit an image of three chunks.
fn cached() -> (TempDir, Cache) {
    let root = tempfile::tempdir().unwrap();
    write_map(root.path(), 1, 0b1110_0000);
    fs::write(root.path().join("blob.blob.data"), data()).unwrap();
    let cache = Cache::new(root.path());
    (root, cache)
}

fn blob(chunk_count: u32, uncompressed_size: usize) -> Blob {
    let mut blob = image(tempfile::tempdir().unwrap().path(), &data(), &[0]).blobs.remove(0);
    (blob.chunk_count, blob.uncompressed_size) = (chunk_count, uncompressed_size as u64);
    blob
}

#[test]
fn who_lies_costs_no_other() {
    let (right, more_chunks) = (blob(3, 3 * CHUNK), blob(300, 3 * CHUNK));
    let longer = blob(3, 4 * CHUNK);
    let foreign = Blob { id: "b".into(), ..right.clone() };
    let discarded = || Mended { discarded: vec![ID.into()], kept: vec![] };
    let kept = || Mended { discarded: vec![], kept: vec![ID.into()] };
    type Harm = fn(&Path);
    let nothing: Harm = |_| {};
    let table: Vec<(&str, Harm, &Blob, Vec<&Blob>, Mended)> = vec![
        ("right", nothing, &right, vec![], Mended::default()),
        ("right, another lies", nothing, &right, vec![&longer], Mended::default()),
        ("more chunks, nobody else", nothing, &more_chunks, vec![], discarded()),
        ("more chunks", nothing, &more_chunks, vec![&right], kept()),
        ("longer", nothing, &longer, vec![&more_chunks, &right], kept()),
        ("two liars", nothing, &longer, vec![&more_chunks, &longer], discarded()),
        ("of another blob", nothing, &longer, vec![&foreign], discarded()),
        ("damaged for both", cut, &right, vec![&right], discarded()),
        (
            "nothing cached",
            |root| remove(root, &["chunk_map", "blob.data"]),
            &right,
            vec![],
            Mended::default(),
        ),
        ("no map", |root| remove(root, &["chunk_map"]), &right, vec![], Mended::default()),
        ("no map, other data", |root| remove(root, &["chunk_map"]), &longer, vec![], discarded()),
        // Killed in `discard`: nydusd would write to what is promoted.
        ("no map, promoted", promoted, &right, vec![], discarded()),
        ("nothing ready yet", |root| write_map(root, 1, 0), &right, vec![], Mended::default()),
        (
            "nothing ready yet, other data",
            |root| write_map(root, 1, 0),
            &longer,
            vec![],
            discarded(),
        ),
        ("nothing ready yet, no data", empty, &longer, vec![], Mended::default()),
    ];
    for (case, harm, of, others, expected) in table {
        let (root, cache) = cached();
        harm(root.path());
        let before = names(root.path());
        let others = || others.into_iter().cloned().collect();
        let mended = cache.mend(std::slice::from_ref(of), others).unwrap();
        assert_eq!(mended, expected, "{case}");
        let left = names(root.path());
        match mended.discarded.is_empty() {
            true => assert_eq!(left, before, "{case}"),
            false => {
                assert!(left.iter().all(|name| !name.starts_with("blob.")), "{case}: {left:?}")
            }
        }
        let link = root.path().join("promoted");
        assert!(!link.exists() || fs::read(link).unwrap() == data(), "{case}");
    }
}

fn cut(root: &Path) {
    fs::write(root.join("blob.blob.data"), b"cut").unwrap();
}

fn empty(root: &Path) {
    write_map(root, 1, 0);
    fs::write(root.join("blob.blob.data"), b"").unwrap();
}

fn promoted(root: &Path) {
    fs::hard_link(root.join("blob.blob.data"), root.join("promoted")).unwrap();
    remove(root, &["chunk_map"]);
}

fn remove(root: &Path, suffixes: &[&str]) {
    for suffix in suffixes {
        fs::remove_file(root.join(format!("blob.{suffix}"))).unwrap();
    }
}

fn names(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Who is asked whether the cache is damaged, or an image wrong.
#[test]
fn witnesses() {
    let mut other = data();
    other[0] ^= 1;
    // What the witness says of the chunks, those that it refers to, and bits of the chunk map.
    let table: [(&[u8], &[u32], u8, bool); 6] = [
        (&data(), &[0, 1, 2], 0b1110_0000, true),
        (&data(), &[1], 0b1110_0000, true),
        (&data(), &[0, 1, 2], 0b0100_0000, true),
        (&other, &[0, 1], 0b1110_0000, false),
        (&other, &[0, 1], 0b0100_0000, true),
        (&data(), &[0, 1, 2], 0, false),
    ];
    for (content, chunks, bits, expected) in table {
        let (root, cache) = cached();
        write_map(root.path(), 1, bits);
        let image = image(root.path(), content, chunks);
        let go_on = &mut |_| ControlFlow::Continue(());
        assert_eq!(cache.is_right((&image, ID), go_on).unwrap(), expected, "{chunks:?} {bits:b}");
        assert!(!cache.is_right((&image, "other"), go_on).unwrap());
    }
}

/// An image is read again only if this changes.
#[test]
fn the_state_of_a_cache() {
    let (root, cache) = cached();
    let blobs = [blob(3, 3 * CHUNK)];
    let mut states = vec![cache.state(&blobs).unwrap()];
    assert_eq!(states[0], cache.state(&blobs).unwrap());
    let changes: [fn(&Path); 4] = [
        |root| write_map(root, 1, 0b1100_0000),
        cut,
        |root| remove(root, &["chunk_map"]),
        |root| remove(root, &["blob.data"]),
    ];
    for change in changes {
        change(root.path());
        states.push(cache.state(&blobs).unwrap());
    }
    states.sort_unstable();
    states.dedup();
    assert_eq!(states.len(), 5);
}
