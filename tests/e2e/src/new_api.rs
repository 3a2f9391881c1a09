//! The options with which `mount(8)` of util-linux 2.41 does what the helper must do.
//!
//! It sets each option with fsconfig(2), where 2.38 passes one string to mount(2). Each rule here
//! has its row in the section "From newer mount(8)" of docs/differences.md.

use crate::generate::{Words, join};
use crate::vocabulary::COMMON;
use crate::yardstick::{
    LETTER, WHOLE, Yardstick, is_common, is_list, is_propagation, key, without_base,
};
use std::path::Path;

/// Bytes of a name or a value that fsconfig(2) takes.
const LONGEST: usize = 255;

/// The yardstick for options of which the helper's own are gone, as they are meant here.
pub(crate) fn yardstick(mut words: Words, may_begin_nameless: bool, base: &Path) -> Yardstick {
    let first = usize::from(!may_begin_nameless);
    let mut at = 0..;
    // The kernel skips options without a name, except where one is the first.
    words.retain(|word| at.next() < Some(first) || !word.starts_with(b"="));
    // They clear nothing in 2.38.
    words.retain(|word| !matches!(bare(word), b"nouser" | b"nousers" | b"noowner" | b"nogroup"));
    if words.iter().any(|word| bare(word) == b"user") {
        // With a name it implies nothing, but 2.41 looks at the first one only.
        words.retain(|word| key(word) != b"user" || bare(word) == b"user");
    }
    let renamed = words.iter().any(|word| word.contains(&LETTER));
    let shared = words.iter().any(|word| is_propagation(word));
    let total = join(&words).len();
    set_last_access_time(&mut words);
    for word in &mut words {
        if is_flag_with_value(word) {
            if is_of_superblock(word) {
                return Yardstick::Unsayable;
            }
            // To the kernel, which does not know either.
            word.insert(0, LETTER);
        }
    }
    if words.iter().any(|word| is_list(word) && has(word, b"\\,")) {
        return Yardstick::Unsayable;
    }
    let escapes = words.iter().any(|word| has(word, b"\\,"));
    end_in_backslash(&mut words);
    let lists = words.iter_mut().filter(|word| is_list(word));
    lists.for_each(escape_commas);
    let is_long = words.iter().any(|word| is_too_long(word));
    if is_long {
        one_by_one(&mut words);
        words.iter_mut().for_each(|word| *word = without_base(word, base));
    }
    let swallows_next = words.iter().rev().skip(1).any(|word| ends_in_backslash(word));
    if swallows_next || words.iter().any(|word| is_too_long(word)) || !is_distinct(&words) {
        return Yardstick::Unsayable;
    }
    match renamed || shared || escapes || is_long || total > WHOLE {
        true => Yardstick::OtherForm(join(&words)),
        false => Yardstick::Same(join(&words)),
    }
}

/// Of the three ways to keep the time of the last access, mount(2) takes the strongest that is
/// set, 2.41 the last one.
fn set_last_access_time(words: &mut Words) {
    const KINDS: [(&[u8], &[u8]); 3] =
        [(b"strictatime", b"nostrictatime"), (b"noatime", b"atime"), (b"relatime", b"norelatime")];
    let is_set = |(set, clear): &&(&[u8], &[u8])| {
        let last = words.iter().map(|word| bare(word)).rfind(|word| word == set || word == clear);
        last == Some(set)
    };
    let set: Vec<&[u8]> = KINDS.iter().filter(is_set).map(|(set, _)| *set).collect();
    if let [strongest, _, ..] = set[..] {
        let is_one = |word: &[u8]| KINDS.iter().any(|(set, clear)| word == *set || word == *clear);
        words.retain(|word| !is_one(bare(word)));
        words.push(strongest.to_vec());
    }
}

/// Flags and other options without a value that have one all the same.
fn is_flag_with_value(word: &[u8]) -> bool {
    const WITH_ANY: [&str; 10] = [
        "user",
        "comment",
        "loop",
        "offset",
        "sizelimit",
        "encryption",
        "uhelper",
        "helper",
        "defaults",
        "seclabel",
    ];
    let Ok(name) = str::from_utf8(key(word)) else { return false };
    let takes_any = WITH_ANY.contains(&name)
        || ["verity.", "smack"].iter().any(|prefix| name.starts_with(prefix))
        || name.ends_with("context");
    COMMON.contains(&name) && !takes_any && word.len() > name.len() + 1
}

/// Flags that the kernel takes with any value.
fn is_of_superblock(word: &[u8]) -> bool {
    let name = key(word);
    matches!(name, b"ro" | b"rw" | b"sync" | b"async" | b"dirsync" | b"mand" | b"nomand")
        || matches!(name, b"lazytime" | b"nolazytime")
}

/// Whether no option for layers and no type of propagation is given twice: 2.41 drops the first
/// of two layers, and forgets that there is a type or takes the last.
fn is_distinct(words: &[Vec<u8>]) -> bool {
    let layers = words.iter().filter(|word| is_list(word) || key(word) == b"lowerdir");
    let types = words.iter().filter(|word| is_propagation(word)).map(|word| bare(word));
    let types = types.map(|word| word.strip_prefix(b"r").unwrap_or(word));
    let mut all: Vec<_> = layers.map(|word| bare(word)).chain(types).collect();
    all.sort_unstable();
    all.windows(2).all(|pair| pair[0] != pair[1])
}

