//! Clients at once, each on snapshots of its own, against a simple model. Calls are given up in
//! the middle, and the server is killed: what was answered must be there, what was not may be,
//! and in the end nothing is left.

use crate::server::{Client, Server};
use containerd_proto::snapshots::{
    CleanupRequest, CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, MountsRequest,
    PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest,
    ViewSnapshotRequest,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};
use tonic::{Code, Status};

const CLIENTS: u64 = 8;
const ROUNDS: u64 = 4;
const CALLS: u64 = 150;
const KEYS: usize = 16;
/// Calls of a client that are given up, at most, until the server is killed.
const GIVEN_UP: usize = 2;

/// How long an answer may take on a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// Key of a snapshot, and what is known of it: kind, parent, the value of its label.
type Model = BTreeMap<String, (Kind, String, String)>;

#[derive(Clone, Debug)]
enum Call {
    Prepare(String, String, String),
    View(String, String, String),
    Commit(String, String, String),
    Remove(String),
    Update(String, String),
    Mounts(String),
}

impl Call {
    /// Snapshots that it makes, changes or removes.
    fn changes(&self) -> Vec<&String> {
        match self {
            Self::Commit(name, key, _) => vec![name, key],
            Self::Prepare(key, ..) | Self::View(key, ..) => vec![key],
            Self::Remove(key) | Self::Update(key, _) | Self::Mounts(key) => vec![key],
        }
    }

    /// These, and those whose children it makes or removes.
    fn touches(&self, model: &Model) -> BTreeSet<String> {
        let mut touched: BTreeSet<String> = self.changes().into_iter().cloned().collect();
        let parents = touched.iter().filter_map(|key| Some(model.get(key)?.1.clone()));
        touched.extend(parents.collect::<Vec<_>>());
        if let Self::Prepare(_, parent, _) | Self::View(_, parent, _) = self {
            touched.insert(parent.clone());
        }
        touched.remove("");
        touched
    }
}

struct Worker {
    name: String,
    random: fastrand::Rng,
    client: Client,
    model: Model,
    /// Calls that got no answer.
    open: Vec<Call>,
    /// What they touch: left alone until it is known what became of them.
    avoided: BTreeSet<String>,
    /// Made by a server that was killed before it answered, which may have left half a directory.
    half: BTreeSet<String>,
}

impl Worker {
    fn key(&mut self) -> String {
        format!("{}/{}", self.name, self.random.usize(..KEYS))
    }

    fn next(&mut self) -> Call {
        loop {
            let call = self.any();
            if call.touches(&self.model).is_disjoint(&self.avoided) {
                return call;
            }
        }
    }

    fn any(&mut self) -> Call {
        let (key, other) = (self.key(), self.key());
        let value = self.random.u32(..).to_string();
        let parent = if self.random.u8(..3) == 0 { String::new() } else { other.clone() };
        match self.random.u8(..10) {
            0..=2 => Call::Prepare(key, parent, value),
            3 => Call::View(key, parent, value),
            4..=5 => Call::Commit(other, key, value),
            6..=7 => Call::Remove(key),
            8 => Call::Update(key, value),
            _ => Call::Mounts(key),
        }
    }

    async fn make(&mut self, call: &Call) -> Result<(), Status> {
        let client = &mut self.client;
        let labels = |value: &str| HashMap::from([("v".to_owned(), value.to_owned())]);
        match call.clone() {
            Call::Prepare(key, parent, value) => {
                let labels = labels(&value);
                let request = PrepareSnapshotRequest { key, parent, labels, ..Default::default() };
                client.prepare(request).await.map(drop)
            }
            Call::View(key, parent, value) => {
                let labels = labels(&value);
                let request = ViewSnapshotRequest { key, parent, labels, ..Default::default() };
                client.view(request).await.map(drop)
            }
            Call::Commit(name, key, value) => {
                let labels = labels(&value);
                let request = CommitSnapshotRequest { name, key, labels, ..Default::default() };
                client.commit(request).await.map(drop)
            }
            Call::Remove(key) => {
                let request = RemoveSnapshotRequest { key, ..Default::default() };
                client.remove(request).await.map(drop)
            }
            Call::Update(key, value) => {
                let info = Info { name: key, labels: labels(&value), ..Default::default() };
                let request = UpdateSnapshotRequest { info: Some(info), ..Default::default() };
                client.update(request).await.map(drop)
            }
            Call::Mounts(key) => {
                let request = MountsRequest { key, ..Default::default() };
                client.mounts(request).await.map(drop)
            }
        }
    }

