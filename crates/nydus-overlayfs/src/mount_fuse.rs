//! The names `mount.fuse` and `mount.fuse3`, and all rules of that program: mounts of our type are
//! made here, and for all others the distribution's program is run in our place.

use core::ffi::CStr;
use overlay_mount::Words;
use overlay_mount::buf::PathBuf;
use overlay_mount::words::words;
use rustix::fs::{Access, CWD, FileType};
use slice_names::{FUSE_PREFIXES, is_helper, program};

use crate::argv::Arguments;

/// As what the program was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvokedAs {
    /// A mount helper, as `mount.fuse` or `mount(8)` calls one.
    Helper,
    /// `mount.fuse` for a mount of our type, and where its source starts in the first argument, if
    /// it has one: `mount.fuse3` takes an empty one for none, and cuts off a type before `#`.
    MountFuse(Option<usize>),
    /// `mount.fuse` for another type.
    Other,
}

/// What argv asks `mount.fuse` for: the type is that of the last `-t`, else what the name ends
/// with, else the part of the source before `#` (mount.fuse3(8) and its source).
struct Asked<'a> {
    source: &'a CStr,
    kind: &'a [u8],
    /// The name ends with a type: then the program is called as a helper for that type is.
    by_name: bool,
    by_source: bool,
}

impl<'a> Asked<'a> {
    /// `None` if `name` is not one of `mount.fuse`.
    fn read(name: &'a CStr, mut arguments: impl Arguments<'a>) -> Option<Self> {
        let rest = split_last(name.to_bytes(), b'/').1.strip_prefix(b"mount.fuse")?;
        let suffix = match rest {
            b"" | b"3" => None,
            _ => {
                let types = FUSE_PREFIXES.iter().map(|prefix| &prefix.as_bytes()[4..]);
                Some({ types }.find_map(|prefix| rest.strip_prefix(prefix))?)
            }
        };
        let source = arguments.next().unwrap_or_default();
        let mut asked = None;
        arguments.next(); // the target
        while let Some(argument) = arguments.next() {
            match argument.to_bytes() {
                b"-o" => _ = arguments.next(),
                b"-t" => asked = arguments.next().map(|kind| program(kind.to_bytes())).or(asked),
                _ => {}
            }
        }
        let in_source = source.to_bytes().split(|byte| *byte == b'#').next().unwrap_or_default();
        let by_source = asked.is_none() && suffix.is_none();
        let kind = asked.or(suffix).unwrap_or(in_source);
        Some(Self { source, kind, by_name: suffix.is_some(), by_source })
    }
}

/// Reads argv. Its answer holds no reference to it, so that argv can be written to.
pub fn invoked_as<'a>(name: &'a CStr, arguments: impl Arguments<'a>) -> InvokedAs {
    let Some(asked) = Asked::read(name, arguments) else { return InvokedAs::Helper };
    let source = asked.source.count_bytes();
    match asked {
        // `--help` and the like are questions to the program behind the name.
        Asked { kind, .. } if !is_helper(kind) => InvokedAs::Other,
        Asked { by_name: true, .. } => InvokedAs::Helper,
        Asked { kind, by_source: true, .. } => {
            InvokedAs::MountFuse(Some(kind.len() + 1).filter(|start| *start <= source))
        }
        Asked { .. } => InvokedAs::MountFuse(Some(0).filter(|_| source > 0)),
    }
}

/// The type that argv asks `mount.fuse` for.
pub(crate) fn kind<'a>(name: &'a CStr, arguments: impl Arguments<'a>) -> &'a [u8] {
    Asked::read(name, arguments).map_or(b"", |asked| asked.kind)
}

/// What `mount.fuse` makes of the options before it hands them to a helper (mount.fuse3 of libfuse
/// 3.14): nothing, if it was not called so.
#[derive(Clone, Copy, Default)]
pub(crate) struct HandOn<'a> {
    is_mount_fuse: bool,
    nodev: bool,
    nosuid: bool,
    /// An option that asks it to give up root.
    pub(crate) unprivileged: Option<&'a [u8]>,
}

