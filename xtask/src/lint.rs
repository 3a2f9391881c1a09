//! What is checked before a test is run.

use crate::cmd::{self, Cmd};
use crate::{dist, paths, ui};
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
    // With the examples, the dependencies have the features that clippy has checked them with.
    ("cargo doc", "doc --quiet --locked --workspace --no-deps --lib --bins --examples"),
];

/// Checks all of it.
pub(crate) fn run() -> Result<()> {
    CHECKS.iter().try_for_each(|(what, words)| {
        let mut cargo = Cmd::new(&what.replace([' ', ','], "-"), 1800, cmd::cargo());
        let (words, lints) = words.split_once(" -- ").unwrap_or((words, ""));
        cargo.args(words.split(' '));
        if !words.starts_with("fmt") {
            // As the tests are built, so that what build scripts do is done once.
            cargo.args(["--target", &dist::host()?]).env("CARGO_ENCODED_RUSTFLAGS", dist::STATIC);
        }
        if !lints.is_empty() {
            cargo.arg("--").args(lints.split(' '));
        }
        cargo.env("RUSTDOCFLAGS", "-D warnings");
        // Nothing gets linked, so libFuzzer need not be compiled.
        cargo.env("CUSTOM_LIBFUZZER_PATH", paths::target().join("libfuzzer.a"));
        ui::step(what, || cargo.run())
    })
}
