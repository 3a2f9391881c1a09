//! `cargo xtask test`: runs tiers, counts what they ran and what they could not run.

pub(crate) mod build;
mod fuzz;
mod lanes;
mod outcome;
mod report;
mod tiers;

use crate::cmd::{Cmd, End};
use crate::sandbox::Sandbox;
use crate::tools::{Also, Missing};
use crate::{dist, lint, package, paths, tools, ui};
use anyhow::{Context, Result, anyhow};
use build::{Built, TestProgram};
use outcome::Outcome;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;
use tiers::{How, Tier};

/// Which tiers to run.
#[derive(clap::Args, Default)]
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

/// What CI runs: [`lint::run`], then all tiers that run without being named; true when nothing
/// failed.
pub(crate) fn ci() -> Result<bool> {
    run_after(lint::run, &Options::default())
}

/// Runs them; true when nothing failed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    run_after(|| Ok(()), options)
}

fn run_after(first: fn() -> Result<()>, options: &Options) -> Result<bool> {
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
    let (built, missing) = prepare(first, &chosen, also, options.full)?;
    let run = Run { built, sandbox, options };
    let results = lanes::run(&chosen, |tier| run.tier(tier));
    ui::table();
    Ok(report::summary(&results, &missing))
}

/// Our programs that are tested: with `--full`, those that are released.
fn programs(full: bool) -> PathBuf {
    if full { paths::dist() } else { paths::test_dist() }
}

/// Builds all that the tiers need, outside their time limits, and fetches it meanwhile.
fn prepare(
    first: fn() -> Result<()>,
    chosen: &[Tier],
    also: Also,
    full: bool,
) -> Result<(Built, Missing)> {
    let end_to_end = chosen.iter().any(|tier| tier.how.is_end_to_end());
    std::thread::scope(|scope| {
        let fetching = end_to_end.then(|| scope.spawn(move || tools::run(also)));
        first()?;
        let built = build::run(chosen)?;
        if chosen.iter().any(|tier| tier.name == "exits") {
            dist::some(&dist::PANICKING, &programs(full))?;
        }
        if end_to_end && full {
            dist::run()?;
        } else if end_to_end {
            dist::some(&dist::HELPERS, &programs(full))?;
            dist::for_tests(built.programs(), &programs(full))?;
        }
        if !full && chosen.iter().any(|tier| tier.name == "package") {
            package::run(&programs(full))?;
        }
        let missing = match fetching {
            Some(fetching) => fetching.join().map_err(|_| anyhow!("fetching panicked"))??,
            None => Missing::new(),
        };
        Ok((built, missing))
    })
}

struct Run<'a> {
    built: Built,
    sandbox: Sandbox,
    options: &'a Options,
}

impl Run<'_> {
    fn tier(&self, tier: &Tier) -> Outcome {
        let start = Instant::now();
        let action = || {
            let outcome = self.outcome(tier).unwrap_or_else(Outcome::broken);
            let nothing = outcome.passed + outcome.failed + outcome.not_run.len() == 0;
            outcome.or_broken(nothing, "ran no test")
        };
        let mut outcome = ui::timed(&format!("test {}", tier.name), action, Outcome::word);
        outcome.time = start.elapsed();
        outcome
    }

    fn outcome(&self, tier: &Tier) -> Result<Outcome> {
        let is_test = |program: &&TestProgram| program.test.as_deref() == Some(&tier.name);
        let of = |package| {
            let programs = &mut self.built.tests.iter().filter(is_test);
            let program = programs.find(|program| program.is_of(package));
            program.with_context(|| format!("cargo built no test {} of {package}", tier.name))
        };
        match tier.how {
            How::Unit => self.unit(tier),
            How::Of(package) => self.run(tier, of(package)?, tier.limit),
            How::Fuzz => fuzz::run(self.sandbox),
            _ if self.sandbox == Sandbox::None => {
                Ok(Outcome::not_run("needs root or user namespaces"))
            }
            _ if tier.name == "conformance" && !tools::has("golang") => {
                Ok(Outcome::not_run("needs golang-go and golang-github-containerd-containerd-dev"))
            }
            How::Helper | How::Programs => self.run(tier, of(build::END_TO_END)?, tier.limit),
        }
    }

    /// Every test program but the end-to-end ones, then the examples in documentation.
    fn unit(&self, tier: &Tier) -> Result<Outcome> {
        let (start, mut outcome) = (Instant::now(), Outcome::default());
        let left = || tier.limit.saturating_sub(start.elapsed().as_secs()).max(1);
        let is_end_to_end =
            |program: &TestProgram| program.is_of(build::END_TO_END) && program.test.is_some();
        for program in self.built.tests.iter().filter(|program| !is_end_to_end(program)) {
            outcome.add(self.run(tier, program, left())?);
        }
        let mut examples = build::cargo("test-unit-examples")?;
        outcome.add(outcome_of(examples.arg("--doc"))?);
        Ok(outcome)
    }

    fn run(&self, tier: &Tier, program: &TestProgram, limit: u64) -> Result<Outcome> {
        let log = match &program.test {
            Some(test) if *test == tier.name => format!("test-{test}"),
            _ => format!("test-{}-{}", tier.name, program.name),
        };
        let mut cmd = self.sandbox.offline(&log, limit, &program.path);
        cmd.arg("--nocapture").dir(&program.package).env("CARGO_MANIFEST_DIR", &program.package);
        cmd.env("NYDUS_DIST", programs(self.options.full)).env("NYDUS_TOOLS", paths::tools());
        cmd.env("NYDUS_TESTS", build::links()).envs(tools::library_path());
        if self.options.full {
            cmd.env("NYDUS_FULL", "1");
        }
        if self.options.kernels {
            cmd.env("KERNELS_GUESTS", KERNELS);
            cmd.env("KERNELS_TABLE", paths::root().join("docs/kernels.md"));
        }
        outcome_of(&mut cmd)
    }
}

/// Runs test programs, and reads what they say.
fn outcome_of(cmd: &mut Cmd) -> Result<Outcome> {
    let ended = cmd.end()?;
    let mut outcome = Outcome::read(&String::from_utf8_lossy(&fs::read(cmd.log())?));
    outcome.trouble = match ended {
        End::TimedOut => Some(format!("killed after {} s", cmd.limit().as_secs())),
        End::Exited(status) if !status.success() => Some(status.to_string()),
        End::Exited(_) => None,
    };
    outcome.trouble = outcome.trouble.map(|why| cmd.with_log(&why));
    Ok(outcome)
}
