//! Mounts that are tried in a child process, which goes with them: what the kernel says of them
//! tells why another one failed.

use core::ffi::CStr;
use rustix::io::Errno;

use crate::buf::Data;
use crate::idmap::detached;
use crate::inspect::Directory;
use crate::raw::{Child, NEWNS};
use crate::sys::{DIRECTORY, Kernel, Linux};
use crate::table::ms;

/// Options that have the kernel look whether a layer is the upper or work directory of a mount.
pub(crate) const IN_USE: &[u8] = b",index=on,nfs_export=on,redirect_dir=nofollow";

/// A directory over which a child process mounts an empty file system, to have some of its own.
#[derive(Clone, Copy)]
pub(crate) struct Place(&'static CStr);

impl Place {
    /// One that no option names.
    pub(crate) fn apart_from<'a>(words: impl Iterator<Item = &'a [u8]> + Clone) -> Option<Self> {
        let named = |place: &[u8]| words.clone().any(|word| contains(word, place));
        let place = [c"/proc", c"/sys", c"/dev"].into_iter().find(|place| !named(place.to_bytes()));
        place.map(Self)
    }

    /// Appends `key` and the path of `name` here as an option.
    pub(crate) fn push(self, data: &mut Data, key: &[u8], name: &[u8]) -> Option<()> {
        data.push_word(key)?;
        [self.0.to_bytes(), b"/", name].into_iter().try_for_each(|part| data.push(part))
    }

    /// Mounts it, with some directories in it.
    pub(crate) fn fill(self) -> Result<(), Errno> {
        let empty = detached(&Linux, c"tmpfs")?;
        Linux.move_mount(&empty, &Linux.openat(None, self.0, DIRECTORY)?)?;
        [c"l", c"u", c"w"].into_iter().try_for_each(|name| Linux.mkdirat(&empty, name))
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// The error with which a read-only overlay of an empty directory and `layer` fails, in a child
/// process: it writes nowhere.
pub(crate) fn fails_alone(layer: &Directory<'_>, more: &[u8]) -> Option<Errno> {
    let mut data = Data::new();
    let place = Place::apart_from([layer.path].into_iter())?;
    place.push(&mut data, b"lowerdir=", b":")?;
    layer.push_as_layer(&mut data)?;
    data.push(more)?;
    tried(place, ms::RDONLY, &data)
}

/// Whether these options alone make a mount of empty directories fail, in a child process.
pub(crate) fn exclude_each_other(options: [&[u8]; 2], with_upper: bool) -> bool {
    let (mut data, place) = (Data::new(), Place(c"/proc"));
    let mut put = || {
        if with_upper {
            place.push(&mut data, b"lowerdir=", b"l")?;
            place.push(&mut data, b"upperdir=", b"u")?;
            place.push(&mut data, b"workdir=", b"w")?;
        } else {
            data.push(b"lowerdir=/proc/l:/proc/u")?;
        }
        options.into_iter().try_for_each(|option| data.push_word(option))
    };
    put().is_some() && tried(place, 0, &data) == Some(Errno::INVAL)
}

fn tried(place: Place, flags: u32, data: &Data) -> Option<Errno> {
    in_child(|| {
        place.fill()?;
        Linux.mount(c"overlay", c"/", flags, data.as_c_str())
    })?
    .1
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
