//! The same image by `nydusd` over FUSE, by the kernel's EROFS, and unpacked by containerd's own
//! snapshotter: each read, walked and used in a container, in turn.

use crate::verdict;
use nydus_e2e::containerd::VERSIONS;
use nydus_e2e::image::{self, Rafs};
use nydus_e2e::node::{Case, LIMIT, Node};
use nydus_e2e::run::{run, run_for};
use nydus_e2e::stage::Stage;
use nydus_e2e::{programs, rootfs, service};
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Who serves, and where.
type Ways = [(&'static str, PathBuf); 3];

/// All figures; null if a program is missing.
pub(crate) fn measure(quick: bool) -> Value {
    let stage = Stage::of_a_node().expect("as before");
    let (containerd, mode, rafs) = (VERSIONS[0], "dedicated", Rafs::V6);
    let case = Case { containerd, mode, rafs, helper: "nydus-overlayfs", more: "" };
    let (Some(node), Some(layer)) = (Node::start(stage, case), python()) else {
        println!("  not run: images by the kernel: a program is missing");
        return Value::Null;
    };
    let layers = [node.stage.join("python")];
    fs::rename(layer.path(), &layers[0]).expect("a layer");
    let lazy = image::nydus(&node.stage.join("n"), &layers, rafs).expect("nydus-image");
    let lazy = node.push(&lazy, "lazy");
    let plain = node.push(&image::plain(&node.stage.join("p"), &layers, true), "plain");
    node.pull(&lazy);
    let Some(ways) = ways(&node, &lazy, &plain) else { return Value::Null };
    rustix::fs::sync();
    let mut figures = Map::new();
    let size = read_all(&ways[1].1);
    figures.insert("files".into(), json!(walk(&ways[1].1)));
    figures.insert("mib".into(), json!(size >> 20));
    for (task, before, action) in tasks(&node) {
        figures.insert(task.into(), in_turn(&ways, &before, &action, quick));
    }
    figures.insert("nydusd_mib".into(), json!(memory_mib(&node)));
    print(&figures);
    for id in ["fuse", "kernel"] {
        node.containerd.remove_container(id);
    }
    node.containerd.gc();
    let gone = service::until(LIMIT, || node.daemons().is_empty());
    assert!(gone, "{}", node.logs());
    Value::Object(figures)
}

/// A root file system with a Python, a shell, and many files; `None` if it could not be had.
fn python() -> Option<tempfile::TempDir> {
    let (tree, busybox) = (programs::tool("python")?, programs::busybox()?);
    let place = tempfile::tempdir().expect("a directory");
    let copy = |from: &Path, to: &Path| {
        fs::create_dir_all(to).expect("a directory");
        let ran = run(Command::new("cp").arg("-a").arg(from.join(".")).arg(to));
        assert!(ran.ok(), "{ran}");
    };
    copy(&tree, place.path());
    // As many files as an image of a language's tools has: Go's own sources.
    let share = programs::tool("golang/usr/share").and_then(|share| fs::read_dir(share).ok());
    if let Some(sources) = share {
        let own = |path: &PathBuf| path.to_string_lossy().contains("/go-");
        for path in { sources }.flatten().map(|entry| entry.path()).filter(own) {
            copy(&path, &place.path().join("usr/share/go"));
        }
    }
    rootfs::layer(place.path(), &[("etc/passwd", b"root:x:0:0::/:/bin/sh\n")]);
    for name in ["bin", "dev", "proc", "sys", "tmp"] {
        fs::create_dir_all(place.path().join(name)).expect(name);
    }
    fs::copy(busybox, place.path().join("bin/busybox")).expect("busybox");
    // What a package's installation does; times are no part of an image.
    let mut compile = Command::new("chroot");
    compile.arg(place.path()).args(["/usr/bin/python3.11", "-m", "compileall", "-q"]);
    compile.args([
        "--invalidation-mode",
        "unchecked-hash",
        "/usr/lib/python3",
        "/usr/lib/python3.11",
    ]);
    // Files that are no modules are in there too.
    run_for(&mut compile, 600);
    Some(place)
}

/// Starts a container on each, which stays there.
fn ways(node: &Node, lazy: &str, plain: &str) -> Option<Ways> {
    let sleeps = ["/bin/busybox", "sleep", "100000"];
    node.done(&node.containerd.start_container(&[], lazy, "fuse", &sleeps));
    let root = node.snapshotter.root();
    let only = |place: &str, name: &str| {
        let all = fs::read_dir(root.join(place)).into_iter().flatten().flatten();
        { all }.map(|one| one.path().join(name)).find(|path| path.exists())
    };
    let fuse = only("snapshots", "mnt")?;
    let mut warm = Command::new(programs::ours("containerd-nydus-grpc"));
    let start = Instant::now();
    let ran = run(warm.args(["warm", lazy, "--address"]).arg(node.snapshotter.socket()));
    if !ran.ok() {
        println!("  not run: images by the kernel: {}", String::from_utf8_lossy(&ran.stderr));
        return None;
    }
    println!("\n  completed and verified in {:.1} s", start.elapsed().as_secs_f64());
    node.done(&node.containerd.start_container(&[], lazy, "kernel", &sleeps));
    let kernel = only("native", "mnt")?;
    let of = ["--snapshotter", "overlayfs"];
    let login = ["--plain-http", "--user", "someone:secret"];
    let pull = [&["images", "pull"], &login[..], &of[..], &[plain]].concat();
    node.done(&node.containerd.ctr(&pull));
    let start = [&["run", "--detach", "--null-io"], &of[..], &[plain, "plain"], &sleeps].concat();
    node.done(&node.containerd.ctr(&start));
    let unpacked = node.stage.join(VERSIONS[0]).join("root/io.containerd.snapshotter.v1.overlayfs");
    let unpacked = fs::read_dir(unpacked.join("snapshots")).expect("snapshots").flatten();
    let unpacked = { unpacked }.map(|one| one.path().join("fs"));
    let plain = { unpacked }.find(|path| path.join("usr/bin").exists())?;
    Some([("fuse", fuse), ("kernel", kernel), ("plain", plain)])
}

type Action<'a> = Box<dyn Fn(&str, &Path) + 'a>;

/// What is measured: the key of its result, what goes before it each time, and itself.
fn tasks(node: &Node) -> [(&'static str, Action<'_>, Action<'_>); 7] {
    fn cold<'a>() -> Action<'a> {
        Box::new(|_, _| drop_caches())
    }
    fn read<'a>() -> Action<'a> {
        Box::new(|_, root| {
            read_all(root);
        })
    }
    fn walked<'a>() -> Action<'a> {
        Box::new(|_, root| {
            walk(root);
        })
    }
    let python = || -> Action<'_> {
        Box::new(|id, _| {
            let words = ["/usr/bin/python3.11", "-c", "import sympy; print(sympy.Integer(6) * 7)"];
            let ran = node.containerd.exec(id, &words);
            assert_eq!(ran.stdout, b"42\n", "{ran}");
        })
    };
    [
        ("read_cold_s", cold(), read()),
        ("read_warm_s", read(), read()),
        ("walk_cold_s", cold(), walked()),
        ("walk_warm_s", read(), walked()),
        ("walk_again_s", walked(), walked()),
        ("python_cold_s", cold(), python()),
        ("python_warm_s", python(), python()),
    ]
}

/// Medians in seconds; the ways take turns.
fn in_turn(ways: &Ways, before: &Action<'_>, action: &Action<'_>, quick: bool) -> Value {
    let mut times = [(); 3].map(|()| Vec::new());
    for round in 0..if quick { 2 } else { 7 } {
        for turn in 0..ways.len() {
            let number = (round + turn) % ways.len();
            let (way, root) = &ways[number];
            before(way, root);
            let start = Instant::now();
            action(way, root);
            times[number].push(start.elapsed());
        }
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        (times[times.len() / 2].as_secs_f64() * 1000.0).round() / 1000.0
    };
    let medians =
        ways.iter().zip(times).map(|((way, _), times)| ((*way).to_owned(), json!(median(times))));
    Value::Object(medians.collect())
}

/// Forgets what the kernel has read of any file, as far as it is on disk.
fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "3").expect("drop_caches");
}

