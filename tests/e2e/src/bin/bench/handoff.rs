//! From the slice to "RAFS mounted" in a guest's share: our part beside `nydusd`'s own time for
//! the same two calls.

use crate::median_us;
use kata_handoff::{Guest, Reader, Rootfs, Share};
use nydus_e2e::run::run;
use nydus_e2e::stage::Stage;
use nydus_e2e::{programs, rootfs};
use nydus_mount_slice::{ExtraOption, FsVersion, Mount};
use nydusd_client::{Binary, Client, Daemon, Mode, Spec};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Both medians in µs, and our part as a share of `nydusd`'s.
pub(crate) fn measure(quick: bool) -> Value {
    let stage = Stage::of_a_node().expect("as before");
    let (Some(nydusd), Some(slice)) = (programs::tool("nydusd/bin/nydusd"), slice(&stage)) else {
        println!("  not run: hand-off: a program is missing");
        return Value::Null;
    };
    let runtime = Runtime::new().expect("a runtime");
    let rounds = if quick { 20 } else { 200 };
    let (ours, posts) = runtime.block_on(async {
        let binary = Binary::probe(nydusd).await.expect("nydusd");
        let mode = Mode::Virtiofs { sock: stage.join("fs.sock"), hybrid: false };
        let mut spec = Spec::new(mode, stage.join("api.sock"));
        spec.extra = vec!["--rlimit-nofile".into(), "0".into()];
        spec.stderr = Some(stage.join("nydusd.log"));
        let daemon = Daemon::start(&binary, spec, Duration::from_secs(10)).await.expect("nydusd");
        let share = Share::create(stage.join("share"), Reader::Go).expect("a share");
        let times = in_turn(&slice, &share, &daemon, rounds).await;
        daemon.stop().await.expect("the end of nydusd");
        share.remove().expect("nothing is left");
        times
    });
    let part = (ours - posts) / posts;
    println!(
        "\n  slice to RAFS mounted: {ours:.0} µs, of which nydusd's two calls {posts:.0} µs\n  \
         our part of it, at most 0.1 of nydusd's: {part:.2} {}",
        if part <= 0.1 { "met" } else { "NOT MET" }
    );
    json!({ "slice_to_mounted_us": ours, "two_calls_us": posts, "our_part": part })
}

async fn in_turn(slice: &Mount, share: &Share, daemon: &Daemon, rounds: usize) -> (f64, f64) {
    let (mut ours, mut posts) = (Vec::new(), Vec::new());
    let client = daemon.client();
    for round in 0..rounds + 5 {
        let (one, other) = (format!("o{round}"), format!("p{round}"));
        let start = Instant::now();
        let rootfs = Rootfs::recognise(std::slice::from_ref(slice), Reader::Go).expect("a slice");
        let guest = Guest::attach(share.clone(), client.clone()).await.expect("a guest");
        guest.add(&one, &rootfs).await.expect("a container");
        let took = start.elapsed();
        guest.remove(&one).await.expect("removed");
        unmount(client, "/containers").await;

        let bodies = bodies(share, &rootfs, &other);
        let start = Instant::now();
        bodies.iter().for_each(|(mountpoint, body)| post(client.socket(), mountpoint, body));
        let alone = start.elapsed();
        for (mountpoint, _) in bodies.iter().rev() {
            unmount(client, mountpoint).await;
        }
        if round >= 5 {
            ours.push(took);
            posts.push(alone);
        }
    }
    (median_us(ours), median_us(posts))
}

async fn unmount(client: &Client, mountpoint: &str) {
    client.unmount(mountpoint).await.expect("unmounted");
}

/// What a program would send that has all of it ready.
fn bodies(share: &Share, rootfs: &Rootfs, cid: &str) -> [(String, String); 2] {
    let share = json!({ "fs_type": "passthrough_fs", "source": share.served(), "config": "" });
    let rafs =
        json!({ "fs_type": "rafs", "source": rootfs.bootstrap, "config": rootfs.config.expose() });
    [
        ("/containers".to_owned(), share.to_string()),
        (format!("/rafs/{cid}/lowerdir"), rafs.to_string()),
    ]
}

fn post(socket: &Path, mountpoint: &str, body: &str) {
    let mut stream = UnixStream::connect(socket).expect("nydusd");
    let request = format!(
        "POST /api/v1/mount?mountpoint={mountpoint} HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("a request");
    let mut reply = [0; 512];
    let length = stream.read(&mut reply).expect("a reply");
    assert!(reply.starts_with(b"HTTP/1.1 204"), "{}", String::from_utf8_lossy(&reply[..length]));
}

/// The slice of a small image whose blobs lie beside it.
fn slice(stage: &Stage) -> Option<Mount> {
    let [lower, _] = rootfs::layers(stage.path(), 1 << 20)?;
    let (bootstrap, blobs) = (stage.join("image.boot"), stage.join("blobs"));
    let (cache, snapshot) = (stage.join("cache"), stage.join("snapshot"));
    for directory in [&blobs, &cache, &snapshot.join("fs"), &snapshot.join("work")] {
        fs::create_dir_all(directory).expect("a directory");
    }
    let mut create = Command::new(programs::nydus_image()?);
    create.args(["create", "-t", "dir-rafs", "-v", "6", "-B"]).arg(&bootstrap);
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
        fs_version: Some(FsVersion::V6),
    };
    let options = vec![
        "lowerdir=/lower".to_owned(),
        format!("upperdir={}/fs", snapshot.display()),
        format!("workdir={}/work", snapshot.display()),
    ];
    Some(Mount::nydus(options, &extra).expect("a slice"))
}
