//! The packages in a clean Debian: installed by dpkg, used, upgraded, removed.

use nydus_e2e::debian::{Debian, PATH};
use nydus_e2e::run::{Ran, run};
use nydus_e2e::service::Service;
use nydus_e2e::{not_run, programs};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

const NAME: &str = "nydus-overlayfs";
const PROGRAMS: [&str; 3] = [NAME, "nydus-slice", "containerd-nydus-grpc"];
const LAYERS: &str = "lowerdir=/mnt/l1:/mnt/l2,upperdir=/mnt/u,workdir=/mnt/w,extraoption=e30=";
const CONFFILES: [&str; 2] = ["etc/nydus/config.toml", "etc/nydus/nydusd-config.json"];

/// The package whose name ends so.
fn package(end: &str) -> PathBuf {
    let entries = fs::read_dir(programs::ours("packages")).expect("packages").flatten();
    let mut paths = entries.map(|entry| entry.path());
    paths.find(|path| path.to_string_lossy().ends_with(end)).expect(end)
}

/// Does `test` in a clean Debian.
fn in_debian(test: impl FnOnce(&Debian)) {
    match Debian::new() {
        Some(debian) => test(&debian),
        None => not_run!("no root of Debian 12 by debootstrap, or not root"),
    }
}

fn install(debian: &Debian) {
    let deb = debian.bring(&package(".deb"));
    debian.expect(&format!("dpkg -i {deb}"));
    fs::remove_file(debian.path(&deb[1..])).expect("the package");
}

#[test]
fn comes_and_goes_without_a_trace() {
    in_debian(|debian| {
        let unit = "nydus-snapshotter.service";
        let wants = debian.path("etc/systemd/system/multi-user.target.wants");
        assert!(wants.is_dir());
        let before = debian.files();
        install(debian);
        assert!(debian.path("usr/lib/systemd/system").join(unit).exists());
        let fresh = debian.files().into_keys().filter(|path| !before.contains_key(path));
        let enabled = |path: &PathBuf| path.starts_with("etc/systemd");
        assert_eq!(fresh.filter(enabled).collect::<Vec<_>>(), Vec::<PathBuf>::new());
        // As `systemctl enable` does.
        symlink(format!("/lib/systemd/system/{unit}"), wants.join(unit)).expect("a link");
        debian.expect(&format!("dpkg -r {NAME}"));
        let kept: Vec<_> = debian.files().into_keys().filter(|p| !before.contains_key(p)).collect();
        let is_kept = |path: &str| kept.iter().any(|one| one == Path::new(path));
        assert!(CONFFILES.into_iter().all(is_kept), "{kept:?}");
        assert!(!kept.iter().any(|path| path.starts_with("usr")), "{kept:?}");
        debian.expect(&format!("dpkg -P {NAME}"));
        let after = debian.files();
        let changed: Vec<_> = before
            .iter()
            .filter(|(path, what)| after.get(*path) != Some(*what))
            .map(|(path, _)| path)
            .chain(after.keys().filter(|path| !before.contains_key(*path)))
            .collect();
        assert!(changed.is_empty(), "{changed:?}");
        let status = debian.run(&format!("dpkg -s {NAME}"));
        assert!(!status.ok(), "{status}");
    });
}

#[test]
fn files_are_its_own_and_safe() {
    in_debian(|debian| {
        let list = |package: &str| -> BTreeSet<PathBuf> {
            let paths = debian.expect(&format!("dpkg -L {package}"));
            let is_file = |path: &PathBuf| !debian.path("").join(path).is_dir();
            paths.lines().map(|path| path[1..].into()).filter(is_file).collect()
        };
        let fuse3 = list("fuse3");
        install(debian);
        let ours = list(NAME);
        assert!(fuse3.iter().any(|path| path.ends_with("sbin/mount.fuse3")), "{fuse3:?}");
        assert_eq!(ours.intersection(&fuse3).collect::<Vec<_>>(), Vec::<&PathBuf>::new());
        assert!(!debian.expect("dpkg-divert --list").contains(NAME));
        assert!(ours.len() > 25, "{ours:?}");
        for path in &ours {
            let meta = fs::symlink_metadata(debian.path("").join(path)).expect("a file");
            let program = path.starts_with("usr/bin");
            let expected = if program { 0o100_755 } else { 0o100_644 };
            let mode = if meta.is_symlink() { expected } else { meta.mode() };
            let shown = path.display();
            assert_eq!((mode, meta.uid(), meta.gid()), (expected, 0, 0), "{shown}");
            let points = fs::canonicalize(debian.path("").join(path)).expect("a file");
            assert!(points.starts_with(debian.path("")), "{shown} -> {}", points.display());
        }
        assert_eq!(debian.expect(&format!("dpkg -V {NAME}")), "");
        let scripts = debian.path("var/lib/dpkg/info");
        for name in ["postinst", "prerm", "postrm"] {
            let meta = fs::metadata(scripts.join(format!("{NAME}.{name}"))).expect(name);
            assert_eq!(meta.permissions().mode(), 0o100_755, "{name}");
        }
    });
}

