//! Kit shared by the end-to-end tests.
//!
//! A test makes a [`stage::Stage`], runs a program of [`programs`] on it with [`run::run`] and
//! looks at [`mounts`] and [`tree`]. What is private to it (mounts, working directory) belongs to
//! its thread: many tests run at a time.

pub mod bare;
pub mod client;
pub mod containerd;
pub mod debian;
pub mod differences;
pub mod facts;
pub mod fuse;
pub mod generate;
pub mod guest;
pub mod handoff;
pub mod image;
pub mod kernels;
pub mod machines;
pub mod mount8;
pub mod mounts;
pub mod new_api;
pub mod node;
pub mod observe;
pub mod programs;
pub mod proxy;
pub mod rafs;
pub mod registry;
pub mod rootfs;
pub mod run;
pub mod seccomp;
pub mod service;
pub mod snapshotter;
pub mod specimens;
pub mod stage;
pub mod trace;
pub mod tree;
pub mod vocabulary;
pub mod yardstick;

/// Whether the running kernel is at least this version of Linux.
///
/// # Panics
/// There is no /proc.
pub fn linux(major: u32, minor: u32) -> bool {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = text.split(['.', '-', '+']).map_while(|part| part.trim().parse().ok());
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next()) >= (major, minor)
}

/// Says that a case does not run here, and why; `cargo xtask test` counts these lines.
///
/// ```
/// nydus_e2e::not_run!("no {}", "fuse3");
/// ```
#[macro_export]
macro_rules! not_run {
    ($($reason:tt)*) => { println!("NOT RUN: {}", format_args!($($reason)*)) };
}

/// Says that the kernel cannot do what a case needs, which no other machine would change.
#[macro_export]
macro_rules! lacks {
    ($($what:tt)*) => { println!("THIS KERNEL LACKS: {}", format_args!($($what)*)) };
}

/// Says what was seen to happen on this kernel, for docs/kernels.md.
#[macro_export]
macro_rules! seen {
    ($($what:tt)*) => { println!("SEEN: {}", format_args!($($what)*)) };
}
