//! What holds for every input; the fuzz targets and the tests call the same functions.

use std::ffi::{CStr, CString};

use nydus_overlayfs::argv::{Command, Getopt, Invocation, parse};
use nydus_overlayfs::secrets::blank;
use overlay_mount::layers::{check, layers, unescape};
use overlay_mount::table::{Effect, effect};
use overlay_mount::words::{key_value, ranges, words as split};
use overlay_mount::{Lsm, Options};

/// Takes the bytes as an option string, as a `lowerdir=` value and as a path.
///
/// # Panics
/// When a property does not hold.
pub(crate) fn words(data: &[u8]) {
    words_are_what_stands_between_commas(data);
    assert_eq!(split(data).collect::<Vec<_>>(), naive_words(data));
    kernel_gets_words_in_order(data);
    blanked_words_stay_in_place(data);
    layers_are_what_stands_between_colons(data);
    escaped_path_is_one_layer(data);
}

/// Takes the bytes as arguments with a NUL between each two.
///
/// # Panics
/// When a property does not hold.
pub(crate) fn argv(data: &[u8]) {
    let plain: Vec<Vec<u8>> = data.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    let mut blanked = plain.clone();
    let mut getopt = Getopt::default();
    for argument in &mut blanked {
        if let Some(at) = getopt.option_value(argument) {
            blank(&mut argument[at..]);
        }
    }
    let (seen, after) = (seen(&plain), seen(&blanked));
    if let Ok(mount) = &seen {
        assert_eq!(mount.options, naive_options(&plain));
    }
    match (&seen, &after) {
        (Ok(seen), Ok(after)) => same_but_for_secrets(seen, after),
        (seen, after) => assert_eq!(seen, after),
    }
}

fn words_are_what_stands_between_commas(data: &[u8]) {
    let mut done = 0;
    for range in ranges(data) {
        assert!(done <= range.start && range.start < range.end && range.end <= data.len());
        assert!(data[done..range.start].iter().all(|byte| *byte == b','));
        assert_ne!(data[range.start], b',');
        done = range.end;
    }
    assert!(data[done..].iter().all(|byte| *byte == b','));
}

