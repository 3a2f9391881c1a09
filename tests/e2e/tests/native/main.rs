//! Complete RAFS v6 images by the kernel: the same as by nydusd, and never anything else.

mod equal;
mod facts;
mod guest;
mod killed;
mod strangers;
mod trust;
mod unserved;
mod world;
