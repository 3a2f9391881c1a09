//! Every way in which the helper is called.

use nydus_e2e::mounts::{mount_at, mounts};
use nydus_e2e::programs::{self, BUILDS};
use nydus_e2e::run::run;
use nydus_e2e::stage::Stage;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const LOWER: &str = "lowerdir=l1:l2";

fn each(test: impl Fn(&Stage, &Path)) {
    for build in BUILDS {
        let stage = Stage::with(&["l1", "l2", "u", "w", "t"]);
        for layer in ["l1", "l2"] {
            fs::write(stage.join(layer).join(layer), "").expect("a file");
        }
        test(&stage, &programs::ours(build));
    }
}

#[test]
fn forms_that_mount() {
    let table: &[(&[&str], &str)] = &[
        (&["overlay", "t", "-o", LOWER], "overlay"),
        (&["-o", LOWER, "overlay", "t"], "overlay"),
        (&["overlay", "-o", "lowerdir=l1", "t", "-o", "upperdir=u,workdir=w"], "overlay"),
        (&["overlay", "t", "-olowerdir=l1:l2"], "overlay"),
        (&["overlay", "t", "-snolowerdir=l1:l2"], "overlay"),
        (&["-o", LOWER, "--", "overlay", "t"], "overlay"),
        (&["overlay", "t", "-s", "-n", "-o", LOWER, "-t", "fuse.nydus-overlayfs"], "overlay"),
        (&["overlay", "t", "-o", "rw", "-o", LOWER, "-tfuse.nydus-overlayfs"], "overlay"),
        (&["none", "t", "-o", LOWER], "none"),
        (&["/dev/a b", "t", "-o", LOWER], "/dev/a b"),
        (&["", "t", "-o", LOWER], ""),
        (&["--", "-o", "t", "-o"], ""),
    ];
    each(|stage, helper| {
        let suffix = stage.join("nydus-overlayfs-v2");
        symlink(helper, &suffix).expect("a link");
        for (arguments, source) in table {
            for name in [helper, &suffix] {
                let ran = run(stage.command(name).args(*arguments));
                let mount = mount_at(&stage.join("t"));
                if arguments[0] == "--" {
                    assert!(ran.code() == Some(1) && mount.is_none(), "{ran}");
                    continue;
                }
                assert!(ran.ok() && ran.stderr.is_empty() && ran.stdout.is_empty(), "{ran}");
                let mount = mount.unwrap_or_else(|| panic!("{ran}"));
                assert_eq!(
                    (mount.kind.as_str(), mount.source.to_str()),
                    ("overlay", Some(*source))
                );
                stage.unmount_all();
            }
        }
    });
}

#[test]
fn forms_that_do_not_mount() {
    let table: &[(&[&str], i32, &str, &str)] = &[
        (&["--version"], 0, "nydus-overlayfs 0.", ""),
        (&["overlay", "--help"], 0, "Usage: nydus-overlayfs SOURCE TARGET", ""),
        (&["overlay", "t", "-f", "-o", LOWER], 0, "", ""),
        (&["overlay", "t", "-fv", "-o", LOWER], 0, "", ""),
        (
            &["overlay", "t", "-f", "-o", "bind,lowerdir=l1"],
            1,
            "",
            "option 'bind' is not supported: only new overlay mounts are supported",
        ),
        (&[], 1, "", "no target: expected SOURCE TARGET -o OPTIONS"),
        (&["overlay"], 1, "", "no target"),
        (&["overlay", "t"], 1, "", "no lower layer"),
        (&["overlay", "t", "-o", "ro"], 1, "", "no lower layer"),
        (&["overlay", "t", "-o"], 1, "", "'-o' needs a value"),
        (&["overlay", "t", "x", "-o", LOWER], 1, "", "unexpected argument 3"),
        (&["overlay", "t", "-z", "-o", LOWER], 1, "", "unknown flag '-z'"),
        (&["overlay", "t", "-sz", "-o", LOWER], 1, "", "unknown flag '-z'"),
        (&["overlay", "t", "--move=x", "-o", LOWER], 1, "", "unknown flag '--move'"),
        (
            &["overlay", "t", "-N", "missing", "-o", LOWER],
            32,
            "",
            "cannot enter mount namespace 'missing': no such file or directory",
        ),
        (
            &["overlay", "t", "-N", "l1", "-o", LOWER],
            32,
            "",
            "cannot enter mount namespace 'l1': invalid argument",
        ),
    ];
    each(|stage, helper| {
        for (arguments, code, printed, said) in table {
            let ran = run(stage.command(helper).args(*arguments));
            assert_eq!(ran.code(), Some(*code), "{ran}");
            let stdout = String::from_utf8_lossy(&ran.stdout).into_owned();
            assert!(
                stdout.starts_with(printed) && stdout.is_empty() == printed.is_empty(),
                "{ran}"
            );
            let line = ran.said();
            assert_eq!(line.is_empty(), said.is_empty(), "{ran}");
            assert!(
                line.is_empty() || line.starts_with(&format!("nydus-overlayfs: {said}")),
                "{ran}"
            );
            assert!(mount_at(&stage.join("t")).is_none(), "{ran}");
        }
        let ran = run(stage.command(helper).args(["overlay", "t", "-v", "-o", LOWER]));
        assert_eq!(ran.stdout, b"nydus-overlayfs: overlay mounted on 't'\n", "{ran}");
    });
}

