//! The containerd shim: the task service ([`Service`]), and for its container the host's half
//! ([`sandbox`]) and the process in the guest ([`container`]).

pub mod container;
pub mod sandbox;
mod service;
pub mod settings;

pub use service::Service;
