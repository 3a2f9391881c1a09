//! The part of `cargo xtask bench` that measures the snapshotter: beside the Go one and
//! containerd's own, in turn, by the same client. Writes JSON to the path that it gets.

mod chains;
mod handoff;
mod native;

use containerd_proto::snapshots::snapshots_client::SnapshotsClient;
use containerd_proto::snapshots::{
    CommitSnapshotRequest, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest,
};
use nydus_e2e::client::upper;
use nydus_e2e::containerd::{Containerd, VERSIONS};
use nydus_e2e::image::{self, Rafs};
use nydus_e2e::node::{Case, LOGIN, Node};
use nydus_e2e::service::Service;
use nydus_e2e::stage::Stage;
use nydus_e2e::{programs, rootfs};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

const CALLS: [&str; 5] = ["prepare", "mounts", "commit", "stat", "remove"];
const CLIENTS: usize = 16;

type Client =
    SnapshotsClient<InterceptedService<Channel, fn(Request<()>) -> Result<Request<()>, Status>>>;

/// A snapshotter that is measured.
struct Peer {
    key: &'static str,
    socket: PathBuf,
}

/// The path of the results; then `quick`, and `require`, which makes an unmet requirement a
/// failure.
fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let json = PathBuf::from(args.first().expect("the path of the results"));
    let has = |word: &str| args.iter().any(|arg| arg == word);
    let quick = has("quick");
    let Some(stage) = Stage::of_a_node() else {
        println!("  not run: the snapshotter's part needs root of the machine");
        return ExitCode::SUCCESS;
    };
    let (calls, met) = calls(stage, quick);
    let containers = containers(quick);
    let native = native::measure(quick);
    let ctr_run = chains::measure(quick);
    let handoff = handoff::measure(quick);
    let results = json!({
        "calls": calls, "containers": containers, "native": native, "ctr_run": ctr_run,
        "handoff": handoff,
    });
    let text = serde_json::to_string_pretty(&results).expect("JSON") + "\n";
    std::fs::write(&json, text).expect("a file for the results");
    if met || !has("require") { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

// ---- calls

/// The figures, and whether all requirements are met.
fn calls(stage: Stage, quick: bool) -> (Value, bool) {
    let runtime = Runtime::new().expect("a runtime");
    let (ours, _ours) = start(&stage, "ours", &programs::ours("containerd-nydus-grpc"), &[]);
    let mut peers = vec![ours];
    let go = go(&stage);
    peers.extend(go.as_ref().map(|(peer, _)| Peer { key: peer.key, socket: peer.socket.clone() }));
    let root = stage.path().to_owned();
    let containerd = Containerd::start(&stage, VERSIONS[0], &peers[0].socket, &root);
    peers.extend(
        containerd
            .as_ref()
            .map(|containerd| Peer { key: "containerd's overlayfs", socket: containerd.socket() }),
    );
    let rounds = if quick { 50 } else { 500 };
    let one = runtime.block_on(one_client(&peers, rounds, Layer::Empty));
    let file = runtime.block_on(one_client(&peers, rounds, Layer::OneFile));
    let many = runtime.block_on(many_clients(&peers, if quick { 1 } else { 6 }));
    let pid = _ours.pid().as_raw_pid();
    let size = runtime.block_on(sizes(&peers[0], pid, if quick { 1_000 } else { 10_000 }));
    let met = print_calls(&one, &many, &size);
    println!("\n  the same with one file in the layer, which only ours syncs in Commit");
    print_one(&file, &Value::Null);
    let results = json!({
        "one_client_us": one, "one_client_with_a_file_us": file,
        "sixteen_clients_per_second": many, "snapshots": size,
    });
    (results, met)
}

/// Starts a program with a root of its own.
fn start(stage: &Stage, key: &'static str, program: &Path, more: &[String]) -> (Peer, Service) {
    let directory = stage.join(key);
    std::fs::create_dir_all(&directory).expect("a directory");
    let socket = directory.join("s.sock");
    let mut command = Command::new(program);
    command.arg("--root").arg(directory.join("r")).arg("--address").arg(&socket).args(more);
    let mut service = Service::start(command.env_remove("NOTIFY_SOCKET"), directory.join("log"));
    service.wait(key, || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    (Peer { key, socket }, service)
}

fn go(stage: &Stage) -> Option<(Peer, Service)> {
    let program = programs::tool("nydus-snapshotter/usr/bin/containerd-nydus-grpc")?;
    let nydusd = programs::tool("nydusd/bin/nydusd")?;
    let template = stage.join("nydusd.json");
    let text = r#"{"device":{"backend":{"type":"localfs","config":{"dir":"/"}},"cache":{"type":"blobcache","config":{"work_dir":"/"}}},"mode":"direct"}"#;
    std::fs::write(&template, text).expect("a template");
    let [nydusd, template] = [nydusd, template].map(|path| path.display().to_string());
    let more = ["--nydusd", &nydusd, "--nydusd-config", &template, "--daemon-mode", "none"];
    let more: Vec<_> = more.iter().map(|word| (*word).to_owned()).collect();
    Some(start(stage, "go", &program, &more))
}

async fn connect(peer: &Peer) -> Client {
    let address = format!("unix://{}", peer.socket.display());
    let channel = Endpoint::from_shared(address).expect("an address").connect().await;
    let in_namespace: fn(Request<()>) -> Result<Request<()>, Status> = |mut request| {
        request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static("bench"));
        Ok(request)
    };
    SnapshotsClient::with_interceptor(channel.expect("a connection"), in_namespace)
}

/// What is in a layer when it is committed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    Empty,
    OneFile,
}

