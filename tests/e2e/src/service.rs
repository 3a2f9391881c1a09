//! Programs that run beside a test: started, awaited with a limit, always ended.

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, test_kill_process, waitpid,
};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a service may take to be ready, or to end.
const LIMIT: Duration = Duration::from_secs(30);

/// A running program whose output goes to a file. It is ended when dropped.
#[derive(Debug)]
pub struct Service {
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts `command`; what it says is added to the file `log`.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(command: &mut Command, log: PathBuf) -> Self {
        // What it leaves behind becomes our child, so that we can wait for its end.
        set_child_subreaper(Some(getpid())).expect("a subreaper");
        let output = File::options().create(true).append(true).open(&log).expect("a log");
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("a descriptor"));
        let child = command.stderr(output).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log }
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The end of what it said.
    pub fn said(&self) -> String {
        format!("{}:\n{}", self.log.display(), tail(&self.log))
    }

    /// Waits until `ready`.
    ///
    /// # Panics
    /// It ended, or it takes too long.
    pub fn wait(&mut self, what: &str, mut ready: impl FnMut() -> bool) {
        let start = Instant::now();
        while !ready() {
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("waiting for {what}: it ended, {status}\n{}", self.said());
            }
            assert!(start.elapsed() < LIMIT, "no {what} after {LIMIT:?}\n{}", self.said());
            sleep(Duration::from_millis(10));
        }
    }

    /// Asks it to end, and makes it after a while. True if it ended by itself, without an error.
    pub fn stop(&mut self) -> bool {
        self.signal(Signal::TERM);
        let ended = until(LIMIT / 3, || !matches!(self.child.try_wait(), Ok(None)));
        if !ended {
            println!("killed: it does not end\n{}", self.said());
        }
        self.kill() && ended
    }

    /// Ends it without asking. True if it had ended before, without an error.
    pub fn kill(&mut self) -> bool {
        let _ = self.child.kill();
        self.child.wait().is_ok_and(|status| status.success())
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: Signal) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(self.pid(), signal);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

/// Whether `condition` comes to hold within `limit`.
pub fn until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        match condition() {
            true => return true,
            false if start.elapsed() > limit => return false,
            false => sleep(Duration::from_millis(10)),
        }
    }
}

/// The last lines of a file, for the message of a failed assertion.
pub fn tail(file: &Path) -> String {
    let text = fs::read(file).unwrap_or_default();
    let start = text.len().saturating_sub(6000);
    String::from_utf8_lossy(&text[start..]).into_owned()
}

/// Processes in whose command line `word` occurs, other than our own.
pub fn naming(word: &Path) -> Vec<Pid> {
    let own = getpid();
    all().filter(|pid| *pid != own && names(*pid, word.as_os_str())).collect()
}

fn names(pid: Pid, word: &OsStr) -> bool {
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())).unwrap_or_default();
    line.windows(word.len()).any(|window| window == word.as_bytes())
}

/// Ends every process that names `word`, such as those that a service left behind.
pub fn end_naming(word: &Path) {
    end(naming(word));
}

/// Kills these, and waits until they are gone.
pub fn end(mut pids: Vec<Pid>) {
    let gone = until(LIMIT / 3, || {
        signal(&pids, Signal::KILL);
        pids.retain(|pid| {
            // It is our child if its parent has ended: see `Service::start`.
            let _ = waitpid(Some(*pid), WaitOptions::NOHANG);
            test_kill_process(*pid).is_ok()
        });
        pids.is_empty()
    });
    if !gone {
        println!("processes that do not end: {pids:?}");
    }
}

/// Sends these a signal, as far as they are still there.
pub fn signal(pids: &[Pid], signal: Signal) {
    for pid in pids {
        let _ = kill_process(*pid, signal);
    }
}

/// Reaps what has ended of our children of this name, others' that came to us: see
/// [`Service::start`].
pub fn reap(name: &str) {
    let is_named = |pid: &Pid| {
        let comm = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_pid()));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    };
    for pid in children(getpid()).into_iter().filter(is_named) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// The processes that `parent` has started, or adopted.
pub fn children(parent: Pid) -> Vec<Pid> {
    let line = format!("PPid:\t{}", parent.as_raw_pid());
    let is_child = |pid: &Pid| {
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid()));
        status.is_ok_and(|status| status.lines().any(|other| other == line))
    };
    all().filter(is_child).collect()
}

fn all() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(Pid::from_raw)
}