#[test]
fn programs_pages_and_completions_are_there() {
    in_debian(|debian| {
        install(debian);
        let version = debian.expect(&format!("dpkg-query -W -f ${{Version}} {NAME}"));
        let version = version.split('-').next().expect("a version");
        for name in PROGRAMS {
            let said = debian.expect(&format!("{name} --version"));
            assert!(said.contains(version), "{said}");
            let linked = debian.run(&format!("ldd /usr/bin/{name}"));
            let shows = ["statically linked", "not a dynamic executable"].map(str::as_bytes);
            assert!(shows.iter().any(|words| linked.shows(words)), "{linked}");
            let section = if name == "nydus-slice" { 1 } else { 8 };
            let page = format!("/usr/share/man/man{section}/{name}.{section}.gz");
            let page = debian.expect(&format!("gzip -dc {page}"));
            assert!(page.contains(".SH SYNOPSIS") && !page.contains("/usr/local/bin/"), "{name}");
        }
        for name in &PROGRAMS[1..] {
            let bash = format!("/usr/share/bash-completion/completions/{name}");
            debian.expect(&format!("bash -n {bash}"));
            for file in [
                bash,
                format!("/usr/share/zsh/vendor-completions/_{name}"),
                format!("/usr/share/fish/vendor_completions.d/{name}.fish"),
            ] {
                let script = fs::read_to_string(debian.path(&file[1..])).expect("a script");
                assert!(script.contains("completions") && script.contains(name), "{file}");
            }
        }
        let unit = debian.path("usr/lib/systemd/system/nydus-snapshotter.service");
        let unit = fs::read_to_string(unit).expect("a unit");
        let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a line");
        let checked = debian.expect(&format!("{start} config check"));
        assert!(checked.contains("daemon_mode"), "{checked}");
        let license = "/usr/share/doc/nydus-overlayfs/copyright";
        debian.expect(&format!("grep -q Apache-2.0 {license}"));
    });
}

/// Mounts, looks, writes, unmounts.
#[track_caller]
fn check_mount(debian: &Debian, words: &str) {
    let ran = debian.run(words);
    let mount = debian.mount_at("mnt/t");
    assert!(ran.ok() && mount.is_some_and(|mount| mount.kind == "overlay"), "{ran}");
    assert_eq!(debian.expect("cat /mnt/t/lower"), "contents");
    fs::write(debian.path("mnt/t/new"), "x").expect("writable");
    assert!(debian.path("mnt/u/new").exists());
    let flags = rustix::mount::UnmountFlags::empty();
    rustix::mount::unmount(debian.path("mnt/t"), flags).expect("unmounted");
    fs::remove_file(debian.path("mnt/u/new")).expect("a file");
}

/// The words that put the front first in PATH, as the unit's drop-in does.
fn front(debian: &Debian) -> String {
    let example = "usr/share/doc/nydus-overlayfs/examples/containerd-mount-fuse.conf";
    let drop_in = fs::read_to_string(debian.path(example)).expect("an example");
    let path = drop_in.lines().find_map(|line| line.strip_prefix("Environment=PATH="));
    let path = path.expect("a line");
    assert!(path.ends_with(PATH), "{path}");
    format!("env PATH={path}")
}

