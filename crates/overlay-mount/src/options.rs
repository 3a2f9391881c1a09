//! Option strings read against the table: what the mount's flags are, what the kernel gets.

use crate::buf::CBuf;
use crate::idmap::{self, IdMap};
use crate::layers::layers;
use crate::table::{Effect, effect, ms};
use crate::words::{key_value, words};

/// The values of all `-o` options, in order.
pub trait OptionStrings<'a>: Iterator<Item = &'a [u8]> + Clone {}

impl<'a, I: Iterator<Item = &'a [u8]> + Clone> OptionStrings<'a> for I {}

/// Whether the kernel's security modules that have mount options are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lsm {
    /// SELinux.
    pub selinux: bool,
    /// Smack.
    pub smack: bool,
}

/// By whose rules option strings are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caller {
    /// `mount(8)`, or anybody else.
    #[default]
    Any,
    /// Who calls `mount.fuse`: that drops `user` and `users`, acts on `setuid=` and
    /// `drop_privileges`, makes one string of all, and ends it with `dev` and `suid` unless
    /// `nodev` and `nosuid` are in it (mount.fuse3 of libfuse 3.14).
    MountFuse,
}

impl Caller {
    fn effect(self, word: &[u8]) -> Option<Effect> {
        match word {
            _ if self == Self::Any => effect(word),
            b"user" | b"users" => Some(Effect::Ignore),
            b"drop_privileges" => Some(Effect::Refuse(ROOT)),
            _ if word.starts_with(b"setuid=") => Some(Effect::Refuse(ROOT)),
            _ => effect(word),
        }
    }
}

const ROOT: &str = "an overlay is mounted by root";

/// A word that asks for what is not done here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal<'a> {
    /// No word names a lower layer.
    NoLower,
    /// A word of the table that is refused, and why.
    Word(&'a [u8], &'static str),
}

/// Option strings and what they mean. Not `Debug`, as they may hold values that must not be shown.
#[derive(Clone)]
pub struct Options<O> {
    strings: O,
    lsm: Lsm,
    /// Flags for `mount(2)`.
    pub flags: u32,
    /// Length in bytes of the words for the kernel, with a comma between each two.
    pub data_len: usize,
    /// Whether the propagation type changes after the mount.
    pub propagation: bool,
    /// Whether the lower layers are id-mapped.
    pub id_mapped: bool,
    /// Whether a word for the kernel may hold a path that depends on the working directory.
    pub relative: bool,
}

