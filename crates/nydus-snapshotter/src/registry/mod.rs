//! Registries: what an image's reference says, with which credentials they are asked, and what
//! they answer.

pub mod credentials;
pub mod explain;
pub mod reference;
