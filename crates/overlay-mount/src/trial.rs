//! Mounts that are tried in a child process, which goes with them: what the kernel says of them
//! tells why another one failed.

use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::buf::Data;
use crate::idmap::detached;
use crate::inspect::Directory;
use crate::raw::{Child, NEWNS};
use crate::sys::{DIRECTORY, Kernel, Linux};
use crate::table::ms;

/// Options that have the kernel look whether a layer is the upper or work directory of a mount.
pub(crate) const IN_USE: &[u8] = b",index=on,nfs_export=on,redirect_dir=nofollow";

/// The error with which a read-only overlay of an empty directory and `layer` fails, in a child
/// process: it writes nowhere.
pub(crate) fn fails_alone(layer: &Directory<'_>, more: &[u8]) -> Option<Errno> {
    let mut data = Data::new();
    data.push(b"lowerdir=/proc:")?;
    layer.push_as_layer(&mut data)?;
    data.push(more)?;
    let mount = || {
        let _empty = over_proc()?;
        Linux.mount(c"overlay", c"/", ms::RDONLY, data.as_c_str())
    };
    in_child(mount)?.1
}

/// Mounts an empty file system over /proc, which only this process must see.
pub(crate) fn over_proc() -> Result<OwnedFd, Errno> {
    let empty = detached(&Linux, c"tmpfs")?;
    Linux.move_mount(&empty, &Linux.openat(None, c"/proc", DIRECTORY)?)?;
    Ok(empty)
}

/// Does `action` in a child process with a mount namespace of its own. Its process id, and with
/// what error it failed; `None` if that cannot be told.
pub(crate) fn in_child(action: impl FnOnce() -> Result<(), Errno>) -> Option<(u32, Option<Errno>)> {
    let child = Child::clone(NEWNS, || {
        let private = Linux.mount_change(c"/", ms::REC | ms::PRIVATE);
        match private
            .map_err(|_| u8::MAX.into())
            .and_then(|()| action().map_err(|e| e.raw_os_error()))
        {
            Ok(()) => 0,
            Err(number) => u8::try_from(number).unwrap_or(u8::MAX),
        }
    });
    let child = child.ok()?;
    let id = child.id();
    match child.wait()? {
        u8::MAX => None,
        0 => Some((id, None)),
        number => Some((id, Some(Errno::from_raw_os_error(number.into())))),
    }
}
