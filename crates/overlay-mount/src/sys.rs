//! The system calls of a mount, and their one real implementation.

use core::ffi::CStr;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::buf::CBuf;
use crate::options::Lsm;
use crate::raw;

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
    /// `openat(dir, path, O_PATH|O_DIRECTORY|O_CLOEXEC)`.
    fn open_at(&self, dir: &Self::Fd, path: &CStr) -> Result<Self::Fd>;
    /// `openat(dir, path, O_RDONLY|O_CLOEXEC)`.
    fn open_file(&self, dir: &Self::Fd, path: &CStr) -> Result<Self::Fd>;
    /// `mkdirat(dir, path, 0700)`.
    fn make_dir(&self, dir: &Self::Fd, path: &CStr) -> Result<()>;
    /// A user namespace with these maps, in the form of `/proc/PID/uid_map`; `proc` is the root
    /// of a procfs that shows this process.
    fn user_namespace(&self, proc: &Self::Fd, uids: &CStr, gids: &CStr) -> Result<Self::Fd>;
    /// `unshare(CLONE_NEWNS)`.
    fn leave_mount_namespace(&self) -> Result<()>;
    /// `mount(NULL, "/", NULL, MS_REC|MS_PRIVATE, NULL)`.
    fn make_private(&self) -> Result<()>;
    /// `setns(namespace, CLONE_NEWNS)`.
    fn enter_mount_namespace(&self, namespace: &Self::Fd) -> Result<()>;
    /// `open_tree(dir, path, OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH)`.
    fn copy_mount(&self, dir: &Self::Fd, path: &CStr) -> Result<Self::Fd>;
    /// `mount_setattr(mount, "", AT_EMPTY_PATH, {MOUNT_ATTR_IDMAP, userns_fd: users})`.
    fn set_id_map(&self, mount: &Self::Fd, users: &Self::Fd) -> Result<()>;
    /// `fsopen(kind, FSOPEN_CLOEXEC)`.
    fn open_context(&self, kind: &CStr) -> Result<Self::Fd>;
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

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const PROC_SUPER_MAGIC: i64 = 0x9fa0;
const SELINUX_MAGIC: i64 = 0xf97c_ff8c;
const SMACK_MAGIC: i64 = 0x4341_5d53;

impl Kernel for Linux {
    type Fd = OwnedFd;

    fn open(&self, path: &CStr) -> Result<OwnedFd> {
        rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())
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

    fn open_at(&self, dir: &OwnedFd, path: &CStr) -> Result<OwnedFd> {
        rustix::fs::openat(dir, path, DIRECTORY, Mode::empty())
    }

    fn open_file(&self, dir: &OwnedFd, path: &CStr) -> Result<OwnedFd> {
        rustix::fs::openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }

    fn make_dir(&self, dir: &OwnedFd, path: &CStr) -> Result<()> {
        rustix::fs::mkdirat(dir, path, Mode::RWXU)
    }

    fn user_namespace(&self, proc: &OwnedFd, uids: &CStr, gids: &CStr) -> Result<OwnedFd> {
        let (held, hold) = pipe_with(PipeFlags::CLOEXEC)?;
        // SAFETY: this library starts no thread, and asks its callers for the same.
        #[allow(unsafe_code, reason = "fork(2) is never safe")]
        let child = unsafe { raw::fork_into_user_namespace() }?;
        let Some(pid) = child else {
            drop(hold);
            // Until the parent, or its end, closes the other end.
            let _ = rustix::io::read(&held, &mut [0]);
            raw::exit()
        };
        let users = user_namespace_of(proc, pid, uids, gids);
        drop(hold);
        // It ends now; an error would say that somebody else has waited for it.
        let _ = waitpid(Pid::from_raw(pid.cast_signed()), WaitOptions::empty());
        users
    }

    fn leave_mount_namespace(&self) -> Result<()> {
        // SAFETY: no thread shares what changes; memory and descriptors stay.
        #[allow(unsafe_code, reason = "it is unsafe for flags that are not used here")]
        unsafe {
            unshare_unsafe(UnshareFlags::NEWNS)
        }
    }

    fn make_private(&self) -> Result<()> {
        let flags = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
        rustix::mount::mount_change(c"/", flags)
    }

    fn enter_mount_namespace(&self, namespace: &OwnedFd) -> Result<()> {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
    }

    fn copy_mount(&self, dir: &OwnedFd, path: &CStr) -> Result<OwnedFd> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        rustix::mount::open_tree(dir, path, flags)
    }

    fn set_id_map(&self, mount: &OwnedFd, users: &OwnedFd) -> Result<()> {
        raw::set_id_map(mount, users)
    }

    fn open_context(&self, kind: &CStr) -> Result<OwnedFd> {
        rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
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

/// Writes the maps of the user namespace that process `pid` is in, and opens it.
fn user_namespace_of(proc: &OwnedFd, pid: u32, uids: &CStr, gids: &CStr) -> Result<OwnedFd> {
    let file = |name: &[u8], flags| {
        let mut path = CBuf::<32>::new();
        path.push_number(pid).and_then(|()| path.push(name)).ok_or(Errno::NAMETOOLONG)?;
        rustix::fs::openat(proc, path.as_c_str(), flags | OFlags::CLOEXEC, Mode::empty())
    };
    for (name, map) in [(&b"/uid_map"[..], uids), (b"/gid_map", gids)] {
        rustix::io::write(file(name, OFlags::WRONLY)?, map.to_bytes())?;
    }
    file(b"/ns/user", OFlags::RDONLY)
}

// The type of `f_type` differs by architecture.
#[allow(clippy::unnecessary_cast)]
fn is_fs(path: &CStr, magic: i64) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type as i64 & 0xffff_ffff == magic)
}
