//! Killed at any instant: what was answered is there, and of what was not, one change a client.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nydus_snapshotter::store::{Kind, Lookup, Store};
use nydus_snapshotter::usage::Usage;

use crate::{Random, all, labels, line};

const ROUNDS: u64 = 30;
const CLIENTS: u64 = 4;
const STORE: &str = "NYDUS_TEST_KILLED_STORE";
const ROUND: &str = "NYDUS_TEST_KILLED_ROUND";

/// What a client does, again and again: layer on layer, some removed.
const WORK: &[&str] = &["prepare", "label", "commit", "view", "remove"];

fn key(base: &str, name: &str, at: usize) -> String {
    format!("{base}/{name}{}", at / WORK.len())
}

/// The client's snapshots after so many changes, as lines.
fn expected(base: &str, made: usize) -> BTreeSet<String> {
    let mut found = BTreeMap::new();
    for at in 0..made {
        let [active, layer, view] = ["active", "layer", "view"].map(|name| key(base, name, at));
        let below = at.checked_sub(WORK.len()).map(|at| key(base, "layer", at)).unwrap_or_default();
        match WORK[at % WORK.len()] {
            "prepare" => found.insert(active.clone(), format!("{active} active {below:?} ")),
            "label" => found.insert(active.clone(), format!("{active} active {below:?} x=1")),
            "commit" => {
                found.remove(&active);
                found.insert(layer.clone(), format!("{layer} committed {below:?} y=2"))
            }
            "view" => found.insert(view.clone(), format!("{view} view {layer:?} ")),
            _ => found.remove(&view),
        };
    }
    found.into_values().collect()
}

fn work(store: &Store, base: &str, at: usize) {
    let [active, layer, view] = ["active", "layer", "view"].map(|name| key(base, name, at));
    let below = at.checked_sub(WORK.len()).map(|at| key(base, "layer", at)).unwrap_or_default();
    let change = store.write_blocking(move |draft| match WORK[at % WORK.len()] {
        "prepare" => draft.create(Kind::Active, &active, &below, labels("")),
        "label" => draft.update(&active, &labels("x=1"), &[]),
        "commit" => draft.commit(&layer, &active, labels("y=2"), Usage::default()),
        "view" => draft.create(Kind::View, &view, &layer, labels("")),
        _ => draft.remove(&view),
    });
    change.unwrap();
}

/// The process that is killed.
fn child(store: &Path) {
    let store = Store::open(store).unwrap();
    let round = std::env::var(ROUND).unwrap();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (store, base) = (&store, format!("r{round}/c{client}"));
            scope.spawn(move || {
                for at in 0.. {
                    work(store, &base, at);
                    let mut output = std::io::stdout().lock();
                    output.write_all(format!("answered {base} {}\n", at + 1).as_bytes()).unwrap();
                }
            });
        }
    });
}

/// Runs the child for this long; how many changes of each client were answered.
fn run(store: &Path, round: u64, life: Duration) -> BTreeMap<String, usize> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::killed_at_any_instant", "--nocapture"])
        .envs([(STORE, store.as_os_str()), (ROUND, round.to_string().as_ref())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || output.lines().map_while(Result::ok).collect());
    std::thread::sleep(life);
    child.kill().unwrap();
    child.wait().unwrap();
    let lines: Vec<String> = reader.join().unwrap();
    let mut answered: BTreeMap<_, _> =
        (0..CLIENTS).map(|client| (format!("r{round}/c{client}"), 0)).collect();
    for words in lines.iter().map(|line| line.split(' ').collect::<Vec<_>>()) {
        if let ["answered", base, made] = words[..] {
            answered.insert(base.to_owned(), made.parse().unwrap());
        }
    }
    answered
}

#[test]
fn killed_at_any_instant() {
    if let Some(store) = std::env::var_os(STORE) {
        return child(Path::new(&store));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut random = Random(Random::seed());
    let mut kept: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut total = 0;
    for round in 0..ROUNDS {
        let answered = run(&path, round, Duration::from_micros(random.below(150_000)));
        total += answered.values().sum::<usize>();
        let store = Store::open(&path).unwrap();
        let view = store.read().unwrap();
        let records = all(&view, 100);
        for (base, made) in answered {
            let found = of(&records, &base);
            let possible = [expected(&base, made), expected(&base, made + 1)];
            assert!(possible.contains(&found), "round {round}, {base}: {made}: {found:?}");
            kept.insert(base, found);
        }
        for (base, lines) in &kept {
            assert_eq!(of(&records, base), *lines, "round {round}, {base}");
        }
        // Every number was given once, and is a record's or garbage.
        let mut ids = view.garbage().unwrap();
        assert!(records.iter().all(|record| ids.insert(record.id)), "round {round}");
        assert!(ids.into_iter().eq(1..view.next_id().unwrap()), "round {round}");
    }
    println!("{total} changes answered in {ROUNDS} lives");
    assert!(total > 100, "{total} changes answered");
}

fn of(records: &[nydus_snapshotter::store::Record], base: &str) -> BTreeSet<String> {
    let own = records.iter().filter(|record| record.key.starts_with(&format!("{base}/")));
    own.map(line).collect()
}
