//! The one parser for all command lines of the helper:
//! `SOURCE TARGET [-sfnv] [-N NAMESPACE] [-o OPTIONS]... [-t TYPE]`, in any order.

use core::ffi::CStr;

/// The arguments after the program's name.
pub trait Arguments<'a>: Iterator<Item = &'a CStr> + Clone {}

impl<'a, I: Iterator<Item = &'a CStr> + Clone> Arguments<'a> for I {}

/// What the command line asks for.
#[derive(Clone, Copy)]
pub enum Command<'a, A> {
    /// `--help`.
    Help,
    /// `--version`.
    Version,
    /// A mount.
    Mount(Invocation<'a, A>),
}

/// A mount as the command line has it. Not `Debug`: its options may hold values that must not be
/// shown.
#[derive(Clone, Copy)]
pub struct Invocation<'a, A> {
    /// The first positional argument.
    pub source: &'a CStr,
    /// The second positional argument.
    pub target: &'a CStr,
    /// `-f`: check the command line and stop.
    pub fake: bool,
    /// `-v`: say what was done.
    pub verbose: bool,
    /// `-N`: the mount namespace to work in.
    pub namespace: Option<&'a CStr>,
    arguments: A,
}

/// A command line that cannot be understood. Holds no value, which may be secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage<'a> {
    /// Fewer than two positional arguments.
    NoTarget,
    /// More than two; the number of the first that is too much.
    TooMany(usize),
    /// A flag of one character.
    Unknown(u8),
    /// A flag of two dashes, up to its `=`.
    UnknownLong(&'a [u8]),
    /// A flag at the end that needs a value.
    NoValue(u8),
}

impl<'a, A: Arguments<'a>> Invocation<'a, A> {
    /// The values of all `-o`, in order.
    pub fn options(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a, A> {
        Tokens::new(self.arguments.clone()).filter_map(|token| match token {
            Token::Value(b'o', value) => Some(value.to_bytes()),
            _ => None,
        })
    }
}

/// Reads the arguments after the program's name. `mount.fuse3` takes an `-o` at the end, which has
/// no value, for nothing: so does this if `lenient`.
///
/// # Errors
/// The first thing that is wrong with them.
pub fn parse<'a, A: Arguments<'a>>(
    arguments: A,
    lenient: bool,
) -> Result<Command<'a, A>, Usage<'a>> {
    let (mut fake, mut verbose, mut namespace) = (false, false, None);
    let mut positionals = [None; 2];
    let mut count = 0;
    for token in Tokens::new(arguments.clone()) {
        match token {
            Token::Positional(argument) => {
                *positionals.get_mut(count).ok_or(Usage::TooMany(count + 1))? = Some(argument);
                count += 1;
            }
            Token::Letter(b'f') => fake = true,
            Token::Letter(b'v') => verbose = true,
            Token::Letter(b's' | b'n') | Token::Value(b'o' | b't', _) => {}
            Token::Value(b'N', path) => namespace = Some(path),
            Token::Long(b"help") => return Ok(Command::Help),
            Token::Long(b"version") => return Ok(Command::Version),
            Token::Letter(letter) | Token::Value(letter, _) => return Err(Usage::Unknown(letter)),
            Token::Long(name) => return Err(Usage::UnknownLong(name)),
            Token::NoValue(b'o') if lenient => {}
            Token::NoValue(letter) => return Err(Usage::NoValue(letter)),
        }
    }
    let [Some(source), Some(target)] = positionals else { return Err(Usage::NoTarget) };
    Ok(Command::Mount(Invocation { source, target, fake, verbose, namespace, arguments }))
}

/// Letters that take a value, glued or as the next argument.
const WITH_VALUE: &[u8] = b"Not";

/// Finds the values of `-o` one argument after the other, and holds no reference to any.
#[derive(Clone, Copy, Debug, Default)]
pub struct OptionValues {
    awaited: Option<u8>,
    only_positionals: bool,
}

impl OptionValues {
    /// Where the value of `-o` starts in `argument`, which comes after those that were given
    /// before, if it has one: at its start, or behind letters as in `-oX` and `-fnoX`.
    pub fn find(&mut self, argument: &[u8]) -> Option<usize> {
        if let Some(letter) = self.awaited.take() {
            return (letter == b'o').then_some(0);
        }
        self.only_positionals |= argument == b"--";
        let letters = argument.strip_prefix(b"-").filter(|rest| rest.first() != Some(&b'-'))?;
        let at = letters.iter().position(|letter| WITH_VALUE.contains(letter))?;
        if self.only_positionals {
            return None;
        }
        if at + 1 == letters.len() {
            self.awaited = Some(letters[at]);
            return None;
        }
        (letters[at] == b'o').then_some(at + 2)
    }
}

