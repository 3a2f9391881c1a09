//! `/proc/thread-self/mountinfo`, proc_pid_mountinfo(5).

use crate::bound;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, open, statx};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    /// Id of the mount that it is on.
    pub(crate) parent: u64,
    /// `MAJOR:MINOR` of the file system.
    device: Vec<u8>,
    /// Its root, as a path in the file system.
    root: PathBuf,
    /// Where it is.
    pub(crate) point: PathBuf,
}

/// What this thread sees, in the order in which it was mounted.
pub(crate) fn read() -> io::Result<Vec<Entry>> {
    let table = std::fs::read("/proc/thread-self/mountinfo")?;
    Ok(table.split(|&byte| byte == b'\n').filter_map(parse).collect())
}

/// A line.
pub(crate) fn parse(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mut field = || fields.next().filter(|field| !field.is_empty());
    let number = |field: &[u8]| str::from_utf8(field).ok()?.parse().ok();
    Some(Entry {
        id: number(field()?)?,
        parent: number(field()?)?,
        device: field()?.to_vec(),
        root: unescaped(field()?),
        point: unescaped(field()?),
    })
}

/// Whether a directory is mounted at `point`, on top of all else, by a bind of it to itself.
pub(crate) fn is_bound_to_itself(mounts: &[Entry], point: &Path) -> bool {
    // What hides the others was mounted on one of them.
    let here = || mounts.iter().filter(|mount| mount.point == point);
    let top = here().find(|mount| !here().any(|above| above.parent == mount.id));
    top.is_some_and(|top| {
        let Some(below) = mounts.iter().find(|mount| mount.id == top.parent) else { return false };
        let inside = point.strip_prefix(&below.point);
        below.device == top.device && inside.is_ok_and(|inside| below.root.join(inside) == top.root)
    })
}

/// Detaches a mount, if it is still what is found at its place.
pub(crate) fn detach(mount: &Entry) -> rustix::io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = open(&mount.point, flags, Mode::empty())?;
    let found = statx(&opened, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    if found.stx_mnt_id == mount.id { bound::detach(&opened) } else { Ok(()) }
}

/// `\040` and the like are bytes in octal.
pub(crate) fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        type Row<'a> = (&'a [u8], Option<(&'a str, &'a str)>);
        let table: &[Row<'_>] = &[
            (
                b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw",
                Some(("/mnt1", "/mnt2")),
            ),
            (b"1 0 0:1 / /a\\040b\\134\\012 rw - tmpfs x rw", Some(("/", "/a b\\\n"))),
            (b"1 0 0:1 / /a\\04", Some(("/", "/a\\04"))),
            (b"1 0 0:1 /", None),
            (b"x 0 0:1 / /a", None),
            (b"1  0:1 / /a", None),
            (b"", None),
        ];
        for (line, expected) in table {
            let entry = parse(line);
            let found = entry.as_ref().map(|entry| (entry.root.as_path(), entry.point.as_path()));
            let expected = expected.map(|(root, point)| (Path::new(root), Path::new(point)));
            assert_eq!(found, expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn binds_to_themselves() {
        for (lines, expected) in [
            // Of a host's directory; of the root of a mount; below another root.
            ("1 0 8:1 / /\n2 1 8:1 /run/h /run/h", true),
            ("1 0 8:1 / /\n2 1 0:9 / /run/h\n3 2 0:9 / /run/h", true),
            ("1 0 8:1 /sub /\n2 1 8:1 /sub/run/h /run/h", true),
            // Somebody else's: another file system, another directory, on top of ours, none.
            ("1 0 8:1 / /\n2 1 0:9 / /run/h", false),
            ("1 0 8:1 / /\n2 1 8:1 /other /run/h", false),
            ("1 0 8:1 / /\n2 1 8:1 /run/h /run/h\n3 2 0:9 / /run/h", false),
            ("1 0 8:1 / /\n2 1 8:1 /run/h /run/h/below", false),
        ] {
            let mounts: Vec<_> = lines.lines().filter_map(|line| parse(line.as_bytes())).collect();
            assert_eq!(is_bound_to_itself(&mounts, Path::new("/run/h")), expected, "{lines}");
        }
    }
}
