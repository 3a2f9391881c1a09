//! The snapshotter, as a library.

pub mod auth;
pub mod cache;
pub mod cgroup;
pub mod cli;
pub mod config;
pub mod directories;
pub mod error;
pub mod filter;
pub mod health;
pub mod images;
pub mod import;
pub mod labels;
pub mod layout;
pub mod logging;
pub mod metrics;
pub mod mounts;
pub mod nydusd_config;
pub mod probe;
pub mod resolve;
pub mod serve;
pub mod service;
pub mod snapshots;
pub mod status;
pub mod store;
pub mod usage;
