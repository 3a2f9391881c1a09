//! The one option table: every option that file systems share (util-linux 2.38 `libmount`,
//! mount(8) "FILESYSTEM-INDEPENDENT MOUNT OPTIONS"), and those that containerd's snapshotters
//! make a mount carry.

use crate::words::key_value;

/// Flags of `mount(2)`, as in `linux/mount.h`.
pub mod ms {
    #![allow(missing_docs)]
    pub const RDONLY: u32 = 1;
    pub const NOSUID: u32 = 1 << 1;
    pub const NODEV: u32 = 1 << 2;
    pub const NOEXEC: u32 = 1 << 3;
    pub const SYNCHRONOUS: u32 = 1 << 4;
    pub const MANDLOCK: u32 = 1 << 6;
    pub const DIRSYNC: u32 = 1 << 7;
    pub const NOSYMFOLLOW: u32 = 1 << 8;
    pub const NOATIME: u32 = 1 << 10;
    pub const NODIRATIME: u32 = 1 << 11;
    pub const REC: u32 = 1 << 14;
    pub const SILENT: u32 = 1 << 15;
    pub const UNBINDABLE: u32 = 1 << 17;
    pub const PRIVATE: u32 = 1 << 18;
    pub const SLAVE: u32 = 1 << 19;
    pub const SHARED: u32 = 1 << 20;
    pub const RELATIME: u32 = 1 << 21;
    pub const I_VERSION: u32 = 1 << 23;
    pub const STRICTATIME: u32 = 1 << 24;
    pub const LAZYTIME: u32 = 1 << 25;
}

/// What an option means for the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Sets `mount(2)` flags.
    Set(u32),
    /// Clears `mount(2)` flags that an earlier option set.
    Clear(u32),
    /// Sets flags, but only without a value: `user`, not `user=NAME`.
    Implies(u32),
    /// Changes the propagation type after the mount, in the order of the options.
    Propagation(u32),
    /// Means something to user space only: dropped.
    Ignore,
    /// Is meant for another reader of the mount and may hold credentials: dropped, never shown.
    Carried,
    /// Ids of the lower layers' owners are mapped.
    IdMap,
    /// Goes to the kernel where SELinux is on, dropped elsewhere.
    SeLinux,
    /// Goes to the kernel where Smack is on, dropped elsewhere.
    Smack,
    /// Asks for something else than a new overlay mount: refused, with the reason.
    Refuse(&'static str),
}

/// What an option may have besides its bare name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Nothing but an empty value: `ro=1` is not `ro`.
    Bare,
    /// Any value, or none.
    Value,
    /// Anything: the name is a prefix.
    Prefix,
}

/// A row of the [table](TABLE).
#[derive(Debug)]
pub struct Entry {
    /// The option, its key, or its prefix.
    pub name: &'static str,
    /// How the name is matched.
    pub form: Form,
    /// What the option means.
    pub effect: Effect,
}

const fn bare(name: &'static str, effect: Effect) -> Entry {
    Entry { name, form: Form::Bare, effect }
}

const fn value(name: &'static str, effect: Effect) -> Entry {
    Entry { name, form: Form::Value, effect }
}

const fn prefix(name: &'static str, effect: Effect) -> Entry {
    Entry { name, form: Form::Prefix, effect }
}

use Effect::{Carried, Clear, IdMap, Ignore, Implies, Propagation, Refuse, SeLinux, Set, Smack};

const SECURE: u32 = ms::NOSUID | ms::NODEV | ms::NOEXEC;
const OWNER_SECURE: u32 = ms::NOSUID | ms::NODEV;
const NOT_A_MOUNT: &str = "only new overlay mounts are supported";
const AFTER_MOUNT: &str = "only mount(8) could act on it, after the mount";

