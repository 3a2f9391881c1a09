//! What is checked before a test is run.

use crate::cmd::{self, Cmd};
use crate::{paths, ui};
use anyhow::Result;

/// What it is, and cargo's words.
const CHECKS: &[(&str, &str)] = &[
    ("cargo fmt", "fmt --all --check"),
    (
        "cargo clippy",
        "clippy --quiet --locked --workspace --exclude nydus-overlayfs --all-targets -- -D warnings",
    ),
    // The helper by itself, as it is built: with the others its dependencies get std.
    (
        "cargo clippy nydus-overlayfs",
        "clippy --quiet --locked --package nydus-overlayfs --all-targets -- -D warnings",
    ),
    #[cfg(target_arch = "x86_64")]
    (
        "cargo clippy nydus-overlayfs, freestanding",
        "clippy --quiet --locked --package nydus-overlayfs --features freestanding -- -D warnings",
    ),
    // The programs as they are released: in the tests' build they have the features of all.
    (
        "cargo clippy nydus-snapshotter",
        "clippy --quiet --locked --package nydus-snapshotter -- -D warnings",
    ),
    ("cargo clippy nydus-slice", "clippy --quiet --locked --package nydus-slice -- -D warnings"),
    (
        "cargo clippy nydusvm-agent",
        "clippy --quiet --locked --package vm-shim --no-default-features -- -D warnings",
    ),
    ("cargo check fuzz", "check --quiet --locked --manifest-path fuzz/Cargo.toml"),
    ("cargo doc", "doc --quiet --locked --workspace --no-deps"),
];

/// Checks all of it.
pub(crate) fn run() -> Result<()> {
    CHECKS.iter().try_for_each(|(what, words)| {
        let mut cargo = Cmd::new(&what.replace([' ', ','], "-"), 1800, cmd::cargo());
        cargo.args(words.split(' ')).env("RUSTDOCFLAGS", "-D warnings");
        // Nothing gets linked, so libFuzzer need not be compiled.
        cargo.env("CUSTOM_LIBFUZZER_PATH", paths::target().join("libfuzzer.a"));
        ui::step(what, || cargo.run())
    })
}
