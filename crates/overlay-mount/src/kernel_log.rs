//! The kernel's log (/dev/kmsg), and which of its lines are about a mount of ours: mounts of other
//! processes fail at the same time.

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::inspect::directories;
use crate::options::{Options, Words};

/// The log, from when it was opened.
pub(crate) struct KernelLog(OwnedFd);

impl KernelLog {
    /// `None` where it must not be read.
    pub(crate) fn from_now() -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let log = rustix::fs::open(c"/dev/kmsg", flags, Mode::empty()).ok()?;
        rustix::fs::seek(&log, SeekFrom::End(0)).ok()?;
        Some(Self(log))
    }

    /// Puts the first error of overlayfs that is ours at the start of `text`: it is by the thread
    /// `caller` or, where that is not known or the kernel records no callers, `is_ours` says so.
    /// Returns its length.
    pub(crate) fn find_error(
        &self,
        text: &mut [u8],
        caller: Option<u32>,
        is_ours: impl Fn(&[u8]) -> bool,
    ) -> Option<usize> {
        // The log holds fewer.
        const RECORDS_MAX: usize = 1 << 16;
        for _ in 0..RECORDS_MAX {
            let length = match rustix::io::read(&self.0, &mut *text) {
                Ok(length) => length,
                // Records that were overwritten before we read them, or one that is too long.
                Err(Errno::PIPE | Errno::INVAL | Errno::INTR) => continue,
                Err(_) => return None,
            };
            let Some(record) = Record::parse(&text[..length]) else { continue };
            let ours = match (record.caller, caller) {
                (Some(number), Some(caller)) => number == caller,
                _ => is_ours(record.text),
            };
            if record.is_error && ours && record.text.starts_with(b"overlay") {
                let (start, end) = (record.start, record.start + record.text.len());
                text.copy_within(start..end, 0);
                return Some(end - start);
            }
        }
        None
    }
}

/// A record of the log, `PRIORITY,SEQUENCE,TIME,FLAGS[,caller=TID];TEXT\n` and lines that begin
/// with a blank (Documentation/ABI/testing/dev-kmsg).
#[derive(Debug, PartialEq, Eq)]
struct Record<'r> {
    /// Level 3, `KERN_ERR`, or worse.
    is_error: bool,
    caller: Option<u32>,
    start: usize,
    text: &'r [u8],
}

impl<'r> Record<'r> {
    fn parse(record: &'r [u8]) -> Option<Self> {
        let semicolon = record.iter().position(|byte| *byte == b';')?;
        let (head, text) = (&record[..semicolon], &record[semicolon + 1..]);
        let text = text.split(|byte| *byte == b'\n').next()?;
        let number = |digits: &[u8]| core::str::from_utf8(digits).ok()?.parse::<u32>().ok();
        let mut fields = head.split(|byte| *byte == b',');
        let is_error = number(fields.next()?)? & 7 <= 3;
        let caller = fields.find_map(|field| field.strip_prefix(b"caller=T")).and_then(number);
        Some(Self { is_error, caller, start: semicolon + 1, text })
    }
}

/// Whether `text` names an option or a path, and none that is not one of ours.
pub(crate) fn names_only_ours<'a, W: Words<'a>>(text: &[u8], options: &Options<'a, W>) -> bool {
    let mut rest = [0; 2048];
    let Some(rest) = rest.get_mut(..text.len()) else { return false };
    rest.copy_from_slice(text);
    let mut named = false;
    // Of several options with one key the last one counts.
    for word in options.kept().filter(|word| options.is_last(word)) {
        named |= blank_out(rest, word);
    }
    for directory in directories(options) {
        named |= blank_out(rest, directory.path);
        if let Some(path) = directory.unescaped() {
            named |= blank_out(rest, path.as_bytes());
        }
    }
    named && !names_something(rest)
}

/// Stands in the place of what is ours.
const OURS: u8 = 1;

