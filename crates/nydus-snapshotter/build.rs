//! What `--version` shows of the build.

use std::process::Command;

fn main() {
    let commit = std::env::var("NYDUS_COMMIT").unwrap_or_else(|_| "unknown".to_owned());
    // Reproducible builds name their time.
    let built = std::env::var("SOURCE_DATE_EPOCH").ok().or_else(|| {
        let date = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output().ok()?;
        Some(String::from_utf8_lossy(&date.stdout).trim().to_owned())
    });
    println!("cargo::rustc-env=NYDUS_REVISION={commit}");
    println!("cargo::rustc-env=NYDUS_BUILT={}", built.unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo::rerun-if-env-changed=NYDUS_COMMIT");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-changed=build.rs");
}
