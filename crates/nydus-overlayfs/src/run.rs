//! From the command line to the exit code.

use core::ffi::CStr;
use overlay_mount::buf::Line;
use overlay_mount::raw::ignore_sigpipe;
use overlay_mount::words::nameless;
use overlay_mount::{Failure, Linux, Refusal, Request, explain, may_mount, mount};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::BorrowedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{getegid, geteuid, getgid, getuid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::argv::{Arguments, Command, Invocation, Usage, from, parse};
use crate::mount_fuse::{self, HandOn, InvokedAs};

/// What `--version` prints.
pub const VERSION: &str = concat!("nydus-overlayfs ", env!("CARGO_PKG_VERSION"), " (commit ");

const COMMIT: &str = match option_env!("NYDUS_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// What `--help` prints.
pub const HELP: &str = "\
Usage: nydus-overlayfs SOURCE TARGET [-sfnv] [-N NAMESPACE] [-o OPTIONS]... [-t TYPE]

Mounts an overlay file system on TARGET, as mount -t overlay SOURCE TARGET -o OPTIONS would.
Called by mount.fuse for the type fuse.nydus-overlayfs, or by mount(8). Under the name
mount.fuse or mount.fuse3 it mounts that type itself and runs the next such program in PATH
for all others.

  -o OPTIONS     mount options, separated by commas; may be given several times.
                 extraoption= and io.katacontainers.volume= are dropped;
                 read-only, upperdir= is the topmost lower layer
                 uidmap= and gidmap=C:H:SIZE[,C:H:SIZE]... map the lower layers' owners
  -N NAMESPACE   mount in this mount namespace (a path like /proc/PID/ns/mnt)
  -f             check the command line, mount nothing
  -v             say what was mounted
  -s, -n         accepted, without effect
  -t TYPE        accepted, without effect
  --help         print this and exit
  --version      print the version and exit

Exit status: 0 mounted, 1 usage or not root, 2 system, 4 internal error, 32 mount failed;
126, 127 no other mount.fuse that can be run.
";

const PROGRAM: &str = "nydus-overlayfs: ";
const USAGE: u8 = 1;
const SYSTEM: u8 = 2;
const INTERNAL_ERROR: u8 = 4;
const MOUNT_FAILED: u8 = 32;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// The standard descriptors of the process.
#[derive(Clone, Copy, Debug)]
pub struct Standard {
    /// Number 0.
    pub input: BorrowedFd<'static>,
    /// Number 1.
    pub output: BorrowedFd<'static>,
    /// Number 2.
    pub error: BorrowedFd<'static>,
}

/// Does what the arguments after the program's name ask for; returns the exit code (mount(8)).
pub fn run<'a>(arguments: impl Arguments<'a>, invoked_as: InvokedAs, standard: Standard) -> u8 {
    standard.occupy();
    #[cfg(feature = "panic")]
    assert!(!arguments.clone().any(|argument| argument == c"--panic"));
    if is_setuid() {
        return standard.fail(USAGE, refuse_setuid);
    }
    match parse(arguments, matches!(invoked_as, InvokedAs::MountFuse(_))) {
        Ok(Command::Help) => standard.print(&[HELP]),
        Ok(Command::Version) => standard.print(&[VERSION, COMMIT, ")\n"]),
        Ok(Command::Mount(invocation)) => run_mount(invocation, invoked_as, standard),
        Err(usage) => standard.fail(USAGE, |line| explain_usage(usage, line)),
    }
}

/// What is left to do after a panic: says so, and returns the exit code.
#[cold]
pub fn internal_error(standard: Standard) -> u8 {
    standard.fail(INTERNAL_ERROR, |line| _ = line.text("internal error"))
}

/// Lets `execute` run the program that mounts what `mount.fuse` is asked for; returns only if there
/// is none or it cannot be run, with the exit code of a shell in that case (POSIX, "exit status for
/// commands").
#[cold]
pub fn pass_on<'a>(
    name: &'a CStr,
    arguments: impl Arguments<'a>,
    path: &[u8],
    me: &CStr,
    standard: Standard,
    execute: impl FnOnce(&CStr) -> Errno,
) -> u8 {
    if is_setuid() {
        return standard.fail(USAGE, refuse_setuid);
    }
    let Some(file) = mount_fuse::real(name, path, me) else {
        return standard.fail(NOT_FOUND, |line| {
            line.text("cannot mount type ").quoted(mount_fuse::kind(name, arguments));
            line.text(": mount.fuse3 not found in PATH or /sbin (install package fuse3)");
        });
    };
    let errno = execute(file.as_c_str());
    standard.fail(NOT_EXECUTABLE, |line| {
        line.text("cannot run ").quoted(file.as_bytes()).text(": ").errno(errno);
    })
}

fn is_setuid() -> bool {
    getuid() != geteuid() || getgid() != getegid()
}

fn refuse_setuid(line: &mut Line) {
    line.text("refuses to run setuid or setgid: must be started by root");
}

