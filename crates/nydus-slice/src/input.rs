//! What is read from files and standard input.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use anyhow::Context;

use crate::cli::OptionStrings;
use crate::find;

/// All of a file, or of standard input where that is `-`.
pub(crate) fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = match file == Path::new("-") {
        true => std::io::stdin().read_to_end(&mut bytes),
        false => File::open(file).and_then(|mut file| file.read_to_end(&mut bytes)),
    };
    read.with_context(|| format!("cannot read {}", name(file)))?;
    Ok(bytes)
}

/// What to call the file; an option given in its place may be a carried one.
pub(crate) fn name(file: &Path) -> String {
    match file == Path::new("-") {
        true => "standard input".to_owned(),
        false => format!("'{}'", find::redact(&file.to_string_lossy())),
    }
}

/// The option strings, those on standard input without the line's end.
pub(crate) fn option_strings(options: OptionStrings) -> anyhow::Result<Vec<Vec<u8>>> {
    let one = |string: OsString| {
        let mut bytes = if string == "-" { read(Path::new("-"))? } else { string.into_vec() };
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        anyhow::ensure!(!bytes.contains(&0), "the options hold a NUL byte");
        Ok(bytes)
    };
    options.strings.into_iter().map(one).collect()
}

pub(crate) fn c_string(argument: OsString) -> anyhow::Result<CString> {
    Ok(CString::new(argument.into_vec())?)
}
