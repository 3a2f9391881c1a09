//! containerd's filters for List.
//!
//! Grammar, from containerd's package `filters`:
//!
//! ```text
//! filter    = [selector ("," selector)*]
//! selector  = field ("." field)* [operator value]
//! operator  = "==" | "!=" | "~="
//! field     = "quoted" | [A-Za-z0-9_-]+
//! value     = "quoted" | [^\s,]+
//! ```
//!
//! Quotes are Go's, with its escapes; a regular expression may also stand between `/` or `|`.
//! White space may stand before a field, operator or value, not after a selector.

use regex::{Regex, RegexBuilder};

use crate::store::Record;

/// Bytes that one compiled regular expression may take.
const REGEX_SIZE: usize = 1 << 20;
/// Characters that an error shows.
const NEAR: usize = 20;

/// Why a filter cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter, byte {at}, at {near:?}: {expected}: invalid argument")]
pub struct Error {
    /// Where in the filter.
    pub at: usize,
    /// What stands there; the whole filter may be too long for an answer.
    pub near: String,
    /// What was expected there.
    pub expected: String,
}

/// Some filters; a snapshot is wanted if one of them matches, or if there is none.
#[derive(Debug, Default)]
pub struct Filters(Vec<Vec<Selector>>);

#[derive(Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filters {
    /// Reads filters.
    ///
    /// # Errors
    /// The first one that cannot be read.
    pub fn parse<S: AsRef<str>>(filters: &[S]) -> Result<Self, Error> {
        filters
            .iter()
            .map(|filter| Parser::new(filter.as_ref()).filter())
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether this snapshot is wanted.
    pub fn matches(&self, record: &Record) -> bool {
        let all = |selectors: &Vec<Selector>| selectors.iter().all(|one| one.matches(record));
        self.0.is_empty() || self.0.iter().any(all)
    }
}

impl Selector {
    /// A field that is not there counts as empty, except that it equals nothing.
    fn matches(&self, record: &Record) -> bool {
        let found = field(record, &self.path);
        match &self.test {
            Test::Present => found.is_some(),
            Test::Equal(value) => found == Some(value),
            Test::NotEqual(value) => found.unwrap_or_default() != value,
            Test::Matches(regex) => regex.is_match(found.unwrap_or_default()),
        }
    }
}

fn field<'a>(record: &'a Record, path: &[String]) -> Option<&'a str> {
    match path.first()?.as_str() {
        "name" => Some(&record.key),
        "parent" => Some(&record.parent),
        "kind" => Some(record.kind.name()),
        "labels" => record.labels.get(&path[1..].join(".")).map(String::as_str),
        _ => None,
    }
}

