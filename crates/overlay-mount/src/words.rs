//! Splits an option string into its options ("words"), byte by byte.
//!
//! Options are separated by commas. A backslash makes the next comma or backslash part of the
//! option, as in overlayfs's own parser. A double quote groups only directly after the `=` of an
//! SELinux context option, and only if it is closed: elsewhere it is an ordinary character of a
//! path, as it is for the kernel. In the value of `uidmap=` and `gidmap=` a comma before another
//! range of ids belongs to the value: containerd separates several ranges so.

use core::ops::Range;

use crate::idmap::range_of;

/// SELinux options whose quoted value may hold commas (mount(8), "context=").
const QUOTED: [&[u8]; 4] = [b"context=", b"fscontext=", b"defcontext=", b"rootcontext="];

/// Options whose value is a list of ranges of ids.
const ID_MAPS: [&[u8]; 2] = [b"uidmap=", b"gidmap="];

/// The words of `string`, in order, empty ones left out.
pub fn words(string: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    ranges(string).map(|range| &string[range])
}

/// Where the words of `string` stand, in order, empty ones left out.
pub fn ranges(string: &[u8]) -> impl Iterator<Item = Range<usize>> + Clone {
    let mut start = 0;
    core::iter::from_fn(move || {
        while start < string.len() {
            let word = start..word_end(string, start);
            start = word.end + 1;
            if !word.is_empty() {
                return Some(word);
            }
        }
        None
    })
}

fn word_end(string: &[u8], start: usize) -> usize {
    let mut at = start + quoted_prefix(&string[start..]);
    while at < string.len() && string[at] != b',' {
        at += if string[at] == b'\\' { 2 } else { 1 };
    }
    at = at.min(string.len());
    if ID_MAPS.iter().any(|key| string[start..].starts_with(key)) {
        while let Some(more) = string[at..].strip_prefix(b",") {
            let range = more.split(|byte| *byte == b',').next().unwrap_or_default();
            if range_of(range).is_none() {
                break;
            }
            at += 1 + range.len();
        }
    }
    at
}

/// Length of `context="…"` at the start of `rest`, 0 where there is none.
fn quoted_prefix(rest: &[u8]) -> usize {
    for key in QUOTED {
        if let Some(value) = rest.strip_prefix(key).and_then(|value| value.strip_prefix(b"\"")) {
            return match value.iter().position(|byte| *byte == b'"') {
                Some(close) => key.len() + 1 + close + 1,
                None => 0,
            };
        }
    }
    0
}

/// The first option of `string` if libmount takes the whole string for a mistake because that
/// option has no name: it starts with `=`, a quote or a blank (mount(8): "unsupported option
/// format").
pub fn nameless(string: &[u8]) -> Option<&[u8]> {
    matches!(string.first(), Some(b'=' | b'\'' | b'"' | b' ' | b'\t'))
        .then(|| words(string).next().unwrap_or_default())
}

