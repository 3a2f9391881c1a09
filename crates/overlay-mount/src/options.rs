//! Options read against the table: which flags the mount gets, and which options the kernel gets.

use crate::buf::CBuf;
use crate::idmap::{self, IdMap};
use crate::layers::{Layer, layers};
use crate::table::{Effect, effect, ms};
use crate::words::key_value;

/// Options, in order: each as it stands between two commas.
pub trait Words<'a>: Iterator<Item = &'a [u8]> + Clone {}

impl<'a, I: Iterator<Item = &'a [u8]> + Clone> Words<'a> for I {}

/// Whether the kernel's security modules that have mount options are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lsm {
    /// SELinux.
    pub selinux: bool,
    /// Smack.
    pub smack: bool,
}

/// Options that ask for what is not done here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal<'a> {
    /// No option names a lower layer.
    NoLower,
    /// An option without a name, see [`nameless`](crate::words::nameless).
    NoName(&'a [u8]),
    /// An option that ends in a backslash and would swallow the next one.
    Unfinished(&'a [u8]),
    /// An option of the table that is refused, and why.
    Unsupported(&'a [u8], &'static str),
    /// An option whose value cannot be read, and what was expected.
    BadValue(&'a [u8], &'static str),
}

/// Options and what they mean. Not `Debug`, as they may hold values that must not be shown.
#[derive(Clone)]
pub struct Options<'a, W> {
    words: W,
    lsm: Lsm,
    /// See [`Options::upper_as_layer`].
    pub(crate) top: Option<&'a [u8]>,
    /// The option before whose layers `top` belongs.
    pub(crate) below_top: Option<&'a [u8]>,
    /// Flags for `mount(2)`.
    pub flags: u32,
    /// Length in bytes of the options for the kernel, with a comma between each two.
    pub data_len: usize,
    /// Whether the propagation type changes after the mount.
    pub propagation: bool,
    /// Whether the lower layers are id-mapped.
    pub id_mapped: bool,
    /// Whether an option for the kernel may hold a path that depends on the working directory.
    pub relative: bool,
}

