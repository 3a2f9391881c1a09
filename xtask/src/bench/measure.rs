//! Time from spawn to exit, and what else a program takes.

use crate::stage::umount;
use anyhow::{Context, Result, ensure};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Mounts by one program before the next has its turn: other work on the machine hits all alike.
const BLOCK: usize = 5;

/// Runs each command `count` times, in turn, unmounting after each; their times.
pub(super) fn times(
    commands: &mut [Command],
    count: usize,
    target: &Path,
) -> Result<Vec<Vec<Duration>>> {
    let mut times = vec![Vec::with_capacity(count); commands.len()];
    for round in 0..count.div_ceil(BLOCK) {
        for turn in 0..commands.len() {
            let program = (round + turn) % commands.len();
            for _ in 0..BLOCK {
                times[program].push(once(&mut commands[program], target)?);
            }
        }
    }
    Ok(times)
}

/// `std` spawns with CLONE_VFORK, so our own size is not part of the time.
fn once(command: &mut Command, target: &Path) -> Result<Duration> {
    let start = Instant::now();
    let status = command.status();
    let time = start.elapsed();
    let status = status.with_context(|| format!("cannot run {:?}", command.get_program()))?;
    ensure!(status.success(), "{:?}: {status}", command.get_program());
    umount(target)?;
    Ok(time)
}

/// What a program takes, besides time.
#[derive(Clone, Copy, Default)]
pub(super) struct Cost {
    /// VmHWM, read when it is stopped at its exit: `ru_maxrss` would carry over what this process
    /// had when it forked.
    pub(super) peak_memory_kib: u64,
    /// Without those of the kernel's work in execve(2).
    pub(super) page_faults: u64,
    /// In user space, after execve(2); a repeated one counts each time. The same in each run and
    /// on each machine but for less than a percent, as the stack's address varies.
    pub(super) instructions: Option<u64>,
}

/// Runs the command once more, one instruction after the other if they are `counted`.
pub(super) fn cost(command: &mut Command, target: &Path, counted: bool) -> Result<Cost> {
    // SAFETY: PTRACE_TRACEME is one system call, which may be made between fork and exec.
    #[allow(unsafe_code)]
    let child = unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) }.spawn()?;
    let cost = watch(&child, counted)?;
    umount(target)?;
    Ok(cost)
}

fn watch(child: &Child, counted: bool) -> Result<Cost> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    waitpid(pid, None)?; // stopped after exec
    ptrace::setoptions(pid, Options::PTRACE_O_TRACEEXIT | Options::PTRACE_O_EXITKILL)?;
    let (before, mut instructions) = (page_faults(pid)?, 0);
    let (mut cost, mut signal) = (Cost::default(), None);
    let go_on = if counted { ptrace::step } else { ptrace::cont };
    loop {
        go_on(pid, signal.take())?;
        match waitpid(pid, None)? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => instructions += 1,
            WaitStatus::Stopped(_, received) => signal = Some(received),
            // In the system call that is its last instruction.
            WaitStatus::PtraceEvent(..) => {
                cost = Cost {
                    peak_memory_kib: peak_memory(pid)?,
                    page_faults: page_faults(pid)? - before,
                    instructions: counted.then_some(instructions + 1),
                };
            }
            WaitStatus::Exited(_, 0) => return Ok(cost),
            other => anyhow::bail!("traced program ended with {other:?}"),
        }
    }
}

fn peak_memory(pid: Pid) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number.context("no VmHWM in /proc/PID/status")?.parse().context("VmHWM is no number")
}

/// minflt, the 10th field of proc_pid_stat(5); the 2nd may have blanks in it.
fn page_faults(pid: Pid) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let field = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(7));
    field.context("no minflt in /proc/PID/stat")?.parse().context("minflt is no number")
}
