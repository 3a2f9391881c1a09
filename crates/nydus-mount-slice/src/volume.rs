use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::go::{Fields, Shape};
use crate::payload::{self, Payload, values};
use crate::{
    DecodeError, Decoded, EncodeError, ExtraOption, Finding, FsVersion, Reader, Reason, Secret,
    VOLUME,
};

/// The only type that a runtime mounts.
const GUEST_PULL: &str = "image_guest_pull";

/// What a type of volume needs besides a `source`.
enum Needs {
    /// An `image_pull`.
    ImagePull,
    /// Any `fs_type`.
    FsType,
    /// This `fs_type` or one of these, and a `nydus_image`.
    Nydus(&'static str),
}

/// The types that Kata has names for.
const TYPES: [(&str, Needs); 8] = [
    ("direct_block", Needs::FsType),
    ("image_raw_block", Needs::FsType),
    ("layer_raw_block", Needs::FsType),
    ("image_nydus_block", Needs::Nydus("rafsv6")),
    ("layer_nydus_block", Needs::Nydus("rafsv6")),
    ("image_nydus_fs", Needs::Nydus("rafsv5 or rafsv6")),
    ("layer_nydus_fs", Needs::Nydus("rafsv5 or rafsv6")),
    (GUEST_PULL, Needs::ImagePull),
];

/// What `io.katacontainers.volume=` carries: a volume for the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KataVirtualVolume {
    /// `direct_block`, `image_raw_block`, `layer_raw_block`, `image_nydus_block`,
    /// `layer_nydus_block`, `image_nydus_fs`, `layer_nydus_fs` or `image_guest_pull`. Readers
    /// parse any text; runtimes mount `image_guest_pull` only.
    pub volume_type: String,
    /// Device, bootstrap or image reference.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// File system in the guest; `rafsv6` for nydus blocks, that or `rafsv5` for nydus fs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fs_type: String,
    /// Mount options, or labels for guest pull.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<Secret>,
    /// For `direct_block`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_volume: Option<VolumeMetadata>,
    /// For `image_guest_pull`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull: Option<VolumeMetadata>,
    /// For the four nydus types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nydus_image: Option<NydusImage>,
    /// For the block types.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dm_verity: Option<DmVerity>,
}

/// Names and values for the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMetadata {
    /// The Go runtime refuses `None`; it takes an empty map.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, Secret>>,
}

/// The Rust runtime takes an absent field, but not `null`.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<T>, D::Error> {
    T::deserialize(d).map(Some)
}

/// How to mount a RAFS; see [`ExtraOption`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NydusImage {
    /// `nydusd`'s configuration; may hold registry credentials.
    #[serde(default, skip_serializing_if = "Secret::is_empty")]
    pub config: Secret,
    /// Directory of the snapshot: `snapshotdir` of an extraoption.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub snapshot_dir: String,
}

/// A dm-verity device. The Go runtime does not know the last three fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmVerity {
    /// `sha256` or `sha1`.
    pub hashtype: String,
    /// The root hash in hex.
    pub hash: String,
    /// Number of data blocks, 1 to `u32::MAX`.
    pub blocknum: u64,
    /// Bytes in a data block, 512 to 524,288.
    pub blocksize: u64,
    /// Bytes in a hash block, 512 to 524,288.
    pub hashsize: u64,
    /// Where the hashes begin, in bytes: behind the data, a multiple of `hashsize`.
    pub offset: u64,
    /// In hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
    /// Version of the format; `None` is 1.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub hash_type: Option<u32>,
    /// Whether the hash device has no superblock; `None` is no.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub no_superblock: Option<bool>,
}

impl KataVirtualVolume {
    /// Whether both runtimes parse it, know its type and find what the type needs. Of the types,
    /// they mount `image_guest_pull` only: see [`Reason::NotMounted`].
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn validate(&self) -> Result<(), Reason> {
        let found = TYPES.iter().find(|(name, _)| *name == self.volume_type);
        let (_, needs) = found.ok_or(Reason::VolumeType)?;
        self.check_type(needs)?;
        self.check_go()
    }

    /// The option, `io.katacontainers.volume=BASE64`; same bytes for same values.
    ///
    /// # Errors
    /// As [`Self::validate`].
    pub fn to_option(&self) -> Result<String, EncodeError> {
        payload::to_option(self, self.validate())
    }

    /// Reads the payload of each such option in a mount's whole option list.
    pub fn from_options<B: AsRef<[u8]>>(options: &[B]) -> Vec<Result<Decoded<Self>, DecodeError>> {
        let mut volumes: Vec<_> =
            values(options, VOLUME).into_iter().map(Self::from_base64).collect();
        for volume in volumes.iter_mut().skip(1).flatten() {
            let of_rust = |f: &Finding| {
                matches!(f, Finding::Fails(Reader::Rust, _) | Finding::Refuses(Reader::Rust, _))
            };
            volume.findings.retain(|finding| !of_rust(finding));
            volume.findings.push(Finding::Ignores(Reader::Rust, Reason::NotFirst));
        }
        volumes
    }

    /// Reads the value of one such option.
    ///
    /// # Errors
    /// When neither parser takes it.
    pub fn from_base64(value: impl AsRef<[u8]>) -> Result<Decoded<Self>, DecodeError> {
        payload::decode(value.as_ref(), Ok(value.as_ref()))
    }

