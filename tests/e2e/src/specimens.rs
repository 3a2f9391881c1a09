//! Trees with a specimen of everything that an image can hold.

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chownat, lsetxattr,
    makedev, mknodat, utimensat,
};
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Bytes that no compressor makes much of, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = (0..length.div_ceil(8)).flat_map(|_| next().to_le_bytes());
    words.take(length).collect()
}

/// Makes a tree in `root`, which other numbers fill with other bytes.
///
/// # Panics
/// It cannot be made: not root, or no extended attributes.
pub fn tree(root: &Path, number: u64) {
    sizes(&root.join("sizes"), number);
    names(&root.join("names"));
    kinds(&root.join("kinds"));
    owners(&root.join("owners"));
    attributes(&root.join("attributes"));
    times(root);
}

/// A directory with this many files, all of them empty but some.
///
/// # Panics
/// It cannot be made.
pub fn crowd(directory: &Path, files: usize) {
    fs::create_dir_all(directory).expect("a directory");
    for number in 0..files {
        let mut file = File::create(directory.join(format!("file-{number:06}"))).expect("a file");
        if number % 1000 == 0 {
            file.write_all(number.to_string().as_bytes()).expect("a file");
        }
    }
}

fn write(path: PathBuf, bytes: &[u8]) {
    fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn sizes(directory: &Path, number: u64) {
    fs::create_dir_all(directory).expect("a directory");
    let around = [4096, 65_536, 1 << 20, 4 << 20];
    let lengths = around.into_iter().flat_map(|size| [size - 1, size, size + 1]);
    for length in lengths.chain([0, 1, 100, 10_000_000]) {
        write(directory.join(length.to_string()), &noise(number ^ length as u64, length));
    }
    write(directory.join("text"), "all work and no play ".repeat(50_000).as_bytes());
    write(directory.join("zeros"), &[0; 300_000]);
    // The same again, for deduplication.
    write(directory.join("twin"), &noise(number ^ 4097, 4097));
    let sparse = File::create(directory.join("sparse")).expect("a file");
    sparse.set_len(9 << 20).expect("a file");
    sparse.write_all_at(&noise(number, 5000), 3 << 20).expect("a file");
    sparse.write_all_at(b"end", (9 << 20) - 3).expect("a file");
    File::create(directory.join("hole")).and_then(|file| file.set_len(2 << 20)).expect("a file");
}

fn names(directory: &Path) {
    let deep = directory.join("a/b/c/d/e/f/g/h/i/j/k/l");
    fs::create_dir_all(&deep).expect("a directory");
    write(deep.join("deep"), b"deep");
    fs::create_dir(directory.join("empty")).expect("a directory");
    let long = "n".repeat(255);
    for name in ["with space", "with\nline", "ünïcode", "-dash", "..dots", "*", &long] {
        write(directory.join(name), name.as_bytes());
    }
    write(directory.join(OsStr::from_bytes(b"no\xffutf8\xfe")), b"bytes");
    crowd(&directory.join("crowd"), 3000);
}

fn kinds(directory: &Path) {
    fs::create_dir_all(directory).expect("a directory");
    let nodes = [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("null", FileType::CharacterDevice, makedev(1, 3)),
        ("large", FileType::CharacterDevice, makedev(300, 70_000)),
        ("disk", FileType::BlockDevice, makedev(8, 17)),
    ];
    for (name, kind, device) in nodes {
        let mode = Mode::from_raw_mode(0o640);
        mknodat(CWD, directory.join(name), kind, mode, device).expect(name);
    }
    for (name, target) in [("short", "fifo".to_owned()), ("long", "../x/".repeat(800))] {
        symlink(target, directory.join(name)).expect(name);
    }
    symlink("nowhere", directory.join("dangling")).expect("a link");
    write(directory.join("one"), &noise(1, 5000));
    for name in ["two", "three"] {
        fs::hard_link(directory.join("one"), directory.join(name)).expect(name);
    }
    fs::hard_link(directory.join("fifo"), directory.join("fifo too")).expect("a link");
}

fn owners(directory: &Path) {
    fs::create_dir_all(directory).expect("a directory");
    for (mode, uid, gid) in [
        (0o4755, 0, 0),
        (0o2711, 1000, 1001),
        (0o1777, 65_534, 65_533),
        (0o000, 65_536, 100_000),
        (0o644, 4_000_000_000, 4_000_000_001),
    ] {
        for is_directory in [false, true] {
            let path = directory.join(format!("{mode:o}-{is_directory}"));
            if is_directory {
                fs::create_dir(&path).expect("a directory");
            } else {
                write(path.clone(), b"owned");
            }
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            chownat(CWD, &path, uid, gid, AtFlags::empty()).expect("an owner");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
        }
    }
}

/// cap_net_raw=ep, revision 2.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// ACLs are missing: nydus-image refuses them ("invalid xattr key").
fn attributes(directory: &Path) {
    fs::create_dir_all(directory).expect("a directory");
    // A line's end in a value is too much for nydus-image's reader of tar files.
    let large: Vec<_> = noise(7, 1000).into_iter().filter(|byte| *byte != b'\n').collect();
    type Attributes<'a> = &'a [(&'a str, &'a [u8])];
    let table: [(&str, Attributes<'_>); 5] = [
        ("user", &[("user.a", b"1"), ("user.b", b""), ("user.long.name.of.it", &[0, 255, b'='])]),
        ("many", &[("user.1", &large), ("user.2", &large), ("user.3", &large[..5])]),
        ("trusted", &[("trusted.t", b"t"), ("trusted.overlay.origin", b"")]),
        ("capability", &[("security.capability", &CAPABILITY)]),
        ("dir", &[("user.d", b"d")]),
    ];
    for (name, attributes) in table {
        let path = directory.join(name);
        match name {
            "dir" => fs::create_dir(&path).expect(name),
            _ => write(path.clone(), name.as_bytes()),
        }
        for (attribute, value) in attributes {
            lsetxattr(&path, *attribute, value, XattrFlags::empty()).expect(attribute);
        }
    }
}

/// Times of all that was made: of some files special ones, of the others one, so that a tree is
/// the same whenever it is made.
fn times(root: &Path) {
    let set = |path: &Path, tv_sec, tv_nsec| {
        let time = Timespec { tv_sec, tv_nsec };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("a time");
    };
    fn all(directory: &Path, set: &dyn Fn(&Path)) {
        for entry in fs::read_dir(directory).expect("a directory").flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                all(&entry.path(), set);
            }
            set(&entry.path());
        }
    }
    all(root, &|path| set(path, 1_600_000_000, 123_456_789));
    set(&root.join("sizes/1"), 1, 0);
    set(&root.join("sizes/100"), 1, 999_999_999);
    set(&root.join("sizes/4096"), 5_000_000_000, 1);
    set(root, 1_500_000_000, 0);
}