#[test]
fn mounts_with_and_without_proc_and_fuse3() {
    in_debian(|debian| {
        install(debian);
        debian.set_layers(&["l1", "l2", "u", "w", "t"]);
        fs::write(debian.path("mnt/l2/lower"), "contents").expect("a file");
        let (front, options) = (front(debian), format!("overlay /mnt/t -o {LAYERS}"));
        let ours = [
            format!("{NAME} {options}"),
            format!("{front} mount.fuse {options} -t nydus-overlayfs"),
            format!("{front} mount.fuse3 {options} -t nydus-overlayfs"),
            format!("mount -t fuse.nydus-overlayfs {options}"),
        ];
        let chain = format!("mount.fuse {options} -t nydus-overlayfs");
        for there in [false, true] {
            if there {
                debian.set_proc(true);
            }
            ours.iter().chain([&chain]).for_each(|words| check_mount(debian, words));
            // What is not ours is fuse3's, with and without us.
            let words = "mount.fuse3 nosuch#source /mnt/t";
            let [plain, passed] = [debian.run(words), debian.run(&format!("{front} {words}"))];
            assert!(plain.code() != Some(0) && plain.said().contains("nosuch"), "{plain}");
            assert_eq!((passed.code(), passed.said()), (plain.code(), plain.said()), "{passed}");
        }
        debian.expect("dpkg -r fuse3");
        for there in [true, false] {
            if !there {
                debian.set_proc(false);
            }
            ours.iter().for_each(|words| check_mount(debian, words));
            assert_eq!(debian.run(&chain).code(), Some(127));
            let ran = debian.run(&format!("{front} mount.fuse3 nosuch#source /mnt/t"));
            assert!(
                ran.code() == Some(127) && ran.said().contains("(install package fuse3)"),
                "{ran}"
            );
        }
    });
}

/// A package of a later version, with other contents of one configuration file if asked for.
fn later(debian: &Debian, version: &str, conffile: Option<&str>) -> Ran {
    let deb = debian.bring(&package(".deb"));
    debian.expect(&format!("dpkg-deb -R {deb} /mnt/later"));
    let control = debian.path("mnt/later/DEBIAN/control");
    let text = fs::read_to_string(&control).expect("a control file");
    let is_version = |line: &str| line.starts_with("Version: ");
    let lines = text.lines().map(|line| match is_version(line) {
        true => format!("Version: {version}\n"),
        false => format!("{line}\n"),
    });
    fs::write(&control, lines.collect::<String>()).expect("a control file");
    if let Some(text) = conffile {
        for name in CONFFILES {
            fs::write(debian.path("mnt/later").join(name), text).expect(name);
        }
    }
    debian.expect("dpkg-deb --root-owner-group -Znone --build /mnt/later /mnt/later.deb");
    fs::remove_dir_all(debian.path("mnt/later")).expect("removed");
    debian.run("dpkg --force-confold -i /mnt/later.deb")
}

#[test]
fn edited_configuration_survives_upgrades() {
    in_debian(|debian| {
        install(debian);
        let [config, template] = CONFFILES.map(|name| debian.path(name));
        let edited = fs::read_to_string(&config).expect("a file") + "# Mine.\n";
        fs::write(&config, &edited).expect("a file");
        fs::set_permissions(&config, PermissionsExt::from_mode(0o600)).expect("a mode");
        for (version, conffile) in [("9.1-1", None), ("9.2-1", Some("# New.\n"))] {
            let old = fs::read_to_string(&template).expect("a file");
            let ran = later(debian, version, conffile);
            assert!(ran.ok(), "{ran}");
            let status = debian.expect(&format!("dpkg -s {NAME}"));
            assert!(status.contains(&format!("Version: {version}")), "{status}");
            assert_eq!(fs::read_to_string(&config).expect("a file"), edited, "{ran}");
            let mode = fs::metadata(&config).expect("a file").permissions().mode();
            assert_eq!(mode, 0o100_600, "{ran}");
            // Nobody has edited this one.
            let new = fs::read_to_string(&template).expect("a file");
            assert_eq!(new, conffile.unwrap_or(&old), "{ran}");
        }
        let shown = debian.expect(&format!("dpkg -V {NAME}"));
        assert!(shown.contains(CONFFILES[0]) && shown.lines().count() == 1, "{shown}");
    });
}

