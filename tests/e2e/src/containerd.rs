//! containerd, with a snapshotter as its plugin `nydus`, in a place of its own.

use crate::programs::{self, tool};
use crate::run::{Ran, run};
use crate::service::{self, Service, kill_naming, until};
use crate::stage::Stage;
use containerd_proto::cri::image_service_client::ImageServiceClient;
use containerd_proto::cri::{AuthConfig, ImageSpec, PullImageRequest, RemoveImageRequest};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// The folders of the versions with which we test.
pub const VERSIONS: [&str; 3] = ["containerd-1.6", "containerd-1.7", "containerd-2.1"];

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
    /// Starts the one of a folder of [`VERSIONS`] in the stage's directory of that name.
    /// `plugin` is the snapshotter's socket, `root` where it keeps its snapshots. `None` if a
    /// program is missing.
    ///
    /// # Panics
    /// It does not come up.
    pub fn start(stage: &Stage, folder: &str, plugin: &Path, root: &Path) -> Option<Self> {
        let programs = tool(folder)?.join("usr/bin");
        let directory = stage.join(folder);
        let links = links(&directory)?;
        let config = directory.join("config.toml");
        fs::write(&config, settings(folder, &directory, plugin, root)).expect("a configuration");
        let path = format!("{}:{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display(), links);
        let mut command = Command::new(programs.join("containerd"));
        command.env("PATH", &path).env("LD_LIBRARY_PATH", programs::libraries());
        command.arg("--config").arg(config).env_remove("NOTIFY_SOCKET");
        let service = Service::start(&mut command, directory.join("log"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let mut this = Self { service, programs, directory, path, runtime };
        this.wait();
        Some(this)
    }

    fn wait(&mut self) {
        let socket = self.socket();
        self.service.wait("containerd's socket", || socket.exists());
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

    /// Removes everything without a use, and waits for it: removing an image synchronously is
    /// what starts that.
    pub fn gc(&self) -> Ran {
        self.ctr(&["content", "prune", "references"])
    }

    /// `ctr` with these words, in the namespace of Kubernetes.
    pub fn ctr(&self, words: &[&str]) -> Ran {
        let mut command = Command::new(self.programs.join("ctr"));
        command.arg("--address").arg(self.socket()).args(["--namespace", NAMESPACE]);
        command.env("PATH", &self.path).current_dir(&self.directory);
        run(command.args(words))
    }

    /// Runs a container of an image that was pulled; `options` are those of `ctr run`.
    pub fn run(&self, options: &[&str], reference: &str, id: &str, words: &[&str]) -> Ran {
        let cgroup = format!("/{}/{id}", self.cgroup());
        let first = ["run", "--rm", "--snapshotter", "nydus", "--cgroup", &cgroup];
        self.ctr(&[&first, options, &[reference, id], words].concat())
    }

    /// The end of its log, for the message of a failed assertion.
    pub fn said(&self) -> String {
        self.service.said()
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("containerd.sock")
    }

    fn cgroup(&self) -> String {
        format!("nydus-e2e-{}", self.service.id())
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
        // Shims outlive containerd, and containers outlive shims.
        let shims = service::naming(&self.socket());
        service::kill(shims.iter().flat_map(|shim| service::children(*shim)));
        self.service.stop();
        kill_naming(&self.socket());
        let gone = until(Duration::from_secs(5), || remove_cgroups(&self.cgroup()));
        if !gone {
            println!("control groups {} stay", self.cgroup());
        }
    }
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

/// A directory of what containerd looks for in its PATH.
fn links(directory: &Path) -> Option<String> {
    let bin = directory.join("bin");
    fs::create_dir_all(&bin).expect("a directory");
    let fuse3 = programs::mount_fuse3()?;
    for (name, program) in [
        ("runc", tool("runc/usr/sbin/runc")?),
        ("mount.fuse", fuse3.clone()),
        ("mount.fuse3", fuse3),
        ("nydus-overlayfs", programs::ours("nydus-overlayfs")),
    ] {
        symlink(fs::canonicalize(program).expect(name), bin.join(name)).expect(name);
    }
    Some(bin.display().to_string())
}

/// config.toml, for the version in the folder's name.
fn settings(folder: &str, directory: &Path, plugin: &Path, root: &Path) -> String {
    let text = if folder < "containerd-2" { V2 } else { V3 };
    let paths = [("DIRECTORY", directory), ("PLUGIN", plugin), ("EXPORTED", root)];
    let fill =
        |text: String, (word, path): (&str, &Path)| text.replace(word, &path.to_string_lossy());
    paths.into_iter().fold(format!("{text}{BOTH}"), fill)
}

/// Versions 1.6 and 1.7.
const V2: &str = r#"version = 2
root = "DIRECTORY/root"
state = "DIRECTORY/state"
[plugins."io.containerd.internal.v1.opt"]
  path = "DIRECTORY/opt"
[plugins."io.containerd.grpc.v1.cri".cni]
  conf_dir = "DIRECTORY/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "nydus"
  disable_snapshot_annotations = false
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "DIRECTORY/hosts"
"#;

/// Versions from 2.0 on.
const V3: &str = r#"version = 3
root = "DIRECTORY/root"
state = "DIRECTORY/state"
[plugins."io.containerd.internal.v1.opt"]
  path = "DIRECTORY/opt"
[plugins."io.containerd.cri.v1.runtime".cni]
  conf_dir = "DIRECTORY/cni"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "nydus"
  disable_snapshot_annotations = false
  discard_unpacked_layers = false
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "DIRECTORY/hosts"
"#;

const BOTH: &str = r#"
[grpc]
  address = "DIRECTORY/containerd.sock"
[proxy_plugins.nydus]
  type = "snapshot"
  address = "PLUGIN"
[proxy_plugins.nydus.exports]
  root = "EXPORTED"
  enable_remote_snapshot_annotations = "true"
"#;
