//! What each of Kata's runtimes makes of a slice, row by row.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nydus_mount_slice::{
    DecodeError, Decoded, ExtraOption, Finding, FsVersion, KataVirtualVolume, Mount, Reader,
    Reason, is_nydus_type, redact,
};

/// A reader's verdict: `Ok` where it takes the payload.
type Verdict = Result<(), Reason>;

/// The verdicts of the Go and the Rust reader.
fn verdicts<T>(decoded: &Result<Decoded<T>, DecodeError>) -> (Verdict, Verdict) {
    match decoded {
        Err(DecodeError::Refused { go, rust, .. }) => (Err(placeless(go)), Err(placeless(rust))),
        Err(error) => panic!("{error}"),
        Ok(decoded) => {
            let of = |reader| {
                decoded.findings.iter().find_map(|finding| match finding {
                    Finding::Refuses(who, reason) if *who == reader => Some(placeless(reason)),
                    _ => None,
                })
            };
            (of(Reader::Go).map_or(Ok(()), Err), of(Reader::Rust).map_or(Ok(()), Err))
        }
    }
}

/// Where a parser stops is its own affair.
const JSON: Reason = Reason::Json(0, 0);
const SHAPE: Reason = Reason::Shape(0, 0);

fn placeless(reason: &Reason) -> Reason {
    match reason {
        Reason::Json(..) => JSON,
        Reason::Shape(..) => SHAPE,
        reason => reason.clone(),
    }
}

fn b64(json: impl AsRef<[u8]>) -> String {
    STANDARD.encode(json)
}

const GOOD: &str = r#"{"source":"/s","config":"{}","snapshotdir":"/d","fs_version":"v6"}"#;

/// `GOOD` with one piece of its text replaced.
fn with(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    b64(GOOD.replacen(old, new, 1))
}

fn without(field: &str) -> String {
    with(field, "unknown")
}

