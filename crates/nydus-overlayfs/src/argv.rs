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
        let mut getopt = Getopt::default();
        self.arguments.clone().filter_map(move |argument| {
            let argument = argument.to_bytes();
            getopt.option_value(argument).and_then(|start| argument.get(start..))
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
    let mut getopt = Getopt::default();
    for argument in arguments.clone() {
        for token in getopt.tokens(argument.to_bytes()) {
            match token {
                Token::Positional => {
                    *positionals.get_mut(count).ok_or(Usage::TooMany(count + 1))? = Some(argument);
                    count += 1;
                }
                Token::Flag(b'f') => fake = true,
                Token::Flag(b'v') => verbose = true,
                Token::Flag(b's' | b'n') | Token::Value(b'o' | b't', _) => {}
                Token::Value(b'N', start) => namespace = Some(from(argument, start)),
                Token::Long(b"help") => return Ok(Command::Help),
                Token::Long(b"version") => return Ok(Command::Version),
                Token::Flag(flag) | Token::Value(flag, _) => return Err(Usage::Unknown(flag)),
                Token::Long(name) => return Err(Usage::UnknownLong(name)),
            }
        }
    }
    if let Some(flag) = getopt.awaited.filter(|flag| *flag != b'o' || !lenient) {
        return Err(Usage::NoValue(flag));
    }
    let [Some(source), Some(target)] = positionals else { return Err(Usage::NoTarget) };
    Ok(Command::Mount(Invocation { source, target, fake, verbose, namespace, arguments }))
}

/// What is left of `argument` from `start`, which is not behind its end.
pub(crate) fn from(argument: &CStr, start: usize) -> &CStr {
    let rest = argument.to_bytes_with_nul().get(start..).unwrap_or_default();
    CStr::from_bytes_with_nul(rest).unwrap_or_default()
}

/// What an argument has.
#[derive(Clone, Copy)]
enum Token<'t> {
    Positional,
    Flag(u8),
    /// A flag and where in the argument its value starts.
    Value(u8, usize),
    /// A flag of two dashes, up to its `=`.
    Long(&'t [u8]),
}

/// Splits argument after argument as getopt(3) does, and holds no reference to any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Getopt {
    /// The flag at the end of the last argument, whose value is the next one.
    awaited: Option<u8>,
    only_positionals: bool,
}

impl Getopt {
    /// Where the value of `-o` starts in `argument`, which comes after those that were given
    /// before, if it has one.
    pub fn option_value(&mut self, argument: &[u8]) -> Option<usize> {
        self.tokens(argument).find_map(|token| match token {
            Token::Value(b'o', start) => Some(start),
            _ => None,
        })
    }

    /// What `argument` has, to be read to its end or to its value.
    fn tokens<'t>(&mut self, argument: &'t [u8]) -> impl Iterator<Item = Token<'t>> {
        const WITH_VALUE: &[u8] = b"Not";
        let mut flags = &b""[..];
        let value = self.awaited.take().map(|flag| Token::Value(flag, 0));
        let whole = match argument {
            _ if value.is_some() => value,
            _ if self.only_positionals => Some(Token::Positional),
            b"--" => {
                self.only_positionals = true;
                None
            }
            [b'-', b'-', long @ ..] => {
                Some(Token::Long(long.split(|byte| *byte == b'=').next().unwrap_or_default()))
            }
            [b'-', rest @ ..] if !rest.is_empty() => {
                flags = rest;
                None
            }
            _ => Some(Token::Positional),
        };
        whole.into_iter().chain(core::iter::from_fn(move || {
            let (flag, rest) = flags.split_first()?;
            flags = rest;
            if !WITH_VALUE.contains(flag) {
                return Some(Token::Flag(*flag));
            }
            flags = b"";
            if rest.is_empty() {
                self.awaited = Some(*flag);
                return None;
            }
            Some(Token::Value(*flag, argument.len() - rest.len()))
        }))
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
            let mut getopt = Getopt::default();
            let found = line.split(' ').enumerate();
            let found: Vec<_> = found
                .filter_map(|(index, one)| Some((index, getopt.option_value(one.as_bytes())?)))
                .collect();
            assert_eq!(found, *expected, "{line}");
        }
    }
}
