//! The vectors of `docs/contract.md`: for each value its JSON and its option, byte for byte.
//! They are the seeds of the fuzz target `slice_decode`, too. `UPDATE_GOLDEN=1` writes them anew.

use std::{env, fs};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nydus_mount_slice::{
    DmVerity, ExtraOption, Finding, FsVersion, KataVirtualVolume, Mount, NydusImage, Reader,
    Reason, VolumeMetadata,
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/slice_decode");

const ROOT: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.nydus/snapshots";

fn check(name: &str, content: &str) {
    check_file(&format!("{GOLDEN}/{name}"), content);
}

fn check_file(path: &str, content: &str) {
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, content).expect(path);
    }
    assert_eq!(fs::read_to_string(path).expect(path), content, "{path}");
}

/// The JSON in an option, with the option itself.
fn check_option(name: &str, option: &str) {
    let (_, base64) = option.split_once('=').expect(option);
    let json = String::from_utf8(STANDARD.decode(base64).expect(option)).expect(option);
    check(&format!("{name}.json"), &json);
    check(&format!("{name}.option"), option);
    check_file(&format!("{SEEDS}/{name}.json"), &json);
    check_file(&format!("{SEEDS}/{name}.option"), option);
}

/// Shaped like what the snapshotter hands to `nydusd`, with invented credentials.
fn config(version: FsVersion) -> String {
    let auth = STANDARD.encode("somebody:not-a-password");
    let validate = version == FsVersion::V5;
    [
        r#"{"device":{"backend":{"type":"registry","config":{"scheme":"https","#,
        r#""host":"registry.example:5000","repo":"library/nginx","auth":""#,
        &auth,
        r#"","timeout":5,"connect_timeout":5,"retry_limit":2}},"cache":{"type":"blobcache","#,
        r#""config":{"work_dir":"/var/lib/nydus/cache"}}},"mode":"direct","#,
        &format!("\"digest_validate\":{validate},\"enable_xattr\":true,"),
        r#""fs_prefetch":{"enable":true,"threads_count":4}}"#,
    ]
    .concat()
}

fn extra(bootstrap: u32, snapshot: u32, version: FsVersion) -> ExtraOption {
    ExtraOption {
        source: format!("{ROOT}/{bootstrap}/fs/image/image.boot"),
        config: config(version).into(),
        snapshotdir: format!("{ROOT}/{snapshot}"),
        fs_version: Some(version),
    }
}

fn check_extra(name: &str, extra: &ExtraOption) {
    let option = extra.to_option().expect(name);
    let decoded = ExtraOption::from_options(&[&option]).expect(name);
    assert_eq!((&decoded.value, decoded.findings.as_slice()), (extra, [].as_slice()), "{name}");
    check_option(name, &option);
}

#[test]
fn extra_options() {
    check_extra("extraoption-v5", &extra(9, 257, FsVersion::V5));
    check_extra("extraoption-v6", &extra(201, 261, FsVersion::V6));
    let odd = ExtraOption {
        source: "/tmp/ä \"b\"\\,\n\u{1}\u{1f600}<&>".into(),
        config: "{}".into(),
        snapshotdir: "relative/d".into(),
        fs_version: Some(FsVersion::V6),
    };
    check_extra("extraoption-escapes", &odd);
}

#[test]
fn slices() {
    let extra = extra(201, 261, FsVersion::V6);
    let lower = format!("{ROOT}/201/mnt");
    let overlay = [("workdir", "261/work"), ("upperdir", "261/fs")];
    let mut options: Vec<_> =
        overlay.iter().map(|(key, dir)| format!("{key}={ROOT}/{dir}")).collect();
    options.push(format!("lowerdir={lower}"));
    let view = vec![format!("lowerdir={lower}:{ROOT}/261/fs")];
    for (name, options) in [("slice-active", options), ("slice-view", view)] {
        let mount = Mount::nydus(options, &extra).expect(name);
        let json = serde_json::to_string_pretty(&mount).expect(name);
        check(&format!("{name}.json"), &(json + "\n"));
        check_file(&format!("{SEEDS}/{name}.options"), &mount.options.join(","));
        assert_eq!(ExtraOption::from_options(&mount.options).expect(name).value, extra, "{name}");
        assert_eq!((mount.is_nydus(), mount.type_findings()), (true, vec![]), "{name}");
    }
}

