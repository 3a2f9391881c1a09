use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{EncodeError, ExtraOption, Finding, Reader, Reason};

/// Key of the option that carries an [`ExtraOption`].
pub const EXTRA_OPTION_KEY: &str = "extraoption=";

/// Key of the option that carries a [`KataVirtualVolume`](crate::KataVirtualVolume).
pub const VOLUME_KEY: &str = "io.katacontainers.volume=";

/// The type that both of Kata's runtimes recognise.
pub const NYDUS_TYPE: &str = "fuse.nydus-overlayfs";

/// One mount entry as a snapshotter returns it: containerd's `types.Mount`.
///
/// `Debug` shows the carried options by their length only.
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

    /// Whether `mount.fuse` or `mount.fuse3` would run `nydus-overlayfs` for this entry.
    pub fn is_nydus(&self) -> bool {
        is_nydus_type(&self.fs_type)
    }

    /// Which readers do not take the type of this entry for a nydus slice.
    pub fn type_findings(&self) -> Vec<Finding> {
        [Reader::Go, Reader::Rust]
            .into_iter()
            .filter(|reader| !reader.takes_type(&self.fs_type))
            .map(|reader| Finding::Refuses(reader, Reason::Type))
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

/// Whether the type names the helper: prefix `fuse.` or `fuse3.`, then a name or path whose last
/// component begins with `nydus-overlayfs`.
pub fn is_nydus_type(fs_type: &str) -> bool {
    let program = fs_type.strip_prefix("fuse.").or_else(|| fs_type.strip_prefix("fuse3."));
    program.is_some_and(|program| base(program).starts_with("nydus-overlayfs"))
}

/// Go's `path.Base`, as far as a name can begin with `nydus-overlayfs`.
fn base(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or(path)
}

impl Reader {
    /// Whether this runtime takes a mount of this type for a nydus slice.
    pub fn takes_type(self, fs_type: &str) -> bool {
        match self {
            Self::Go => fs_type.starts_with("fuse.") && is_nydus_type(fs_type),
            Self::Rust => fs_type == NYDUS_TYPE,
        }
    }
}

/// An option, or several joined by commas, with the values of carried options replaced by their
/// length; keys in a wrong case or place are caught too.
pub fn redact(options: &str) -> String {
    let words: Vec<_> = options.split(',').map(redact_word).collect();
    words.join(",")
}

fn redact_word(word: &str) -> String {
    let folded = word.to_ascii_lowercase();
    let ends = [EXTRA_OPTION_KEY, VOLUME_KEY]
        .into_iter()
        .filter_map(|key| folded.find(key).map(|at| at + key.len()));
    match ends.min() {
        Some(end) => format!("{}<{} bytes>", &word[..end], word.len() - end),
        None => word.to_owned(),
    }
}
