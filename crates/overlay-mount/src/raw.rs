//! System calls that rustix lacks, or has only in its unstable module `runtime`: all unsafe code of
//! this library but one call.
#![allow(unsafe_code)]

use core::ffi::{CStr, c_char};
use rustix::fd::{AsFd, AsRawFd};
use rustix::io::{Errno, Result, retry_on_intr};

/// `CLONE_NEWNS`: the child is in a mount namespace of its own (linux/sched.h).
pub(crate) const NEWNS: usize = 0x2_0000;
/// `CLONE_NEWUSER`: the child is in a user namespace of its own.
pub(crate) const NEWUSER: usize = 0x1000_0000;

/// execve(2); returns only when it failed.
///
/// # Safety
/// Both arrays must end with a null pointer and hold pointers to C strings.
pub unsafe fn execve(
    file: &CStr,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> Errno {
    let words = [file.as_ptr() as usize, arguments as usize, environment as usize, 0, 0];
    // SAFETY: the caller's promise; on success nothing of this program is left.
    unsafe { call(number::EXECVE, words) }.err().unwrap_or(Errno::INVAL)
}

/// Makes write(2) to a pipe that nobody reads fail with EPIPE instead of ending the process:
/// `rt_sigaction(SIGPIPE, {SIG_IGN}, NULL)`. For the whole process, and inherited by execve(2).
pub fn ignore_sigpipe() {
    const SIGPIPE: usize = 13;
    const SIG_IGN: u64 = 1;
    // struct sigaction: handler, flags, on some architectures a restorer, and the mask, whose
    // length is the last argument.
    let action = [SIG_IGN, 0, 0, 0];
    let words = [SIGPIPE, action.as_ptr() as usize, 0, size_of::<u64>(), 0];
    // SAFETY: the structure is at least as long as the kernel's and lives through the call.
    let _ = unsafe { call(number::RT_SIGACTION, words) };
}

/// A child process that shares nothing with us but open files.
pub(crate) struct Child(u32);

impl Child {
    /// Starts one like fork(2), in the new namespaces of `namespaces` (clone(2)), which calls
    /// `run` and exits with its answer. `run` must do nothing but system calls: what another
    /// thread of ours holds locked stays locked in the child.
    pub(crate) fn clone(namespaces: usize, run: impl FnOnce() -> u8) -> Result<Self> {
        // No signal tells of its end: who ignores SIGCHLD could not wait for it.
        // SAFETY: without CLONE_VM and without a stack this is fork(2): the child has its own
        // copy of all memory, and never returns from here.
        let pid = unsafe { call(number::CLONE, [namespaces, 0, 0, 0, 0]) }?;
        if pid == 0 {
            let _unwinding = ExitOnDrop;
            exit(run())
        }
        Ok(Self(u32::try_from(pid).map_err(|_| Errno::OVERFLOW)?))
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.0
    }

    /// Waits for its end. Its exit code; `None` if a signal ended it or somebody else waited.
    pub(crate) fn wait(self) -> Option<u8> {
        const WALL: usize = 0x4000_0000;
        let mut status = 0_u32;
        let words = [self.0 as usize, &raw mut status as usize, WALL, 0, 0];
        // SAFETY: the status lives through the call, and the kernel writes nothing else.
        retry_on_intr(|| unsafe { call(number::WAIT4, words) }).ok()?;
        (status & 0x7f == 0).then_some((status >> 8) as u8)
    }
}

/// A child must not go on with what its parent does.
struct ExitOnDrop;

impl Drop for ExitOnDrop {
    fn drop(&mut self) {
        exit(u8::MAX)
    }
}

fn exit(code: u8) -> ! {
    loop {
        // SAFETY: exit_group(2) takes a number and does not return.
        let _ = unsafe { call(number::EXIT_GROUP, [code.into(), 0, 0, 0, 0]) };
    }
}

/// `mount_setattr(tree, "", AT_EMPTY_PATH, {attr_set: MOUNT_ATTR_IDMAP, userns_fd})`.
pub(crate) fn mount_setattr_idmap(tree: impl AsFd, users: impl AsFd) -> Result<()> {
    const MOUNT_SETATTR: usize = 442;
    const AT_EMPTY_PATH: usize = 0x1000;
    const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
    let fd = |fd: &dyn AsRawFd| fd.as_raw_fd().unsigned_abs();
    // struct mount_attr: attr_set, attr_clr, propagation, userns_fd (linux/mount.h).
    let attributes = [MOUNT_ATTR_IDMAP, 0, 0, fd(&users.as_fd()).into()];
    let (tree, length) = (fd(&tree.as_fd()) as usize, size_of_val(&attributes));
    let (path, attributes) = (c"".as_ptr() as usize, attributes.as_ptr() as usize);
    // SAFETY: the path ends with a NUL, the attributes are as long as the kernel is told, and both
    // live through the call.
    unsafe { call(MOUNT_SETATTR, [tree, path, AT_EMPTY_PATH, attributes, length]) }.map(|_| ())
}

/// Numbers that are not the same on all architectures.
#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const RT_SIGACTION: usize = 13;
    pub(super) const CLONE: usize = 56;
    pub(super) const WAIT4: usize = 61;
    pub(super) const EXECVE: usize = 59;
    pub(super) const EXIT_GROUP: usize = 231;
}

/// include/uapi/asm-generic/unistd.h of Linux.
#[cfg(not(target_arch = "x86_64"))]
mod number {
    pub(super) const RT_SIGACTION: usize = 134;
    pub(super) const CLONE: usize = 220;
    pub(super) const WAIT4: usize = 260;
    pub(super) const EXECVE: usize = 221;
    pub(super) const EXIT_GROUP: usize = 94;
}

/// # Safety
/// As the system call asks.
unsafe fn call(number: usize, words: [usize; 5]) -> Result<usize> {
    let [a, b, c, d, e] = words;
    let answer: isize;
    // SAFETY: the caller's promise; the registers are those of syscall(2), and the kernel writes
    // to those that are named as outputs here.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::asm!("syscall", inlateout("rax") number => answer, in("rdi") a, in("rsi") b,
            in("rdx") c, in("r10") d, in("r8") e, lateout("rcx") _, lateout("r11") _,
            options(nostack));
    }
    // SAFETY: the same.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        core::arch::asm!("svc 0", in("x8") number, inlateout("x0") a => answer, in("x1") b,
            in("x2") c, in("x3") d, in("x4") e, options(nostack));
    }
    // SAFETY: the same.
    #[cfg(target_arch = "riscv64")]
    unsafe {
        core::arch::asm!("ecall", in("a7") number, inlateout("a0") a => answer, in("a1") b,
            in("a2") c, in("a3") d, in("a4") e, options(nostack));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
    compile_error!("system calls of this architecture: add its instruction here, see syscall(2)");
    match answer {
        -4095..0 => Err(Errno::from_raw_os_error(i32::try_from(-answer).unwrap_or(0))),
        answer => Ok(answer.unsigned_abs()),
    }
}
