//! Complete RAFS v6 images in the kernel, without FUSE and without a daemon.
//!
//! A RAFS v6 bootstrap is an EROFS superblock with a device table, one device a blob; `nydusd`'s
//! blob cache holds each blob unpacked, at the offsets that the bootstrap names. Once all that the
//! bootstrap refers to is cached, the kernel's EROFS serves the image from those files.
//!
//! 1. [`probe`] tells, by trying, whether and in which [`Way`] this kernel can.
//! 2. [`Image::open`] reads a bootstrap: blobs, chunks, digests; or why the kernel cannot serve it.
//! 3. [`Cache::progress`] says how much of it `nydusd` has cached.
//! 4. [`Promotion::run`] gives the files a directory of their own, verifies every chunk's digest and
//!    writes the record of what was verified.
//! 5. [`Native::load`], [`Native::check`] and [`Native::mount`] use that directory, also after a
//!    reboot. A file that is not what was verified is never mounted.
//!
//! All functions block; callers run them where that is allowed. Nothing here starts or talks to
//! `nydusd`, and nothing decides when to promote.

#![deny(unsafe_code)]

mod cache;
mod error;
mod image;
mod ioctl;
mod loops;
mod mount;
mod native;
mod place;
mod probe;
mod promote;
#[cfg(feature = "properties")]
pub mod properties;
mod verify;

pub use cache::{Cache, Mended, Progress, SUFFIXES};
pub use error::{Changed, Error, How, Result, Unserved, Unsupported};
pub use image::{Blob, Chunk, Digester, Image};
pub use mount::{Way, unmount};
pub use native::{Device, Native, Placement};
pub use probe::{probe, try_way};
pub use promote::{Phase, Promotion, Step};
