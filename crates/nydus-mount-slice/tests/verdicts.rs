//! What the crate says of payloads, compared with what Kata's runtimes do with them: the tables in
//! `verdicts/` say for each verdict where it is from, and whether it was run or only read.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nydus_mount_slice::{
    DecodeError, Decoded, EXTRA_OPTION, ExtraOption, Finding, KataVirtualVolume, Reader,
};

const TABLE: &str =
    concat!(include_str!("verdicts/extraoption.txt"), "\n", include_str!("verdicts/volume.txt"));

/// Lines of the table that belong together.
struct Row {
    options: Vec<Vec<u8>>,
    is_extra: bool,
    /// By the reader's name: verdict and source.
    verdicts: BTreeMap<&'static str, (&'static str, &'static str)>,
}

#[test]
fn as_kata() {
    let mut sources = sources();
    for row in rows() {
        let decoded = match row.is_extra {
            true => findings(ExtraOption::from_options(&row.options)),
            false => findings(KataVirtualVolume::from_options(&row.options).remove(0)),
        };
        for (name, reader) in [("go", Reader::Go), ("rust", Reader::Rust)] {
            let (expected, source) = row.verdicts[name];
            *sources.get_mut(source).unwrap_or_else(|| panic!("unknown source {source}")) += 1;
            let found = verdict(&decoded, reader);
            let options: Vec<_> =
                row.options.iter().map(|o| o.escape_ascii().to_string()).collect();
            let same = found.starts_with(expected) && (expected != "takes" || found == "takes");
            assert!(same, "{options:?}: {name} {found}, expected {expected} {source}");
        }
    }
    let unused: Vec<_> = sources.iter().filter(|(_, uses)| **uses == 0).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

/// The declared sources, none of them used yet.
fn sources() -> BTreeMap<&'static str, usize> {
    let lines = TABLE.lines().filter(|line| line.starts_with('@'));
    let source = |line: &'static str| {
        let words: Vec<_> = line.split_whitespace().collect();
        assert!(matches!(words[..], [_, "run" | "read", _, ..]), "{line}");
        (words[0], 0)
    };
    lines.map(source).collect()
}

fn rows() -> Vec<Row> {
    let blocks = TABLE.split("\n\n");
    let rows: Vec<_> =
        blocks.filter(|block| block.starts_with("json ") || block.starts_with("text ")).collect();
    let lines = TABLE.lines().filter(|line| line.starts_with("  go "));
    assert_eq!(rows.len(), lines.count(), "a row that is not read");
    rows.into_iter().map(row).collect()
}

fn row(block: &'static str) -> Row {
    let (verdicts, options): (Vec<_>, Vec<_>) =
        block.lines().partition(|line| line.starts_with("  "));
    let verdict = |line: &'static str| {
        let (name, rest) = line.trim_start().split_once(' ').expect(line);
        let (verdict, source) = rest.trim().rsplit_once(' ').expect(line);
        (name, (verdict, source))
    };
    Row {
        options: options.iter().map(|line| option(line)).collect(),
        is_extra: options[0].split(' ').nth(1) == Some(EXTRA_OPTION),
        verdicts: verdicts.into_iter().map(verdict).collect(),
    }
}

fn option(line: &str) -> Vec<u8> {
    let mut words = line.splitn(3, ' ');
    let (kind, name) = (words.next().expect(line), words.next().expect(line));
    let value = unescaped(words.next().unwrap_or_default());
    let value = if kind == "json" { STANDARD.encode(value).into_bytes() } else { value };
    [name.as_bytes(), b"=", &value].concat()
}

/// The bytes that a text of the table stands for.
fn unescaped(text: &str) -> Vec<u8> {
    let first = TABLE.lines().find_map(|line| line.strip_prefix("json extraoption "));
    let deep = format!("\"deep\":{}{}", "[".repeat(1000), "]".repeat(1000));
    let text = text.replace("{GOOD}", &STANDARD.encode(first.expect("a first row")));
    let text = text.replace("{DEEP}", &deep);
    let mut parts = text.split('<');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (hex, rest) = part.split_once('>').expect(&text);
        bytes.push(u8::from_str_radix(hex, 16).expect(&text));
        bytes.extend(rest.bytes());
    }
    bytes
}

/// What is said of a payload that at least one of the parsers takes.
fn findings<T>(decoded: Result<Decoded<T>, DecodeError>) -> Vec<Finding> {
    match decoded {
        Ok(decoded) => decoded.findings,
        Err(DecodeError::Refused { go, rust, .. }) => {
            vec![Finding::Refuses(Reader::Go, go), Finding::Refuses(Reader::Rust, rust)]
        }
        Err(error) => panic!("{error}"),
    }
}

/// In the words of the table.
fn verdict(findings: &[Finding], reader: Reader) -> String {
    let of = |finding: &Finding| match finding {
        Finding::Refuses(who, reason) if *who == reader => Some(format!("refuses {reason}")),
        Finding::Fails(who, reason) if *who == reader => Some(format!("fails {reason}")),
        _ => None,
    };
    findings.iter().find_map(of).unwrap_or("takes".to_owned())
}