/// `key` and, after the first `=`, the value.
pub fn key_value(word: &[u8]) -> (&[u8], Option<&[u8]>) {
    match word.iter().position(|byte| *byte == b'=') {
        Some(at) => (&word[..at], Some(&word[at + 1..])),
        None => (word, None),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn splits() {
        let table: &[(&[u8], &[&[u8]])] = &[
            (b"", &[]),
            (b",", &[]),
            (b",,a,,b,", &[b"a", b"b"]),
            (b"a\\,b,c", &[b"a\\,b", b"c"]),
            (b"a\\\\,b", &[b"a\\\\", b"b"]),
            (b"a\\\\\\,b", &[b"a\\\\\\,b"]),
            (b"a\\,,b", &[b"a\\,", b"b"]),
            (b"a\\", &[b"a\\"]),
            (b"\"a,b\"", &[b"\"a", b"b\""]),
            (b"context=\"a,b\",c", &[b"context=\"a,b\"", b"c"]),
            (b"context=\"a,b\"x,c", &[b"context=\"a,b\"x", b"c"]),
            (b"context=\"a,b", &[b"context=\"a", b"b"]),
            (b"context=\"\",b", &[b"context=\"\"", b"b"]),
            (
                b"rootcontext=\"a,b\",fscontext=\"c,d\"",
                &[b"rootcontext=\"a,b\"", b"fscontext=\"c,d\""],
            ),
            (b"xcontext=\"a,b\"", &[b"xcontext=\"a", b"b\""]),
            (b"lowerdir=\xff,b", &[b"lowerdir=\xff", b"b"]),
            (b"uidmap=0:1:2,3:4:5,a", &[b"uidmap=0:1:2,3:4:5", b"a"]),
            (b"a,gidmap=0:1:2,3:4:5,,6:7:8", &[b"a", b"gidmap=0:1:2,3:4:5", b"6:7:8"]),
            (b"uidmap=,3:4:5", &[b"uidmap=,3:4:5"]),
            (b"uidmap=0:1:2,3:4", &[b"uidmap=0:1:2", b"3:4"]),
            (b"uidmap,3:4:5", &[b"uidmap", b"3:4:5"]),
        ];
        for (input, expected) in table {
            assert_eq!(words(input).collect::<Vec<_>>(), *expected, "{:?}", input.escape_ascii());
        }
    }

    #[test]
    fn nameless_strings() {
        for string in ["=x,lowerdir=/a", "'x", "\"x", " ro", "\tro", "="] {
            assert!(nameless(string.as_bytes()).is_some(), "{string}");
        }
        for string in ["", ",=x", "a=x", "ro, "] {
            assert_eq!(nameless(string.as_bytes()), None, "{string}");
        }
        assert_eq!(nameless(b"=x,y"), Some(&b"=x"[..]));
    }

    /// Every string of up to six pieces of a nasty vocabulary, against a rule written anew:
    /// look at each comma alone and decide from what stands before it whether it splits.
    #[test]
    fn agrees_with_a_naive_reference_on_all_short_sequences() {
        const PIECES: [&[u8]; 8] =
            [b",", b"\\", b"\"", b"a", b"=", b"context=", b"context=\"", b"extraoption="];
        for length in 0..=6 {
            let mut indices = std::vec![0_usize; length];
            loop {
                let string: Vec<u8> = indices.iter().flat_map(|i| PIECES[*i]).copied().collect();
                assert_eq!(
                    words(&string).collect::<Vec<_>>(),
                    naive(&string),
                    "{:?}",
                    string.escape_ascii()
                );
                if !advance(&mut indices, PIECES.len()) {
                    break;
                }
            }
        }
    }

    fn advance(indices: &mut [usize], base: usize) -> bool {
        for index in indices {
            *index += 1;
            if *index < base {
                return true;
            }
            *index = 0;
        }
        false
    }

    fn naive(string: &[u8]) -> Vec<&[u8]> {
        let mut words: Vec<Vec<usize>> = std::vec![std::vec![]];
        let mut hidden_until = 0;
        for at in 0..string.len() {
            let word_start = words.last().and_then(|word| word.first()).copied().unwrap_or(at);
            let so_far = &string[word_start..at];
            let key = ["context=", "fscontext=", "defcontext=", "rootcontext="];
            let may_open = at >= hidden_until && key.iter().any(|key| key.as_bytes() == so_far);
            let close = string[at + 1..].iter().position(|byte| *byte == b'"');
            if let (b'"', true, Some(close)) = (string[at], may_open, close) {
                hidden_until = at + 1 + close + 1;
            }
            let from = word_start.max(hidden_until).min(at);
            let backslashes = string[from..at].iter().rev().take_while(|byte| **byte == b'\\');
            let escaped = backslashes.count() % 2 == 1;
            if string[at] == b',' && !escaped && at >= hidden_until {
                words.push(std::vec![]);
            } else if let Some(word) = words.last_mut() {
                word.push(at);
            }
        }
        let nonempty = words.iter().filter(|word| !word.is_empty());
        nonempty.map(|word| &string[word[0]..=word[word.len() - 1]]).collect()
    }
}
