//! Whether this kernel can, by trying.

use crate::error::{Result, Unsupported, io};
use crate::image::build::{Draft, DraftBlob, Entry, Node};
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
fn image() -> Vec<u8> {
    let chunks = vec![(CONTENT.len() as u32, [0x5a; 32])];
    let blobs = vec![DraftBlob { id: "0".into(), chunks }];
    let root = vec![Entry::new("f", Node::File(vec![(0, 0)]))];
    Draft { blobs, chunk_size: 4096, root }.build()
}
