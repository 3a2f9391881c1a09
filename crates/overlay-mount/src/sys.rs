//! The system calls of a mount, and their one real implementation.

use core::ffi::CStr;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{Errno, Result, retry_on_intr};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::buf::CBuf;
use crate::raw::{self, Child};

/// The system calls that make a mount, by their own names. [`Linux`] makes them; a recorder can
/// stand in to show them.
pub trait Kernel {
    /// An open descriptor, closed when dropped.
    type Fd;

    /// `openat(dir, path, flags|O_CLOEXEC)`, following symbolic links; `None` is `AT_FDCWD`.
    fn openat(&self, dir: Option<&Self::Fd>, path: &CStr, flags: OFlags) -> Result<Self::Fd>;
    /// The descriptor's number.
    fn number(&self, fd: &Self::Fd) -> u32;
    /// `st_nlink` of `fstat(fd)`: 0 for a directory that was removed after it was opened.
    fn fstat_nlink(&self, fd: &Self::Fd) -> Result<u64>;
    /// `f_type` of `statfs(path)`, its lower 32 bits.
    fn statfs_type(&self, path: &CStr) -> Result<u32>;
    /// `fchdir(dir)`.
    fn fchdir(&self, dir: &Self::Fd) -> Result<()>;
    /// `mkdirat(dir, path, 0700)`.
    fn mkdirat(&self, dir: &Self::Fd, path: &CStr) -> Result<()>;
    /// `mount(source, target, "overlay", flags, data)`.
    fn mount(&self, source: &CStr, target: &CStr, flags: u32, data: &CStr) -> Result<()>;
    /// `mount(NULL, target, NULL, propagation, NULL)`.
    fn mount_change(&self, target: &CStr, propagation: u32) -> Result<()>;
    /// `umount2(target, MNT_DETACH)`.
    fn umount2_detach(&self, target: &CStr) -> Result<()>;
    /// `unshare(CLONE_NEWNS)`.
    fn unshare_newns(&self) -> Result<()>;
    /// `setns(namespace, CLONE_NEWNS)`.
    fn setns_newns(&self, namespace: &Self::Fd) -> Result<()>;
    /// A user namespace with these maps, in the form of `/proc/PID/uid_map`, by
    /// `clone(CLONE_NEWUSER)`; `proc` is the root of a procfs that shows this process.
    fn user_namespace(&self, proc: &Self::Fd, uids: &CStr, gids: &CStr) -> Result<Self::Fd>;
    /// `open_tree(dir, path, OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH|AT_RECURSIVE)`.
    fn open_tree(&self, dir: &Self::Fd, path: &CStr) -> Result<Self::Fd>;
    /// `mount_setattr(mount, "", AT_EMPTY_PATH, {MOUNT_ATTR_IDMAP, userns_fd: users})`.
    fn mount_setattr_idmap(&self, mount: &Self::Fd, users: &Self::Fd) -> Result<()>;
    /// `fsopen(kind, FSOPEN_CLOEXEC)`.
    fn fsopen(&self, kind: &CStr) -> Result<Self::Fd>;
    /// `fsconfig(context, FSCONFIG_SET_FLAG, key)`.
    fn fsconfig_set_flag(&self, context: &Self::Fd, key: &CStr) -> Result<()>;
    /// `fsconfig(context, FSCONFIG_SET_STRING, key, value)`.
    fn fsconfig_set_string(&self, context: &Self::Fd, key: &CStr, value: &CStr) -> Result<()>;
    /// `fsconfig(context, FSCONFIG_SET_FD, key, NULL, fd)`.
    fn fsconfig_set_fd(&self, context: &Self::Fd, key: &CStr, fd: &Self::Fd) -> Result<()>;
    /// `fsconfig(context, FSCONFIG_CMD_CREATE)`.
    fn fsconfig_create(&self, context: &Self::Fd) -> Result<()>;
    /// `fsmount(context, FSMOUNT_CLOEXEC, attributes)`.
    fn fsmount(&self, context: &Self::Fd, attributes: u32) -> Result<Self::Fd>;
    /// `move_mount(mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH|MOVE_MOUNT_T_EMPTY_PATH)`.
    fn move_mount(&self, mount: &Self::Fd, target: &Self::Fd) -> Result<()>;
}

/// Flags that open a directory only to name it.
pub const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// The running kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linux;

impl Kernel for Linux {
    type Fd = OwnedFd;

    fn openat(&self, dir: Option<&OwnedFd>, path: &CStr, flags: OFlags) -> Result<OwnedFd> {
        let dir = dir.map_or(CWD, AsFd::as_fd);
        rustix::fs::openat(dir, path, flags | OFlags::CLOEXEC, Mode::empty())
    }

    fn number(&self, fd: &OwnedFd) -> u32 {
        fd.as_raw_fd().unsigned_abs()
    }

