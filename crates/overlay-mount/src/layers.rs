//! The value of `lowerdir=`: layers with `:` between them, `::` before data-only ones, and `\`
//! before a character that has no special meaning there (Linux `fs/overlayfs/params.c`).

use crate::buf::CBuf;

/// One layer of a `lowerdir=` value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer<'a> {
    /// The path as it stands in the option, with its backslashes.
    pub raw: &'a [u8],
    /// Whether it gives only file contents (it stands after a `::`).
    pub data_only: bool,
    /// Whether backslashes in it stand for the character that follows.
    pub escaped: bool,
}

/// What makes a `lowerdir=` value no list of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadList {
    /// A colon at the start.
    LeadingColon,
    /// A colon at the end.
    TrailingColon,
    /// Three or more colons in a row.
    ManyColons,
    /// A single colon after a double one.
    LowerAfterData,
}

/// The layers of a `lowerdir=` value, uppermost first.
pub fn layers(value: &[u8]) -> impl Iterator<Item = Layer<'_>> + Clone {
    let mut rest = Some(value);
    let mut data_only = false;
    core::iter::from_fn(move || {
        loop {
            let (raw, after) = split_at_colon(rest?);
            rest = after;
            if !raw.is_empty() {
                return Some(Layer { raw, data_only, escaped: true });
            }
            data_only = true;
        }
    })
}

/// Checks what the kernel requires of the colons.
///
/// # Errors
/// The first rule that is broken.
pub fn check(value: &[u8]) -> Result<(), BadList> {
    let (mut rest, mut empty, mut data_only) = (Some(value), 0, false);
    let mut first = true;
    while let Some(piece) = rest {
        let (raw, after) = split_at_colon(piece);
        match (raw.is_empty(), after) {
            (true, None) => return if first { Ok(()) } else { Err(BadList::TrailingColon) },
            (true, Some(_)) if first => return Err(BadList::LeadingColon),
            (true, Some(_)) if empty == 1 => return Err(BadList::ManyColons),
            (true, Some(_)) => empty += 1,
            (false, _) if data_only && empty == 0 => return Err(BadList::LowerAfterData),
            (false, _) => {
                data_only |= empty == 1;
                empty = 0;
            }
        }
        first = false;
        rest = after;
    }
    Ok(())
}

/// The path that `raw` means: a backslash stands for the byte after it, and for nothing at the
/// end. `None` if the path is too long for `N`.
pub fn unescape<const N: usize>(raw: &[u8]) -> Option<CBuf<N>> {
    let mut path = CBuf::new();
    let mut bytes = raw.iter();
    while let Some(byte) = bytes.next() {
        let byte = if *byte == b'\\' { bytes.next() } else { Some(byte) };
        path.push(byte.map_or(&[], core::slice::from_ref))?;
    }
    Some(path)
}

/// Appends `path` as one layer of a `lowerdir=` value: `upperdir=` takes a bare colon for part of
/// the path, and a backslash at the end for nothing.
pub(crate) fn push_as_layer<const N: usize>(data: &mut CBuf<N>, path: &[u8]) -> Option<()> {
    let mut bytes = path.iter();
    while let Some(byte) = bytes.next() {
        match (byte, bytes.clone().next()) {
            (b':', _) => data.push(b"\\:")?,
            (b'\\', None) => {}
            (b'\\', Some(escaped)) => {
                data.push(&[b'\\', *escaped])?;
                bytes.next();
            }
            _ => data.push(&[*byte])?,
        }
    }
    Some(())
}

fn split_at_colon(value: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut at = 0;
    while at < value.len() {
        match value[at] {
            b':' => return (&value[..at], Some(&value[at + 1..])),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    (value, None)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn lists() {
        use BadList::*;
        type Row<'a> = (&'a [u8], Result<(), BadList>, &'a [&'a [u8]], &'a [&'a [u8]]);
        let table: &[Row<'_>] = &[
            (b"", Ok(()), &[], &[]),
            (b"/a", Ok(()), &[b"/a"], &[]),
            (b"/a:/b:c", Ok(()), &[b"/a", b"/b", b"c"], &[]),
            (b"/a\\:b:/c", Ok(()), &[b"/a\\:b", b"/c"], &[]),
            (b"/a\\\\:/b", Ok(()), &[b"/a\\\\", b"/b"], &[]),
            (b"/a\\", Ok(()), &[b"/a\\"], &[]),
            (b"/a::/d::/e", Ok(()), &[b"/a"], &[b"/d", b"/e"]),
            (b"/a:/b::/d", Ok(()), &[b"/a", b"/b"], &[b"/d"]),
            (b":/a", Err(LeadingColon), &[], &[b"/a"]),
            (b"/a:", Err(TrailingColon), &[b"/a"], &[]),
            (b"/a::", Err(TrailingColon), &[b"/a"], &[]),
            (b"/a:::/b", Err(ManyColons), &[b"/a"], &[b"/b"]),
            (b"/a::/d:/b", Err(LowerAfterData), &[b"/a"], &[b"/d", b"/b"]),
        ];
        for (value, verdict, lower, data) in table {
            let name = value.escape_ascii();
            assert_eq!(check(value), *verdict, "{name}");
            let pick = |only: bool| layers(value).filter(move |layer| layer.data_only == only);
            assert_eq!(pick(false).map(|l| l.raw).collect::<Vec<_>>(), *lower, "{name}");
            assert_eq!(pick(true).map(|l| l.raw).collect::<Vec<_>>(), *data, "{name}");
        }
    }

    #[test]
    fn unescapes() {
        let table: &[(&[u8], &[u8])] = &[
            (b"/a", b"/a"),
            (b"/a\\:b\\,c\\\\d", b"/a:b,c\\d"),
            (b"/a\\b", b"/ab"),
            (b"/a\\", b"/a"),
        ];
        for (raw, path) in table {
            assert_eq!(unescape::<16>(raw).unwrap().as_bytes(), *path);
        }
        assert!(unescape::<4>(b"/abc").is_none());
    }

    /// An upper directory as a layer is one layer, of the same path.
    #[test]
    fn upper_as_layer() {
        let table: &[(&[u8], &[u8])] = &[
            (b"/u", b"/u"),
            (b"/u:2", b"/u\\:2"),
            (b"/u\\:2\\,\\\\", b"/u\\:2\\,\\\\"),
            (b"/u\\", b"/u"),
            (b"/u\\\\:", b"/u\\\\\\:"),
        ];
        for (upper, expected) in table {
            let mut data = CBuf::<32>::new();
            push_as_layer(&mut data, upper).unwrap();
            let name = upper.escape_ascii();
            assert_eq!(data.as_bytes(), *expected, "{name}");
            assert_eq!(layers(data.as_bytes()).count(), 1, "{name}");
            let path = |raw| unescape::<32>(raw).unwrap().as_bytes().to_vec();
            assert_eq!(path(data.as_bytes()), path(upper), "{name}");
        }
    }
}
