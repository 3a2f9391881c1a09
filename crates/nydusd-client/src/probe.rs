//! What a `nydusd` program knows, read from its help.

use crate::Error;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// How long a program may take to print its help.
const LIMIT: Duration = Duration::from_secs(10);
const SIGABRT: i32 = 6;

/// Long options of a subcommand with the values that each allows (empty: any).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Help(BTreeMap<String, Vec<String>>);

impl Help {
    /// Reads what clap prints.
    pub fn parse(text: &str) -> Self {
        let mut options: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut last = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(name) = option_name(line) {
                last = name.to_owned();
                options.entry(last.clone()).or_default();
            }
            if let Some(values) = options.get_mut(&last) {
                values.extend(possible_values(line));
            }
        }
        Self(options)
    }

    /// Whether there is the option, such as `--apisock`.
    pub fn knows(&self, option: &str) -> bool {
        self.0.contains_key(option)
    }

    /// Values that an option allows; empty if any, or if there is no such option.
    pub fn values(&self, option: &str) -> &[String] {
        self.0.get(option).map_or(&[], Vec::as_slice)
    }
}

fn option_name(line: &str) -> Option<&str> {
    let words = line.starts_with('-').then(|| line.split([' ', ',', '=']))?;
    words.into_iter().find(|word| word.starts_with("--"))
}

fn possible_values(line: &str) -> Vec<String> {
    let list = line.split_once("[possible values: ").and_then(|(_, rest)| rest.split_once(']'));
    list.map_or_else(Vec::new, |(list, _)| list.split(", ").map(str::to_owned).collect())
}

/// A `nydusd` program and what it knows.
#[derive(Clone, Debug)]
pub struct Binary {
    /// The program.
    pub program: PathBuf,
    /// Options of `nydusd fuse`.
    pub fuse: Help,
    /// Options of `nydusd virtiofs`.
    pub virtiofs: Help,
    /// `Git Commit` of `--version`.
    pub git_commit: String,
}

impl Binary {
    /// Runs the program for its help and version. To be done once, not for every daemon.
    pub async fn probe(program: impl Into<PathBuf>) -> Result<Self, Error> {
        let program = program.into();
        let fuse = Help::parse(&text(&program, &["fuse", "--help"]).await?);
        let virtiofs = Help::parse(&text(&program, &["virtiofs", "--help"]).await?);
        let git_commit = commit(&text(&program, &["--version"]).await?);
        Ok(Self { program, fuse, virtiofs, git_commit })
    }

    /// That `nydusd virtiofs --hybrid-mode` runs, if it does: 2.2.0 lists the option and panics on
    /// it. Tried on a socket that cannot be made, so that nothing starts.
    pub async fn hybrid_mode(&self) -> Option<HybridMode> {
        const ARGS: [&str; 6] =
            ["virtiofs", "--hybrid-mode", "--rlimit-nofile", "0", "--sock", "/dev/null/sock"];
        let tried = self.virtiofs.knows("--hybrid-mode").then(|| run(&self.program, &ARGS))?;
        let panicked = tried.await.ok()?.status.signal() == Some(SIGABRT);
        (!panicked).then_some(HybridMode(()))
    }
}

/// `--hybrid-mode` of a program that was seen to run with it: [`Binary::hybrid_mode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HybridMode(pub(crate) ());

fn commit(version: &str) -> String {
    let line = version.lines().find_map(|line| line.trim().strip_prefix("Git Commit:"));
    line.unwrap_or_default().trim().to_owned()
}

async fn text(program: &Path, args: &[&str]) -> Result<String, Error> {
    let failed = |cause| Error::Run(program.to_owned(), cause);
    let output = run(program, args).await.map_err(failed)?;
    if !output.status.success() {
        let cause = io::Error::other(format!("{}: {}", args.join(" "), output.status));
        return Err(failed(cause));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn run(program: &Path, args: &[&str]) -> io::Result<Output> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    timeout(LIMIT, command.output()).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAP4: &str = "Usage: nydusd fuse [OPTIONS]\n\nOptions:\n  -A, --apisock <apisock>\n          \
        Path to --the socket\n      --failover-policy <failover-policy>\n          FUSE policy \
        [default: resend] [possible values: resend, flush]\n      --fuse-threads <fuse-threads>\n\
        \n  -h, --help\n          Print help";
    const CLAP2: &str = "    -A, --apisock <apisock>    socket\n        --failover-policy=<p>  policy \
        [default: flush]  [possible values: none, flush]\n        --hybrid-mode  both\n";

    #[test]
    fn help_is_read() {
        let all = |help: &str| Help::parse(help).0.into_keys().collect::<Vec<_>>().join(" ");
        for (help, options, policies) in [
            (CLAP4, "--apisock --failover-policy --fuse-threads --help", "resend flush"),
            (CLAP2, "--apisock --failover-policy --hybrid-mode", "none flush"),
            ("", "", ""),
        ] {
            assert_eq!(all(help), options);
            assert_eq!(Help::parse(help).values("--failover-policy").join(" "), policies);
        }
    }

    #[test]
    fn commit_is_read() {
        for (text, want) in [
            ("nydusd Version: \tv2.2.0\nGit Commit: \tabc\nBuild Time: \tx", "abc"),
            ("nydusd 1", ""),
        ] {
            assert_eq!(commit(text), want);
        }
    }
}
