//! Where a directory lies in its file system, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use rustix::fd::{AsFd, AsRawFd};
use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags, readlinkat_raw, statx};

use crate::buf::{CBuf, PathBuf};
use crate::sys::{Kernel, Linux};

/// Room for the first five fields of a line: two of them are paths, in which one byte can be four
/// characters.
type Entry = CBuf<{ 8 * 4096 + 64 }>;

/// The number of the file system's device and the path from its root, as in `8:1/var/lib`: the
/// same for each mount that leads to the directory. `None` without /proc, or if the directory
/// cannot be reached from the root directory.
pub(crate) fn path_in_file_system(directory: &impl AsFd) -> Option<CBuf<8192>> {
    let stat = statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    let entry = entry(stat.stx_mnt_id)?;
    let mut fields = entry.as_bytes().split(|byte| *byte == b' ').skip(2);
    let mut next = || fields.next();
    let (device, root, point) = (next()?, unescaped(next()?)?, unescaped(next()?)?);
    let path = path(directory)?;
    let below = path.as_bytes().strip_prefix(without_slash(point.as_bytes()))?;
    let mut place = CBuf::new();
    place.push(device)?;
    place.push(without_slash(root.as_bytes()))?;
    place.push(without_slash(below))?;
    Some(place)
}

/// The first five fields of the mount's line.
fn entry(mount_id: u64) -> Option<Entry> {
    let mut number = CBuf::<32>::new();
    number.push_number(mount_id.try_into().ok()?)?;
    number.push(b" ")?;
    let file = Linux.openat(None, c"/proc/thread-self/mountinfo", OFlags::RDONLY).ok()?;
    let (mut chunk, mut entry, mut fields) = ([0; 4096], Entry::new(), 1);
    loop {
        let length = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut chunk)).ok()?;
        for byte in chunk.get(..length).filter(|chunk| !chunk.is_empty())? {
            fields += usize::from(*byte == b' ');
            match byte {
                b'\n' if entry.as_bytes().starts_with(number.as_bytes()) => return Some(entry),
                b'\n' => {
                    entry.clear();
                    fields = 1;
                }
                _ if fields <= 5 => entry.push(&[*byte])?,
                _ => {}
            }
        }
    }
}

/// The field with each `\ooo` as the byte that it stands for.
fn unescaped(field: &[u8]) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        match (byte, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                path.push(&[(a - b'0') << 6 | (b - b'0') << 3 | (c - b'0')])?;
                rest = after;
            }
            _ => {
                path.push(&[*byte])?;
                rest = after;
            }
        }
    }
    Some(path)
}

/// The path by which the directory is reached.
fn path(directory: &impl AsFd) -> Option<PathBuf> {
    let mut link = CBuf::<32>::of(b"/proc/self/fd/")?;
    link.push_number(directory.as_fd().as_raw_fd().unsigned_abs())?;
    let mut path = [0; 4096];
    let length = readlinkat_raw(CWD, link.as_c_str(), &mut path).ok()?;
    PathBuf::of(path.get(..length)?)
}

fn without_slash(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"/").unwrap_or(path)
}
