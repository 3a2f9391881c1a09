//! containerd's own suite for snapshotters, written in Go: against our program directly, and
//! through the proxy plugin of each containerd. The Go snapshotter beside it, for docs.

use nydus_e2e::run::{Ran, run, run_for};
use nydus_e2e::stage::Stage;
use nydus_e2e::{mounts, not_run, programs};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where Debian's packages, unpacked, have Go and the sources.
const GO: &str = "golang/usr/lib/go-1.19";
const SOURCES: &str = "golang/usr/share/gocode";
/// The suite has no case for it on overlayfs.
const SKIPPED: [&str; 1] = ["Rename"];
const CASES: usize = 20;
/// Seconds for the whole suite; compiling it takes most of a minute.
const LIMIT: i64 = 240;
const NO_GO: &str = "no golang-go, or no golang-github-containerd-containerd-dev";
const NOT_ROOT: &str = "not root of the machine";

/// The suite as a program; `None` if it cannot be compiled here.
fn suite() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(build).as_deref()
}

fn build() -> Option<PathBuf> {
    let (root, sources) = (programs::tool(GO)?, programs::tool(SOURCES)?);
    let [root, sources] = [root, sources].map(|path| fs::canonicalize(path).expect("a directory"));
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance");
    let program = directory.join("suite");
    fs::create_dir_all(&directory).expect("a directory");
    let mut go = Command::new(root.join("bin/go"));
    go.args(["test", "-c", "-o"]).arg(&program).arg(".").env("GO111MODULE", "off");
    go.env("GOPATH", format!("{}:{}", directory.join("go").display(), sources.display()));
    // Without C: its headers are not among what is unpacked.
    go.env("GOROOT", root).env("CGO_ENABLED", "0");
    go.env("GOCACHE", directory.join("cache")).env("GOFLAGS", "");
    go.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../conformance"));
    let ran = run_for(&mut go, LIMIT);
    assert!(ran.ok(), "{ran}");
    Some(program)
}

/// What each case came to: `PASS`, `FAIL` or `SKIP`.
fn outcomes(ran: &Ran) -> BTreeMap<String, String> {
    let output = String::from_utf8_lossy(&ran.stdout);
    let of = |line: &str| {
        let (outcome, rest) = line.trim().strip_prefix("--- ")?.split_once(": TestSuite/")?;
        Some((rest.split(' ').next()?.to_owned(), outcome.to_owned()))
    };
    output.lines().filter_map(of).collect()
}

/// Runs the suite in `stage`, where it must leave no mount.
fn ask(stage: &Stage, suite: &Path, asked: &[(&str, &OsStr)]) -> Ran {
    let mut command = stage.command(suite);
    command.args(["-test.v", "-test.root"]).env("TMPDIR", stage.path());
    command.env_remove("ARGUMENTS").env_remove("CONTAINERD").envs(asked.iter().copied());
    let ran = run_for(&mut command, LIMIT);
    let left = mounts::mounts().into_iter().filter(|mount| mount.point.starts_with(stage.path()));
    assert_eq!(left.map(|mount| mount.point).collect::<Vec<_>>(), Vec::<PathBuf>::new(), "{ran}");
    ran
}

fn passes(containerd: Option<&str>) {
    let Some(stage) = Stage::of_a_node() else { return not_run!("{NOT_ROOT}") };
    let Some(suite) = suite() else { return not_run!("{NO_GO}") };
    let program = programs::ours("containerd-nydus-grpc");
    let mut asked = vec![("SNAPSHOTTER", program.as_os_str())];
    let found = containerd.map(|folder| programs::tool(&format!("{folder}/usr/bin/containerd")));
    match &found {
        None => {}
        Some(Some(containerd)) => asked.push(("CONTAINERD", containerd.as_os_str())),
        Some(None) => return not_run!("{} is missing", containerd.unwrap_or_default()),
    }
    let ran = ask(&stage, suite, &asked);
    let outcomes = outcomes(&ran);
    let those = |wanted: &str| {
        let those = outcomes.iter().filter(move |(_, outcome)| *outcome == wanted);
        those.map(|(case, _)| case.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(those("FAIL"), Vec::<&str>::new(), "{ran}");
    assert_eq!((those("SKIP"), those("PASS").len()), (SKIPPED.to_vec(), CASES), "{ran}");
    // A case that failed to clean up, or a crash after the last one.
    assert!(ran.ok(), "{ran}");
}

#[test]
fn directly() {
    passes(None);
}

#[test]
fn through_containerd_1_6() {
    passes(Some("containerd-1.6"));
}

#[test]
fn through_containerd_1_7() {
    passes(Some("containerd-1.7"));
}

#[test]
fn through_containerd_2_1() {
    passes(Some("containerd-2.1"));
}

/// Prints the table of docs/conformance.md. The Go snapshotter's numbers are its own affair, so
/// nothing is asserted of them but that it was asked.
#[test]
fn the_go_snapshotter_for_comparison() {
    let Some(go) = programs::tool("nydus-snapshotter/usr/bin/containerd-nydus-grpc") else {
        return not_run!("no Go peer");
    };
    let Some(stage) = Stage::of_a_node() else { return not_run!("{NOT_ROOT}") };
    let (Some(suite), Some(nydusd)) = (suite(), programs::tool("nydusd/bin/nydusd")) else {
        return not_run!("no suite, or no nydusd");
    };
    let template = stage.join("nydusd.json");
    fs::write(&template, TEMPLATE).expect("a template");
    let arguments = format!(
        "--nydusd {} --nydusd-config {} --daemon-mode none --log-to-stdout",
        nydusd.display(),
        template.display()
    );
    let theirs = [("SNAPSHOTTER", go.as_os_str()), ("ARGUMENTS", arguments.as_ref())];
    let theirs = outcomes(&ask(&stage, suite, &theirs));
    let ours = programs::ours("containerd-nydus-grpc");
    let ours = outcomes(&ask(&stage, suite, &[("SNAPSHOTTER", ours.as_os_str())]));
    assert_eq!(theirs.len(), CASES + SKIPPED.len());
    println!("| case | ours | Go 0.13.4 |\n|---|---|---|");
    for (case, outcome) in &ours {
        println!("| {case} | {} | {} |", outcome.to_lowercase(), theirs[case].to_lowercase());
    }
}

const TEMPLATE: &str = r#"{"device":{"backend":{"type":"localfs","config":{"dir":"/"}},
"cache":{"type":"blobcache","config":{"work_dir":"/nowhere"}}},"mode":"direct"}"#;

/// Whether Go's formatter would change the suite.
#[test]
fn the_suite_is_formatted() {
    let Some(go) = programs::tool(GO) else { return not_run!("{NO_GO}") };
    let gofmt = fs::canonicalize(go.join("bin/gofmt")).expect("gofmt");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../conformance");
    let ran = run(Command::new(gofmt).arg("-l").arg(source));
    assert!(ran.ok() && ran.stdout.is_empty(), "{ran}");
}