fn run_mount<'a>(
    mut invocation: Invocation<'a, impl Arguments<'a>>,
    invoked_as: InvokedAs,
    standard: Standard,
) -> u8 {
    if let InvokedAs::MountFuse(source) = invoked_as {
        let Some(start) = source else {
            return standard.fail(USAGE, |line| explain_usage(Usage::NoTarget, line));
        };
        invocation.source = from(invocation.source, start);
    }
    if let Some(path) = invocation.namespace
        && let Err(errno) = enter_namespace(path)
    {
        return standard.fail(exit_code(errno), |line| {
            line.text("cannot enter mount namespace ").quoted(path.to_bytes());
            line.text(": ").errno(errno);
        });
    }
    let Invocation { source, target, fake, verbose, .. } = invocation;
    let hand_on = HandOn::new(invoked_as, invocation.options());
    let request = Request { source, target, words: hand_on.options(invocation.options()) };
    let outcome = match refused(&invocation, invoked_as, hand_on) {
        Some(refusal) => Err(Failure::Refused(refusal)),
        None if fake => request.check(),
        None => mount(&Linux, &request).map(|_| ()),
    };
    match outcome {
        Ok(()) if verbose && !fake => standard.report(target),
        Ok(()) => 0,
        Err(failure) => {
            standard.fail(failure_code(&failure), |line| explain(&request, &failure, line))
        }
    }
}

/// What `mount(8)` or `mount.fuse` would refuse before it looks at what options mean.
fn refused<'a>(
    invocation: &Invocation<'a, impl Arguments<'a>>,
    invoked_as: InvokedAs,
    hand_on: HandOn<'a>,
) -> Option<Refusal<'a>> {
    let mut strings = invocation.options();
    let nameless = match invoked_as {
        // It makes one string of all.
        InvokedAs::MountFuse(_) => strings.next().and_then(nameless),
        _ => strings.find_map(nameless),
    };
    let unprivileged = || Some(Refusal::Unsupported(hand_on.unprivileged?, "overlays need root"));
    nameless.map(Refusal::NoName).or_else(unprivileged)
}

fn enter_namespace(path: &CStr) -> Result<(), Errno> {
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let namespace = rustix::fd::AsFd::as_fd(&namespace);
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Mount))
}

fn failure_code(failure: &Failure<'_>) -> u8 {
    match failure {
        Failure::Refused(_) => USAGE,
        Failure::Failed(_, errno) => exit_code(*errno),
    }
}

fn exit_code(errno: Errno) -> u8 {
    match errno {
        Errno::PERM if !may_mount() => USAGE,
        Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::AGAIN => SYSTEM,
        _ => MOUNT_FAILED,
    }
}

fn explain_usage(usage: Usage<'_>, line: &mut Line) {
    match usage {
        Usage::NoTarget => line.text("no target: expected SOURCE TARGET -o OPTIONS"),
        Usage::TooMany(number) => {
            line.text("unexpected argument ").number(number);
            line.text(": expected SOURCE TARGET -o OPTIONS")
        }
        Usage::Unknown(flag) => line.text("unknown flag ").quoted(&[b'-', flag]),
        Usage::UnknownLong(name) => line.text("unknown flag '--").escaped(name).text("'"),
        Usage::NoValue(flag) => line.quoted(&[b'-', flag]).text(" needs a value"),
    };
}

impl Standard {
    fn report(self, target: &CStr) -> u8 {
        let mut line = Line::new();
        line.text(PROGRAM).text("overlay mounted on ").quoted(target.to_bytes());
        line.end();
        // The mount is made: whether somebody reads about it does not matter.
        let _ = write_all(self.output, line.as_bytes());
        0
    }

    #[cold]
    #[inline(never)]
    fn fail(self, code: u8, describe: impl FnOnce(&mut Line)) -> u8 {
        let mut line = Line::new();
        line.text(PROGRAM);
        describe(&mut line);
        line.end();
        // One write(2): a pipe keeps up to PIPE_BUF bytes of one whole among those of others.
        let _ = write_all(self.error, line.as_bytes());
        code
    }

    fn print(self, texts: &[&str]) -> u8 {
        let print = |text: &&str| write_all(self.output, text.as_bytes());
        match texts.iter().try_for_each(print) {
            // Who reads no further has read enough.
            Ok(()) | Err(Errno::PIPE) => 0,
            Err(_) => SYSTEM,
        }
    }

    /// Fills closed descriptors, lest a layer get number 2 and errors be written to it.
    fn occupy(self) {
        let all = [self.input, self.output, self.error];
        let mut polled = all.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::empty()));
        let _ = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        for _ in polled.iter().filter(|fd| fd.revents().contains(PollFlags::NVAL)) {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            // The lowest number that is free: the one that was closed.
            if let Ok(fd) = rustix::fs::open(c"/", flags, Mode::empty()) {
                core::mem::forget(fd);
            }
        }
    }
}

/// Writes to a descriptor that may be a pipe nobody reads from.
#[cold]
fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    ignore_sigpipe();
    while !bytes.is_empty() {
        match retry_on_intr(|| rustix::io::write(fd, bytes))? {
            0 => return Err(Errno::IO),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
}
