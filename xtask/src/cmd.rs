//! Commands with a time limit, in a process group of their own, with their output in a file.

use crate::paths;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How a command ended.
pub(crate) enum End {
    Exited(ExitStatus),
    /// Killed, with its process group, when its time was over.
    TimedOut,
}

/// A command to run; its standard output and error go to `target/logs/NAME.log`.
pub(crate) struct Cmd {
    command: Command,
    limit: Duration,
    log: PathBuf,
    shown: bool,
}

impl Cmd {
    /// `name` names the log, `limit` is in seconds.
    pub(crate) fn new(name: &str, limit: u64, program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.current_dir(paths::root()).stdin(Stdio::null()).process_group(0);
        let log = paths::logs().join(format!("{name}.log"));
        Self { command, limit: Duration::from_secs(limit), log, shown: false }
    }

    pub(crate) fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = A>) -> &mut Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn envs<N: AsRef<OsStr>, V: AsRef<OsStr>>(
        &mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> &mut Self {
        self.command.envs(variables);
        self
    }

    pub(crate) fn dir(&mut self, dir: &Path) -> &mut Self {
        self.command.current_dir(dir);
        self
    }

    /// Its output goes where ours goes, instead of into the log.
    pub(crate) fn shown(&mut self) -> &mut Self {
        self.shown = true;
        self
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// Runs it to its end or to its time limit.
    pub(crate) fn end(&mut self) -> Result<End> {
        if !self.shown {
            fs::create_dir_all(paths::logs())?;
            let log = File::create(&self.log)?;
            self.command.stdout(log.try_clone()?).stderr(log);
        }
        let child = self.command.spawn().with_context(|| format!("cannot run {}", self.words()))?;
        wait(child, self.limit)
    }

    /// Runs it; whether it exited with 0.
    pub(crate) fn succeeded(&mut self) -> Result<bool> {
        match self.end()? {
            End::Exited(status) => Ok(status.success()),
            End::TimedOut => bail!("{}: killed after {} s", self.words(), self.limit.as_secs()),
        }
    }

    /// Runs it; an error has the end of its log when it fails.
    pub(crate) fn run(&mut self) -> Result<()> {
        let what = match self.end()? {
            End::Exited(status) if status.success() => return Ok(()),
            End::Exited(status) => status.to_string(),
            End::TimedOut => format!("killed after {} s", self.limit.as_secs()),
        };
        bail!("{}: {}", self.words(), self.with_log(&what))
    }

    /// Runs it; its output, standard error included.
    pub(crate) fn output(&mut self) -> Result<String> {
        self.run()?;
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// What went wrong, with the place and the end of the log.
    pub(crate) fn with_log(&self, what: &str) -> String {
        format!("{what}, see {}\n{}", self.log.display(), tail(&self.log))
    }

    fn words(&self) -> String {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }
}

/// The cargo that runs us.
pub(crate) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn wait(mut child: Child, limit: Duration) -> Result<End> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(End::Exited(status));
        }
        if start.elapsed() > limit {
            kill_process_group(Pid::from_child(&child), Signal::KILL)?;
            child.wait()?;
            return Ok(End::TimedOut);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The last lines of a log, indented.
fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    // What cargo tells programs is no news for people.
    let all: Vec<_> = text.lines().filter(|line| !line.starts_with(r#"{"reason":"#)).collect();
    let kept = &all[all.len().saturating_sub(40)..];
    kept.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
