//! Compiles the contracts without `protoc`, so that a build needs no package beside Rust.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/snapshots.proto", "proto/cri.proto", "proto/nydus.proto"];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let compiled = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().compile_fds(compiled)?;
    Ok(())
}
