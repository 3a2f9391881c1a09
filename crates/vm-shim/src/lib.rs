//! A reference for authors of VM runtimes: a containerd shim that runs a container of a Nydus
//! image in a virtual machine of its own, from the mount slice alone. It shows what to do with
//! `kata_handoff`, from the slice to a command that runs in a guest; it is no product: no network,
//! no terminal, no exec, no claims on security.
//!
//! - [`shim`]: containerd's task service.
//! - [`vm`] and [`initramfs`]: the machine, under QEMU.
//! - [`protocol`]: what shim and agent say to each other. The agent is a program of this package,
//!   `nydusvm-agent`; it needs nothing else of the library.

#[cfg(feature = "shim")]
mod ending;
#[cfg(feature = "shim")]
pub mod initramfs;
#[cfg(any(test, feature = "properties"))]
#[doc(hidden)]
pub mod properties;
pub mod protocol;
#[cfg(feature = "shim")]
pub mod shim;
#[cfg(feature = "shim")]
pub mod vm;