    // Types of both structures differ by architecture.
    #[allow(clippy::unnecessary_cast)]
    fn fstat_nlink(&self, fd: &OwnedFd) -> Result<u64> {
        rustix::fs::fstat(fd).map(|stat| stat.st_nlink as u64)
    }

    #[allow(clippy::unnecessary_cast)]
    fn statfs_type(&self, path: &CStr) -> Result<u32> {
        rustix::fs::statfs(path).map(|fs| fs.f_type as u32)
    }

    fn fchdir(&self, dir: &OwnedFd) -> Result<()> {
        rustix::process::fchdir(dir)
    }

    fn mkdirat(&self, dir: &OwnedFd, path: &CStr) -> Result<()> {
        rustix::fs::mkdirat(dir, path, Mode::RWXU)
    }

    fn mount(&self, source: &CStr, target: &CStr, flags: u32, data: &CStr) -> Result<()> {
        rustix::mount::mount(source, target, c"overlay", MountFlags::from_bits_retain(flags), data)
    }

    fn mount_change(&self, target: &CStr, propagation: u32) -> Result<()> {
        let flags = MountPropagationFlags::from_bits_retain(propagation);
        rustix::mount::mount_change(target, flags)
    }

    fn umount2_detach(&self, target: &CStr) -> Result<()> {
        rustix::mount::unmount(target, UnmountFlags::DETACH)
    }

    fn unshare_newns(&self) -> Result<()> {
        // SAFETY: a mount namespace of its own touches neither memory nor descriptors; what this
        // thread shares of the file system's state it stops sharing.
        #[allow(unsafe_code, reason = "it is unsafe for flags that are not used here")]
        unsafe {
            unshare_unsafe(UnshareFlags::NEWNS)
        }
    }

    fn setns_newns(&self, namespace: &OwnedFd) -> Result<()> {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
    }

    fn user_namespace(&self, proc: &OwnedFd, uids: &CStr, gids: &CStr) -> Result<OwnedFd> {
        let (held, hold) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut hold = Some(hold);
        let child = Child::clone(raw::NEWUSER, || {
            // Once its own copy is closed, it waits until the parent, or its end, closes the other.
            hold = None;
            let _ = retry_on_intr(|| rustix::io::read(&held, &mut [0]));
            0
        })?;
        let users = user_namespace_of(proc, child.id(), uids, gids);
        drop(hold);
        child.wait();
        users
    }

    fn open_tree(&self, dir: &OwnedFd, path: &CStr) -> Result<OwnedFd> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        rustix::mount::open_tree(dir, path, flags)
    }

    fn mount_setattr_idmap(&self, mount: &OwnedFd, users: &OwnedFd) -> Result<()> {
        raw::mount_setattr_idmap(mount, users)
    }

    fn fsopen(&self, kind: &CStr) -> Result<OwnedFd> {
        rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
    }

    fn fsconfig_set_flag(&self, context: &OwnedFd, key: &CStr) -> Result<()> {
        rustix::mount::fsconfig_set_flag(context.as_fd(), key)
    }

    fn fsconfig_set_string(&self, context: &OwnedFd, key: &CStr, value: &CStr) -> Result<()> {
        rustix::mount::fsconfig_set_string(context.as_fd(), key, value)
    }

    fn fsconfig_set_fd(&self, context: &OwnedFd, key: &CStr, fd: &OwnedFd) -> Result<()> {
        rustix::mount::fsconfig_set_fd(context.as_fd(), key, fd.as_fd())
    }

    fn fsconfig_create(&self, context: &OwnedFd) -> Result<()> {
        rustix::mount::fsconfig_create(context.as_fd())
    }

    fn fsmount(&self, context: &OwnedFd, attributes: u32) -> Result<OwnedFd> {
        let attributes = MountAttrFlags::from_bits_retain(attributes);
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    }

    fn move_mount(&self, mount: &OwnedFd, target: &OwnedFd) -> Result<()> {
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(mount.as_fd(), c"", target.as_fd(), c"", flags)
    }
}

/// Writes the maps of the user namespace that process `pid` is in, and opens it.
fn user_namespace_of(proc: &OwnedFd, pid: u32, uids: &CStr, gids: &CStr) -> Result<OwnedFd> {
    let file = |name: &[u8], flags| {
        let mut path = CBuf::<32>::new();
        path.push_number(pid).and_then(|()| path.push(name)).ok_or(Errno::NAMETOOLONG)?;
        Linux.openat(Some(proc), path.as_c_str(), flags)
    };
    for (name, map) in [(&b"/uid_map"[..], uids), (b"/gid_map", gids)] {
        rustix::io::write(file(name, OFlags::WRONLY)?, map.to_bytes())?;
    }
    file(b"/ns/user", OFlags::RDONLY)
}
