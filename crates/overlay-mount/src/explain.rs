//! Why there is no mount, in one line: called after a failure only.

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::buf::{Data, Line};
use crate::context::configure;
use crate::inspect::{Problem, directories, first_problem};
use crate::options::{OptionStrings, Options, Refusal};
use crate::sys::{Kernel, Linux};
use crate::table::{Effect, TABLE};
use crate::{FSCONFIG_VALUE_MAX, Failure, Request, Step, errno};

/// Appends to `line` what failed, the option or layer at fault, and the kernel's reason.
///
/// Looks at the directories first, then hands the words to a file-system context that is thrown
/// away, for the kernel's own words. Nothing gets mounted, and no value of a carried option shown.
#[cold]
#[inline(never)]
pub fn explain<'a, O: OptionStrings<'a>>(
    request: &Request<'a, O>,
    failure: &Failure<'a>,
    line: &mut Line,
) {
    match failure {
        Failure::Refused(Refusal::NoLower) => {
            line.text(
                "no lower layer: expected lowerdir=, lowerdir+= or datadir+= among the options",
            );
        }
        Failure::Refused(Refusal::Word(word, why)) => {
            line.text("option ").quoted(word).text(" is refused: ").text(why);
        }
        Failure::Failed(step, errno) => {
            line.text("cannot mount overlay on ").quoted(request.target.to_bytes()).text(": ");
            at_step(request, *step, *errno, line);
        }
    }
}

fn at_step<'a, O: OptionStrings<'a>>(
    request: &Request<'a, O>,
    step: Step,
    errno: Errno,
    line: &mut Line,
) {
    match step {
        Step::Target => reason(line.text("target"), errno),
        Step::Attach => reason(line.text("target cannot be mounted on any more"), errno),
        Step::Propagation => reason(line.text("changing the propagation type"), errno),
        Step::Create | Step::IdMaps if errno == Errno::PERM => {
            line.text("must be root (CAP_SYS_ADMIN)");
            reason(line, errno);
        }
        Step::IdMaps => reason(line.text("mapping ids by uidmap= and gidmap="), errno),
        Step::IdMap(number) => match request.read(|| Linux.lsm()) {
            Ok(options) => not_mappable(&options, number, errno, line),
            Err(_) => reason(line.text("id-mapped layer"), errno),
        },
        Step::Create => match request.read(|| Linux.lsm()) {
            Ok(options) => at_fault(request, &options, errno, line),
            Err(_) => reason(line.text("overlay"), errno),
        },
    }
}

/// A layer that could not be id-mapped, and its file system if that is why.
fn not_mappable<'a, O: OptionStrings<'a>>(
    options: &Options<O>,
    number: usize,
    errno: Errno,
    line: &mut Line,
) {
    if let Some(layer) = directories(options).nth(number - 1) {
        layer.describe(line);
        if matches!(errno, Errno::INVAL | Errno::PERM | Errno::OPNOTSUPP) {
            line.text(" is on ").text(layer.file_system().unwrap_or("a file system"));
            line.text(", which cannot be id-mapped here (uidmap=, gidmap=)");
        } else if errno == Errno::NOSYS {
            line.text(" cannot be id-mapped by this kernel (uidmap=, gidmap=)");
        }
    }
    reason(line, errno);
}

/// What the kernel answered: ": no such file or directory".
fn reason(line: &mut Line, errno: Errno) {
    line.text(": ");
    match errno::text(errno) {
        Some(text) => line.text(text),
        None => line.text("error number ").number(errno.raw_os_error().unsigned_abs() as usize),
    };
}

fn at_fault<'a, O: OptionStrings<'a>>(
    request: &Request<'a, O>,
    options: &Options<O>,
    errno: Errno,
    line: &mut Line,
) {
    match first_problem(options) {
        Some(problem @ Problem::Unreachable(_, errno)) => {
            problem.describe(line);
            return reason(line, errno);
        }
        // Only ELOOP is about overlaps: some are allowed.
        Some(Problem::Overlap(..)) if errno != Errno::LOOP => {}
        Some(problem) => {
            problem.describe(line);
            return reason(line, errno);
        }
        None => {}
    }
    if !kernels_words(request, options, line) {
        too_long(options, line);
    }
    reason(line, errno);
}