impl<'a> HandOn<'a> {
    pub(crate) fn new(
        invoked_as: InvokedAs,
        strings: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Self {
        let mut hand_on = Self::default();
        if !matches!(invoked_as, InvokedAs::MountFuse(_)) {
            return hand_on;
        }
        hand_on.is_mount_fuse = true;
        for word in strings.flat_map(words) {
            match word {
                b"nodev" => hand_on.nodev = true,
                b"nosuid" => hand_on.nosuid = true,
                b"setuid=" => {}
                b"drop_privileges" => hand_on.unprivileged = Some(word),
                _ if word.starts_with(b"setuid=") => hand_on.unprivileged = Some(word),
                _ => {}
            }
        }
        hand_on
    }

    /// The options of `strings`, the values of `-o`: without `user` and `users`, and with `dev` and
    /// `suid` at the end unless `nodev` and `nosuid` are among them.
    pub(crate) fn options(self, strings: impl Iterator<Item = &'a [u8]> + Clone) -> impl Words<'a> {
        let drops = |word: &[u8]| matches!(word, b"user" | b"users" | b"setuid=");
        let all = strings.flat_map(words);
        let all = all.filter(move |word| !self.is_mount_fuse || !drops(word));
        let dev: Option<&[u8]> = (self.is_mount_fuse && !self.nodev).then_some(b"dev");
        let suid: Option<&[u8]> = (self.is_mount_fuse && !self.nosuid).then_some(b"suid");
        all.chain(dev).chain(suid)
    }
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
    use std::{ffi::CString, string::String, vec::Vec};

    #[test]
    fn calls() {
        use InvokedAs::{Helper, MountFuse, Other};
        const FRONT: InvokedAs = MountFuse(Some(0));
        let table = [
            ("nydus-overlayfs overlay /t -t other", Helper),
            ("/sbin/mount.fuse.nydus-overlayfs overlay /t", Helper),
            ("mount.fuse3.nydus-overlayfs overlay /t", Helper),
            ("mount.fuseblk.nydus-overlayfs overlay /t", Helper),
            ("mount.fused overlay /t -t other", Helper),
            ("mount.nydus-overlayfs overlay /t", Helper),
            ("mount.fuse overlay /t -t nydus-overlayfs", FRONT),
            ("/usr/local/sbin/mount.fuse3 overlay /t -o a -t nydus-overlayfs", FRONT),
            ("mount.fuse overlay /t -t fuse.nydus-overlayfs", FRONT),
            ("mount.fuse overlay /t -t fuse3./opt/bin/nydus-overlayfs-x", FRONT),
            ("mount.fuse overlay /t -t other -t nydus-overlayfs", FRONT),
            ("mount.fuse overlay /t -t nydus-overlayfs -t other", Other),
            ("mount.fuse overlay /t -t nydus-overlayfsx", Other),
            ("mount.fuse overlay /t -o -t -o nydus-overlayfs -t other", Other),
            ("mount.fuse nydus-overlayfs /t -t other", Other),
            ("mount.fuse nydus-overlayfs#over#lay /t", MountFuse(Some(16))),
            ("mount.fuse nydus-overlayfs# /t", MountFuse(Some(16))),
            ("mount.fuse nydus-overlayfs /t", MountFuse(None)),
            ("mount.fuse  /t -t nydus-overlayfs", MountFuse(None)),
            ("mount.fuse other#nydus-overlayfs /t", Other),
            ("mount.fuse.other nydus-overlayfs /t", Other),
            ("mount.fuse.other overlay /t -t nydus-overlayfs", Helper),
            ("mount.fuse.nydus-overlayfs overlay /t -t other", Other),
            ("mount.fuse", Other),
            ("mount.fuse --help", Other),
        ];
        for (line, expected) in table {
            let owned: Vec<CString> = line.split(' ').map(|a| CString::new(a).unwrap()).collect();
            let mut arguments = owned.iter().map(CString::as_c_str);
            let name = arguments.next().unwrap();
            assert_eq!(invoked_as(name, arguments), expected, "{line}");
        }
    }

    /// What `mount.fuse` hands on.
    #[test]
    fn hands_on() {
        let table: &[(&[&str], &str)] = &[
            (&["lowerdir=/a", "user"], "lowerdir=/a dev suid"),
            (&["lowerdir=/a,nodev,users"], "lowerdir=/a nodev suid"),
            (&["nosuid", "setuid=,user=joe"], "nosuid user=joe dev"),
            (&["owner,uidmap=0:1:2,3:4:5", "=x"], "owner uidmap=0:1:2,3:4:5 =x dev suid"),
            (&[], "dev suid"),
        ];
        for (strings, expected) in table {
            let bytes = strings.iter().map(|string| string.as_bytes());
            let words = hand_on(InvokedAs::MountFuse(None), &bytes.clone().collect::<Vec<_>>());
            assert_eq!(String::from_utf8_lossy(&words.join(&b' ')), *expected);
            let all = hand_on(InvokedAs::Helper, &bytes.clone().collect::<Vec<_>>());
            assert_eq!(all, bytes.flat_map(words_of).collect::<Vec<_>>());
        }
        for (word, refused) in [("setuid=1", true), ("drop_privileges", true), ("setuid", false)] {
            let strings = [word.as_bytes()].into_iter();
            let hand_on = HandOn::new(InvokedAs::MountFuse(None), strings);
            assert_eq!(hand_on.unprivileged.is_some(), refused, "{word}");
        }
    }

    fn hand_on<'a>(invoked_as: InvokedAs, strings: &[&'a [u8]]) -> Vec<&'a [u8]> {
        let strings = strings.iter().copied();
        HandOn::new(invoked_as, strings.clone()).options(strings).collect()
    }

    fn words_of(string: &[u8]) -> impl Words<'_> {
        words(string)
    }
}
