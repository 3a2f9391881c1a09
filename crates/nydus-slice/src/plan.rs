//! `plan`: the system calls of a mount, none of them made.

use std::ffi::CString;
use std::fmt::Write;

use overlay_mount::buf::Line;
use overlay_mount::{Failure, Request, Step, Way, errno, explain, mount};

use crate::cli::{Plan, Pretend};
use crate::recorder::Recorder;
use crate::{BAD, HEADING, Report, input};

/// A mount that is asked for.
pub(crate) struct Asked {
    pub(crate) source: CString,
    pub(crate) target: CString,
    pub(crate) strings: Vec<Vec<u8>>,
}

impl Asked {
    pub(crate) fn request(&self) -> Request<'_, impl Iterator<Item = &[u8]> + Clone + use<'_>> {
        let strings = self.strings.iter().map(Vec::as_slice);
        Request { source: &self.source, target: &self.target, strings }
    }

    /// Rehearses the mount: its calls, and how it ends.
    pub(crate) fn rehearse(
        &self,
        pretend: &[Pretend],
        string_limit: usize,
    ) -> (Vec<String>, Result<Way, Failure<'_>>) {
        let recorder = Recorder::new(pretend.to_vec(), string_limit);
        let outcome = mount(&recorder, &self.request());
        (recorder.into_calls(), outcome)
    }

    /// Why the words are refused, as the helper says it.
    pub(crate) fn refusal(&self, failure: &Failure<'_>) -> String {
        let mut line = Line::new();
        explain(&self.request(), failure, &mut line);
        String::from_utf8_lossy(line.as_bytes()).into_owned()
    }
}

pub(crate) fn run(args: Plan) -> anyhow::Result<Report> {
    let asked = Asked {
        source: input::c_string(args.source)?,
        target: input::c_string(args.target)?,
        strings: input::option_strings(args.options)?,
    };
    let (calls, outcome) = asked.rehearse(&args.pretend, args.string_limit);
    let mut text = String::new();
    for call in calls {
        let _ = writeln!(text, "{call}");
    }
    let _ = match &outcome {
        Ok(way) => writeln!(text, "{HEADING}way:{HEADING:#} {}", describe(*way)),
        Err(failure) => writeln!(text, "{BAD}no mount:{BAD:#} {}", why(&asked, failure)),
    };
    Ok(Report { text, good: outcome.is_ok() })
}

pub(crate) fn describe(way: Way) -> &'static str {
    match way {
        Way::Classic => "one mount(2) with the options as they came",
        Way::Context => "the file-system context: fsopen(2), fsconfig(2), fsmount(2)",
        Way::CommonDir => "mount(2) with layers named from their common directory",
        Way::Numbers => "mount(2) with layers named by descriptor, from /proc/self/fd",
    }
}

/// The kernel is only pretended, so nothing is looked up for its answers.
pub(crate) fn why(asked: &Asked, failure: &Failure<'_>) -> String {
    let Failure::Failed(step, error) = failure else { return asked.refusal(failure) };
    let step = match step {
        Step::Target => "opening the target",
        Step::Create => "making the overlay",
        Step::Attach => "putting it on the target",
        Step::Propagation => "changing the propagation type",
    };
    format!("{step}: {}", errno::text(*error).unwrap_or("unknown error"))
}
