//! Logs: to standard output, or to a file that is rotated.

use crate::config::Config;
use crate::disk::make_directory;
use anyhow::{Context, Result};
use file_rotate::compression::Compression;
use file_rotate::suffix::AppendCount;
use file_rotate::{ContentLimit, FileRotate};
use std::sync::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// The Go snapshotter's name for it.
const NAME: &str = "nydus-snapshotter.log";

/// Sets the logs up for the whole process.
///
/// # Errors
/// The directory cannot be made.
pub fn start(config: &Config) -> Result<()> {
    let log = &config.file.log;
    let writer = if log.log_to_stdout {
        BoxMakeWriter::new(std::io::stdout)
    } else {
        // It may be the first directory below the root, which nobody else shall look into.
        make_directory(&log.dir, 0o700)
            .with_context(|| format!("log directory {}", log.dir.display()))?;
        let compression =
            if log.log_rotation_compress { Compression::OnRotate(0) } else { Compression::None };
        let size = usize::try_from(log.log_rotation_max_size << 20).unwrap_or(usize::MAX);
        let suffix = AppendCount::new(log.log_rotation_max_backups as usize);
        let limit = ContentLimit::BytesSurpassed(size);
        let file = FileRotate::new(log.dir.join(NAME), suffix, limit, compression, None);
        BoxMakeWriter::new(Mutex::new(file))
    };
    // Our own words at the level asked for; libraries say more than anybody wants below warnings.
    let filter = format!("warn,nydus_snapshotter={0},nydusd_client={0}", log.level);
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_ansi(false)
        .with_target(false)
        .with_writer(writer)
        .init();
    Ok(())
}
