//! Number, names and kinds of layers: each is seen through the mount.

use nydus_e2e::mounts::mount_at;
use nydus_e2e::programs::{self, BUILDS};
use nydus_e2e::run::run;
use nydus_e2e::stage::Stage;
use nydus_e2e::{lacks, linux};
use overlay_mount::MOUNT_DATA_MAX;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// Layers with these names, uppermost first: each has a file of its own, and one that all have.
fn layers(stage: &Stage, names: &[OsString]) {
    for (number, name) in names.iter().enumerate() {
        make_directory(stage, name);
        let from = std::env::current_dir().expect("a working directory");
        // Relative steps: a path may be longer than a system call takes with its prefix.
        rustix::process::chdir(stage.path()).expect("the stage");
        fs::write(PathBuf::from(name).join(format!("own-{number}")), "").expect("a file");
        fs::write(PathBuf::from(name).join("all"), number.to_string()).expect("a file");
        rustix::process::chdir(from).expect("back");
    }
}

fn make_directory(stage: &Stage, name: &OsStr) {
    let from = std::env::current_dir().expect("a working directory");
    rustix::process::chdir(stage.path()).expect("the stage");
    fs::create_dir_all(name).expect("a layer");
    rustix::process::chdir(from).expect("back");
}

fn escaped(path: &OsStr) -> Vec<u8> {
    let escape = |byte: &u8| match byte {
        b',' | b':' | b'\\' => vec![b'\\', *byte],
        byte => vec![*byte],
    };
    path.as_bytes().iter().flat_map(escape).collect()
}

/// Mounts with each build; the options get the stage's path where they say `@`.
fn check(names: &[OsString], options: &[u8], lower: &[OsString]) {
    for build in BUILDS {
        let stage = Stage::with(&["u", "w", "t"]);
        layers(&stage, names);
        let prefix = stage.path().as_os_str().as_bytes();
        let options = options.split(|byte| *byte == b'@').collect::<Vec<_>>().join(prefix);
        let mut command = stage.command(programs::ours(build));
        let ran = run(command.args(["overlay", "t", "-o"]).arg(OsStr::from_bytes(&options)));
        assert!(ran.ok(), "{ran}");
        for number in 0..names.len() {
            let own = stage.join("t").join(format!("own-{number}"));
            assert!(own.exists() == (number < lower.len()), "layer {number}: {ran}");
        }
        assert_eq!(fs::read(stage.join("t/all")).expect("a file"), b"0", "{ran}");
        let shown = mount_at(&stage.join("t")).expect("a mount").overlay();
        let at = |name: &OsString| match options.starts_with(b"lowerdir=/") || prefix.is_empty() {
            true => stage.join(name),
            false => PathBuf::from(name),
        };
        let expected: Vec<_> = lower.iter().map(at).collect();
        if options.len() > MOUNT_DATA_MAX && !linux(6, 7) {
            assert_eq!(shown.lower.len(), expected.len(), "{ran}");
            continue;
        }
        assert_eq!([shown.lower, shown.data].concat(), expected, "{ran}");
    }
}

fn joined(one: impl AsRef<OsStr>, other: impl AsRef<OsStr>) -> OsString {
    let mut both = one.as_ref().to_owned();
    both.push(other);
    both
}

fn numbered(count: usize) -> Vec<OsString> {
    (0..count).map(|number| format!("layers/number-{number:03}/fs").into()).collect()
}

fn lowerdir(names: &[OsString], prefix: &str) -> Vec<u8> {
    let path = |name: &OsString| [prefix.as_bytes(), &escaped(name)].concat();
    let paths: Vec<_> = names.iter().map(path).collect();
    [b"lowerdir=".to_vec(), paths.join(&b':')].concat()
}

const UPPER: &[u8] = b",upperdir=@/u,workdir=@/w";

#[test]
fn numbers_of_layers() {
    for count in [1, 2, 127, 499, 500] {
        let names = numbered(count);
        check(&names, &[&lowerdir(&names, "@/"), UPPER].concat(), &names);
    }
}

#[test]
fn five_hundred_and_one_are_too_many() {
    for (build, prefix) in BUILDS.into_iter().flat_map(|build| [(build, ""), (build, "././././")]) {
        let stage = Stage::with(&["t"]);
        let names: Vec<OsString> = (0..501).map(|number| format!("l{number}").into()).collect();
        layers(&stage, &names);
        let options = lowerdir(&names, prefix);
        let mut command = stage.command(programs::ours(build));
        let ran = run(command.args(["overlay", "t", "-o"]).arg(OsStr::from_bytes(&options)));
        let text = "501 lower layers; overlayfs takes at most 500";
        // 5.10 answers with ENOMEM, which is the system's failure.
        let code = if linux(5, 15) { 32 } else { 2 };
        assert!(ran.code() == Some(code) && ran.said().contains(text), "{ran}");
        assert!(mount_at(&stage.join("t")).is_none());
    }
}

