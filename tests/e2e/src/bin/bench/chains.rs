//! What a user waits for: `ctr run` of a small container, whose root containerd mounts by one or
//! another `mount.fuse`. All have one containerd, which looks for the program at each mount.

use nydus_e2e::containerd::VERSIONS;
use nydus_e2e::image::Rafs;
use nydus_e2e::node::{Case, Node};
use nydus_e2e::programs;
use nydus_e2e::stage::Stage;
use rustix::mount::{MountFlags, mount};
use serde_json::{Map, Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What containerd finds: a name, `mount.fuse`, and the helper for that.
type Chain = (&'static str, PathBuf, PathBuf);

/// The first ones are slower.
const WARM_UP: usize = 3;

/// Medians in ms, and what each gains on the usual programs, run by run.
pub(crate) fn measure(quick: bool) -> Value {
    // Older ones now and then lose the exit of a helper and run it again (containerd issue 4387).
    let (containerd, mode, rafs) = (VERSIONS[2], "dedicated", Rafs::V6);
    let case = Case { containerd, mode, rafs, helper: "nydus-overlayfs", more: "" };
    let node = stage_in_memory().and_then(|stage| Node::start(stage, case));
    let (Some(node), Some(chains)) = (node, chains()) else {
        println!("  not run: ctr run with each mount.fuse: a program is missing");
        return Value::Null;
    };
    let Some((_, reference)) = node.pulled() else {
        println!("  not run: ctr run with each mount.fuse: no nydus-image");
        return Value::Null;
    };
    // The daemon that serves the image stays as long as this.
    node.done(&node.containerd.start_container(&[], &reference, "stays", &["sleep", "10000"]));
    let runs = if quick { 5 } else { 100 };
    let mut times = chains.each_ref().map(|_| Vec::new());
    for round in 0..runs + WARM_UP {
        for turn in 0..chains.len() {
            let number = (round + turn) % chains.len();
            let time = run(&node, &chains[number], &reference);
            times[number].extend((round >= WARM_UP).then_some(time));
        }
    }
    node.containerd.remove_container("stays");
    node.remove(&reference);
    report(&chains, &times)
}

/// On a disk, what others write there would be most of the differences.
fn stage_in_memory() -> Option<Stage> {
    let stage = Stage::of_a_node()?;
    let mounted = mount("stage", stage.path(), "tmpfs", MountFlags::empty(), None);
    mounted.expect("a file system in memory");
    Some(stage)
}

fn chains() -> Option<[Chain; 3]> {
    let (fuse, go) = (programs::mount_fuse3()?, programs::go_helper()?);
    let ours = programs::ours("nydus-overlayfs");
    let behind = ("behind", fuse.clone(), ours.clone());
    Some([("stock", fuse, go), behind, ("front", ours.clone(), ours)])
}

/// In ms.
fn run(node: &Node, (_, fuse, helper): &Chain, reference: &str) -> f64 {
    let bin = node.stage.join(node.case.containerd).join("bin");
    for (name, program) in [("mount.fuse", fuse), ("nydus-overlayfs", helper)] {
        replace(&bin.join(name), program);
    }
    let start = Instant::now();
    let ran = node.containerd.run(&[], reference, "small", &["sh", "-c", "exit 7"]);
    let time = start.elapsed();
    assert_eq!(ran.code(), Some(7), "{ran}\n{}", node.logs());
    time.as_secs_f64() * 1000.0
}

fn replace(link: &Path, program: &Path) {
    let beside = link.with_extension("new");
    symlink(fs::canonicalize(program).expect("a program"), &beside).expect("a link");
    fs::rename(beside, link).expect("a link");
}

fn report(chains: &[Chain; 3], times: &[Vec<f64>; 3]) -> Value {
    let runs = times[0].len();
    println!("\n  ctr run of a small container, {runs} times with each mount.fuse in turn");
    let mut results = Map::from_iter([("runs".to_owned(), json!(runs))]);
    for ((name, ..), own) in chains.iter().zip(times) {
        let gains = times[0].iter().zip(own).map(|(stock, own)| stock - own);
        let (ms, gain) = (median(own.clone()), median(gains.collect()));
        println!("  {name:<24}{ms:>9.1} ms, {gain:>5.1} ms less than with the usual programs");
        results.insert((*name).to_owned(), json!({ "median_ms": ms, "gain_ms": gain }));
    }
    Value::Object(results)
}

/// To two places.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2] * 100.0).round() / 100.0
}
