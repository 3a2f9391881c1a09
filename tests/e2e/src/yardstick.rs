//! What `mount(8)` has to be asked for, so that what it does is what the helper must do.
//!
//! Knows nothing of the helper's own code: both could be wrong in the same way.

use crate::generate::{Words, join};
use crate::vocabulary::COMMON;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

/// Bytes of data that `mount(2)` does not cut.
const WHOLE: usize = 4_095;

/// What `mount(8)` is given for a letter that is none to it.
pub const LETTER: u8 = b'!';

/// What must come of an option string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Yardstick {
    /// Nothing is mounted, whatever `mount(8)` would do.
    Refused,
    /// What `mount(8)` does with this string.
    Same(Vec<u8>),
    /// The same, but mountinfo may show layers in another form, and names that hold what is no
    /// letter to `mount(8)` must be [`plain`](crate::observe::Scene::plain) for it.
    OtherForm(Vec<u8>),
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

/// The yardstick for `string`: without carried options, and with the words that are treated
/// otherwise on purpose (`overlay_mount::table::DIFFERENCES`) as they are meant here.
pub fn yardstick(string: &[u8], base: &Path) -> Yardstick {
    let all = split(string);
    if all.iter().any(|word| is_refused(word)) {
        return Yardstick::Refused;
    }
    // An option string must not begin with a word that has no name, also if one stood before it.
    let starts: &[u8] = if all.first().is_some_and(|word| is_ignored(word)) { b"," } else { b"" };
    let renamed = all.iter().any(|word| word.contains(&LETTER));
    let shared = all.iter().any(|word| is_propagation(word));
    let kept: Words = all.into_iter().filter(|word| !is_ignored(word)).collect();
    let kept = [starts, &join(&kept)].concat();
    match kept.len() > WHOLE {
        // The same from the working directory, with short names.
        true => Yardstick::OtherForm(without_base(&kept, base)),
        false if renamed || shared => Yardstick::OtherForm(kept),
        false => Yardstick::Same(kept),
    }
}

/// `mount(8)` on `target` with these options, by mount(2) and without helpers.
pub fn mount8(target: &Path, string: &[u8]) -> Command {
    let mut command = Command::new("mount");
    // From util-linux 2.39 on only this makes it use mount(2).
    command.env("LIBMOUNT_FORCE_MOUNT2", "always");
    command.args(["-i", "-t", "overlay", "overlay"]).arg(target);
    command.arg("-o").arg(OsStr::from_bytes(string));
    command
}

/// The words, not empty, with [`LETTER`] for what is a letter but not to libmount 2.38: each
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
fn is_common(rest: &[u8]) -> bool {
    let word = rest.split(|byte| matches!(byte, b',' | b':')).next().unwrap_or_default();
    let is_known = str::from_utf8(key(word)).is_ok_and(|key| COMMON.contains(&key));
    is_known || word.starts_with(b"x-") || word.starts_with(b"X-")
}

fn opens(word: &[u8]) -> bool {
    matches!(word, b"context=" | b"fscontext=" | b"defcontext=" | b"rootcontext=")
}

fn key(word: &[u8]) -> &[u8] {
    word.split(|byte| *byte == b'=').next().unwrap_or_default()
}

fn is_refused(word: &[u8]) -> bool {
    let bare = word.strip_suffix(b"=").unwrap_or(word);
    matches!(bare, b"bind" | b"rbind" | b"move" | b"remount")
        || word.starts_with(b"X-containerd.")
        || key(word) == b"X-mount.idmap"
}

fn is_ignored(word: &[u8]) -> bool {
    matches!(key(word), b"extraoption" | b"io.katacontainers.volume" | b"nofail")
        || word.starts_with(b"X-mount.")
}

/// Words for which the helper asks the kernel in another way.
fn is_propagation(word: &[u8]) -> bool {
    const KINDS: [&[u8]; 4] = [b"shared", b"private", b"slave", b"unbindable"];
    let bare = word.strip_suffix(b"=").unwrap_or(word);
    KINDS.iter().any(|kind| bare == *kind || bare.strip_prefix(b"r") == Some(kind))
}

fn without_base(string: &[u8], base: &Path) -> Vec<u8> {
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
        let table = [
            ("lowerdir=a,bind", Yardstick::Refused),
            ("extraoption=x,=x,nofail,a", Yardstick::Same(b",=x,a".to_vec())),
            ("lowerdir=a,rshared", Yardstick::OtherForm(b"lowerdir=a,rshared".to_vec())),
            (&long, Yardstick::OtherForm(short.into_bytes())),
        ];
        for (string, expected) in table {
            assert_eq!(yardstick(string.as_bytes(), Path::new("/b")), expected, "{string}");
        }
    }

    #[test]
    fn mount_fuse_adds_and_drops() {
        assert_eq!(through_mount_fuse(b"user,,a,nodev"), b"a,nodev,suid");
        assert_eq!(through_mount_fuse(b"user=x,nosuid=1"), b"user=x,nosuid=1,dev,suid");
    }
}