impl<'a, W: Words<'a>> Options<'a, W> {
    /// Reads `words`; `lsm` is called only if one of them depends on it.
    ///
    /// # Errors
    /// The first option that is refused; no option for a lower layer.
    pub fn read(words: W, lsm: impl FnOnce() -> Lsm) -> Result<Self, Refusal<'a>> {
        let mut options = Self {
            words: words.clone(),
            lsm: Lsm::default(),
            top: None,
            below_top: None,
            flags: 0,
            data_len: 0,
            propagation: false,
            id_mapped: false,
            relative: false,
        };
        let mut lsm = Some(lsm);
        let (mut lower, mut upper, mut read_only) = (false, None, false);
        let mut unfinished = None;
        for word in words {
            if let Some(word) = unfinished {
                return Err(Refusal::Unfinished(word));
            }
            unfinished = Some(word).filter(|word| is_unfinished(word));
            let effect = effect(word);
            if let Some(Effect::SeLinux | Effect::Smack) = effect
                && let Some(lsm) = lsm.take()
            {
                options.lsm = lsm();
            }
            match options.in_user_space(word, effect) {
                Some(Effect::Refuse(why)) => return Err(Refusal::Unsupported(word, why)),
                Some(Effect::Set(flags)) => options.flags |= flags,
                Some(Effect::Clear(flags)) => options.flags &= !flags,
                Some(Effect::Propagation(_)) => options.propagation = true,
                Some(Effect::IdMap) => options.id_mapped = true,
                Some(_) => {}
                None => {
                    options.data_len += usize::from(options.data_len > 0) + word.len();
                    let (key, value) = key_value(word);
                    options.relative |= value.is_some_and(|value| is_relative(key, value));
                    match key {
                        b"upperdir" => upper = value,
                        _ if names_lower(key) => lower = true,
                        // The kernel heeds these in its data, with whatever value.
                        b"ro" | b"rw" => read_only = key == b"ro",
                        _ => {}
                    }
                }
            }
        }
        if options.id_mapped {
            options.check_id_maps()?;
        }
        if options.flags & ms::RDONLY != 0 || read_only {
            options.upper_becomes_layer(upper);
        }
        if lower { Ok(options) } else { Err(Refusal::NoLower) }
    }

    /// What `word`, which means `effect`, does in user space; `None` if it goes to the kernel.
    fn in_user_space(&self, word: &[u8], effect: Option<Effect>) -> Option<Effect> {
        match effect? {
            Effect::SeLinux if self.lsm.selinux && !is_replaced(word, self.words.clone()) => None,
            Effect::Smack if self.lsm.smack => None,
            effect => Some(effect),
        }
    }

    /// The options for the kernel, in order, as they came. Where there is an
    /// [`upper_as_layer`](Self::upper_as_layer), it is not among them.
    pub fn kept(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a, W> {
        let options = self.clone();
        self.words.clone().filter(move |word| {
            let of_upper = || matches!(key_value(word), (b"upperdir" | b"workdir", Some(_)));
            options.in_user_space(word, effect(word)).is_none()
                && !(options.top.is_some() && of_upper())
        })
    }

    /// The changes of the propagation type, in order, as `mount(2)` flags. As in libmount, an
    /// option for a type that was named before has no effect.
    pub fn propagation(&self) -> impl Iterator<Item = u32> + use<'a, W> {
        let mut named = 0;
        self.words.clone().filter_map(move |word| match effect(word) {
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
            idmap::read(value).map_err(|why| Refusal::BadValue(word, why))?;
        }
        let named = |key: &[u8]| self.id_maps().find(|word| key_value(word).0 == key);
        match (named(b"uidmap"), named(b"gidmap")) {
            (Some(word), None) | (None, Some(word)) => {
                Err(Refusal::BadValue(word, "uidmap= and gidmap= must be given together"))
            }
            _ => Ok(()),
        }
    }

    fn id_maps(&self) -> impl Iterator<Item = &'a [u8]> + use<'a, W> {
        self.words.clone().filter(|word| effect(word) == Some(Effect::IdMap))
    }

    /// The map that the last `key=` asks for; empty if there is none.
    pub(crate) fn id_map(&self, key: &[u8]) -> IdMap {
        let value = self.id_maps().filter_map(|word| value_of(word, key)).last();
        value.and_then(|value| idmap::read(value).ok()).unwrap_or_default()
    }

    /// The value of the last `key=` among the options for the kernel: the one that counts there.
    pub fn last(&self, key: &[u8]) -> Option<&'a [u8]> {
        self.kept().filter_map(|word| value_of(word, key)).last()
    }

    /// The options that name the lower layers that count: a `lowerdir=` takes back all before it.
    pub(crate) fn lower(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a, W> {
        let last = self.last(b"lowerdir").map(<[u8]>::as_ptr);
        let list = |word: &'a [u8]| value_of(word, b"lowerdir").map(<[u8]>::as_ptr);
        let words = self.kept().skip_while(move |word| last.is_some() && list(word) != last);
        words.filter(|word| names_lower(key_value(word).0))
    }

    /// The lower layers that count, uppermost first. The upper directory of a read-only mount is
    /// one of them.
    pub(crate) fn layers(&self) -> impl Iterator<Item = Layer<'a>> + Clone + use<'a, W> {
        let upper = self.top.map(|raw| Layer { raw, data_only: false, escaped: true });
        let below = self.lower().flat_map(|word| {
            let (key, value) = key_value(word);
            let (list, path) = if key == b"lowerdir" { (value, None) } else { (None, value) };
            let data_only = key == b"datadir+";
            let single = path.map(|raw| Layer { raw, data_only, escaped: false });
            layers(list.unwrap_or_default()).chain(single)
        });
        upper.into_iter().chain(below)
    }

    /// Whether no later option for the kernel has the key of `word`, which is one of them.
    pub(crate) fn is_last(&self, word: &[u8]) -> bool {
        !is_replaced(word, self.kept())
    }

    /// Puts the options for the kernel into `data` for one `mount(2)`; `None` if they do not fit,
    /// or cannot be said there.
    pub(crate) fn put_into<const N: usize>(&self, data: &mut CBuf<N>) -> Option<()> {
        if self.top.is_some() {
            return self.each_part(|part| data.push(part));
        }
        self.kept().try_for_each(|word| data.push_word(word))
    }

    /// The options that `mount(8)` would hand to `fsconfig(2)` as flags of the superblock.
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

/// Whether the kernel would take a comma after `word` for a part of it.
fn is_unfinished(word: &[u8]) -> bool {
    let backslashes = word.iter().rev().take_while(|byte| **byte == b'\\');
    backslashes.count() % 2 == 1
}

/// Whether options with this key name lower layers.
pub(crate) fn names_lower(key: &[u8]) -> bool {
    matches!(key, b"lowerdir" | b"lowerdir+" | b"datadir+")
}

/// The value of `word` if its key is `key`.
pub(crate) fn value_of<'a>(word: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    word.strip_prefix(key)?.strip_prefix(b"=")
}

