//! `cargo xtask test`: runs tiers, counts what they ran and what they could not run.

mod fuzz;
mod outcome;
mod report;
mod tiers;

use crate::cmd::{self, Cmd, End};
use crate::sandbox::Sandbox;
use crate::tools::Also;
use crate::{dist, paths, tools, ui};
use anyhow::Result;
use outcome::Outcome;
use std::fs;
use std::time::Instant;
use tiers::{How, Tier};

/// Which tiers to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Names of tiers; `helper` stands for all end-to-end ones but `equivalence` [default: all]
    tiers: Vec<String>,
    /// Also the long and rare ones
    #[arg(long)]
    full: bool,
    /// The helper's tiers on this kernel and in guests with 5.10, 6.1, 6.12 and 7.2; writes
    /// docs/kernels.md
    #[arg(long, conflicts_with = "tiers")]
    kernels: bool,
    /// Show the tiers and run none
    #[arg(long)]
    list: bool,
}

/// For `--kernels`: this machine, and guests by the packages of their kernels.
const KERNELS: &str = "host,guest-5.10,guest-6.1,guest-6.12,guest-7";

/// Runs them; true when nothing failed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    if options.list {
        report::list(&tiers::all()?);
        return Ok(true);
    }
    let all_kernels = ["kernels".to_owned()];
    let names = if options.kernels { &all_kernels[..] } else { &options.tiers };
    let chosen = tiers::select(names, options.full)?;
    let sandbox = Sandbox::detect();
    report::say_privileges(sandbox);
    let also = match options {
        Options { full: true, .. } => Also::All,
        Options { kernels: true, .. } => Also::Guests,
        _ => Also::Nothing,
    };
    let missing = prepare(&chosen, also)?;
    let run = |tier| (tier, run_tier(tier, sandbox, options));
    let results: Vec<_> = chosen.iter().map(run).collect();
    Ok(report::summary(&results, &missing))
}

/// Builds and fetches all that the tiers need, outside their time limits.
fn prepare(chosen: &[Tier], also: Also) -> Result<Vec<(&'static str, String)>> {
    let end_to_end = chosen.iter().any(|tier| tier.how == How::EndToEnd);
    let missing = if end_to_end { tools::run(also)? } else { Vec::new() };
    if end_to_end {
        dist::run()?;
    }
    let mut cargo = Cmd::new("build-tests", 1800, cmd::cargo());
    cargo.args(["test", "--workspace", "--no-run", "--locked"]);
    ui::step("build tests", || cargo.run())?;
    Ok(missing)
}

fn run_tier(tier: &Tier, sandbox: Sandbox, options: &Options) -> Outcome {
    let start = Instant::now();
    let action = || how_it_went(tier, sandbox, options).unwrap_or_else(Outcome::broken);
    let mut outcome = ui::timed(&format!("test {}", tier.name), action, Outcome::word);
    outcome.time = start.elapsed();
    outcome
}

fn how_it_went(tier: &Tier, sandbox: Sandbox, options: &Options) -> Result<Outcome> {
    let end_to_end = ["--package", "nydus-e2e", "--test", &tier.name];
    match tier.how {
        How::Cargo(args) => cargo_test(tier, args, sandbox, options),
        How::EndToEnd if sandbox == Sandbox::None => {
            Ok(Outcome::not_run("needs root or user namespaces"))
        }
        How::EndToEnd if tier.name == "conformance" && !tools::has("golang") => {
            Ok(Outcome::not_run("needs golang-go and golang-github-containerd-containerd-dev"))
        }
        How::EndToEnd => cargo_test(tier, &end_to_end, sandbox, options),
        How::Fuzz => fuzz::run(sandbox),
    }
}

fn cargo_test(tier: &Tier, args: &[&str], sandbox: Sandbox, options: &Options) -> Result<Outcome> {
    let mut cmd = sandbox.cmd(&format!("test-{}", tier.name), tier.limit, cmd::cargo());
    cmd.args(["test", "--locked", "--no-fail-fast"]).args(args).args(["--", "--nocapture"]);
    cmd.env("NYDUS_DIST", paths::dist()).env("NYDUS_TOOLS", paths::tools());
    cmd.envs(tools::library_path());
    if options.full {
        cmd.env("NYDUS_FULL", "1");
    }
    if options.kernels {
        cmd.env("KERNELS_GUESTS", KERNELS);
        cmd.env("KERNELS_TABLE", paths::root().join("docs/kernels.md"));
    }
    let ended = cmd.end()?;
    let mut outcome = Outcome::read(&String::from_utf8_lossy(&fs::read(cmd.log())?));
    let nothing = outcome.passed + outcome.failed + outcome.not_run.len() == 0;
    outcome.trouble = match ended {
        End::TimedOut => Some(format!("killed after {} s", tier.limit)),
        End::Exited(status) if !status.success() => Some(status.to_string()),
        End::Exited(_) if nothing => Some("ran no test".to_owned()),
        End::Exited(_) => None,
    };
    outcome.trouble = outcome.trouble.map(|why| cmd.with_log(&why));
    Ok(outcome)
}