    /// The rules of kata-types' `validate()`, and what the Go runtime needs to pull an image.
    fn check_type(&self, needs: &Needs) -> Result<(), Reason> {
        Reason::if_empty("source", &self.source)?;
        match needs {
            Needs::ImagePull => self.failure(Reader::Go).map_or(Ok(()), Err),
            Needs::FsType => Reason::if_empty("fs_type", &self.fs_type),
            Needs::Nydus(fs_types) => self.check_nydus(fs_types),
        }
    }

    fn check_nydus(&self, fs_types: &'static str) -> Result<(), Reason> {
        if !fs_types.split(" or ").any(|fs_type| fs_type == self.fs_type) {
            return Err(Reason::FsType(fs_types));
        }
        let image = self.nydus_image.as_ref().ok_or(Reason::Missing("nydus_image"))?;
        Reason::if_empty("nydus_image.config", image.config.expose())?;
        Reason::if_empty("nydus_image.snapshot_dir", &image.snapshot_dir)
    }
}

impl DmVerity {
    fn check(&self) -> Result<(), Reason> {
        let digits = match self.hashtype.to_ascii_lowercase().as_str() {
            "sha256" => 64,
            "sha1" => 40,
            _ => return Err(Reason::DmVerity("hashtype", "sha256 or sha1")),
        };
        let sizes = 1 << 9..=1 << 19;
        let hex = self.hash.len() == digits && self.hash.bytes().all(|b| b.is_ascii_hexdigit());
        let rules = [
            (hex, "hash", "as many hex digits as the hash type has"),
            ((1..=u32::MAX.into()).contains(&self.blocknum), "blocknum", "from 1 to 4294967295"),
            (sizes.contains(&self.blocksize), "blocksize", "from 512 to 524288"),
            (sizes.contains(&self.hashsize), "hashsize", "from 512 to 524288"),
        ];
        if let Some((_, field, expected)) = rules.into_iter().find(|(holds, ..)| !holds) {
            return Err(Reason::DmVerity(field, expected));
        }
        if !self.offset.is_multiple_of(self.hashsize)
            || self.offset < self.blocksize * self.blocknum
        {
            return Err(Reason::DmVerity("offset", "a multiple of hashsize behind the data"));
        }
        Ok(())
    }
}

impl TryFrom<&ExtraOption> for KataVirtualVolume {
    type Error = EncodeError;

    /// `image_nydus_fs` with the same content; fails where the extraoption is not valid.
    fn try_from(extra: &ExtraOption) -> Result<Self, EncodeError> {
        extra.validate().map_err(|reason| EncodeError { option: VOLUME, reason })?;
        Ok(Self {
            volume_type: "image_nydus_fs".to_owned(),
            source: extra.source.clone(),
            fs_type: extra.fs_version.map_or("", FsVersion::as_rafs).to_owned(),
            nydus_image: Some(NydusImage {
                config: extra.config.clone(),
                snapshot_dir: extra.snapshotdir.clone(),
            }),
            ..Self::default()
        })
    }
}

impl fmt::Display for KataVirtualVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, source {}", self.volume_type, self.source)?;
        if !self.fs_type.is_empty() {
            write!(f, ", fs_type {}", self.fs_type)?;
        }
        if let Some(NydusImage { config, snapshot_dir }) = &self.nydus_image {
            write!(f, ", config {config}, snapshot_dir {snapshot_dir}")?;
        }
        Ok(())
    }
}

const METADATA: Fields = &[("metadata", Shape::TextMap)];

impl Payload for KataVirtualVolume {
    const NAME: &'static str = VOLUME;
    const FIELDS: Fields = &[
        ("volume_type", Shape::Text),
        ("source", Shape::Text),
        ("fs_type", Shape::Text),
        ("options", Shape::Texts),
        ("direct_volume", Shape::Struct(METADATA)),
        ("image_pull", Shape::Struct(METADATA)),
        ("nydus_image", Shape::Struct(&[("config", Shape::Text), ("snapshot_dir", Shape::Text)])),
        (
            "dm_verity",
            Shape::Struct(&[
                ("hashtype", Shape::Text),
                ("hash", Shape::Text),
                ("blocknum", Shape::Number),
                ("blocksize", Shape::Number),
                ("hashsize", Shape::Number),
                ("offset", Shape::Number),
            ]),
        ),
    ];
    const REQUIRED: usize = 1;

    fn check_go(&self) -> Result<(), Reason> {
        Reason::if_empty("volume_type", &self.volume_type)?;
        let no_map = |volume: &VolumeMetadata| volume.metadata.is_none();
        if self.direct_volume.as_ref().is_some_and(no_map) {
            return Err(Reason::Missing("direct_volume.metadata"));
        }
        if self.image_pull.as_ref().is_some_and(no_map) {
            return Err(Reason::Missing("image_pull.metadata"));
        }
        let empty = |image: &NydusImage| image.config.is_empty() && image.snapshot_dir.is_empty();
        if self.nydus_image.as_ref().is_some_and(empty) {
            return Err(Reason::Empty("nydus_image"));
        }
        self.dm_verity.as_ref().map_or(Ok(()), DmVerity::check)
    }

    /// The Go runtime adds the container's annotations to `image_pull` without looking whether it
    /// is there.
    fn failure(&self, reader: Reader) -> Option<Reason> {
        match reader {
            _ if self.volume_type != GUEST_PULL => Some(Reason::NotMounted),
            Reader::Go if self.image_pull.is_none() => Some(Reason::Missing("image_pull")),
            _ => None,
        }
    }
}
