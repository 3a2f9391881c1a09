//! Command line (stub).
#![allow(missing_docs)]
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
#[derive(Parser)]
pub struct Cli {
    #[command(flatten)]
    pub flags: Flags,
    #[command(subcommand)]
    pub command: Option<Command>,
}
#[derive(Args)]
pub struct Flags {
    #[arg(
        long,
        global = true,
        default_value = "/var/lib/containerd/io.containerd.snapshotter.v1.nydus"
    )]
    pub root: PathBuf,
    #[arg(long, global = true, default_value = "/run/containerd-nydus/containerd-nydus-grpc.sock")]
    pub address: PathBuf,
}
#[derive(Subcommand)]
pub enum Command {
    Config,
    Status {
        #[arg(long)]
        json: bool,
    },
}
pub fn parse(args: impl Iterator<Item = std::ffi::OsString>) -> Cli {
    Cli::parse_from(args)
}
