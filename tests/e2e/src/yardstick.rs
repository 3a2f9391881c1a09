//! The options with which `mount(8)` does what the helper must do with the options that it is given.
//!
//! Knows nothing of the helper's own code: both could be wrong in the same way.

use crate::generate::{Words, join};
use crate::mount8::Version;
use crate::new_api;
use crate::vocabulary::COMMON;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Bytes of data that `mount(2)` does not cut.
pub(crate) const WHOLE: usize = 4_095;

/// What `mount(8)` is given for a character that is an ordinary one, but not to it.
pub const LETTER: u8 = b'!';

/// What must come of an option string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Yardstick {
    /// Nothing is mounted, whatever `mount(8)` would do.
    Refused,
    /// What `mount(8)` does with this string.
    Same(Vec<u8>),
    /// The same, but mountinfo may show layers in another form, and names that hold what is no
    /// ordinary character to `mount(8)` must be [`plain`](crate::observe::Scene::plain) for it.
    OtherForm(Vec<u8>),
    /// This version has no options that say it: see docs/differences.md.
    Unsayable,
}

/// The words as mount.fuse3 3.14 hands them on: without some, with `dev` and `suid`.
pub fn through_mount_fuse(string: &[u8]) -> Vec<u8> {
    const DROPPED: [&[u8]; 7] =
        [b"user", b"nofail", b"nouser", b"users", b"auto", b"noauto", b"_netdev"];
    let pieces = string.split(|byte| *byte == b',').filter(|piece| !piece.is_empty());
    let mut kept: Words =
        pieces.filter(|piece| !DROPPED.contains(piece)).map(<[u8]>::to_vec).collect();
    for (word, unless) in [("dev", "nodev"), ("suid", "nosuid")] {
        if !kept.iter().any(|piece| piece == unless.as_bytes()) {
            kept.push(word.into());
        }
    }
    join(&kept)
}

/// The yardstick for `string`: without carried options, and with the options that are treated
/// otherwise on purpose (docs/differences.md) as they are meant here.
pub fn yardstick(string: &[u8], base: &Path, version: Version) -> Yardstick {
    let all = split(string);
    if all.iter().any(|word| is_refused(word)) {
        return Yardstick::Refused;
    }
    // An option string must not begin with an option that has no name, also if another one stood
    // before it.
    let starts: &[u8] = if all.first().is_some_and(|word| is_ignored(word)) { b"," } else { b"" };
    let kept: Words = all.into_iter().filter(|word| !is_ignored(word)).collect();
    let kept = read_only(kept);
    if version == Version::V2_41 {
        return new_api::yardstick(kept, !starts.is_empty(), base);
    }
    if kept.iter().any(|word| is_list(word) && has_bare_comma(word)) {
        // Not a part of a string for mount(2), which knows no escaping in this option.
        return Yardstick::Unsayable;
    }
    let renamed = kept.iter().any(|word| word.contains(&LETTER));
    let shared = kept.iter().any(|word| is_propagation(word));
    let kept = [starts, &join(&kept)].concat();
    match kept.len() > WHOLE {
        // The same from the working directory, with short names.
        true => Yardstick::OtherForm(without_base(&kept, base)),
        false if renamed || shared => Yardstick::OtherForm(kept),
        false => Yardstick::Same(kept),
    }
}

/// Of options that make a read-only mount: the upper directory as the uppermost lower layer, and
/// no work directory. It may be the second mount of a container that runs, and the kernel clears
/// the work directory of a read-only mount as well.
fn read_only(mut words: Words) -> Words {
    let upper = words.iter().rev().find_map(|word| word.strip_prefix(b"upperdir="));
    let Some(upper) = upper.filter(|upper| !upper.is_empty()).map(<[u8]>::to_vec) else {
        return words;
    };
    if !ends_read_only(&words) {
        return words;
    }
    words.retain(|word| !word.starts_with(b"upperdir=") && !word.starts_with(b"workdir="));
    let lower = words.iter().rposition(|word| word.starts_with(b"lowerdir="));
    // An empty one takes back what is before it.
    let from = lower.filter(|at| words[*at] == b"lowerdir=").unwrap_or(0);
    if let Some(at) = lower.filter(|at| words[*at] != b"lowerdir=") {
        let first = [&with_escaped_colons(&upper), b":".as_slice()].concat();
        words[at].splice(b"lowerdir=".len()..b"lowerdir=".len(), first);
    } else if let Some(at) = words.iter().skip(from).position(|word| is_list(word)) {
        words.insert(from + at, [b"lowerdir+=".as_slice(), &unescaped(&upper)].concat());
    }
    words
}

