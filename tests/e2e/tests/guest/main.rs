//! Stack 3 through containerd itself: the reference runtime takes the slice of our snapshotter
//! into a virtual machine.

mod bench;
mod containers;
mod defaults;
mod ends;
mod snapshot;
mod world;