/// One snapshot from Prepare to Remove; the time of each call.
async fn cycle(client: &mut Client, key: &str, layer: Layer) -> [Duration; 5] {
    let (key, name) = (key.to_owned(), format!("{key}-committed"));
    let snapshotter = || "overlayfs".to_owned();
    let mut times = [Duration::ZERO; 5];
    let mut last = Instant::now();
    let request = PrepareSnapshotRequest {
        snapshotter: snapshotter(),
        key: key.clone(),
        labels: kept(),
        ..Default::default()
    };
    client.prepare(request).await.expect("prepare");
    times[0] = lap(&mut last);
    let request = MountsRequest { snapshotter: snapshotter(), key: key.clone() };
    let mounts = client.mounts(request).await.expect("mounts").into_inner().mounts;
    times[1] = lap(&mut last);
    if layer == Layer::OneFile {
        std::fs::write(upper(&mounts[0]).join("file"), [1; 4096]).expect("a file");
        last = Instant::now();
    }
    let request = CommitSnapshotRequest {
        snapshotter: snapshotter(),
        name: name.clone(),
        key,
        labels: kept(),
    };
    client.commit(request).await.expect("commit");
    times[2] = lap(&mut last);
    let request = StatSnapshotRequest { snapshotter: snapshotter(), key: name.clone() };
    client.stat(request).await.expect("stat");
    times[3] = lap(&mut last);
    let request = RemoveSnapshotRequest { snapshotter: snapshotter(), key: name };
    client.remove(request).await.expect("remove");
    times[4] = lap(&mut last);
    times
}

/// The time since `last`, which becomes now.
fn lap(last: &mut Instant) -> Duration {
    let time = last.elapsed();
    *last = Instant::now();
    time
}

/// Keeps containerd from collecting what nobody refers to.
fn kept() -> HashMap<String, String> {
    HashMap::from([("containerd.io/gc.root".to_owned(), "1".to_owned())])
}

/// Medians in µs by peer and call, and their sum; the peers take turns.
async fn one_client(peers: &[Peer], rounds: usize, layer: Layer) -> Value {
    let mut clients = Vec::new();
    for peer in peers {
        clients.push(connect(peer).await);
    }
    let mut times = vec![[(); 5].map(|()| Vec::new()); peers.len()];
    for round in 0..rounds + 10 {
        for turn in 0..peers.len() {
            let number = (round + turn) % peers.len();
            let cycle = cycle(&mut clients[number], &format!("one-{round}"), layer).await;
            if round >= 10 {
                times[number].iter_mut().zip(cycle).for_each(|(times, time)| times.push(time));
            }
        }
    }
    let of = |(peer, times): (&Peer, [Vec<Duration>; 5])| {
        let medians = times.map(median_us);
        let mut calls: serde_json::Map<_, _> =
            CALLS.iter().zip(medians).map(|(call, us)| ((*call).to_owned(), json!(us))).collect();
        calls.insert("sum".to_owned(), json!(medians.iter().sum::<f64>()));
        (peer.key.to_owned(), Value::Object(calls))
    };
    Value::Object(peers.iter().zip(times).map(of).collect())
}

