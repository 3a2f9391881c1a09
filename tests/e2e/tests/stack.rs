//! Through the real `mount.fuse3`, as containerd calls it.

use nydus_e2e::mounts::{Mount, mount_at};
use nydus_e2e::not_run;
use nydus_e2e::programs::{self, BUILDS};
use nydus_e2e::run::{Ran, run};
use nydus_e2e::stage::Stage;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

/// The specification's options, word for word.
const FOO: &str =
    "lowerdir=./foo/lower2:./foo/lower1,upperdir=./foo/upper,workdir=./foo/work,extraoption=BASE64";

/// A tree as in the specification, a PATH in which `mount.fuse` and `mount.fuse3` are fuse3's,
/// and `nydus-overlayfs` is one of our builds.
struct Stack {
    stage: Stage,
    path: String,
}

/// Runs `test` with each build.
fn each(test: impl Fn(&Stack)) {
    let Some(fuse3) = programs::mount_fuse3() else { return not_run!("no fuse3") };
    for build in BUILDS {
        let stage = Stage::with(&["foo/lower1", "foo/lower2", "foo/merged", "bin"]);
        for name in ["lower1", "lower2"] {
            fs::write(stage.join("foo").join(name).join("mark"), name).expect("a mark");
        }
        let ours = programs::ours(build);
        for (name, program) in
            [("mount.fuse", &fuse3), ("mount.fuse3", &fuse3), ("nydus-overlayfs", &ours)]
        {
            symlink(program, stage.join("bin").join(name)).expect("a link");
        }
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", stage.join("bin").display());
        test(&Stack { stage, path });
    }
}

impl Stack {
    /// Runs a line in a tree without mounts and with empty upper and work directory.
    fn run(&self, line: &str) -> Ran {
        self.stage.unmount_all();
        for name in ["foo/upper", "foo/work"] {
            let _ = fs::remove_dir_all(self.stage.join(name));
            fs::create_dir(self.stage.join(name)).expect(name);
        }
        let mut words = line.split(' ');
        let program = words.next().expect("a program");
        let ours = self.stage.join("bin").join(program);
        let program = if ours.exists() { ours } else { program.into() };
        run(self.stage.command(program).args(words).env("PATH", &self.path))
    }

    /// What `line` mounts.
    fn mounted(&self, line: &str) -> Mount {
        let ran = self.run(line);
        assert!(ran.ok() && ran.stderr.is_empty(), "{ran}");
        let mount = mount_at(&self.stage.join("foo/merged")).unwrap_or_else(|| panic!("{ran}"));
        Mount { id: 0, ..mount }
    }

    /// What `mount -t overlay` mounts in its place.
    fn yardstick(&self) -> Mount {
        let options = FOO.replace("extraoption=BASE64", "dev,suid");
        self.mounted(&format!("mount -i -t overlay overlay ./foo/merged -o {options}"))
    }
}

#[test]
fn the_two_lines_of_the_specification() {
    each(|stack| {
        let expected = stack.yardstick();
        for line in [
            format!("mount.fuse overlay ./foo/merged -o {FOO} -t nydus-overlayfs"),
            format!("nydus-overlayfs overlay ./foo/merged -o {FOO},dev,suid"),
        ] {
            assert_eq!(stack.mounted(&line), expected, "{line}");
            let merged = stack.stage.join("foo/merged");
            assert_eq!(fs::read(merged.join("mark")).expect("a mark"), b"lower2");
            fs::write(merged.join("new"), "written").expect("writable");
            assert_eq!(fs::read(stack.stage.join("foo/upper/new")).expect("there"), b"written");
        }
    });
}

/// containerd cuts `fuse.` or `fuse3.` off the type, runs `mount.` and what it cut, and gives
/// each option its own `-o`.
#[test]
fn as_containerd_calls_it() {
    each(|stack| {
        let expected = stack.yardstick();
        let words = FOO.replace(',', " -o ");
        let absolute = stack.stage.join("bin/nydus-overlayfs-suffix");
        symlink(stack.stage.join("bin/nydus-overlayfs"), &absolute).expect("a link");
        let absolute = absolute.display().to_string();
        for (program, name) in [
            ("mount.fuse", "nydus-overlayfs"),
            ("mount.fuse3", "nydus-overlayfs"),
            ("mount.fuse", &absolute),
        ] {
            let line = format!("{program} overlay ./foo/merged -o {words} -t {name}");
            assert_eq!(stack.mounted(&line), expected, "{line}");
        }
    });
}

