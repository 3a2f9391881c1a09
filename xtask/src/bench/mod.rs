//! `cargo xtask bench`: our helper beside its peers, and our snapshotter beside its own, each in one
//! run, in turn.

mod measure;
mod peers;
mod report;
mod result;
mod tree;

use crate::cmd::{self, Cmd};
use crate::sandbox::Sandbox;
use crate::stage::{self, Stage};
use crate::{apt, dist, paths, tools, ui};
use anyhow::{Context, Result};
use peers::Peer;
use result::{Chain, Machine, Point, Program, Results, Spread};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tree::{Names, Tree};

/// What to measure, and where to leave it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Few mounts: for a look, not for a verdict
    #[arg(long)]
    quick: bool,
    /// Where to write the results [default: target/bench/bench.json]
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the results and the plots into docs/bench
    #[arg(long, conflicts_with = "json")]
    publish: bool,
    /// Only the helper beside its peers
    #[arg(long)]
    helper: bool,
    /// Fail when a requirement is not met
    #[arg(long)]
    require: bool,
}

const LAYERS: &[usize] = &[2, 10, 50, 127, 250, 500];

/// What is measured by number of layers: key of the result, program, names. Ours has full paths,
/// which soon fit no mount(2); the others would fail, or mount something else.
const BY_LAYERS: &[(&str, &str, Names)] = &[
    ("floor", "floor", Names::Links),
    ("floor-relative", "floor", Names::Relative),
    ("ours", "ours", Names::Slice),
    ("mount", "mount", Names::Links),
    ("go", "go", Names::Links),
];

/// Builds and fetches the programs, then measures in a namespace that goes away.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let tools = match options.helper {
        true => dist::some(&dist::HELPERS, &paths::dist())
            .and_then(|()| tools::run(tools::Also::Nothing))
            .map(|_| None)?,
        false => {
            dist::run()?;
            tools::run(tools::Also::Nothing)?;
            Some(tools::for_bench()?)
        }
    };
    apt::need("gcc", "gcc")?;
    let _ = fs::remove_dir_all(disk());
    fs::create_dir_all(disk())?;
    peers::build_floor()?;
    let json = match &options.json {
        Some(json) => std::path::absolute(json)?,
        None if options.publish => published().join("bench.json"),
        None => paths::target().join("bench/bench.json"),
    };
    let json = json.to_str().context("the path of the results is not UTF-8")?;
    let mut args = vec!["bench-inside", "--json", json];
    args.extend(options.quick.then_some("--quick"));
    args.extend(options.require.then_some("--require"));
    let met = stage::enter(&args, 3600);
    fs::remove_dir_all(disk()).context("cannot clean up")?;
    if let Some(tools) = tools {
        snapshotter(Path::new(json), &tools, options)?;
    }
    met
}

/// The snapshotter's part, written beside the helper's.
fn snapshotter(helper: &Path, tools: &Path, options: &Options) -> Result<()> {
    let mut cargo = Cmd::new("build-bench", 1800, cmd::cargo());
    cargo.args(["build", "--locked", "--profile", "service", "--package", "nydus-e2e"]);
    ui::step("build the snapshotter's client", || cargo.args(["--bin", "bench"]).run())?;
    let scratch = paths::target().join("bench/tmp");
    fs::create_dir_all(&scratch)?;
    println!("\n== The snapshotter, beside the Go one and containerd's own");
    let program = dist::cargo_target()?.join("service/bench");
    // Containers cannot be first in line, as `take_priority` is, but further ahead than others.
    let mut bench = Sandbox::detect().cmd("bench-snapshotter", 3600, "nice");
    bench.args(["-n", "-20"]).arg(program).arg(helper.with_file_name("snapshotter.json"));
    bench.args(options.quick.then_some("quick")).args(options.require.then_some("require"));
    bench.env("NYDUS_DIST", paths::dist()).env("NYDUS_TOOLS", tools);
    let measured = bench.env("TMPDIR", &scratch).shown().run();
    fs::remove_dir_all(&scratch).context("cannot clean up")?;
    measured?;
    plot("native", &helper.with_file_name("snapshotter.json"))
}

/// The part that mounts; true unless a requirement is not met that should be.
pub(crate) fn inside(options: &Options) -> Result<bool> {
    take_priority();
    let stage = Stage::on_ext4(&disk())?;
    let tree = Tree::new(&stage, *LAYERS.last().unwrap_or(&2))?;
    let helpers = peers::helpers(&stage, &paths::target().join("bench/floor"))?;
    let count = if options.quick { 50 } else { 1000 };
    let mut results = Results {
        machine: machine(),
        programs: measure_programs(&helpers, &tree, count)?,
        chains: measure_chains(&peers::chains(&stage)?, &tree, count)?,
        layers: measure_layers(&helpers, &tree, count.div_ceil(2))?,
        requirements: Vec::new(),
    };
    results.judge();
    report::print(&results);
    let json = options.json.clone().context("no place for the results")?;
    write(&results, &json)?;
    Ok(!options.require || results.requirements.iter().all(|requirement| requirement.met))
}

