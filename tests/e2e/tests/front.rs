//! The helper under the names `mount.fuse` and `mount.fuse3`.

use nydus_e2e::differences::rows;
use nydus_e2e::mounts::{Mount, mount_at};
use nydus_e2e::programs::{self, BUILDS, tool};
use nydus_e2e::run::{Ran, run};
use nydus_e2e::service;
use nydus_e2e::stage::Stage;
use nydus_e2e::{lacks, linux, not_run};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const TINYFS: &str = env!("CARGO_BIN_EXE_tinyfs");
const SHOW: &str = env!("CARGO_BIN_EXE_show");
const NAMES: [&str; 2] = ["mount.fuse", "mount.fuse3"];
const LAYERS: &str = "lowerdir=l1:l2,upperdir=u,workdir=w";

/// A stage where `first` is a directory with both names for ours, `second` one for the programs
/// that it passes on to.
struct Front {
    stage: Stage,
    build: &'static str,
    path: String,
}

fn fronts() -> impl Iterator<Item = Front> {
    BUILDS.into_iter().map(|build| {
        let stage = Stage::with(&["first", "second", "l1", "l2", "u", "w", "t"]);
        fs::write(stage.join("l1/file"), "contents").expect("a file");
        for name in NAMES {
            link(&programs::ours(build), &stage.join("first").join(name));
        }
        let [first, second] = ["first", "second"].map(|name| stage.join(name));
        let path = format!("{}:{}:/usr/bin:/bin", first.display(), second.display());
        Front { stage, build, path }
    })
}

fn link(program: &Path, name: &Path) {
    symlink(fs::canonicalize(program).expect("a program"), name).expect("a link");
}

impl Front {
    fn command(&self, name: &str) -> Command {
        let mut command = self.stage.command(self.stage.join("first").join(name));
        command.env("PATH", &self.path).env("LD_LIBRARY_PATH", programs::libraries());
        command
    }

    fn run(&self, line: &str) -> Ran {
        let (name, rest) = line.split_once(' ').expect("a program and arguments");
        run(self.command(name).args(rest.split(' ')))
    }

    fn mounted(&self, ran: &Ran) -> Mount {
        assert!(ran.ok() && ran.stderr.is_empty(), "{ran}");
        let mount = mount_at(&self.stage.join("t")).unwrap_or_else(|| panic!("{ran}"));
        Mount { id: 0, ..mount }
    }

    /// Unmounts, and empties the upper and the work directory.
    fn clear(&self) {
        self.stage.unmount_all();
        for name in ["u", "w"] {
            fs::remove_dir_all(self.stage.join(name)).expect(name);
            fs::create_dir(self.stage.join(name)).expect(name);
        }
    }

    fn nothing_mounted(&self, ran: &Ran) {
        assert!(mount_at(&self.stage.join("t")).is_none(), "{ran}");
    }

    /// Puts `program` behind ours, as both names.
    fn behind(&self, program: &Path) {
        for name in NAMES {
            let _ = fs::remove_file(self.stage.join("second").join(name));
            link(program, &self.stage.join("second").join(name));
        }
    }
}

/// The same as the whole chain makes, by one process.
#[test]
fn mounts_in_its_own_process() {
    let Some(real) = programs::mount_fuse3() else { return not_run!("no fuse3") };
    for front in fronts() {
        link(&programs::ours(front.build), &front.stage.join("second/nydus-overlayfs"));
        front.behind(&real);
        let chain = front.stage.join("second/mount.fuse").display().to_string();
        let table = [
            ("overlay t -o LAYERS -o extraoption=e30= -t nydus-overlayfs", 0),
            ("overlay t -o LAYERS -t fuse.nydus-overlayfs", 0),
            ("overlay t -o LAYERS,nodev,user,owner -t nydus-overlayfs", 0),
            ("some,where t -o ro -o LAYERS -t nydus-overlayfs -v", 0),
            ("nydus-overlayfs#overlay t -o LAYERS", 0),
            ("nydus-overlayfs# t -o LAYERS", 0),
            ("nydus-overlayfs t -o LAYERS", 1),
            (" t -o LAYERS -t nydus-overlayfs", 1),
            ("overlay t -t nydus-overlayfs", 1),
            ("overlay gone -o LAYERS -t nydus-overlayfs", 32),
        ];
        for (line, code) in table {
            let line = line.replace("LAYERS", LAYERS);
            let mut command = front.stage.command(&chain);
            command.env("PATH", &front.path).env("LD_LIBRARY_PATH", programs::libraries());
            let theirs = run(command.args(line.split(' ')));
            assert_eq!(theirs.code(), Some(code), "{theirs}");
            let expected = mount_at(&front.stage.join("t")).map(|mount| Mount { id: 0, ..mount });
            front.clear();
            for name in NAMES {
                let ran = front.run(&format!("{name} {line}"));
                assert_eq!(ran.code(), Some(code), "{ran}");
                let mount = mount_at(&front.stage.join("t"));
                assert_eq!(mount.map(|mount| Mount { id: 0, ..mount }), expected, "{ran}");
                front.clear();
            }
        }
    }
}