/// Whether a later option of `words` has the same key. Of the options for SELinux, libmount keeps
/// the last one.
#[cold]
fn is_replaced<'a>(word: &[u8], words: impl Words<'a>) -> bool {
    let key = key_value(word).0;
    let same = words.filter(|other| key_value(other).0 == key);
    same.last().map(<[u8]>::as_ptr) != Some(word.as_ptr())
}

/// Whether the value may hold a relative path: overlayfs may learn new options with a path.
fn is_relative(key: &[u8], value: &[u8]) -> bool {
    let relative = |path: &[u8]| path.first() != Some(&b'/');
    match key {
        b"lowerdir" => layers(value).any(|layer| relative(layer.raw)),
        b"redirect_dir" | b"index" | b"nfs_export" | b"xino" | b"metacopy" | b"verity"
        | b"uuid" | b"fsync" | b"ro" | b"rw" | b"context" | b"fscontext" | b"defcontext"
        | b"rootcontext" => false,
        _ => relative(value),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::words::words;
    use std::string::String;

    fn read<'a>(strings: &'a [&'a str]) -> Result<(u32, String, bool), Refusal<'a>> {
        let words = strings.iter().flat_map(|string| words(string.as_bytes()));
        let options = Options::read(words, || Lsm { selinux: true, smack: false })?;
        let mut data = CBuf::<4096>::new();
        options.put_into(&mut data).expect("it fits");
        assert_eq!(options.data_len, data.as_bytes().len());
        let data = String::from_utf8_lossy(data.as_bytes()).into_owned();
        Ok((options.flags, data, options.relative))
    }

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
            (
                &["context=\"a,b\",smackfsdef=x,lowerdir=/a"],
                0,
                "context=\"a,b\",lowerdir=/a",
                false,
            ),
            (
                &["context=a,fscontext=b,lowerdir=/a", "context=c"],
                0,
                "fscontext=b,lowerdir=/a,context=c",
                false,
            ),
            (&["lowerdir=/a,uidmap=0:1:2,3:4:5,gidmap=0:1:2,ro"], ms::RDONLY, "lowerdir=/a", false),
            (&["x-a,X-b,comment=c,nofail,_netdev,loop=/l,lowerdir=/a"], 0, "lowerdir=/a", false),
        ];
        for (strings, flags, kept, relative) in table {
            assert_eq!(read(strings), Ok((*flags, String::from(*kept), *relative)), "{strings:?}");
        }
    }

    #[test]
    fn unfinished() {
        let table = [
            (["lowerdir=/a,ro=1\\", "rw=1"], true),
            (["lowerdir=/a\\\\\\", "a"], true),
            (["lowerdir=/a,\\", "a"], true),
            (["lowerdir=/a", "a\\"], false),
            (["lowerdir=/a\\\\", "a"], false),
            (["lowerdir=/a\\", ""], false),
        ];
        for (strings, expected) in table {
            let is_it = matches!(read(&strings), Err(Refusal::Unfinished(_)));
            assert_eq!(is_it, expected, "{strings:?}");
        }
    }

    #[test]
    fn each_propagation_type_counts_once() {
        let string: &[u8] = b"lowerdir=/a,slave,rprivate,rslave,private,shared,rshared";
        let options = Options::read(words(string), Lsm::default).ok().unwrap();
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
            assert!(matches!(answer, Err(Refusal::BadValue(word, _)) if is_it(word)), "{answer:?}");
        }
        for word in [
            "bind",
            "rbind",
            "move",
            "remount",
            "X-containerd.x",
            "X-mount.idmap=a",
            "X-mount.subdir=a",
        ] {
            let string = ["lowerdir=/a,", word].concat();
            match read(&[&string]) {
                Err(Refusal::Unsupported(refused, _)) => assert_eq!(refused, word.as_bytes()),
                other => panic!("{word}: {other:?}"),
            }
        }
    }
}
