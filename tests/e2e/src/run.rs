//! Commands with a time limit and captured output.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Seconds that a command may take; every program of these tests is done in milliseconds.
const LIMIT: i64 = 60;

/// What a command did. Shown in full by `Display`, for the message of a failed assertion.
#[derive(Debug)]
pub struct Ran {
    command: String,
    directory: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Ran {
    /// Whether the exit code is 0.
    pub fn ok(&self) -> bool {
        self.status.success()
    }

    /// The exit code; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Standard error as text.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Whether the parts of `text`, which has ` … ` between them, stand on standard error in this
    /// order.
    pub fn tells(&self, text: &str) -> bool {
        let said = self.said();
        let mut parts = text.split(" … ");
        parts.try_fold(&*said, |rest, part| Some(rest.split_once(part)?.1)).is_some()
    }

    /// Whether `bytes` occur in what it printed.
    pub fn shows(&self, bytes: &[u8]) -> bool {
        let shows = |output: &[u8]| output.windows(bytes.len()).any(|window| window == bytes);
        shows(&self.stdout) || shows(&self.stderr)
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "command:   {}", self.command)?;
        writeln!(f, "directory: {}", self.directory)?;
        writeln!(f, "{}", self.status)?;
        writeln!(f, "stdout:    {}", String::from_utf8_lossy(&self.stdout))?;
        write!(f, "stderr:    {}", String::from_utf8_lossy(&self.stderr))
    }
}

/// Runs `command` with nothing on standard input, in a process group of its own.
///
/// # Panics
/// It cannot be started, or its time is over; then it and its children are killed.
pub fn run(command: &mut Command) -> Ran {
    run_for(command, LIMIT)
}

/// The same with a limit of its own, in seconds.
///
/// # Panics
/// As [`run`].
pub fn run_for(command: &mut Command, limit: i64) -> Ran {
    finish(command.stdin(Stdio::null()), limit)
}

/// The same with `input` on standard input.
///
/// # Panics
/// As [`run`].
pub fn run_with(command: &mut Command, input: &[u8]) -> Ran {
    let mut file = output();
    file.write_all(input).and_then(|()| file.rewind()).expect("input to write");
    finish(command.stdin(file), LIMIT)
}

fn finish(command: &mut Command, limit: i64) -> Ran {
    let outputs = [output(), output()];
    let [stdout, stderr] = [0, 1].map(|i: usize| outputs[i].try_clone().expect("a descriptor"));
    command.stdout(stdout).stderr(stderr).process_group(0);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let in_time = wait(&child, limit);
    if !in_time {
        let group = Pid::from_child(&child);
        kill_process_group(group, Signal::KILL).expect("a process group to kill");
    }
    let status = child.wait().expect("a child to wait for");
    let [stdout, stderr] = outputs.map(read);
    let directory = command.get_current_dir().map(|path| path.display().to_string());
    let directory = directory.unwrap_or_else(here);
    let ran = Ran { command: format!("{command:?}"), directory, status, stdout, stderr };
    assert!(in_time, "killed after {limit} s\n{ran}");
    ran
}

/// A file in memory: unlike a pipe, it does not make a test wait for a grandchild.
fn output() -> File {
    rustix::fs::memfd_create(c"output", MemfdFlags::CLOEXEC).expect("a file in memory").into()
}

fn read(mut output: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    output.rewind().and_then(|()| output.read_to_end(&mut bytes)).expect("output to read");
    bytes
}

fn here() -> String {
    std::env::current_dir().map_or_else(|error| error.to_string(), |dir| dir.display().to_string())
}

/// Whether `child` ends in time.
fn wait(child: &Child, limit: i64) -> bool {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("a pidfd");
    let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
    let end = Instant::now() + Duration::from_secs(limit.unsigned_abs());
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left =
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut ended, Some(&left)) {
            Err(Errno::INTR) => {}
            ready => return ready.expect("poll") > 0,
        }
    }
}

/// Makes a system call again that a signal has interrupted.
///
/// # Errors
/// Any other of the call.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

    extern "C" fn nothing(_: libc::c_int) {}

    #[test]
    fn signals_do_not_end_the_wait() {
        let handler = SigHandler::Handler(nothing);
        let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing.
        unsafe { sigaction(Signal::SIGUSR1, &action) }.expect("a handler");
        // SAFETY: it has no preconditions.
        let waiting = unsafe { libc::pthread_self() };
        std::thread::scope(|scope| {
            let signals = scope.spawn(move || {
                for _ in 0..20 {
                    // SAFETY: the thread waits for this one.
                    assert_eq!(unsafe { libc::pthread_kill(waiting, libc::SIGUSR1) }, 0);
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            let ran = run(Command::new("sleep").arg("1"));
            assert!(ran.ok(), "{ran}");
            signals.join().expect("no panic");
        });
    }
}
