//! Error numbers in words, as errno(3) has them.

use rustix::io::Errno;

/// The text of errno(3) in lower case; `None` for one that a mount does not give.
pub fn text(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::PERM => "operation not permitted",
        Errno::NOENT => "no such file or directory",
        Errno::IO => "input/output error",
        Errno::NXIO => "no such device or address",
        Errno::TOOBIG => "argument list too long",
        Errno::NOEXEC => "exec format error",
        Errno::BADF => "bad file descriptor",
        Errno::AGAIN => "resource temporarily unavailable",
        Errno::NOMEM => "cannot allocate memory",
        Errno::ACCESS => "permission denied",
        Errno::FAULT => "bad address",
        Errno::BUSY => "device or resource busy",
        Errno::EXIST => "file exists",
        Errno::XDEV => "invalid cross-device link",
        Errno::NODEV => "no such device",
        Errno::NOTDIR => "not a directory",
        Errno::INVAL => "invalid argument",
        Errno::NFILE => "too many open files in system",
        Errno::MFILE => "too many open files",
        Errno::NOSPC => "no space left on device",
        Errno::ROFS => "read-only file system",
        Errno::NAMETOOLONG => "file name too long",
        Errno::NOSYS => "function not implemented",
        Errno::LOOP => "too many levels of symbolic links",
        Errno::OVERFLOW => "value too large for defined data type",
        Errno::OPNOTSUPP => "operation not supported",
        Errno::STALE => "stale file handle",
        Errno::NOTCONN => "transport endpoint is not connected",
        _ => return None,
    })
}
