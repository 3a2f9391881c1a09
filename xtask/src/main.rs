//! `cargo xtask`: the tasks of this workspace, which are also all that CI runs.
#![deny(unsafe_code)]

mod apt;
mod bench;
mod cmd;
mod debootstrap;
mod demo;
mod dist;
mod lint;
mod package;
mod paths;
mod sandbox;
mod stage;
mod test;
mod tools;
mod ui;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Tasks of this workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the release binaries and the packages into target/dist
    Dist,
    /// Download other people's programs as Debian packages and unpack them under target/tools
    Tools {
        /// Also those of the long and rare tests
        #[arg(long)]
        full: bool,
    },
    /// Mount a tree through the real mount.fuse3, then run containers by runc and in a guest
    Demo {
        /// The first part alone
        part: Option<demo::Part>,
    },
    #[command(hide = true)]
    DemoInside { part: demo::Part, program: Option<std::path::PathBuf> },
    /// Measure helper and snapshotter beside their peers, as tables, JSON and plots
    Bench(bench::Options),
    #[command(hide = true)]
    BenchInside(bench::Options),
    /// Run the tests, by tiers
    Test(test::Options),
    /// What CI runs: formatting, lints, documentation and the tests
    Ci,
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Dist => dist::run().map(|()| true),
        Task::Tools { full } => {
            let also = if full { tools::Also::All } else { tools::Also::Nothing };
            tools::run(also).map(|_| true)
        }
        Task::Demo { part } => demo::run(part),
        Task::DemoInside { part, program } => demo::inside(part, program).map(|()| true),
        Task::Bench(options) => bench::run(&options),
        Task::BenchInside(options) => bench::inside(&options),
        Task::Test(options) => test::run(&options),
        Task::Ci => test::ci(),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