/// Every option that does not go to the kernel as it came; the first row that matches counts.
pub const TABLE: &[Entry] = &[
    value(slice_names::EXTRA_OPTION, Carried),
    value(slice_names::VOLUME, Carried),
    value("uidmap", IdMap),
    value("gidmap", IdMap),
    bare("ro", Set(ms::RDONLY)),
    bare("rw", Clear(ms::RDONLY)),
    bare("nosuid", Set(ms::NOSUID)),
    bare("suid", Clear(ms::NOSUID)),
    bare("nodev", Set(ms::NODEV)),
    bare("dev", Clear(ms::NODEV)),
    bare("noexec", Set(ms::NOEXEC)),
    bare("exec", Clear(ms::NOEXEC)),
    bare("noatime", Set(ms::NOATIME)),
    bare("atime", Clear(ms::NOATIME)),
    bare("nodiratime", Set(ms::NODIRATIME)),
    bare("diratime", Clear(ms::NODIRATIME)),
    bare("relatime", Set(ms::RELATIME)),
    bare("norelatime", Clear(ms::RELATIME)),
    bare("strictatime", Set(ms::STRICTATIME)),
    bare("nostrictatime", Clear(ms::STRICTATIME)),
    bare("nosymfollow", Set(ms::NOSYMFOLLOW)),
    bare("symfollow", Clear(ms::NOSYMFOLLOW)),
    bare("sync", Set(ms::SYNCHRONOUS)),
    bare("async", Clear(ms::SYNCHRONOUS)),
    bare("dirsync", Set(ms::DIRSYNC)),
    bare("mand", Set(ms::MANDLOCK)),
    bare("nomand", Clear(ms::MANDLOCK)),
    bare("lazytime", Set(ms::LAZYTIME)),
    bare("nolazytime", Clear(ms::LAZYTIME)),
    bare("silent", Set(ms::SILENT)),
    bare("loud", Clear(ms::SILENT)),
    bare("iversion", Set(ms::I_VERSION)),
    bare("noiversion", Clear(ms::I_VERSION)),
    bare("unbindable", Propagation(ms::UNBINDABLE)),
    bare("runbindable", Propagation(ms::UNBINDABLE | ms::REC)),
    bare("private", Propagation(ms::PRIVATE)),
    bare("rprivate", Propagation(ms::PRIVATE | ms::REC)),
    bare("slave", Propagation(ms::SLAVE)),
    bare("rslave", Propagation(ms::SLAVE | ms::REC)),
    bare("shared", Propagation(ms::SHARED)),
    bare("rshared", Propagation(ms::SHARED | ms::REC)),
    bare("bind", Refuse(NOT_A_MOUNT)),
    bare("rbind", Refuse(NOT_A_MOUNT)),
    bare("move", Refuse(NOT_A_MOUNT)),
    bare("remount", Refuse(NOT_A_MOUNT)),
    value("defaults", Ignore),
    bare("auto", Ignore),
    bare("noauto", Ignore),
    value("user", Implies(SECURE)),
    bare("users", Implies(SECURE)),
    bare("owner", Implies(OWNER_SECURE)),
    bare("group", Implies(OWNER_SECURE)),
    bare("nouser", Ignore),
    bare("nousers", Ignore),
    bare("noowner", Ignore),
    bare("nogroup", Ignore),
    bare("_netdev", Ignore),
    bare("nofail", Ignore),
    value("comment", Ignore),
    value("loop", Ignore),
    value("offset", Ignore),
    value("sizelimit", Ignore),
    value("encryption", Ignore),
    value("uhelper", Ignore),
    value("helper", Ignore),
    value("verity.hashdevice", Ignore),
    value("verity.roothash", Ignore),
    value("verity.hashoffset", Ignore),
    value("verity.roothashfile", Ignore),
    value("verity.fecdevice", Ignore),
    value("verity.fecoffset", Ignore),
    value("verity.fecroots", Ignore),
    value("verity.roothashsig", Ignore),
    value("verity.oncorruption", Ignore),
    prefix("X-containerd.", Refuse("containerd's mount manager should have acted on it")),
    value("X-mount.idmap", Refuse("use uidmap= and gidmap= to map the owners of lower layers")),
    value("X-mount.subdir", Refuse(AFTER_MOUNT)),
    value("X-mount.owner", Refuse(AFTER_MOUNT)),
    value("X-mount.group", Refuse(AFTER_MOUNT)),
    value("X-mount.mode", Refuse(AFTER_MOUNT)),
    prefix("x-", Ignore),
    prefix("X-", Ignore),
    value("context", SeLinux),
    value("fscontext", SeLinux),
    value("defcontext", SeLinux),
    value("rootcontext", SeLinux),
    value("seclabel", SeLinux),
    value("smackfsdef", Smack),
    value("smackfsfloor", Smack),
    value("smackfshat", Smack),
    value("smackfsroot", Smack),
    value("smackfstransmute", Smack),
];

