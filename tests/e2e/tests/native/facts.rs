//! That a comparison would see what it is for.

use nydus_e2e::facts::{differences, facts};
use nydus_e2e::specimens;
use nydus_e2e::stage::Stage;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, lsetxattr, utimensat};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

#[test]
fn each_difference_is_seen() {
    let stage = Stage::with(&["tree"]);
    let root = stage.join("tree");
    specimens::tree(&root, 0);
    let before = facts(&root).expect("facts");
    assert_eq!(differences(&before, &before), Vec::<String>::new());
    type Change = fn(&Path);
    let table: [(&str, &str, Change); 8] = [
        ("sizes/text", "content", |path| fs::write(path, "x").expect("it")),
        ("kinds/two", "names", |path| fs::remove_file(path).expect("it")),
        ("kinds/short", "target", |path| {
            fs::remove_file(path).expect("it");
            symlink("nulx", path).expect("it");
        }),
        ("names/empty/new", "only in the right", |path| fs::write(path, "").expect("it")),
        ("attributes/user", "attributes", |path| {
            lsetxattr(path, "user.a", b"2", XattrFlags::empty()).expect("it");
        }),
        ("sizes/1", "modified", |path| {
            let time = Timespec { tv_sec: 0, tv_nsec: 1 };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, path, &times, AtFlags::empty()).expect("it");
        }),
        ("names/deep", "mode", |path| {
            fs::write(path, "").expect("it");
            fs::set_permissions(path, Permissions::from_mode(0o600)).expect("it");
        }),
        ("names/crowd", "only in the left", |path| fs::remove_dir_all(path).expect("it")),
    ];
    let mut last = before;
    for (name, expected, change) in table {
        if expected == "mode" {
            fs::write(root.join(name), "").expect("it");
            last = facts(&root).expect("facts");
        }
        change(&root.join(name));
        let now = facts(&root).expect("facts");
        let seen = differences(&last, &now);
        assert!(seen.iter().any(|line| line.contains(expected)), "{name} {expected}: {seen:?}");
        last = now;
    }
}
