//! From the slice to "RAFS mounted" in a guest's share: our part beside `nydusd`'s own time for
//! the same two calls. And to the first byte that a guest prints.

use crate::median_us;
use containerd_proto::snapshots as proto;
use kata_handoff::{Guest, Reader, Rootfs, Share};
use nydus_e2e::bare::Node;
use nydus_e2e::handoff;
use nydus_e2e::image::Rafs;
use nydus_e2e::machines::{self, Machine};
use nydus_e2e::programs;
use nydus_e2e::stage::Stage;
use nydus_mount_slice::Mount;
use nydusd_client::{Binary, Client, Daemon};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;
use tokio::runtime::Runtime;

/// Medians in µs, and our part as a share of `nydusd`'s.
pub(crate) fn measure(quick: bool) -> Value {
    // A slice as it is in use: of our snapshotter, its image in a registry.
    let (Some(node), Some(nydusd)) =
        (Node::start("dedicated", Rafs::V6), programs::tool("nydusd/bin/nydusd"))
    else {
        println!("  not run: hand-off: a program is missing");
        return Value::Null;
    };
    let (stage, entry) = (&node.stage, node.container("bench", &node.unpack()));
    let proto::Mount { r#type: fs_type, source, target, options } = entry;
    let slice = Mount { fs_type, source, target, options };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let rounds = if quick { 20 } else { 200 };
    let medians = runtime.block_on(async {
        let binary = Binary::probe(nydusd).await.expect("nydusd");
        let daemon = handoff::daemon(stage, &binary).await;
        // As runtimes have it: on the tmpfs that the stage has there.
        let share = Share::create("/run/share", Reader::Go).expect("a share");
        let times = in_turn(&slice, &share, &daemon, rounds).await;
        daemon.kill().await.expect("the end of nydusd");
        share.remove().expect("nothing is left");
        times
    });
    let [decode, ours, posts] = medians;
    let part = (ours - posts) / posts;
    println!(
        "\n  slice to RAFS mounted: {ours:.0} µs, of which it is decoded in {decode:.0} µs; nydusd's two \
         calls alone {posts:.0} µs\n  \
         our part of it, at most 0.1 of nydusd's: {part:.2} {}",
        if part <= 0.1 { "met" } else { "NOT MET" }
    );
    let boot = first_byte(stage, &runtime, &slice, if quick { 1 } else { 9 });
    json!({ "guest_ms": boot, "decode_us": decode, "slice_to_mounted_us": ours, "two_calls_us": posts, "our_part": part })
}

/// Medians in ms: until the guest is up and its process runs, and until it prints a file.
fn first_byte(stage: &Stage, runtime: &Runtime, slice: &Mount, rounds: usize) -> Value {
    let Some(settings) = machines::settings("guest-6.1", &stage.join("vm")) else {
        println!("  not run: guest: no QEMU or no guest kernel");
        return Value::Null;
    };
    let (mut started, mut printed) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let start = Instant::now();
        let machine =
            Machine::start(runtime, &settings, std::slice::from_ref(slice), "cat /data/lower")
                .expect("a guest");
        started.push(start.elapsed());
        machine.vm.receive().expect("a byte");
        printed.push(start.elapsed());
        machine.output();
        runtime.block_on(machine.sandbox.remove()).expect("nothing is left");
    }
    let [started, printed] = [started, printed].map(|times| median_us(times) / 1000.0);
    println!(
        "  slice to first byte from a guest: {printed:.0} ms, its process runs at {started:.0} ms"
    );
    json!({ "process_runs": started, "first_byte": printed })
}

async fn in_turn(slice: &Mount, share: &Share, daemon: &Daemon, rounds: usize) -> [f64; 3] {
    let mut times = [(); 3].map(|()| Vec::new());
    let client = daemon.client();
    for round in 0..rounds + 5 {
        let (one, other) = (format!("o{round}"), format!("p{round}"));
        let start = Instant::now();
        let rootfs = Rootfs::recognise(std::slice::from_ref(slice), Reader::Go).expect("a slice");
        let decoded = start.elapsed();
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
            let took = [decoded, took, alone];
            times.iter_mut().zip(took).for_each(|(times, time)| times.push(time));
        }
    }
    times.map(median_us)
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