/// Reads all files one after the other; their bytes.
fn read_all(root: &Path) -> u64 {
    let (mut part, mut bytes) = (vec![0; 1 << 20], 0);
    each(root, &mut |path, file| {
        if file.is_file() {
            let mut file = File::open(path).expect("a file");
            loop {
                match file.read(&mut part).expect("a file to read") {
                    0 => break,
                    read => bytes += read as u64,
                }
            }
        }
    });
    bytes
}

/// Looks at the attributes of all files; their number.
fn walk(root: &Path) -> u64 {
    let mut files = 0;
    each(root, &mut |_, _| files += 1);
    files
}

fn each(directory: &Path, look: &mut dyn FnMut(&Path, &fs::Metadata)) {
    // All names of a directory before the first file's attributes, as find, ls, du and tar do.
    let entries: Vec<_> = fs::read_dir(directory).expect("a directory").flatten().collect();
    for entry in entries {
        let (path, found) = (entry.path(), entry.metadata().expect("attributes"));
        look(&path, &found);
        if found.is_dir() {
            each(&path, look);
        }
    }
}

/// Memory that all daemons have, MiB.
fn memory_mib(node: &Node) -> u64 {
    let resident = |pid: &rustix::process::Pid| {
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    node.daemons().iter().filter_map(resident).sum::<u64>() >> 10
}

fn print(figures: &Map<String, Value>) {
    println!(
        "  an image of {} files, {} MiB, all cached; median seconds",
        figures["files"], figures["mib"]
    );
    println!("  {:<16}{:>10}{:>10}{:>10}", "", "FUSE", "EROFS", "unpacked");
    for (task, times) in figures {
        if let (Some(fuse), Some(kernel), Some(plain)) =
            (times["fuse"].as_f64(), times["kernel"].as_f64(), times["plain"].as_f64())
        {
            println!("  {task:<16}{fuse:>10.3}{kernel:>10.3}{plain:>10.3}");
        }
    }
    println!("  memory of nydusd: {} MiB; by the kernel: no nydusd", figures["nydusd_mib"]);
    let ratio =
        |task: &str| Some(figures[task]["fuse"].as_f64()? / figures[task]["kernel"].as_f64()?);
    verdict("reading cold, times faster than FUSE, at least 1.8", ratio("read_cold_s"), |r| {
        r >= 1.8
    });
    verdict("walking, times faster than FUSE, at least 3.5", ratio("walk_warm_s"), |r| r >= 3.5);
}
