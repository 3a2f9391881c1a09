//! Links the freestanding helper without libc.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_FREESTANDING").is_none() {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/freestanding.ld");
    println!("cargo::rerun-if-changed={script}");
    let script = format!("-Wl,-T,{script}");
    for arg in ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", &script]
    {
        println!("cargo::rustc-link-arg-bins={arg}");
    }
}
