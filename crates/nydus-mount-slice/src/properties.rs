//! What holds for every input; the fuzz targets and the tests call the same functions.

use std::fmt::{Debug, Display};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::{
    DecodeError, Decoded, EXTRA_OPTION_KEY, EncodeError, ExtraOption, KataVirtualVolume, Reason,
    Secret, VOLUME_KEY, VolumeMetadata, redact,
};

/// Takes the bytes as a payload's base64 text, as its JSON, and as options joined by commas.
///
/// # Panics
/// When a decoded value does not survive encoding, when its findings and the encoder disagree,
/// or when something shows a secret.
pub fn slice_decode(data: &[u8]) {
    let base64 = STANDARD.encode(data);
    for value in [data, base64.as_bytes()] {
        check_extra(ExtraOption::from_base64(value));
        check_volume(KataVirtualVolume::from_base64(value));
    }
    let options: Vec<_> = data.split(|byte| *byte == b',').collect();
    check_extra(ExtraOption::from_options(&options));
    KataVirtualVolume::from_options(&options).into_iter().for_each(check_volume);
    check_redact(&String::from_utf8_lossy(data));
}

fn check_extra(decoded: Result<Decoded<ExtraOption>, DecodeError>) {
    let Ok(decoded) = decoded else { return };
    let mut masked = decoded.clone();
    mask(&mut masked.value.config);
    check_shown(&decoded, &masked);
    let findings = !decoded.findings.is_empty();
    check_encoded(&decoded.value, ExtraOption::to_option, |o| ExtraOption::from_options(&[o]));
    assert!(findings || decoded.value.validate().is_ok(), "{decoded:?}");
}

fn check_volume(decoded: Result<Decoded<KataVirtualVolume>, DecodeError>) {
    let Ok(decoded) = decoded else { return };
    let mut masked = decoded.clone();
    mask_volume(&mut masked.value);
    check_shown(&decoded, &masked);
    check_encoded(&decoded.value, KataVirtualVolume::to_option, |option| {
        KataVirtualVolume::from_options(&[option]).remove(0)
    });
    let valid = matches!(decoded.value.validate(), Ok(()) | Err(Reason::VolumeType));
    assert!(!decoded.findings.is_empty() || valid, "{decoded:?}");
}

/// What can be encoded comes back as it was, without findings, and gives the same bytes again.
fn check_encoded<T: PartialEq + Debug>(
    value: &T,
    encode: impl Fn(&T) -> Result<String, EncodeError>,
    decode: impl Fn(&str) -> Result<Decoded<T>, DecodeError>,
) {
    let Ok(option) = encode(value) else { return };
    let again = decode(&option).unwrap_or_else(|e| panic!("{value:?}: {e}"));
    assert_eq!((&again.value, &again.findings), (value, &vec![]));
    assert_eq!(encode(&again.value).as_ref(), Ok(&option));
}

/// Nothing shown depends on the secrets, but for their lengths.
fn check_shown<T: Debug + Display>(decoded: &Decoded<T>, masked: &Decoded<T>) {
    assert_eq!(format!("{decoded:?}"), format!("{masked:?}"));
    assert_eq!(decoded.value.to_string(), masked.value.to_string());
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

/// A redacted text depends on the lengths of the carried values only.
fn check_redact(options: &str) {
    let masked: Vec<_> = options.split(',').map(mask_word).collect();
    assert_eq!(redact(options), redact(&masked.join(",")));
}

fn mask_word(word: &str) -> String {
    for key in [EXTRA_OPTION_KEY, VOLUME_KEY] {
        if let Some(value) = word.strip_prefix(key) {
            return format!("{key}{}", "x".repeat(value.len()));
        }
    }
    word.to_owned()
}