    /// Makes a call; it may be given up, or the server be killed meanwhile.
    async fn step(&mut self) {
        let call = self.next();
        let give_up = self.open.len() < GIVEN_UP && self.random.u8(..4) == 0;
        let soon = Duration::from_micros(self.random.u64(..1_500));
        let patience = if give_up { soon } else { PATIENCE };
        match tokio::time::timeout(patience, self.make(&call)).await {
            Ok(Err(status)) if is_lost(&status) => {
                self.leave_open(call);
                // The server that was asked is dead: no call is on its way any more.
                let now = self.list().await;
                self.close(now);
            }
            Err(_) => self.leave_open(call),
            Ok(outcome) => {
                let code = outcome.as_ref().err().map_or(Code::Ok, Status::code);
                if code == Code::Unknown && self.is_of_a_half(&call) {
                    return;
                }
                let expected = expect(&mut self.model, &call);
                assert_eq!(code, expected, "{call:?}: {outcome:?}");
                if code == Code::Ok && !matches!(call, Call::Update(..)) {
                    let whole = call.changes();
                    self.half.retain(|key| !whole.contains(&key));
                }
            }
        }
    }

    /// Half a directory is no layer; a call for its mounts makes it whole.
    fn is_of_a_half(&self, call: &Call) -> bool {
        matches!(call, Call::Commit(_, key, _) if self.half.contains(key))
    }

    fn leave_open(&mut self, call: Call) {
        self.avoided.extend(call.touches(&self.model));
        self.open.push(call);
    }

    /// Each call without an answer was made or it was not, and both are right.
    fn close(&mut self, now: Model) {
        self.avoided.clear();
        for call in std::mem::take(&mut self.open) {
            let mut after = self.model.clone();
            expect(&mut after, &call);
            let fits =
                |model: &Model| call.changes().iter().all(|key| model.get(*key) == now.get(*key));
            if !fits(&self.model) {
                assert!(fits(&after), "{call:?} got no answer: {now:?}");
                self.model = after;
                self.half.extend(call.changes().into_iter().cloned());
            }
        }
        assert_eq!(now, self.model);
    }

    /// What is there of ours, as soon as the server answers.
    async fn list(&mut self) -> Model {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let filters = vec![format!("name~=/^{}\\//", self.name)];
            let request = ListSnapshotsRequest { filters, ..Default::default() };
            if let Ok(found) = collect(&mut self.client, request).await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the server does not answer");
    }

    /// Removes all, leaves first.
    async fn remove_all(&mut self) {
        while !self.model.is_empty() {
            let is_parent = |key: &String| self.model.values().any(|(_, parent, _)| parent == key);
            let leaf = self.model.keys().find(|key| !is_parent(key)).expect("a leaf").clone();
            self.make(&Call::Remove(leaf.clone())).await.unwrap();
            self.model.remove(&leaf);
        }
    }
}

/// The connection went before the answer.
fn is_lost(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Cancelled)
        || status.code() == Code::Unknown && status.message().contains("transport")
        || status.code() == Code::Internal
}

async fn collect(client: &mut Client, request: ListSnapshotsRequest) -> Result<Model, Status> {
    let mut stream = client.list(request).await?.into_inner();
    let mut model = Model::new();
    while let Some(batch) = stream.message().await? {
        for info in batch.info {
            let value = info.labels.get("v").cloned().unwrap_or_default();
            let kind = info.kind();
            model.insert(info.name, (kind, info.parent, value));
        }
    }
    Ok(model)
}