impl<'a, O: OptionStrings<'a>> Options<O> {
    /// Reads `strings`; `lsm` is called only if a word depends on it.
    ///
    /// # Errors
    /// The first word that is refused; no word for a lower layer.
    pub fn read(
        caller: Caller,
        strings: O,
        lsm: impl FnOnce() -> Lsm,
    ) -> Result<Self, Refusal<'a>> {
        let is_lsm = |word| matches!(effect(word), Some(Effect::SeLinux | Effect::Smack));
        let lsm = if strings.clone().flat_map(words).any(is_lsm) { lsm() } else { Lsm::default() };
        let mut options = Self {
            strings,
            lsm,
            flags: 0,
            data_len: 0,
            propagation: false,
            id_mapped: false,
            relative: false,
        };
        let (mut lower, mut nodev, mut nosuid) = (false, false, false);
        let separate = if caller == Caller::MountFuse { 1 } else { usize::MAX };
        let mut separate = options.strings.clone().take(separate);
        if let Some(nameless) = separate.find(|string| is_nameless(string)) {
            return Err(Refusal::Word(words(nameless).next().unwrap_or(b""), "it has no name"));
        }
        for word in options.strings.clone().flat_map(words) {
            nodev |= word == b"nodev";
            nosuid |= word == b"nosuid";
            match caller.effect(word) {
                Some(Effect::Refuse(why)) => return Err(Refusal::Word(word, why)),
                Some(Effect::Set(flags)) => options.flags |= flags,
                Some(Effect::Clear(flags)) => options.flags &= !flags,
                Some(Effect::Propagation(_)) => options.propagation = true,
                Some(Effect::IdMap) => options.id_mapped = true,
                other if !reaches_kernel(other, lsm) => {}
                Some(Effect::SeLinux) if is_replaced(word, options.strings.clone()) => {}
                _ => {
                    options.data_len += usize::from(options.data_len > 0) + word.len();
                    options.relative |= is_relative(word);
                    lower |= is_lower(word);
                }
            }
        }
        if caller == Caller::MountFuse {
            options.flags &= !if nodev { 0 } else { ms::NODEV };
            options.flags &= !if nosuid { 0 } else { ms::NOSUID };
        }
        if options.id_mapped {
            options.check_id_maps()?;
        }
        if lower { Ok(options) } else { Err(Refusal::NoLower) }
    }

    /// The words for the kernel, in order, as they came.
    pub fn kept(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a, O> {
        let (lsm, strings) = (self.lsm, self.strings.clone());
        let is_kept = move |word: &&'a [u8]| match effect(word) {
            Some(Effect::SeLinux) => lsm.selinux && !is_replaced(word, strings.clone()),
            other => reaches_kernel(other, lsm),
        };
        self.strings.clone().flat_map(words).filter(is_kept)
    }

    /// The changes of the propagation type, in order, as `mount(2)` flags. As in libmount, a word
    /// for a type that was named before has no effect.
    pub fn propagation(&self) -> impl Iterator<Item = u32> + use<'a, O> {
        let mut named = 0;
        self.strings.clone().flat_map(words).filter_map(move |word| match effect(word) {
            Some(Effect::Propagation(flags)) if flags & !ms::REC & named == 0 => {
                named |= flags;
                Some(flags)
            }
            _ => None,
        })
    }

    /// Both maps must be there, and each be one.
    #[cold]
    fn check_id_maps(&self) -> Result<(), Refusal<'a>> {
        for word in self.id_maps() {
            let value = key_value(word).1.unwrap_or_default();
            idmap::read(value).map_err(|why| Refusal::Word(word, why))?;
        }
        let named = |key: &[u8]| self.id_maps().find(|word| key_value(word).0 == key);
        match (named(b"uidmap"), named(b"gidmap")) {
            (Some(word), None) | (None, Some(word)) => {
                Err(Refusal::Word(word, "uidmap= and gidmap= go together"))
            }
            _ => Ok(()),
        }
    }

    fn id_maps(&self) -> impl Iterator<Item = &'a [u8]> + use<'a, O> {
        self.strings.clone().flat_map(words).filter(|word| effect(word) == Some(Effect::IdMap))
    }

    /// The map that the last `key=` asks for; empty if there is none.
    pub(crate) fn id_map(&self, key: &[u8]) -> IdMap {
        let value = self.id_maps().filter_map(|word| value_of(word, key)).last();
        value.and_then(|value| idmap::read(value).ok()).unwrap_or_default()
    }

    /// The value of the last `key=` among the words for the kernel: the one that counts there.
    pub fn last(&self, key: &[u8]) -> Option<&'a [u8]> {
        self.kept().filter_map(|word| value_of(word, key)).last()
    }

    /// Puts the words for the kernel into `data` for one `mount(2)`; `None` if they do not fit.
    pub(crate) fn put_into<const N: usize>(&self, data: &mut CBuf<N>) -> Option<()> {
        self.kept().try_for_each(|word| data.push_word(word))
    }

    /// The words that `mount(8)` would hand to `fsconfig(2)` as flags of the superblock.
    pub(crate) fn superblock_flags(&self) -> impl Iterator<Item = &'static core::ffi::CStr> {
        const FLAGS: [(u32, &core::ffi::CStr); 5] = [
            (ms::RDONLY, c"ro"),
            (ms::SYNCHRONOUS, c"sync"),
            (ms::DIRSYNC, c"dirsync"),
            (ms::MANDLOCK, c"mand"),
            (ms::LAZYTIME, c"lazytime"),
        ];
        let flags = self.flags;
        FLAGS.into_iter().filter(move |(bit, _)| flags & bit != 0).map(|(_, name)| name)
    }
}