/// What differs from the chain, as docs/differences.md has it: what the real program hands to a
/// helper, which is a script that prints it, and what ours mounts.
#[test]
fn differs_from_mount_fuse3_as_documented() {
    let Some(real) = programs::mount_fuse3() else { return not_run!("no fuse3") };
    for front in fronts() {
        let printer = front.stage.join("second/nydus-overlayfs");
        fs::write(&printer, "#!/bin/sh\nprintf '%s\\n' \"$*\"\n").expect("a script");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&printer, mode).expect("executable");
        for (name, file) in [("a", "l1"), ("b", "l2"), ("a,user", "l2"), ("l\\", "l2")] {
            let _ = fs::create_dir(front.stage.join(name));
            fs::write(front.stage.join(name).join(file), "").expect("a file");
        }
        for row in rows("## From `mount.fuse3`") {
            // The kernel knows this option from 6.7 on.
            if row[0].contains("lowerdir+=") && !linux(6, 7) {
                lacks!("lowerdir+ (6.7)");
                continue;
            }
            let mut chain = front.stage.command(&real);
            chain.env("PATH", &front.path).env("LD_LIBRARY_PATH", programs::libraries());
            let theirs = run(chain.args(row[0].split(' ')));
            let handed_on = String::from_utf8_lossy(&theirs.stdout).trim_end().to_owned();
            let outcome = if theirs.ok() { &*handed_on } else { "fails" };
            assert_eq!(outcome, row[1], "{theirs}");
            let ours = front.run(&format!("mount.fuse {}", row[0]));
            let mount = mount_at(&front.stage.join("t")).map(|mount| mount.options);
            let outcome = match (ours.ok(), &mount) {
                (false, _) => "fails",
                (true, None) => "nothing",
                (true, Some(options)) => options,
            };
            assert_eq!(outcome, row[2], "{ours}");
            front.stage.unmount_all();
        }
    }
}

#[test]
fn one_process_and_no_shell() {
    for front in fronts() {
        let mut command = front.stage.command("strace");
        command.args(["-f", "-o", "trace", "-e", "trace=process"]).env("PATH", &front.path);
        let line = format!("overlay t -o {LAYERS} -t nydus-overlayfs");
        let ran = run(command.arg(front.stage.join("first/mount.fuse")).args(line.split(' ')));
        front.mounted(&ran);
        let trace = fs::read_to_string(front.stage.join("trace")).expect("a trace");
        let count = |call: &str| trace.lines().filter(|line| line.contains(call)).count();
        assert_eq!((count("execve("), count("clone"), count("fork(")), (1, 0, 0), "{trace}");
    }
}

/// Linux takes 131,071 bytes in one argument, and 2 MiB in all.
#[test]
fn options_of_300_kib() {
    for front in fronts() {
        let volume = format!("io.katacontainers.volume={}", "A".repeat(100 << 10));
        let mut command = front.command("mount.fuse");
        command.args(["overlay", "t", "-o", LAYERS]);
        for _ in 0..3 {
            command.args(["-o", &volume]);
        }
        front.mounted(&run(command.args(["-t", "nydus-overlayfs"])));
        assert_eq!(fs::read(front.stage.join("t/file")).expect("a file"), b"contents");
    }
}

