//! `containerd-nydus-grpc`.

use nydus_snapshotter::cli::{self, Command, ConfigCommand};
use nydus_snapshotter::operator::client;
use nydus_snapshotter::{logging, serve};
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// How long threads that wait for something else may take at the end.
const LINGER: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    #[cfg(all(target_feature = "crt-static", target_env = "gnu"))]
    look_up_names_without_modules();
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
    let config = || cli.flags.load();
    match cli.command {
        Some(Command::Completions { shell }) => {
            Ok(std::io::stdout().write_all(&cli::completions(shell))?)
        }
        Some(Command::Status { json }) => wait_for(client::status(&config()?.address, json)),
        Some(Command::Warm { image }) => wait_for(client::warm(&config()?.address, &image)),
        Some(Command::Config(ConfigCommand::Check { containerd_config })) => {
            let config = config()?;
            let warnings = config.warnings.iter().cloned().chain(config.obstacles());
            let warnings = warnings.chain(config.kata_warning(&containerd_config));
            warnings.for_each(|warning| eprintln!("warning: {warning}"));
            print!("{}", config.effective());
            Ok(())
        }
        None => {
            let config = config()?;
            logging::start(&config)?;
            config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            wait_for(serve::run(config))
        }
    }
}

fn wait_for(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(work);
    // A thread may read from an image whose daemon hangs.
    runtime.shutdown_timeout(LINGER);
    outcome
}

/// A static program must not load the host's modules for names (nsswitch.conf): they may be made
/// for another libc, which ends the process. What is left, files and DNS, is in glibc itself.
#[cfg(all(target_feature = "crt-static", target_env = "gnu"))]
fn look_up_names_without_modules() {
    use std::ffi::{CStr, c_char, c_int};
    unsafe extern "C" {
        /// `<nss.h>`
        fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }
    let pairs: [[&CStr; 2]; 2] = [[c"hosts", c"files dns"], [c"passwd", c"files"]];
    for [database, services] in pairs {
        // SAFETY: both are C strings, and no other thread runs yet that could look something up.
        unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
    }
}