/// A line of /etc/fstab with spaces, read by the real `mount(8)`, which finds the helper in /sbin.
#[test]
fn by_fstab() {
    each(|stage, helper| {
        fs::create_dir(stage.join("sp ace")).expect("a directory");
        let sbin = fs::canonicalize("/sbin").expect("/sbin");
        fs::create_dir(stage.join("links")).expect("a directory");
        symlink(helper, stage.join("links/mount.fuse.nydus-overlayfs")).expect("a link");
        let base = stage.path().display();
        let lower = format!("lowerdir={base}/links:{}", sbin.display());
        let options = format!("{LOWER},upperdir=u,workdir=w").replace("l1:l2", "@/l1:@/l2");
        let options =
            options.replace("=u", "=@/u").replace("=w", "=@/w").replace('@', &base.to_string());
        let line = format!(
            "overlay {base}/sp\\040ace fuse.nydus-overlayfs nosuid,noauto,{options},extraoption=e30= 0 0\n"
        );
        fs::write(stage.join("fstab"), line).expect("an fstab");
        let sbin = sbin.display().to_string();
        let mount = |arguments: &[&str]| {
            let ran = run(stage.command("mount").args(arguments));
            assert!(ran.ok(), "{ran}");
        };
        mount(&["--bind", "fstab", "/etc/fstab"]);
        mount(&["-t", "overlay", "x", &sbin, "-o", &lower]);
        mount(&[&stage.join("sp ace").display().to_string()]);
        let mounted = mount_at(&stage.join("sp ace")).expect("a mount");
        assert_eq!(mounted.options, "rw,nosuid,relatime");
        assert_eq!(mounted.overlay().lower, [stage.join("l1"), stage.join("l2")]);
        run(stage.command("umount").args(["-l", &sbin, "/etc/fstab"]));
    });
}

/// A process in namespaces of its own, ended when dropped.
struct Other(Child);

