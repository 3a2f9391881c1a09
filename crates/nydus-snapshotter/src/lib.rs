//! The snapshotter, as a library.

pub mod cli;
pub mod config;
pub mod filter;
pub mod import;
pub mod store;
