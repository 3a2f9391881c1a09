//! containerd, with a snapshotter as its plugin `nydus`, in a place of its own.

mod settings;

use crate::machines;
use crate::programs::{self, tool};
use crate::run::{Ran, run, run_with};
use crate::service::{self, Service, until};
use crate::stage::Stage;
use containerd_proto::containers::containers_client::ContainersClient;
use containerd_proto::containers::{
    Container, CreateContainerRequest, GetContainerRequest, container,
};
use containerd_proto::cri::image_service_client::ImageServiceClient;
use containerd_proto::cri::{AuthConfig, ImageSpec, PullImageRequest, RemoveImageRequest};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use vm_shim::shim::settings::Settings;

/// The versions with which we test: a folder and, where there are two ways to pull, the second.
/// With ` front` behind it, the helper is its `mount.fuse`.
pub const VERSIONS: [&str; 4] =
    ["containerd-1.6", "containerd-1.7", "containerd-2.1", "containerd-2.1 transfer"];

/// The namespace of Kubernetes, in which CRI puts images.
const NAMESPACE: &str = "k8s.io";
const LIMIT: Duration = Duration::from_secs(120);

/// A running containerd; it ends when dropped, with every container.
#[derive(Debug)]
pub struct Containerd {
    service: Service,
    programs: PathBuf,
    directory: PathBuf,
    path: String,
    runtime: Runtime,
}

impl Containerd {
    /// Starts one of [`VERSIONS`] in the stage, in a directory named as its folder. `plugin` is
    /// the snapshotter's socket, `root` where it keeps its snapshots. `None` if a program is
    /// missing.
    ///
    /// # Panics
    /// It does not come up.
    pub fn start(stage: &Stage, version: &str, plugin: &Path, root: &Path) -> Option<Self> {
        let folder = version.split(' ').next()?;
        let programs = tool(folder)?.join("usr/bin");
        let directory = stage.join(folder);
        let links = settings::links(&directory, version)?;
        let config = directory.join("config.toml");
        fs::write(&config, settings::text(version, &directory, plugin, root))
            .expect("a configuration");
        let path = format!("{}:{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display(), links);
        let mut command = Command::new(programs.join("containerd"));
        command.env("PATH", &path).env("LD_LIBRARY_PATH", programs::libraries());
        command.arg("--config").arg(config).env_remove("NOTIFY_SOCKET");
        command.env("NYDUSVM_CONFIG", directory.join("nydusvm.toml"));
        let service = Service::start(&mut command, directory.join("log"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let mut this = Self { service, programs, directory, path, runtime };
        this.wait();
        Some(this)
    }

    fn wait(&mut self) {
        let socket = self.socket();
        // It is there before anybody listens at it.
        let listens = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
        self.service.wait("containerd's socket", listens);
        let version = self.ctr(&["version"]);
        assert!(version.ok(), "{version}\n{}", self.service.said());
    }

    /// Lets it read from `host`, such as `127.0.0.1:5000`, without TLS.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn trust(&self, host: &str) {
        let hosts = self.directory.join("hosts").join(host);
        fs::create_dir_all(&hosts).expect("a directory");
        let capabilities = r#"capabilities = ["pull", "resolve"]"#;
        let text =
            format!("server = \"http://{host}\"\n[host.\"http://{host}\"]\n{capabilities}\n");
        fs::write(hosts.join("hosts.toml"), text).expect("hosts.toml");
    }

    /// Lets it run containers in virtual machines.
    ///
    /// # Panics
    /// A file cannot be written.
    pub fn has_machines(&self, settings: &Settings) {
        fs::create_dir_all(&settings.state).expect("a directory");
        fs::write(self.directory.join("nydusvm.toml"), machines::text(settings)).expect("settings");
        let name = "containerd-shim-nydusvm-v2";
        let shim = fs::canonicalize(programs::ours(name)).expect(name);
        std::os::unix::fs::symlink(shim, self.directory.join("bin").join(name)).expect(name);
    }

    /// Pulls an image as kubelet does; `login` is a user and a password.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn pull(&self, reference: &str, login: Option<(&str, &str)>) -> Result<(), Status> {
        let auth = login.map(|(user, password)| AuthConfig {
            username: user.to_owned(),
            password: password.to_owned(),
            ..AuthConfig::default()
        });
        let request = PullImageRequest { image: Some(spec(reference)), auth };
        self.block_on(async {
            let mut client = ImageServiceClient::new(self.channel().await?);
            client.pull_image(request).await
        })
    }

    /// Removes an image as kubelet does.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn remove_image(&self, reference: &str) -> Result<(), Status> {
        let request = RemoveImageRequest { image: Some(spec(reference)) };
        self.block_on(async {
            let mut client = ImageServiceClient::new(self.channel().await?);
            client.remove_image(request).await
        })
    }

