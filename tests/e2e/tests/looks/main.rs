//! A second, read-only mount of a container's layers never breaks the first: containerd makes one
//! to look up a user or to compute a diff while the container runs.

mod direct;
mod running;
mod scene;
