//! The names on which the mount helper, the snapshotter and the contract must agree: which mount
//! types are ours, and which options are never shown.
//!
//! Pure functions on bytes, without allocation: the helper has neither libc nor a heap.
#![no_std]
#![forbid(unsafe_code)]

/// Name of the option that carries an `ExtraOption` for a VM runtime.
pub const EXTRA_OPTION: &str = "extraoption";

/// Name of the option that carries a `KataVirtualVolume`.
pub const VOLUME: &str = "io.katacontainers.volume";

/// Options whose values may hold registry credentials, and are shown nowhere.
pub const CARRIED: [&str; 2] = [EXTRA_OPTION, VOLUME];

/// File name of the mount helper.
pub const HELPER: &str = "nydus-overlayfs";

/// Prefixes of a mount type that make `mount.fuse3` run the rest as a program (mount.fuse3(8)).
pub const FUSE_PREFIXES: [&str; 3] = ["fuse.", "fuse3.", "fuseblk."];

/// The program that `mount.fuse3` runs for the mount type `kind`: the type without its prefix.
pub fn program(kind: &[u8]) -> &[u8] {
    let rest = |prefix: &&str| kind.strip_prefix(prefix.as_bytes());
    FUSE_PREFIXES.iter().find_map(rest).unwrap_or(kind)
}

/// Whether the program of a mount type is the helper: the last component of its path is
/// `nydus-overlayfs`, or that name, a hyphen and a suffix.
pub fn is_helper(program: &[u8]) -> bool {
    let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or(program);
    matches!(name.strip_prefix(HELPER.as_bytes()), Some([] | [b'-', ..]))
}

/// Where in `text` the first value starts that must not be shown, if there is one.
///
/// The name of a carried option counts in any case, at any place, and with more letters, digits,
/// dots, hyphens, underscores or blanks behind it: a misspelt name must not give its value away.
pub fn secret_start(text: &[u8]) -> Option<usize> {
    (0..text.len()).find_map(|at| CARRIED.iter().find_map(|name| value_start(text, at, name)))
}

fn value_start(text: &[u8], at: usize, name: &str) -> Option<usize> {
    let end = at + name.len();
    if !text.get(at..end)?.eq_ignore_ascii_case(name.as_bytes()) {
        return None;
    }
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_ ".contains(byte);
    let more = text[end..].iter().take_while(|byte| is_name(byte)).count();
    (text.get(end + more) == Some(&b'=')).then_some(end + more + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let table: &[(&str, bool)] = &[
            ("fuse.nydus-overlayfs", true),
            ("fuse3.nydus-overlayfs", true),
            ("fuseblk.nydus-overlayfs", true),
            ("nydus-overlayfs", true),
            ("fuse3./opt/bin/nydus-overlayfs-x", true),
            ("fuse./usr/bin/nydus-overlayfs/", false),
            ("fuse.nydus-overlayfsX", false),
            ("fuse.nydus-overlayfs/x", false),
            ("fuse.my-nydus-overlayfs", false),
            ("fuse.Nydus-overlayfs", false),
            ("fuse.", false),
            ("overlay", false),
        ];
        for (kind, expected) in table {
            assert_eq!(is_helper(program(kind.as_bytes())), *expected, "{kind}");
        }
    }

    #[test]
    fn secrets() {
        // What may be shown of the text; `None` if all of it may.
        let table: &[(&str, Option<&str>)] = &[
            ("", None),
            ("lowerdir=/a:/b", None),
            ("extraoption", None),
            ("extraoption,ro=1", None),
            ("extraoption=x", Some("extraoption=")),
            ("a,ExtraOption=x", Some("a,ExtraOption=")),
            ("extraoptions=x,b", Some("extraoptions=")),
            ("extraoption_2.0-x=y", Some("extraoption_2.0-x=")),
            ("extraoption:x=y", None),
            ("/a\\,extraoption=x", Some("/a\\,extraoption=")),
            ("IO.katacontainers.volume=x", Some("IO.katacontainers.volume=")),
            ("ro,io.katacontainers.volume=x,extraoption=y", Some("ro,io.katacontainers.volume=")),
            ("extraoption extraoption=y", Some("extraoption extraoption=")),
        ];
        for (text, shown) in table {
            let start = secret_start(text.as_bytes());
            assert_eq!(start.map(|start| &text[..start]), *shown, "{text}");
        }
    }
}
