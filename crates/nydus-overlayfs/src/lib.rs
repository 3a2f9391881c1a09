//! The mount helper `nydus-overlayfs`, as a library with one exit point: [`run`].
//!
//! What it does: reads a command line as `mount.fuse` or `mount(8)` writes it, mounts the
//! overlay, says in one line on standard error why it could not. Called `mount.fuse` it takes
//! containerd's command line itself, and gives way to the distribution's program for other types.
//!
//! What it does not do: read the environment (but PATH, to give way) or a file, or allocate.
#![no_std]
#![forbid(unsafe_code)]

pub mod argv;
pub mod front;
mod run;
pub mod secrets;

pub use run::{HELP, Standard, VERSION, pass_on, run};
