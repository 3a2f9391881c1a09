use std::fmt;

/// One of the two programs that read a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Kata's Go runtime (`src/runtime`).
    Go,
    /// Kata's Rust runtime (`src/runtime-rs`).
    Rust,
}

/// Where a reader does something else with a payload than start the container that it describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The reader's parser refuses it.
    Refuses(Reader, Reason),
    /// The reader parses it, and fails later.
    Fails(Reader, Reason),
    /// The reader does not look at it.
    Ignores(Reader, Reason),
    /// Both readers parse it, or the Rust runtime would if `fs_version` were present, and the Go
    /// runtime sees another value of this field.
    Differs(&'static str),
}

/// Why a reader refuses a payload, fails with it or ignores it. Holds no part of the payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The reader does not take the mount type for a nydus slice.
    #[error("it does not take this mount type for a nydus slice")]
    Type,
    /// This many options have the name.
    #[error("{0} options with this name, expected exactly one")]
    Several(usize),
    /// The option has no value.
    #[error("the value is empty")]
    NoValue,
    /// The byte at this offset, line breaks not counted.
    #[error("byte {0} is not in the standard base64 alphabet")]
    Base64Symbol(usize),
    /// Padding is missing or too long, or no base64 text has this length.
    #[error("wrong base64 padding or length")]
    Base64Padding,
    /// The last character encodes more than the last byte.
    #[error("the last base64 character has trailing bits")]
    Base64TrailingBits,
    /// The decoded bytes are not UTF-8.
    #[error("the decoded text is not UTF-8")]
    Utf8,
    /// The JSON ends or breaks at this line and column.
    #[error("invalid JSON at line {0} column {1}")]
    Json(usize, usize),
    /// Another JSON value.
    #[error("not a JSON object")]
    NotObject,
    /// A required field is absent.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    /// A required field is empty.
    #[error("field `{0}` is empty")]
    Empty(&'static str),
    /// A field is given more than once.
    #[error("field `{0}` is given more than once")]
    Duplicate(&'static str),
    /// A field has another JSON type than expected.
    #[error("field `{0}` is not {1}")]
    FieldType(&'static str, &'static str),
    /// A nested value of the wrong type or range, or a nested field that is given twice, found at
    /// this line and column.
    #[error("unexpected JSON value or field at line {0} column {1}")]
    Shape(usize, usize),
    /// `fs_version` of an extraoption.
    #[error("`fs_version` is neither `v5` nor `v6`")]
    FsVersion,
    /// `volume_type` of a volume.
    #[error("`volume_type` is unknown")]
    VolumeType,
    /// A `volume_type` that no runtime mounts.
    #[error("it mounts only `image_guest_pull`")]
    NotMounted,
    /// `fs_type` of a volume, and what its type requires.
    #[error("`fs_type` is not {0}")]
    FsType(&'static str),
    /// A field of `dm_verity`, and what it must be.
    #[error("`dm_verity.{0}` is not {1}")]
    DmVerity(&'static str, &'static str),
    /// A volume takes precedence over an extraoption.
    #[error("io.katacontainers.volume takes precedence")]
    VolumePresent,
    /// A volume after the first one.
    #[error("it reads only the first io.katacontainers.volume")]
    NotFirst,
}

impl Reason {
    pub(crate) fn if_empty(field: &'static str, value: &str) -> Result<(), Self> {
        if value.is_empty() { Err(Self::Empty(field)) } else { Ok(()) }
    }
}

/// No reader parses the payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No option has this name.
    #[error("no option `{0}=BASE64` found")]
    NotFound(&'static str),
    /// Both readers refuse it.
    #[error(
        "no runtime accepts this {option}: {}; expected {}",
        reasons(go, rust),
        expected(option)
    )]
    Refused {
        /// Name of the option.
        option: &'static str,
        /// Why the Go runtime refuses it.
        go: Reason,
        /// Why the Rust runtime refuses it.
        rust: Reason,
    },
}

fn reasons(go: &Reason, rust: &Reason) -> String {
    match go == rust {
        true => go.to_string(),
        false => format!("{}: {go}; {}: {rust}", Reader::Go, Reader::Rust),
    }
}

fn expected(option: &str) -> &'static str {
    if option == slice_names::EXTRA_OPTION {
        "padded base64 of {\"source\":…,\"config\":…,\"snapshotdir\":…,\"fs_version\":\"v5\" or \"v6\"}, \
         each a string that is not empty"
    } else {
        "padded base64 of {\"volume_type\":…} and the fields that this type needs"
    }
}

/// A value that breaks a rule of the contract, so it is not encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot encode {option}: {reason}")]
pub struct EncodeError {
    /// Name of the option.
    pub option: &'static str,
    /// What is wrong with the value.
    pub reason: Reason,
}

/// A payload that at least one reader parses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<T> {
    /// As the Rust runtime reads it, or would if `fs_version` were present; where that refuses it,
    /// as the Go runtime does.
    pub value: T,
    /// None where both runtimes start the container that it describes.
    pub findings: Vec<Finding>,
}

impl fmt::Display for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Go => "Kata's Go runtime",
            Self::Rust => "Kata's Rust runtime",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuses(reader, reason) => write!(f, "{reader} refuses it: {reason}"),
            Self::Fails(reader, reason) => write!(f, "{reader} reads it, then fails: {reason}"),
            Self::Ignores(reader, reason) => write!(f, "{reader} ignores it: {reason}"),
            Self::Differs(field) => write!(f, "{} sees another `{field}`", Reader::Go),
        }
    }
}
