//! Compiles the contracts without `protoc`, so that a build needs no package beside Rust.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = vec!["proto/snapshots.proto", "proto/nydus.proto"];
    if std::env::var_os("CARGO_FEATURE_CLIENT").is_some() {
        files.extend(["proto/cri.proto", "proto/containers.proto"]);
    }
    for file in &files {
        println!("cargo::rerun-if-changed={file}");
    }
    let compiled = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().compile_fds(compiled)?;
    Ok(())
}
