//! Overlay mounts from options: options -> plan -> kernel.
//!
//! What it does: sorts each option with one [table](table::TABLE), and mounts an overlay file
//! system on a target directory exactly as `mount -t overlay` of util-linux 2.38 would, also where
//! the options are too long for one `mount(2)` call; docs/differences.md has the exceptions. When
//! the kernel refuses, [`explain`] names the option or layer at fault.
//!
//! What it does not do: allocate, read the environment, print, exit, unmount (but for its own
//! half-made mounts), judge options of overlayfs itself, which are the kernel's, or know command
//! lines: the caller splits option strings by [`words`](words::words).
//!
//! The way to a mount is [`mount`]; every system call goes through the [`Kernel`] trait, so that
//! the same code can be replayed against a recorder.
#![no_std]
#![deny(unsafe_code)]

pub mod buf;
mod conflicts;
mod context;
pub mod errno;
mod explain;
pub mod idmap;
pub mod inspect;
mod kernel_log;
pub mod layers;
mod mount;
mod mountinfo;
mod options;
pub mod raw;
mod read_only;
mod shorten;
pub mod sys;
pub mod table;
mod trial;
pub mod words;

pub use explain::{explain, may_mount};
pub use mount::{Failure, Method, Request, Step, lsm, mount};
pub use options::{Lsm, Options, Refusal, Words};
pub use sys::{Kernel, Linux};

/// Bytes that one `mount(2)` call takes as data: a page less the final NUL (mount(2)).
pub const MOUNT_DATA_MAX: usize = 4095;

/// Bytes of one string value that `fsconfig(2)` takes: 256 with its NUL.
pub const FSCONFIG_VALUE_MAX: usize = 255;

/// Lower layers that overlayfs takes (Linux `fs/overlayfs/params.h`, `OVL_MAX_STACK`).
pub const LAYERS_MAX: usize = 500;
