//! What a tree of files looks like, for comparison.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A line for each file below `root`, sorted: type and mode, owner, path, contents, extended
/// attributes. What cannot be read is said in its line.
pub fn tree(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    add(root, &mut Vec::new(), &mut lines);
    lines.sort();
    lines
}

/// What became of `before`: the lines that came, after a `+`, then those that went, after a `-`.
pub fn changes(before: &[String], after: &[String]) -> Vec<String> {
    let came = after.iter().filter(|line| !before.contains(line)).map(|line| format!("+ {line}"));
    let went = before.iter().filter(|line| !after.contains(line)).map(|line| format!("- {line}"));
    came.chain(went).collect()
}

fn add(directory: &Path, name: &mut Vec<u8>, lines: &mut Vec<String>) {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return lines.push(format!("{} {error}", name.escape_ascii())),
    };
    for entry in entries.flatten() {
        let (path, length) = (entry.path(), name.len());
        name.push(b'/');
        name.extend(entry.file_name().as_bytes());
        lines.push(line(&path, name));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            add(&path, name, lines);
        }
        name.truncate(length);
    }
}

fn line(path: &Path, name: &[u8]) -> String {
    let name = name.escape_ascii();
    let Ok(meta) = fs::symlink_metadata(path) else { return format!("{name} cannot be seen") };
    let contents = match meta.is_file().then(|| fs::read(path)) {
        Some(Ok(contents)) => contents.escape_ascii().to_string(),
        Some(Err(error)) => error.to_string(),
        None => String::new(),
    };
    let (mode, uid, gid) = (meta.mode(), meta.uid(), meta.gid());
    format!("{mode:o} {uid}:{gid} {name} {contents}{}", attributes(path))
}

/// Names of the extended attributes; values except overlayfs's own, which hold inode numbers.
fn attributes(path: &Path) -> String {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut shown: Vec<_> = names.map(|name| attribute(path, name)).collect();
    shown.sort();
    shown.concat()
}

fn attribute(path: &Path, name: &[u8]) -> String {
    let mut value = [0; 4096];
    let is_overlays = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
    let length = match CString::new(name) {
        Ok(name) if !is_overlays => rustix::fs::lgetxattr(path, &*name, &mut value[..]),
        _ => Ok(0),
    };
    format!(" {}={}", name.escape_ascii(), value[..length.unwrap_or(0)].escape_ascii())
}
