//! Runs containerd.
