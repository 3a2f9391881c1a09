#![forbid(unsafe_code)]
//! The program `nydus-slice`, as a library with one exit point: [`main`].
//!
//! What it does: shows what a mount slice carries, writes one, says whether its overlay would
//! mount here and with which system calls.
//!
//! What it does not do: mount anything, change a file.

use std::borrow::Cow;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

mod check;
pub mod cli;
mod decode;
mod encode;
mod find;
mod input;
mod plan;
mod recorder;

use cli::{Cli, Command};

const USAGE: u8 = 2;

/// What a command has to say.
struct Report {
    text: String,
    /// Whether all is well: the exit code is 1 otherwise.
    good: bool,
}

/// Does what the command line asks for: 0 done, 1 a problem was found, 2 usage or reading failed.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match run(cli.command) {
        Ok(Report { text, good }) => {
            // Nobody is left to be told that standard output is closed.
            let _ = anstream::stdout().write_all(text.as_bytes());
            ExitCode::from(u8::from(!good))
        }
        Err(error) => {
            let _ = writeln!(anstream::stderr(), "{BAD}nydus-slice:{BAD:#} {error:#}");
            ExitCode::from(USAGE)
        }
    }
}

/// clap quotes arguments, and one of them may be carried.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Help or the version, which have no arguments in them.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    let _ = match find::redact(&text) {
        Cow::Borrowed(_) => error.print(),
        Cow::Owned(shown) => {
            writeln!(anstream::stderr(), "{shown}\n\nFor more information, try '--help'.")
        }
    };
    ExitCode::from(USAGE)
}

fn run(command: Command) -> anyhow::Result<Report> {
    match command {
        Command::Decode(args) => decode::run(&args),
        Command::Encode(args) => encode::run(&args),
        Command::Check(args) => check::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "nydus-slice", &mut script);
            Ok(Report { text: String::from_utf8(script)?, good: true })
        }
    }
}

const BAD: anstyle::Style = anstyle::AnsiColor::Red.on_default().bold();
const DOUBTFUL: anstyle::Style = anstyle::AnsiColor::Yellow.on_default().bold();
const HEADING: anstyle::Style = anstyle::Style::new().bold();
