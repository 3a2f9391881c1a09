//! `plan`: the system calls of a mount, none of them made.

use std::ffi::CString;
use std::fmt::Write;

use overlay_mount::buf::Line;
use overlay_mount::words::{nameless, words};
use overlay_mount::{Failure, Method, Refusal, Request, Step, Words, explain, mount};

use rustix::io::Errno;

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
    pub(crate) fn request(&self) -> Request<'_, impl Words<'_>> {
        let words = self.strings.iter().flat_map(|string| words(string));
        Request { source: &self.source, target: &self.target, words }
    }

    /// Each option string must begin with an option that has a name.
    pub(crate) fn check_names(&self) -> Result<(), Refusal<'_>> {
        let first = self.strings.iter().find_map(|string| nameless(string));
        first.map_or(Ok(()), |word| Err(Refusal::NoName(word)))
    }

    /// Rehearses the mount: its calls, and how it ends.
    pub(crate) fn rehearse(
        &self,
        pretend: &[Pretend],
        string_limit: usize,
    ) -> (Vec<String>, Result<Method, Failure<'_>>) {
        let recorder = Recorder::new(pretend.to_vec(), string_limit);
        let names = self.check_names().map_err(Failure::Refused);
        let outcome = names.and_then(|()| mount(&recorder, &self.request()));
        (recorder.into_calls(), outcome)
    }

    /// Why the options are refused, as the helper says it.
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
        Ok(method) => writeln!(text, "{HEADING}method:{HEADING:#} {}", describe(*method)),
        Err(failure) => writeln!(text, "{BAD}no mount:{BAD:#} {}", why(&asked, failure)),
    };
    Ok(Report { text, good: outcome.is_ok() })
}

pub(crate) fn describe(method: Method) -> &'static str {
    match method {
        Method::Classic => "one mount(2) with the options as they came",
        Method::Context => "the file-system context: fsopen(2), fsconfig(2), fsmount(2)",
        Method::CommonDir => "mount(2) with layers named from their common directory",
        Method::Numbers => "mount(2) with layers named by descriptor, from /proc/self/fd",
    }
}

/// The kernel is only pretended, so nothing is looked up for its answers.
pub(crate) fn why(asked: &Asked, failure: &Failure<'_>) -> String {
    let Failure::Failed(step, error) = failure else { return asked.refusal(failure) };
    let step = match step {
        Step::Target => "opening the target",
        Step::IdMaps => "mapping ids by uidmap= and gidmap=",
        Step::IdMap(number) => {
            return format!("id-mapping lower layer {number}: {}", errno_text(*error));
        }
        Step::Create => "making the overlay",
        Step::Attach | Step::Removed => "mounting it on the target",
        Step::Propagation => "changing the propagation type",
    };
    format!("{step}: {}", errno_text(*error))
}

pub(crate) fn errno_text(error: Errno) -> String {
    let mut line = Line::new();
    line.errno(error);
    String::from_utf8_lossy(line.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use overlay_mount::MOUNT_DATA_MAX;

    const SECRET: &str = "c2VjcmV0";

    /// Option strings whose paths are so long, so many, and relative or not.
    fn strings(count: usize, length: usize, root: &str) -> Vec<Vec<u8>> {
        let path = |n: usize| format!("{root}{}/{n}", "d/".repeat(length / 2));
        let lower = (1..=count).map(path).collect::<Vec<_>>().join(":");
        let [upper, work] = ["u", "w"].map(|name| path(0) + name);
        let carried = format!("extraoption={SECRET},io.katacontainers.volume={SECRET}");
        let all = format!("{carried},lowerdir={lower},upperdir={upper},workdir={work},{carried}");
        ["", ",ro", ",private", ",uidmap=0:1:2,gidmap=0:1:2", ",context=\"a,b\""]
            .map(|more| (all.clone() + more).into_bytes())
            .into()
    }

    /// What must hold for every mount on every system: see ARCHITECTURE.md.
    fn assert_invariants(asked: &Asked, pretend: &[Pretend]) -> Option<Method> {
        let (calls, outcome) = asked.rehearse(pretend, usize::MAX);
        let opened = calls.iter().filter_map(|call| call.rsplit_once(" = ")?.1.parse::<u32>().ok());
        let opened = opened.filter(|number| *number > 2).count();
        let closed = calls.iter().filter(|call| call.starts_with("close(")).count();
        assert_eq!(opened, closed, "descriptors: {pretend:?} {calls:#?}");
        for call in &calls {
            assert!(!call.contains(SECRET), "{call}");
            let data =
                call.strip_prefix("mount(\"").and_then(|call| call.split("overlay\", ").last());
            let data = data.and_then(|data| data.split_once('"')).map_or(0, |(_, data)| data.len());
            // What follows the data is `") = 0`.
            assert!(data <= MOUNT_DATA_MAX + 6, "{data} bytes");
        }
        outcome.ok()
    }

    #[test]
    fn invariants_hold_on_every_system() {
        let features = Pretend::value_variants();
        let mut methods = Vec::new();
        for (count, length, root) in
            [(2, 8, "/"), (2, 8, ""), (40, 120, "/"), (20, 300, ""), (502, 20, "/")]
        {
            for string in strings(count, length, root) {
                let target = c"/t".into();
                let asked = Asked { source: c"overlay".into(), target, strings: vec![string] };
                for set in 0..1_u32 << features.len() {
                    let chosen = features.iter().enumerate().filter(|(bit, _)| set >> bit & 1 != 0);
                    let pretend: Vec<_> = chosen.map(|(_, feature)| *feature).collect();
                    methods.extend(assert_invariants(&asked, &pretend));
                }
            }
        }
        for method in [Method::Classic, Method::Context, Method::CommonDir, Method::Numbers] {
            assert!(methods.contains(&method), "{method:?} was never used");
        }
    }
}
