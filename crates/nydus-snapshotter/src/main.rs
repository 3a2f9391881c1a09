//! `containerd-nydus-grpc`.

use nydus_snapshotter::cli::{self, Command, ConfigCommand};
use nydus_snapshotter::{config, logging, serve, status, warm};
use std::process::ExitCode;
use std::time::Duration;

/// How long threads that wait for something else may take at the end.
const LINGER: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("containerd-nydus-grpc: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let cli = cli::parse(std::env::args_os());
    let config = config::load(&cli.flags)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = match cli.command {
        Some(Command::Status { json }) => runtime.block_on(status::print(&config.address, json)),
        Some(Command::Warm { image }) => runtime.block_on(warm::run(&config.address, &image)),
        Some(Command::Config(ConfigCommand::Check)) => {
            config.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            print!("{}", config.effective());
            Ok(())
        }
        None => {
            logging::start(&config)?;
            config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            runtime.block_on(serve::run(config))
        }
    };
    // A thread may read from an image whose daemon hangs.
    runtime.shutdown_timeout(LINGER);
    outcome
}