/// Cycles per second of 16 clients: the median of short slices in turn.
async fn many_clients(peers: &[Peer], slices: usize) -> Value {
    let mut rates = vec![Vec::new(); peers.len()];
    for slice in 0..slices {
        for (peer, rates) in peers.iter().zip(&mut rates) {
            let length = Duration::from_secs(1);
            let mut clients = tokio::task::JoinSet::new();
            for number in 0..CLIENTS {
                let mut client = connect(peer).await;
                clients.spawn(async move {
                    let (start, mut cycles) = (Instant::now(), 0_u32);
                    while start.elapsed() < length {
                        let key = format!("{slice}-{number}-{cycles}");
                        cycle(&mut client, &key, Layer::Empty).await;
                        cycles += 1;
                    }
                    f64::from(cycles) / start.elapsed().as_secs_f64()
                });
            }
            rates.push(clients.join_all().await.into_iter().sum::<f64>());
        }
    }
    let median = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2].round()
    };
    let of = |(peer, rates): (&Peer, Vec<f64>)| (peer.key.to_owned(), json!(median(rates)));
    Value::Object(peers.iter().zip(rates).map(of).collect())
}

/// List and Stat with more and more snapshots, and the memory at the end.
async fn sizes(peer: &Peer, pid: i32, most: usize) -> Value {
    let (mut made, mut points) = (0, Vec::new());
    for count in [100, 1_000, 10_000].into_iter().filter(|count| *count <= most) {
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..CLIENTS {
            let mut client = connect(peer).await;
            clients.spawn(async move {
                for key in (made..count).filter(|key| key % CLIENTS == number) {
                    let key = format!("many-{key}");
                    let request = PrepareSnapshotRequest { key, ..Default::default() };
                    client.prepare(request).await.expect("prepare");
                }
            });
        }
        clients.join_all().await;
        made = count;
        let mut client = connect(peer).await;
        let (mut lists, mut stats) = (Vec::new(), Vec::new());
        for turn in 0..50 {
            let start = Instant::now();
            let request = ListSnapshotsRequest::default();
            let mut stream = client.list(request).await.expect("list").into_inner();
            let mut items = 0;
            while let Some(batch) = stream.message().await.expect("a batch") {
                items += batch.info.len();
            }
            assert!(items >= count);
            lists.push(start.elapsed() / u32::try_from(items).unwrap_or(u32::MAX));
            let start = Instant::now();
            let key = format!("many-{}", turn * count / 50);
            let request = StatSnapshotRequest { key, ..Default::default() };
            client.stat(request).await.expect("stat");
            stats.push(start.elapsed());
        }
        let (list, stat) = (median_us(lists), median_us(stats));
        points.push(json!({ "snapshots": count, "list_us_per_item": list, "stat_us": stat }));
    }
    json!({ "points": points, "memory_mib": memory_mib(pid) })
}

/// The most memory that a process had, MiB.
fn memory_mib(pid: i32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some((kib / 102.4).round() / 10.0)
}

pub(crate) fn median_us(mut times: Vec<Duration>) -> f64 {
    times.sort();
    (times[times.len() / 2].as_nanos() / 100) as f64 / 10.0
}

/// Whether all requirements are met.
fn print_calls(one: &Value, many: &Value, size: &Value) -> bool {
    print_one(one, many);
    let ratio = |of: &dyn Fn(&str) -> Option<f64>| Some(of("ours")? / of("go")?);
    let sum = ratio(&|peer| one[peer]["sum"].as_f64());
    let rate = ratio(&|peer| many[peer].as_f64());
    for point in size["points"].as_array().into_iter().flatten() {
        let Value::Object(point) = point else { continue };
        println!(
            "  {} snapshots: List {} µs an item, Stat {} µs",
            point["snapshots"], point["list_us_per_item"], point["stat_us"]
        );
    }
    let verdicts = [
        verdict("sum of medians against the Go snapshotter, at most 0.75", sum, |r| r <= 0.75),
        verdict("throughput of 16 clients against it, at least 2", rate, |r| r >= 2.0),
        verdict("memory in MiB, at most 64", size["memory_mib"].as_f64(), |mib| mib <= 64.0),
    ];
    verdicts.iter().all(|met| *met)
}