/// `extraoption=` values, one an option, and what the two readers say.
fn extra_rows() -> Vec<(Vec<String>, Verdict, Verdict)> {
    use Reason::*;
    let good = b64(GOOD);
    let one = |value: String, go, rust| (vec![value], go, rust);
    let text = |field| FieldType(field, "text");
    let mut rows = vec![
        one(good.clone(), Ok(()), Ok(())),
        // Options with the key.
        (vec![good.clone(); 2], Ok(()), Err(Several(2))),
        (vec!["!".into(), good.clone()], Ok(()), Err(Several(2))),
        (vec![good.clone(), String::new()], Err(NoValue), Err(Several(2))),
        one(String::new(), Err(NoValue), Err(JSON)),
        one(format!("extraoption={good}"), Err(Base64Symbol(11)), Ok(())),
        one(format!("extraoption=extraoption={good}"), Err(Base64Symbol(11)), Ok(())),
        // base64.
        one(format!("{good}\n"), Ok(()), Err(Base64Symbol(88))),
        one(good.replacen('e', "e\r\n", 1), Ok(()), Err(Base64Symbol(1))),
        one(b64("{}\n "), Err(Empty("source")), Err(Missing("source"))),
        one(with("/s", "/s/").replace('=', ""), Err(Base64Padding), Err(Base64Padding)),
        one(with("\"/s", " \"/?~"), Ok(()), Ok(())),
        one(with("\"/s", " \"/?~").replace('+', "-"), Err(Base64Symbol(19)), Err(Base64Symbol(19))),
        one(format!("{good}A"), Err(Base64Padding), Err(Base64Padding)),
        one(format!("{good} "), Err(Base64Symbol(88)), Err(Base64Symbol(88))),
        one(trailing_bits(), Ok(()), Err(Base64TrailingBits)),
        // The document.
        one(b64(format!(" \t\r\n{GOOD}\n ")), Ok(()), Ok(())),
        one(b64(format!("{GOOD}x")), Err(JSON), Err(JSON)),
        one(b64("null"), Err(Empty("source")), Err(NotObject)),
        one(b64("\"text\""), Err(NotObject), Err(NotObject)),
        one(b64(r#"["/s","{}","/d","v6"]"#), Err(NotObject), Ok(())),
        one(b64(r#"["/s","{}","/d","rafsv6"]"#), Err(NotObject), Err(FsVersion)),
        one(b64(r#"["/s","{}","/d"]"#), Err(NotObject), Err(NotObject)),
        // Keys.
        one(without("source"), Err(Empty("source")), Err(Missing("source"))),
        one(without("config"), Err(Empty("config")), Err(Missing("config"))),
        one(without("snapshotdir"), Err(Empty("snapshotdir")), Err(Missing("snapshotdir"))),
        one(without("fs_version"), Ok(()), Err(Missing("fs_version"))),
        one(with(",\"fs_version\":\"v6\"", ""), Ok(()), Err(Missing("fs_version"))),
        one(with("{", r#"{"more":[1e400,{"x":null}],"#), Ok(()), Ok(())),
        one(with("{", r#"{"source":"/first","#), Ok(()), Err(Duplicate("source"))),
        one(with("source", "Source"), Ok(()), Err(Missing("source"))),
        one(with("source", "ſource"), Ok(()), Err(Missing("source"))),
        one(with("source", r"\u0073ource"), Ok(()), Ok(())),
        // Values.
        one(with("\"/s\"", "null"), Err(Empty("source")), Err(text("source"))),
        one(with("\"{}\"", "{}"), Err(text("config")), Err(text("config"))),
        one(with("\"/d\"", "7"), Err(text("snapshotdir")), Err(text("snapshotdir"))),
        one(with("\"v6\"", "6"), Ok(()), Err(text("fs_version"))),
        one(with("/s", r"\ud800"), Ok(()), Err(JSON)),
        one(with("/s", "/\n"), Err(JSON), Err(JSON)),
    ];
    for empty in ["/s", "{}", "/d"] {
        let field = match empty {
            "/s" => "source",
            "{}" => "config",
            _ => "snapshotdir",
        };
        rows.push(one(with(&format!("\"{empty}\""), "\"\""), Err(Empty(field)), Ok(())));
    }
    for version in ["", "V6", "v4", "6", "rafsv5", "rafsv6"] {
        rows.push(one(with("v6", version), Ok(()), Err(FsVersion)));
    }
    let latin =
        [br#"{"config":"c","snapshotdir":"/d","fs_version":"v5","source":""#, &b"\xe4\"}"[..]];
    rows.push(one(b64(latin.concat()), Ok(()), Err(Utf8)));
    let unread = [&br#"{"x":"\ud800"#[..], b"\xe4\",", &GOOD.as_bytes()[1..]].concat();
    rows.push(one(b64(unread), Ok(()), Ok(())));
    let deep = format!("{{\"x\":{}{},", "[".repeat(1000), "]".repeat(1000));
    rows.push(one(with("{", &deep), Ok(()), Ok(())));
    rows
}

/// The last symbol in front of the padding says more than a byte.
fn trailing_bits() -> String {
    let value = with("/s", "/s/");
    assert!(value.ends_with("fQ=="), "{value}");
    value.replace("fQ==", "fR==")
}

#[test]
fn extra_options() {
    for (values, go, rust) in extra_rows() {
        let mut options = vec!["lowerdir=/l".to_owned()];
        options.extend(values.iter().map(|value| format!("extraoption={value}")));
        let decoded = ExtraOption::from_options(&options);
        assert_eq!(verdicts(&decoded), (go, rust), "{options:?}");
    }
}

#[test]
fn no_extra_option() {
    let key = format!("extraoption={}", b64(GOOD));
    let near = [" extraoption=", "ExtraOption=", "extraoption", "x=extraoption="];
    let lists = near.map(|near| vec![key.replace("extraoption=", near)]);
    for options in lists.into_iter().chain([vec![], vec!["ro".into()]]) {
        let error = ExtraOption::from_options(&options);
        assert_eq!(error, Err(DecodeError::NotFound("extraoption=")), "{options:?}");
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

/// `io.katacontainers.volume=` as JSON, and what the two readers say.
fn volume_rows() -> Vec<(&'static str, Verdict, Verdict)> {
    use Reason::*;
    let rafs = "rafsv5 or rafsv6";
    vec![
        (r#"{"volume_type":"image_guest_pull","source":"r"}"#, Ok(()), Ok(())),
        (r#"{"volume_type":"image_guest_pull"}"#, Ok(()), Err(Empty("source"))),
        (r#"{"volume_type":"other"}"#, Ok(()), Ok(())),
        (r#"{"volume_type":""}"#, Err(Empty("volume_type")), Ok(())),
        (r#"{"source":"r"}"#, Err(Empty("volume_type")), Err(Missing("volume_type"))),
        (
            r#"{"volume_type":7}"#,
            Err(FieldType("volume_type", "text")),
            Err(FieldType("volume_type", "text")),
        ),
        (r#"{"Volume_Type":"other"}"#, Ok(()), Err(Missing("volume_type"))),
        (r#"["other"]"#, Err(NotObject), Ok(())),
        (r#"{"volume_type":"direct_block","fs_type":"ext4"}"#, Ok(()), Err(Empty("source"))),
        (r#"{"volume_type":"direct_block","source":"/d"}"#, Ok(()), Err(Empty("fs_type"))),
        (r#"{"volume_type":"layer_raw_block","source":"/d"}"#, Ok(()), Err(Empty("fs_type"))),
        (r#"{"volume_type":"image_raw_block","source":"/d","fs_type":"ext4"}"#, Ok(()), Ok(())),
        (r#"{"volume_type":"other","source":null}"#, Ok(()), Err(SHAPE)),
        (r#"{"volume_type":"other","options":["a",null]}"#, Ok(()), Err(SHAPE)),
        (
            r#"{"volume_type":"other","options":"a"}"#,
            Err(FieldType("options", "a list")),
            Err(SHAPE),
        ),
        (r#"{"volume_type":"other","source":"a","source":"a"}"#, Ok(()), Err(Duplicate("source"))),
        // Metadata.
        (r#"{"volume_type":"other","direct_volume":null,"image_pull":null}"#, Ok(()), Ok(())),
        (
            r#"{"volume_type":"other","direct_volume":{}}"#,
            Err(Missing("direct_volume.metadata")),
            Ok(()),
        ),
        (r#"{"volume_type":"other","image_pull":{}}"#, Err(Missing("image_pull.metadata")), Ok(())),
        (r#"{"volume_type":"other","image_pull":{"metadata":{}}}"#, Ok(()), Ok(())),
        (
            r#"{"volume_type":"other","image_pull":{"metadata":null}}"#,
            Err(Missing("image_pull.metadata")),
            Err(SHAPE),
        ),
        (r#"{"volume_type":"other","image_pull":{"metadata":{"a":"b","a":"c"}}}"#, Ok(()), Ok(())),
        (
            r#"{"volume_type":"other","image_pull":[]}"#,
            Err(FieldType("image_pull", "an object")),
            Ok(()),
        ),
        // Nydus.
        (
            r#"{"volume_type":"image_nydus_fs","source":"/b","fs_type":"v6"}"#,
            Ok(()),
            Err(FsType(rafs)),
        ),
        (
            r#"{"volume_type":"layer_nydus_fs","source":"/b","fs_type":"rafsv5"}"#,
            Ok(()),
            Err(Missing("nydus_image")),
        ),
        (
            r#"{"volume_type":"image_nydus_block","source":"/b","fs_type":"rafsv5"}"#,
            Ok(()),
            Err(FsType("rafsv6")),
        ),
        (
            r#"{"volume_type":"layer_nydus_block","source":"/b","fs_type":"rafsv6","nydus_image":{"config":"c","snapshot_dir":"/d"}}"#,
            Ok(()),
            Ok(()),
        ),
        (
            r#"{"volume_type":"layer_nydus_fs","source":"/b","fs_type":"rafsv6","nydus_image":{"snapshot_dir":"/d"}}"#,
            Ok(()),
            Err(Empty("nydus_image.config")),
        ),
        (
            r#"{"volume_type":"layer_nydus_fs","source":"/b","fs_type":"rafsv6","nydus_image":{"config":"c"}}"#,
            Ok(()),
            Err(Empty("nydus_image.snapshot_dir")),
        ),
        (
            r#"{"volume_type":"layer_nydus_fs","source":"/b","fs_type":"rafsv6","nydus_image":{}}"#,
            Err(Empty("nydus_image")),
            Err(Empty("nydus_image.config")),
        ),
    ]
}

#[test]
fn volumes() {
    for (json, go, rust) in volume_rows() {
        let decoded = KataVirtualVolume::from_base64(b64(json));
        assert_eq!(verdicts(&decoded), (go, rust), "{json}");
    }
}

/// Only the Go runtime looks into `dm_verity`.
#[test]
fn dm_verity() {
    let ranges = "from 512 to 524288";
    let offset = "a multiple of hashsize behind the data";
    let good = format!(
        r#"{{"hashtype":"SHA256","hash":"{}","blocknum":8,"blocksize":512,"hashsize":4096,"offset":4096}}"#,
        "aB".repeat(32),
    );
    let rows = [
        ("SHA256", "sha256", Ok(())),
        ("SHA256", "sha1", Err(("hash", "as many hex digits as the hash type has"))),
        ("SHA256", "md5", Err(("hashtype", "sha256 or sha1"))),
        ("aBaB", "aBaX", Err(("hash", "as many hex digits as the hash type has"))),
        (":8,", ":0,", Err(("blocknum", "from 1 to 4294967295"))),
        (":8,", ":4294967296,", Err(("blocknum", "from 1 to 4294967295"))),
        (":512,", ":511,", Err(("blocksize", ranges))),
        ("\"hashsize\":4096", "\"hashsize\":524289", Err(("hashsize", ranges))),
        ("\"offset\":4096", "\"offset\":8191", Err(("offset", offset))),
        (":8,", ":9,", Err(("offset", offset))),
        ("\"offset\":4096", "\"offset\":8192,\"salt\":\"00\",\"hash_type\":1", Ok(())),
    ];
    for (old, new, go) in rows {
        let verity = good.replacen(old, new, 1);
        assert!(good.contains(old), "{old}");
        let json = format!(r#"{{"volume_type":"other","dm_verity":{verity}}}"#);
        let go = go.map_err(|(field, expected)| Reason::DmVerity(field, expected));
        let decoded = KataVirtualVolume::from_base64(b64(&json));
        assert_eq!(verdicts(&decoded), (go, Ok(())), "{json}");
    }
}

#[test]
fn several_volumes() {
    let volume = format!(
        "io.katacontainers.volume={}",
        b64(r#"{"volume_type":"image_guest_pull","source":"r"}"#)
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
        ("fuse./usr/local/bin/nydus-overlayfs-x/", [true, true, false]),
        ("fuse3.nydus-overlayfs", [true, false, false]),
        ("fuse3./opt/nydus-overlayfs", [true, false, false]),
        ("fuse.my-nydus-overlayfs", [false, false, false]),
        ("fuse.nydus-overlayfs/x", [false, false, false]),
        ("fuse.Nydus-overlayfs", [false, false, false]),
        ("fuse.", [false, false, false]),
        ("fuse2.nydus-overlayfs", [false, false, false]),
        ("nydus-overlayfs", [false, false, false]),
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
    for (json, go, rust) in volume_rows() {
        let Ok(decoded) = KataVirtualVolume::from_base64(b64(json)) else { continue };
        let known = decoded.value.volume_type.contains('_');
        let encoded = decoded.value.to_option();
        // What only the parsers refuse is no longer in the value.
        let parser = matches!(rust, Err(Reason::Missing("volume_type")));
        assert_eq!(encoded.is_ok(), known && (parser || go.is_ok() && rust.is_ok()), "{json}");
    }
}

const MARK: &str = "c2VjcmV0OnB3";

/// Malformed in every way that makes a parser quote what it found.
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
        ("ro,extraoption=c2VjcmV0OnB3,rw", "ro,extraoption=<12 bytes>,rw"),
        ("extraoption=", "extraoption=<0 bytes>"),
        ("", ""),
    ] {
        assert_eq!(redact(option), shown);
        let mount = Mount { options: vec![option.into()], ..Mount::default() };
        assert!(!format!("{mount:?}").contains(MARK), "{mount:?}");
    }
}
