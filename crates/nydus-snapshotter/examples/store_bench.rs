//! How long a durable change takes: `cargo run --release --example store_bench [DIR]`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nydus_snapshotter::labels::Labels;
use nydus_snapshotter::store::{Kind, Lookup, Store};
use redb::{Database, TableDefinition};

const ROUNDS: usize = 1_000;
const CLIENTS: usize = 16;
const MANY: usize = 10_000;
const BARE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("bare");

fn main() {
    let parent = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let dir = tempfile::tempdir_in(parent).expect("directory");
    let store = Store::open(&dir.path().join("store")).expect("store");
    report("bare redb transaction", &bare(&dir.path().join("bare")));
    report("create, one client", &creates(&store, "one", ROUNDS));
    report("stat", &stats(&store));
    together(&store);
    fill(&store);
    report("stat, 10,000 snapshots", &stats(&store));
    report("create, 10,000 snapshots", &creates(&store, "late", ROUNDS));
    listing(&store);
    drop(store);
    let begun = Instant::now();
    Store::open(&dir.path().join("store")).expect("store");
    println!("open, 10,000 snapshots: {:?}", begun.elapsed());
}

fn report(what: &str, times: &[Duration]) {
    let mut times = times.to_vec();
    times.sort_unstable();
    let [median, p99] = [times.len() / 2, times.len() * 99 / 100].map(|at| times[at]);
    println!("{what}: median {median:?}, 99% {p99:?}");
}

fn timed(rounds: usize, mut act: impl FnMut(usize)) -> Vec<Duration> {
    let mut once = |round| {
        let begun = Instant::now();
        act(round);
        begun.elapsed()
    };
    (0..rounds).map(&mut once).collect()
}

fn bare(path: &Path) -> Vec<Duration> {
    let database = Database::create(path).expect("database");
    timed(ROUNDS, |round| {
        let transaction = database.begin_write().expect("begin");
        let mut table = transaction.open_table(BARE).expect("table");
        table.insert(round.to_string().as_str(), [0; 300].as_slice()).expect("insert");
        drop(table);
        transaction.commit().expect("commit");
    })
}

fn labels() -> Labels {
    let value = |at| (format!("containerd.io/snapshot/label-{at}"), "x".repeat(60));
    (0..4).map(value).collect()
}

fn create(store: &Store, key: String) {
    let made = store.write_blocking(move |draft| draft.create(Kind::Active, &key, "", labels()));
    made.expect("create");
}

fn creates(store: &Store, name: &str, rounds: usize) -> Vec<Duration> {
    timed(rounds, |round| create(store, format!("k8s.io/{round}/{name}")))
}

fn stats(store: &Store) -> Vec<Duration> {
    timed(ROUNDS, |round| {
        store.read().and_then(|view| view.stat(&format!("k8s.io/{round}/one"))).expect("stat");
    })
}

fn together(store: &Store) {
    let store = Arc::new(store.clone());
    let begun = Instant::now();
    let run = |client| {
        let store = Arc::clone(&store);
        std::thread::spawn(move || creates(&store, &format!("client-{client}"), ROUNDS))
    };
    let clients: Vec<_> = (0..CLIENTS).map(run).collect();
    let times: Vec<_> =
        clients.into_iter().flat_map(|client| client.join().expect("client")).collect();
    let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
    report(&format!("create, {CLIENTS} clients, {rate:.0} a second"), &times);
}

fn fill(store: &Store) {
    let fill = |draft: &mut nydus_snapshotter::store::Draft<'_>| {
        for at in 0..MANY {
            draft.create(Kind::Active, &format!("many/{at}"), "", labels())?;
        }
        Ok(())
    };
    store.write_blocking(fill).expect("fill");
}

fn listing(store: &Store) {
    let begun = Instant::now();
    let view = store.read().expect("view");
    let (mut after, mut seen) = (Some(String::new()), 0);
    while let Some(from) = after {
        let page = view.page(&from, 100).expect("page");
        seen += page.found.len();
        after = page.next;
    }
    println!("list: {seen} snapshots in {:?}", begun.elapsed());
}