/// Arguments, the name too, environment, descriptors and working directory.
#[test]
fn passes_on_what_it_got() {
    for front in fronts() {
        front.behind(Path::new(SHOW));
        let table: &[&[&str]] = &[
            &["sshfs#host:", "t"],
            &["host:", "t", "-o", "a,b c,extraoption=c2VjcmV0", "-o", "", "-t", "fuse.sshfs"],
            &["", "", "-t", "\u{e9}'\"\\"],
            &["nydus-overlayfs", "t", "-t", "other"],
            &["--help"],
            &[],
        ];
        for arguments in table {
            for (file, name) in [
                ("mount.fuse", "mount.fuse"),
                ("mount.fuse3", "/any/where/mount.fuse3"),
                ("mount.fuse", "mount.fuse.sshfs"),
                ("mount.fuse", "mount.fuseblk.ntfs-3g"),
            ] {
                let asked = |program: PathBuf| {
                    let mut command = front.stage.command(program);
                    command.arg0(name).args(*arguments).env_clear();
                    command.env("PATH", &front.path).env("EMPTY", "").env("A", "b=c");
                    // SAFETY: dup2 is one system call, which may be made between fork and exec.
                    unsafe {
                        command
                            .pre_exec(|| Ok(nix::errno::Errno::result(libc::dup2(0, 9)).map(drop)?))
                    };
                    let ran = run(&mut command);
                    assert!(ran.ok(), "{ran}");
                    String::from_utf8_lossy(&ran.stdout).into_owned()
                };
                let ours = asked(front.stage.join("first").join(file));
                let direct = asked(PathBuf::from(SHOW));
                assert!(ours == direct && ours.contains("(\"9\", "), "{ours}\n{direct}");
            }
        }
    }
}

/// Ours under more names, as a link, a hard link or a copy, is never taken for the real one.
#[test]
fn never_runs_itself() {
    for front in fronts() {
        for kind in ["nothing", "link", "copy"] {
            for name in NAMES {
                let ours = programs::ours(front.build);
                let place = front.stage.join("second").join(name);
                let _ = fs::remove_file(&place);
                match kind {
                    "link" => link(&ours, &place),
                    "copy" => _ = fs::copy(&ours, &place).expect("a copy"),
                    _ => {}
                }
            }
            // An empty /sbin, in our namespace.
            let sbin = fs::canonicalize("/sbin").expect("/sbin");
            rustix::mount::mount_bind(front.stage.join("l2"), &sbin).expect("an empty /sbin");
            for line in ["mount.fuse x t -t sshfs", "mount.fuse3 sshfs#x t", "mount.fuse --help"] {
                let ran = front.run(line);
                let said = ran.said();
                assert_eq!(ran.code(), Some(127), "{ran}");
                let kind = line.split([' ', '#']).nth(1 + usize::from(line.contains("-t ")) * 3);
                let kind = kind.expect("a type");
                let expected = format!(
                    "nydus-overlayfs: cannot mount type '{kind}': \
                     mount.fuse3 not found in PATH or /sbin (install package fuse3)\n"
                );
                assert_eq!(said, expected, "{ran}");
            }
            let ran = front.run(&format!("mount.fuse overlay t -o {LAYERS} -t nydus-overlayfs"));
            front.mounted(&ran);
            front.stage.unmount_all();
            let flags = rustix::mount::UnmountFlags::DETACH;
            rustix::mount::unmount(&sbin, flags).expect("the old /sbin");
        }
    }
}

#[test]
fn what_cannot_be_run_is_named() {
    for front in fronts() {
        let place = front.stage.join("second/mount.fuse3");
        fs::write(&place, "no program").expect("a file");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&place, mode).expect("executable");
        let ran = front.run("mount.fuse3 x t -t sshfs");
        let said =
            format!("nydus-overlayfs: cannot run '{}': exec format error\n", place.display());
        assert!(ran.code() == Some(126) && ran.said() == said, "{ran}");
    }
}

/// A real FUSE program behind the real mount.fuse3 behind ours.
#[test]
fn other_file_systems_mount_as_before() {
    let Some(real) = programs::mount_fuse3() else { return not_run!("no fuse3") };
    for front in fronts() {
        front.behind(&real);
        link(Path::new(TINYFS), &front.stage.join("second/tinyfs"));
        for line in [
            "mount.fuse some#where t -o a -o b -t tinyfs",
            "mount.fuse3 some#where t -o a,b -t fuse.tinyfs",
            "mount.fuse tinyfs#some#where t -o a,b",
        ] {
            let ran = front.run(line);
            assert_eq!(front.mounted(&ran).kind, "fuse.tinyfs");
            let read = |name: &str| fs::read_to_string(front.stage.join("t").join(name));
            assert_eq!(read("hello").expect("a file"), "hello\n");
            assert_eq!(read("source").expect("a file"), "some#where");
            assert_eq!(read("options").expect("a file"), "a,b,dev,suid");
            front.stage.unmount_all();
        }
    }
}

