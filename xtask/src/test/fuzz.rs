//! Fuzzing guided by coverage: needs the nightly toolchain, so it belongs to `--full`.

use super::outcome::Outcome;
use crate::cmd::{Cmd, End};
use crate::paths;
use crate::sandbox::Sandbox;
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;

/// Seconds for each target, unless `NYDUS_FUZZ_SECONDS` says otherwise.
const SECONDS: u64 = 1800;

/// Runs every target for its time. A target is one test.
pub(super) fn run(sandbox: Sandbox) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let nightly = Cmd::new("fuzz-nightly", 60, "cargo").args(["+nightly", "--version"]).run();
    if nightly.is_err() {
        outcome.not_run.push("no nightly toolchain (rustup toolchain install nightly)".to_owned());
        return Ok(outcome);
    }
    let cargo_fuzz = cargo_fuzz()?;
    for target in targets()? {
        match fuzz(sandbox, &cargo_fuzz, &target)? {
            None => outcome.passed += 1,
            Some(trouble) => {
                outcome.failed += 1;
                outcome.trouble = Some(trouble);
            }
        }
    }
    Ok(outcome)
}

fn fuzz(sandbox: Sandbox, cargo_fuzz: &PathBuf, target: &str) -> Result<Option<String>> {
    let seconds = std::env::var("NYDUS_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds: u64 = seconds.unwrap_or(SECONDS);
    let mut cmd = sandbox.cmd(&format!("fuzz-{target}"), seconds + 900, cargo_fuzz);
    cmd.args(["fuzz", "run", target]).env("RUSTUP_TOOLCHAIN", "nightly");
    cmd.args(["--", &format!("-max_total_time={seconds}"), "-timeout=10"]);
    let ended = cmd.end()?;
    let log = cmd.log().display();
    Ok(match ended {
        End::Exited(status) if status.success() => None,
        End::Exited(status) => Some(format!("{target}: {status}, see {log}")),
        End::TimedOut => Some(format!("{target}: killed, it did not stop by itself, see {log}")),
    })
}

/// The tool itself, built once into target/tools.
fn cargo_fuzz() -> Result<PathBuf> {
    let place = paths::tools().join("cargo-fuzz");
    let program = place.join("bin/cargo-fuzz");
    if !program.exists() {
        let mut cargo = Cmd::new("fuzz-install", 1200, "cargo");
        cargo.args(["install", "--locked", "cargo-fuzz", "--root"]).arg(&place).run()?;
    }
    Ok(program)
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
