//! A snapshot's record, and how it is stored: JSON, so that a later version can add a field.

use std::fmt;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use crate::labels::{Labels, NYDUS_BOOTSTRAP};
use crate::usage::Usage;

/// What may be done with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Read only, never committed.
    View,
    /// Writable, can be committed.
    Active,
    /// Read only, can be a parent.
    Committed,
}

impl Kind {
    /// The name that containerd's filters use.
    pub fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }
}

/// What the store knows of one snapshot. `Debug` shows the labels' names only: a value may be a
/// registry password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name; unique, changed by a commit.
    #[serde(skip)]
    pub key: String,
    /// Number of its directory; never used again.
    pub id: u64,
    /// What it is.
    pub kind: Kind,
    /// Key of the parent, empty for none.
    #[serde(default)]
    pub parent: String,
    /// Its labels.
    #[serde(default)]
    pub labels: Labels,
    /// When it was prepared, or committed.
    pub created: SystemTime,
    /// When it was changed last.
    pub updated: SystemTime,
    /// The kernel serves its image, not `nydusd`: it holds no mount of a daemon.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kernel: bool,
    /// What it took on disk when it was committed, else zero.
    #[serde(with = "StoredUsage", default)]
    pub usage: Usage,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Usage")]
struct StoredUsage {
    inodes: u64,
    size: u64,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("key", &self.key)
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("parent", &self.parent)
            .field("labels", &self.labels.keys())
            .field("created", &self.created)
            .field("updated", &self.updated)
            .field("kernel", &self.kernel)
            .field("usage", &self.usage)
            .finish()
    }
}

impl Record {
    /// Whether it holds the bootstrap of a Nydus image.
    pub(super) fn is_image(&self) -> bool {
        self.kind == Kind::Committed && self.labels.contains_key(NYDUS_BOOTSTRAP)
    }

    /// The record stored under `key`.
    pub(super) fn decode(key: &str, value: &[u8]) -> Result<Self> {
        let record: Self = decode(key, value)?;
        Ok(Self { key: key.to_owned(), ..record })
    }
}

/// The value as it is stored.
pub(super) fn encode(key: &str, value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::InvalidArgument(format!("{key:?} cannot be stored: {error}")))
}

/// The stored value. The error says where it is damaged, not what stands there.
pub(super) fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T> {
    serde_json::from_slice(value).map_err(|error| {
        let why = format!("{:?} error at byte {}", error.classify(), error.column());
        Error::Damaged(key.to_owned(), why.to_lowercase())
    })
}