impl Other {
    fn new(flags: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        command.args(flags).args(["--kill-child", "sh", "-c", "echo ready; exec sleep 60"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("unshare");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        Self(child)
    }

    /// The process that is in the namespaces: a child, where the PID namespace is new.
    fn pid(&self) -> u32 {
        let id = self.0.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        children.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(id)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn into_another_namespace() {
    let flags: [&[&str]; 2] = [&["-m", "--fork"], &["-m", "--fork", "--pid", "--mount-proc"]];
    each(|stage, helper| {
        for flags in flags {
            for relative in [false, true] {
                let other = Other::new(flags);
                let pid = other.pid();
                let at = |name: &str| stage.join(name).display().to_string();
                // Entering a mount namespace makes its root the working directory.
                let path = |name| match relative {
                    true => at(name).trim_start_matches('/').to_owned(),
                    false => at(name),
                };
                let options = format!("lowerdir={}:{}", path("l1"), path("l2"));
                let namespace = format!("/proc/{pid}/ns/mnt");
                let target = path("t");
                let ran = run(stage
                    .command(helper)
                    .args(["overlay", &target, "-N", &namespace, "-o", &options]));
                assert!(ran.ok(), "{ran}");
                let there =
                    fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mountinfo");
                assert!(there.contains(&format!(" {} rw", at("t"))), "{there}");
                assert!(mount_at(&stage.join("t")).is_none(), "mounted here, too");
                let l2 = fs::exists(format!("/proc/{pid}/root{}/l2", at("t"))).expect("a look");
                assert!(l2, "{ran}");
            }
        }
    });
}

/// `mount(8)` has switched back when it runs the helper, and hands over a descriptor of its own.
#[test]
fn into_another_namespace_by_mount8() {
    each(|stage, helper| {
        let sbin = fs::canonicalize("/sbin").expect("/sbin").display().to_string();
        let at = |name: &str| stage.join(name).display().to_string();
        fs::create_dir(stage.join("links")).expect("a directory");
        symlink(helper, stage.join("links/mount.fuse.nydus-overlayfs")).expect("a link");
        let other = Other::new(&["-m", "--fork"]);
        let lower = format!("lowerdir={}:{sbin}", at("links"));
        let options = format!("lowerdir={}:{},extraoption=e30=", at("l1"), at("l2"));
        let (pid, target) = (other.pid().to_string(), at("t"));
        for arguments in [
            vec!["-t", "overlay", "x", &sbin, "-o", &lower],
            vec!["-N", &pid, "-t", "fuse.nydus-overlayfs", "overlay", &target, "-o", &options],
        ] {
            let ran = run(stage.command("mount").args(&arguments));
            assert!(ran.ok(), "{ran}");
        }
        run(stage.command("umount").args(["-l", &sbin]));
        let there = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mountinfo");
        assert!(there.contains(&format!(" {target} rw")), "{there}");
        assert!(mount_at(&stage.join("t")).is_none(), "mounted here, too");
    });
}

#[test]
fn in_a_root_without_proc() {
    each(|stage, helper| {
        for directory in ["root/l1", "root/l2", "root/t"] {
            fs::create_dir_all(stage.join(directory)).expect("a directory");
        }
        fs::copy(helper, stage.join("root/helper")).expect("a copy");
        for options in ["lowerdir=/l1:/l2", "lowerdir=l1:l2", "lowerdir=/l1:/l2,shared"] {
            let arguments = ["root", "/helper", "overlay", "/t", "-o", options];
            let ran = run(stage.command("chroot").args(arguments));
            assert!(ran.ok(), "{ran}");
            assert!(mount_at(&stage.join("root/t")).is_some(), "{ran}");
            stage.unmount_all();
        }
    });
}

/// With closed standard descriptors no layer gets one of their numbers, and no text is lost in it.
#[test]
fn with_closed_descriptors() {
    each(|stage, helper| {
        let before = mounts().len();
        for closed in 0..8 {
            let close = |bit: i32, text: &'static str| if closed & bit != 0 { text } else { "" };
            let how = [close(1, "<&-"), close(2, ">&-"), close(4, "2>&-")].join(" ");
            for (options, works) in
                [(LOWER, true), ("lowerdir=l1:l2,shared", true), ("lowerdir=l1:missing", false)]
            {
                let script = format!("exec \"$0\" -v overlay t -o {options} {how}");
                let ran = run(stage.command("/bin/sh").arg("-c").arg(&script).arg(helper));
                assert_eq!(ran.ok(), works, "{script} {ran}");
                assert_eq!(mounts().len() - before, usize::from(works), "{script} {ran}");
                assert_eq!(ran.said().is_empty(), works || closed & 4 != 0, "{script} {ran}");
                stage.unmount_all();
            }
        }
    });
}

#[test]
fn refused_when_setuid() {
    each(|stage, helper| {
        let copy: PathBuf = stage.join("copy");
        for (mode, works) in [(0o4755, false), (0o2755, false), (0o755, true)] {
            fs::copy(helper, &copy).expect("a copy");
            fs::set_permissions(&copy, PermissionsExt::from_mode(mode)).expect("a mode");
            fs::set_permissions(stage.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
            let nobody = [
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "./copy",
                "-f",
                "x",
                "t",
                "-o",
                LOWER,
            ];
            let ran = run(stage.command("setpriv").args(nobody));
            assert_eq!(ran.ok(), works, "{mode:o} {ran}");
            assert_eq!(ran.said().contains("refuses to run setuid or setgid"), !works, "{ran}");
        }
    });
}
