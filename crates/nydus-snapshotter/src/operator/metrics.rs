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
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
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

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Snapshot {
    snapshot: u64,
}

/// What is counted of calls; the rest is asked when it is wanted.
pub struct Metrics {
    calls: Family<Call, Counter>,
    durations: Family<Method, Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.0001, 4.0, 10));
        Self { calls: Family::default(), durations: Family::new_with_constructor(histogram) }
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
        let mut registry = Registry::with_prefix("nydus_snapshotter");
        registry.register("calls", "Calls by method and gRPC code", self.calls.clone());
        let help = "Time of a call in seconds, the client's own not included";
        registry.register("call_seconds", help, self.durations.clone());
        of_images(&mut registry, serving);
        let all = serving.all();
        let running = serving.daemons().iter().filter(|live| !live.is_gone()).count();
        let served = all.values().filter(|entry| entry.fuse.is_some()).count();
        let promoted = all.values().filter(|entry| entry.known.promoted).count();
        for (name, help, number) in [
            ("daemons", "nydusd processes that run", running),
            ("instances", "Images that nydusd serves", served),
            ("kernel_images", "Images that the kernel serves to new containers", promoted),
        ] {
            let gauge = Gauge::<i64>::default();
            gauge.set(number.try_into().unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        }
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

fn of_images(registry: &mut Registry, serving: &Serving) {
    let help = "1 if the image's registry has its blobs for us, 0 if not: see status for why";
    let readable = family(registry, "image_readable", help);
    let help = "File operations that nydusd failed, since it mounted the image";
    let failed = family(registry, "image_failed_operations", help);
    let help = "Bytes read from the image, since nydusd mounted it";
    let read = family(registry, "image_read_bytes", help);
    let help = "1 if the kernel serves the image to new containers, 0 if nydusd does";
    let kernel = family(registry, "image_kernel", help);
    let cached =
        family(registry, "image_cached_bytes", "Bytes of the image that are cached, unpacked");
    let bytes = family(registry, "image_bytes", "Bytes that the image has, unpacked");
    let clamp = |value: u64| value.try_into().unwrap_or(i64::MAX);
    for (snapshot, Entry { fuse, known, seen, .. }) in serving.all() {
        if let Some(served) = fuse.filter(|_| seen.asked.is_some()) {
            let of = Instance { snapshot, image: served.image.reference().to_owned() };
            readable.get_or_create(&of).set(seen.trouble.is_none().into());
            failed.get_or_create(&of).set(clamp(seen.failed_operations));
            read.get_or_create(&of).set(clamp(seen.bytes_read));
        }
        if known.promoted || known.progress.is_some() || known.why.is_some() {
            let (of, progress) = (Snapshot { snapshot }, known.now().unwrap_or_default());
            kernel.get_or_create(&of).set(known.promoted.into());
            cached.get_or_create(&of).set(clamp(progress.ready_bytes));
            bytes.get_or_create(&of).set(clamp(progress.bytes));
        }
    }
}

fn family<L>(registry: &mut Registry, name: &str, help: &str) -> Family<L, Gauge>
where
    L: Clone + Debug + Eq + Hash + Send + Sync + EncodeLabelSet + 'static,
{
    let family = Family::default();
    registry.register(name, help, family.clone());
    family
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
