//! What is in the packages, and where.

use super::tree::Tree;
use super::{Packing, read};
use crate::cmd::Cmd;
use anyhow::Result;

/// The release binaries that people get.
pub(super) const PROGRAMS: [&str; 3] = ["nydus-overlayfs", "nydus-slice", "containerd-nydus-grpc"];

/// Where a file comes from.
enum From {
    Program(&'static str),
    /// A path in the repository.
    File(&'static str),
    /// The same, of a file that names our places below `/usr/local`.
    Placed(&'static str),
    Link(&'static str),
    /// What the program prints as completions for this shell.
    Completions(&'static str, &'static str),
}
use From::{Completions, File, Link, Placed, Program};

type Row = (&'static str, From);

/// Below `/usr` or `/usr/local`, in both packages.
const COMMON: &[Row] = &[
    ("bin/nydus-overlayfs", Program("nydus-overlayfs")),
    ("bin/nydus-slice", Program("nydus-slice")),
    ("bin/containerd-nydus-grpc", Program("containerd-nydus-grpc")),
    // In no PATH unless somebody puts it there: these names are fuse3's.
    ("libexec/nydus-overlayfs/mount.fuse", Link("../../bin/nydus-overlayfs")),
    ("libexec/nydus-overlayfs/mount.fuse3", Link("../../bin/nydus-overlayfs")),
    ("lib/systemd/system/nydus-snapshotter.service", Placed("packaging/nydus-snapshotter.service")),
    ("share/man/man1/nydus-slice.1", Placed("man/nydus-slice.1")),
    ("share/man/man8/nydus-overlayfs.8", Placed("man/nydus-overlayfs.8")),
    ("share/man/man8/containerd-nydus-grpc.8", Placed("man/containerd-nydus-grpc.8")),
    ("share/bash-completion/completions/nydus-slice", Completions("nydus-slice", "bash")),
    (
        "share/bash-completion/completions/containerd-nydus-grpc",
        Completions("containerd-nydus-grpc", "bash"),
    ),
    ("share/fish/vendor_completions.d/nydus-slice.fish", Completions("nydus-slice", "fish")),
    (
        "share/fish/vendor_completions.d/containerd-nydus-grpc.fish",
        Completions("containerd-nydus-grpc", "fish"),
    ),
    ("share/doc/nydus-overlayfs/README.md", File("README.md")),
    ("share/doc/nydus-overlayfs/docs/conformance.md", File("docs/conformance.md")),
    ("share/doc/nydus-overlayfs/docs/contract.md", File("docs/contract.md")),
    ("share/doc/nydus-overlayfs/docs/differences.md", File("docs/differences.md")),
    ("share/doc/nydus-overlayfs/docs/kata.md", File("docs/kata.md")),
    ("share/doc/nydus-overlayfs/docs/kernel-native.md", File("docs/kernel-native.md")),
    ("share/doc/nydus-overlayfs/docs/kernels.md", File("docs/kernels.md")),
    ("share/doc/nydus-overlayfs/docs/none-mode.md", File("docs/none-mode.md")),
    ("share/doc/nydus-overlayfs/docs/security.md", File("docs/security.md")),
    ("share/doc/nydus-overlayfs/docs/takeover.md", File("docs/takeover.md")),
    ("share/doc/nydus-overlayfs/examples/containerd-1.toml", File("packaging/containerd-1.toml")),
    ("share/doc/nydus-overlayfs/examples/containerd-2.toml", File("packaging/containerd-2.toml")),
    (
        "share/doc/nydus-overlayfs/examples/containerd-mount-fuse.conf",
        Placed("packaging/containerd-mount-fuse.conf"),
    ),
    (
        "share/doc/nydus-overlayfs/examples/daemonset.yaml",
        File("packaging/kubernetes/daemonset.yaml"),
    ),
];

/// Also in the .deb.
const DEBIAN: &[Row] = &[
    ("sbin/mount.fuse.nydus-overlayfs", Link("../bin/nydus-overlayfs")),
    ("share/man/man8/mount.fuse.nydus-overlayfs.8", Link("nydus-overlayfs.8.gz")),
    ("share/zsh/vendor-completions/_nydus-slice", Completions("nydus-slice", "zsh")),
    (
        "share/zsh/vendor-completions/_containerd-nydus-grpc",
        Completions("containerd-nydus-grpc", "zsh"),
    ),
    ("share/doc/nydus-overlayfs/README.Debian", File("packaging/debian/README.Debian")),
    ("share/doc/nydus-overlayfs/copyright", File("packaging/debian/copyright")),
    ("share/doc/nydus-overlayfs/changelog", File("CHANGELOG.md")),
    ("share/doc/nydus-overlayfs/changelog.Debian", File("packaging/debian/changelog")),
    ("share/lintian/overrides/nydus-overlayfs", File("packaging/debian/lintian-overrides")),
    ("../etc/nydus/config.toml", File("packaging/config.toml")),
    ("../etc/nydus/nydusd-config.json", File("packaging/nydusd-config.json")),
];

/// Also in the tarball.
const TARBALL: &[Row] = &[
    ("share/zsh/site-functions/_nydus-slice", Completions("nydus-slice", "zsh")),
    (
        "share/zsh/site-functions/_containerd-nydus-grpc",
        Completions("containerd-nydus-grpc", "zsh"),
    ),
    ("share/doc/nydus-overlayfs/LICENSE", File("LICENSE")),
    ("share/doc/nydus-overlayfs/CHANGELOG.md", File("CHANGELOG.md")),
    ("share/doc/nydus-overlayfs/examples/config.toml", File("packaging/config.toml")),
    ("share/doc/nydus-overlayfs/examples/nydusd-config.json", File("packaging/nydusd-config.json")),
];

const SBOM: &str = "share/doc/nydus-overlayfs/sbom.cdx.json";

impl Packing {
    /// Fills `tree` for `/usr`, with Debian's compression of what is only read.
    pub(super) fn fill_for_debian(&self, tree: &Tree) -> Result<()> {
        for (path, from) in COMMON.iter().chain(DEBIAN) {
            let path = &match path.strip_prefix("../") {
                Some(outside) => outside.to_owned(),
                None => format!("usr/{path}"),
            };
            let content = match from {
                Placed(_) => for_usr(&self.content(from)?),
                _ => self.content(from)?,
            };
            match from {
                Link(to) if to.ends_with(".gz") => tree.link(&format!("{path}.gz"), to)?,
                Link(to) => tree.link(path, to)?,
                Program(_) => tree.put(path, &content, 0o755)?,
                _ if is_compressed(path) => tree.put_compressed(path, &content)?,
                _ => tree.put(path, &content, 0o644)?,
            }
        }
        tree.put_compressed(&format!("usr/{SBOM}"), &self.sbom)
    }

    /// Fills `tree` for `/usr/local`.
    pub(super) fn fill_for_local(&self, tree: &Tree) -> Result<()> {
        for (path, from) in COMMON.iter().chain(TARBALL) {
            match from {
                Link(to) => tree.link(path, to)?,
                Program(_) => tree.put(path, &self.content(from)?, 0o755)?,
                from => tree.put(path, &self.content(from)?, 0o644)?,
            }
        }
        tree.put(SBOM, &self.sbom, 0o644)
    }

    fn content(&self, from: &From) -> Result<Vec<u8>> {
        match from {
            Program(name) => read(&self.programs.join(name)),
            File(path) | Placed(path) => self.source(path),
            Link(to) => Ok(to.as_bytes().to_vec()),
            Completions(program, shell) => {
                let mut cmd = Cmd::new("completions", 60, self.programs.join(program));
                Ok(cmd.args(["completions", shell]).output()?.into_bytes())
            }
        }
    }
}

fn is_compressed(path: &str) -> bool {
    path.contains("/man/") || path.contains("/changelog")
}

/// The same text for a place below `/usr`.
fn for_usr(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    let moved = |text: String, dir: &str| {
        text.replace(&format!("/usr/local/{dir}/"), &format!("/usr/{dir}/"))
    };
    ["bin", "libexec"].into_iter().fold(text.into_owned(), moved).into_bytes()
}
