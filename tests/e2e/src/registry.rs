//! A registry of images, on a free port of the loopback device.

use crate::image::{Image, MANIFEST};
use crate::programs;
use crate::service::Service;
use base64::Engine;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use ureq::Agent;
use ureq::http::Uri;

/// A running registry; it ends when dropped.
#[derive(Debug)]
pub struct Registry {
    service: Service,
    address: SocketAddr,
    login: Option<(String, String)>,
    agent: Agent,
}

impl Registry {
    /// Starts one with its files in `directory`; `login` is the user and password that it asks
    /// for. `None` if there is no such program.
    ///
    /// # Panics
    /// It does not come up.
    pub fn start(directory: &Path, login: Option<(&str, &str)>) -> Option<Self> {
        let program = programs::tool("registry/usr/bin/docker-registry")?;
        fs::create_dir_all(directory).expect("a directory");
        let address = free_address();
        let file = directory.join("config.yml");
        fs::write(&file, config(directory, address, login)).expect("a configuration");
        let mut command = Command::new(program);
        command.arg("serve").arg(file).env("OTEL_TRACES_EXPORTER", "none");
        let mut service = Service::start(&mut command, directory.join("log"));
        service.wait("registry", || TcpStream::connect(address).is_ok());
        let agent = Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(60)))
            .proxy(None)
            .build()
            .new_agent();
        let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
        Some(Self { service, address, login, agent })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stores `image` as `repository:tag`.
    ///
    /// # Panics
    /// The registry refuses.
    pub fn push(&self, image: &Image, repository: &str, tag: &str) {
        let root = format!("http://{}/v2/{repository}", self.address);
        for blob in image.blobs() {
            let request = self.agent.post(format!("{root}/blobs/uploads/"));
            let answer = self.checked(self.with_login(request).send_empty());
            let place = answer.headers()["location"].to_str().expect("an address");
            let mark = if place.contains('?') { '&' } else { '?' };
            let place = format!("{place}{mark}digest={}", blob.digest);
            assert!(place.parse::<Uri>().is_ok_and(|uri| uri.host().is_some()), "{place}");
            let content = fs::File::open(&blob.path).expect("a blob");
            let request = self.agent.put(place).content_type("application/octet-stream");
            self.checked(self.with_login(request).send(content));
        }
        let request = self.agent.put(format!("{root}/manifests/{tag}")).content_type(MANIFEST);
        self.checked(self.with_login(request).send(&image.manifest));
    }

    fn with_login<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.login {
            None => request,
            Some((user, password)) => request.header("Authorization", basic(user, password)),
        }
    }

    fn checked<T>(&self, answer: Result<T, ureq::Error>) -> T {
        answer.unwrap_or_else(|error| panic!("push: {error}\n{}", self.service.said()))
    }
}

/// A header's value that proves `user` by `password`.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", encoded(user, password))
}

/// User and password, as both HTTP and the configurations of clients carry them.
pub fn encoded(user: &str, password: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"))
}

fn config(directory: &Path, address: SocketAddr, login: Option<(&str, &str)>) -> String {
    let storage = directory.join("storage").display().to_string();
    let auth = login.map_or(String::new(), |(user, password)| {
        let file = directory.join("htpasswd");
        let hash = bcrypt::hash(password, 4).expect("a hash");
        fs::write(&file, format!("{user}:{hash}\n")).expect("a file of passwords");
        format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display())
    });
    format!(
        "version: 0.1
log:
  level: warn
storage:
  filesystem:
    rootdirectory: {storage}
http:
  addr: {address}
{auth}"
    )
}

/// An address of the loopback device that nobody listens at, and that this process gives to nobody
/// else. Its port is below those that the kernel gives to connections (net.ipv4.ip_local_port_range),
/// so that none of them has it before the program does for which it is.
pub(crate) fn free_address() -> SocketAddr {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let ports = 20_000..32_000;
    let first = std::process::id() as u16;
    let mut candidates = ports.clone().map(|_| {
        let next = first.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)) % ports.len() as u16;
        SocketAddr::from((Ipv4Addr::LOCALHOST, ports.start + next))
    });
    candidates.find(|address| TcpListener::bind(address).is_ok()).expect("a free port")
}