#[test]
fn names() {
    let raw = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let names = [
        raw(b"sp ace"),
        raw(b"com,ma"),
        raw(b"co:lon"),
        raw(b"back\\slash"),
        raw(b"quo\"te"),
        raw(b"apos'trophe"),
        raw(b"new\nline"),
        raw(b"\xff\xfe"),
        raw(b"$HOME`id`"),
        raw(b"#*=?"),
        raw(b"-o"),
        raw(b"ro"),
        raw(b"extraoption="),
        raw(&[b'x'; 255]),
    ];
    check(&names, &lowerdir(&names, "@/"), &names);
    check(&names, &[&lowerdir(&names, "@/"), UPPER].concat(), &names);
    for name in &names {
        let pair = [name.clone(), "other".into()];
        check(&pair, &lowerdir(&pair, "@/"), &pair);
        check(&pair, &lowerdir(&pair, "./"), &[joined("./", name), "./other".into()]);
    }
}

/// A path of 255 bytes goes as a string, a longer one by descriptor; 4,095 is the longest.
#[test]
fn long_paths() {
    for build in BUILDS {
        for length in [250, 256, 300, 3_900, 4_060] {
            let stage = Stage::with(&["t"]);
            let base = stage.path().as_os_str().len() + 1;
            let mut path = String::new();
            while base + path.len() + 5 < length {
                let rest = length - base - path.len() - 4;
                path += &format!("{}/", "d".repeat(rest.min(200).saturating_sub(1).max(1)));
            }
            layers(&stage, &["other".into(), joined(&path, "l")]);
            for part in ["u", "w"] {
                make_directory(&stage, &joined(&path, part));
            }
            let here = format!("{}/{path}", stage.path().display());
            let other = stage.join("other").display().to_string();
            let options = format!("lowerdir={other}:{here}l,upperdir={here}u,workdir={here}w");
            let mut command = stage.command(programs::ours(build));
            let ran = run(command.args(["overlay", "t", "-o", &options]));
            assert!(ran.ok(), "{length}: {ran}");
            assert!(stage.join("t/own-1").exists(), "{ran}");
            fs::write(stage.join("t/new"), "").expect("writable");
            stage.unmount_all();
        }
    }
}

#[test]
fn kinds() {
    let names: Vec<OsString> = ["l1", "l2", "d1"].map(OsString::from).to_vec();
    let two = &names[..2];
    let table: &[(&str, &[OsString])] = &[
        ("lowerdir=l1:l2", two),
        ("lowerdir+=l1,lowerdir+=l2", two),
        ("lowerdir=d1:l2,lowerdir=l1:l2", two),
        ("lowerdir+=d1,lowerdir=l1:l2", two),
        ("lowerdir=l1,upperdir=u,workdir=w", &names[..1]),
    ];
    for (options, lower) in table {
        if options.contains('+') && !linux(6, 7) {
            lacks!("lowerdir+= and datadir+= (6.7)");
            continue;
        }
        check(&names, options.as_bytes(), lower);
    }
}

/// Files of a data-only layer are not listed; their contents serve those that point to them.
#[test]
fn data_only_layers() {
    for (build, options) in BUILDS.into_iter().flat_map(|build| {
        ["lowerdir=l1:l2::d1", "lowerdir+=l1,lowerdir+=l2,datadir+=d1"].map(|o| (build, o))
    }) {
        if !linux(6, 7) {
            lacks!("data-only layers in all forms (6.7)");
            continue;
        }
        let stage = Stage::with(&["t"]);
        layers(&stage, &["l1".into(), "l2".into(), "d1".into()]);
        let options = format!("{options}{}", if linux(6, 15) { "" } else { ",metacopy=on" });
        let mut command = stage.command(programs::ours(build));
        let ran = run(command.args(["overlay", "t", "-o", &options]));
        assert!(ran.ok(), "{ran}");
        let shown = mount_at(&stage.join("t")).expect("a mount").overlay();
        assert_eq!(shown.data, [PathBuf::from("d1")], "{ran}");
        assert!(stage.join("t/own-1").exists() && !stage.join("t/own-2").exists(), "{ran}");
    }
}

#[test]
fn targets() {
    for build in BUILDS {
        let stage = Stage::with(&["l1", "l2", "t", "dir"]);
        symlink("t", stage.join("link")).expect("a link");
        symlink("../t", stage.join("dir/link")).expect("a link");
        fs::write(stage.join("file"), "").expect("a file");
        let absolute = stage.join("link").display().to_string();
        let table = [
            ("t", 0),
            ("./t", 0),
            ("t/", 0),
            ("dir/../t", 0),
            ("link", 0),
            ("dir/link", 0),
            (&absolute, 0),
            ("file", 32),
            ("missing", 32),
            ("", 32),
        ];
        for (target, code) in table {
            let mut command = stage.command(programs::ours(build));
            let ran = run(command.args(["overlay", target, "-o", "lowerdir=l1:l2"]));
            assert_eq!(ran.code(), Some(code), "{ran}");
            assert_eq!(mount_at(&stage.join("t")).is_some(), code == 0, "{ran}");
            stage.unmount_all();
        }
    }
}
