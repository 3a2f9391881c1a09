//! Reads as much of a RAFS bootstrap as tells its version.

use nydus_mount_slice::FsVersion;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// A file that is no RAFS bootstrap.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("cannot read bootstrap {}: {}", .0.display(), .1)]
    Unreadable(PathBuf, io::Error),
    /// Neither magic is there.
    #[error("{} is no RAFS bootstrap: expected the superblock of RAFS v5 or v6", .0.display())]
    NoRafs(PathBuf),
    /// A v6 bootstrap that is not a whole number of blocks.
    #[error("bootstrap {} is cut: {} bytes are no multiple of its block size {}", .0.display(), .1, .2)]
    Cut(PathBuf, u64, u64),
}

/// Bytes that hold both superblocks' magic and the v6 block size.
const HEAD: usize = 1024 + 16;
const V5_MAGIC: u32 = 0x5241_4653;
const V5_VERSION: u32 = 0x500;
/// EROFS_SUPER_MAGIC_V1.
const V6_MAGIC: u32 = 0xe0f5_e1e2;

/// Opens a file that came with an image: nothing but a regular file, and no link on the way to it
/// below the snapshot's `fs`, because whoever made the image may have put anything there.
///
/// Must never refuse a link above that: a snapshotter's root may well be behind one
/// (`/var/lib/containerd` on another disk).
///
/// # Errors
/// It cannot be opened, or is something else.
pub fn open(path: &Path) -> io::Result<File> {
    let (trusted, inside) = split(path);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(trusted, flags, Mode::empty())?;
    // A FIFO would wait for its other end.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let opened = match openat2(&directory, inside, flags, Mode::empty(), beneath) {
        // Before Linux 5.6, and where a filter forbids it.
        Err(Errno::NOSYS | Errno::PERM) => openat(&directory, inside, flags, Mode::empty()),
        opened => opened,
    };
    let file = File::from(opened?);
    let regular = file.metadata()?.is_file();
    if regular { Ok(file) } else { Err(io::Error::other("expected a regular file")) }
}

/// The snapshot's `fs`, which is the snapshotter's own, and the way from there; of a path without
/// one, the file's directory and its name.
fn split(path: &Path) -> (&Path, &Path) {
    let directories = path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
    let fs = directories.clone().find(|above| above.file_name() == Some("fs".as_ref()));
    let trusted = fs.or_else(|| directories.into_iter().next()).unwrap_or(Path::new("."));
    (trusted, path.strip_prefix(trusted).unwrap_or(path))
}

/// The RAFS version of the bootstrap at `path`.
///
/// # Errors
/// It cannot be read, is no bootstrap, or is cut.
pub fn version(path: &Path) -> Result<FsVersion, Error> {
    let unreadable = |error| Error::Unreadable(path.to_owned(), error);
    let mut file = open(path).map_err(unreadable)?;
    let mut head = Vec::with_capacity(HEAD);
    file.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(unreadable)?;
    let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    if word(0) == Some(V5_MAGIC) && word(4) == Some(V5_VERSION) {
        return Ok(FsVersion::V5);
    }
    let (Some(V6_MAGIC), Some(bits @ (9 | 12))) = (word(1024), head.get(1024 + 12)) else {
        return Err(Error::NoRafs(path.to_owned()));
    };
    let (length, block) = (file.metadata().map_err(unreadable)?.len(), 1_u64 << bits);
    match length % block {
        0 => Ok(FsVersion::V6),
        _ => Err(Error::Cut(path.to_owned(), length, block)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;
    use std::os::unix::fs::symlink;

    #[test]
    fn versions() {
        let v5 = [&V5_MAGIC.to_le_bytes()[..], &V5_VERSION.to_le_bytes()].concat();
        let mut v6 = vec![0; 4096];
        v6[1024..1028].copy_from_slice(&V6_MAGIC.to_le_bytes());
        v6[1036] = 12;
        let table: &[(&[u8], Result<FsVersion, &str>)] = &[
            (&v5, Ok(FsVersion::V5)),
            (&v6, Ok(FsVersion::V6)),
            (&v6[..4000], Err("is cut: 4000 bytes")),
            (&v5[..6], Err("is no RAFS bootstrap")),
            (b"", Err("is no RAFS bootstrap")),
        ];
        let file = tempfile::NamedTempFile::new().unwrap();
        for (bytes, expected) in table {
            std::fs::write(file.path(), bytes).unwrap();
            match (version(file.path()), expected) {
                (Ok(version), Ok(expected)) => assert_eq!(version, *expected),
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
                (got, expected) => panic!("{got:?}, expected {expected:?}"),
            }
        }
        assert!(version(Path::new("/missing")).is_err());
        let dir = tempfile::tempdir().unwrap();
        let [link, fifo] = ["link", "fifo"].map(|name| dir.path().join(name));
        symlink(file.path(), &link).unwrap();
        rustix::fs::mkfifoat(CWD, &fifo, Mode::RUSR).unwrap();
        for path in [&link, &fifo, &link.join("below"), &dir.path().to_owned()] {
            let error = open(path).unwrap_err().to_string();
            let expected = ["expected a regular file", "symbolic links", "Not a directory"];
            assert!(expected.iter().any(|words| error.contains(words)), "{error}");
        }
    }

    /// A link to the snapshotter's root is its own; one in an image is a stranger's.
    #[test]
    fn links_above_the_image_only() {
        let dir = tempfile::tempdir().unwrap();
        let fs = dir.path().join("real/snapshots/1/fs");
        let image = fs.join("image");
        std::fs::create_dir_all(&image).unwrap();
        let v5 = [&V5_MAGIC.to_le_bytes()[..], &V5_VERSION.to_le_bytes()].concat();
        std::fs::write(image.join("image.boot"), &v5).unwrap();
        std::fs::write(dir.path().join("outside"), &v5).unwrap();
        for (link, to) in [
            (dir.path().join("root"), dir.path().join("real")),
            (fs.join("absolute"), image.clone()),
            (fs.join("relative"), "image".into()),
            (image.join("link.boot"), "image.boot".into()),
            (image.join("out"), dir.path().into()),
        ] {
            symlink(to, link).unwrap();
        }
        for (inside, taken) in [
            ("image/image.boot", true),
            ("absolute/image.boot", false),
            ("relative/image.boot", false),
            ("image/link.boot", false),
            ("image/out/outside", false),
            ("../../../../outside", false),
        ] {
            for root in ["real", "root"] {
                let path = dir.path().join(root).join("snapshots/1/fs").join(inside);
                let found = version(&path);
                assert_eq!(found.is_ok(), taken, "{}: {found:?}", path.display());
            }
        }
    }
}
