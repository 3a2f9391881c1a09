//! What a user waits for: `ctr run` of a small container, whose root containerd mounts by one or
//! another `mount.fuse`. All have one containerd, which looks for the program at each mount.

use crate::median_us;
use nydus_e2e::node::Node;
use nydus_e2e::programs;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What containerd finds: a name, `mount.fuse` and the helper for that.
type Chain = (&'static str, PathBuf, PathBuf);

/// Medians in ms, and what is gained on the usual programs.
pub(crate) fn measure(node: &Node, quick: bool) -> Value {
    let (Some(chains), Some((_, reference))) = (chains(), node.pulled()) else {
        println!("  not run: ctr run: a program is missing");
        return Value::Null;
    };
    // The image's daemon stays with it.
    node.done(&node.containerd.start_container(&[], &reference, "stays", &["sleep", "10000"]));
    let runs = if quick { 5 } else { 100 };
    let mut times = chains.each_ref().map(|_| Vec::new());
    for round in 0..runs + 2 {
        for turn in 0..chains.len() {
            let number = (round + turn) % chains.len();
            let time = run(node, &chains[number], &reference);
            // The first are slower.
            times[number].extend((round >= 2).then_some(time));
        }
    }
    node.containerd.remove_container("stays");
    node.remove(&reference);
    report(&chains, times.map(|times| median_us(times) / 1000.0), runs)
}

fn chains() -> Option<[Chain; 3]> {
    let (fuse, go) = (programs::mount_fuse3()?, programs::go_helper()?);
    let ours = programs::ours("nydus-overlayfs");
    Some([
        ("stock", fuse.clone(), go),
        ("behind", fuse, ours.clone()),
        ("front", ours.clone(), ours),
    ])
}

fn run(node: &Node, (_, fuse, helper): &Chain, reference: &str) -> Duration {
    let bin = node.stage.join(node.case.containerd).join("bin");
    for (name, program) in [("mount.fuse", fuse), ("nydus-overlayfs", helper)] {
        replace(&bin.join(name), program);
    }
    let start = Instant::now();
    let ran = node.containerd.run(&[], reference, "small", &["cat", "/data/upper"]);
    let time = start.elapsed();
    assert_eq!(ran.stdout, b"upper\n", "{ran}\n{}", node.logs());
    time
}

fn replace(link: &Path, program: &Path) {
    let beside = link.with_extension("new");
    symlink(fs::canonicalize(program).expect("a program"), &beside).expect("a link");
    fs::rename(beside, link).expect("a link");
}

fn report(chains: &[Chain; 3], medians: [f64; 3], runs: usize) -> Value {
    println!("\n  ctr run of a small container, median of {runs} with each mount.fuse in turn");
    let mut results = serde_json::Map::from_iter([("runs".to_owned(), json!(runs))]);
    for ((name, ..), median) in chains.iter().zip(medians) {
        println!("  {name:<24}{median:>9.1} ms, {:>6.1} less than stock", medians[0] - median);
        results.insert(format!("{name}_ms"), json!((median * 100.0).round() / 100.0));
    }
    Value::Object(results)
}
