//! Where things are.

use std::path::{Path, PathBuf};

/// The workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ is inside the workspace")
}

/// Everything that tasks write, but for what `--publish` puts into docs/.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// Our release binaries.
pub(crate) fn dist() -> PathBuf {
    from_env("NYDUS_DIST", "dist")
}

/// The helper as released, and the other programs as the tests are built.
pub(crate) fn test_dist() -> PathBuf {
    target().join("test-dist")
}

/// Programs of others, one folder each.
pub(crate) fn tools() -> PathBuf {
    from_env("NYDUS_TOOLS", "tools")
}

/// What the last run of each command said.
pub(crate) fn logs() -> PathBuf {
    target().join("logs")
}

/// Where cargo keeps what it has downloaded.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"));
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)
}

fn from_env(variable: &str, default: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| target().join(default), PathBuf::from)
}
