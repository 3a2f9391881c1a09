//! The snapshotter, as a library.

pub mod auth;
pub mod bootstrap;
pub mod cli;
pub mod config;
pub mod filter;
pub mod import;
pub mod labels;
pub mod layout;
pub mod mounts;
pub mod nydusd_config;
pub mod resolve;
pub mod store;
pub mod usage;
