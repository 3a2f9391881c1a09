//! Real filters of system calls (seccomp(2)), as container runtimes set them.

use nix::errno::Errno;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes `command` run where system call `call` fails with `errno`.
pub fn refuse(command: &mut Command, call: i64, errno: Errno) {
    let call = u32::try_from(call).expect("the number of a system call");
    let answer = libc::SECCOMP_RET_ERRNO | errno as u32;
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    // The number is the first field of `seccomp_data`.
    let filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, answer),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let mut filter = filter;
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: one system call; the filter that it points to lives until it is over.
        match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: it makes one system call and allocates nothing, as is allowed after fork.
    unsafe { command.pre_exec(install) };
}
