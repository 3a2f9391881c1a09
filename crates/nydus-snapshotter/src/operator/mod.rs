//! What people and Prometheus ask.

pub mod client;
mod images;
pub mod metrics;
pub mod report;
pub mod status;

pub use images::ImageRow;
