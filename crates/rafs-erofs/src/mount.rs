//! EROFS mounts.

use crate::error::{Result, io};
use crate::loops::Loop;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// How the kernel reads the files of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The files themselves, Linux 6.12 with `CONFIG_EROFS_FS_BACKED_BY_FILE`.
    File,
    /// Loop devices, Linux 5.16.
    Loop,
}

/// A string that the kernel takes for a parameter is shorter than this.
const PARAMETER: usize = 256;
const DESCRIPTORS: &str = "/proc/self/fd";

/// A mount that is at no path yet; dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Made {
    root: OwnedFd,
}

/// What an image has is for containers, which have it through an overlay of their own: on this
/// mount nothing is executed with other rights, no device is opened, and no link leads anywhere.
/// An overlay looks at none of these (fs/overlayfs uses the lower inodes, and the flags of its own
/// mount).
const ATTRIBUTES: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW);

impl Made {
    /// Opens a regular file below its root for reading. What else an image may have at `path` is
    /// not opened: a device does what its driver does then, a FIFO waits, a link leads elsewhere.
    pub(crate) fn open(&self, path: &str) -> std::io::Result<File> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = openat2(&self.root, path, flags, Mode::empty(), resolve)?;
        if FileType::from_raw_mode(fstat(&found)?.st_mode) != FileType::RegularFile {
            return Err(std::io::Error::other("expected a regular file"));
        }
        // The same file again: its name is not looked up.
        let name = Path::new(DESCRIPTORS).join(found.as_raw_fd().to_string());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::open(name, flags, Mode::empty())?.into())
    }
}

/// Mounts the first of `files` with the others as its devices. The error is in the kernel's words.
pub(crate) fn make(files: &[(PathBuf, File)], way: Way) -> Result<Made, String> {
    // Until the mount has them, loop devices live by these.
    let loops = match way {
        Way::File => Vec::new(),
        Way::Loop => files.iter().map(|(_, file)| Loop::of(file)).collect::<Result<_, _>>()?,
    };
    let names: Vec<_> = match way {
        Way::File => files.iter().map(name).collect(),
        Way::Loop => loops.iter().map(|device| device.path.clone()).collect(),
    };
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| match error {
        Errno::NODEV => "the kernel has no EROFS".to_owned(),
        error => error.to_string(),
    })?;
    let create = || {
        for (number, name) in names.iter().enumerate() {
            let key = if number == 0 { "source" } else { "device" };
            fsconfig_set_string(&context, key, name)?;
        }
        fsconfig_set_flag(&context, "ro")?;
        fsconfig_create(&context)
    };
    create().map_err(|error| said(&context).unwrap_or_else(|| error.to_string()))?;
    match fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, ATTRIBUTES) {
        Ok(root) => Ok(Made { root }),
        Err(error) => Err(error.to_string()),
    }
}

/// A name of a file that fits into a parameter.
fn name((path, file): &(PathBuf, File)) -> PathBuf {
    match path.as_os_str().len() {
        ..PARAMETER => path.clone(),
        _ => Path::new(DESCRIPTORS).join(file.as_raw_fd().to_string()),
    }
}

/// Whether the source of a mount is the file at `path`, or what [`name`] made of that.
pub(crate) fn is_of(source: &Path, path: &Path) -> bool {
    source == path || path.as_os_str().len() >= PARAMETER && source.starts_with(DESCRIPTORS)
}

/// What the kernel says of a failure, if it does, without its level (`e erofs: ...`).
fn said(context: &OwnedFd) -> Option<String> {
    let mut message = [0; 1024];
    let mut last = None;
    while let Ok(length @ 1..) = rustix::io::read(context, &mut message) {
        let text = String::from_utf8_lossy(&message[..length]);
        last = Some(text.strip_prefix("e ").unwrap_or(&text).trim().to_owned());
    }
    last
}

/// Lets a mount be seen at `target`.
pub(crate) fn attach(made: &Made, target: &Path) -> Result<(), String> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&made.root, "", CWD, target, flags).map_err(|error| error.to_string())
}

/// Unmounts what is mounted at `target`, all of it: users keep it until they let go.
/// Nothing mounted is no error.
///
/// # Errors
/// It cannot be unmounted.
pub fn unmount(target: &Path) -> Result<()> {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    loop {
        match rustix::mount::unmount(target, flags) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(io("unmount", target)(error.into())),
        }
    }
}

/// The file that the topmost mount at `target` shows, if that is EROFS.
pub(crate) fn source_at(target: &Path) -> std::io::Result<Option<PathBuf>> {
    let target = fs::canonicalize(target)?;
    let table = fs::read("/proc/thread-self/mountinfo")?;
    let lines = table.split(|&byte| byte == b'\n').rev();
    let mut entries = lines.filter_map(Entry::read);
    let Some(entry) = entries.find(|entry| entry.point == target) else { return Ok(None) };
    if entry.kind != b"erofs" {
        return Ok(None);
    }
    // A loop device says whose it is.
    let device = entry.source.strip_prefix("/dev").ok().and_then(Path::to_str);
    let Some(device) = device else { return Ok(Some(entry.source)) };
    let backing = fs::read(format!("/sys/block/{device}/loop/backing_file"));
    Ok(backing.ok().map(|path| path_of(path.trim_ascii_end())))
}

struct Entry<'a> {
    point: PathBuf,
    kind: &'a [u8],
    source: PathBuf,
}

impl<'a> Entry<'a> {
    /// A line of mountinfo, proc_pid_mountinfo(5).
    fn read(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let point = unescaped(fields.nth(4)?);
        let mut rest = fields.skip_while(|&field| field != b"-").skip(1);
        Some(Self { point, kind: rest.next()?, source: unescaped(rest.next()?) })
    }
}

/// `\040` and the like are bytes in octal.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).and_then(|digits| str::from_utf8(digits).ok());
        let byte = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, byte) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    path_of(&bytes)
}

fn path_of(bytes: &[u8]) -> PathBuf {
    std::ffi::OsString::from_vec(bytes.to_vec()).into()
}