#[test]
fn fuse_overlayfs_mounts_as_before() {
    let (Some(real), Some(program)) =
        (programs::mount_fuse3(), tool("fuse-overlayfs/usr/bin/fuse-overlayfs"))
    else {
        return not_run!("no fuse3 or no fuse-overlayfs");
    };
    for front in fronts() {
        front.behind(&real);
        link(&program, &front.stage.join("second/fuse-overlayfs"));
        let ran = front.run(&format!("mount.fuse3 overlay t -o {LAYERS} -t fuse-overlayfs"));
        let mount = mount_at(&front.stage.join("t"));
        assert_eq!(mount.expect("a mount").kind, "fuse.fuse-overlayfs", "{ran}");
        assert_eq!(fs::read(front.stage.join("t/file")).expect("a file"), b"contents");
        fs::write(front.stage.join("t/new"), "x").expect("writable");
        assert!(front.stage.join("u/new").exists());
        front.stage.unmount_all();
        let gone = || service::naming(front.stage.path()).is_empty();
        assert!(service::until(Duration::from_secs(20), gone), "fuse-overlayfs stays");
    }
}

/// mount(8) finds programs in /sbin only: here one in which ours are.
#[test]
fn lines_of_fstab() {
    for front in fronts() {
        let sbin = fs::canonicalize("/sbin").expect("/sbin");
        rustix::mount::mount_bind(front.stage.join("first"), &sbin).expect("another /sbin");
        let base = front.stage.path().display();
        let layers =
            format!("lowerdir={base}/l1:{base}/l2,upperdir={base}/u,workdir={base}/w,x-a=b");
        for line in [
            format!("overlay {base}/t fuse.nydus-overlayfs {layers},nofail,nosuid 0 0"),
            format!("nydus-overlayfs#overlay {base}/t fuse {layers},nosuid,_netdev 0 0"),
            format!("nydus-overlayfs#overlay {base}/t fuse3 {layers},user,nosuid 0 0"),
        ] {
            fs::write(front.stage.join("fstab"), &line).expect("a file");
            let target = front.stage.join("t");
            let mount = PathBuf::from("/usr/bin/mount");
            let ran = run(front.stage.command(mount).args(["-T", "fstab"]).arg(&target));
            let mount = front.mounted(&ran);
            assert_eq!(
                (&*mount.kind, mount.source.to_str()),
                ("overlay", Some("overlay")),
                "{line}"
            );
            let plain = mount.options.replace(",nodev", "").replace(",noexec", "");
            assert_eq!(plain, "rw,nosuid,relatime", "{line}");
            front.stage.unmount_all();
        }
        rustix::mount::unmount(&sbin, rustix::mount::UnmountFlags::DETACH).expect("the old /sbin");
    }
}

/// A root directory with nothing but the layers and ours: no fuse3, no shell, no /proc.
#[test]
fn in_a_root_without_anything() {
    for front in fronts() {
        let place = front.stage.join("mount.fuse");
        fs::copy(programs::ours(front.build), &place).expect("a copy");
        let mut command = Command::new("chroot");
        command.arg(front.stage.path()).arg("/mount.fuse");
        let layers = "lowerdir=/l1:/l2,upperdir=/u,workdir=/w,extraoption=e30=";
        command.args(["overlay", "/t", "-o", layers, "-t", "nydus-overlayfs"]);
        front.mounted(&run(&mut command));
        fs::write(front.stage.join("t/new"), "x").expect("writable");
        front.stage.unmount_all();
    }
}

/// What it says itself is the helper's word; nothing is mounted.
#[test]
fn refused() {
    for front in fronts() {
        for (word, text) in [
            ("setuid=1000", "option 'setuid=1000' is not supported: "),
            ("drop_privileges", "option 'drop_privileges' is not supported: "),
            ("bind", "option 'bind' is not supported: only new overlay mounts are supported\n"),
            ("X-mount.subdir=a", "option 'X-mount.subdir=a' is not supported: "),
            ("X-mount.owner=7", "option 'X-mount.owner=7' is not supported: "),
        ] {
            let ran =
                front.run(&format!("mount.fuse overlay t -o {LAYERS},{word} -t nydus-overlayfs"));
            assert!(ran.said().starts_with(&format!("nydus-overlayfs: {text}")), "{ran}");
            assert_eq!(ran.code(), Some(1), "{ran}");
            front.nothing_mounted(&ran);
        }
    }
}
