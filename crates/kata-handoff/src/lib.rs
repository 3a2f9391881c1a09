//! What a VM runtime does with a nydus mount slice: from the entry that containerd hands over to
//! the root file system inside the guest. No helper runs and nothing is unpacked: `nydusd` serves
//! the image and the snapshot's directory to the guest, whose own kernel lays one over the other.
//!
//! 1. [`Rootfs::recognise`] takes a slice that both of Kata's runtimes take, [`Rootfs::check`]
//!    finds what would fail later, before anything is started or made.
//! 2. [`Share`] is the host's side of the directory that the guest sees.
//! 3. [`Guest`] is a `nydusd` in virtiofs mode that serves the share. [`Guest::add`] puts a
//!    container's snapshot and image into it, and says in [`Storage`] what the guest's agent
//!    mounts; [`Guest::remove`] takes them out again.
//!
//! Each step undoes itself when it fails. Nothing is removed through a mount: a snapshot that is
//! still mounted somewhere below would be emptied.
//!
//! Not here: starting `nydusd` (see [`nydusd_client`]), the virtual machine, the agent.

mod bound;
mod check;
mod error;
mod guest;
mod mountinfo;
#[cfg(feature = "properties")]
#[doc(hidden)]
pub mod properties;
mod share;
mod slice;
mod storage;
mod sweep;
mod unwaited;

pub use error::{Error, Result};
pub use guest::{Guest, MOUNTS};
pub use nydus_mount_slice::Reader;
pub use share::Share;
pub use slice::Rootfs;
pub use storage::{GUEST_SHARE, Storage, TAG};
pub use unwaited::to_the_end;
