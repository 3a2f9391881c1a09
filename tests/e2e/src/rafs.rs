//! RAFS images on the local disk, and `nydusd` that serves one by FUSE from there.

use crate::image::bootstrap_in;
use crate::mounts::mount_at;
use crate::programs::{nydus_image, tool};
use crate::run::run;
use crate::service::Service;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How an image is made from directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One directory, one blob.
    Directory,
    /// A tar file and a blob a layer, merged; what registries have.
    Layers,
    /// The first directory is an image whose chunks the second one, the image, uses too.
    Dictionary,
}

/// What `nydus-image` is told.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// The image's form.
    pub form: Form,
    /// `none`, `lz4_block` or `zstd`.
    pub compressor: &'static str,
    /// Bytes, a power of two.
    pub chunk: u32,
    /// More options of `nydus-image create`.
    pub more: &'static [&'static str],
}

impl Recipe {
    /// An ordinary image.
    pub const fn of(form: Form) -> Self {
        Self { form, compressor: "zstd", chunk: 1 << 20, more: &[] }
    }
}

/// An image.
#[derive(Clone, Debug)]
pub struct Rafs {
    /// Its bootstrap.
    pub bootstrap: PathBuf,
    /// The directory of its blobs.
    pub blobs: PathBuf,
}

impl Rafs {
    /// Makes an image below `directory`, which must not exist. `None` if there is no `nydus-image`.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn build(directory: &Path, layers: &[PathBuf], recipe: &Recipe) -> Option<Self> {
        let builder = Builder { program: nydus_image()?, directory, recipe };
        let rafs = Self { bootstrap: directory.join("image.boot"), blobs: directory.join("blobs") };
        fs::create_dir_all(&rafs.blobs).expect("a directory");
        match recipe.form {
            Form::Directory => builder.plain(&rafs, &layers[0], &rafs.bootstrap, &[]),
            Form::Dictionary => {
                let base = directory.join("base.boot");
                builder.plain(&rafs, &layers[0], &base, &[]);
                let dictionary = format!("bootstrap={}", base.display());
                builder.plain(&rafs, &layers[1], &rafs.bootstrap, &["--chunk-dict", &dictionary]);
            }
            Form::Layers => builder.merged(&rafs, layers),
        }
        Some(rafs)
    }
}

struct Builder<'a> {
    program: PathBuf,
    directory: &'a Path,
    recipe: &'a Recipe,
}

impl Builder<'_> {
    fn create(&self, kind: &str) -> Command {
        let Recipe { compressor, chunk, more, .. } = self.recipe;
        let mut create = Command::new(&self.program);
        create.args(["create", "--log-level", "warn", "--fs-version", "6", "--type", kind]);
        create.args(["--compressor", compressor, "--chunk-size", &format!("{chunk:#x}")]);
        create.args(*more);
        create
    }

    fn plain(&self, rafs: &Rafs, layer: &Path, bootstrap: &Path, more: &[&str]) {
        let mut create = self.create("dir-rafs");
        create.args(more).arg("-B").arg(bootstrap).arg("-D").arg(&rafs.blobs).arg(layer);
        succeed(&mut create);
    }

    fn merged(&self, rafs: &Rafs, layers: &[PathBuf]) {
        let bootstraps = self.directory.join("bootstraps");
        fs::create_dir_all(&bootstraps).expect("a directory");
        let mut merge = Command::new(&self.program);
        merge.args(["merge", "--log-level", "warn", "--bootstrap"]).arg(&rafs.bootstrap);
        for layer in layers {
            let (tar, blob) = (self.directory.join("tar"), self.directory.join("blob"));
            let mut pack = Command::new("tar");
            pack.args(["--sort=name", "--numeric-owner", "--xattrs", "--xattrs-include=*"]);
            succeed(pack.arg("-cf").arg(&tar).arg("-C").arg(layer).arg("."));
            let mut create = self.create("tar-rafs");
            create.args(["--whiteout-spec", "none", "--blob-inline-meta"]);
            create.args(["--features", "blob-toc", "--blob"]).arg(&blob).arg(&tar);
            succeed(&mut create);
            let bytes = fs::read(&blob).expect("a blob");
            let id = format!("{:x}", Sha256::digest(&bytes));
            let bootstrap = bootstraps.join(&id);
            fs::write(&bootstrap, bootstrap_in(&bytes)).expect("a bootstrap");
            fs::rename(&blob, rafs.blobs.join(&id)).expect("a blob");
            merge.arg(bootstrap);
        }
        succeed(&mut merge);
    }
}

fn succeed(command: &mut Command) {
    let ran = run(command);
    assert!(ran.ok(), "{ran}");
}

/// A `nydusd` that serves an image by FUSE; it ends when dropped.
#[derive(Debug)]
pub struct Fuse {
    /// Where.
    pub mount: PathBuf,
    service: Service,
}

impl Fuse {
    /// Starts one; its files come to `directory`, the cache is in `cache`. With `prefetch`, it
    /// fetches every blob by itself. `None` if there is no nydusd.
    ///
    /// # Panics
    /// It does not mount.
    pub fn start(directory: &Path, rafs: &Rafs, cache: &Path, prefetch: bool) -> Option<Self> {
        let mut fuse = Self::spawn(directory, rafs, cache, prefetch)?;
        let mount = fuse.mount.clone();
        let mounted = || mount_at(&mount).is_some() && fs::read_dir(&mount).is_ok();
        fuse.service.wait("FUSE mount", mounted);
        Some(fuse)
    }

    /// The same without waiting.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn spawn(directory: &Path, rafs: &Rafs, cache: &Path, prefetch: bool) -> Option<Self> {
        let mount = directory.join("fuse");
        for made in [&mount, cache] {
            fs::create_dir_all(made).expect("a directory");
        }
        let config = json!({
            "device": {
                "backend": { "type": "localfs", "config": { "dir": rafs.blobs } },
                "cache": { "type": "blobcache", "config": { "work_dir": cache } },
            },
            "mode": "direct", "digest_validate": false, "enable_xattr": true,
            "fs_prefetch": { "enable": prefetch, "prefetch_all": prefetch, "threads_count": 2 },
        });
        let file = directory.join("nydusd.json");
        fs::write(&file, config.to_string()).expect("a configuration");
        let mut nydusd = Command::new(tool("nydusd/bin/nydusd")?);
        nydusd
            .args([
                "fuse",
                "--rlimit-nofile",
                "0",
                "--log-level",
                "warn",
                "--thread-num",
                "2",
                "--config",
            ])
            .arg(&file);
        nydusd.arg("--bootstrap").arg(&rafs.bootstrap).arg("--mountpoint").arg(&mount);
        nydusd.arg("--apisock").arg(directory.join("api.sock"));
        let service = Service::start(&mut nydusd, directory.join("nydusd.log"));
        Some(Self { mount, service })
    }

    /// What it said.
    pub fn said(&self) -> String {
        self.service.said()
    }

    /// Ends it; its mount goes.
    ///
    /// # Panics
    /// It does not end by itself.
    pub fn stop(mut self) {
        assert!(self.service.stop(), "{}", self.said());
        let _ = rustix::mount::unmount(&self.mount, rustix::mount::UnmountFlags::DETACH);
    }
}
