//! What both payloads share: options to base64 to JSON, read as each reader reads it.

use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::general_purpose::{GeneralPurpose, PAD, STANDARD};
use base64::{DecodeError as Base64Error, Engine};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::go::{self, Fields, Object, Shape, syntax};
use crate::{DecodeError, Decoded, EncodeError, Finding, Reader, Reason};

/// Go does not look at the bits behind the last byte.
const GO: GeneralPurpose =
    GeneralPurpose::new(&ALPHABET, PAD.with_decode_allow_trailing_bits(true));

/// A payload with the rules of its two readers. Its serde form is the Rust reader's.
pub(crate) trait Payload: DeserializeOwned + Serialize {
    /// Name of the option.
    const NAME: &'static str;
    const FIELDS: Fields;
    /// So many of the first fields, all text, are required by the Rust reader.
    const REQUIRED: usize;

    /// What the Go reader checks in the same step as it parses.
    fn check_go(&self) -> Result<(), Reason>;
    /// Why a runtime that has parsed it cannot start a container from it.
    fn failure(&self, reader: Reader) -> Option<Reason>;
}

/// The option with the canonical form of a value that was found valid.
pub(crate) fn to_option<T: Payload>(
    value: &T,
    valid: Result<(), Reason>,
) -> Result<String, EncodeError> {
    let json = valid.and_then(|()| serde_json::to_string(value).map_err(|e| syntax(&e)));
    match json {
        Ok(json) => Ok(format!("{}={}", T::NAME, STANDARD.encode(json))),
        Err(reason) => Err(EncodeError { option: T::NAME, reason }),
    }
}

/// The value of each option with this name.
pub(crate) fn values<'a, B: AsRef<[u8]>>(options: &'a [B], name: &str) -> Vec<&'a [u8]> {
    options.iter().filter_map(|option| value_of(option.as_ref(), name)).collect()
}

/// The value of an option with this name.
pub(crate) fn value_of<'a>(option: &'a [u8], name: &str) -> Option<&'a [u8]> {
    option.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
}

/// Reads one payload, given what each reader takes for its base64 text.
pub(crate) fn decode<T: Payload>(
    go: &[u8],
    rust: Result<&[u8], Reason>,
) -> Result<Decoded<T>, DecodeError> {
    let failure = |value: &T, reader| value.failure(reader).map(|r| Finding::Fails(reader, r));
    match (read_go::<T>(go), rust.and_then(read_rust::<T>)) {
        (Err(go), Err(rust)) => Err(DecodeError::Refused { option: T::NAME, go, rust }),
        (Err(reason), Ok(value)) => {
            let mut findings = vec![Finding::Refuses(Reader::Go, reason)];
            findings.extend(failure(&value, Reader::Rust));
            Ok(Decoded { value, findings })
        }
        (Ok((value, seen)), rust) => {
            let go_fails = failure(&value, Reader::Go);
            let (rust, rust_finding) = match rust {
                Ok(rust) => {
                    let finding = failure(&rust, Reader::Rust);
                    (Some(rust), finding)
                }
                Err(reason) => {
                    (versionless(go, &reason), Some(Finding::Refuses(Reader::Rust, reason)))
                }
            };
            let mut findings = rust.as_ref().map_or(Vec::new(), |rust| differing(&seen, rust));
            findings.extend(go_fails.into_iter().chain(rust_finding));
            Ok(Decoded { value: rust.unwrap_or(value), findings })
        }
    }
}

/// The value, and the object that Go sees.
fn read_go<T: Payload>(base64: &[u8]) -> Result<(T, Value), Reason> {
    if base64.is_empty() {
        return Err(Reason::NoValue);
    }
    let unbroken: Vec<u8> =
        base64.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    let seen = go::read(T::FIELDS, &GO.decode(unbroken).map_err(base64_reason)?)?;
    let value = T::deserialize(&seen).map_err(|e| syntax(&e))?;
    value.check_go()?;
    Ok((value, seen))
}

fn read_rust<T: Payload>(base64: &[u8]) -> Result<T, Reason> {
    let json = STANDARD.decode(base64).map_err(base64_reason)?;
    serde_json::from_slice(&json).map_err(|e| rust_reason::<T>(&json, &e))
}

/// The fields of which Go sees another value than Rust.
fn differing<T: Payload>(go: &Value, rust: &T) -> Vec<Finding> {
    let json = serde_json::to_vec(rust).unwrap_or_default();
    let rust = go::read(T::FIELDS, &json).unwrap_or_default();
    let differs = |(name, shape): &&(&'static str, Shape)| {
        !matches!(shape, Shape::Unread) && go.get(name) != rust.get(name)
    };
    T::FIELDS.iter().filter(differs).map(|(name, _)| Finding::Differs(name)).collect()
}

/// What Rust would read if all that it misses were there: the version, which older snapshotters do
/// not write.
fn versionless<T: Payload>(base64: &[u8], reason: &Reason) -> Option<T> {
    let mut json = STANDARD.decode(base64).ok()?;
    let start = json.iter().position(|byte| *byte == b'{')? + 1;
    json.splice(start..start, *br#""fs_version":"","#);
    let missing = *reason == Reason::Missing("fs_version");
    missing.then(|| serde_json::from_slice(&json).ok())?
}

fn base64_reason(error: Base64Error) -> Reason {
    match error {
        Base64Error::InvalidByte(at, _) => Reason::Base64Symbol(at),
        Base64Error::InvalidLastSymbol(..) => Reason::Base64TrailingBits,
        Base64Error::InvalidLength(_) | Base64Error::InvalidPadding => Reason::Base64Padding,
    }
}

/// serde_json's own text may quote the document, so the reason is looked for anew.
fn rust_reason<T: Payload>(json: &[u8], error: &serde_json::Error) -> Reason {
    if !error.is_data() {
        let utf8 = json.utf8_chunks().all(|chunk| chunk.invalid().is_empty());
        return if utf8 { syntax(error) } else { Reason::Utf8 };
    }
    let text = go::text(json);
    let Ok(Object(members)) = Object::parse(&text) else {
        return Reason::NotObject;
    };
    for (at, (name, _)) in T::FIELDS.iter().enumerate() {
        let mut found = members.iter().filter(|(key, _)| key == name);
        match (found.next(), found.next()) {
            (_, Some(_)) => return Reason::Duplicate(name),
            (None, _) if at < T::REQUIRED => return Reason::Missing(name),
            (Some((_, raw)), None) if at < T::REQUIRED && !raw.get().starts_with('"') => {
                return Reason::FieldType(name, "text");
            }
            _ => {}
        }
    }
    Reason::Shape(error.line(), error.column())
}
