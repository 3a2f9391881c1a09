//! Carried options in any text: an option, an option string, a line of a log.

use std::ops::Range;

use nydus_mount_slice::{EXTRA_OPTION_KEY, VOLUME_KEY};

const KEYS: [&str; 2] = [EXTRA_OPTION_KEY, VOLUME_KEY];

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

/// `text` without what follows a carried option's key, in any case, up to the end of the line.
pub(crate) fn redact(text: &str) -> String {
    let one = |line: &str| match first_key(&line.to_ascii_lowercase()) {
        Some(Range { end, .. }) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    };
    text.lines().map(one).collect::<Vec<_>>().join("\n")
}

/// Where the first key stands.
fn first_key(text: &str) -> Option<Range<usize>> {
    let key = |key: &&str| text.find(*key).map(|at| (at, at + key.len()));
    KEYS.iter().filter_map(key).min().map(|(start, end)| start..end)
}

/// What ends an option in an option string, in Go's `%v` and `%q`, in JSON and in a shell.
fn ends_value(letter: char) -> bool {
    letter.is_whitespace() || ",\"'`\\[](){}<>;".contains(letter)
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
        ];
        for (line, options, redacted) in table {
            assert_eq!(carried(line), *options, "{line}");
            assert_eq!(redact(line), *redacted, "{line}");
        }
    }
}