/// What the option `word` means, `None` for one that the kernel gets as it is.
pub fn effect(word: &[u8]) -> Option<Effect> {
    let entry = TABLE.iter().find(|entry| entry.matches(word))?;
    match entry.effect {
        Effect::Implies(flags) => {
            let has_value = key_value(word).1.is_some_and(|value| !value.is_empty());
            Some(if has_value { Effect::Ignore } else { Effect::Set(flags) })
        }
        effect => Some(effect),
    }
}

impl Entry {
    fn matches(&self, word: &[u8]) -> bool {
        let Some(rest) = word.strip_prefix(self.name.as_bytes()) else { return false };
        match self.form {
            Form::Bare => matches!(rest, b"" | b"="),
            Form::Value => matches!(rest.first(), None | Some(b'=')),
            Form::Prefix => true,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_name_stands_once_and_finds_its_own_row() {
        let mut names = BTreeSet::new();
        for entry in TABLE {
            assert!(names.insert(entry.name), "{} stands twice", entry.name);
            let found = TABLE.iter().find(|other| other.matches(entry.name.as_bytes()));
            assert_eq!(found.map(|found| found.name), Some(entry.name));
        }
    }

    /// What one option sets another must clear: the table lost one of the pair otherwise.
    #[test]
    fn flags_can_be_cleared() {
        const NEVER_CLEARED: u32 = ms::DIRSYNC;
        let bits = |pick: fn(Effect) -> u32| TABLE.iter().fold(0, |all, e| all | pick(e.effect));
        let set = bits(|effect| match effect {
            Set(flags) | Implies(flags) => flags,
            _ => 0,
        });
        let clear = bits(|effect| if let Clear(flags) = effect { flags } else { 0 });
        assert_eq!(set & !clear, NEVER_CLEARED);
        assert_eq!(clear & !set, 0);
    }

    #[test]
    fn words_mean() {
        let table: &[(&str, Option<Effect>)] = &[
            ("ro", Some(Set(ms::RDONLY))),
            ("ro=", Some(Set(ms::RDONLY))),
            ("ro=1", None),
            ("RO", None),
            (" ro", None),
            ("rox", None),
            ("rw", Some(Clear(ms::RDONLY))),
            ("user", Some(Set(SECURE))),
            ("user=", Some(Set(SECURE))),
            ("user=joe", Some(Ignore)),
            ("users=joe", None),
            ("owner", Some(Set(OWNER_SECURE))),
            ("comment=a=b", Some(Ignore)),
            ("comments", None),
            ("x-systemd.automount", Some(Ignore)),
            ("X-mount.mkdir=0755", Some(Ignore)),
            ("X-mount.subdir", Some(Refuse(AFTER_MOUNT))),
            ("X-mount.owner=7", Some(Refuse(AFTER_MOUNT))),
            ("X-mount.owners=7", Some(Ignore)),
            ("extraoption=e30=", Some(Carried)),
            ("extraoption", Some(Carried)),
            ("extraoptions=e30=", None),
            ("Extraoption=e30=", None),
            ("io.katacontainers.volume=e30=", Some(Carried)),
            ("io.katacontainers.volumes=e30=", None),
            ("context=\"a,b\"", Some(SeLinux)),
            ("lowerdir=/ro", None),
            ("uid=0", None),
            ("mode=755", None),
            ("=ro", None),
            ("private=1", None),
            ("uidmap=0:1:2", Some(IdMap)),
            ("gidmap", Some(IdMap)),
            ("rslave", Some(Propagation(ms::SLAVE | ms::REC))),
        ];
        for (word, expected) in table {
            assert_eq!(effect(word.as_bytes()), *expected, "{word}");
        }
    }
}
