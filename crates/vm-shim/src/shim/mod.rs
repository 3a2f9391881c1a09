//! The containerd shim: the task service ([`Service`]), and for its container the host's half
//! ([`sandbox`]), the process in the guest ([`container`]) and its input and output ([`stdio`]).

pub mod container;
pub mod sandbox;
mod service;
pub mod settings;
pub mod stdio;

pub use service::Service;
