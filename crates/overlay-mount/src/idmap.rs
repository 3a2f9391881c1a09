//! Id-mapped lower layers: what `uidmap=` and `gidmap=` ask for.
//!
//! Each lower layer gets an id-mapped copy of its mount on top of itself
//! (mount_setattr(2), MOUNT_ATTR_IDMAP), in a mount namespace that only this process is in. There
//! the overlay is made as ever, by the same names, and only its mount is brought back. Nothing of
//! the work is seen outside, and all of it goes with the process, whenever that ends.

use core::ffi::CStr;
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};

use crate::buf::{CBuf, PathBuf};
use crate::sys::{DIRECTORY, Kernel};
use crate::table::ms;

/// Lines that the kernel takes in a map (user_namespaces(7)).
const RANGES_MAX: usize = 340;

/// What `/proc/PID/uid_map` takes in one write: less than a page (user_namespaces(7)).
pub type IdMap = CBuf<4096>;

/// Reads `CONTAINER:HOST:SIZE[,CONTAINER:HOST:SIZE]...` into the form of `/proc/PID/uid_map`.
///
/// # Errors
/// What was expected.
pub fn read(value: &[u8]) -> core::result::Result<IdMap, &'static str> {
    const FORM: &str = "expected CONTAINER:HOST:SIZE[,CONTAINER:HOST:SIZE]..., decimal, SIZE not 0";
    let mut map = IdMap::new();
    for (count, range) in value.split(|byte| *byte == b',').enumerate() {
        let [container, host, size] = range_of(range).ok_or(FORM)?;
        // 4294967295 is not an id.
        let fits = |start: u32| start.checked_add(size).is_some();
        if size == 0 || !fits(container) || !fits(host) {
            return Err(FORM);
        }
        let mut put = || {
            map.push_number(container)?;
            map.push(b" ")?;
            map.push_number(host)?;
            map.push(b" ")?;
            map.push_number(size)?;
            map.push(b"\n")
        };
        put().filter(|()| count < RANGES_MAX).ok_or("the kernel takes at most 340 ranges")?;
    }
    Ok(map)
}

/// Three numbers with colons between them.
pub(crate) fn range_of(text: &[u8]) -> Option<[u32; 3]> {
    let mut parts = text.split(|byte| *byte == b':');
    let mut next = || {
        let part = parts.next()?;
        let digits = part.iter().all(u8::is_ascii_digit);
        core::str::from_utf8(part).ok().filter(|_| digits)?.parse().ok()
    };
    let range = [next()?, next()?, next()?];
    parts.next().is_none().then_some(range)
}

/// Puts an id-mapped copy of the mount that `layer` is on over it, here only. The mounts below come
/// along as they are: other paths may lead through them.
pub(crate) fn cover<K: Kernel>(kernel: &K, layer: Option<PathBuf>, users: &K::Fd) -> Result<()> {
    let layer = layer.ok_or(Errno::NAMETOOLONG)?;
    let layer = kernel.openat(None, layer.as_c_str(), DIRECTORY)?;
    let copy = kernel.open_tree(&layer, c"")?;
    kernel.mount_setattr_idmap(&copy, users)?;
    kernel.move_mount(&copy, &layer)
}

/// A file system of its own that no path leads to.
pub(crate) fn detached<K: Kernel>(kernel: &K, kind: &CStr) -> Result<K::Fd> {
    let context = kernel.fsopen(kind)?;
    kernel.fsconfig_create(&context)?;
    kernel.fsmount(&context, 0)
}

/// A mount namespace that only this process is in, and the way back.
pub(crate) struct Private<'k, K: Kernel> {
    kernel: &'k K,
    home: K::Fd,
    directory: K::Fd,
    /// A user namespace with the maps.
    pub(crate) users: K::Fd,
}

impl<'k, K: Kernel> Private<'k, K> {
    /// Enters one.
    pub(crate) fn enter(kernel: &'k K, [uids, gids]: [&IdMap; 2]) -> Result<Self> {
        // Our own: /proc may be missing, or show other processes under these numbers.
        let proc = detached(kernel, c"proc")?;
        let home = kernel.openat(Some(&proc), c"self/ns/mnt", OFlags::RDONLY)?;
        let directory = kernel.openat(None, c".", DIRECTORY)?;
        let users = kernel.user_namespace(&proc, uids.as_c_str(), gids.as_c_str())?;
        kernel.unshare_newns()?;
        let private = Self { kernel, home, directory, users };
        // What is mounted here must not show up at home.
        match kernel.mount_change(c"/", ms::REC | ms::PRIVATE) {
            Ok(()) => Ok(private),
            Err(errno) => private.leave().and(Err(errno)),
        }
    }

    /// A new file system, mounted over the root, and an empty directory in it to mount on. No path
    /// leads to that directory: a path is looked up from the root below the new file system.
    pub(crate) fn place(&self) -> Result<(K::Fd, K::Fd)> {
        let scratch = detached(self.kernel, c"tmpfs")?;
        self.kernel.mkdirat(&scratch, PLACE)?;
        self.kernel.move_mount(&scratch, &self.kernel.openat(None, c"/", DIRECTORY)?)?;
        let place = self.kernel.openat(Some(&scratch), PLACE, DIRECTORY)?;
        Ok((scratch, place))
    }

    /// What is mounted on the place, as a mount of no namespace.
    pub(crate) fn take(&self, scratch: &K::Fd) -> Result<K::Fd> {
        self.kernel.open_tree(scratch, PLACE)
    }

    /// Back to where we came from, with the same working directory.
    pub(crate) fn leave(self) -> Result<()> {
        self.kernel.setns_newns(&self.home)?;
        self.kernel.fchdir(&self.directory)
    }
}

const PLACE: &CStr = c"m";

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{format, vec};

    #[test]
    fn reads() {
        let table: &[(&str, Option<&str>)] = &[
            ("0:100000:65536", Some("0 100000 65536\n")),
            ("0:666:1000,1000:6666:64536", Some("0 666 1000\n1000 6666 64536\n")),
            ("0:0:4294967295", Some("0 0 4294967295\n")),
            ("1:0:4294967295", None),
            ("0:1:4294967295", None),
            ("0:0:0", None),
            ("0:0", None),
            ("0:0:1:1", None),
            ("0:0:+1", None),
            ("0:0:-1", None),
            ("0: 0:1", None),
            ("0:0:4294967296", None),
            ("0:0:1,", None),
            (",0:0:1", None),
            ("", None),
        ];
        for (value, expected) in table {
            let map = read(value.as_bytes()).ok();
            let map = map.as_ref().map(|map| core::str::from_utf8(map.as_bytes()).unwrap());
            assert_eq!(map, *expected, "{value}");
        }
    }

    #[test]
    fn number_of_ranges() {
        for (count, size, fits) in [(340, 1, true), (341, 1, false), (200, 1_000_000, false)] {
            let ranges = (0..count).map(|at| format!("{0}:{0}:{size}", at * size));
            let value = ranges.collect::<vec::Vec<_>>().join(",");
            assert_eq!(read(value.as_bytes()).is_ok(), fits, "{count} of {size}");
        }
    }
}
