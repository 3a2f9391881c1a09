//! Fuzzing guided by coverage: needs the nightly toolchain, so it belongs to `--full`.

use super::outcome::Outcome;
use crate::cmd::{self, Cmd, End};
use crate::sandbox::Sandbox;
use crate::{apt, paths};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Seconds for each target, unless `NYDUS_FUZZ_SECONDS` says otherwise.
const SECONDS: u64 = 1800;

const NIGHTLY: [&str; 3] = ["run", "nightly", "cargo"];

/// Runs every target for its time. A target is one test.
pub(super) fn run(sandbox: Sandbox) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    if Cmd::new("fuzz-nightly", 60, "rustup").args(NIGHTLY).arg("--version").run().is_err() {
        outcome.not_run.push("no nightly toolchain (rustup toolchain install nightly)".to_owned());
        return Ok(outcome);
    }
    apt::need("g++", "g++")?; // libFuzzer is C++
    let tool = install()?;
    for target in targets()? {
        match fuzz(sandbox, &tool, &target)? {
            None => outcome.passed += 1,
            Some(trouble) => {
                outcome.failed += 1;
                outcome.trouble = Some(trouble);
            }
        }
    }
    Ok(outcome)
}

fn fuzz(sandbox: Sandbox, tool: &Path, target: &str) -> Result<Option<String>> {
    let seconds = std::env::var("NYDUS_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds: u64 = seconds.unwrap_or(SECONDS);
    let path = std::env::var("PATH").unwrap_or_default();
    let mut cmd = sandbox.cmd(&format!("fuzz-{target}"), seconds + 900, "rustup");
    // The variable names the cargo that runs us, which is not the nightly one.
    cmd.env("PATH", format!("{}:{path}", tool.display())).env("CARGO", "cargo");
    cmd.args(NIGHTLY).args(["fuzz", "run", target]).args(corpora(target)?).arg("--");
    cmd.args([&format!("-max_total_time={seconds}"), "-timeout=10"]);
    let why = match cmd.end()? {
        End::Exited(status) if status.success() => return Ok(None),
        End::Exited(status) => status.to_string(),
        End::TimedOut => "killed: it did not stop by itself".to_owned(),
    };
    Ok(Some(format!("{target}: {}", cmd.with_log(&why))))
}

/// Where libFuzzer writes inputs that reach new code, and the committed seeds, if there are any.
fn corpora(target: &str) -> Result<Vec<PathBuf>> {
    let [corpus, seeds] =
        ["corpus", "seeds"].map(|of| paths::root().join("fuzz").join(of).join(target));
    fs::create_dir_all(&corpus).with_context(|| format!("cannot create {}", corpus.display()))?;
    Ok([corpus, seeds].into_iter().filter(|dir| dir.exists()).collect())
}

/// Builds cargo-fuzz, once; the directory that it is in.
fn install() -> Result<PathBuf> {
    let place = paths::tools().join("cargo-fuzz");
    let bin = place.join("bin");
    if !bin.join("cargo-fuzz").exists() {
        let mut cargo = Cmd::new("fuzz-install", 1200, cmd::cargo());
        cargo.args(["install", "--locked", "cargo-fuzz", "--root"]).arg(&place).run()?;
    }
    Ok(bin)
}

fn targets() -> Result<Vec<String>> {
    let dir = paths::root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}
