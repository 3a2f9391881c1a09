//! The snapshotter, as a library.

pub mod background;
pub mod cache;
pub mod cgroup;
pub mod cli;
pub mod config;
pub mod disk;
pub mod grpc;
pub mod idmap;
pub mod import;
pub mod labels;
pub mod layout;
pub mod logging;
pub mod mounts;
pub mod operator;
pub mod registry;
pub mod resolve;
pub mod serve;
pub mod serving;
pub mod snapshots;
pub mod store;
pub mod usage;
