//! What is counted, for Prometheus.

use crate::serving::{Entry, Serving};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::Code;

/// How long a connection may last: a client that says nothing goes, one that asks again comes
/// again.
const CONNECTION: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    method: &'static str,
    code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Instance {
    snapshot: u64,
    image: String,
}

/// What is counted. Shared by all that count.
pub struct Metrics {
    registry: Mutex<Registry>,
    calls: Family<Call, Counter>,
    durations: Family<Method, Histogram>,
    readable: Family<Instance, Gauge>,
    read_errors: Family<Instance, Gauge>,
    bytes_read: Family<Instance, Gauge>,
    daemons: Gauge,
    instances: Gauge,
    promoted: Gauge,
    complete: Family<Snapshot, Gauge>,
    cached: Family<Snapshot, Gauge>,
    bytes: Family<Snapshot, Gauge>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Snapshot {
    snapshot: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("nydus_snapshotter");
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.0001, 4.0, 10));
        let new = Self {
            registry: Mutex::default(),
            calls: Family::default(),
            durations: Family::new_with_constructor(histogram),
            readable: Family::default(),
            read_errors: Family::default(),
            bytes_read: Family::default(),
            daemons: Gauge::default(),
            instances: Gauge::default(),
            promoted: Gauge::default(),
            complete: Family::default(),
            cached: Family::default(),
            bytes: Family::default(),
        };
        registry.register("calls", "Calls by method and gRPC code", new.calls.clone());
        let help = "Time of a call in seconds, the client's own not included";
        registry.register("call_seconds", help, new.durations.clone());
        let help = "1 if the image's registry has its blobs for us, 0 if not: see status for why";
        registry.register("image_readable", help, new.readable.clone());
        let help = "File operations that nydusd failed, since it mounted the image";
        registry.register("image_failed_operations", help, new.read_errors.clone());
        let help = "Bytes read from the image, since nydusd mounted it";
        registry.register("image_read_bytes", help, new.bytes_read.clone());
        registry.register("daemons", "nydusd processes that run", new.daemons.clone());
        registry.register("instances", "Images that nydusd serves", new.instances.clone());
        let help = "Images that the kernel serves to new containers";
        registry.register("kernel_images", help, new.promoted.clone());
        let help = "1 if the kernel serves the image to new containers, 0 if nydusd does";
        registry.register("image_kernel", help, new.complete.clone());
        let help = "Bytes of the image that are cached, unpacked";
        registry.register("image_cached_bytes", help, new.cached.clone());
        let help = "Bytes that the image has, unpacked";
        registry.register("image_bytes", help, new.bytes.clone());
        Self { registry: Mutex::new(registry), ..new }
    }
}

impl Metrics {
    /// Counts a call.
    pub fn called(&self, method: &'static str, code: Code, took: Duration) {
        self.calls.get_or_create(&Call { method, code: format!("{code:?}") }).inc();
        self.durations.get_or_create(&Method { method }).observe(took.as_secs_f64());
    }

    /// All of it, in Prometheus' text format.
    pub fn text(&self, serving: &Serving) -> String {
        // Locked for the whole time: another one must not find half of it.
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, daemons) = (serving.all(), serving.daemons());
        self.daemons.set(count(daemons.iter().filter(|live| !live.is_gone()).count()));
        self.instances.set(count(all.values().filter(|entry| entry.fuse.is_some()).count()));
        self.promoted.set(count(all.values().filter(|entry| entry.known.promoted).count()));
        for family in [&self.readable, &self.read_errors, &self.bytes_read] {
            family.clear();
        }
        for family in [&self.complete, &self.cached, &self.bytes] {
            family.clear();
        }
        for (snapshot, Entry { fuse, known, seen, .. }) in all {
            if let Some(served) = fuse.filter(|_| seen.is_there()) {
                let of = Instance { snapshot, image: served.image.reference().to_owned() };
                self.readable.get_or_create(&of).set(seen.trouble.is_none().into());
                self.read_errors.get_or_create(&of).set(clamp(seen.failed_operations));
                self.bytes_read.get_or_create(&of).set(clamp(seen.bytes_read));
            }
            if known.is_told() {
                let (of, progress) = (Snapshot { snapshot }, known.now().unwrap_or_default());
                self.complete.get_or_create(&of).set(known.promoted.into());
                self.cached.get_or_create(&of).set(clamp(progress.ready_bytes));
                self.bytes.get_or_create(&of).set(clamp(progress.bytes));
            }
        }
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

fn count(length: usize) -> i64 {
    length.try_into().unwrap_or(i64::MAX)
}

fn clamp(value: u64) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

/// Serves `text` to whoever asks, whatever the path.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(
    address: &str,
    text: impl Fn() -> String + Send + Sync + 'static,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let text = Arc::new(text);
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // No descriptor is left, mostly.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let text = Arc::clone(&text);
            let answer = service_fn(move |_| {
                let answer = hyper::Response::builder()
                    .header("content-type", "application/openmetrics-text; version=1.0.0")
                    .body(Full::<Bytes>::from(text()))
                    .unwrap_or_default();
                std::future::ready(Ok::<_, Infallible>(answer))
            });
            let server = hyper::server::conn::http1::Builder::new();
            let served = server.serve_connection(TokioIo::new(stream), answer);
            tokio::spawn(tokio::time::timeout(CONNECTION, served));
        }
    });
    Ok(())
}
