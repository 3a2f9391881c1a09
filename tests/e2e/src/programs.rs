//! Where the programs are that the tests run.

use std::path::{Path, PathBuf};

/// One of our release binaries.
///
/// # Panics
/// It was not built: the tests are run by `cargo xtask test`, which builds it.
pub fn ours(name: &str) -> PathBuf {
    let path = directory("NYDUS_DIST", "target/dist").join(name);
    assert!(path.exists(), "{} is missing: run `cargo xtask test`", path.display());
    path
}

/// A program of others, by its path below the folder of unpacked packages; `None` if that was
/// not to be had.
pub fn tool(path: &str) -> Option<PathBuf> {
    Some(directory("NYDUS_TOOLS", "target/tools").join(path)).filter(|path| path.exists())
}

fn directory(variable: &str, default: &str) -> PathBuf {
    let set = std::env::var_os(variable).map(PathBuf::from);
    // This package is two directories below the root.
    let root = || Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(|r| r.join(default));
    set.or_else(root).unwrap_or_default()
}

/// `mount.fuse3` of fuse3; `None` if that was not to be had.
pub fn mount_fuse3() -> Option<PathBuf> {
    tool("fuse3/sbin/mount.fuse3")
}

/// The helper of the Go `nydus-snapshotter`; `None` if that was not to be had.
pub fn go_helper() -> Option<PathBuf> {
    tool("nydus-snapshotter/usr/bin/nydus-overlayfs")
}

/// Both builds of the helper: without libc, and on std.
pub const BUILDS: [&str; 2] = ["nydus-overlayfs", "nydus-overlayfs-std"];

/// A busybox without shared libraries; `None` if that was not to be had.
pub fn busybox() -> Option<PathBuf> {
    tool("busybox/bin/busybox")
}

/// `nydus-image`, the builder of Nydus images; `None` if that was not to be had.
pub fn nydus_image() -> Option<PathBuf> {
    tool("nydusd/bin/nydus-image")
}

/// Where unpacked programs find the shared libraries that the host lacks: a value of
/// `LD_LIBRARY_PATH`. For those that it has it would cost time, as each library is looked for
/// there first.
pub fn libraries() -> String {
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let lacks = |library: &str| !Path::new("/lib").join(&triple).join(library).exists();
    let packages = [("fuse3/lib", "libfuse3.so.3"), ("runc/usr/lib", "libseccomp.so.2")];
    let packages = packages.into_iter().filter(|(_, library)| lacks(library));
    let found = packages.filter_map(|(package, _)| tool(&format!("{package}/{triple}")));
    found.map(|path| path.display().to_string()).collect::<Vec<_>>().join(":")
}
