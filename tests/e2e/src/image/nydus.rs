//! Images whose layers are RAFS blobs, built as converters do.

use super::{Blob, Image, NYDUS_BLOB, gzipped, succeed, tar};
use crate::programs;
use serde_json::json;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Format of a Nydus image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rafs {
    /// Version 5.
    V5,
    /// Version 6.
    V6,
}

impl Rafs {
    fn number(self) -> &'static str {
        match self {
            Self::V5 => "5",
            Self::V6 => "6",
        }
    }
}

/// A Nydus image of these layers, lowest first; its blobs are put into `directory`. `None` if
/// there is no `nydus-image`.
///
/// # Panics
/// It cannot be made.
pub fn nydus(directory: &Path, layers: &[PathBuf], version: Rafs) -> Option<Image> {
    let builder = Builder { program: programs::nydus_image()?, directory, version };
    for made in ["bootstraps", "tree/image"] {
        fs::create_dir_all(directory.join(made)).expect(made);
    }
    let mut blobs: Vec<_> = layers.iter().map(|layer| builder.data(layer)).collect();
    let bootstrap = directory.join("tree/image/image.boot");
    let mut merge = Command::new(&builder.program);
    merge.args(["merge", "--log-level", "warn", "--prefetch-policy", "fs", "--bootstrap"]);
    merge.arg(&bootstrap).args(blobs.iter().map(|blob| builder.bootstrap(blob.hex())));
    succeed(&mut merge);
    let annotations = json!({
        "containerd.io/snapshot/nydus-bootstrap": "true",
        "containerd.io/snapshot/nydus-fs-version": version.number(),
    });
    blobs.push(gzipped(&tar(directory, &directory.join("tree")), annotations));
    Some(Image::new(directory, blobs))
}

struct Builder<'a> {
    program: PathBuf,
    directory: &'a Path,
    version: Rafs,
}

impl Builder<'_> {
    /// The blob of one layer; the bootstrap of that layer goes to the place of [`Self::bootstrap`].
    fn data(&self, layer: &Path) -> Blob {
        let tar = tar(self.directory, layer);
        let (blob, boot) = (self.directory.join("blob"), self.directory.join("boot"));
        let mut create = Command::new(&self.program);
        create.args(["create", "--log-level", "warn", "--type", "tar-rafs", "--prefetch-policy"]);
        create.args(["fs", "--fs-version", self.version.number(), "--blob"]).arg(&blob);
        match self.version {
            Rafs::V5 => create.args(["--whiteout-spec", "oci", "--bootstrap"]).arg(&boot),
            Rafs::V6 => create.args([
                "--whiteout-spec",
                "none",
                "--blob-inline-meta",
                "--features",
                "blob-toc",
            ]),
        };
        succeed(create.arg(&tar));
        if self.version == Rafs::V6 {
            fs::write(&boot, bootstrap_in(&fs::read(&blob).expect("a blob"))).expect("a bootstrap");
        }
        fs::remove_file(tar).expect("a layer to remove");
        let annotations = json!({ "containerd.io/snapshot/nydus-blob": "true" });
        let blob = Blob::adopt(&blob, NYDUS_BLOB, annotations, None);
        // `merge` takes the name of a bootstrap's file for the name of its blob.
        fs::rename(boot, self.bootstrap(blob.hex())).expect("a bootstrap");
        blob
    }

    fn bootstrap(&self, blob: &str) -> PathBuf {
        self.directory.join("bootstraps").join(blob)
    }
}

/// The bootstrap that `blob` has in it, packed with zstd.
pub(crate) fn bootstrap_in(blob: &[u8]) -> Vec<u8> {
    let packed = entry(blob, "image.boot");
    let mut reader = ruzstd::decoding::StreamingDecoder::new(packed).expect("zstd");
    let mut bootstrap = Vec::new();
    reader.read_to_end(&mut bootstrap).expect("zstd");
    bootstrap
}

/// An entry of a blob: each is followed by a header of tar, so they are found from the end.
fn entry<'a>(blob: &'a [u8], name: &str) -> &'a [u8] {
    let mut end = blob.len();
    while end >= 512 {
        let header = &blob[end - 512..end];
        let size = str::from_utf8(&header[124..135]).expect("a size in octal");
        let size = usize::from_str_radix(size.trim(), 8).expect("a size in octal");
        let start = end - 512 - size;
        if header.starts_with(name.as_bytes()) {
            return &blob[start..end - 512];
        }
        end = start;
    }
    panic!("no {name} in a blob of {} bytes", blob.len());
}
