//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand, ValueEnum};

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = option_env!("NYDUS_COMMIT").unwrap_or("unknown");
    format!("{} (commit {commit})", env!("CARGO_PKG_VERSION"))
});

/// Reads, writes and checks the mount options that carry a Nydus container image.
///
/// For a container of a Nydus image, a snapshotter gives containerd one mount. Its options are those
/// of an overlay, and one more that says where the image is and how nydusd mounts it: extraoption= or
/// io.katacontainers.volume=, the carried options. Their values may contain registry credentials.
/// These are shown only when asked for. Pass the options on standard input where you can, because
/// every user can read the arguments of a process.
///
/// Exit status: 0 success, 1 a problem was found, 2 wrong usage or an unreadable file.
#[derive(Parser)]
#[command(name = "nydus-slice", version = VERSION.as_str())]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Show what an option, an option string or a log line carries
    Decode(Decode),
    /// Print the option that describes an image
    Encode(Encode),
    /// Check the options and directories of a mount, and name the one at fault
    Check(Check),
    /// Print the system calls that nydus-overlayfs would make
    Plan(Plan),
    /// Print a completion script
    Completions {
        /// The shell to print it for
        shell: clap_complete::Shell,
    },
}

/// Arguments of `decode`.
#[derive(Args)]
pub struct Decode {
    /// Text with such options anywhere in it; each line is read as one mount
    #[arg(default_value = "-", value_name = "FILE")]
    pub file: PathBuf,
    /// Show configurations and metadata, which may contain credentials
    #[arg(long)]
    pub show_secrets: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `encode`.
#[derive(Args)]
pub struct Encode {
    /// Path of the image's bootstrap
    #[arg(long, value_name = "PATH")]
    pub source: String,
    /// File with the configuration of nydusd, - for standard input
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Directory of the snapshot, which contains fs and work
    #[arg(long, value_name = "PATH")]
    pub snapshotdir: String,
    /// Layout of the image's RAFS
    #[arg(long, value_enum, value_name = "VERSION")]
    pub fs_version: FsVersion,
}

/// Layout of a RAFS.
#[derive(Clone, Copy, ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum FsVersion {
    V5,
    V6,
}

/// The option strings of a mount.
#[derive(Args)]
pub struct OptionStrings {
    /// Mount options, separated by commas; - reads them from standard input
    #[arg(short = 'o', value_name = "OPTIONS", required = true)]
    pub strings: Vec<OsString>,
}

/// Arguments of `check`.
#[derive(Args)]
pub struct Check {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub options: OptionStrings,
    /// The directory to mount on
    pub target: Option<OsString>,
}

/// Arguments of `plan`.
#[derive(Args)]
pub struct Plan {
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub options: OptionStrings,
    /// The directory to mount on
    pub target: OsString,
    /// What is shown as the mount's source
    #[arg(long, default_value = "overlay")]
    pub source: OsString,
    /// Features that the system has or lacks, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FEATURES")]
    pub pretend: Vec<Pretend>,
    /// Print at most this many bytes of a string, followed by its length
    #[arg(short = 's', long, default_value_t = 80, value_name = "BYTES")]
    pub string_limit: usize,
}

/// How a system differs from a new kernel without security modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pretend {
    /// no file-system context, as before Linux 5.2
    NoFsopen,
    /// no lowerdir+ and datadir+, as before Linux 6.7
    NoLowerdirPlus,
    /// no layers by descriptor, as before Linux 6.15
    NoFd,
    /// layers whose file system cannot be id-mapped
    NoIdMap,
    /// no /proc, or one of another PID namespace
    NoProc,
    /// no permission to enter the target
    NoChdir,
    /// SELinux is on
    Selinux,
    /// Smack is on
    Smack,
}
