//! Medians of calls, in µs, for snapshotters at the given sockets in turn.
#![allow(missing_docs)]
use containerd_proto::snapshots::snapshots_client::SnapshotsClient;
use containerd_proto::snapshots::*;
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};

async fn cycle(client: &mut SnapshotsClient<Channel>, key: &str, t: &mut [Vec<u64>; 5]) {
    let d = || String::from("overlayfs");
    let mut at = Instant::now();
    let mut lap = |i: usize| {
        t[i].push(at.elapsed().as_nanos() as u64);
        at = Instant::now();
    };
    let k = || key.to_owned();
    client
        .prepare(PrepareSnapshotRequest { snapshotter: d(), key: k(), ..Default::default() })
        .await
        .unwrap();
    lap(0);
    client.mounts(MountsRequest { snapshotter: d(), key: k() }).await.unwrap();
    lap(1);
    let name = format!("{key}-c");
    client
        .commit(CommitSnapshotRequest {
            snapshotter: d(),
            name: name.clone(),
            key: k(),
            ..Default::default()
        })
        .await
        .unwrap();
    lap(2);
    client.stat(StatSnapshotRequest { snapshotter: d(), key: name.clone() }).await.unwrap();
    lap(3);
    client.remove(RemoveSnapshotRequest { snapshotter: d(), key: name }).await.unwrap();
    lap(4);
}

async fn connect(path: &str) -> SnapshotsClient<Channel> {
    SnapshotsClient::new(
        Endpoint::from_shared(format!("unix://{path}")).unwrap().connect().await.unwrap(),
    )
}

#[tokio::main]
async fn main() {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let mut times: Vec<[Vec<u64>; 5]> = paths.iter().map(|_| Default::default()).collect();
    let mut clients = Vec::new();
    for path in &paths {
        clients.push(connect(path).await);
    }
    for round in 0..400 {
        for (i, client) in clients.iter_mut().enumerate() {
            cycle(client, &format!("one-{round}"), &mut times[i]).await;
        }
    }
    for (path, times) in paths.iter().zip(&mut times) {
        let medians: Vec<f64> = times
            .iter_mut()
            .map(|t| {
                t.sort();
                t[t.len() / 2] as f64 / 1000.0
            })
            .collect();
        println!(
            "{path}: prepare mounts commit stat remove {medians:.0?} sum {:.0}",
            medians.iter().sum::<f64>()
        );
    }
    for slice in 0..3 {
        for path in &paths {
            let end = Instant::now() + Duration::from_secs(2);
            let tasks: Vec<_> = (0..16)
                .map(|c| {
                    let path = path.clone();
                    tokio::spawn(async move {
                        let mut client = connect(&path).await;
                        let (mut n, mut t) = (0, Default::default());
                        while Instant::now() < end {
                            cycle(&mut client, &format!("s{slice}-c{c}-{n}"), &mut t).await;
                            n += 1;
                        }
                        n
                    })
                })
                .collect();
            let mut all = 0;
            for task in tasks {
                all += task.await.unwrap();
            }
            println!("{path}: 16 clients: {} cycles/s", all / 2);
        }
    }
}
