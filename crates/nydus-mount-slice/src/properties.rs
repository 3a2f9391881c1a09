//! What holds for every input; the fuzz target and the tests call the same functions.

use std::fmt::{Debug, Display};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use slice_names::CARRIED;

use crate::{
    DecodeError, Decoded, EncodeError, ExtraOption, Finding, FsVersion, KataVirtualVolume, Reader,
    Reason, Secret, VolumeMetadata, is_nydus_type, redact,
};

/// Takes the bytes as a payload's base64 text, as its JSON, as options joined by commas, as the
/// fields of payloads and as a mount type.
///
/// # Panics
/// When a value does not survive encoding and decoding, when its findings and the encoder
/// disagree, when something shows a secret, or when the rules for mount types contradict each
/// other.
pub fn slice_decode(data: &[u8]) {
    let base64 = STANDARD.encode(data);
    for value in [data, base64.as_bytes()] {
        check_extra(ExtraOption::from_base64(value));
        check_volume(KataVirtualVolume::from_base64(value));
    }
    let options: Vec<_> = data.split(|byte| *byte == b',').collect();
    check_extra(ExtraOption::from_options(&options));
    KataVirtualVolume::from_options(&options).into_iter().for_each(check_volume);
    let text = String::from_utf8_lossy(data);
    check_values(&text);
    check_redact(&text);
    check_type(&text);
}

fn check_extra(decoded: Result<Decoded<ExtraOption>, DecodeError>) {
    let Ok(decoded) = decoded else { return };
    let mut masked = decoded.clone();
    mask(&mut masked.value.config);
    check_shown(&decoded, &masked);
    let findings = !decoded.findings.is_empty();
    encode_extra(&decoded.value);
    assert!(findings || decoded.value.validate().is_ok(), "{decoded:?}");
}

fn check_volume(decoded: Result<Decoded<KataVirtualVolume>, DecodeError>) {
    let Ok(decoded) = decoded else { return };
    let mut masked = decoded.clone();
    mask_volume(&mut masked.value);
    check_shown(&decoded, &masked);
    encode_volume(&decoded.value);
    // A volume without a source is not written, although no runtime reads it.
    let valid = matches!(decoded.value.validate(), Ok(()) | Err(Reason::Empty("source")));
    assert!(!decoded.findings.is_empty() || valid, "{decoded:?}");
}

/// Values made of the parts of a text.
fn check_values(text: &str) {
    let mut parts = text.split(',').map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    let extra = ExtraOption {
        source: part(),
        config: part().into(),
        snapshotdir: part(),
        fs_version: Some(if text.len().is_multiple_of(2) { FsVersion::V5 } else { FsVersion::V6 }),
    };
    encode_extra(&extra);
    KataVirtualVolume::try_from(&extra).iter().for_each(encode_volume);
    let metadata = [(part(), part().into()), (part(), part().into())].into();
    encode_volume(&KataVirtualVolume {
        volume_type: "image_guest_pull".into(),
        source: part(),
        options: vec![part().into(), part().into()],
        image_pull: Some(VolumeMetadata { metadata: Some(metadata) }),
        ..KataVirtualVolume::default()
    });
}

fn encode_extra(value: &ExtraOption) {
    check_encoded(value, ExtraOption::to_option, |o| ExtraOption::from_options(&[o]), &[]);
}

fn encode_volume(value: &KataVirtualVolume) {
    let findings = [Reader::Go, Reader::Rust].map(|r| Finding::Fails(r, Reason::NotMounted));
    let is_mounted = value.volume_type == "image_guest_pull";
    let findings = if is_mounted { &[][..] } else { &findings };
    let decode = |option: &str| KataVirtualVolume::from_options(&[option]).remove(0);
    check_encoded(value, KataVirtualVolume::to_option, decode, findings);
}

/// What can be encoded comes back as it was, with these findings, and gives the same bytes again.
fn check_encoded<T: PartialEq + Debug>(
    value: &T,
    encode: impl Fn(&T) -> Result<String, EncodeError>,
    decode: impl Fn(&str) -> Result<Decoded<T>, DecodeError>,
    findings: &[Finding],
) {
    let Ok(option) = encode(value) else { return };
    let again = decode(&option).unwrap_or_else(|e| panic!("{value:?}: {e}"));
    assert_eq!((&again.value, &*again.findings), (value, findings));
    assert_eq!(encode(&again.value).as_ref(), Ok(&option));
}

/// Nothing shown depends on the secrets, but for their lengths.
fn check_shown<T: Debug + Display>(decoded: &Decoded<T>, masked: &Decoded<T>) {
    assert_eq!(format!("{decoded:?}"), format!("{masked:?}"));
    assert_eq!(decoded.value.to_string(), masked.value.to_string());
    decoded.findings.iter().for_each(|finding| assert!(!finding.to_string().contains('\n')));
}

fn mask(secret: &mut Secret) {
    *secret = "x".repeat(secret.expose().len()).into();
}

fn mask_volume(volume: &mut KataVirtualVolume) {
    volume.options.iter_mut().for_each(mask);
    volume.nydus_image.iter_mut().for_each(|image| mask(&mut image.config));
    let maps = volume.direct_volume.iter_mut().chain(&mut volume.image_pull);
    for VolumeMetadata { metadata } in maps {
        metadata.iter_mut().flat_map(|map| map.values_mut()).for_each(mask);
    }
}

/// Of a carried value only the length is shown, whatever it holds and whatever case or ending
/// its name has.
fn check_redact(text: &str) {
    for name in CARRIED {
        for name in [name.to_owned(), name.to_uppercase(), format!("{name}s-2.x_")] {
            let shown = format!("ro,{name}=<{} bytes>", text.len());
            assert_eq!(redact(&format!("ro,{name}={text}")), shown);
        }
        // Wherever it is found in what was given.
        let shown = redact(text).to_ascii_lowercase();
        if let Some((_, value)) = shown.split_once(&format!("{name}=")) {
            assert!(value.starts_with('<') && value.ends_with(" bytes>"), "{value}");
        }
    }
}

/// A type that the Rust runtime takes is ours, and what is ours behind `fuse.` the Go one takes.
fn check_type(text: &str) {
    for fs_type in [text.to_owned(), format!("fuse.{text}"), format!("fuse.nydus-overlayfs{text}")]
    {
        let (go, rust) = (Reader::Go.takes_type(&fs_type), Reader::Rust.takes_type(&fs_type));
        let ours = is_nydus_type(&fs_type);
        assert!(!rust || ours && go, "{fs_type}");
        assert!(!(ours && fs_type.starts_with("fuse.")) || go, "{fs_type}");
    }
}