#[test]
fn volumes() {
    for volume in all_volumes() {
        let name = format!("volume-{}", volume.volume_type);
        let option = volume.to_option().expect(&name);
        let decoded = KataVirtualVolume::from_options(&[&option]).remove(0).expect(&name);
        let is_mounted = volume.volume_type == "image_guest_pull";
        let fails = |reader| Finding::Fails(reader, Reason::NotMounted);
        let findings = [Reader::Go, Reader::Rust].map(fails);
        let findings = findings.into_iter().filter(|_| !is_mounted).collect();
        assert_eq!((decoded.value, decoded.findings), (volume, findings), "{name}");
        check_option(&name, &option);
    }
}

fn all_volumes() -> Vec<KataVirtualVolume> {
    let nydus = KataVirtualVolume::try_from(&extra(201, 261, FsVersion::V6)).expect("valid");
    let of_type = |name: &str, of: &KataVirtualVolume| KataVirtualVolume {
        volume_type: name.into(),
        ..of.clone()
    };
    let raw = KataVirtualVolume {
        volume_type: "image_raw_block".into(),
        source: "/dev/mapper/image".into(),
        fs_type: "erofs".into(),
        options: vec!["ro".into()],
        dm_verity: Some(verity()),
        ..KataVirtualVolume::default()
    };
    let mut salted = of_type("layer_raw_block", &raw);
    salted.dm_verity = Some(DmVerity {
        salt: Some("5a".repeat(32)),
        hash_type: Some(1),
        no_superblock: Some(true),
        ..verity()
    });
    vec![
        direct_block(),
        raw,
        salted,
        of_type("image_nydus_block", &nydus),
        of_type("layer_nydus_block", &nydus),
        KataVirtualVolume {
            fs_type: FsVersion::V5.as_rafs().into(),
            ..of_type("layer_nydus_fs", &nydus)
        },
        nydus,
        guest_pull(),
    ]
}

fn verity() -> DmVerity {
    DmVerity {
        hashtype: "sha256".into(),
        hash: "0123456789abcdef".repeat(4),
        blocknum: 16384,
        blocksize: 512,
        hashsize: 4096,
        offset: 8_388_608,
        ..DmVerity::default()
    }
}

fn direct_block() -> KataVirtualVolume {
    KataVirtualVolume {
        volume_type: "direct_block".into(),
        source: "/dev/vdb".into(),
        fs_type: "ext4".into(),
        options: vec!["rw".into(), "noatime".into()],
        direct_volume: Some(metadata(&[("fsGroup", "1000"), ("encryptionKey", "not-a-key")])),
        ..KataVirtualVolume::default()
    }
}

fn guest_pull() -> KataVirtualVolume {
    let labels = [
        ("containerd.io/snapshot/cri.layer-digest", format!("sha256:{}", "0a".repeat(32))),
        ("containerd.io/snapshot/nydus-proxy-mode", "true".to_owned()),
    ];
    let labels: Vec<_> = labels.iter().map(|(key, value)| (*key, value.as_str())).collect();
    KataVirtualVolume {
        volume_type: "image_guest_pull".into(),
        source: "registry.example:5000/library/nginx:1.27".into(),
        options: labels.iter().map(|(key, value)| format!("{key}={value}").into()).collect(),
        image_pull: Some(metadata(&labels)),
        ..KataVirtualVolume::default()
    }
}

fn metadata(of: &[(&str, &str)]) -> VolumeMetadata {
    let map = of.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    VolumeMetadata { metadata: Some(map) }
}

#[test]
fn volume_of_an_extra_option() {
    let extra = extra(9, 257, FsVersion::V5);
    let volume = KataVirtualVolume::try_from(&extra).expect("valid");
    let image = NydusImage { config: extra.config, snapshot_dir: extra.snapshotdir };
    let expected = KataVirtualVolume {
        volume_type: "image_nydus_fs".into(),
        source: extra.source,
        fs_type: "rafsv5".into(),
        nydus_image: Some(image),
        ..KataVirtualVolume::default()
    };
    assert_eq!(volume, expected);
}
