//! Which slices are taken, and what is said of the others.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kata_handoff::{Error, Reader, Rootfs, Storage};
use nydus_mount_slice::Mount;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const NYDUS: &str = "fuse.nydus-overlayfs";

/// A snapshot with a bootstrap of each version, none of them with a file in it.
fn world() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut v6 = vec![0; 4096];
    v6[1024..1028].copy_from_slice(&0xe0f5_e1e2_u32.to_le_bytes());
    v6[1036] = 12;
    fs::write(dir.path().join("v6"), v6).unwrap();
    fs::write(dir.path().join("v5"), [*b"SFAR", [0, 5, 0, 0]].concat()).unwrap();
    fs::write(dir.path().join("none"), "no bootstrap").unwrap();
    for part in ["snapshot/fs", "snapshot/work", "blobs", "cache", "half/fs"] {
        fs::create_dir_all(dir.path().join(part)).unwrap();
    }
    fs::write(dir.path().join("file"), "").unwrap();
    dir
}

fn config(dir: &Path, more: &str) -> String {
    let dir = dir.display();
    format!(
        r#"{{"device":{{"backend":{{"type":"localfs","config":{{"dir":"{dir}/blobs"}}}},"cache":{{"type":"blobcache","config":{{"work_dir":"{dir}/cache"}}}}}},"mode":"direct","digest_validate":false{more}}}"#
    )
}

/// `D` stands for the directory; `C` for a good configuration as a JSON string.
fn payload(dir: &Path, json: &str) -> String {
    let good = serde_json::to_string(&config(dir, "")).unwrap();
    let json = json.replace("\"C\"", &good).replace("D/", &format!("{}/", dir.display()));
    format!("extraoption={}", STANDARD.encode(json))
}

fn slice(fs_type: &str, options: &[String]) -> Mount {
    let lower = "lowerdir=/a".to_owned();
    let options = [lower].into_iter().chain(options.iter().cloned()).collect();
    Mount { fs_type: fs_type.into(), source: "overlay".into(), target: String::new(), options }
}

const GOOD: &str = r#"{"source":"D/v6","config":"C","snapshotdir":"D/snapshot","fs_version":"v6"}"#;

