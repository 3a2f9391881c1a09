use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::go::{Fields, Shape};
use crate::payload::{self, Payload, value_of, values};
use crate::{
    DecodeError, Decoded, EXTRA_OPTION, EncodeError, Finding, Reader, Reason, Secret, VOLUME,
};

/// The layout of a RAFS file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FsVersion {
    /// RAFS v5.
    V5,
    /// RAFS v6, which is EROFS.
    V6,
}

impl FsVersion {
    /// As `fs_version` of an extraoption: `v5` or `v6`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V5 => "v5",
            Self::V6 => "v6",
        }
    }

    /// As `fs_type` of a volume: `rafsv5` or `rafsv6`.
    pub const fn as_rafs(self) -> &'static str {
        match self {
            Self::V5 => "rafsv5",
            Self::V6 => "rafsv6",
        }
    }

    /// Reads `v5` or `v6`.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::V5, Self::V6].into_iter().find(|version| version.as_str() == text)
    }
}

/// What `extraoption=` carries: how to mount the image's RAFS for the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraOption {
    /// Path of the bootstrap.
    pub source: String,
    /// `nydusd`'s configuration, JSON in a string; may hold registry credentials.
    pub config: Secret,
    /// Directory of the snapshot, with `fs` and `work` in it.
    pub snapshotdir: String,
    /// Layout of the RAFS; `None` only in decoded payloads that do not say `v5` or `v6`.
    #[serde(deserialize_with = "version")]
    pub fs_version: Option<FsVersion>,
}

/// The Rust parser takes any text.
fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<FsVersion>, D::Error> {
    String::deserialize(deserializer).map(|text| FsVersion::parse(&text))
}

impl ExtraOption {
    /// Whether both runtimes mount what it describes.
    ///
    /// # Errors
    /// The first rule that it breaks: a field that is empty, an absent `fs_version`.
    pub fn validate(&self) -> Result<(), Reason> {
        self.check_go()?;
        self.failure(Reader::Rust).map_or(Ok(()), Err)
    }

    /// The option, `extraoption=BASE64`; same bytes for same values.
    ///
    /// # Errors
    /// As [`Self::validate`].
    pub fn to_option(&self) -> Result<String, EncodeError> {
        payload::to_option(self, self.validate())
    }

    /// Finds and reads the payload in a mount's whole option list.
    ///
    /// # Errors
    /// When there is none, or neither parser takes it.
    pub fn from_options<B: AsRef<[u8]>>(options: &[B]) -> Result<Decoded<Self>, DecodeError> {
        let found = values(options, EXTRA_OPTION);
        let last = found.last().ok_or(DecodeError::NotFound(EXTRA_OPTION))?;
        let mut decoded = match found.len() {
            1 => Self::from_base64(last),
            n => payload::decode(last, Err(Reason::Several(n))),
        }?;
        if !values(options, VOLUME).is_empty() {
            decoded.findings.push(Finding::Ignores(Reader::Go, Reason::VolumePresent));
        }
        Ok(decoded)
    }

    /// Reads the value of the only such option.
    ///
    /// # Errors
    /// When neither parser takes it.
    pub fn from_base64(value: impl AsRef<[u8]>) -> Result<Decoded<Self>, DecodeError> {
        let value = value.as_ref();
        let mut rust = value;
        // The Rust runtime strips the name as often as it is there.
        while let Some(rest) = value_of(rust, EXTRA_OPTION) {
            rust = rest;
        }
        payload::decode(value, Ok(rust))
    }
}

impl fmt::Display for ExtraOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.fs_version.map_or("unknown", FsVersion::as_str);
        write!(f, "source {}, config {}", self.source, self.config)?;
        write!(f, ", snapshotdir {}, fs_version {version}", self.snapshotdir)
    }
}

impl Payload for ExtraOption {
    const NAME: &'static str = EXTRA_OPTION;
    const FIELDS: Fields = &[
        ("source", Shape::Text),
        ("config", Shape::Text),
        ("snapshotdir", Shape::Text),
        ("fs_version", Shape::Unread),
    ];
    const REQUIRED: usize = 4;

    fn check_go(&self) -> Result<(), Reason> {
        Reason::if_empty("source", &self.source)?;
        Reason::if_empty("config", self.config.expose())?;
        Reason::if_empty("snapshotdir", &self.snapshotdir)
    }

    /// Both runtimes hand the fields on; the parser of the Go runtime has refused empty ones.
    fn failure(&self, reader: Reader) -> Option<Reason> {
        match (reader, self.fs_version) {
            (Reader::Go, _) => None,
            (Reader::Rust, None) => Some(Reason::FsVersion),
            (Reader::Rust, Some(_)) => self.check_go().err(),
        }
    }
}
