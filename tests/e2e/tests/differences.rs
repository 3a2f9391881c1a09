//! Runs every row of docs/differences.md with the Go helper and with ours.

use nydus_e2e::observe::private_namespace;
use nydus_e2e::programs;
use overlay_mount::table::DIFFERENCES;
use rustix::mount::UnmountFlags;
use std::fs;
use std::path::Path;
use std::process::Command;

const BASE: &str = "lowerdir=a:b,upperdir=u,workdir=w,";

fn doc() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/differences.md");
    fs::read_to_string(path).expect("docs/differences.md")
}

/// The cells of each row below a heading that begins so, without their quotes.
fn rows(doc: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, section) = doc.split_once(heading).expect(heading);
    let section = section.split("\n#").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    rows.map(|row| row.trim_matches('|').split('|').map(cell).collect()).collect()
}

#[test]
fn every_difference_from_mount8_is_documented() {
    let table = DIFFERENCES.iter();
    let expected = table.map(|row| [row.word, row.mount8, row.ours, row.why].map(str::to_owned));
    assert_eq!(rows(&doc(), "## From `mount -t overlay`"), expected.collect::<Vec<_>>());
}

#[test]
fn words() {
    let doc = doc();
    let mut all = rows(&doc, "### Words that clear a flag set it there");
    all.extend(rows(&doc, "### Words that it does not know"));
    for row in all {
        let options = format!("{BASE}{}", row[0]);
        check(&["overlay", "t", "-o", &options], &row);
    }
}

#[test]
fn command_lines_and_errors() {
    let doc = doc();
    for row in rows(&doc, "### Command lines") {
        let arguments: Vec<_> = row[0].split(' ').skip(1).collect();
        check(&arguments, &row);
    }
    for row in rows(&doc, "### Errors") {
        check(&["overlay", "t", "-o", &row[0]], &row);
    }
}

#[test]
fn many_layers() {
    let names: Vec<_> = (0..450).map(|number| format!("layers/a-long-name-{number:03}")).collect();
    let options = format!("lowerdir={}", names.join(":"));
    let row = &rows(&doc(), "### Many layers")[0];
    assert!(options.len() > 4_095 * 2, "{}", options.len());
    check(&["overlay", "t", "-o", &options], row);
}

/// What both print or mount is what the row says: text of an error, or options of the mount.
fn check(arguments: &[&str], row: &[String]) {
    let go = programs::tool("nydus-snapshotter/usr/bin/nydus-overlayfs");
    if go.is_none() {
        println!("NOT RUN: no Go helper to compare with");
    }
    let ours = programs::ours("nydus-overlayfs");
    for (program, expected) in [(go, &row[1]), (Some(ours), &row[2])] {
        let Some(program) = program else { continue };
        let got = outcome(&program, arguments);
        let same = match expected.as_str() {
            "fails" => got.starts_with("error:"),
            text => got == text || got.strip_prefix("error:").is_some_and(|e| e.ends_with(text)),
        };
        assert!(same, "{} {arguments:?}: {got}, expected {expected}", program.display());
    }
}

/// Per-mount options of the new mount, or `error:` and what the program said.
fn outcome(program: &Path, arguments: &[&str]) -> String {
    let (program, arguments) = (program.to_owned(), arguments.to_vec());
    std::thread::scope(|scope| {
        let run = || {
            private_namespace().expect("a mount namespace");
            let dir = tempfile::tempdir().expect("a directory");
            for name in ["a", "b", "u", "w", "t", "layers"] {
                fs::create_dir(dir.path().join(name)).expect(name);
            }
            for number in 0..450 {
                let name = format!("layers/a-long-name-{number:03}");
                fs::create_dir(dir.path().join(name)).expect("a layer");
            }
            let mut command = Command::new(&program);
            let output = command.args(&arguments).current_dir(&dir).output().expect("it runs");
            let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
            let target = dir.path().join("t");
            let point = format!(" {} ", target.display());
            let options = mounts.split_once(&point).and_then(|(_, rest)| rest.split(' ').next());
            let outcome = match options {
                Some(options) => options.to_owned(),
                None => format!("error:{}", String::from_utf8_lossy(&output.stderr).trim_end()),
            };
            if options.is_some() {
                rustix::mount::unmount(&target, UnmountFlags::DETACH).expect("unmounted");
            }
            outcome
        };
        scope.spawn(run).join().expect("no panic")
    })
}
