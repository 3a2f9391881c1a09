//! The words of SELinux, where it is on: tier `kernels` runs this in a guest.
//!
//! `SELINUX_POLICY` names a compiled policy, which is loaded here if none is yet.

use nydus_e2e::mount8::{Mount8, Version};
use nydus_e2e::mounts::mount_at;
use nydus_e2e::not_run;
use nydus_e2e::observe::{Scene, observe};
use nydus_e2e::programs::{self, BUILDS};
use nydus_e2e::run::run;
use nydus_e2e::stage::Stage;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

const FILES: &str = "/sys/fs/selinux";
const LAYERS: &str = "lowerdir=l1:l2,upperdir=u,workdir=w";

/// Words, and whether the kernel takes them once a policy is loaded.
const TABLE: [(&str, bool); 17] = [
    ("context=any_u:any_r:other_t:s0", true),
    ("context=\"any_u:any_r:other_t:s0\"", true),
    ("context=\"any_u:any_r:other_t:s0:c1,c3\"", true),
    ("noatime,context=\"any_u:any_r:other_t:s0:c1,c3\",nodev", true),
    ("context=any_u:any_r:other_t:s0:c1,c3", false),
    ("context='any_u:any_r:other_t:s0'", false),
    ("context=any_u:any_r:other_t:s0:c1\\,c3", false),
    ("context=any_u:any_r:nosuch_t:s0", false),
    ("context=", false),
    ("context=any_u:any_r:other_t:s0,context=any_u:any_r:other_t:s0", true),
    ("context=any_u:any_r:other_t:s0,noatime,context=any_u:any_r:any_t:s0", true),
    ("context=any_u:any_r:other_t:s0,fscontext=any_u:any_r:other_t:s0", true),
    ("fscontext=any_u:any_r:other_t:s0", true),
    ("rootcontext=any_u:any_r:other_t:s0", true),
    ("defcontext=any_u:any_r:other_t:s0", true),
    ("fscontext=any_u:any_r:other_t:s0,defcontext=any_u:any_r:other_t:s0", true),
    ("context=any_u:any_r:other_t:s0,defcontext=any_u:any_r:other_t:s0", false),
];

/// One test, as the policy cannot be taken back.
#[test]
fn words() {
    if !Path::new(FILES).join("load").exists() {
        return not_run!("SELinux is not on");
    }
    let policy = std::env::var_os("SELINUX_POLICY").expect("SELINUX_POLICY");
    let is_loaded =
        fs::read_to_string("/proc/self/attr/current").is_ok_and(|context| context.contains(':'));
    if !is_loaded {
        compare("before a policy is loaded", |_| false);
        let policy = fs::read(policy).expect("a policy");
        fs::write(Path::new(FILES).join("load"), policy).expect("the kernel takes it");
    }
    compare("with a policy", |taken| taken);
    contexts_in_long_words();
}

/// Our builds, directly and as `mount.fuse`, against `mount(8)`.
fn compare(when: &str, expected: impl Fn(bool) -> bool) {
    let stage = Stage::new();
    let look = |mut command: Command| {
        let scene = Scene { base: stage.path(), shared: false, plain: false };
        observe(scene, &mut command).expect("a tree to mount in")
    };
    let mount = Mount8::find(Version::V2_38).expect("the host's at least");
    let names = tempfile::tempdir().expect("a directory");
    let mut wrong = String::new();
    for build in BUILDS {
        let helper = fs::canonicalize(programs::ours(build)).expect("a program");
        let front = names.path().join(build).join("mount.fuse");
        fs::create_dir(names.path().join(build)).expect("a directory");
        std::os::unix::fs::symlink(&helper, &front).expect("a link");
        for (words, taken) in TABLE {
            let options = format!("{LAYERS},{words}");
            let (theirs, said) = look(mount.overlay(Path::new("m"), options.as_bytes()));
            if theirs.mounted != expected(taken) {
                wrong += &format!("{when}: {words} {said}\n");
            }
            for (program, kind) in [(&helper, &[][..]), (&front, &["-t", "nydus-overlayfs"])] {
                let mut command = Command::new(program);
                command.args(["overlay", "m", "-o", &options]).args(kind);
                let (ours, said) = look(command);
                if ours != theirs {
                    wrong += &format!("{when}: {words} {said}\n{}", ours.differences(&theirs));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    println!("SELinux {when}: {} words as mount(8) has them", TABLE.len());
}

/// In a file-system context a quoted value stands without its quotes.
fn contexts_in_long_words() {
    for build in BUILDS {
        let stage = Stage::with(&["u", "w", "t"]);
        let names: Vec<_> = (0..60).map(|at| format!("{}{at}", "n".repeat(90))).collect();
        for name in &names {
            fs::create_dir(stage.join(name)).expect("a layer");
        }
        fs::write(stage.join(&names[59]).join("file"), "").expect("a file");
        let words = "context=\"any_u:any_r:other_t:s0:c1,c3\"";
        let lower = names.join(":");
        let options = format!("lowerdir={lower},upperdir=u,workdir=w,{words}");
        let mut command = stage.command(programs::ours(build));
        let ran = run(command.args(["overlay", "t", "-o", &options]));
        assert!(ran.ok() && ran.stderr.is_empty(), "{ran}");
        assert_eq!(mount_at(&stage.join("t")).expect("a mount").overlay().lower.len(), 60);
        assert_eq!(label(&stage.join("t/file")), "any_u:any_r:other_t:s0:c1,c3", "{ran}");
    }
}

fn label(file: &Path) -> String {
    let mut value = [0; 256];
    let length = rustix::fs::getxattr(file, c"security.selinux", &mut value).expect("a label");
    let value = OsStr::from_bytes(&value[..length]).to_string_lossy().into_owned();
    value.trim_end_matches('\0').to_owned()
}
