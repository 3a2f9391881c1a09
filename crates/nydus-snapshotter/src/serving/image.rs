//! An image, as its snapshots tell it.

use crate::labels::{Labels, image_ref};

/// An image that can be served.
#[derive(Clone, Debug, Default)]
pub struct ServedImage {
    /// Number of the snapshot with the bootstrap.
    pub id: u64,
    /// Name of that snapshot, empty if not known.
    pub key: String,
    /// Labels of that snapshot.
    pub labels: Labels,
    /// Digests of its data layers, where labels tell them.
    pub blobs: Vec<String>,
}

impl ServedImage {
    /// Its reference, empty if no label tells.
    pub fn reference(&self) -> &str {
        image_ref(&self.labels).unwrap_or_default()
    }
}
