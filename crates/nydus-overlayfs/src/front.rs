//! The names `mount.fuse` and `mount.fuse3`: mounts of our type are made here, and all others are
//! the distribution's program's, which is run in our place.

use core::ffi::CStr;
use overlay_mount::buf::PathBuf;
use rustix::fs::{Access, CWD, FileType};

use crate::argv::Arguments;

/// As what the program was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called<'a> {
    /// A mount helper, as `mount.fuse` or `mount(8)` calls one.
    Helper,
    /// `mount.fuse` for a mount of our type, and its source if it has one: `mount.fuse3` takes an
    /// empty one for none, and cuts off a type that stands before `#`.
    Front(Option<&'a CStr>),
    /// `mount.fuse` for another type.
    Foreign(&'a [u8]),
}

/// Reads argv: the type is that of the last `-t`, else what the name ends with, else the part of
/// the source before `#` (mount.fuse3(8) and its source).
pub fn called<'a>(name: &'a CStr, mut arguments: impl Arguments<'a>) -> Called<'a> {
    let (_, name) = split_last(name.to_bytes(), b'/');
    let Some(rest) = name.strip_prefix(b"mount.fuse") else { return Called::Helper };
    let suffix = match rest {
        b"" | b"3" => None,
        _ => [&b"."[..], b"3.", b"blk."].iter().find_map(|dot| rest.strip_prefix(*dot)),
    };
    if suffix.is_none() && !matches!(rest, b"" | b"3") {
        return Called::Helper;
    }
    let source = arguments.next().unwrap_or_default();
    let mut asked = None;
    arguments.next(); // the target
    while let Some(argument) = arguments.next() {
        match argument.to_bytes() {
            b"-o" => _ = arguments.next(),
            b"-t" => asked = arguments.next().map(|kind| plain(kind.to_bytes())).or(asked),
            _ => {}
        }
    }
    let in_source = source.to_bytes().split(|byte| *byte == b'#').next().unwrap_or_default();
    match asked.or(suffix) {
        Some(kind) if !is_ours(kind) => Called::Foreign(kind),
        Some(_) if suffix.is_some() => Called::Helper,
        Some(_) => Called::Front(Some(source).filter(|source| !source.is_empty())),
        // `--help` and the like are questions to the program behind the name.
        None if !is_ours(in_source) => Called::Foreign(in_source),
        None => {
            let rest = source.to_bytes_with_nul().get(in_source.len() + 1..);
            Called::Front(rest.and_then(|rest| CStr::from_bytes_with_nul(rest).ok()))
        }
    }
}

fn plain(kind: &[u8]) -> &[u8] {
    let prefixes = [&b"fuse."[..], b"fuse3.", b"fuseblk."];
    prefixes.iter().find_map(|prefix| kind.strip_prefix(*prefix)).unwrap_or(kind)
}

/// A type names its program, maybe with a path: ours, or a copy of it with a suffix.
fn is_ours(kind: &[u8]) -> bool {
    let rest = split_last(kind, b'/').1.strip_prefix(b"nydus-overlayfs");
    matches!(rest, Some([] | [b'-', ..]))
}

/// `text` up to and after the last `byte`.
fn split_last(text: &[u8], byte: u8) -> (&[u8], &[u8]) {
    text.split_at(text.iter().rposition(|one| *one == byte).map_or(0, |at| at + 1))
}

/// Where `mount.fuse3` is if no directory of PATH has it.
const USUAL: [&[u8]; 2] = [b"/usr/sbin", b"/sbin"];
/// Where dpkg-divert(1) puts it by default.
const DIVERTED: &[u8] = b"/sbin/mount.fuse.distrib";

/// The program that would have been run if there were none of ours: the first one after us in
/// `path`, then in the usual places. `me` is the file that was executed.
pub fn real(name: &CStr, path: &[u8], me: &CStr) -> Option<PathBuf> {
    let me = rustix::fs::stat(me).map(|stat| (stat.st_dev, stat.st_ino)).ok();
    let name = split_last(name.to_bytes(), b'/').1;
    let directories = path.split(|byte| *byte == b':').chain(USUAL);
    let in_directories = directories
        .filter(|directory| directory.starts_with(b"/"))
        .flat_map(|directory| [name, b"mount.fuse3"].map(|name| join(directory, name)));
    let mut choice = None;
    for file in in_directories.chain([PathBuf::of(DIVERTED)]).flatten() {
        match rustix::fs::stat(file.as_c_str()) {
            // Another copy of us, to which this one passes on, must not pass on to this one.
            Ok(stat) if Some((stat.st_dev, stat.st_ino)) == me => choice = None,
            Ok(stat) if choice.is_none() && is_program(&file, stat.st_mode) => choice = Some(file),
            _ => {}
        }
    }
    choice
}

fn join(directory: &[u8], name: &[u8]) -> Option<PathBuf> {
    let mut path = PathBuf::of(directory)?;
    path.push(b"/")?;
    path.push(name)?;
    Some(path)
}

fn is_program(file: &PathBuf, mode: u32) -> bool {
    FileType::from_raw_mode(mode) == FileType::RegularFile
        && rustix::fs::accessat(CWD, file.as_c_str(), Access::EXEC_OK, rustix::fs::AtFlags::empty())
            .is_ok()
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{ffi::CString, vec::Vec};

    #[test]
    fn calls() {
        const OTHER: Called<'_> = Called::Foreign(b"other");
        const FRONT: Called<'_> = Called::Front(Some(c"overlay"));
        let table = [
            ("nydus-overlayfs overlay /t -t other", Called::Helper),
            ("/sbin/mount.fuse.nydus-overlayfs overlay /t", Called::Helper),
            ("mount.fuse3.nydus-overlayfs overlay /t", Called::Helper),
            ("mount.fuseblk.nydus-overlayfs overlay /t", Called::Helper),
            ("mount.fused overlay /t -t other", Called::Helper),
            ("mount.nydus-overlayfs overlay /t", Called::Helper),
            ("mount.fuse overlay /t -t nydus-overlayfs", FRONT),
            ("/usr/local/sbin/mount.fuse3 overlay /t -o a -t nydus-overlayfs", FRONT),
            ("mount.fuse overlay /t -t fuse.nydus-overlayfs", FRONT),
            ("mount.fuse overlay /t -t fuse3./opt/bin/nydus-overlayfs-x", FRONT),
            ("mount.fuse overlay /t -t other -t nydus-overlayfs", FRONT),
            ("mount.fuse overlay /t -t nydus-overlayfs -t other", OTHER),
            ("mount.fuse overlay /t -t nydus-overlayfsx", Called::Foreign(b"nydus-overlayfsx")),
            ("mount.fuse overlay /t -o -t -o nydus-overlayfs -t other", OTHER),
            ("mount.fuse nydus-overlayfs /t -t other", OTHER),
            ("mount.fuse nydus-overlayfs#over#lay /t", Called::Front(Some(c"over#lay"))),
            ("mount.fuse nydus-overlayfs# /t", Called::Front(Some(c""))),
            ("mount.fuse nydus-overlayfs /t", Called::Front(None)),
            ("mount.fuse  /t -t nydus-overlayfs", Called::Front(None)),
            ("mount.fuse other#nydus-overlayfs /t", OTHER),
            ("mount.fuse.other nydus-overlayfs /t", OTHER),
            ("mount.fuse.other overlay /t -t nydus-overlayfs", Called::Helper),
            ("mount.fuse.nydus-overlayfs overlay /t -t other", OTHER),
            ("mount.fuse", Called::Foreign(b"")),
            ("mount.fuse --help", Called::Foreign(b"--help")),
        ];
        for (line, expected) in table {
            let owned: Vec<CString> = line.split(' ').map(|a| CString::new(a).unwrap()).collect();
            let mut arguments = owned.iter().map(CString::as_c_str);
            let name = arguments.next().unwrap();
            assert_eq!(called(name, arguments), expected, "{line}");
        }
    }
}