fn print_one(one: &Value, many: &Value) {
    println!("\n  one client, median µs");
    print!("  {:<24}", "");
    CALLS.iter().chain(&["sum"]).for_each(|call| print!("{call:>9}"));
    println!("{:>14}", if many.is_null() { "" } else { "16 clients/s" });
    for (peer, times) in one.as_object().into_iter().flatten() {
        print!("  {peer:<24}");
        let figures = CALLS.iter().chain(&["sum"]).map(|call| times[call].as_f64());
        figures.for_each(|us| print!("{:>9.0}", us.unwrap_or(f64::NAN)));
        many[peer].as_f64().iter().for_each(|rate| print!("{rate:>14.0}"));
        println!();
    }
}

/// Says whether it is met; what could not be measured fails nothing.
fn verdict(what: &str, figure: Option<f64>, met: impl Fn(f64) -> bool) -> bool {
    let met = figure.map(|figure| (figure, met(figure)));
    match met {
        None => println!("  not run: {what}"),
        Some((figure, met)) => {
            println!("  {what}: {figure:.2} {}", if met { "met" } else { "NOT MET" });
        }
    }
    met.is_none_or(|(_, met)| met)
}

// ---- containers

/// Bytes in the image that is started.
const LARGE: usize = 200 << 20;

/// From the pull to the container's first output, seconds: lazily by our stack, and with
/// containerd's own snapshotter, which pulls and unpacks.
fn containers(quick: bool) -> Value {
    let stage = Stage::of_a_node().expect("as before");
    let (containerd, mode, rafs) = (VERSIONS[0], "dedicated", Rafs::V6);
    let case = Case { containerd, mode, rafs, helper: "nydus-overlayfs", more: "" };
    let Some(node) = Node::start(stage, case) else {
        println!("  not run: containers: a program is missing");
        return Value::Null;
    };
    let large = node.stage.join("large");
    std::fs::create_dir_all(&large).expect("a directory");
    let layers = rootfs::layers(&large, LARGE).expect("busybox");
    let lazy = image::nydus(&node.stage.join("large-nydus"), &layers, rafs).expect("nydus-image");
    let lazy = node.push(&lazy, "lazy");
    let plain = node.push(&image::plain(&node.stage.join("large-plain"), &layers, true), "plain");
    let (mut lazily, mut plainly) = (Vec::new(), Vec::new());
    for _ in 0..if quick { 1 } else { 5 } {
        lazily.push(run_lazily(&node, &lazy));
        plainly.push(run_plainly(&node, &plain));
    }
    let [lazily, plainly] = [lazily, plainly].map(|mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        (times[times.len() / 2] * 1000.0).round() / 1000.0
    });
    println!(
        "\n  200 MB image, from pull to first output: lazily {lazily} s, by pull and unpack {plainly} s"
    );
    json!({ "lazily_s": lazily, "pull_and_unpack_s": plainly })
}

fn run_lazily(node: &Node, reference: &str) -> f64 {
    let start = Instant::now();
    node.pull(reference);
    node.prints(&[], reference, &["cat", "/data/upper"], "upper\n");
    let time = start.elapsed().as_secs_f64();
    node.remove(reference);
    time
}

fn run_plainly(node: &Node, reference: &str) -> f64 {
    let ctr = |words: &[&str]| {
        let ran = node.containerd.ctr(words);
        node.done(&ran);
        ran
    };
    let start = Instant::now();
    let login = format!("{}:{}", LOGIN.0, LOGIN.1);
    let of = ["--snapshotter", "overlayfs"];
    ctr(&[&["images", "pull", "--plain-http", "--user", &login], &of[..], &[reference]].concat());
    let run = [&["run", "--rm"], &of[..], &[reference, "plain", "cat", "/data/upper"]].concat();
    assert_eq!(ctr(&run).stdout, b"upper\n");
    let time = start.elapsed().as_secs_f64();
    // CRI has given it more names meanwhile.
    let names = ctr(&["images", "ls", "--quiet"]);
    for name in String::from_utf8_lossy(&names.stdout).lines() {
        ctr(&["images", "rm", "--sync", name]);
    }
    node.containerd.gc();
    time
}