/// The other way round: finds out which commas do not split, then splits at the others. A range of
/// ids, three numbers of 32 bits, is part of the `uidmap=` or `gidmap=` before it.
fn naive_words(data: &[u8]) -> Vec<&[u8]> {
    let mut splits: Vec<bool> = (0..data.len()).map(|at| data[at] == b',').collect();
    for at in 1..data.len() {
        // Of two backslashes the first makes the second an ordinary character.
        let backslashes = data[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
        splits[at] &= backslashes % 2 == 0;
    }
    let keys = ["context=\"", "fscontext=\"", "defcontext=\"", "rootcontext=\""];
    for start in 0..data.len() {
        let starts_word = start == 0 || splits[start - 1];
        let Some(key) = keys.iter().find(|key| data[start..].starts_with(key.as_bytes())) else {
            continue;
        };
        let value = start + key.len();
        let close = data[value..].iter().position(|byte| *byte == b'"');
        if let (true, Some(close)) = (starts_word, close) {
            splits[value..value + close].fill(false);
        }
    }
    for start in 0..data.len() {
        let is_map = [&b"uidmap="[..], b"gidmap="].iter().any(|key| data[start..].starts_with(key));
        let mut split = start;
        while is_map && (start == 0 || splits[start - 1]) {
            split += splits[split..].iter().take_while(|splits| !**splits).count();
            let after = data.get(split + 1..).unwrap_or_default();
            let piece = after.split(|byte| *byte == b',').next().unwrap_or_default();
            if !is_range(piece) {
                break;
            }
            splits[split] = false;
        }
    }
    let mut at = 0;
    let words = data.split(|_| {
        at += 1;
        splits[at - 1]
    });
    words.filter(|word| !word.is_empty()).collect()
}

fn is_range(text: &[u8]) -> bool {
    let text = str::from_utf8(text).unwrap_or_default();
    let is_number = |part: &str| !part.starts_with('+') && part.parse::<u32>().is_ok();
    text.split(':').count() == 3 && text.split(':').all(is_number)
}

fn kernel_gets_words_in_order(data: &[u8]) {
    for selinux in [false, true] {
        let lsm = Lsm { selinux, smack: !selinux };
        let strings = [data, b"lowerdir=/a:/b"];
        let words = strings.into_iter().flat_map(split);
        let Ok(options) = Options::read(words, || lsm) else { continue };
        let mut all = strings.into_iter().flat_map(split);
        for word in options.kept() {
            assert!(all.any(|other| other == word), "options change or their order does");
            let of_upper = matches!(key_value(word), (b"upperdir" | b"workdir", Some(_)));
            assert!(!of_upper || options.upper_as_layer().is_none(), "a read-only look");
            match effect(word) {
                None => {}
                Some(Effect::SeLinux) => assert!(selinux),
                Some(Effect::Smack) => assert!(!selinux),
                Some(other) => panic!("the kernel gets a word that is {other:?}"),
            }
        }
        let kept = options.kept().collect::<Vec<_>>().join(&b',').len();
        match options.upper_as_layer() {
            None => assert_eq!(options.data_len, kept),
            Some(upper) => assert!(options.data_len > kept + upper.len()),
        }
    }
}

fn blanked_words_stay_in_place(data: &[u8]) {
    let mut blanked = data.to_vec();
    blank(&mut blanked);
    assert_eq!(ranges(&blanked).collect::<Vec<_>>(), ranges(data).collect::<Vec<_>>());
    let mut in_value = false;
    for range in ranges(data) {
        assert_blanked(&data[range.clone()], &blanked[range], &mut in_value);
    }
}

/// Values of carried options are gone, also under a misspelt name, and pieces of one that is
/// JSON; all else is as it was.
fn assert_blanked(before: &[u8], after: &[u8], in_value: &mut bool) {
    let mut expected = before.to_vec();
    let names = "lowerdir lowerdir+ datadir+ upperdir workdir context fscontext defcontext \
                 rootcontext";
    let stays = names.split_whitespace().any(|key| key_value(before).0 == key.as_bytes());
    // The first `=` before which a carried name stands.
    let ends = before.iter().enumerate().filter(|(_, byte)| **byte == b'=').map(|(at, _)| at);
    if let Some(end) = { ends }.find(|end| !stays && ends_with_carried(&before[..*end])) {
        *in_value =
            ["{", "[", "\"", "'"].iter().any(|open| before[end + 1..].starts_with(open.as_bytes()));
        expected[end + 1..].fill(b'*');
    } else if *in_value && !stays && !before[0].is_ascii_alphabetic() {
        expected.fill(b'*');
    }
    assert_eq!(after.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

/// In any case, with whatever before it, and with more behind it that a name may have.
fn ends_with_carried(key: &[u8]) -> bool {
    let key = String::from_utf8_lossy(key).to_ascii_lowercase();
    let is_name =
        |rest: &str| rest.chars().all(|c| c.is_ascii_alphanumeric() || ".-_ ".contains(c));
    let mut names = ["extraoption", "io.katacontainers.volume"].iter();
    names.any(|name| key.match_indices(name).any(|(at, _)| is_name(&key[at + name.len()..])))
}

fn layers_are_what_stands_between_colons(data: &[u8]) {
    let pieces = naive_pieces(data);
    let found: Vec<_> = layers(data).map(|layer| (layer.raw, layer.data_only)).collect();
    let mut expected = Vec::new();
    let mut data_only = false;
    for piece in &pieces {
        data_only |= piece.is_empty();
        if !piece.is_empty() {
            expected.push((*piece, data_only));
        }
    }
    assert_eq!(found, expected);
    assert_eq!(check(data).is_ok(), naive_check(&pieces));
}

/// Splits at each colon before which there is an even number of backslashes.
fn naive_pieces(data: &[u8]) -> Vec<&[u8]> {
    let mut at = 0;
    let pieces = data.split(|byte| {
        let backslashes = data[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
        at += 1;
        *byte == b':' && backslashes % 2 == 0
    });
    pieces.collect()
}

/// No empty piece at an end or beside another; after the first one each layer has one before it.
fn naive_check(pieces: &[&[u8]]) -> bool {
    let empty: Vec<bool> = pieces.iter().map(|piece| piece.is_empty()).collect();
    let first = empty.iter().position(|empty| *empty).unwrap_or(pieces.len());
    let pairs = empty.windows(2).skip(first);
    let ends = [empty.first(), empty.last()];
    let alternate = pairs.clone().all(|pair| pair[0] != pair[1]);
    pieces.len() == 1 || (!ends.contains(&Some(&true)) && alternate)
}

fn escaped_path_is_one_layer(data: &[u8]) {
    let path: Vec<u8> = data.iter().copied().filter(|byte| *byte != 0).take(2000).collect();
    let mut raw = Vec::new();
    for byte in &path {
        if b"\\:,".contains(byte) {
            raw.push(b'\\');
        }
        raw.push(*byte);
    }
    let back = unescape::<4096>(&raw).map(|path| path.as_bytes().to_vec());
    assert_eq!(back.as_ref(), Some(&path));
    let one: Vec<_> = layers(&raw).map(|layer| layer.raw).collect();
    assert_eq!(one, if raw.is_empty() { vec![] } else { vec![&raw[..]] });
}

/// A mount as a command line has it, in owned form.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    source: Vec<u8>,
    target: Vec<u8>,
    fake: bool,
    verbose: bool,
    namespace: Option<Vec<u8>>,
    options: Vec<Vec<u8>>,
}

/// The mount, or what else the command line is.
fn seen(arguments: &[Vec<u8>]) -> Result<Seen, String> {
    let owned: Vec<_> = arguments.iter().map(|bytes| CString::new(&bytes[..])).collect();
    let owned: Vec<CString> = owned.into_iter().map(|text| text.expect("no NUL inside")).collect();
    match parse(owned.iter().map(CString::as_c_str), false) {
        Err(usage) => Err(format!("{usage:?}")),
        Ok(Command::Help) => Err("help".to_owned()),
        Ok(Command::Version) => Err("version".to_owned()),
        Ok(Command::Mount(mount)) => {
            let options = mount.options().map(<[u8]>::to_vec).collect();
            let bytes = |text: &CStr| text.to_bytes().to_vec();
            let Invocation { source, target, fake, verbose, namespace, .. } = mount;
            let (source, target) = (bytes(source), bytes(target));
            Ok(Seen { source, target, fake, verbose, namespace: namespace.map(bytes), options })
        }
    }
}

/// What follows each `-o` of a command line that is known to be right, as getopt(3) has it.
fn naive_options(arguments: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut options = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == b"--" {
            break;
        }
        let Some(letters) = argument.strip_prefix(b"-") else { continue };
        let Some(at) = letters.iter().position(|letter| b"oNt".contains(letter)) else { continue };
        let glued = letters[at + 1..].to_vec();
        let value = if glued.is_empty() { rest.next().cloned() } else { Some(glued) };
        options.extend(value.filter(|_| letters[at] == b'o'));
    }
    options
}

fn same_but_for_secrets(seen: &Seen, after: &Seen) {
    let plain = |seen: &Seen| Seen { options: Vec::new(), ..seen.clone() };
    assert_eq!(plain(seen), plain(after));
    assert_eq!(seen.options.len(), after.options.len());
    for (before, after) in seen.options.iter().zip(&after.options) {
        assert_eq!(ranges(before).collect::<Vec<_>>(), ranges(after).collect::<Vec<_>>());
        let mut in_value = false;
        for range in ranges(before) {
            assert_blanked(&before[range.clone()], &after[range], &mut in_value);
        }
    }
}
