//! Runs snapshotter.
