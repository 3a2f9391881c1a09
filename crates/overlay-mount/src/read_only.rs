//! Mounts that end up read-only: the upper directory is their topmost lower layer.
//!
//! containerd looks into the snapshot of a running container by a mount with `ro`. With an upper
//! and a work directory the kernel would empty the work directory, although it mounts read-only,
//! and nothing could be copied up in the running container any more.

use crate::buf::CBuf;
use crate::layers::{push_as_layer, unescape};
use crate::options::{Options, Words};
use crate::words::key_value;

impl<'a, W: Words<'a>> Options<'a, W> {
    /// An upper directory that can be named is a layer of a read-only mount.
    #[cold]
    pub(crate) fn upper_becomes_layer(&mut self, upper: Option<&'a [u8]>) {
        self.top = upper.filter(|upper| !matches!(*upper, b"" | b"\\"));
        if self.top.is_none() {
            return;
        }
        self.below_top = self.lower().find(|word| *word != b"lowerdir=");
        let mut length = 0;
        let _ = self.each_part(|part| {
            length += part.len();
            Some(())
        });
        self.data_len = length;
    }

    /// Whether the [`upper_as_layer`](Self::upper_as_layer) belongs before the layers of `word`.
    pub(crate) fn is_below_top(&self, word: &[u8]) -> bool {
        self.below_top.map(<[u8]>::as_ptr) == Some(word.as_ptr())
    }

    /// The upper directory of a mount that ends up read-only, as it stands in its option. It is the
    /// topmost lower layer then, and neither `upperdir=` nor `workdir=` reaches the kernel.
    pub fn upper_as_layer(&self) -> Option<&'a [u8]> {
        self.top
    }

    /// The parts of which the data of a mount with an upper directory as layer consists.
    #[cold]
    pub(crate) fn each_part(&self, mut put: impl FnMut(&[u8]) -> Option<()>) -> Option<()> {
        let mut comma = &b""[..];
        for word in self.kept() {
            put(core::mem::replace(&mut comma, b","))?;
            let upper = self.top.filter(|_| self.is_below_top(word));
            match (key_value(word), upper) {
                // A colon at the start stays a mistake.
                ((b"lowerdir", Some(value)), Some(upper)) if !value.starts_with(b":") => {
                    let mut layer = CBuf::<4096>::new();
                    push_as_layer(&mut layer, upper)?;
                    let parts = [b"lowerdir=", layer.as_bytes(), b":", value];
                    parts.into_iter().try_for_each(&mut put)?;
                }
                ((b"lowerdir+" | b"datadir+", _), Some(upper)) => {
                    // Here a comma could only be escaped, and the backslash would be taken for a
                    // part of the path.
                    let path = unescape::<4096>(upper)?;
                    let path = path.as_bytes();
                    let can_be_said = !path.iter().any(|byte| b",\\".contains(byte));
                    can_be_said.then_some(())?;
                    [b"lowerdir+=", path, b",", word].into_iter().try_for_each(&mut put)?;
                }
                _ => put(word)?,
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::options::Lsm;
    use crate::words::words;
    use std::string::String;

    fn data(string: &str) -> Option<String> {
        let Ok(options) = Options::read(words(string.as_bytes()), Lsm::default) else {
            panic!("{string}")
        };
        let mut data = CBuf::<4096>::new();
        options.put_into(&mut data)?;
        assert_eq!(options.data_len, data.as_bytes().len());
        Some(String::from_utf8_lossy(data.as_bytes()).into_owned())
    }

    /// What the kernel gets of a mount that ends up read-only.
    #[test]
    fn read_only() {
        let table: &[(&str, &str)] = &[
            ("lowerdir=/a:/b,upperdir=/u,workdir=/w,ro", "lowerdir=/u:/a:/b"),
            ("ro,workdir=/w,index=on,upperdir=/u,lowerdir=/a", "index=on,lowerdir=/u:/a"),
            ("lowerdir=/a,upperdir=/u,workdir=/w,ro,rw", "lowerdir=/a,upperdir=/u,workdir=/w"),
            ("lowerdir=/a,upperdir=/u,workdir=/w,ro=vfs", "lowerdir=/u:/a,ro=vfs"),
            ("lowerdir=/a,upperdir=/u,workdir=/w,ro,rw=1", "lowerdir=/u:/a,rw=1"),
            (
                "lowerdir=/a,upperdir=/u,workdir=/w,ro=1,rw=1",
                "lowerdir=/a,upperdir=/u,workdir=/w,ro=1,rw=1",
            ),
            ("lowerdir=/a,upperdir=/t,upperdir=/u:2,ro", "lowerdir=/u\\:2:/a"),
            ("lowerdir=/a,upperdir=/u\\,2,ro", "lowerdir=/u\\,2:/a"),
            ("lowerdir=/x,lowerdir=/a::/d,upperdir=/u,ro", "lowerdir=/x,lowerdir=/u:/a::/d"),
            (
                "ro,upperdir=/u:2,lowerdir+=/a,datadir+=/d",
                "lowerdir+=/u:2,lowerdir+=/a,datadir+=/d",
            ),
            ("ro,upperdir=/u,datadir+=/d,volatile", "lowerdir+=/u,datadir+=/d,volatile"),
            ("lowerdir+=/x,lowerdir=/a,upperdir=/u,ro", "lowerdir+=/x,lowerdir=/u:/a"),
            ("lowerdir=/a,upperdir=,workdir=/w,ro", "lowerdir=/a,upperdir=,workdir=/w"),
            ("lowerdir=/a,upperdir,workdir=/w,ro", "lowerdir=/a,upperdir,workdir=/w"),
            ("lowerdir=/a:/b,workdir=/w,ro", "lowerdir=/a:/b,workdir=/w"),
            ("lowerdir=:/a,upperdir=/u,ro", "lowerdir=:/a"),
            ("lowerdir=,upperdir=/u,ro", "lowerdir="),
            (
                "lowerdir+=/x,lowerdir=,lowerdir+=/a,lowerdir+=/b,upperdir=/u,ro",
                "lowerdir+=/x,lowerdir=,lowerdir+=/u,lowerdir+=/a,lowerdir+=/b",
            ),
        ];
        for (string, expected) in table {
            assert_eq!(data(string).as_deref(), Some(*expected), "{string}");
        }
        // lowerdir+= takes a path as it is: one with a comma cannot be said in one string.
        assert_eq!(data("lowerdir+=/a,upperdir=/u\\,2,ro"), None);
    }
}
