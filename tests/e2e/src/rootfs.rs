//! The files of which the test images consist.

use crate::programs;
use crate::run::run;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const APPLETS: &[&str] = &[
    "sh",
    "cat",
    "ls",
    "id",
    "sleep",
    "stat",
    "head",
    "wc",
    "dd",
    "sha256sum",
    "mknod",
    "touch",
    "chmod",
    "find",
    "ln",
    "mkdir",
    "mv",
    "rm",
    "sync",
    "tr",
    "uname",
];

/// Shows the effective and the real user: that of busybox would drop a privilege before it looks.
const SUID: &str = "#include <stdio.h>
#include <unistd.h>
int main(void) { return printf(\"%d %d\\n\", (int)geteuid(), (int)getuid()) < 0; }
";

/// `setfattr PATH NAME VALUE`: busybox has none.
const SETFATTR: &str = "#include <string.h>
#include <sys/xattr.h>
int main(int c, char **v) { return setxattr(v[1], v[2], v[3], strlen(v[3]), 0) < 0; }
";

/// `xattrs PATH...`: a line for each extended attribute.
const XATTRS: &str = "#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>
int main(int c, char **v) {
    while (*++v) {
        char names[4096], value[4096];
        ssize_t all = llistxattr(*v, names, sizeof names);
        for (char *name = names; name < names + all; name += strlen(name) + 1) {
            ssize_t length = lgetxattr(*v, name, value, sizeof value);
            printf(\"%s %s=%.*s\\n\", *v, name, length < 0 ? 0 : (int)length, value);
        }
    }
    return 0;
}
";

/// Where the large file is.
pub const BIG: &str = "data/big";

/// Makes the directories of two layers below `directory`, lowest first; `None` if there is no
/// busybox.
///
/// In them: a shell and its tools; `data/big`, a file of `big` bytes that do not compress;
/// `data/both`, of which the layers have `one` and `two`; `data/lower` and `data/upper`;
/// `data/removed`, which the second layer removes; `bin/suid`, `bin/setfattr` and `bin/xattrs`, if
/// there is a C compiler.
///
/// # Panics
/// They cannot be written.
pub fn layers(directory: &Path, big: usize) -> Option<[PathBuf; 2]> {
    let busybox = programs::busybox()?;
    let [lower, upper] = ["layer1", "layer2"].map(|name| directory.join(name));
    layer(&lower, &[("data/both", b"one\n"), ("data/lower", b"lower\n"), ("data/removed", b"x\n")]);
    layer(&lower, &[("etc/passwd", b"root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")]);
    layer(&lower, &[("etc/group", b"root:x:0:\nnogroup:x:65534:\n"), (BIG, &noise(big))]);
    for name in ["bin", "dev", "proc", "sys", "tmp"] {
        fs::create_dir_all(lower.join(name)).expect(name);
    }
    fs::copy(busybox, lower.join("bin/busybox")).expect("busybox");
    for name in APPLETS {
        symlink("busybox", lower.join("bin").join(name)).expect(name);
    }
    let removed = ("data/.wh.removed", b"".as_slice());
    layer(&upper, &[("data/both", b"two\n"), ("data/upper", b"upper\n"), removed]);
    compile(directory, &upper.join("bin"), ("suid", SUID, 0o4755));
    compile(directory, &upper.join("bin"), ("setfattr", SETFATTR, 0o755));
    compile(directory, &upper.join("bin"), ("xattrs", XATTRS, 0o755));
    Some([lower, upper])
}

/// Writes files of a layer, with the directories that they need.
///
/// # Panics
/// They cannot be written.
pub fn layer(directory: &Path, files: &[(&str, &[u8])]) {
    for (name, content) in files {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect(name);
        fs::write(path, content).expect(name);
    }
}

/// `length` bytes that do not compress, always the same ones (xorshift64).
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

fn compile(scratch: &Path, bin: &Path, (name, text, mode): (&str, &str, u32)) {
    fs::create_dir_all(bin).expect("bin");
    let (source, program) = (scratch.join(format!("{name}.c")), bin.join(name));
    fs::write(&source, text).expect("a source");
    if Command::new("gcc").arg("--version").output().is_err() {
        return crate::not_run!("{name}, a program in an image: no gcc");
    }
    let built = run(Command::new("gcc").args(["-static", "-o"]).arg(&program).arg(&source));
    assert!(built.ok(), "{built}");
    fs::set_permissions(program, fs::Permissions::from_mode(mode)).expect(name);
}
