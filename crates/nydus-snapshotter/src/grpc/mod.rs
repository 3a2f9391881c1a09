//! `containerd.services.snapshots.v1`: requests in, answers out.

mod codes;
pub mod filter;
mod service;

pub use service::Service;
