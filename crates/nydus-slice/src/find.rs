//! Carried options in any text: an option, an option string, a line of a log.

use std::borrow::Cow;
use std::ops::Range;

use slice_names::{CARRIED, secret_start};

/// The carried options of `line`, in order. A log line may quote the same option twice, an option
/// string has no spaces and counts as it is.
pub(crate) fn carried(line: &str) -> Vec<&str> {
    let mut options: Vec<&str> = Vec::new();
    let is_log = line.trim().contains(char::is_whitespace);
    let mut rest = line;
    while let Some(Range { start, end: value }) = first_key(rest) {
        let end = rest[value..].find(ends_value).map_or(rest.len(), |length| value + length);
        let option = &rest[start..end];
        if !(is_log && options.contains(&option)) {
            options.push(option);
        }
        rest = &rest[end..];
    }
    options
}

/// `text` up to the first value that must not be shown, then three dots.
pub(crate) fn redact(text: &str) -> Cow<'_, str> {
    match secret_start(text.as_bytes()) {
        Some(start) => format!("{}...", &text[..start]).into(),
        None => text.into(),
    }
}

/// Where the first name with its `=` stands.
fn first_key(text: &str) -> Option<Range<usize>> {
    let key = |name: &&str| {
        let key = format!("{name}=");
        text.find(&key).map(|start| start..start + key.len())
    };
    CARRIED.iter().filter_map(key).min_by_key(|key| key.start)
}

/// What ends an option in an option string, in Go's `%v` and `%q`, in JSON and in a shell.
fn ends_value(character: char) -> bool {
    character.is_whitespace() || ",\"'`\\[](){}<>;".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_and_redacts() {
        let table: &[(&str, &[&str], &str)] = &[
            ("", &[], ""),
            ("lowerdir=/a", &[], "lowerdir=/a"),
            ("extraoption=", &["extraoption="], "extraoption=..."),
            ("extraoption=ab==", &["extraoption=ab=="], "extraoption=..."),
            (
                "lowerdir=/a,extraoption=a,extraoption=a,dev",
                &["extraoption=a", "extraoption=a"],
                "lowerdir=/a,extraoption=...",
            ),
            (
                "helper [mount.fuse [overlay /t -o extraoption=a+/= -t x]]: '-oextraoption=a+/='",
                &["extraoption=a+/="],
                "helper [mount.fuse [overlay /t -o extraoption=...",
            ),
            (
                r#"msg="{\"options\":[\"extraoption=a\",\"io.katacontainers.volume=b\"]} x""#,
                &["extraoption=a", "io.katacontainers.volume=b"],
                r#"msg="{\"options\":[\"extraoption=..."#,
            ),
            ("extraoption=extraoption=a", &["extraoption=extraoption=a"], "extraoption=..."),
            ("é ExtraOption='a'", &[], "é ExtraOption=..."),
            // Neither a comma nor the end of a line ends what may be secret.
            ("extraoptions={\"a\":1,\n\"auth\":2}", &[], "extraoptions=..."),
        ];
        for (line, options, redacted) in table {
            assert_eq!(carried(line), *options, "{line}");
            assert_eq!(redact(line), *redacted, "{line}");
        }
    }
}
