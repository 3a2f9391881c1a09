//! What an image says of its files, as a mount of it shows them, for comparison. Images have one
//! time of a file, that of its last modification: nydusd shows 1970 for the other two, the kernel
//! the same for all. Of the root they have none: nydusd shows when it started.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, DirEntry, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Facts about each file, by its path in the tree.
pub type Facts = BTreeMap<String, Vec<(String, String)>>;

/// The facts of the tree below `root`, and of `root`.
///
/// # Errors
/// Something cannot be read.
pub fn facts(root: &Path) -> io::Result<Facts> {
    let mut walk = Walk { facts: Facts::new(), links: BTreeMap::new() };
    let mut of_root = about(root)?;
    of_root.retain(|(fact, _)| fact != "modified");
    walk.facts.insert("/".into(), of_root);
    walk.directory(root, &mut Vec::new())?;
    for names in walk.links.values_mut() {
        names.sort();
        for name in names.iter() {
            let links = ("names".to_owned(), names.join(" "));
            walk.facts.entry(name.clone()).and_modify(|about| about.push(links));
        }
    }
    Ok(walk.facts)
}

/// The first differences, a line each; none if there are none.
pub fn differences(left: &Facts, right: &Facts) -> Vec<String> {
    let names = left.keys().chain(right.keys().filter(|name| !left.contains_key(*name)));
    let differ = |name: &&String| left.get(*name) != right.get(*name);
    let line = |name: &String| match (left.get(name), right.get(name)) {
        (Some(left), Some(right)) => {
            let pairs = left.iter().zip(right).filter(|(left, right)| left != right);
            format!("{name}: {:?}", pairs.collect::<Vec<_>>())
        }
        (left, _) => {
            format!("{name}: only in the {}", if left.is_some() { "left" } else { "right" })
        }
    };
    names.filter(differ).take(20).map(line).collect()
}

struct Walk {
    facts: Facts,
    /// The names of each file that has several.
    links: BTreeMap<u64, Vec<String>>,
}

impl Walk {
    fn directory(&mut self, directory: &Path, name: &mut Vec<u8>) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let (entry, length) = (entry?, name.len());
            name.push(b'/');
            name.extend(entry.file_name().as_bytes());
            self.file(&entry, &name.escape_ascii().to_string())?;
            if entry.file_type()?.is_dir() {
                self.directory(&entry.path(), name)?;
            }
            name.truncate(length);
        }
        Ok(())
    }

    fn file(&mut self, entry: &DirEntry, name: &str) -> io::Result<()> {
        let path = entry.path();
        let mut about = about(&path)?;
        let kind = entry.file_type()?;
        let kinds = [kind.is_dir(), kind.is_file(), kind.is_symlink(), kind.is_fifo()];
        about.push(("kind in the directory".to_owned(), format!("{kinds:?}")));
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_file() {
            about.push(("content".to_owned(), content(&path)?));
        }
        if !meta.is_dir() && meta.nlink() > 1 {
            self.links.entry(meta.ino()).or_default().push(name.to_owned());
        }
        self.facts.insert(name.to_owned(), about);
        Ok(())
    }
}

fn about(path: &Path) -> io::Result<Vec<(String, String)>> {
    let meta = fs::symlink_metadata(path)?;
    let facts = [
        ("mode", format!("{:o}", meta.mode())),
        ("owner", format!("{}:{}", meta.uid(), meta.gid())),
        ("size", meta.size().to_string()),
        ("link count", meta.nlink().to_string()),
        ("device", meta.rdev().to_string()),
        ("modified", format!("{}.{:09}", meta.mtime(), meta.mtime_nsec())),
        ("attributes", attributes(path)?),
    ];
    let mut about: Vec<_> = facts.map(|(name, value)| (name.to_owned(), value)).into();
    if meta.is_symlink() {
        about.push((
            "target".to_owned(),
            fs::read_link(path)?.as_os_str().as_bytes().escape_ascii().to_string(),
        ));
    }
    Ok(about)
}

fn content(path: &Path) -> io::Result<String> {
    let mut digest = Sha256::new();
    io::copy(&mut File::open(path)?, &mut digest)?;
    Ok(format!("{:x}", digest.finalize()))
}

/// Extended attributes with their values.
fn attributes(path: &Path) -> io::Result<String> {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names[..])?;
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let show = |name: &[u8]| -> io::Result<String> {
        let mut value = vec![0; 65_536];
        let length = rustix::fs::lgetxattr(path, CString::new(name)?, &mut value[..])?;
        Ok(format!("{}={}", name.escape_ascii(), value[..length].escape_ascii()))
    };
    let mut shown = names.map(show).collect::<io::Result<Vec<_>>>()?;
    shown.sort();
    Ok(shown.join(" "))
}
