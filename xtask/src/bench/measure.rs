//! Time from spawn to exit, and peak memory.

use crate::stage::umount;
use anyhow::{Context, Result, ensure};
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Mounts by one program before the next has its turn: other work on the machine hits all alike.
const BLOCK: usize = 5;

/// How often [`times`] will call `tick`.
pub(super) fn turns(commands: &[Command], count: usize) -> u64 {
    (count.div_ceil(BLOCK) * commands.len()) as u64
}

/// Runs each command `count` times, in turn, unmounting after each; their times.
pub(super) fn times(
    commands: &mut [Command],
    count: usize,
    target: &Path,
    tick: &dyn Fn(),
) -> Result<Vec<Vec<Duration>>> {
    let mut times = vec![Vec::with_capacity(count); commands.len()];
    for round in 0..count.div_ceil(BLOCK) {
        for turn in 0..commands.len() {
            let program = (round + turn) % commands.len();
            for _ in 0..BLOCK {
                times[program].push(once(&mut commands[program], target)?);
            }
            tick();
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

/// VmHWM in KiB, read while the program is stopped at its exit.
///
/// `ru_maxrss` would carry over what this process had when it forked.
pub(super) fn peak_memory(command: &mut Command, target: &Path) -> Result<u64> {
    // SAFETY: PTRACE_TRACEME is one system call, which may be made between fork and exec.
    #[allow(unsafe_code)]
    let child = unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) }.spawn()?;
    let peak = watch(&child)?;
    umount(target)?;
    Ok(peak)
}

fn watch(child: &Child) -> Result<u64> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    waitpid(pid, None)?; // stopped after exec
    ptrace::setoptions(pid, Options::PTRACE_O_TRACEEXIT | Options::PTRACE_O_EXITKILL)?;
    let mut peak = 0;
    let mut signal = None;
    loop {
        ptrace::cont(pid, signal)?;
        signal = None;
        match waitpid(pid, None)? {
            WaitStatus::PtraceEvent(..) => peak = high_water_mark(pid)?,
            WaitStatus::Stopped(_, received) => signal = Some(received),
            WaitStatus::Exited(_, 0) => return Ok(peak),
            other => anyhow::bail!("traced program ended with {other:?}"),
        }
    }
}

fn high_water_mark(pid: Pid) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number.context("no VmHWM in /proc/PID/status")?.parse().context("VmHWM is no number")
}
