//! Links the freestanding helper without libc.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_FREESTANDING").is_none() {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/freestanding.ld");
    println!("cargo::rerun-if-changed={script}");
    let script = format!("-Wl,-T,{script}");
    // The profile's `strip` is lost for a package with settings of its own.
    let plain = ["-Wl,--build-id=none", "-Wl,--strip-all"];
    let own = ["-nostartfiles", "-nostdlib", "-static", "-no-pie", &script];
    for arg in own.into_iter().chain(plain) {
        println!("cargo::rustc-link-arg-bins={arg}");
    }
}
