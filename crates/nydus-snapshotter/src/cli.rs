//! The command line of the Go snapshotter, and commands of our own.

use crate::config::file::File;
use crate::config::{Config, Error, Parsed};
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// containerd snapshotter for Nydus images
#[derive(Debug, Parser)]
#[command(name = "containerd-nydus-grpc", args_override_self = true)]
pub struct Cli {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub flags: Flags,
    /// Print the version
    #[arg(long, short = 'v')]
    pub version: bool,
    /// What to do; serve if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
}

const VERSION: &str = concat!(
    "Version:     ",
    env!("CARGO_PKG_VERSION"),
    "\nRevision:    ",
    env!("NYDUS_REVISION"),
    "\nGo version:  none, this is Rust",
    "\nBuild time:  ",
    env!("NYDUS_BUILT"),
);

/// What is done instead of serving.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show daemons, images and snapshots of the snapshotter that serves at --address
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Complete an image's cache and let the kernel serve it to new containers; asked of the
    /// snapshotter that serves at --address, which goes on when this command is interrupted
    Warm {
        /// The image's reference, or its number as `status` shows it
        image: String,
    },
    /// Print a completion script
    Completions {
        /// The shell that it is for
        shell: clap_complete::Shell,
    },
}

/// What is done with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum ConfigCommand {
    /// Print the configuration that would run, or say why none would
    Check {
        /// containerd's configuration, which tells what runs the containers
        #[arg(long, value_name = "FILE", default_value = "/etc/containerd/config.toml")]
        containerd_config: PathBuf,
    },
}

/// Each overrides the key of the same meaning in the file.
#[derive(Args, Clone, Debug, Default)]
#[allow(missing_docs, reason = "clap shows these as help")]
pub struct Flags {
    /// Configuration file (TOML)
    #[arg(long, global = true, value_name = "FILE", value_parser = path)]
    pub config: Option<PathBuf>,
    /// Directory in which everything is kept
    #[arg(long, global = true, value_name = "DIR", value_parser = path)]
    pub root: Option<PathBuf>,
    /// Socket of the service
    #[arg(long, global = true, value_name = "SOCKET", value_parser = path)]
    pub address: Option<PathBuf>,
    /// nydus-image; not used
    #[arg(long, value_name = "PROGRAM", value_parser = path)]
    pub nydus_image: Option<PathBuf>,
    /// nydusd
    #[arg(long, value_name = "PROGRAM", value_parser = path)]
    pub nydusd: Option<PathBuf>,
    /// Template of nydusd's configuration (JSON)
    #[arg(long, alias = "config-path", value_name = "FILE", value_parser = path)]
    pub nydusd_config: Option<PathBuf>,
    /// Program that the type of mounts names
    #[arg(long, value_name = "PROGRAM")]
    pub nydus_overlayfs_path: Option<String>,
    /// Answer with mounts for nydus-overlayfs, which carry the image for a guest
    #[arg(long, value_name = "BOOL", value_parser = truth)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub enable_nydus_overlayfs: Option<bool>,
    /// dedicated, shared or none
    #[arg(long, value_name = "MODE")]
    pub daemon_mode: Option<String>,
    /// fusedev or proxy
    #[arg(long, value_name = "DRIVER")]
    pub fs_driver: Option<String>,
    /// trace, debug, info, warn or error
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Log to standard output
    #[arg(long, value_name = "BOOL", value_parser = truth)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub log_to_stdout: Option<bool>,
}

impl Flags {
    /// The configuration: the file that is named, and over it what is given here.
    ///
    /// # Errors
    /// What cannot run.
    pub fn load(&self) -> Result<Config, Error> {
        let mut parsed = Parsed::read(self.config.as_deref())?;
        self.override_file(&mut parsed.file);
        let unused = self.nydus_image.as_ref().map(|_| "--nydus-image has no effect".to_owned());
        parsed.warnings.extend(unused);
        parsed.check()
    }

    /// Puts what is given over what the file says; what is given empty is not given.
    fn override_file(&self, file: &mut File) {
        fn set<T: Clone + AsRef<OsStr>>(flag: &Option<T>, key: &mut T) {
            if let Some(value) = flag.as_ref().filter(|value| !value.as_ref().is_empty()) {
                key.clone_from(value);
            }
        }
        fn switch(flag: Option<bool>, key: &mut bool) {
            *key = flag.unwrap_or(*key);
        }
        set(&self.root, &mut file.root);
        set(&self.address, &mut file.address);
        set(&self.nydus_image, &mut file.daemon.nydusimage_path);
        set(&self.nydusd, &mut file.daemon.nydusd_path);
        set(&self.nydusd_config, &mut file.daemon.nydusd_config);
        set(&self.nydus_overlayfs_path, &mut file.snapshot.nydus_overlayfs_path);
        switch(self.enable_nydus_overlayfs, &mut file.snapshot.enable_nydus_overlayfs);
        set(&self.daemon_mode, &mut file.daemon_mode);
        set(&self.fs_driver, &mut file.daemon.fs_driver);
        set(&self.log_level, &mut file.log.level);
        switch(self.log_to_stdout, &mut file.log.log_to_stdout);
    }
}