enum Token<'a> {
    Positional(&'a CStr),
    Letter(u8),
    Value(u8, &'a CStr),
    Long(&'a [u8]),
    NoValue(u8),
}

/// Splits arguments as getopt(3) does.
#[derive(Clone)]
struct Tokens<'a, A> {
    arguments: A,
    /// What is left of an argument like `-fnv`.
    letters: &'a CStr,
    only_positionals: bool,
}

impl<'a, A: Arguments<'a>> Tokens<'a, A> {
    fn new(arguments: A) -> Self {
        Self { arguments, letters: c"", only_positionals: false }
    }

    fn letter(&mut self) -> Option<Token<'a>> {
        let letter = *self.letters.to_bytes().first()?;
        self.letters = CStr::from_bytes_with_nul(&self.letters.to_bytes_with_nul()[1..]).ok()?;
        if !WITH_VALUE.contains(&letter) {
            return Some(Token::Letter(letter));
        }
        let glued = core::mem::take(&mut self.letters);
        let value = if glued.is_empty() { self.arguments.next() } else { Some(glued) };
        Some(value.map_or(Token::NoValue(letter), |value| Token::Value(letter, value)))
    }
}

impl<'a, A: Arguments<'a>> Iterator for Tokens<'a, A> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        if let Some(token) = self.letter() {
            return Some(token);
        }
        let argument = self.arguments.next()?;
        match argument.to_bytes() {
            _ if self.only_positionals => Some(Token::Positional(argument)),
            b"--" => {
                self.only_positionals = true;
                self.next()
            }
            [b'-', b'-', long @ ..] => {
                Some(Token::Long(long.split(|byte| *byte == b'=').next().unwrap_or_default()))
            }
            [b'-', _, ..] => {
                let letters = &argument.to_bytes_with_nul()[1..];
                self.letters = CStr::from_bytes_with_nul(letters).unwrap_or_default();
                self.letter()
            }
            _ => Some(Token::Positional(argument)),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{ffi::CString, format, string::String, vec::Vec};

    fn show(line: &str) -> String {
        let owned: Vec<CString> = line.split(' ').map(|a| CString::new(a).unwrap()).collect();
        let arguments = owned.iter().map(CString::as_c_str);
        match parse(arguments, false) {
            Ok(Command::Help) => "help".into(),
            Ok(Command::Version) => "version".into(),
            Err(usage) => format!("{usage:?}"),
            Ok(Command::Mount(invocation)) => {
                let options: Vec<_> = invocation.options().map(String::from_utf8_lossy).collect();
                let name = |text: &CStr| String::from_utf8_lossy(text.to_bytes()).into_owned();
                let flags = (invocation.fake, invocation.verbose);
                let namespace = invocation.namespace.map(name);
                let (source, target) = (name(invocation.source), name(invocation.target));
                format!("{source} {target} {options:?} {flags:?} {namespace:?}")
            }
        }
    }

    #[test]
    fn command_lines() {
        let table = [
            ("overlay /t -o a,b", r#"overlay /t ["a,b"] (false, false) None"#),
            ("-o a overlay -ob /t -o c", r#"overlay /t ["a", "b", "c"] (false, false) None"#),
            ("overlay /t -sfnv -N /ns -t x", r#"overlay /t [] (true, true) Some("/ns")"#),
            ("overlay /t -fnoa -N/ns", r#"overlay /t ["a"] (true, false) Some("/ns")"#),
            ("-- overlay -t", r#"overlay -t [] (false, false) None"#),
            ("-- overlay /t -o a", "TooMany(3)"),
            ("overlay /t -o -- -v", r#"overlay /t ["--"] (false, true) None"#),
            ("- /t -o a", r#"- /t ["a"] (false, false) None"#),
            ("overlay /t -t fuse.nydus-overlayfs", r#"overlay /t [] (false, false) None"#),
            (" /t", r#" /t [] (false, false) None"#),
            ("overlay", "NoTarget"),
            ("overlay /t /u", "TooMany(3)"),
            ("overlay /t -o", "NoValue(111)"),
            ("overlay /t -x", "Unknown(120)"),
            ("overlay /t -sx", "Unknown(120)"),
            ("overlay /t --foo=secret", "UnknownLong([102, 111, 111])"),
            ("overlay --help /t -x", "help"),
            ("--version", "version"),
        ];
        for (line, expected) in table {
            assert_eq!(show(line), expected, "{line}");
        }
    }

    #[test]
    fn option_values() {
        // The arguments; of each value where it starts.
        let table: &[(&str, &[(usize, usize)])] = &[
            ("overlay /t -o a", &[(3, 0)]),
            ("-oX overlay -fnoX -o Y", &[(0, 2), (2, 4), (4, 0)]),
            ("-t o -N o -tfoo -Noo", &[]),
            ("-o -o -o", &[(1, 0)]),
            ("--option -- -oX", &[]),
            ("overlay,extraoption=x - -fn", &[]),
        ];
        for (line, expected) in table {
            let mut values = OptionValues::default();
            let found = line.split(' ').enumerate();
            let found: Vec<_> = found
                .filter_map(|(index, one)| Some((index, values.find(one.as_bytes())?)))
                .collect();
            assert_eq!(found, *expected, "{line}");
        }
    }
}
