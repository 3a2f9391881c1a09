//! Words of `nydusd` for our errors: its last lines, and what is taken out of them.

use nydus_mount_slice::Secret;
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes and lines of a file that an error shows.
const TAIL: u64 = 4096;
const LINES: usize = 8;

/// Last lines of a file from byte `start` on, in one line; empty if it cannot be read.
pub(crate) fn tail(path: &Path, start: u64) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let from = file.metadata()?.len().saturating_sub(TAIL).max(start);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    last_lines(&String::from_utf8_lossy(&read().unwrap_or_default()))
}

fn last_lines(text: &str) -> String {
    let text = without_colours(text);
    let useful = |line: &&str| {
        !["note: ", "at /"].iter().any(|start| line.starts_with(start))
            && !line.contains("] INFO ")
            && !line.is_empty()
    };
    let lines: Vec<_> = text.lines().map(str::trim).filter(useful).collect();
    lines[lines.len().saturating_sub(LINES)..].join(" | ")
}

/// `nydusd` colours its log even for files: `ESC [ ... m`.
fn without_colours(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// `text` without the credentials of a configuration (JSON): a parser's message may quote them.
pub(crate) fn scrub(text: &str, config: &Secret) -> String {
    let mut found = Vec::new();
    match serde_json::from_str(config.expose()) {
        Ok(config) => collect(&config, false, &mut found),
        Err(_) => found.push(config.expose().to_owned()),
    }
    // The longest first: one may be part of another.
    found.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    found
        .iter()
        .filter(|secret| secret.len() > 3)
        .fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "<secret>"))
}

fn collect(value: &Value, secret: bool, found: &mut Vec<String>) {
    const NAMES: [&str; 5] = ["auth", "token", "secret", "key", "pass"];
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| {
            collect(value, secret || NAMES.iter().any(|word| name.contains(word)), found);
        }),
        Value::Array(values) => values.iter().for_each(|value| collect(value, secret, found)),
        // A URL may hold a user's name and password.
        Value::String(text) if secret || text.contains('@') => found.push(text.clone()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_out() {
        let config = r#"{"device":{"backend":{"config":{"auth":"dTpwdw==","host":"h:5000",
            "registry_token":"dTpw","proxy":{"url":"http://u:p@h"},"access_key":[["xyzw"]]}}}}"#;
        for (config, text, want) in [
            (config, "invalid \"dTpwdw==\" at h:5000", "invalid \"<secret>\" at h:5000"),
            (config, "dTpw http://u:p@h xyzw", "<secret> <secret> <secret>"),
            ("not json", "expected value: not json", "expected value: <secret>"),
            ("", "as it is", "as it is"),
            (r#"{"auth":"u"}"#, "unusual", "unusual"),
        ] {
            assert_eq!(scrub(text, &config.into()), want, "{text}");
        }
    }

    #[test]
    fn last_lines_are_one_line() {
        let many: String = (0..20).map(|line| format!("{line}\n")).collect();
        for (text, want) in [
            ("", ""),
            ("a\n\n\tb\n\tat /src/x.rs:1\nnote: enable it\n", "a | b"),
            ("[2026-11-23] INFO Version\n[2026-11-23] ERROR bad", "[2026-11-23] ERROR bad"),
            ("[\u{1b}[1;38;5;196mnow\u{1b}[0m] bad\u{1b}[0", "[now] bad"),
            (&many, "12 | 13 | 14 | 15 | 16 | 17 | 18 | 19"),
        ] {
            assert_eq!(last_lines(text), want);
        }
    }

    #[test]
    fn tail_starts_where_this_run_started() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "old\nnew\n").unwrap();
        assert_eq!(tail(file.path(), 4), "new");
        assert_eq!(tail(Path::new("/nonexistent"), 0), "");
    }
}
