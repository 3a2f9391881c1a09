//! What the crate makes of a slice beyond the verdicts of `verdicts.rs`: values read, mount types,
//! what is not encoded and what is not shown.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nydus_mount_slice::{
    DecodeError, ExtraOption, Finding, FsVersion, KataVirtualVolume, Mount, Reader, Reason,
    is_nydus_type, redact,
};

fn b64(json: impl AsRef<[u8]>) -> String {
    STANDARD.encode(json)
}

const GOOD: &str = r#"{"source":"/s","config":"{}","snapshotdir":"/d","fs_version":"v6"}"#;

/// `GOOD` with one piece of its text replaced.
fn with(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    b64(GOOD.replacen(old, new, 1))
}

#[test]
fn no_extra_option() {
    let key = format!("extraoption={}", b64(GOOD));
    let near = [" extraoption=", "ExtraOption=", "extraoption", "x=extraoption="];
    let lists = near.map(|near| vec![key.replace("extraoption=", near)]);
    for options in lists.into_iter().chain([vec![], vec!["ro".into()]]) {
        let error = ExtraOption::from_options(&options);
        assert_eq!(error, Err(DecodeError::NotFound("extraoption")), "{options:?}");
    }
}

/// Which value comes back where the readers disagree.
#[test]
fn values_read() {
    let several = vec![Finding::Refuses(Reader::Rust, Reason::Several(2))];
    let differs = vec![Finding::Differs("source")];
    let no_version = vec![Finding::Refuses(Reader::Rust, Reason::Missing("fs_version"))];
    let no_source = vec![Finding::Refuses(Reader::Rust, Reason::Missing("source"))];
    for (values, source, findings) in [
        (vec![with("/s", "/first"), with("/s", "/last")], "/last", several),
        (vec![with("{", r#"{"Source":"/first","#)], "/s", vec![]),
        (vec![with("\"}", r#"","SOURCE":"/last"}"#)], "/s", differs.clone()),
        (vec![with(",\"fs_version\":\"v6\"", "")], "/s", no_version.clone()),
        // Also beside numbers that are none, in a field that nobody reads.
        (
            vec![with(",\"fs_version\":\"v6\"", r#","x":1e999,"Source":"/last""#)],
            "/s",
            [differs.clone(), no_version].concat(),
        ),
        (
            vec![with("source\":\"/s", r#"Source":"\ud800\ud83d\ude00"#)],
            "\u{fffd}\u{1f600}",
            no_source,
        ),
    ] {
        let options: Vec<_> = values.iter().map(|v| format!("extraoption={v}")).collect();
        let decoded = ExtraOption::from_options(&options).expect(source);
        assert_eq!((decoded.value.source.as_str(), decoded.findings), (source, findings));
    }
}

/// The version is kept where a reader does not care for it.
#[test]
fn versions_read() {
    for (value, version) in [
        (b64(GOOD), Some(FsVersion::V6)),
        (with("v6", "v5"), Some(FsVersion::V5)),
        (with("source", "Source"), Some(FsVersion::V6)),
        (with("v6", "rafsv6"), None),
        (with("\"v6\"", "6"), None),
        (with(",\"fs_version\":\"v6\"", ""), None),
    ] {
        let decoded = ExtraOption::from_base64(&value).expect(&value);
        assert_eq!(decoded.value.fs_version, version, "{value}");
    }
}

#[test]
fn a_volume_goes_first() {
    let options = [format!("extraoption={}", b64(GOOD)), "io.katacontainers.volume=".to_owned()];
    let decoded = ExtraOption::from_options(&options).expect("both take it");
    assert_eq!(decoded.findings, [Finding::Ignores(Reader::Go, Reason::VolumePresent)]);
}

#[test]
fn several_volumes() {
    let volume = format!(
        "io.katacontainers.volume={}",
        b64(r#"{"volume_type":"image_guest_pull","image_pull":{"metadata":{}}}"#)
    );
    let options = [volume.clone(), "ro".into(), volume, "io.katacontainers.volume=!".into()];
    let volumes = KataVirtualVolume::from_options(&options);
    let findings: Vec<_> = volumes.iter().map(|v| v.as_ref().ok().map(|v| &*v.findings)).collect();
    let second = [Finding::Ignores(Reader::Rust, Reason::NotFirst)];
    assert_eq!(findings, [Some(&[][..]), Some(&second[..]), None]);
}

/// Type, and who takes it: `mount.fuse` with our helper, Kata's Go and Rust runtimes.
#[test]
fn types() {
    for (fs_type, [helper, go, rust]) in [
        ("fuse.nydus-overlayfs", [true, true, true]),
        ("fuse.nydus-overlayfs-x", [true, true, false]),
        ("fuse./usr/local/bin/nydus-overlayfs", [true, true, false]),
        ("fuse3.nydus-overlayfs", [true, false, false]),
        ("fuse3./opt/nydus-overlayfs", [true, false, false]),
        // The Go runtime takes these, and mount.fuse3 finds no such program.
        ("fuse./usr/local/bin/nydus-overlayfs/", [false, true, false]),
        ("fuse./usr/local/bin/nydus-overlayfs-x//", [false, true, false]),
        ("fuse.nydus-overlayfsX", [false, true, false]),
        ("fuse.my-nydus-overlayfs", [false, false, false]),
        ("fuse.nydus-overlayfs/x", [false, false, false]),
        ("fuse.Nydus-overlayfs", [false, false, false]),
        ("fuse.", [false, false, false]),
        ("fuse./", [false, false, false]),
        ("fuse2.nydus-overlayfs", [false, false, false]),
        ("overlay", [false, false, false]),
    ] {
        let taken = [
            is_nydus_type(fs_type),
            Reader::Go.takes_type(fs_type),
            Reader::Rust.takes_type(fs_type),
        ];
        assert_eq!(taken, [helper, go, rust], "{fs_type}");
    }
}

/// What is not encoded, and why.
#[test]
fn refused_by_the_encoder() {
    let good = ExtraOption {
        source: "/s".into(),
        config: "{}".into(),
        snapshotdir: "/d".into(),
        fs_version: Some(FsVersion::V6),
    };
    let (empty, gone) = (Reason::Empty, Reason::FsVersion);
    for (extra, reason) in [
        (ExtraOption { source: String::new(), ..good.clone() }, empty("source")),
        (ExtraOption { config: "".into(), ..good.clone() }, empty("config")),
        (ExtraOption { snapshotdir: String::new(), ..good.clone() }, empty("snapshotdir")),
        (ExtraOption { fs_version: None, ..good.clone() }, gone),
    ] {
        assert_eq!(extra.to_option().map_err(|e| e.reason), Err(reason.clone()), "{extra}");
        assert_eq!(KataVirtualVolume::try_from(&extra).map_err(|e| e.reason), Err(reason));
    }
    let verity =
        r#"{"hashtype":"sha256","hash":"","blocknum":1,"blocksize":1,"hashsize":1,"offset":0}"#;
    let rafs =
        |fs_type, image| format!(r#""source":"/b","fs_type":"{fs_type}","nydus_image":{image}"#);
    let image = r#"{"config":"c","snapshot_dir":"/d"}"#;
    for (volume_type, fields, reason) in [
        ("other", r#""source":"r""#, Reason::VolumeType),
        ("direct_block", r#""fs_type":"ext4""#, empty("source")),
        ("direct_block", r#""source":"/d""#, empty("fs_type")),
        ("layer_raw_block", r#""source":"/d""#, empty("fs_type")),
        ("image_nydus_block", &rafs("rafsv5", image), Reason::FsType("rafsv6")),
        ("image_nydus_fs", &rafs("v6", image), Reason::FsType("rafsv5 or rafsv6")),
        ("layer_nydus_fs", &rafs("rafsv5", "null"), Reason::Missing("nydus_image")),
        (
            "layer_nydus_fs",
            &rafs("rafsv6", r#"{"snapshot_dir":"/d"}"#),
            empty("nydus_image.config"),
        ),
        ("layer_nydus_fs", &rafs("rafsv6", r#"{"config":"c"}"#), empty("nydus_image.snapshot_dir")),
        ("image_guest_pull", r#""image_pull":{"metadata":{}}"#, empty("source")),
        ("image_guest_pull", r#""source":"r""#, Reason::Missing("image_pull")),
        (
            "image_guest_pull",
            r#""source":"r","image_pull":{}"#,
            Reason::Missing("image_pull.metadata"),
        ),
        (
            "image_raw_block",
            &format!(r#""source":"/d","fs_type":"ext4","dm_verity":{verity}"#),
            Reason::DmVerity("hash", "as many hex digits as the hash type has"),
        ),
    ] {
        let json = format!(r#"{{"volume_type":"{volume_type}",{fields}}}"#);
        let volume = KataVirtualVolume::from_base64(b64(&json)).expect(&json).value;
        assert_eq!(volume.to_option().map_err(|e| e.reason), Err(reason), "{json}");
    }
}

const MARK: &str = "c2VjcmV0OnB3";

/// Malformed in every manner that makes a parser quote what it found.
#[test]
fn errors_show_no_secret() {
    let m = MARK;
    for json in [
        format!(
            r#"{{"source":"/s","config":{{"auth":"{m}"}},"snapshotdir":"/d","fs_version":"v6"}}"#
        ),
        format!(r#"{{"source":"/s","config":["{m}"],"snapshotdir":"/d","fs_version":"v6"}}"#),
        format!(r#"{{"source":"/s","config":"{m}","snapshotdir":"/d","fs_version":"{m}"}}"#),
        format!(r#"{{"source":"/s","config":"{m}"}}"#),
        format!(r#"{{"{m}":"{m}","source":{m}}}"#),
        format!(r#""{m}""#),
        format!(r#"{{"volume_type":"x","dm_verity":"{m}"}}"#),
        format!(r#"{{"volume_type":"x","options":"{m}"}}"#),
        format!(r#"{{"volume_type":"x","options":[{{"{m}":"{m}"}}]}}"#),
        format!(r#"{{"volume_type":"x","nydus_image":{{"config":"{m}","config":"{m}"}}}}"#),
        format!(r#"{{"volume_type":"x","image_pull":{{"metadata":{{"auth":"{m}"}}}},"x":"{m}"#),
    ] {
        let extra = ExtraOption::from_base64(b64(&json));
        let volume = KataVirtualVolume::from_base64(b64(&json));
        let mut shown = format!("{extra:?} {volume:?}");
        shown.extend(extra.err().map(|e| e.to_string()));
        shown.extend(volume.err().map(|e| e.to_string()));
        assert!(!shown.contains(m), "{json}\n{shown}");
    }
}

#[test]
fn mounts_show_no_carried_value() {
    for (option, shown) in [
        ("lowerdir=/a:/b", "lowerdir=/a:/b"),
        ("extraoption=c2VjcmV0OnB3", "extraoption=<12 bytes>"),
        ("io.katacontainers.volume=c2VjcmV0OnB3", "io.katacontainers.volume=<12 bytes>"),
        (" ExtraOption=c2VjcmV0OnB3", " ExtraOption=<12 bytes>"),
        ("extraoption=extraoption=c2VjcmV0OnB3", "extraoption=<24 bytes>"),
        ("ro,extraoption=c2VjcmV0OnB3,rw", "ro,extraoption=<15 bytes>"),
        // Not base64: a comma does not end what may be secret.
        (r#"extraoption={"a":1,"auth":"c2VjcmV0OnB3"}"#, "extraoption=<29 bytes>"),
        ("extraoptions=c2VjcmV0OnB3", "extraoptions=<12 bytes>"),
        ("x,IO.KataContainers.Volume=c2VjcmV0OnB3", "x,IO.KataContainers.Volume=<12 bytes>"),
        ("extraoption=", "extraoption=<0 bytes>"),
        ("", ""),
    ] {
        assert_eq!(redact(option), shown);
        let mount = Mount { options: vec![option.into()], ..Mount::default() };
        assert!(!format!("{mount:?}").contains(MARK), "{mount:?}");
    }
}
