//! What `--version` shows of the build.

use std::process::Command;

fn main() {
    let commit = std::env::var("NYDUS_COMMIT").unwrap_or_else(|_| "unknown".to_owned());
    // Reproducible builds name their time.
    let time = std::env::var("SOURCE_DATE_EPOCH").map(|seconds| format!("--date=@{seconds}"));
    let mut date = Command::new("date");
    date.args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).args(time);
    let date = date.output().ok().filter(|date| date.status.success());
    let built = date.map(|date| String::from_utf8_lossy(&date.stdout).trim().to_owned());
    println!("cargo::rustc-env=NYDUS_REVISION={commit}");
    println!("cargo::rustc-env=NYDUS_BUILT={}", built.unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo::rerun-if-env-changed=NYDUS_COMMIT");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo::rerun-if-changed=build.rs");
}