/// Without a value that is empty.
fn bare(word: &[u8]) -> &[u8] {
    word.strip_suffix(b"=").unwrap_or(word)
}

fn escape_commas(word: &mut Vec<u8>) {
    let escaped = word.iter().flat_map(|byte| match byte {
        b',' => b"\\,".as_slice(),
        byte => std::slice::from_ref(byte),
    });
    *word = escaped.copied().collect();
}

/// Two backslashes at the end of an option are one in a path, but 2.41 looks at the last one only
/// and takes the comma for a part of the option, unless there is none.
fn end_in_backslash(words: &mut Words) {
    // The order of options for lower layers counts.
    let is_layers = |word: &[u8]| word.starts_with(b"lowerdir=") || is_list(word);
    if let [at] = positions(words, ends_in_backslash)[..]
        && positions(words, is_layers).len() < 2
    {
        let word = words.remove(at);
        words.push(word);
    }
}

fn ends_in_backslash(word: &[u8]) -> bool {
    word.ends_with(b"\\")
}

/// An option for each layer instead of one for all, which may be too long.
fn one_by_one(words: &mut Words) {
    let is_layers = |word: &[u8]| word.starts_with(b"lowerdir=") || is_list(word);
    let [at] = positions(words, is_layers)[..] else { return };
    let layers = layers(&words[at][b"lowerdir=".len()..]);
    if !is_list(&words[at]) && layers.iter().all(|layer| !layer.is_empty()) {
        let options = layers.into_iter().map(|mut layer| {
            escape_commas(&mut layer);
            [b"lowerdir+=".as_slice(), &layer].concat()
        });
        words.splice(at..=at, options);
    }
}

/// The paths of a list with colons between them.
fn layers(list: &[u8]) -> Vec<Vec<u8>> {
    let (mut layers, mut bytes) = (vec![Vec::new()], list.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b':' => layers.push(Vec::new()),
            b'\\' => layers.last_mut().into_iter().for_each(|layer| layer.extend(bytes.next())),
            byte => layers.last_mut().into_iter().for_each(|layer| layer.push(*byte)),
        }
    }
    layers
}

fn positions(words: &[Vec<u8>], is_it: impl Fn(&[u8]) -> bool) -> Vec<usize> {
    (0..words.len()).filter(|at| is_it(&words[*at])).collect()
}

fn is_too_long(word: &[u8]) -> bool {
    let value = word.len().saturating_sub(key(word).len() + 1);
    !is_common(word) && (key(word).len() > LONGEST || value > LONGEST)
}

fn has(word: &[u8], bytes: &[u8]) -> bool {
    word.windows(bytes.len()).any(|window| window == bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount8::Version;

    #[test]
    fn asks_for() {
        let same = |string: &str| Yardstick::Same(string.as_bytes().to_vec());
        let other = |string: &str| Yardstick::OtherForm(string.as_bytes().to_vec());
        let long = format!("lowerdir=/b/{}:a\\,b,ro", "n".repeat(251));
        let short = format!("lowerdir+={},lowerdir+=a\\,b,ro", "n".repeat(251));
        let table = [
            ("lowerdir=a,upperdir=u,=x,ro", same("lowerdir=u:a,ro")),
            ("=x,lowerdir=a", same("=x,lowerdir=a")),
            ("nofail,=x,lowerdir=a", same("lowerdir=a")),
            ("lowerdir=a\\,b", other("lowerdir=a\\,b")),
            ("nodev=1,lowerdir=a", same("!nodev=1,lowerdir=a")),
            ("ro=1,lowerdir=a", Yardstick::Unsayable),
            ("noatime,lowerdir=a,relatime", same("lowerdir=a,noatime")),
            ("noatime,lowerdir=a,atime,relatime", same("noatime,lowerdir=a,atime,relatime")),
            ("private,shared,private", Yardstick::Unsayable),
            ("private,shared,rprivate", Yardstick::Unsayable),
            ("user,nouser,lowerdir=a", same("user,lowerdir=a")),
            ("user=joe,user=,lowerdir=a", same("user=,lowerdir=a")),
            ("user=joe,lowerdir=a", same("user=joe,lowerdir=a")),
            ("lowerdir=a\\\\,lowerdir=b", Yardstick::Unsayable),
            ("lowerdir+=a\\,b", Yardstick::Unsayable),
            ("ro,upperdir=u\\,2,lowerdir+=a", same("ro,lowerdir+=u\\,2,lowerdir+=a")),
            ("lowerdir=a\\\\,upperdir=u", same("upperdir=u,lowerdir=a\\\\")),
            (&long, other(&short)),
        ];
        for (string, expected) in table {
            let found =
                crate::yardstick::yardstick(string.as_bytes(), Path::new("/b"), Version::V2_41);
            assert_eq!(found, expected, "{string}");
        }
    }
}
