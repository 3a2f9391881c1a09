//! What is fetched: Debian packages, by suites.

/// One folder under target/tools.
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) packages: &'static [&'static str],
    /// Where to look, best first.
    pub(super) suites: &'static [&'static str],
    /// Nothing much can be tested without it.
    pub(super) required: bool,
    /// Their dependencies whose names begin so belong to them; empty for none.
    pub(super) with: &'static str,
}

/// Debian's keys as the host has them; they verify the newer keys, which verify the rest.
pub(super) const HOST_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
pub(super) const KEYRING: Part = Part {
    name: "debian-archive-keyring",
    packages: &["debian-archive-keyring"],
    suites: &["bookworm"],
    required: false,
    with: "",
};

const MOUNT: &[&str] =
    &["mount", "libmount1", "libblkid1", "libselinux1", "libpcre2-8-0", "libsmartcols1", "libc6"];

pub(super) const PARTS: &[Part] = &[
    Part {
        name: "fuse3",
        packages: &["fuse3", "libfuse3-3"],
        suites: &["bookworm"],
        required: true,
        with: "",
    },
    // The yardsticks: 2.38 mounts by mount(2), newer ones by the new mount API. Both come with their
    // libraries and the loader, so that it makes no difference which ones the host has.
    Part { name: "mount-2.38", packages: MOUNT, suites: &["bookworm"], required: false, with: "" },
    Part { name: "mount-2.41", packages: MOUNT, suites: &["trixie"], required: false, with: "" },
    Part {
        name: "erofs-utils",
        packages: &["erofs-utils"],
        suites: &["bookworm"],
        required: false,
        with: "",
    },
    Part {
        name: "fuse-overlayfs",
        packages: &["fuse-overlayfs"],
        suites: &["bookworm"],
        required: false,
        with: "",
    },
    // Compiles a policy for a guest with SELinux.
    Part {
        name: "checkpolicy",
        packages: &["checkpolicy"],
        suites: &["bookworm"],
        required: false,
        with: "",
    },
    Part {
        name: "nydus-snapshotter",
        packages: &["nydus-snapshotter"],
        suites: &["trixie", "sid"],
        required: false,
        with: "",
    },
    Part {
        name: "containerd-1.6",
        packages: &["containerd"],
        suites: &["bookworm"],
        required: true,
        with: "",
    },
    Part {
        name: "containerd-1.7",
        packages: &["containerd"],
        suites: &["trixie"],
        required: false,
        with: "",
    },
    Part {
        name: "containerd-2.1",
        packages: &["containerd"],
        suites: &["sid"],
        required: false,
        with: "",
    },
    Part {
        name: "runc",
        packages: &["runc", "libseccomp2"],
        suites: &["bookworm"],
        required: true,
        with: "",
    },
    // Go with the sources of containerd's suite for snapshotters.
    Part {
        name: "golang",
        packages: &["golang-go", "golang-github-containerd-containerd-dev"],
        suites: &["bookworm"],
        required: false,
        with: "golang-",
    },
    Part {
        name: "registry",
        packages: &["docker-registry"],
        suites: &["bookworm"],
        required: true,
        with: "",
    },
    Part {
        name: "busybox",
        packages: &["busybox-static"],
        suites: &["bookworm"],
        required: true,
        with: "",
    },
    Part {
        name: "debootstrap",
        packages: &["debootstrap"],
        suites: &["bookworm"],
        required: false,
        with: "",
    },
    guest("guest-6.1", &["bookworm"]),
];

/// Kernels for guests besides, for `--full`.
pub(super) const GUESTS: &[Part] = &[
    guest("guest-5.10", &["bullseye"]),
    guest("guest-6.12", &["trixie"]),
    guest("guest-7", &["sid"]),
];

/// A Python and a large package of it, and manual pages, which are thousands in one directory, for
/// an image that is measured.
pub(super) const PYTHON: Part = Part {
    name: "python",
    packages: &[
        "python3.11-minimal",
        "libpython3.11-minimal",
        "libpython3.11-stdlib",
        "python3-sympy",
        "python3-mpmath",
        "manpages-dev",
        "libssl-doc",
        "libc6",
        "zlib1g",
        "libexpat1",
        "libffi8",
        "libssl3",
        "libbz2-1.0",
        "liblzma5",
    ],
    suites: &["bookworm"],
    required: false,
    with: "",
};

/// A guest's kernel: the package depends on the one that has it.
const fn guest(name: &'static str, suites: &'static [&'static str]) -> Part {
    Part { name, packages: &["linux-image-cloud-amd64"], suites, required: false, with: "linux-" }
}
