//! Images as a registry keeps them: blobs, named by their digest, and a manifest.

mod nydus;

pub(crate) use nydus::bootstrap_in;
pub use nydus::{Rafs, nydus};

use crate::run::run;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Media type of the manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const NYDUS_BLOB: &str = "application/vnd.oci.image.layer.nydus.blob.v1";

/// A blob in a file named by its digest, without `sha256:`.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Where it is.
    pub path: PathBuf,
    /// `sha256:` and its digest.
    pub digest: String,
    /// Its length.
    pub size: u64,
    media_type: &'static str,
    annotations: Value,
    diff_id: String,
}

/// An image, ready to be pushed.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its manifest.
    pub manifest: Vec<u8>,
    /// Its configuration.
    pub config: Blob,
    /// Its layers, lowest first; of a Nydus image the last one is the bootstrap's.
    pub layers: Vec<Blob>,
}

impl Image {
    /// Every blob but the manifest.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config])
    }

    /// The data blobs of a Nydus image.
    pub fn data(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().filter(|layer| layer.media_type == NYDUS_BLOB)
    }

    /// Of layers whose blobs are in `directory`.
    fn new(directory: &Path, layers: Vec<Blob>) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.diff_id).collect();
        let config = json!({
            "architecture": architecture(), "os": "linux",
            "config": { "Env": ["PATH=/bin"], "Cmd": ["/bin/sh"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let scratch = directory.join("config");
        fs::write(&scratch, config.to_string()).expect("a configuration");
        let config = Blob::adopt(&scratch, CONFIG, json!({}), None);
        let described: Vec<_> = layers.iter().map(Blob::described).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": config.described(), "layers": described,
        });
        Self { manifest: manifest.to_string().into_bytes(), config, layers }
    }
}

impl Blob {
    /// Renames `file` to its digest. `diff_id` is the digest of what is in it, if that is packed.
    fn adopt(
        file: &Path,
        media_type: &'static str,
        annotations: Value,
        diff_id: Option<String>,
    ) -> Self {
        let digest = digest(file);
        let path = file.with_file_name(&digest["sha256:".len()..]);
        fs::rename(file, &path).expect("a blob to rename");
        let size = fs::metadata(&path).expect("a blob").len();
        let diff_id = diff_id.unwrap_or_else(|| digest.clone());
        Self { path, digest, size, media_type, annotations, diff_id }
    }

    /// The digest without `sha256:`.
    pub fn hex(&self) -> &str {
        &self.digest["sha256:".len()..]
    }

    /// Its annotations that clients hand to the snapshotter as labels.
    pub fn labels(&self) -> impl Iterator<Item = (String, String)> {
        let all = self.annotations.as_object().into_iter().flatten();
        all.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
    }

    fn described(&self) -> Value {
        json!({
            "mediaType": self.media_type, "digest": self.digest, "size": self.size,
            "annotations": self.annotations,
        })
    }
}

/// An ordinary image of these layers, lowest first; its blobs are put into `directory`.
///
/// # Panics
/// It cannot be made.
pub fn plain(directory: &Path, layers: &[PathBuf], gzip: bool) -> Image {
    fs::create_dir_all(directory).expect("a directory");
    let layers = layers.iter().map(|layer| match gzip {
        true => gzipped(&tar(directory, layer), json!({})),
        false => Blob::adopt(&tar(directory, layer), TAR, json!({}), None),
    });
    Image::new(directory, layers.collect())
}

/// A directory as a tar file in `place`, always the same bytes.
fn tar(place: &Path, layer: &Path) -> PathBuf {
    let file = place.join("layer.tar");
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-cf"]);
    succeed(tar.arg(&file).arg("-C").arg(layer).arg("."));
    file
}

fn gzipped(tar: &Path, annotations: Value) -> Blob {
    let diff_id = digest(tar);
    succeed(Command::new("gzip").args(["--no-name", "--force", "--fast"]).arg(tar));
    let packed = tar.with_extension("tar.gz");
    Blob::adopt(&packed, TAR_GZIP, annotations, Some(diff_id))
}

fn digest(file: &Path) -> String {
    digest_of(&fs::read(file).expect("a file to read"))
}

/// `sha256:` and the digest of `bytes`.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

fn succeed(command: &mut Command) {
    let ran = run(command);
    assert!(ran.ok(), "{ran}");
}

/// The name that Go, and so OCI, has for this machine.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