    /// Removes what nothing uses, and waits for it: the end of a lease is what starts that.
    ///
    /// # Panics
    /// It fails.
    pub fn gc(&self) {
        for words in [["leases", "create", "--id", "gc"], ["leases", "delete", "--sync", "gc"]] {
            let ran = self.ctr(&words);
            assert!(ran.ok(), "{ran}\n{}", self.said());
        }
    }

    /// `ctr` with these words, in the namespace of Kubernetes.
    pub fn ctr(&self, words: &[&str]) -> Ran {
        run(&mut self.command(words))
    }

    /// The same, beside the test; what it says goes to this file.
    pub fn ctr_beside(&self, words: &[&str], log: PathBuf) -> Service {
        Service::start(&mut self.command(words), log)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("ctr"));
        command.arg("--address").arg(self.socket()).args(["--namespace", NAMESPACE]);
        command.env("PATH", &self.path).current_dir(&self.directory);
        command.args(words);
        command
    }

    /// Runs a container of an image that was pulled, to its end; `options` are those of
    /// `ctr run`.
    pub fn run(&self, options: &[&str], reference: &str, id: &str, words: &[&str]) -> Ran {
        self.ctr_run(&[&["--rm"], options].concat(), reference, id, words)
    }

    /// The same with this on its standard input.
    pub fn run_with(&self, input: &[u8], options: &[&str], reference: &str, words: &[&str]) -> Ran {
        let cgroup = format!("/{}/input", self.cgroup());
        let first = ["run", "--rm", "--snapshotter", "nydus", "--cgroup", &cgroup];
        run_with(
            &mut self.command(&[&first, options, &[reference, "input"], words].concat()),
            input,
        )
    }

    /// Starts a container as [`Containerd::run`] does, and lets it run.
    pub fn start_container(
        &self,
        options: &[&str],
        reference: &str,
        id: &str,
        words: &[&str],
    ) -> Ran {
        // Its output would need somebody who reads it.
        self.ctr_run(&[&["--detach", "--null-io"], options].concat(), reference, id, words)
    }

    /// Makes a container beside another, on the same snapshot, for this runtime and program.
    ///
    /// # Panics
    /// containerd refuses.
    pub fn beside(&self, other: &str, id: &str, runtime: &str, words: &[&str]) {
        let made = self.block_on(async {
            let mut client = ContainersClient::new(self.channel().await?);
            let found =
                client.get(namespaced(GetContainerRequest { id: other.to_owned() })).await?;
            let mut container = found.into_inner().container.unwrap_or_default();
            container.id = id.to_owned();
            let name = runtime.to_owned();
            container.runtime = Some(container::Runtime { name, options: None });
            set_words(&mut container, words);
            let request = CreateContainerRequest { container: Some(container) };
            client.create(namespaced(request)).await
        });
        made.unwrap_or_else(|error| panic!("{error}\n{}", self.said()));
    }

    /// Runs a program in a container that runs.
    pub fn exec(&self, id: &str, words: &[&str]) -> Ran {
        self.ctr_logged(&["tasks", "exec"], &[&["--exec-id", "exec", id], words].concat())
    }

    /// Kills a container that runs, and removes it.
    ///
    /// # Panics
    /// It fails.
    pub fn remove_container(&self, id: &str) {
        for words in [["tasks", "rm", "--force", id].as_slice(), &["containers", "rm", id]] {
            let ran = self.ctr(words);
            assert!(ran.ok(), "{ran}\n{}", self.said());
        }
    }

    /// A shim sometimes loses the exit of every mount helper that it runs, whichever it is: it
    /// reaps its children in two places (containerd issue 4387). Then the container is started
    /// again.
    fn ctr_run(&self, options: &[&str], reference: &str, id: &str, words: &[&str]) -> Ran {
        let clear = || {
            self.ctr(&["containers", "rm", id]);
            self.ctr(&["snapshots", "--snapshotter", "nydus", "rm", id]);
        };
        again(id, clear, || self.ctr_run_once(options, reference, id, words))
    }

    /// Runs a container that was made, to its end.
    pub fn start_task(&self, id: &str) -> Ran {
        again(id, || {}, || self.ctr(&["tasks", "start", id]))
    }

    fn ctr_run_once(&self, options: &[&str], reference: &str, id: &str, words: &[&str]) -> Ran {
        let cgroup = format!("/{}/{id}", self.cgroup());
        let first = ["--snapshotter", "nydus", "--cgroup", &cgroup];
        let rest = [&first, options, &[reference, id], words].concat();
        // Only runc's shim writes to files.
        match ["--detach", "--runtime"].iter().any(|own| options.contains(own)) {
            true => self.ctr(&[&["run"], &rest[..]].concat()),
            false => self.ctr_logged(&["run"], &rest),
        }
    }

    /// `ctr` with these words, which run a process: what that prints is in the answer's standard
    /// output. The shim writes it to a file, since `ctr` loses the output of a process that ends
    /// before `ctr` has opened its FIFOs.
    fn ctr_logged(&self, deed: &[&str], rest: &[&str]) -> Ran {
        let log = tempfile::NamedTempFile::new_in(&self.directory).expect("a file for output");
        let uri = format!("file://{}", log.path().display());
        let mut ran = self.ctr(&[deed, &["--log-uri", &uri], rest].concat());
        ran.stdout.extend(fs::read(log.path()).expect("output"));
        ran
    }

    /// The end of its log, for the message of a failed assertion.
    pub fn said(&self) -> String {
        self.service.said()
    }

    /// Where its programs are, `ctr` among them.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("containerd.sock")
    }

    /// The control group of its containers, which goes when it ends: `/NAME/ID`. As a namespace of
    /// containerd, this name puts containers there that are started without `--cgroup`. The stage's
    /// name is in it: process ids are those of a namespace, control groups the machine's.
    pub fn cgroup(&self) -> String {
        let stage = self.directory.parent().and_then(Path::file_name).unwrap_or_default();
        let stage = stage.to_string_lossy().replace('.', "");
        format!("nydus-e2e-{stage}-{}", self.service.pid().as_raw_pid())
    }

    async fn channel(&self) -> Result<Channel, Status> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket().display()));
        let endpoint = endpoint.map_err(|error| Status::internal(error.to_string()))?;
        endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))
    }

    fn block_on<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<(), Status> {
        let in_time = async { tokio::time::timeout(LIMIT, call).await };
        let done = self.runtime.block_on(in_time);
        done.unwrap_or_else(|_| panic!("no answer in {LIMIT:?}\n{}", self.said())).map(drop)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Shims outlive containerd, and containers outlive shims. A stopped shim starts no runc.
        let mut left = service::naming(&self.socket());
        left.retain(|pid| *pid != self.service.pid());
        service::signal(&left, Signal::STOP);
        left.extend(left.clone().into_iter().flat_map(service::children));
        service::signal(&left, Signal::KILL);
        self.service.stop();
        service::end(left);
        service::end_naming(&self.socket());
        // Those that ended before.
        ["containerd-shim", "runc"].into_iter().for_each(service::reap);
        let gone = until(Duration::from_secs(5), || remove_cgroups(&self.cgroup()));
        if !gone {
            println!("control groups {} stay", self.cgroup());
        }
    }
}