struct Parser<'a> {
    input: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn new(input: &'a str) -> Self {
        Self { input, at: 0 }
    }

    fn filter(mut self) -> Result<Vec<Selector>, Error> {
        let mut selectors = Vec::new();
        if self.input.is_empty() {
            return Ok(selectors);
        }
        loop {
            selectors.push(self.selector()?);
            if self.rest().is_empty() {
                return Ok(selectors);
            }
            if !self.eat(',') {
                return Err(self.error("expected `,` or the end"));
            }
        }
    }

    fn selector(&mut self) -> Result<Selector, Error> {
        let mut path = vec![self.field()?];
        while self.eat('.') {
            path.push(self.field()?);
        }
        let test = match self.rest().chars().next() {
            None | Some(',') => Test::Present,
            Some(_) => self.test()?,
        };
        Ok(Selector { path, test })
    }

    fn test(&mut self) -> Result<Test, Error> {
        self.skip_space();
        let operator = self.take_while(|c| matches!(c, '=' | '!' | '~'));
        let end = self.at;
        match operator {
            "==" => self.value("\"").map(Test::Equal),
            "!=" => self.value("\"").map(Test::NotEqual),
            "~=" => self.value("\"/|").and_then(|pattern| self.regex(end, &pattern)),
            _ => {
                self.at -= operator.len();
                Err(self.error("expected an operator: `==`, `!=` or `~=`"))
            }
        }
    }

    fn regex(&mut self, at: usize, pattern: &str) -> Result<Test, Error> {
        let built = RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build();
        built.map(Test::Matches).map_err(|_| {
            self.at = at;
            self.error("expected a regular expression")
        })
    }

    fn field(&mut self) -> Result<String, Error> {
        self.skip_space();
        if self.rest().starts_with('"') {
            return self.quoted();
        }
        let bare = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        if bare.is_empty() {
            return Err(
                self.error("expected a field, `\"quoted\"` or of letters, digits, `_`, `-`")
            );
        }
        Ok(bare.to_owned())
    }

    /// A value; `quotes` are the quotes that it may have.
    fn value(&mut self, quotes: &str) -> Result<String, Error> {
        self.skip_space();
        match self.rest().chars().next() {
            Some(quote) if quotes.contains(quote) => self.quoted(),
            None | Some('/' | '|' | '.' | ',' | '=' | '!' | '~') => Err(self.no_value()),
            Some(_) => {
                let ends = |c: char| c == ',' || c.is_whitespace() || c.is_control();
                let bare = self.take_while(|c| !ends(c));
                if bare.is_empty() { Err(self.no_value()) } else { Ok(bare.to_owned()) }
            }
        }
    }

    fn no_value(&self) -> Error {
        self.error("expected a value, in `\"` if it begins with one of `/|.,=!~`")
    }

    fn quoted(&mut self) -> Result<String, Error> {
        let Some(quote) = self.next() else { return Err(self.error("expected a quote")) };
        let begin = self.at;
        let mut bytes = Vec::new();
        loop {
            match self.next() {
                Some(c) if c == quote => break,
                Some('\\') => self.escape(quote, &mut bytes)?,
                None | Some('\n') => return Err(self.error("expected the quote's end")),
                Some(c) => push(&mut bytes, c),
            }
        }
        String::from_utf8(bytes).map_err(|_| {
            self.at = begin;
            self.error("expected UTF-8 after the escapes are resolved")
        })
    }

    /// Go's escapes: `\x41` and `\101` are bytes, `\u0041` and `\U00000041` characters.
    fn escape(&mut self, quote: char, bytes: &mut Vec<u8>) -> Result<(), Error> {
        let begin = self.at;
        match self.next() {
            Some('a') => bytes.push(7),
            Some('b') => bytes.push(8),
            Some('f') => bytes.push(12),
            Some('n') => bytes.push(b'\n'),
            Some('r') => bytes.push(b'\r'),
            Some('t') => bytes.push(b'\t'),
            Some('v') => bytes.push(11),
            Some('\\') => bytes.push(b'\\'),
            Some(c) if c == quote => push(bytes, c),
            Some(c) => return self.numeric(c, begin, bytes),
            None => return Err(self.error("expected an escape of Go")),
        }
        Ok(())
    }

    fn numeric(&mut self, c: char, begin: usize, bytes: &mut Vec<u8>) -> Result<(), Error> {
        let (from, length, base) = match c {
            'x' => (self.at, 2, 16),
            'u' => (self.at, 4, 16),
            'U' => (self.at, 8, 16),
            _ => (begin, 3, 8),
        };
        let digits = self.input.get(from..from + length).unwrap_or_default();
        let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let code = u32::from_str_radix(digits, base).ok().filter(|_| plain);
        let byte = code.and_then(|code| u8::try_from(code).ok());
        match (c, byte, code.and_then(char::from_u32)) {
            ('u' | 'U', _, Some(character)) => push(bytes, character),
            ('x' | '0'..='7', Some(byte), _) => bytes.push(byte),
            _ => {
                self.at = begin;
                return Err(self.error("expected an escape of Go"));
            }
        }
        self.at = from + length;
        Ok(())
    }

    fn rest(&self) -> &'a str {
        &self.input[self.at..]
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest().chars().next()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.rest().starts_with(wanted);
        self.at += if found { wanted.len_utf8() } else { 0 };
        found
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !wanted(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }

    fn skip_space(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn error(&self, expected: &str) -> Error {
        let near = self.rest().chars().take(NEAR).collect();
        Error { at: self.at, near, expected: expected.to_owned() }
    }
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Kind;
    use crate::usage::Usage;
    use std::time::SystemTime;

    const AWKWARD: &str = r#"more complex label with \ and ""#;

    fn record(key: &str, kind: Kind, parent: &str, labels: &[(&str, &str)]) -> Record {
        let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Record {
            key: key.into(),
            id: 1,
            kind,
            parent: parent.into(),
            labels: labels.collect(),
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
            kernel: false,
            usage: Usage::default(),
        }
    }

    fn corpus() -> Vec<Record> {
        let post = format!("{AWKWARD}.post");
        vec![
            record("foo", Kind::Active, "", &[("foo", "true")]),
            record("bar", Kind::View, "base", &[("bar", "true"), ("empty", "")]),
            record("k8s.io/3/x", Kind::Committed, "", &[("more complex label", "present")]),
            record("sha256:ab", Kind::Committed, "base", &[(AWKWARD, "present"), ("a.b", "c")]),
            record("baz", Kind::Active, "a b, c", &[(&post, "p"), ("foo", "omg_asdf.asdf-qwer")]),
            record("caf\u{e9}", Kind::Active, "", &[("containerd.io/snapshot.ref", "sha256:cd")]),
        ]
    }

    #[test]
    fn selects() {
        let table: &[(&[&str], &[usize])] = &[
            (&[], &[0, 1, 2, 3, 4, 5]),
            (&[""], &[0, 1, 2, 3, 4, 5]),
            (&["name==nothing", ""], &[0, 1, 2, 3, 4, 5]),
            // containerd's documented forms.
            (&["name==foo"], &[0]),
            (&["labels.foo"], &[0, 4]),
            (&[r#"labels."more complex label"==present"#], &[2]),
            (&["name==foo,labels.foo"], &[0]),
            (&["name==foo,labels.bar"], &[]),
            (&["name!=foo"], &[1, 2, 3, 4, 5]),
            (&["name~=^ba"], &[1, 4]),
            (&["name"], &[0, 1, 2, 3, 4, 5]),
            (&["labels.foo==omg_asdf.asdf-qwer"], &[4]),
            (&["name~=/[ao]{2}/"], &[0]),
            (&["name~=|ba[rz]|,kind==view"], &[1]),
            (&[r#"name~=/[abc]{0,1}"\//,name!=foo"#], &[]),
            (&[r#"labels."more complex label with \\ and \""==present"#], &[3]),
            (&[r#"labels."more complex label with \\ and \"".post==p"#], &[4]),
            // What containerd asks a snapshotter.
            (&[r#"labels."containerd.io/snapshot.ref"==sha256:cd,parent=="""#], &[5]),
            (&[r#"labels."containerd.io/snapshot.ref"==sha256:cd,parent==base"#], &[]),
            // Several filters are alternatives.
            (&["name==foo", "kind==view"], &[0, 1]),
            (&["kind==active,parent==\"\""], &[0, 5]),
            (&["kind==committed"], &[2, 3]),
            (&["kind"], &[0, 1, 2, 3, 4, 5]),
            // Bare values.
            (&["name==k8s.io/3/x"], &[2]),
            (&["name==sha256:ab"], &[3]),
            (&["name==caf\u{e9}"], &[5]),
            (&["labels.a.b==c"], &[3]),
            (&[r#"labels."a.b"==c"#], &[3]),
            (&[r#""labels"."a"."b"==c"#], &[3]),
            (&["parent==\"a b, c\""], &[4]),
            (&["name== foo"], &[0]),
            (&[" name ==\tfoo,\n labels.foo"], &[0]),
            // A field that is not there.
            (&["labels.empty"], &[1]),
            (&["labels.empty==\"\""], &[1]),
            (&["labels.foo!=true"], &[1, 2, 3, 4, 5]),
            (&["labels.foo~=^$"], &[1, 2, 3, 5]),
            (&["color"], &[]),
            (&["color==\"\""], &[]),
            (&["color!=red"], &[0, 1, 2, 3, 4, 5]),
            (&["labels"], &[]),
            // Escapes.
            (&[r#"name=="\x66\157\u006f""#], &[0]),
            (&[r#"name=="caf\xc3\xa9""#], &[5]),
            (&[r#"name=="caf\U000000e9""#], &[5]),
            (&[r#"name=="\a\b\f\n\r\t\v""#], &[]),
            (&[r"name~=/^k8s\x2eio\/\//"], &[]),
            (&[r"name~=/^k8s\x2eio\/3/"], &[2]),
        ];
        let corpus = corpus();
        for (filters, expected) in table {
            let parsed = Filters::parse(filters).unwrap();
            let found: Vec<usize> =
                (0..corpus.len()).filter(|at| parsed.matches(&corpus[*at])).collect();
            assert_eq!(found, *expected, "{filters:?}");
        }
    }

    #[test]
    fn refuses() {
        let table: &[(&str, usize, &str)] = &[
            ("name==foo,", 10, "a field"),
            ("labels.", 7, "a field"),
            (",", 0, "a field"),
            (" ", 1, "a field"),
            ("name,,kind", 5, "a field"),
            ("labels.|foo|==x", 7, "a field"),
            (r#"labels.?"x"==y"#, 7, "a field"),
            ("\u{e9}==x", 0, "a field"),
            ("name=foo", 4, "an operator"),
            ("name===foo", 4, "an operator"),
            ("name=~foo", 4, "an operator"),
            ("name foo", 5, "an operator"),
            ("name ,kind", 5, "an operator"),
            ("name==", 6, "a value"),
            ("name==,kind", 6, "a value"),
            ("image~=,id?=?fbaq", 7, "a value"),
            ("parent==/x/", 8, "a value"),
            ("name==\0", 6, "a value"),
            ("name~=.*", 6, "a value"),
            ("name==foo kind", 9, "`,`"),
            ("name==foo ,kind", 9, "`,`"),
            (r#"name=="a"b"#, 9, "`,`"),
            (r#"name=="a"#, 8, "the quote's end"),
            ("name==\"a\nb\"", 9, "the quote's end"),
            (r#"labels."a"#, 9, "the quote's end"),
            (r"name~=/\d/", 8, "an escape"),
            (r#"name=="\q""#, 8, "an escape"),
            (r#"name=="\xg0""#, 8, "an escape"),
            (r#"name=="\x4""#, 8, "an escape"),
            (r#"name=="\x+4""#, 8, "an escape"),
            (r#"name=="\777""#, 8, "an escape"),
            (r#"name=="\18""#, 8, "an escape"),
            (r#"name=="\ud800""#, 8, "an escape"),
            (r#"name=="\u00\u{e9}""#, 8, "an escape"),
            (r#"name=="\"#, 8, "an escape"),
            (r#"name=="\xff""#, 7, "UTF-8"),
            ("name~=(", 6, "a regular expression"),
            ("name~=/a{1000}{1000}/", 6, "a regular expression"),
        ];
        for (filter, at, expected) in table {
            let error = Filters::parse(&["name", filter]).unwrap_err();
            assert_eq!(error.at, *at, "{filter:?}: {error}");
            let wanted = format!("expected {expected}");
            assert!(error.expected.starts_with(&wanted), "{filter:?}: {error}");
        }
        let error = Filters::parse(&["name=foo"]).unwrap_err().to_string();
        let expected = "expected an operator: `==`, `!=` or `~=`: invalid argument";
        assert_eq!(error, format!("filter, byte 4, at \"=foo\": {expected}"));
    }

    /// Every short sequence of awkward pieces is read or refused inside the filter.
    #[test]
    fn short_sequences() {
        let pieces = ["name", ".", "\"", "==", "~=", ",", " ", "\\", "x", "/", "\u{e9}", "!", "("];
        let mut filters = vec![String::new()];
        for _ in 0..5 {
            let longer =
                filters.iter().flat_map(|start| pieces.map(|piece| format!("{start}{piece}")));
            filters = longer.collect();
            for filter in &filters {
                if let Err(error) = Filters::parse(&[filter]) {
                    assert!(filter.is_char_boundary(error.at), "{filter:?}: {error}");
                }
            }
        }
    }
}