/// Reads the command line; ends the process after `--help`, `--version` or a mistake.
pub fn parse(args: impl Iterator<Item = OsString>) -> Cli {
    let cli = Cli::parse_from(args.map(two_dashes));
    if cli.version {
        println!("{VERSION}");
        std::process::exit(0);
    }
    cli
}

/// The completion script for `shell`.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let (mut command, mut script) = (Cli::command(), Vec::new());
    clap_complete::generate(shell, &mut command, "containerd-nydus-grpc", &mut script);
    script
}

/// A path that can be written to a file of TOML: UTF-8.
fn path(text: &str) -> Result<PathBuf, Infallible> {
    Ok(text.into())
}

/// A boolean in any form that Go's `strconv.ParseBool` takes.
fn truth(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err("expected true or false"),
    }
}

/// Go takes long flags with one dash, too.
fn two_dashes(arg: OsString) -> OsString {
    match arg.to_str() {
        Some(text) if text.len() > 2 && text.starts_with('-') && !text.starts_with("--") => {
            format!("-{text}").into()
        }
        _ => arg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        let words = line.split(' ').filter(|word| !word.is_empty());
        let words = ["containerd-nydus-grpc"].into_iter().chain(words).map(OsString::from);
        Cli::try_parse_from(words.map(two_dashes))
    }

    #[test]
    fn lines() {
        type Row = (&'static str, fn(&File) -> bool);
        let table: &[Row] = &[
            ("--root /r", |f| f.root.as_os_str() == "/r"),
            ("-root=/r", |f| f.root.as_os_str() == "/r"),
            ("--address /a --config-path /c", |f| f.daemon.nydusd_config.as_os_str() == "/c"),
            ("--nydusd-config /c", |f| f.daemon.nydusd_config.as_os_str() == "/c"),
            ("--enable-nydus-overlayfs", |f| f.snapshot.enable_nydus_overlayfs),
            ("--enable-nydus-overlayfs=false", |f| !f.snapshot.enable_nydus_overlayfs),
            ("-log-to-stdout=0 -root /r", |f| !f.log.log_to_stdout && f.root.as_os_str() == "/r"),
            ("-enable-nydus-overlayfs=T", |f| f.snapshot.enable_nydus_overlayfs),
            ("--root /a --root=/b", |f| f.root.as_os_str() == "/b"),
            ("--root= --nydusd= --log-level=", |f| *f == File::default()),
            ("--nydus-image i --nydusd n", |f| {
                f.daemon.nydusimage_path.as_os_str() == "i"
                    && f.daemon.nydusd_path.as_os_str() == "n"
            }),
            ("--nydus-overlayfs-path=/o", |f| f.snapshot.nydus_overlayfs_path == "/o"),
            ("--log-to-stdout=false", |f| !f.log.log_to_stdout),
            ("--daemon-mode shared --fs-driver proxy", |f| f.daemon_mode == "shared"),
            ("--log-level debug config check", |f| f.log.level == "debug"),
        ];
        for (line, effect) in table {
            let cli = parsed(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            let mut file = File::default();
            cli.flags.override_file(&mut file);
            assert!(effect(&file), "{line}: {file:?}");
        }
        let status = parsed("status --json --address /a").unwrap();
        assert_eq!(status.command, Some(Command::Status { json: true }));
        assert_eq!(status.flags.address, Some("/a".into()));
        let warm = parsed("warm reg/img:1").unwrap();
        assert_eq!(warm.command, Some(Command::Warm { image: "reg/img:1".into() }));
        for line in ["--no-such-flag", "warm", "serve", "--log-to-stdout=yes", "--root"] {
            assert!(parsed(line).is_err(), "{line}");
        }
        let not_utf8 = OsString::from_vec(b"--root=/\xff".to_vec());
        assert!(Cli::try_parse_from([OsString::from("x"), not_utf8]).is_err());
    }

    #[test]
    fn version() {
        assert!(parsed("-version").unwrap().version);
        let names = VERSION.lines().map(|line| line.split(':').next().unwrap_or_default());
        let expected = ["Version", "Revision", "Go version", "Build time"];
        assert_eq!(names.collect::<Vec<_>>(), expected);
    }
}
