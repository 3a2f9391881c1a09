//! `check`: would the overlay mount here.

use std::ffi::OsString;
use std::fmt::Write;

use overlay_mount::buf::Line;
use overlay_mount::inspect::{Problem, problems};
use overlay_mount::sys::DIRECTORY;
use overlay_mount::{Failure, Kernel, Linux, MOUNT_DATA_MAX, Method, Options, Refusal, lsm};
use rustix::io::Errno;

use crate::cli::{Check, Pretend};
use crate::plan::{Asked, describe, errno_text, why};
use crate::{BAD, HEADING, Report, input};

pub(crate) fn run(args: Check) -> anyhow::Result<Report> {
    let has_target = args.target.is_some();
    let asked = Asked {
        source: c"overlay".into(),
        target: input::c_string(args.target.unwrap_or(OsString::from(".")))?,
        strings: input::option_strings(args.options)?,
    };
    let mut found = Vec::new();
    if has_target && let Err(error) = Linux.openat(None, &asked.target, DIRECTORY) {
        let mut line = Line::new();
        line.text("target ").quoted(asked.target.to_bytes());
        found.push(with_reason(&line, error));
    }
    let facts = inspect(&asked, &mut found).unwrap_or_else(|refusal| {
        found.push(asked.refusal(&Failure::Refused(refusal)));
        String::new()
    });
    Ok(report(&found, &facts))
}

/// What the options come to; adds to `found` what is wrong with them.
fn inspect<'a>(asked: &'a Asked, found: &mut Vec<String>) -> Result<String, Refusal<'a>> {
    asked.check_names()?;
    let options = Options::read(asked.request().words, || lsm(&Linux))?;
    problems(&options, &mut |problem| found.push(problem_text(&problem)));
    let mut facts = format!(
        "{HEADING}options for the kernel:{HEADING:#} {} bytes, one mount(2) takes {MOUNT_DATA_MAX}\n",
        options.data_len
    );
    let (_, outcome) = asked.rehearse(&[], 0);
    match outcome {
        Ok(method) => {
            let _ = writeln!(facts, "{HEADING}method:{HEADING:#} {}", describe(method));
            if method == Method::Context {
                facts += &on_old_kernels(asked);
            }
        }
        Err(_) => found.push(format!(
            "{} bytes of options: too long for mount(2), and fsconfig(2) does not take them one by one",
            options.data_len
        )),
    }
    Ok(facts)
}

/// How it goes where the file-system context does not take layers one by one.
fn on_old_kernels(asked: &Asked) -> String {
    let (_, outcome) = asked.rehearse(&[Pretend::NoFsopen], 0);
    let text =
        outcome.map_or_else(|failure| why(asked, &failure), |method| describe(method).to_owned());
    format!("{HEADING}before Linux 6.7:{HEADING:#} {text}\n")
}

fn problem_text(problem: &Problem<'_>) -> String {
    let mut line = Line::new();
    problem.describe(&mut line);
    match problem {
        Problem::Unreachable(_, error) => with_reason(&line, *error),
        _ => String::from_utf8_lossy(line.as_bytes()).into_owned(),
    }
}

fn with_reason(line: &Line, error: Errno) -> String {
    format!("{}: {}", String::from_utf8_lossy(line.as_bytes()), errno_text(error))
}

fn report(found: &[String], facts: &str) -> Report {
    let mut text: String =
        found.iter().map(|problem| format!("{BAD}problem:{BAD:#} {problem}\n")).collect();
    text += facts;
    if found.is_empty() {
        text += "no problem found\n";
    }
    Report { text, good: found.is_empty() }
}
