//! What the Go reader makes of a payload, compared with recorded readings of Go itself
//! (`go/readings.go`). `GO_READINGS=FILE` compares a longer recording.

use std::{env, fs};

use nydus_mount_slice::{DecodeError, Decoded, ExtraOption, Finding, KataVirtualVolume, Reader};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/go-readings.jsonl");

#[test]
fn as_go() {
    let path = env::var("GO_READINGS").unwrap_or(RECORDED.to_owned());
    let recorded = fs::read_to_string(&path).expect(&path);
    let taken: usize = recorded.lines().map(|line| usize::from(check(line))).sum();
    assert!(taken > recorded.lines().count() / 10, "only {taken} payloads that Go takes");
}

/// Whether Go takes the payload of this line.
fn check(line: &str) -> bool {
    let mut case: Value = serde_json::from_str(line).expect(line);
    // Go writes some fields although they are empty.
    if let Ok(volume) = KataVirtualVolume::deserialize(&case["go"]) {
        case["go"] = serde_json::to_value(volume).expect(line);
    }
    let value = case["value"].as_str().expect(line);
    let (ours, findings) = match case["kind"].as_str() {
        Some("extra") => reading(ExtraOption::from_base64(value)),
        Some("volume") => reading(KataVirtualVolume::from_base64(value).map(without_rust_only)),
        _ => panic!("{line}"),
    };
    let refuses = |f: &Finding| matches!(f, Finding::Refuses(Reader::Go, _));
    let takes = ours.is_some() && !findings.iter().any(refuses);
    assert_eq!(takes, !case["go"].is_null(), "{line}\n{ours:?} {findings:?}");
    if takes {
        check_values(&ours.unwrap_or_default(), &findings, &case["go"], line);
    }
    takes
}

fn check_values(ours: &Value, findings: &[Finding], go: &Value, line: &str) {
    let fields = go.as_object().into_iter().chain(ours.as_object()).flat_map(|o| o.keys());
    for field in fields.filter(|field| *field != "fs_version") {
        let differs = findings.iter().any(|f| matches!(f, Finding::Differs(name) if name == field));
        assert_eq!(
            go.get(field) != ours.get(field),
            differs,
            "{field} {line}\n{ours} {findings:?}"
        );
    }
}

fn reading<T: Serialize>(
    decoded: Result<Decoded<T>, DecodeError>,
) -> (Option<Value>, Vec<Finding>) {
    match decoded {
        Ok(Decoded { value, findings }) => (serde_json::to_value(value).ok(), findings),
        Err(_) => (None, Vec::new()),
    }
}

/// The value in the form in which Go writes it.
fn without_rust_only(mut decoded: Decoded<KataVirtualVolume>) -> Decoded<KataVirtualVolume> {
    if let Some(verity) = &mut decoded.value.dm_verity {
        (verity.salt, verity.hash_type, verity.no_superblock) = (None, None, None);
    }
    decoded
}
