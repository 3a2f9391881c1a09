//! Words and names of which option sets are made.

/// The value that no output may show.
pub const SECRET: &str = "c2VjcmV0LXJlZ2lzdHJ5LXRva2Vu";

/// Directories that each case finds in its working directory.
#[rustfmt::skip]
pub const LAYERS: &[&str] = &[
    "l1", "l2", "l3", "a,b", "a,ro", "c:d", "e\\f", "sp ace", "new\nline", "t\tab",
    "q\"x", "\u{e4}", "h#", "end\\", "l1/sub",
];

/// Non-UTF-8 name of one more layer.
pub const RAW_LAYER: &[u8] = b"raw\xff\xfe";

/// Length of each name in [`long_layer`].
const LONG: usize = 148;

/// How many layers have long names.
pub const LONG_LAYERS: usize = 24;

/// A layer with a long name.
pub fn long_layer(number: usize) -> String {
    format!("{}{number:02}", "n".repeat(LONG))
}

/// File-system-independent words of mount(8) and libmount 2.38. A list of its own, not the
/// helper's table: what that forgets must be asked for here.
#[rustfmt::skip]
pub const COMMON: &[&str] = &[
    "ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "atime",
    "nodiratime", "diratime", "relatime", "norelatime", "strictatime", "nostrictatime",
    "nosymfollow", "symfollow", "sync", "async", "dirsync", "mand", "nomand", "lazytime",
    "nolazytime", "silent", "loud", "iversion", "noiversion", "unbindable", "runbindable",
    "private", "rprivate", "slave", "rslave", "shared", "rshared", "defaults", "auto", "noauto",
    "user", "users", "owner", "group", "nouser", "nousers", "noowner", "nogroup", "_netdev",
    "comment", "loop", "offset", "sizelimit", "encryption", "uhelper", "helper",
    "verity.hashdevice", "verity.roothash", "verity.hashoffset", "verity.roothashfile",
    "verity.fecdevice", "verity.fecoffset", "verity.fecroots", "verity.roothashsig",
    "verity.oncorruption", "context", "fscontext", "defcontext", "rootcontext", "seclabel",
    "smackfsdef", "smackfsfloor", "smackfshat", "smackfsroot", "smackfstransmute",
];

/// Words whose order counts among their kind.
#[rustfmt::skip]
pub const FAMILIES: &[&[&str]] = &[
    &["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"],
    &["noatime", "atime", "relatime", "norelatime", "strictatime", "nostrictatime", "nodiratime",
      "diratime"],
    &["user", "users", "owner", "group", "user=joe", "nouser", "exec", "noexec", "suid", "nosuid",
      "dev", "nodev", "defaults"],
    &["ro", "rw", "sync", "async", "lazytime", "nolazytime", "mand", "nomand", "defaults"],
];

/// Ways to say that a mount is read-only, or not.
pub const READ_ONLY: &[&str] = &[
    "ro",
    "ro",
    "ro=",
    "ro=vfs",
    "ro=fs",
    "ro=recursive",
    "ro=1",
    "rw=1",
    "ro,rw",
    "rw,ro",
    "rw=0,ro",
];

/// Words of overlayfs that mean nothing without an upper directory.
pub const UPPERLESS: &[&str] =
    &["volatile", "index=on", "index=off", "nfs_export=off", "userxattr"];

/// Words of overlayfs, good and bad.
#[rustfmt::skip]
pub const OVERLAY: &[&str] = &[
    "index=on", "index=off", "index=bad", "index", "metacopy=on", "metacopy=off", "metacopy=",
    "redirect_dir=on", "redirect_dir=off", "redirect_dir=follow", "redirect_dir=nofollow",
    "redirect_dir=bad", "xino=on", "xino=off", "xino=auto", "xino=bad", "volatile", "volatile=",
    "volatile=1", "userxattr", "nfs_export=on", "nfs_export=off", "verity=off", "verity=on",
    "verity=require", "uuid=on", "uuid=off", "uuid=null", "uuid=auto", "default_permissions",
    "source=x", "override_creds", "nooverride_creds", "lowerdir=l1:l2", "lowerdir=",
    "lowerdir+=l2", "datadir+=d1", "upperdir=", "workdir=w", "Index=on",
];

/// Words that are almost some that are known, and nonsense.
#[rustfmt::skip]
pub const NONSENSE: &[&str] = &[
    "", "=x", "=", "foo", "foo=bar", "uid=0", "gid=root", "mode=755", "sub", "nosub", "_rnetdev",
    "RO", " ro", "ro ", "rox", "no suid", "user=joe", "user=", "users=1", "comment=a=b",
    "x-systemd.automount", "X-foo", "x-", "X-", "x", "X", "verity.foo=1", "a\\,b",
    "x-a\\,ro", "x-a\\\\,ro", "comment=\\,nodev",
    "\\", "l1\\", "$HOME", "`id`", "*", "#", "'", "a'b", "lowerdir:x", "size=1m", "nr_inodes=5",
    "ro=1", "rw=0", "sync=1", "dirsync=no", "lazytime=x", "nodev=0", "noatime=1", "private=1", "%s",
    "ro,rw", "dev,nodev", "extraoptions=e30=", "Extraoption=e30=", "io.katacontainers=x",
];

/// Words for security modules, which are off here.
#[rustfmt::skip]
pub const SECURITY: &[&str] = &[
    "context=system_u:object_r:tmp_t:s0", "context=\"system_u:object_r:tmp_t:s0:c1,c2\"",
    "fscontext=\"a,ro\"", "defcontext=x", "rootcontext=y", "rootcontext=\"\"", "seclabel",
    "context=\"a,b\"x", "context=a\"b,ro\"", "smackfsdef=_", "smackfsroot", "smackfshat=\"a,ro\"",
];

/// Words with quotes in places where they do not group for the kernel.
#[rustfmt::skip]
pub const QUOTES: &[&str] = &[
    "\"", "\"\"", "\"a,b\"", "x-a=\"b", "x-a=\"ro\"", "comment=\"a,ro\"", "comment=\"a",
    "context=\"a", "index=\"on\"", "foo=\"a,ro,b\"", "ro\"", "\\\"", "x-a=\\\"b", "\"ro\"",
];

/// Options that are treated otherwise on purpose; docs/differences.md says how.
#[rustfmt::skip]
pub const DELIBERATE: &[&str] = &[
    "nofail", "X-containerd.foo=1", "X-containerd.", "X-mount.mkdir", "X-mount.mkdir=0700",
    "X-mount.owner=7", "X-mount.group=7", "X-mount.mode=0700", "X-mount.subdir=l1",
    "X-mount.idmap=0:0:1", "X-mount.idmap", "X-mount.nocanonicalize", "bind", "rbind", "move",
    "remount", "bind=",
];
