//! What people and Prometheus ask.

pub mod client;
pub mod health;
mod images;
pub mod metrics;
pub mod report;
pub mod status;

pub use images::ImageRow;