/// Overwrites `name` wherever it stands by itself, and in quotes if it has no character
/// that prose has not. Whether there was one.
fn blank_out(text: &mut [u8], name: &[u8]) -> bool {
    const QUOTES: &[u8] = b"'\"";
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"/.-_+".contains(byte);
    let in_prose = !name.iter().any(|byte| b"=/".contains(byte)) && !is_flag(name);
    let mut found = false;
    for start in 0..(text.len() + 1).saturating_sub(name.len().max(1)) {
        let end = start + name.len();
        let before = start.checked_sub(1).map(|at| text[at]);
        let after = text.get(end).copied();
        let by_itself = match in_prose {
            true => before == after && before.is_some_and(|byte| QUOTES.contains(&byte)),
            false => !before.as_ref().is_some_and(is_part) && !after.as_ref().is_some_and(is_part),
        };
        if by_itself && !name.is_empty() && text[start..end] == *name {
            text[start..end].fill(OURS);
            found = true;
        }
    }
    found
}

/// Whether something is left that looks like an option or a path.
fn names_something(text: &[u8]) -> bool {
    let opens_quote = |pair: &[u8]| pair[0] == b' ' && b"'\"".contains(&pair[1]);
    let quoted = text.windows(3).any(|three| opens_quote(three) && three[2] != OURS);
    let mut words = text.split(|byte| !byte.is_ascii_alphanumeric());
    quoted || text.iter().any(|byte| b"=/".contains(byte)) || words.any(is_flag)
}

/// Options without a value that overlayfs names in its messages.
fn is_flag(name: &[u8]) -> bool {
    matches!(name, b"userxattr" | b"volatile")
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::options::Lsm;
    use crate::words::words;

    #[test]
    fn records() {
        let is = |is_error, caller, start, text| Some(Record { is_error, caller, start, text });
        let table: &[(&[u8], Option<Record<'_>>)] = &[
            (b"3,339,51409,-;overlayfs: x\n A=b\n", is(true, None, 14, b"overlayfs: x")),
            (b"6,339,51409,-,caller=T17;a;b\n", is(false, Some(17), 25, b"a;b")),
            (b"30,1,2,c,caller=C1;x", is(false, None, 19, b"x")),
            (b"3,339", None),
            (b"", None),
        ];
        for (record, expected) in table {
            assert_eq!(Record::parse(record), *expected, "{}", record.escape_ascii());
        }
    }

    #[test]
    fn whose_line_it_is() {
        const OPTIONS: &[u8] =
            b"lowerdir=/l/a:b,upperdir=/u\\,2,workdir=/w:2,userxattr,metacopy=off,redirect_dir=on,metacopy=on";
        let options = Options::read(words(OPTIONS), Lsm::default).ok().unwrap();
        let table: &[(&str, bool)] = &[
            ("overlayfs: conflicting options: userxattr,redirect_dir=on", true),
            ("overlayfs: conflicting options: userxattr,metacopy=on", true),
            ("overlayfs: conflicting options: nfs_export=on,metacopy=on", false),
            ("overlayfs: conflicting options: userxattr,verity=on", false),
            ("overlayfs: conflicting options: volatile,metacopy=on", false),
            ("overlayfs: filesystem on '/u,2' not supported as upperdir", true),
            ("overlayfs: filesystem on /u,2 not supported as upperdir", true),
            ("overlayfs: filesystem on '/u' not supported as upperdir", false),
            ("overlayfs: failed to resolve '/l/a': -2", true),
            ("overlayfs: failed to resolve '/l/ab': -2", false),
            ("overlayfs: failed to resolve '/x/l/a': -2", false),
            ("overlayfs: failed to resolve 'b': -2", true),
            ("overlayfs: failed to resolve 'c': -2", false),
            ("overlayfs: failed to create directory /w:2/work (errno: 5)", false),
            ("overlayfs: a b c", false),
            ("overlayfs: missing 'lowerdir'", false),
            ("overlayfs: conflicting options: metacopy=off,redirect_dir=on", false),
            ("overlayfs: maximum fs stacking depth exceeded", false),
            ("overlayfs: upperdir is in-use as upperdir/workdir of another mount", false),
            ("overlayfs: \"xino=on\" is useless", false),
            ("overlayfs: unrecognized mount option \"metacopy=on\" or missing value", true),
            ("", false),
        ];
        for (text, expected) in table {
            assert_eq!(names_only_ours(text.as_bytes(), &options), *expected, "{text}");
        }
    }
}
