//! Kit shared by the end-to-end tests.

pub mod generate;
pub mod observe;
pub mod programs;
