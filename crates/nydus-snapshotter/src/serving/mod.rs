//! Who serves which image.

pub mod fuse;
pub mod kernel;
