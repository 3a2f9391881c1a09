//! Mounts as the kernel tells them: `/proc/thread-self/mountinfo` and statmount(2).

use rustix::fs::{AtFlags, CWD, StatxFlags};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A line of mountinfo (proc(5)), its `\ooo` decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its number.
    pub id: u64,
    /// The directory of its file system that it shows.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// Options of the mount.
    pub options: String,
    /// Kinds of propagation, without the numbers of peer groups.
    pub propagation: Vec<String>,
    /// Type of the file system.
    pub kind: String,
    /// What the mount's creator called the source.
    pub source: OsString,
    /// Options of the superblock, as shown: `\ooo` still in it.
    pub superblock: OsString,
}

/// Layers of an overlay, in whichever form mountinfo shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// Lower layers, uppermost first.
    pub lower: Vec<PathBuf>,
    /// Data-only layers.
    pub data: Vec<PathBuf>,
    /// The upper layer.
    pub upper: Option<PathBuf>,
    /// Its work directory.
    pub work: Option<PathBuf>,
    /// The other options, in order.
    pub options: Vec<String>,
}

/// All mounts that this thread sees, in the order of mountinfo.
///
/// # Panics
/// There is no /proc, or not the one of proc(5).
pub fn mounts() -> Vec<Mount> {
    let text = std::fs::read("/proc/thread-self/mountinfo").expect("mountinfo");
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| parse(line).expect("a line of mountinfo")).collect()
}

/// The uppermost mount at `point`, an absolute path.
pub fn mount_at(point: &Path) -> Option<Mount> {
    mounts().into_iter().rfind(|mount| mount.point == point)
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let mut next = || fields.next();
    let id = text(next()?).parse().ok()?;
    let (_parent, _device) = (next()?, next()?);
    let (root, point) = (decoded(next()?).into(), decoded(next()?).into());
    let options = text(next()?);
    let optional = fields.by_ref().take_while(|field| *field != b"-").map(text);
    let propagation = optional.map(|field| field.split(':').next().unwrap_or("").to_owned());
    let propagation = propagation.collect();
    let kind = text(fields.next()?);
    let source = decoded(fields.next()?);
    let superblock = OsString::from_vec(fields.next()?.to_vec());
    Some(Mount { id, root, point, options, propagation, kind, source, superblock })
}

/// `\ooo` as the byte that it means.
fn decoded(field: &[u8]) -> OsString {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let octal = after.get(..3).and_then(|digits| str::from_utf8(digits).ok());
        let byte = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, byte) {
            (b'\\', Some(byte)) => (bytes.push(byte), rest = &after[3..]),
            _ => (bytes.push(*first), rest = after),
        };
    }
    OsString::from_vec(bytes)
}

impl Mount {
    /// The layers, and the other options of the superblock.
    pub fn overlay(&self) -> Overlay {
        let mut overlay = Overlay::default();
        for option in self.superblock.as_bytes().split(|byte| *byte == b',') {
            let at = option.iter().position(|byte| *byte == b'=');
            let (key, value) = option.split_at(at.map_or(0, |at| at + 1));
            let value = decoded(value);
            match key {
                b"lowerdir=" => overlay.add_list(value.as_bytes()),
                b"lowerdir+=" => overlay.lower.push(value.into()),
                b"datadir+=" => overlay.data.push(value.into()),
                b"upperdir=" => overlay.upper = Some(unescaped(value.as_bytes())),
                b"workdir=" => overlay.work = Some(unescaped(value.as_bytes())),
                _ => overlay.options.push(String::from_utf8_lossy(option).into_owned()),
            }
        }
        overlay
    }
}

impl Overlay {
    /// Layers with `:` between them, `::` before data-only ones.
    fn add_list(&mut self, value: &[u8]) {
        let layers = split(value, Some(b':'));
        let regular = layers.iter().position(Vec::is_empty).unwrap_or(layers.len());
        for (number, layer) in layers.into_iter().enumerate().filter(|(_, l)| !l.is_empty()) {
            let list = if number < regular { &mut self.lower } else { &mut self.data };
            list.push(OsString::from_vec(layer).into());
        }
    }
}

/// A path of an option, in which `\` stands before a letter.
fn unescaped(value: &[u8]) -> PathBuf {
    OsString::from_vec(split(value, None).concat()).into()
}

/// The pieces of `value` between separators that have no `\` before them.
fn split(value: &[u8], separator: Option<u8>) -> Vec<Vec<u8>> {
    let (mut pieces, mut piece, mut bytes) = (Vec::new(), Vec::new(), value.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => piece.extend(bytes.next()),
            byte if Some(*byte) == separator => pieces.push(std::mem::take(&mut piece)),
            byte => piece.push(*byte),
        }
    }
    pieces.push(piece);
    pieces
}

/// statmount(2) of the mount at `point`: sb_magic, sb_flags, mnt_attr, mnt_propagation.
/// `None` before Linux 6.8.
pub fn statmount(point: &Path) -> Option<[u64; 4]> {
    const STATMOUNT: libc::c_long = 457;
    const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
    const SB_BASIC_AND_MNT_BASIC: u64 = 1 | 2;
    let unique = StatxFlags::from_bits_retain(STATX_MNT_ID_UNIQUE);
    let id = rustix::fs::statx(CWD, point, AtFlags::empty(), unique).ok()?.stx_mnt_id;
    // struct mnt_id_req { u32 size, spare; u64 mnt_id, param; }
    let request: [u64; 3] = [24, id, SB_BASIC_AND_MNT_BASIC];
    let mut reply = [0_u64; 64];
    // SAFETY: both buffers are as long as the kernel is told, and live through the call.
    let done = unsafe {
        libc::syscall(STATMOUNT, request.as_ptr(), reply.as_mut_ptr(), size_of_val(&reply), 0)
    };
    // struct statmount: sb_magic at 24, sb_flags at 32, mnt_attr at 64, mnt_propagation at 72.
    (done == 0).then(|| [reply[3], reply[4] & 0xffff_ffff, reply[8], reply[9]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms() {
        let line = b"36 35 0:30 / /m\\040x rw,relatime shared:7 master:2 - overlay over\\040lay \
            rw,lowerdir=a\\134\\134:b\\134:c::d,lowerdir+=e\\054f,upperdir=/u\\134\\0542,workdir=/w,index=on";
        let mount = parse(line).unwrap();
        assert_eq!((mount.id, mount.point.to_str()), (36, Some("/m x")));
        assert_eq!(mount.propagation, ["shared", "master"]);
        assert_eq!(mount.source, "over lay");
        let overlay = mount.overlay();
        assert_eq!(overlay.lower, ["a\\", "b:c", "e,f"].map(PathBuf::from));
        assert_eq!(overlay.data, [PathBuf::from("d")]);
        assert_eq!(overlay.upper, Some("/u,2".into()));
        assert_eq!(overlay.work, Some("/w".into()));
        assert_eq!(overlay.options, ["rw", "index=on"]);
    }

    #[test]
    fn no_propagation_and_an_empty_source() {
        let mount = parse(b"1 0 0:1 / / rw - overlay  ro").unwrap();
        assert_eq!((mount.propagation.len(), mount.source.len()), (0, 0));
    }
}
