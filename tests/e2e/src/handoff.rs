//! What a runtime starts from: a slice, and a `nydusd` for its guest.

use crate::image::Rafs;
use crate::programs;
use crate::rootfs;
use crate::run::run;
use crate::stage::Stage;
use nydus_mount_slice::{ExtraOption, FsVersion, Mount};
use nydusd_client::{Binary, Daemon, Mode, Spec};
use serde_json::json;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// The slice of a small image whose blobs lie beside it; `None` if a program is missing.
///
/// # Panics
/// It cannot be made.
pub fn slice(stage: &Stage, version: Rafs) -> Option<Mount> {
    let [lower, _] = rootfs::layers(stage.path(), 1 << 20)?;
    let (bootstrap, blobs) = (stage.join("image.boot"), stage.join("blobs"));
    let (cache, snapshot) = (stage.join("cache"), stage.join("snapshot"));
    for directory in [&blobs, &cache, &snapshot.join("fs"), &snapshot.join("work")] {
        fs::create_dir_all(directory).expect("a directory");
    }
    let (number, fs_version) = match version {
        Rafs::V5 => ("5", FsVersion::V5),
        Rafs::V6 => ("6", FsVersion::V6),
    };
    let mut create = Command::new(programs::nydus_image()?);
    create.args(["create", "-t", "dir-rafs", "-v", number, "-B"]).arg(&bootstrap);
    let ran = run(create.arg("-D").arg(&blobs).arg(lower));
    assert!(ran.ok(), "{ran}");
    let config = json!({
        "device": {
            "backend": { "type": "localfs", "config": { "dir": blobs } },
            "cache": { "type": "blobcache", "config": { "work_dir": cache } },
        },
        "mode": "direct", "digest_validate": false, "enable_xattr": true,
    });
    let extra = ExtraOption {
        source: bootstrap.display().to_string(),
        config: config.to_string().as_str().into(),
        snapshotdir: snapshot.display().to_string(),
        fs_version: Some(fs_version),
    };
    let options = vec![
        "lowerdir=/lower".to_owned(),
        format!("upperdir={}/fs", snapshot.display()),
        format!("workdir={}/work", snapshot.display()),
    ];
    Some(Mount::nydus(options, &extra).expect("a slice"))
}

/// Starts a `nydusd` for a guest, its files in the stage.
///
/// # Panics
/// It does not come up.
pub async fn daemon(stage: &Stage, binary: &Binary) -> Daemon {
    let mode = Mode::Virtiofs { sock: stage.join("fs.sock"), hybrid: None };
    let mut spec = Spec::new(mode, stage.join("api.sock"));
    spec.extra = vec!["--rlimit-nofile".into(), "0".into()];
    spec.stderr = Some(stage.join("nydusd.log"));
    Daemon::start(binary, spec, Duration::from_secs(10)).await.expect("nydusd")
}