/// Whether the mount's flag says `ro`, or the last `ro=…` or `rw=…` that reaches the kernel.
fn ends_read_only(words: &[Vec<u8>]) -> bool {
    let is_either = |word: &&Vec<u8>| matches!(key(word), b"ro" | b"rw");
    let is_flag = |word: &&Vec<u8>| matches!(word.len(), 2 | 3);
    let last = |flags| words.iter().rfind(|word| is_either(word) && is_flag(word) == flags);
    [last(true), last(false)].into_iter().flatten().any(|word| word.starts_with(b"ro"))
}

/// Options that add one layer, whose value is a path as it is.
pub(crate) fn is_list(word: &[u8]) -> bool {
    matches!(key(word), b"lowerdir+" | b"datadir+")
}

fn with_escaped_colons(path: &[u8]) -> Vec<u8> {
    let (mut escaped, mut is_escaped) = (Vec::new(), false);
    for byte in path {
        if *byte == b':' && !is_escaped {
            escaped.push(b'\\');
        }
        is_escaped = *byte == b'\\' && !is_escaped;
        escaped.push(*byte);
    }
    escaped
}

fn unescaped(path: &[u8]) -> Vec<u8> {
    let (mut bytes, mut plain) = (path.iter(), Vec::new());
    while let Some(byte) = bytes.next() {
        plain.extend(if *byte == b'\\' { bytes.next() } else { Some(byte) });
    }
    plain
}

/// A comma without a backslash before it.
fn has_bare_comma(word: &[u8]) -> bool {
    word.iter().enumerate().any(|(at, byte)| *byte == b',' && !word[..at].ends_with(b"\\"))
}

