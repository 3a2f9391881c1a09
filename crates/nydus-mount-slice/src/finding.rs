use std::fmt;

/// One of the two programs that read a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Kata's Go runtime (`src/runtime`).
    Go,
    /// Kata's Rust runtime (`src/runtime-rs`).
    Rust,
}

/// What a reader makes of a payload where that is not plain acceptance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// This reader refuses it.
    Refuses(Reader, Reason),
    /// This reader does not look at it.
    Ignores(Reader, Reason),
    /// Both readers accept it, or the Rust runtime would but for an absent `fs_version`, and the Go
    /// runtime sees another value of this field.
    Differs(&'static str),
}

/// Why a payload is refused or ignored. Holds no part of the payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The mount type is not one that the reader takes for a nydus slice.
    #[error("it does not take this mount type for a nydus slice")]
    Type,
    /// So many options have the key.
    #[error("{0} options with the key, expected exactly one")]
    Several(usize),
    /// Nothing is behind the key.
    #[error("nothing behind the key")]
    NoValue,
    /// The symbol at this offset, line breaks not counted.
    #[error("byte {0} is no symbol of the standard base64 alphabet")]
    Base64Symbol(usize),
    /// Padding is missing or too much, or no base64 text has this length.
    #[error("wrong base64 padding or length")]
    Base64Padding,
    /// Bits behind the last byte.
    #[error("base64 whose last symbol has bits left over")]
    Base64TrailingBits,
    /// The decoded bytes are not UTF-8.
    #[error("the decoded text is not UTF-8")]
    Utf8,
    /// No JSON from this line and column on.
    #[error("no JSON at line {0} column {1}")]
    Json(usize, usize),
    /// Another JSON value.
    #[error("not a JSON object")]
    NotObject,
    /// A required field is not there.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    /// A required field is empty.
    #[error("field `{0}` is empty")]
    Empty(&'static str),
    /// A field is there more than once.
    #[error("field `{0}` is there twice")]
    Duplicate(&'static str),
    /// A field has another JSON type than expected.
    #[error("field `{0}` is not {1}")]
    FieldType(&'static str, &'static str),
    /// An unexpected JSON type or double field inside, found at this line and column.
    #[error("unexpected JSON type or field at line {0} column {1}")]
    Shape(usize, usize),
    /// `fs_version` of an extraoption.
    #[error("`fs_version` is neither `v5` nor `v6`")]
    FsVersion,
    /// `volume_type` of a volume.
    #[error("`volume_type` is none of the known ones")]
    VolumeType,
    /// `fs_type` of a volume, and what its type requires.
    #[error("`fs_type` is not {0}")]
    FsType(&'static str),
    /// A field of `dm_verity`, and what it must be.
    #[error("`dm_verity.{0}` is not {1}")]
    DmVerity(&'static str, &'static str),
    /// A volume goes before an extraoption.
    #[error("an io.katacontainers.volume= option goes first")]
    VolumePresent,
    /// Volumes behind the first one.
    #[error("only the first io.katacontainers.volume= option is read")]
    NotFirst,
}

impl Reason {
    pub(crate) fn if_empty(field: &'static str, value: &str) -> Result<(), Self> {
        if value.is_empty() { Err(Self::Empty(field)) } else { Ok(()) }
    }
}

/// No reader takes the payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No option has this key.
    #[error("no option `{0}BASE64` found")]
    NotFound(&'static str),
    /// Both readers refuse it, each for its own reason.
    #[error("{key} no reader takes it; go: {go}; rust: {rust}; expected {}", expected(key))]
    Refused {
        /// Key of the option, with its `=`.
        key: &'static str,
        /// Why the Go runtime refuses it.
        go: Reason,
        /// Why the Rust runtime refuses it.
        rust: Reason,
    },
}

fn expected(key: &str) -> &'static str {
    if key == crate::EXTRA_OPTION_KEY {
        "padded base64 of {\"source\":…,\"config\":…,\"snapshotdir\":…,\"fs_version\":\"v5\" or \"v6\"}, \
         each a string that is not empty"
    } else {
        "padded base64 of {\"volume_type\":…,\"source\":…} and what the type needs"
    }
}

/// A value that some reader would not accept, so it is not encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} not encoded: {reason}")]
pub struct EncodeError {
    /// Key of the option, with its `=`.
    pub key: &'static str,
    /// What is wrong with the value.
    pub reason: Reason,
}

/// What a decoder made of a payload that at least one reader takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<T> {
    /// As the Rust runtime reads it, or would but for an absent `fs_version`; where that refuses it,
    /// as the Go runtime does.
    pub value: T,
    /// Where a reader does not plainly accept it; none for a canonical payload.
    pub findings: Vec<Finding>,
}

impl fmt::Display for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Go => "kata's go runtime",
            Self::Rust => "kata's rust runtime",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuses(reader, reason) => write!(f, "{reader} refuses it: {reason}"),
            Self::Ignores(reader, reason) => write!(f, "{reader} ignores it: {reason}"),
            Self::Differs(field) => write!(f, "kata's go runtime sees another `{field}`"),
        }
    }
}