/// Puts us and what we run before all others that want a processor, so that their work is hardly in
/// the figures.
fn take_priority() {
    let us = std::process::id().to_string();
    let mut chrt = Cmd::new("priority", 60, "chrt");
    if chrt.args(["--fifo", "--pid", "10", &us]).run().is_err() {
        println!("  no priority here: the figures are fit to use only if nothing else runs");
    }
}

fn measure_programs(peers: &[Peer], tree: &Tree, count: usize) -> Result<Vec<Program>> {
    let command = |peer: &Peer| peer.command(tree, 2, Names::Slice);
    let times = measure("2 layers", peers.iter().map(command).collect(), count, tree)?;
    let spreads: Vec<_> = times.into_iter().map(Spread::of).collect();
    let median = |key| Some(spreads[peers.iter().position(|peer| peer.key == key)?].median_us);
    let (floor, go) = (median("floor"), median("go"));
    let program = |(peer, time): (&Peer, &Spread)| {
        let file = peer.file.as_deref().context("a helper is one file")?;
        let ratio = |other: f64| (time.median_us / other * 1000.0).round() / 1000.0;
        let cost = measure::cost(&mut command(peer), &tree.target, peer.counted)?;
        Ok(Program {
            key: peer.key,
            label: peer.label,
            time: *time,
            ratio_to_floor: floor.map(ratio),
            ratio_to_go: go.map(ratio),
            peak_memory_kib: cost.peak_memory_kib,
            page_faults: cost.page_faults,
            instructions: cost.instructions,
            size_bytes: fs::metadata(file)?.len(),
        })
    };
    peers.iter().zip(&spreads).map(program).collect()
}

fn measure_chains(peers: &[Peer], tree: &Tree, count: usize) -> Result<Vec<Chain>> {
    let commands = peers.iter().map(|peer| peer.command(tree, 2, Names::Slice)).collect();
    let times = measure("containerd's mount.fuse", commands, count, tree)?;
    let spreads: Vec<_> = times.into_iter().map(Spread::of).collect();
    let stock = peers.iter().position(|peer| peer.key == "stock");
    let stock = stock.map(|number| spreads[number].median_us);
    let chain = |(peer, time): (&Peer, &Spread)| Chain {
        key: peer.key,
        label: peer.label,
        time: *time,
        faster_than_stock: stock.map(|stock| stock / time.median_us),
    };
    Ok(peers.iter().zip(&spreads).map(chain).collect())
}

fn measure_layers(peers: &[Peer], tree: &Tree, count: usize) -> Result<Vec<Point>> {
    let find = |key| peers.iter().find(|peer| peer.key == key);
    let series: Vec<_> = BY_LAYERS
        .iter()
        .filter_map(|(key, peer, names)| Some((*key, find(*peer)?, *names)))
        .collect();
    let mut points = Vec::new();
    for &layers in LAYERS {
        let command = |(_, peer, names): &(_, &Peer, _)| peer.command(tree, layers, *names);
        let commands = series.iter().map(command).collect();
        let times = measure(&format!("{layers} layers"), commands, count, tree)?;
        let keys = series.iter().map(|(key, ..)| *key);
        points.extend(keys.zip(times).map(|(key, times)| Point {
            key,
            layers,
            time: Spread::of(times),
        }));
    }
    Ok(points)
}

fn measure(
    what: &str,
    mut commands: Vec<Command>,
    count: usize,
    tree: &Tree,
) -> Result<Vec<Vec<Duration>>> {
    measure::times(&mut commands, 5, &tree.target)?; // warm up; each of them works
    let what = format!("measure {what}: {} programs, {count} times", commands.len());
    ui::step(&what, || measure::times(&mut commands, count, &tree.target))
}

/// For snapshots where an ext4 of their own is not to be had. On a tmpfs all programs are faster,
/// and the differences larger.
fn disk() -> PathBuf {
    paths::target().join("bench/tree")
}

fn published() -> PathBuf {
    paths::root().join("docs/bench")
}

/// The results and, beside them, the plots.
fn write(results: &Results, json: &Path) -> Result<()> {
    let dir = json.parent().unwrap_or(json);
    fs::create_dir_all(dir)?;
    fs::write(json, serde_json::to_string_pretty(results)? + "\n")?;
    plot("helper", json)?;
    println!("\nwritten: {} and its plots", json.display());
    Ok(())
}

/// Draws what was measured beside the file of the results.
fn plot(what: &str, json: &Path) -> Result<()> {
    let mut plot = Cmd::new("plot", 600, cmd::cargo());
    plot.args(["run", "--locked", "--quiet", "--package", "xtask-plot", "--", what]);
    plot.arg(json).run()
}

fn machine() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    Machine {
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        processor: model.unwrap_or("unknown").to_owned(),
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        commit: dist::commit(),
    }
}