fn again(id: &str, clear: impl Fn(), run: impl Fn() -> Ran) -> Ran {
    for _ in 0..3 {
        let ran = run();
        if !ran.shows(b"failed with ECHILD") {
            return ran;
        }
        println!("containerd lost the exit of a mount helper: {id} is started again");
        clear();
    }
    run()
}

fn namespaced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    request
}

fn set_words(container: &mut Container, words: &[&str]) {
    let spec = container.spec.as_mut().expect("a specification");
    let mut json: serde_json::Value = serde_json::from_slice(&spec.value).expect("JSON");
    json["process"]["args"] = words.into();
    spec.value = serde_json::to_vec(&json).expect("JSON");
}

fn spec(reference: &str) -> ImageSpec {
    ImageSpec { image: reference.to_owned(), ..ImageSpec::default() }
}

/// Removes the control groups of this name, of both versions; true if none is left.
fn remove_cgroups(name: &str) -> bool {
    let root = Path::new("/sys/fs/cgroup");
    let controllers = fs::read_dir(root).into_iter().flatten().flatten();
    let places = controllers.map(|entry| entry.path()).chain([root.to_owned()]);
    let groups: Vec<_> =
        places.map(|place| place.join(name)).filter(|path| path.exists()).collect();
    for group in &groups {
        let inner = fs::read_dir(group).into_iter().flatten().flatten();
        for inner in inner.filter(|entry| entry.path().is_dir()) {
            let _ = fs::remove_dir(inner.path());
        }
        let _ = fs::remove_dir(group);
    }
    !groups.iter().any(|group| group.exists())
}