/// The kernel's own words on the options, from a context that is thrown away or from its log.
fn kernels_words<'a, O: OptionStrings<'a>>(
    request: &Request<'a, O>,
    options: &Options<O>,
    line: &mut Line,
) -> bool {
    let Ok(context) = Linux.open_context(c"overlay") else { return false };
    let configured = configure(&Linux, &context, request.source, options);
    let mut text = [0; 512];
    let mut length = rustix::io::read(&context, &mut text).unwrap_or(0);
    // Before Linux 6.5 a context has limits of its own, of which mount(2) knows nothing.
    if length > 0 && !text.starts_with(b"e VFS: Legacy") {
        if let Err(refused) = configured {
            line.text("option ").quoted(refused.word).text(": ");
        }
        line.escaped(shown(&text[..length]));
        return true;
    }
    let kernel_log = KernelLog::from_now();
    if again(request, options, &context).is_ok() {
        return false;
    }
    length = kernel_log.and_then(|log| log.next_about_overlay(&mut text)).unwrap_or(0);
    if length > 0 {
        line.text("kernel log: ").escaped(shown(&text[..length]));
    }
    length > 0
}

/// Has the kernel refuse once more what it refused a moment ago, where nobody sees it.
fn again<'a, O: OptionStrings<'a>>(
    request: &Request<'a, O>,
    options: &Options<O>,
    context: &OwnedFd,
) -> Result<(), Errno> {
    let mut data = Data::new();
    if options.put_into(&mut data).is_none() {
        return Linux.create(context);
    }
    Linux.leave_mount_namespace()?;
    Linux.make_private()?;
    Linux.mount(request.source, request.target, options.flags, data.as_c_str())
}

fn too_long<'a, O: OptionStrings<'a>>(options: &Options<O>, line: &mut Line) {
    let total = options.data_len;
    line.text("overlay");
    if options.id_mapped {
        line.text(" on id-mapped layers, which Linux takes from 5.19 on");
    }
    if total > crate::MOUNT_DATA_MAX {
        line.text(" (").number(total).text(" bytes of options, this kernel takes ");
        line.number(crate::MOUNT_DATA_MAX).text(" in one string, or ");
        line.number(FSCONFIG_VALUE_MAX).text(" in a value)");
    }
}

/// `e overlay: text\n` or `overlayfs: text\n` as `text`, up to the value of a carried option:
/// before Linux 6.5 the kernel quotes words that it does not know.
fn shown(text: &[u8]) -> &[u8] {
    let mut text = text.trim_ascii();
    for prefix in [&b"e "[..], b"w ", b"i ", b"overlay: ", b"overlayfs: "] {
        text = text.strip_prefix(prefix).unwrap_or(text);
    }
    let carried = TABLE.iter().filter(|entry| entry.effect == Effect::Carried);
    let value = |at: usize| {
        carried.clone().find_map(|entry| {
            let rest = text[at..].strip_prefix(entry.name.as_bytes())?;
            rest.starts_with(b"=").then_some(at + entry.name.len() + 1)
        })
    };
    text.get(..(0..text.len()).find_map(value).unwrap_or(text.len())).unwrap_or(text)
}

/// `/dev/kmsg`, at its end when opened: what comes later may also be about another mount.
struct KernelLog(OwnedFd);

impl KernelLog {
    fn from_now() -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let log = rustix::fs::open(c"/dev/kmsg", flags, Mode::empty()).ok()?;
        rustix::fs::seek(&log, SeekFrom::End(0)).ok()?;
        Some(Self(log))
    }

    /// The first message about an overlay, at the start of `text`.
    fn next_about_overlay(&self, text: &mut [u8]) -> Option<usize> {
        const RECORDS_MAX: usize = 64;
        for _ in 0..RECORDS_MAX {
            let length = rustix::io::read(&self.0, &mut *text).ok()?;
            let record = text.get(..length)?;
            let start = record.iter().position(|byte| *byte == b';')? + 1;
            let end = record.iter().position(|byte| *byte == b'\n').unwrap_or(length);
            if record.get(start..end)?.starts_with(b"overlay") {
                text.copy_within(start..end, 0);
                return Some(end - start);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_words_without_carried_values() {
        let table: &[(&[u8], &[u8])] = &[
            (b"e overlay: Unknown parameter 'foo'\n", b"Unknown parameter 'foo'"),
            (b"overlayfs: option \"a,extraoption=c2Vj\" or", b"option \"a,extraoption="),
            (b"overlayfs: \"\\,io.katacontainers.volume=c2Vj", b"\"\\,io.katacontainers.volume="),
            (b"overlayfs: extraoption", b"extraoption"),
            (b"", b""),
        ];
        for (text, expected) in table {
            assert_eq!(shown(text), *expected, "{}", text.escape_ascii());
        }
    }
}
