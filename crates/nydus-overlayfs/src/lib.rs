//! The mount helper `nydus-overlayfs`, as a library with one exit point: [`run`].
//!
//! What it does: reads a command line as `mount.fuse` or `mount(8)` writes it, mounts the
//! overlay, and says in one line on standard error why it could not. Called `mount.fuse` it takes
//! containerd's command line itself, and runs the distribution's program for other types.
//!
//! What it does not do: read the environment (but PATH, to find that program) or a file, or allocate.
#![no_std]
#![forbid(unsafe_code)]

pub mod argv;
pub mod mount_fuse;
mod run;
pub mod secrets;

pub use run::{HELP, Standard, VERSION, internal_error, pass_on, run};
