//! The mount helper `nydus-overlayfs`, as a library with one exit point: [`run`].
//!
//! What it does: reads a command line as `mount.fuse` or `mount(8)` writes it, mounts the
//! overlay, says in one line on standard error why it could not.
//!
//! What it does not do: read the environment or a file, allocate, start a process.
#![no_std]
#![forbid(unsafe_code)]

pub mod argv;
mod run;
pub mod secrets;

pub use run::{HELP, Standard, VERSION, run};
