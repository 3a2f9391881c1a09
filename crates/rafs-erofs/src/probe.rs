//! Whether this kernel can, by trying.

use crate::error::{Result, Unsupported, io};
use crate::mount::{self, Way};
use rustix::mount::{FsOpenFlags, fsconfig_create, fsconfig_set_string, fsopen};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What the file of the tiny image holds: all of its only device.
const CONTENT: [u8; 4096] = [0x5a; 4096];

/// The way that is open here, tried with a tiny image below `scratch` (a directory on the file
/// system of the promoted images) and an overlay on it. Leaves nothing behind.
///
/// # Errors
/// None is, and why.
pub fn probe(scratch: &Path) -> Result<Way, Unsupported> {
    let of = |way| try_way(&scratch.join(".probe"), way);
    let Err(file) = of(Way::File) else { return Ok(Way::File) };
    let Err(device) = of(Way::Loop) else { return Ok(Way::Loop) };
    Err(Unsupported { file, device })
}

/// Whether this way is open, as [`probe`] says.
///
/// # Errors
/// It is not, and why.
pub fn try_way(directory: &Path, way: Way) -> Result<(), String> {
    let tried = attempt(directory, way);
    let cleared = clear(directory).map_err(|error| error.to_string());
    tried.and(cleared)
}

fn attempt(directory: &Path, way: Way) -> Result<(), String> {
    clear(directory).map_err(|error| error.to_string())?;
    let words = |error: std::io::Error| format!("{}: {error}", directory.display());
    let [point, empty] = ["mount", "empty"].map(|name| directory.join(name));
    for made in [directory, &point, &empty] {
        fs::create_dir(made).map_err(words)?;
    }
    let file = |name: &str, bytes: &[u8]| -> std::io::Result<(PathBuf, File)> {
        let path = directory.join(name);
        fs::write(&path, bytes)?;
        let file = File::open(&path)?;
        Ok((path, file))
    };
    let files = || Ok(vec![file("image", &image())?, file("0", &CONTENT)?]);
    let made = mount::make(&files().map_err(words)?, way)?;
    let mut content = [0; CONTENT.len()];
    let read = made.open("f").and_then(|file| file.read_exact_at(&mut content, 0));
    read.map_err(|error| format!("read: {error}"))?;
    if content != CONTENT {
        return Err("reads other bytes than its device has".into());
    }
    mount::attach(&made, &point)?;
    overlay(&point, &empty).map_err(|error| format!("overlay on it: {error}"))
}

/// File systems below each other are limited, and EROFS on files counts as one.
fn overlay(lower: &Path, empty: &Path) -> rustix::io::Result<()> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let layers = format!("{}:{}", lower.display(), empty.display());
    fsconfig_set_string(&context, "source", "overlay")?;
    fsconfig_set_string(&context, "lowerdir", layers)?;
    fsconfig_create(&context)
}

/// What a probe that was killed has left, too.
fn clear(directory: &Path) -> Result<()> {
    mount::unmount(&directory.join("mount"))?;
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done.map_err(io("remove", directory)),
    }
}

/// An image of a root directory with a file `f` of one chunk, all of its only device.
fn image() -> [u8; 4096] {
    let mut image = [0; 4096];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    // Superblock: magic, bits of a block, root, inodes, blocks.
    put(1024, &0xe0f5_e1e2_u32.to_le_bytes());
    put(1036, &[12]);
    put(1038, &64_u16.to_le_bytes());
    put(1040, &2_u64.to_le_bytes());
    put(1060, &1_u32.to_le_bytes());
    // Features: chunks, device table; one device, whose slot of 128 bytes is number 11.
    put(1104, &0xc_u32.to_le_bytes());
    put(1110, &[1, 0, 11]);
    put(1408 + 64, &1_u32.to_le_bytes());
    // Root, inode 64: inline data, mode, links, size; then `.`, `..` and `f`.
    put(2048, &[2 << 1]);
    put(2052, &0o040_755_u16.to_le_bytes());
    put(2054, &[2]);
    put(2056, &40_u32.to_le_bytes());
    for (entry, (inode, name, kind)) in [(64, 36, 2), (64, 37, 2), (68, 39, 1)].iter().enumerate() {
        put(2080 + entry * 12, &[*inode]);
        put(2080 + entry * 12 + 8, &[*name, 0, *kind]);
    }
    put(2116, b"...f");
    // The file, inode 68: chunks, mode, links, size, indexes of chunks of one block; then the
    // index: device 1, block 0.
    put(2176, &[4 << 1]);
    put(2180, &0o100_644_u16.to_le_bytes());
    put(2182, &[1]);
    put(2184, &4096_u32.to_le_bytes());
    put(2192, &0x20_u32.to_le_bytes());
    put(2208 + 2, &[1]);
    image
}
