//! The system calls of a mount, and their one real implementation.

use core::ffi::CStr;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Result;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    UnmountFlags,
};

use crate::options::Lsm;

/// What the way to a mount asks of the kernel. [`Linux`] is the real one; a recorder can stand
/// in to show the calls.
pub trait Kernel {
    /// An open descriptor, closed when dropped.
    type Fd;

    /// `openat(dir, path, O_PATH|O_DIRECTORY|O_CLOEXEC)`, following symbolic links.
    fn open(&self, path: &CStr) -> Result<Self::Fd>;
    /// The descriptor's number.
    fn number(&self, fd: &Self::Fd) -> u32;
    /// Whether the directory was removed after it was opened.
    fn is_removed(&self, fd: &Self::Fd) -> bool;
    /// Whether `/proc/self/fd` shows this process: mounted, and of a PID namespace it is in.
    fn proc_is_ours(&self) -> bool;
    /// Which security modules with mount options are on.
    fn lsm(&self) -> Lsm;
    /// `fchdir(dir)`.
    fn change_dir(&self, dir: &Self::Fd) -> Result<()>;
    /// `mount(source, target, "overlay", flags, data)`.
    fn mount(&self, source: &CStr, target: &CStr, flags: u32, data: &CStr) -> Result<()>;
    /// `mount(NULL, ".", NULL, propagation, NULL)`.
    fn change_propagation_here(&self, propagation: u32) -> Result<()>;
    /// `umount2(".", MNT_DETACH)`.
    fn detach_here(&self) -> Result<()>;
    /// `fsopen("overlay", FSOPEN_CLOEXEC)`.
    fn open_context(&self) -> Result<Self::Fd>;
    /// `fsconfig(context, FSCONFIG_SET_FLAG, key)`.
    fn set_flag(&self, context: &Self::Fd, key: &CStr) -> Result<()>;
    /// `fsconfig(context, FSCONFIG_SET_STRING, key, value)`.
    fn set_string(&self, context: &Self::Fd, key: &CStr, value: &CStr) -> Result<()>;
    /// `fsconfig(context, FSCONFIG_SET_FD, key, NULL, fd)`.
    fn set_fd(&self, context: &Self::Fd, key: &CStr, fd: &Self::Fd) -> Result<()>;
    /// `fsconfig(context, FSCONFIG_CMD_CREATE)`.
    fn create(&self, context: &Self::Fd) -> Result<()>;
    /// `fsmount(context, FSMOUNT_CLOEXEC, attributes)`.
    fn mount_context(&self, context: &Self::Fd, attributes: u32) -> Result<Self::Fd>;
    /// `move_mount(mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH)`.
    fn attach(&self, mount: &Self::Fd, target: &Self::Fd) -> Result<()>;
}

/// The running kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linux;

const PROC_SUPER_MAGIC: i64 = 0x9fa0;
const SELINUX_MAGIC: i64 = 0xf97c_ff8c;
const SMACK_MAGIC: i64 = 0x4341_5d53;

impl Kernel for Linux {
    type Fd = OwnedFd;

    fn open(&self, path: &CStr) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty())
    }

    fn number(&self, fd: &OwnedFd) -> u32 {
        fd.as_raw_fd().unsigned_abs()
    }

    fn is_removed(&self, fd: &OwnedFd) -> bool {
        rustix::fs::fstat(fd).is_ok_and(|stat| stat.st_nlink == 0)
    }

    fn proc_is_ours(&self) -> bool {
        is_fs(c"/proc/self/fd", PROC_SUPER_MAGIC)
    }

    fn lsm(&self) -> Lsm {
        Lsm {
            selinux: is_fs(c"/sys/fs/selinux", SELINUX_MAGIC),
            smack: is_fs(c"/sys/fs/smackfs", SMACK_MAGIC),
        }
    }

    fn change_dir(&self, dir: &OwnedFd) -> Result<()> {
        rustix::process::fchdir(dir)
    }

    fn mount(&self, source: &CStr, target: &CStr, flags: u32, data: &CStr) -> Result<()> {
        rustix::mount::mount(source, target, c"overlay", MountFlags::from_bits_retain(flags), data)
    }

    fn change_propagation_here(&self, propagation: u32) -> Result<()> {
        let flags = MountPropagationFlags::from_bits_retain(propagation);
        rustix::mount::mount_change(c".", flags)
    }

    fn detach_here(&self) -> Result<()> {
        rustix::mount::unmount(c".", UnmountFlags::DETACH)
    }

    fn open_context(&self) -> Result<OwnedFd> {
        rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)
    }

    fn set_flag(&self, context: &OwnedFd, key: &CStr) -> Result<()> {
        rustix::mount::fsconfig_set_flag(context.as_fd(), key)
    }

    fn set_string(&self, context: &OwnedFd, key: &CStr, value: &CStr) -> Result<()> {
        rustix::mount::fsconfig_set_string(context.as_fd(), key, value)
    }

    fn set_fd(&self, context: &OwnedFd, key: &CStr, fd: &OwnedFd) -> Result<()> {
        rustix::mount::fsconfig_set_fd(context.as_fd(), key, fd.as_fd())
    }

    fn create(&self, context: &OwnedFd) -> Result<()> {
        rustix::mount::fsconfig_create(context.as_fd())
    }

    fn mount_context(&self, context: &OwnedFd, attributes: u32) -> Result<OwnedFd> {
        let attributes = MountAttrFlags::from_bits_retain(attributes);
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    }

    fn attach(&self, mount: &OwnedFd, target: &OwnedFd) -> Result<()> {
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(mount.as_fd(), c"", target.as_fd(), c"", flags)
    }
}

// The type of `f_type` differs by architecture.
#[allow(clippy::unnecessary_cast)]
fn is_fs(path: &CStr, magic: i64) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type as i64 & 0xffff_ffff == magic)
}
