//! Options that the kernel refuses together, or refuses to all but root of the initial user
//! namespace, with a bare error number (`ovl_fs_params_verify` in Linux `fs/overlayfs/params.c`).

use crate::options::{Options, Words, value_of};
use crate::words::key_value;

/// An option's key and the values that count; none for an option without a value.
type Choice = (&'static [u8], &'static [&'static [u8]]);

const USERXATTR: Choice = (b"userxattr", &[]);
const VERITY: Choice = (b"verity", &[b"on", b"require"]);
const METACOPY: Choice = (b"metacopy", &[b"on"]);
const NO_METACOPY: Choice = (b"metacopy", &[b"off"]);
const NO_REDIRECT: Choice = (b"redirect_dir", &[b"off", b"follow", b"nofollow"]);
const NFS_EXPORT: Choice = (b"nfs_export", &[b"on"]);

const CONFLICTS: [(Choice, Choice); 8] = [
    (USERXATTR, (b"redirect_dir", &[b"on", b"off", b"follow"])),
    (USERXATTR, METACOPY),
    (USERXATTR, VERITY),
    (METACOPY, NO_REDIRECT),
    (VERITY, NO_METACOPY),
    (VERITY, NO_REDIRECT),
    (NFS_EXPORT, METACOPY),
    (NFS_EXPORT, (b"index", &[b"off"])),
];

/// Those that need to write extended attributes of the kind `trusted.`.
const FOR_INITIAL_ROOT: [Choice; 3] =
    [(b"redirect_dir", &[b"on", b"off", b"follow"]), METACOPY, VERITY];

/// Two options that exclude each other.
pub(crate) fn conflict<'a, W: Words<'a>>(options: &Options<'a, W>) -> Option<[&'a [u8]; 2]> {
    CONFLICTS.iter().find_map(|(one, other)| Some([chosen(options, one)?, chosen(options, other)?]))
}

/// An option that only root of the initial user namespace may use.
pub(crate) fn for_initial_root<'a, W: Words<'a>>(options: &Options<'a, W>) -> Option<&'a [u8]> {
    FOR_INITIAL_ROOT.iter().find_map(|choice| chosen(options, choice))
}

/// Whether a layer gives only file contents, for which the same holds.
pub(crate) fn has_data_only_layer<'a, W: Words<'a>>(options: &Options<'a, W>) -> bool {
    options.layers().any(|layer| layer.data_only)
}

/// The last option with the key of `choice`, if its value is one of those that count.
fn chosen<'a, W: Words<'a>>(options: &Options<'a, W>, (key, values): &Choice) -> Option<&'a [u8]> {
    let word = options.kept().filter(|word| key_value(word).0 == *key).last()?;
    match value_of(word, key) {
        Some(value) => values.contains(&value),
        None => values.is_empty(),
    }
    .then_some(word)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::options::Lsm;
    use crate::words::words;

    #[test]
    fn pairs() {
        let table: &[(&str, Option<[&str; 2]>)] = &[
            ("userxattr", None),
            ("redirect_dir=on,userxattr", Some(["userxattr", "redirect_dir=on"])),
            ("userxattr,redirect_dir=nofollow", None),
            ("userxattr,redirect_dir=on,redirect_dir=nofollow", None),
            ("userxattr=1,metacopy=on", None),
            ("metacopy=on,redirect_dir=off", Some(["metacopy=on", "redirect_dir=off"])),
            ("metacopy=on,redirect_dir=on", None),
            ("nfs_export=on,index=off", Some(["nfs_export=on", "index=off"])),
            ("index=on,nfs_export=on,metacopy=on", Some(["nfs_export=on", "metacopy=on"])),
            ("verity=require,metacopy=off", Some(["verity=require", "metacopy=off"])),
        ];
        for (string, expected) in table {
            let string = std::format!("lowerdir=/a:/b,{string}");
            let options = Options::read(words(string.as_bytes()), Lsm::default).ok().unwrap();
            let expected = expected.map(|pair| pair.map(str::as_bytes));
            assert_eq!(conflict(&options), expected, "{string}");
        }
    }
}