/// `mount(8)` with both prefixes, its programs in /sbin found in this namespace only.
#[test]
fn types_with_both_prefixes() {
    each(|stack| {
        let expected = stack.yardstick();
        let sbin = fs::canonicalize("/sbin").expect("/sbin");
        for directory in ["links", "links-upper", "links-work"] {
            fs::create_dir(stack.stage.join(directory)).expect(directory);
        }
        let ours = fs::read_link(stack.stage.join("bin/nydus-overlayfs")).expect("a link");
        for prefix in ["fuse", "fuse3"] {
            let name = format!("mount.{prefix}.nydus-overlayfs");
            symlink(&ours, stack.stage.join("links").join(name)).expect("a link");
        }
        let lower = format!("lowerdir={}:{}", stack.stage.join("links").display(), sbin.display());
        let sbin = sbin.display().to_string();
        let ran =
            run(stack.stage.command("mount").args(["-t", "overlay", "x", &sbin, "-o", &lower]));
        assert!(ran.ok(), "{ran}");
        for prefix in ["fuse", "fuse3"] {
            let line = format!("mount -t {prefix}.nydus-overlayfs overlay ./foo/merged -o {FOO}");
            assert_eq!(stack.mounted(&line), expected, "{line}");
        }
        run(stack.stage.command("umount").args(["-l", &sbin]));
    });
}

#[test]
fn setuid_programs_and_devices_work() {
    each(|stack| {
        let lower = stack.stage.join("foo/lower1");
        fs::copy("/usr/bin/id", lower.join("id")).expect("a program");
        let setuid = fs::Permissions::from_mode(0o4755);
        fs::set_permissions(lower.join("id"), setuid).expect("setuid");
        fs::set_permissions(stack.stage.path(), PermissionsExt::from_mode(0o755)).expect("open");
        let made = run(stack.stage.command("mknod").arg(lower.join("null")).args(["c", "1", "3"]));
        let line = format!("mount.fuse overlay ./foo/merged -o {FOO} -t nydus-overlayfs");
        stack.mounted(&line);
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "./foo/merged/id", "-u"];
        let ran = run(stack.stage.command("setpriv").args(nobody));
        assert_eq!(ran.stdout, b"0\n", "{ran}");
        // In a user namespace nobody can make a device node.
        if made.ok() {
            fs::write(stack.stage.join("foo/merged/null"), "x").expect("a device that works");
        } else {
            not_run!("device node: {}", made.said().trim());
        }
    });
}

#[test]
fn exit_codes_and_errors_come_through() {
    each(|stack| {
        let table = [
            (
                "lower1",
                "missing",
                32,
                "lower layer 2 of 2 './foo/missing': no such file or directory",
            ),
            ("lowerdir", "lower", 1, "no lower layer: expected lowerdir="),
            ("workdir=", "work=", 32, "upperdir needs a workdir: invalid argument"),
        ];
        for (from, to, code, text) in table {
            let options = FOO.replace(from, to).replace("BASE64", "c2VjcmV0");
            let ran = stack
                .run(&format!("mount.fuse overlay ./foo/merged -o {options} -t nydus-overlayfs"));
            assert_eq!(ran.code(), Some(code), "{ran}");
            let said = ran.said();
            assert!(said.starts_with("nydus-overlayfs: ") && said.contains(text), "{ran}");
            assert!(said.lines().count() == 1 && !ran.shows(b"c2VjcmV0"), "{ran}");
            assert!(mount_at(&stack.stage.join("foo/merged")).is_none(), "{ran}");
        }
    });
}

/// `sh -c` takes 131,071 bytes; the longest options that get through it get through us.
#[test]
fn the_longest_options_that_sh_takes() {
    each(|stack| {
        let options = FOO.replace("BASE64", &"A".repeat(130_000));
        stack.mounted(&format!("mount.fuse overlay ./foo/merged -o {options} -t nydus-overlayfs"));
    });
}