/// Debian 13 has the Go programs in a package of this name, at the same paths.
#[test]
fn takes_the_place_of_the_go_package() {
    in_debian(|debian| {
        for (path, text) in [
            ("DEBIAN/control", CONTROL_OF_GO),
            ("usr/bin/nydus-overlayfs", "go"),
            ("usr/bin/containerd-nydus-grpc", "go"),
            ("usr/bin/converter", "go"),
        ] {
            let path = debian.path("mnt/go").join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
            fs::write(path, text).expect("a file");
        }
        debian.expect("dpkg-deb --build /mnt/go /mnt/go.deb");
        debian.expect("dpkg -i /mnt/go.deb");
        install(debian);
        let go = debian.run("dpkg-query -W -f ${Status} nydus-snapshotter");
        assert!(!go.shows(b" ok installed"), "{go}");
        assert!(!debian.path("usr/bin/converter").exists());
        for name in PROGRAMS {
            assert!(debian.expect(&format!("dpkg -S /usr/bin/{name}")).starts_with(NAME));
            debian.expect(&format!("{name} --version"));
        }
    });
}

const CONTROL_OF_GO: &str = "Package: nydus-snapshotter\nVersion: 0.13.4-1\nArchitecture: all\n\
    Maintainer: Nobody <nobody@example.org>\nDescription: stands in for the Go package\n";

/// As the unit starts it, with the configuration of the package.
#[test]
fn the_snapshotter_serves_and_loads_no_library() {
    in_debian(|debian| {
        install(debian);
        debian.set_proc(true);
        // A module for names that the C library of this Debian has beside it.
        fs::write(debian.path("etc/nsswitch.conf"), "hosts: hesiod files\n").expect("a file");
        fs::write(debian.path("etc/hosts"), "127.0.0.1 metrics.test\n").expect("a file");
        let config = debian.path(CONFFILES[0]);
        let text = fs::read_to_string(&config).expect("a file");
        let text = text.replace("\naddress = \"\"", "\naddress = \"metrics.test:0\"");
        assert!(text.contains("metrics.test"), "{text}");
        fs::write(&config, text).expect("a file");
        let words = ["containerd-nydus-grpc", "--config", "/etc/nydus/config.toml"];
        let mut service = Service::start(&mut debian.command(words), debian.path("mnt/log"));
        let socket = debian.path("run/containerd-nydus/containerd-nydus-grpc.sock");
        service.wait("socket", || UnixStream::connect(&socket).is_ok());
        let status = debian.expect("containerd-nydus-grpc --config /etc/nydus/config.toml status");
        assert!(status.contains("SNAPSHOT"), "{status}");
        let maps = format!("/proc/{}/maps", service.pid().as_raw_pid());
        let maps = fs::read_to_string(maps).expect("a process");
        assert!(maps.contains("containerd-nydus-grpc") && !maps.contains(".so"), "{maps}");
        assert!(service.stop(), "{}", service.said());
        assert!(!socket.exists());
    });
}

#[test]
fn the_tarball_is_good_and_mounts() {
    let packages = programs::ours("packages");
    let ran = run(Command::new("sha256sum").args(["-c", "SHA256SUMS"]).current_dir(&packages));
    assert!(ran.ok() && ran.stdout.iter().filter(|byte| **byte == b'\n').count() == 3, "{ran}");
    let tarball = package(".tar.gz");
    let ran = run(Command::new("tar").args(["--numeric-owner", "-tvzf"]).arg(&tarball));
    let list = String::from_utf8_lossy(&ran.stdout).into_owned();
    let names: Vec<_> = list.lines().filter_map(|line| line.split_whitespace().nth(5)).collect();
    assert!(ran.ok() && names.len() > 25 && names.is_sorted(), "{ran}");
    assert!(list.lines().all(|line| line.contains(" 0/0 ")), "{list}");
    in_debian(|debian| {
        let tarball = debian.bring(&tarball);
        debian.expect(&format!("tar -C /usr/local --strip-components=1 -xzf {tarball}"));
        debian.set_layers(&["l1", "l2", "u", "w", "t"]);
        fs::write(debian.path("mnt/l2/lower"), "contents").expect("a file");
        let options = format!("overlay /mnt/t -o {LAYERS} -t nydus-overlayfs");
        let libexec = "/usr/local/libexec/nydus-overlayfs";
        for words in [
            format!("{NAME} {options}"),
            format!("mount.fuse {options}"),
            format!("{libexec}/mount.fuse {options}"),
        ] {
            check_mount(debian, &words);
        }
        for name in PROGRAMS {
            debian.expect(&format!("/usr/local/bin/{name} --version"));
        }
        let unit = debian.path("usr/local/lib/systemd/system/nydus-snapshotter.service");
        let unit = fs::read_to_string(unit).expect("a unit");
        assert!(unit.contains("ExecStart=/usr/local/bin/containerd-nydus-grpc"), "{unit}");
    });
}