/// The options, not empty, with [`LETTER`] for an ordinary character that is none to libmount: each
/// quote, which hides commas from it, and a comma after a backslash and before one of its words.
fn split(string: &[u8]) -> Words {
    let (mut words, mut word) = (Vec::new(), Vec::new());
    let (mut hidden, mut is_escaped) = (false, false);
    for (at, byte) in string.iter().enumerate() {
        let letter = match byte {
            b',' if hidden => b',',
            b',' if !is_escaped => {
                words.push(std::mem::take(&mut word));
                continue;
            }
            b',' if is_common(&string[at + 1..]) => LETTER,
            b'"' if hidden || opens(&word) && string[at + 1..].contains(&b'"') => {
                hidden = !hidden;
                b'"'
            }
            b'"' => LETTER,
            _ => *byte,
        };
        is_escaped = *byte == b'\\' && !is_escaped;
        word.push(letter);
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// Whether `rest` begins with a word that libmount knows, at least before the next layer.
pub(crate) fn is_common(rest: &[u8]) -> bool {
    let word = rest.split(|byte| matches!(byte, b',' | b':')).next().unwrap_or_default();
    let is_known = str::from_utf8(key(word)).is_ok_and(|key| COMMON.contains(&key));
    is_known || word.starts_with(b"x-") || word.starts_with(b"X-")
}

fn opens(word: &[u8]) -> bool {
    matches!(word, b"context=" | b"fscontext=" | b"defcontext=" | b"rootcontext=")
}

pub(crate) fn key(word: &[u8]) -> &[u8] {
    word.split(|byte| *byte == b'=').next().unwrap_or_default()
}

fn is_refused(word: &[u8]) -> bool {
    let bare = word.strip_suffix(b"=").unwrap_or(word);
    matches!(bare, b"bind" | b"rbind" | b"move" | b"remount")
        || word.starts_with(b"X-containerd.")
        || matches!(key(word), b"X-mount.idmap" | b"X-mount.subdir")
        || matches!(key(word), b"X-mount.owner" | b"X-mount.group" | b"X-mount.mode")
}

fn is_ignored(word: &[u8]) -> bool {
    matches!(key(word), b"extraoption" | b"io.katacontainers.volume" | b"nofail")
        || word.starts_with(b"X-mount.")
}

/// Options for which the helper asks the kernel by another method.
pub(crate) fn is_propagation(word: &[u8]) -> bool {
    const KINDS: [&[u8]; 4] = [b"shared", b"private", b"slave", b"unbindable"];
    let bare = word.strip_suffix(b"=").unwrap_or(word);
    KINDS.iter().any(|kind| bare == *kind || bare.strip_prefix(b"r") == Some(kind))
}

pub(crate) fn without_base(string: &[u8], base: &Path) -> Vec<u8> {
    let prefix = [base.as_os_str().as_bytes(), b"/"].concat();
    let mut text = string.to_vec();
    while let Some(at) = text.windows(prefix.len()).position(|w| w == prefix) {
        text.drain(at..at + prefix.len());
        let slashes = text[at..].iter().take_while(|byte| **byte == b'/').count();
        text.drain(at..at + slashes);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits() {
        let table: &[(&str, &[&str])] = &[
            (",a,,b,", &["a", "b"]),
            ("a\\,b,c", &["a\\,b", "c"]),
            ("a\\\\,b,c", &["a\\\\", "b", "c"]),
            ("a\\,ro,b\\,ro:c,\\,d", &["a\\!ro", "b\\!ro:c", "\\,d"]),
            ("a\\,x-b,\\,c", &["a\\!x-b", "\\,c"]),
            ("l=\"a,b\"", &["l=!a", "b!"]),
            ("l=\\\"a,b", &["l=\\!a", "b"]),
            ("context=\"a,b\",c", &["context=\"a,b\"", "c"]),
            ("context=\"a,b", &["context=!a", "b"]),
            ("context=\"a\"b\"c,d", &["context=\"a\"b!c", "d"]),
        ];
        for (string, words) in table {
            let words: Words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
            assert_eq!(split(string.as_bytes()), words, "{string}");
        }
    }

    #[test]
    fn asks_for() {
        let long = format!("lowerdir=/b///{}:/b/x", "n".repeat(4_100));
        let short = format!("lowerdir={}:x", "n".repeat(4_100));
        let same = |string: &str| Yardstick::Same(string.as_bytes().to_vec());
        let other = |string: &str| Yardstick::OtherForm(string.as_bytes().to_vec());
        let table = [
            ("lowerdir=a,bind", Yardstick::Refused),
            ("lowerdir=a,X-mount.owner=7", Yardstick::Refused),
            ("extraoption=x,=x,nofail,a", same(",=x,a")),
            ("lowerdir=a,rshared", other("lowerdir=a,rshared")),
            (&long, other(&short)),
            ("lowerdir=a,upperdir=u,workdir=w,rw", same("lowerdir=a,upperdir=u,workdir=w,rw")),
            ("lowerdir=a,upperdir=u,workdir=w,ro", same("lowerdir=u:a,ro")),
            ("ro,lowerdir=a,upperdir=u,rw", same("ro,lowerdir=a,upperdir=u,rw")),
            ("ro=vfs,lowerdir=a,upperdir=u,rw", same("ro=vfs,lowerdir=u:a,rw")),
            ("ro=vfs,rw=1,lowerdir=a,upperdir=u", same("ro=vfs,rw=1,lowerdir=a,upperdir=u")),
            (
                "ro=,lowerdir=b,upperdir=,lowerdir=a,upperdir=u:\\:\\,",
                same("ro=,lowerdir=b,lowerdir=u\\:\\:\\,:a"),
            ),
            ("ro,lowerdir=a,upperdir=u,upperdir=", same("ro,lowerdir=a,upperdir=u,upperdir=")),
            (
                "ro,lowerdir+=a,datadir+=d,upperdir=u\\:",
                same("ro,lowerdir+=u:,lowerdir+=a,datadir+=d"),
            ),
            ("ro,lowerdir+=a,upperdir=u\\,2", Yardstick::Unsayable),
        ];
        for (string, expected) in table {
            let found = yardstick(string.as_bytes(), Path::new("/b"), Version::V2_38);
            assert_eq!(found, expected, "{string}");
        }
    }

    #[test]
    fn mount_fuse_adds_and_drops() {
        assert_eq!(through_mount_fuse(b"user,,a,nodev"), b"a,nodev,suid");
        assert_eq!(through_mount_fuse(b"user=x,nosuid=1"), b"user=x,nosuid=1,dev,suid");
    }
}
