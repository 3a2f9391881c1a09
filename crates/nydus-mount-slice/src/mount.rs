use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{EncodeError, ExtraOption, Finding, Reader, Reason};

/// The type that both of Kata's runtimes recognise.
pub const NYDUS_TYPE: &str = "fuse.nydus-overlayfs";

/// One mount entry as a snapshotter returns it: containerd's `types.Mount`.
///
/// `Debug` shows what [`redact`] shows of the options.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// containerd's `type`, such as `overlay` or `fuse.nydus-overlayfs`.
    #[serde(rename = "type")]
    pub fs_type: String,
    /// What is mounted; `overlay` for a nydus slice.
    pub source: String,
    /// Where below the root it is mounted; empty for the root itself.
    #[serde(default)]
    pub target: String,
    /// The options in order, each a list element: never joined by commas.
    #[serde(default)]
    pub options: Vec<String>,
}

impl Mount {
    /// The slice that carries `extra`: `options` (overlay's own), then the carried option.
    ///
    /// # Errors
    /// When a reader would not accept `extra`.
    pub fn nydus(mut options: Vec<String>, extra: &ExtraOption) -> Result<Self, EncodeError> {
        options.push(extra.to_option()?);
        Ok(Self {
            fs_type: NYDUS_TYPE.into(),
            source: "overlay".into(),
            target: String::new(),
            options,
        })
    }

    /// Whether `mount.fuse` or `mount.fuse3` runs `nydus-overlayfs` for this entry.
    pub fn is_nydus(&self) -> bool {
        is_nydus_type(&self.fs_type)
    }

    /// Which readers do not take the type of this entry for a nydus slice.
    pub fn type_findings(&self) -> Vec<Finding> {
        [Reader::Go, Reader::Rust]
            .into_iter()
            .filter(|reader| !reader.takes_type(&self.fs_type))
            .map(|reader| Finding::Ignores(reader, Reason::Type))
            .collect()
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options: Vec<_> = self.options.iter().map(|option| redact(option)).collect();
        f.debug_struct("Mount")
            .field("fs_type", &self.fs_type)
            .field("source", &self.source)
            .field("target", &self.target)
            .field("options", &options)
            .finish()
    }
}

/// Whether `mount.fuse` or `mount.fuse3` runs `nydus-overlayfs` for this mount type: the rule of
/// [`slice_names::is_helper`].
pub fn is_nydus_type(fs_type: &str) -> bool {
    slice_names::is_helper(slice_names::program(fs_type.as_bytes()))
}

impl Reader {
    /// Whether this runtime takes a mount of this type for a nydus slice.
    ///
    /// The Go runtime looks at the beginning of the last path component only, so it also takes
    /// types for which [`is_nydus_type`] is false.
    pub fn takes_type(self, fs_type: &str) -> bool {
        match self {
            Self::Go => fs_type
                .strip_prefix("fuse.")
                .is_some_and(|program| base(program).starts_with(slice_names::HELPER)),
            Self::Rust => fs_type == NYDUS_TYPE,
        }
    }
}

/// Go's `path.Base`, for paths that are not empty.
fn base(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or(path)
}

/// Text such as an option or an option string, up to the first value that must not be shown
/// ([`slice_names::secret_start`]), and the length of the rest.
pub fn redact(text: &str) -> String {
    match slice_names::secret_start(text.as_bytes()) {
        Some(start) => format!("{}<{} bytes>", &text[..start], text.len() - start),
        None => text.to_owned(),
    }
}
