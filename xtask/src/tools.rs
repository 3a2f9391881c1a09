//! `cargo xtask tools`: other people's programs, unpacked under target/tools, never installed.

use crate::apt::{self, Suite};
use crate::cmd::Cmd;
use crate::{debootstrap, paths, ui};
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One folder under target/tools.
struct Part {
    name: &'static str,
    packages: &'static [&'static str],
    /// Where to look, best first.
    suites: &'static [&'static str],
    /// Nothing much can be tested without it.
    required: bool,
    /// Their dependencies whose names begin so belong to them; empty for none.
    with: &'static str,
}

/// Debian's keys as the host has them; they verify the newer keys, which verify the rest.
const HOST_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const KEYRING: Part = Part {
    name: "debian-archive-keyring",
    packages: &["debian-archive-keyring"],
    suites: &["bookworm"],
    required: false,
    with: "",
};

const MOUNT: &[&str] =
    &["mount", "libmount1", "libblkid1", "libselinux1", "libpcre2-8-0", "libsmartcols1", "libc6"];

const PARTS: &[Part] = &[
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
const GUESTS: &[Part] = &[
    guest("guest-5.10", &["bullseye"]),
    guest("guest-6.12", &["trixie"]),
    guest("guest-7", &["sid"]),
];

/// A Python and a large package of it, and manual pages, which are thousands in one directory, for
/// an image that is measured.
const PYTHON: Part = Part {
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

/// `nydusd` and `nydus-image` come from the Rust package registry.
const NYDUS: &[&str] = &["nydus-rs", "--version", "2.2.0", "--locked", "--features", "virtiofs"];

/// What is fetched besides what every run needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Also {
    Nothing,
    /// More kernels for guests.
    Guests,
    /// The same, and a `nydusd` for the newest of them.
    All,
}

/// Fetches what is missing. Returns what could not be had, with the reason.
pub(crate) fn run(also: Also) -> Result<Vec<(&'static str, String)>> {
    fs::create_dir_all(paths::tools())?;
    let _lock = lock()?;
    let mut missing = Vec::new();
    let more = if also == Also::Nothing { &[] } else { GUESTS };
    for part in PARTS.iter().chain(more) {
        if let Err(error) = fetch(part) {
            if part.required {
                return Err(error);
            }
            ui::not_run(part.name, &format!("{error:#}"));
            missing.push((part.name, format!("{error:#}")));
        }
    }
    if let Err(error) = debootstrap::run(&keyring()) {
        ui::not_run(debootstrap::ROOT, &format!("{error:#}"));
        missing.push((debootstrap::ROOT, format!("{error:#}")));
    }
    nydusd()?;
    if also == Also::All {
        patched_nydusd()?;
    }
    // QEMU finds its firmware only where it is installed.
    if let Err(error) = apt::need(QEMU, "qemu-system-x86") {
        ui::not_run("QEMU", &format!("{error:#}"));
        missing.push(("QEMU", format!("{error:#}")));
    }
    Ok(missing)
}

/// Fetches what only `cargo xtask bench` needs.
pub(crate) fn for_bench() -> Result<()> {
    let _lock = lock()?;
    if let Err(error) = fetch(&PYTHON) {
        ui::not_run(PYTHON.name, &format!("{error:#}"));
    }
    Ok(())
}

/// Runs guests.
const QEMU: &str = "qemu-system-x86_64";

/// Builds `nydusd` and `nydus-image`, which takes some minutes.
fn nydusd() -> Result<()> {
    let place = paths::tools().join("nydusd");
    if place.join("bin/nydusd").exists() {
        return Ok(());
    }
    apt::need("cmake", "cmake")?;
    let mut cargo = Cmd::new("install-nydusd", 1800, env!("CARGO"));
    cargo.arg("install").args(NYDUS).arg("--root").arg(&place);
    cargo.env("CARGO_TARGET_DIR", paths::target().join("nydusd"));
    ui::step("build nydusd", || cargo.run())
}

/// `nydusd` for guests with a kernel from 7.1 on: those want to be told how long each answer is
/// (commit 68b69fa0edb of Linux), and 2.2.0 always says 0.
fn patched_nydusd() -> Result<()> {
    let place = paths::tools().join("nydusd-patched");
    if place.join("bin/nydusd").exists() {
        return Ok(());
    }
    let source = paths::tools().join(".nydusd-source");
    let _ = fs::remove_dir_all(&source);
    let archive = source_archive().context("no archive of nydus-rs where cargo keeps them")?;
    fs::create_dir_all(&source)?;
    let mut tar = Cmd::new("nydusd-source", 60, "tar");
    tar.arg("-xzf").arg(archive).arg("-C").arg(&source).arg("--strip-components=1").run()?;
    let file = source.join("src/bin/nydusd/virtiofs.rs");
    let text = fs::read_to_string(&file)?;
    let patched = text
        .replace(
            "            self.server\n                .handle_message(",
            "            let used = self.server.handle_message(",
        )
        .replace("add_used(head_index, 0)", "add_used(head_index, used as u32)");
    ensure!(patched.matches("used").count() > text.matches("used").count() + 2, "not as expected");
    fs::write(&file, patched)?;
    // It is below our own workspace.
    let manifest = source.join("Cargo.toml");
    fs::write(&manifest, fs::read_to_string(&manifest)? + "\n[workspace]\n")?;
    let mut cargo = Cmd::new("install-nydusd-patched", 1800, env!("CARGO"));
    cargo.args(["install", "--locked", "--features", "virtiofs", "--bin", "nydusd", "--path"]);
    // Newer compilers warn where it denies warnings.
    cargo.arg(&source).env("RUSTFLAGS", "--cap-lints=warn");
    cargo.arg("--root").arg(&place).env("CARGO_TARGET_DIR", paths::target().join("nydusd"));
    ui::step("build nydusd, patched for new guests", || cargo.run())
}

/// Where cargo has put what [`nydusd`] was built from.
fn source_archive() -> Option<PathBuf> {
    let registries = fs::read_dir(paths::cargo_home()?.join("registry/cache")).ok()?.flatten();
    let archives = registries.map(|entry| entry.path().join("nydus-rs-2.2.0.crate"));
    { archives }.find(|archive| archive.exists())
}

/// Whether a part is there.
pub(crate) fn has(name: &str) -> bool {
    PARTS.iter().chain(GUESTS).any(|part| part.name == name && fetched(part))
}

/// The variable with which unpacked programs find their libraries. `None` where the host has them:
/// with it, a program looks for each of its libraries there first, which takes time.
pub(crate) fn library_path() -> Option<(&'static str, PathBuf)> {
    let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
    let host = Path::new("/lib").join(&triple).join("libfuse3.so.3");
    let path = || ("LD_LIBRARY_PATH", paths::tools().join("fuse3/lib").join(triple));
    (!host.exists()).then(path)
}

fn fetch(part: &Part) -> Result<()> {
    if fetched(part) {
        return Ok(());
    }
    let keyring = keyring();
    ui::step(&format!("fetch {}", part.name), || fetch_from_any(part, &keyring))
}

/// The newest keys that the host's own keys vouch for.
fn keyring() -> PathBuf {
    let newer = paths::tools().join(KEYRING.name).join(HOST_KEYRING.trim_start_matches('/'));
    let host = PathBuf::from(HOST_KEYRING);
    if !fetched(&KEYRING) && fetch_from_any(&KEYRING, &host).is_err() {
        return host;
    }
    newer
}

fn fetch_from_any(part: &Part, keyring: &Path) -> Result<()> {
    let mut reasons = Vec::new();
    for suite in part.suites {
        match fetch_from(part, suite, keyring) {
            Ok(()) => return Ok(()),
            Err(error) => reasons.push(format!("{error:#}")),
        }
    }
    bail!("{}", reasons.join("\n"))
}

fn fetch_from(part: &Part, suite: &str, keyring: &Path) -> Result<()> {
    let (debs, tree) = (scratch(part, "debs")?, scratch(part, "tree")?);
    let source = Suite::open(suite, &paths::tools().join(".apt"), keyring)?;
    let packages = match part.with {
        "" => part.packages.iter().map(|name| (*name).to_owned()).collect(),
        prefix => source.with_dependencies(part.packages, prefix)?,
    };
    let packages: Vec<_> = packages.iter().map(String::as_str).collect();
    source.download(&packages, &debs)?;
    let mut unpacked = Vec::new();
    for deb in fs::read_dir(&debs)? {
        let deb = deb?.path();
        Cmd::new("dpkg-deb", 300, "dpkg-deb").arg("-x").args([&deb, &tree]).run()?;
        unpacked.push(deb.file_name().unwrap_or_default().to_string_lossy().into_owned());
    }
    ensure!(unpacked.len() == packages.len(), "apt-get brought {unpacked:?}");
    fs::write(tree.join(".stamp"), format!("{}\n{suite}: {unpacked:?}\n", spec(part)))?;
    let place = paths::tools().join(part.name);
    let _ = fs::remove_dir_all(&place);
    fs::rename(&tree, &place).with_context(|| format!("cannot fill {}", place.display()))?;
    fs::remove_dir_all(&debs).context("cannot clean up")
}

/// A new, empty directory beside the final place.
fn scratch(part: &Part, what: &str) -> Result<PathBuf> {
    let dir = paths::tools().join(".apt").join(format!("{}-{what}", part.name));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

fn fetched(part: &Part) -> bool {
    let stamp = fs::read_to_string(paths::tools().join(part.name).join(".stamp"));
    stamp.is_ok_and(|text| text.lines().next() == Some(&spec(part)))
}

fn spec(part: &Part) -> String {
    part.packages.join(" ")
}

/// One run at a time; two would remove each other's folders.
fn lock() -> Result<File> {
    let file = File::create(paths::tools().join(".lock"))?;
    let start = Instant::now();
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        ensure!(
            start.elapsed() < Duration::from_secs(900),
            "another run holds the lock for 15 min"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(file)
}