/// The value of `word` if its key is `key`.
pub(crate) fn value_of<'a>(word: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    word.strip_prefix(key)?.strip_prefix(b"=")
}

fn reaches_kernel(effect: Option<Effect>, lsm: Lsm) -> bool {
    match effect {
        None => true,
        Some(Effect::SeLinux) => lsm.selinux,
        Some(Effect::Smack) => lsm.smack,
        Some(_) => false,
    }
}

/// Whether a later word has the same key: of those of SELinux, libmount keeps the last one.
#[cold]
fn is_replaced<'a>(word: &'a [u8], strings: impl OptionStrings<'a>) -> bool {
    let key = key_value(word).0;
    let same = strings.flat_map(words).filter(|other| key_value(other).0 == key);
    same.last().map(<[u8]>::as_ptr) != Some(word.as_ptr())
}

/// What `mount(8)` calls an unsupported option format.
fn is_nameless(string: &[u8]) -> bool {
    matches!(string.first(), Some(b'=' | b'\'' | b'"' | b' ' | b'\t'))
}

fn is_lower(word: &[u8]) -> bool {
    matches!(key_value(word).0, b"lowerdir" | b"lowerdir+" | b"datadir+")
}

/// Whether the word may hold a relative path: overlayfs may learn new words with a path.
fn is_relative(word: &[u8]) -> bool {
    const NO_PATH: [&[u8]; 8] = [
        b"redirect_dir",
        b"index",
        b"nfs_export",
        b"xino",
        b"metacopy",
        b"verity",
        b"uuid",
        b"fsync",
    ];
    let relative = |path: &[u8]| path.first() != Some(&b'/');
    match key_value(word) {
        (b"lowerdir", Some(value)) => layers(value).any(|layer| relative(layer.raw)),
        (key, Some(value)) => relative(value) && !NO_PATH.contains(&key),
        (_, None) => false,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{string::String, vec::Vec};

    fn read<'a>(strings: &'a [&'a str]) -> Result<(u32, String, bool), Refusal<'a>> {
        let strings = strings.iter().map(|string| string.as_bytes());
        let options = Options::read(Caller::Any, strings, || Lsm { selinux: true, smack: false })?;
        let kept = options.kept().collect::<Vec<_>>().join(&b','.to_owned());
        assert_eq!(options.data_len, kept.len());
        Ok((options.flags, String::from_utf8_lossy(&kept).into_owned(), options.relative))
    }

    use std::borrow::ToOwned;

    #[test]
    fn read_table() {
        let table: &[(&[&str], u32, &str, bool)] = &[
            (&["lowerdir=/a:/b"], 0, "lowerdir=/a:/b", false),
            (&["rw,lowerdir=/a", "ro,nosuid", "suid"], ms::RDONLY, "lowerdir=/a", false),
            (&["ro,lowerdir=/a,rw"], 0, "lowerdir=/a", false),
            (&["user,exec,lowerdir=/a"], ms::NOSUID | ms::NODEV, "lowerdir=/a", false),
            (&["lowerdir=/a:b"], 0, "lowerdir=/a:b", true),
            (&["lowerdir=/a,index=off,new=/b"], 0, "lowerdir=/a,index=off,new=/b", false),
            (&["lowerdir=/a,new=b"], 0, "lowerdir=/a,new=b", true),
            (&["lowerdir=/a,upperdir=u,workdir=/w"], 0, "lowerdir=/a,upperdir=u,workdir=/w", true),
            (
                &["extraoption=c2VjcmV0,lowerdir+=/a,io.katacontainers.volume=eA==,=x,foo"],
                0,
                "lowerdir+=/a,=x,foo",
                true,
            ),
            (&["context=\"a,b\",smackfsdef=x,lowerdir=/a"], 0, "context=\"a,b\",lowerdir=/a", true),
            (
                &["context=a,fscontext=b,lowerdir=/a", "context=c"],
                0,
                "fscontext=b,lowerdir=/a,context=c",
                true,
            ),
            (&["lowerdir=/a,uidmap=0:1:2,3:4:5,gidmap=0:1:2,ro"], ms::RDONLY, "lowerdir=/a", false),
            (&["x-a,X-b,comment=c,nofail,_netdev,loop=/l,lowerdir=/a"], 0, "lowerdir=/a", false),
        ];
        for (strings, flags, kept, relative) in table {
            assert_eq!(read(strings), Ok((*flags, String::from(*kept), *relative)), "{strings:?}");
        }
    }

    #[test]
    fn as_mount_fuse_calls() {
        let table: &[(&[&str], u32)] = &[
            (&["lowerdir=/a", "user"], 0),
            (&["lowerdir=/a,nodev,users"], ms::NODEV),
            (&["lowerdir=/a", "nodev", "nosuid", "dev"], ms::NOSUID),
            (&["owner", "lowerdir=/a", "=x"], 0),
            (&["owner,nosuid", "lowerdir=/a"], ms::NOSUID),
            (&["nodev=,noexec", "lowerdir=/a"], ms::NOEXEC),
        ];
        for (strings, flags) in table {
            let bytes = strings.iter().map(|string| string.as_bytes());
            let options = Options::read(Caller::MountFuse, bytes, Lsm::default);
            assert_eq!(options.map(|options| options.flags).ok(), Some(*flags), "{strings:?}");
        }
        for strings in [["lowerdir=/a", "setuid=1"], ["lowerdir=/a", "drop_privileges"]] {
            let bytes = strings.iter().map(|string| string.as_bytes());
            let options = Options::read(Caller::MountFuse, bytes, Lsm::default);
            let refused = Refusal::Word(strings[1].as_bytes(), ROOT);
            assert_eq!(options.map(|_| ()), Err(refused));
        }
    }

    #[test]
    fn each_propagation_type_counts_once() {
        let string: &[u8] = b"lowerdir=/a,slave,rprivate,rslave,private,shared,rshared";
        let options = Options::read(Caller::Any, [string].into_iter(), Lsm::default).ok().unwrap();
        let expected = [ms::SLAVE, ms::PRIVATE | ms::REC, ms::SHARED];
        assert!(options.propagation && options.propagation().eq(expected));
    }

    #[test]
    fn refused() {
        assert_eq!(read(&["upperdir=/u,extraoption=lowerdir="]), Err(Refusal::NoLower));
        for (string, refused) in [
            ("lowerdir=/a,uidmap=0:1:2", "uidmap=0:1:2"),
            ("gidmap=0:1:2,lowerdir=/a,gidmap=0:1:2", "gidmap=0:1:2"),
            ("lowerdir=/a,uidmap=0:1:2,gidmap=0:1", "gidmap=0:1"),
            ("lowerdir=/a,uidmap=0:1:0,0:1:2,gidmap=0:1:2", "uidmap=0:1:0,0:1:2"),
            ("lowerdir=/a,uidmap,gidmap=0:1:2", "uidmap"),
        ] {
            let is_it = |word: &[u8]| word == refused.as_bytes();
            let strings = [string];
            let answer = read(&strings);
            assert!(matches!(answer, Err(Refusal::Word(word, _)) if is_it(word)), "{answer:?}");
        }
        for string in ["=x,lowerdir=/a", "'x,lowerdir=/a", " ro,lowerdir=/a"] {
            assert!(matches!(read(&[string]), Err(Refusal::Word(_, "it has no name"))), "{string}");
        }
        assert!(read(&[",=x,lowerdir=/a"]).is_ok());
        for word in ["bind", "rbind", "move", "remount", "X-containerd.x", "X-mount.idmap=a"] {
            let string = ["lowerdir=/a,", word].concat();
            match read(&[&string]) {
                Err(Refusal::Word(refused, _)) => assert_eq!(refused, word.as_bytes()),
                other => panic!("{word}: {other:?}"),
            }
        }
    }
}
