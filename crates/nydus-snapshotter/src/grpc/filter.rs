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
        let Some(c) = self.next() else { return Err(self.error("expected an escape of Go")) };
        match "abfnrtv\\".find(c) {
            Some(at) => bytes.push(b"\x07\x08\x0c\n\r\t\x0b\\"[at]),
            None if c == quote => push(bytes, c),
            None => return self.numeric(c, begin, bytes),
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
mod tests;
