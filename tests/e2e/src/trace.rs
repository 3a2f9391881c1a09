//! Stops a program at each of its system calls (ptrace(2)), and lets them fail.

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Seconds that a program may take; then a signal ends it.
const LIMIT: u32 = 60;

/// Where a program stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// How many stops came before.
    pub index: usize,
    /// Number of the system call.
    pub call: u64,
    /// Before the call, or after it.
    pub entry: bool,
}

/// What happens at a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The program goes on to its next stop.
    Go,
    /// The program goes on to its end.
    Run,
    /// The program is killed.
    Kill,
    /// The call is not made, and this is its error; only before a call. There are no more stops.
    Fail(Errno),
}

/// Runs `command`, its output unseen; `at` says at each stop whether it goes on, else it is
/// killed. Returns the exit code, `None` if it was killed.
///
/// # Panics
/// It cannot be started or traced.
pub fn trace(command: &mut Command, mut at: impl FnMut(Pid, Stop) -> bool) -> Option<i32> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    steps(command, |stop| if at(stop.0, stop.1) { Next::Go } else { Next::Kill })
}

/// waitpid(2), again if a signal interrupts it.
fn wait(pid: Pid) -> nix::Result<WaitStatus> {
    loop {
        match waitpid(pid, None) {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

/// Runs `command`; `at` says at each stop what happens. Returns the exit code, `None` if a signal
/// ended it.
///
/// # Panics
/// It cannot be started or traced.
pub fn steps(command: &mut Command, mut at: impl FnMut((Pid, Stop)) -> Next) -> Option<i32> {
    let prepare = || {
        nix::unistd::alarm::set(LIMIT);
        Ok(ptrace::traceme()?)
    };
    // SAFETY: each is one system call, which may be made between fork and exec.
    unsafe { command.pre_exec(prepare) };
    #[allow(clippy::zombie_processes, reason = "waited for by its pid")]
    let child = command.spawn().expect("a program to trace");
    let pid = Pid::from_raw(child.id().cast_signed());
    wait(pid).expect("its stop after exec");
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(pid, options).expect("options of ptrace");
    let (mut index, mut entry, mut signal, mut failing) = (0, true, None, None);
    let mut stops = true;
    loop {
        let on = if stops { ptrace::syscall(pid, signal) } else { ptrace::cont(pid, signal) };
        on.expect("to go on");
        signal = None;
        match wait(pid).expect("a stop") {
            WaitStatus::Exited(_, code) => return Some(code),
            WaitStatus::Signaled(..) => return None,
            WaitStatus::PtraceSyscall(_) => {
                let mut registers = ptrace::getregs(pid).expect("registers");
                if let Some(errno) = failing.take() {
                    registers.rax = -i64::from(errno as i32) as u64;
                    ptrace::setregs(pid, registers).expect("registers");
                    stops = false;
                    continue;
                }
                match at((pid, Stop { index, call: registers.orig_rax, entry })) {
                    Next::Go => {}
                    Next::Run => stops = false,
                    Next::Kill => {
                        nix::sys::signal::kill(pid, Signal::SIGKILL).expect("killed");
                        wait(pid).expect("its end");
                        return None;
                    }
                    Next::Fail(errno) => {
                        assert!(entry, "a call that was made cannot be failed");
                        // A descriptor is closed whatever close(2) answers.
                        if registers.orig_rax != libc::SYS_close.cast_unsigned() {
                            registers.orig_rax = u64::MAX;
                            ptrace::setregs(pid, registers).expect("registers");
                        }
                        failing = Some(errno);
                    }
                }
                (index, entry) = (index + 1, !entry);
            }
            WaitStatus::Stopped(_, received) => signal = Some(received),
            _ => {}
        }
    }
}
