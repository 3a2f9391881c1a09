#![forbid(unsafe_code)]
//! The nydus mount slice: what a snapshotter hands to a runtime for a nydus image.
//!
//! It is one [`Mount`] of a type such as `fuse.nydus-overlayfs`, whose options are an overlay's
//! and one that carries a payload for runtimes that mount inside a guest: `extraoption=` (an
//! [`ExtraOption`]) or `io.katacontainers.volume=` (a [`KataVirtualVolume`]).
//!
//! - Encoding gives one canonical text for a value and refuses values that break the contract.
//! - Decoding takes what the parser of at least one of Kata's runtimes takes, and says in its
//!   [`Finding`]s where a runtime refuses it, ignores it or fails with it. No finding means that
//!   both runtimes start the container.
//! - Configuration and metadata are [`Secret`]: no `Debug`, `Display` or error shows them.
//!
//! ```
//! use nydus_mount_slice::{ExtraOption, FsVersion, Mount};
//!
//! let extra = ExtraOption {
//!     source: "/snapshots/9/fs/image/image.boot".into(),
//!     config: r#"{"device":{}}"#.into(),
//!     snapshotdir: "/snapshots/12".into(),
//!     fs_version: Some(FsVersion::V6),
//! };
//! let mount = Mount::nydus(vec!["lowerdir=/snapshots/9/mnt".into()], &extra)?;
//! let decoded = ExtraOption::from_options(&mount.options)?;
//! assert_eq!((decoded.value, decoded.findings), (extra, vec![]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It does no I/O, does not look into `nydusd`'s configuration and does not check that paths
//! exist. The rules are those of Kata Containers 4.1; `docs/contract.md` states them.

mod extra;
mod finding;
mod go;
mod mount;
mod payload;
#[cfg(feature = "properties")]
pub mod properties;
mod secret;
mod volume;

pub use extra::{ExtraOption, FsVersion};
pub use finding::{DecodeError, Decoded, EncodeError, Finding, Reader, Reason};
pub use mount::{Mount, NYDUS_TYPE, is_nydus_type, redact};
pub use secret::Secret;
pub use slice_names::{EXTRA_OPTION, VOLUME};
pub use volume::{DmVerity, KataVirtualVolume, NydusImage, VolumeMetadata};