fn words(outcome: Result<Rootfs, Error>) -> String {
    match outcome {
        Ok(rootfs) => rootfs.version.as_str().to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn payloads() {
    let dir = world();
    let dir = dir.path();
    let rows: &[(&str, &str)] = &[
        (GOOD, "v6"),
        (r#"{"source":"D/v5","config":"C","snapshotdir":"D/snapshot","fs_version":"v5"}"#, "v5"),
        // The bootstrap tells what only the Go runtime does without.
        (r#"{"source":"D/v5","config":"C","snapshotdir":"D/snapshot"}"#, "v5"),
        (
            r#"{"source":"D/v6","config":"C","snapshotdir":"D/snapshot","unknown":1,"fs_version":"v6"}"#,
            "v6",
        ),
        (
            " {\"source\":\"D/v6\",\"config\":\"C\",\"snapshotdir\":\"D/snapshot\",\"fs_version\":\"v6\"}\n",
            "v6",
        ),
        (
            r#"{"source":"D/v6","config":"C","snapshotdir":"D/snapshot","fs_version":"rafsv6"}"#,
            "Kata's Rust runtime reads it, then fails: `fs_version` is neither `v5` nor `v6`",
        ),
        (
            r#"{"source":"D/v6","config":"C","snapshotdir":"D/snapshot","fs_version":"v5"}"#,
            "is RAFS v6, but fs_version says v5",
        ),
        (
            r#"{"source":"","config":"C","snapshotdir":"D/snapshot","fs_version":"v6"}"#,
            "Kata's Go runtime refuses it: field `source` is empty",
        ),
        (
            r#"{"source":"D/v6","config":"","snapshotdir":"D/snapshot","fs_version":"v6"}"#,
            "Kata's Go runtime refuses it: field `config` is empty",
        ),
        (
            r#"{"source":"D/v6","config":"C","snapshotdir":"","fs_version":"v6"}"#,
            "Kata's Go runtime refuses it: field `snapshotdir` is empty",
        ),
        (
            r#"{"source":"D/v6","source":"D/v5","config":"C","snapshotdir":"D/snapshot","fs_version":"v6"}"#,
            "Kata's Rust runtime refuses it: field `source` is given more than once",
        ),
        (
            r#"{"Source":"D/v6","config":"C","snapshotdir":"D/snapshot","fs_version":"v6"}"#,
            "Kata's Rust runtime refuses it: field `source` is missing",
        ),
        (
            r#"{"source":null,"config":"C","snapshotdir":"D/snapshot","fs_version":"v6"}"#,
            "no runtime accepts this extraoption: ",
        ),
        (
            r#"{"source":"D/v6","config":{},"snapshotdir":"D/snapshot","fs_version":"v6"}"#,
            "no runtime accepts this extraoption: ",
        ),
        (r#"["D/v6","C","D/snapshot","v6"]"#, "Kata's Go runtime refuses it: not a JSON object"),
        (&*format!("{GOOD} x"), "no runtime accepts this extraoption: "),
        // Without a version too: what both see.
        (
            r#"{"source":"D/v6","Source":"D/v5","config":"C","snapshotdir":"D/snapshot"}"#,
            "Kata's Go runtime sees another `source`",
        ),
        (
            r#"{"source":"v6","config":"C","snapshotdir":"D/snapshot","fs_version":"v6"}"#,
            "source \"v6\": expected an absolute path without `..`",
        ),
        (
            r#"{"source":"D/v6","config":"C","snapshotdir":"D/../x","fs_version":"v6"}"#,
            "/../x\": expected an absolute path without `..`",
        ),
        (
            r#"{"source":"D/missing","config":"C","snapshotdir":"D/snapshot","fs_version":"v6"}"#,
            "cannot read bootstrap",
        ),
        (
            r#"{"source":"D/none","config":"C","snapshotdir":"D/snapshot","fs_version":"v6"}"#,
            "is no RAFS bootstrap",
        ),
    ];
    for (json, expected) in rows {
        let mounts = [slice(NYDUS, &[payload(dir, json)])];
        let found = words(Rootfs::recognise(&mounts, Reader::Go));
        assert!(found.contains(expected), "{json}: {found}");
        assert!(!found.contains("blobcache"), "{found}");
    }
}

#[test]
fn slices() {
    let dir = world();
    let good = payload(dir.path(), GOOD);
    let bare = good.trim_start_matches("extraoption=").to_owned();
    let with = |option: String| vec![slice(NYDUS, &[option])];
    let unpadded = good.trim_end_matches('=').to_owned();
    let broken = |end: &str| format!("extraoption={}{end}{}", &bare[..8], &bare[8..]);
    // With one byte in the last group, its second symbol has bits left over.
    let mut spaced =
        (0..3).map(|spaces| payload(dir.path(), &(GOOD.to_owned() + &" ".repeat(spaces))));
    let bits = spaced.find(|option| option.ends_with("==")).expect("one of three");
    let bits = bits.replace("fQ==", "fR==").replace("IA==", "IB==");
    let mut not_utf8 = STANDARD.decode(&bare).unwrap();
    let at = not_utf8.len() - r#"","fs_version":"v6"}"#.len() - 1;
    not_utf8[at] = 0xff;
    let not_utf8 = format!("extraoption={}", STANDARD.encode(not_utf8));
    let rows: Vec<(Vec<Mount>, Reader, &str)> = vec![
        (with(good.clone()), Reader::Rust, "v6"),
        (
            vec![slice("fuse./opt/bin/nydus-overlayfs-x", std::slice::from_ref(&good))],
            Reader::Go,
            "v6",
        ),
        (
            vec![slice("fuse./opt/bin/nydus-overlayfs-x", std::slice::from_ref(&good))],
            Reader::Rust,
            "Kata's Rust runtime expects fuse.nydus-overlayfs",
        ),
        (
            vec![slice("fuse3.nydus-overlayfs", std::slice::from_ref(&good))],
            Reader::Go,
            "mount type \"fuse3.nydus-overlayfs\": Kata's Go runtime expects fuse.nydus-overlayfs",
        ),
        (vec![slice("overlay", std::slice::from_ref(&good))], Reader::Go, "mount type \"overlay\""),
        (vec![], Reader::Go, "mount slice has 0 entries, expected exactly one"),
        (
            [with(good.clone()), with(good.clone())].concat(),
            Reader::Rust,
            "mount slice has 2 entries, expected exactly one",
        ),
        (vec![slice(NYDUS, &[])], Reader::Go, "no option `extraoption=BASE64` found"),
        (
            vec![slice(NYDUS, &[good.clone(), good.clone()])],
            Reader::Go,
            "Kata's Rust runtime refuses it: 2 options with this name, expected exactly one",
        ),
        (with(format!("extraoption={good}")), Reader::Rust, "Kata's Go runtime refuses it"),
        (with(format!(" {good}")), Reader::Go, "no option `extraoption=BASE64` found"),
        (with(good.replace("extra", "Extra")), Reader::Go, "no option `extraoption=BASE64` found"),
        (with(format!("{good}\n")), Reader::Go, "Kata's Rust runtime refuses it"),
        (
            with(unpadded.clone() + if unpadded == good { "=" } else { "" }),
            Reader::Go,
            "no runtime accepts this extraoption: ",
        ),
        (with("extraoption=".into()), Reader::Go, "no runtime accepts this extraoption: "),
        (
            with(bits),
            Reader::Go,
            "Kata's Rust runtime refuses it: the last base64 character has trailing",
        ),
        (
            with(not_utf8),
            Reader::Go,
            "Kata's Rust runtime refuses it: the decoded text is not UTF-8",
        ),
        (with(broken("\r")), Reader::Go, "Kata's Rust runtime refuses it: byte 8 is not in"),
        (with(broken("\n")), Reader::Go, "Kata's Rust runtime refuses it: byte 8 is not in"),
        (
            with(format!("extraoption={}", bare.replacen('e', "-", 1))),
            Reader::Go,
            "no runtime accepts this extraoption: ",
        ),
        (
            vec![slice(NYDUS, &[good.clone(), "io.katacontainers.volume=e30=".into()])],
            Reader::Go,
            "io.katacontainers.volume takes precedence",
        ),
    ];
    for (mounts, reader, expected) in rows {
        let found = words(Rootfs::recognise(&mounts, reader));
        assert!(found.contains(expected), "{expected}: {found}");
        assert!(!found.contains(&bare), "{found}");
    }
}

#[test]
fn what_would_fail_later() {
    let dir = world();
    let dir = dir.path();
    let good = config(dir, "");
    let v2 = |validate: bool, blobs: &str| {
        let dir = dir.display();
        format!(
            r#"{{"version":2,"backend":{{"type":"localfs","localfs":{{"dir":"{dir}/{blobs}"}}}},"rafs":{{"validate":{validate}}}}}"#
        )
    };
    let rows: Vec<(&str, String, &str, &str)> = vec![
        ("v6", good.clone(), "snapshot", ""),
        ("v5", good.replace("false", "true"), "snapshot", ""),
        ("v6", v2(false, "blobs"), "snapshot", ""),
        (
            "v6",
            good.replace("false", "true"),
            "snapshot",
            "digest_validate is true, expected false for RAFS v6",
        ),
        ("v6", v2(true, "blobs"), "snapshot", "rafs.validate is true, expected false for RAFS v6"),
        ("v6", v2(false, "none"), "snapshot", "blob directory"),
        ("v6", good.replace("/blobs", "/missing"), "snapshot", "blob directory"),
        ("v6", good.replace("/cache", "/missing"), "snapshot", "cache directory"),
        ("v6", "secret".into(), "snapshot", "nydusd configuration of the slice: no JSON at byte"),
        ("v6", "[]".into(), "snapshot", "expected a JSON object"),
        ("v6", "{}".into(), "snapshot", "no backend"),
        ("v6", good.clone(), "half", "half/work: No such file"),
        ("v6", good.clone(), "missing", "missing/fs: No such file"),
        ("v6", good, "file", "file/fs: Not a directory"),
    ];
    for (bootstrap, config, snapshot, expected) in rows {
        let extra = serde_json::json!({
            "source": dir.join(bootstrap), "config": config,
            "snapshotdir": dir.join(snapshot), "fs_version": bootstrap,
        });
        let option = format!("extraoption={}", STANDARD.encode(extra.to_string()));
        let rootfs = Rootfs::recognise(&[slice(NYDUS, &[option])], Reader::Go).unwrap();
        let found = rootfs.check().map_or_else(|error| error.to_string(), |()| String::new());
        assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{found}");
        assert!(!found.contains("secret"), "{found}");
        let left = fs::read_dir(dir.join("snapshot/work")).unwrap().count();
        assert_eq!(left, 0);
    }
}

/// Captured from Kata's own code.
#[test]
fn storages_are_katas() {
    let rows = [
        (
            Storage::share(Reader::Go),
            r#"{"driver":"virtio-fs","driver_options":[],"source":"kataShared","fs_type":"virtiofs","mount_point":"/run/kata-containers/shared/","options":[]}"#,
        ),
        (
            Storage::share(Reader::Rust),
            r#"{"driver":"virtio-fs","driver_options":[],"source":"kataShared","fs_type":"virtiofs","mount_point":"/run/kata-containers/shared/","options":["nodev"]}"#,
        ),
        (
            Storage::rootfs("c1"),
            r#"{"driver":"overlayfs","driver_options":[],"source":"overlay","fs_type":"overlay","mount_point":"/run/kata-containers/shared/containers/c1/rootfs","options":["upperdir=/run/kata-containers/shared/containers/c1/snapshotdir/fs","workdir=/run/kata-containers/shared/containers/c1/snapshotdir/work","lowerdir=/run/kata-containers/shared/rafs/c1/lowerdir","index=off","metacopy=off"]}"#,
        ),
    ];
    for (storage, json) in rows {
        assert_eq!(serde_json::to_string(&storage).unwrap(), json);
    }
}

/// What the fuzz targets assert, on their seeds and on what comes of these by a change of a byte.
#[test]
fn properties_hold() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
    type Check = fn(&[u8]);
    let targets: [(&str, Check); 2] = [
        ("handoff_config", kata_handoff::properties::config),
        ("mountinfo", kata_handoff::properties::mountinfo),
    ];
    for (target, check) in targets {
        let seeds: Vec<_> = fs::read_dir(seeds.join(target)).unwrap().flatten().collect();
        assert!(!seeds.is_empty(), "{target}");
        for seed in seeds {
            let bytes = fs::read(seed.path()).unwrap();
            check(&bytes);
            for at in 0..bytes.len() {
                for new in [0, b' ', b'\\', b'"', b'9', 0xff] {
                    let mut changed = bytes.clone();
                    changed[at] = new;
                    check(&changed);
                    check(&changed[..at]);
                }
            }
        }
    }
}