/// The rules, as simple as they can be said.
fn expect(model: &mut Model, call: &Call) -> Code {
    let parent_code = |model: &Model, parent: &String| match model.get(parent) {
        _ if parent.is_empty() => Code::Ok,
        None => Code::NotFound,
        Some((Kind::Committed, ..)) => Code::Ok,
        Some(_) => Code::InvalidArgument,
    };
    match call.clone() {
        Call::Prepare(key, parent, value) | Call::View(key, parent, value) => {
            let kind = if matches!(call, Call::View(..)) { Kind::View } else { Kind::Active };
            let code = parent_code(model, &parent);
            if code == Code::Ok && model.contains_key(&key) {
                return Code::AlreadyExists;
            }
            if code == Code::Ok {
                model.insert(key, (kind, parent, value));
            }
            code
        }
        Call::Commit(name, key, value) => {
            if model.contains_key(&name) {
                return Code::AlreadyExists;
            }
            match model.get(&key) {
                None => Code::NotFound,
                Some((Kind::Active, parent, _)) => {
                    let committed = (Kind::Committed, parent.clone(), value);
                    model.remove(&key);
                    model.insert(name, committed);
                    Code::Ok
                }
                Some(_) => Code::FailedPrecondition,
            }
        }
        Call::Remove(key) if !model.contains_key(&key) => Code::NotFound,
        Call::Remove(key) => {
            if model.values().any(|(_, parent, _)| *parent == key) {
                return Code::FailedPrecondition;
            }
            model.remove(&key);
            Code::Ok
        }
        Call::Update(key, value) => match model.get_mut(&key) {
            None => Code::NotFound,
            Some(snapshot) => {
                snapshot.2 = value;
                Code::Ok
            }
        },
        Call::Mounts(key) => match model.get(&key) {
            None => Code::NotFound,
            Some((Kind::Committed, ..)) => Code::FailedPrecondition,
            Some(_) => Code::Ok,
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_at_once_and_a_server_that_is_killed() {
    let seed = std::env::var("NYDUS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("NYDUS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut server = Server::start();
    let mut workers: Vec<_> = (0..CLIENTS)
        .map(|number| Worker {
            name: format!("w{number}"),
            random: fastrand::Rng::with_seed(random.u64(..)),
            client: server.client(),
            model: Model::new(),
            open: Vec::new(),
            avoided: BTreeSet::new(),
            half: BTreeSet::new(),
        })
        .collect();
    for _ in 0..ROUNDS {
        let tasks: Vec<_> = workers
            .into_iter()
            .map(|mut worker| {
                tokio::spawn(async move {
                    for _ in 0..CALLS {
                        worker.step().await;
                    }
                    worker
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(random.u64(10..300))).await;
        server.kill_and_start();
        workers = Vec::new();
        for task in tasks {
            workers.push(task.await.expect("a client"));
        }
        for worker in &mut workers {
            let now = worker.list().await;
            worker.close(now);
        }
    }
    nothing_is_left(&server, &mut workers).await;
}

/// Every committed snapshot can be used, and what is removed is gone from the disk.
async fn nothing_is_left(server: &Server, workers: &mut [Worker]) {
    let mut client = server.client();
    client.cleanup(CleanupRequest::default()).await.unwrap();
    let there: usize = workers.iter().map(|worker| worker.model.len()).sum();
    // One that was being prepared when the server was killed has a record and no directory yet.
    let directories = server.directories();
    assert!(directories.len() <= there, "{there} snapshots: {directories:?}");
    for worker in workers {
        let committed = worker.model.iter().filter(|(_, (kind, ..))| *kind == Kind::Committed);
        for (name, _) in committed.map(|(name, value)| (name.clone(), value)).collect::<Vec<_>>() {
            let request = StatSnapshotRequest { key: name.clone(), ..Default::default() };
            client.stat(request).await.unwrap();
            let view = format!("view/{name}");
            let parent = name;
            let request = ViewSnapshotRequest { key: view.clone(), parent, ..Default::default() };
            let mounts = client.view(request).await.unwrap().into_inner().mounts;
            let lower =
                mounts[0].options.iter().find_map(|option| option.strip_prefix("lowerdir="));
            for layer in lower.unwrap_or(&mounts[0].source).split(':') {
                assert!(std::path::Path::new(layer).is_dir(), "{layer}");
            }
            let request = RemoveSnapshotRequest { key: view, ..Default::default() };
            client.remove(request).await.unwrap();
        }
        worker.remove_all().await;
    }
    client.cleanup(CleanupRequest::default()).await.unwrap();
    assert_eq!(server.directories(), Vec::<String>::new());
}
