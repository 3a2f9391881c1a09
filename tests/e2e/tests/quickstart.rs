//! The commands under "Quick start" in README.md, run as they stand there.

use nydus_e2e::containerd::Containerd;
use nydus_e2e::image::{self, Rafs};
use nydus_e2e::not_run;
use nydus_e2e::programs;
use nydus_e2e::registry::Registry;
use nydus_e2e::run::{Ran, run};
use nydus_e2e::snapshotter::{Snapshotter, Which};
use nydus_e2e::stage::Stage;
use nydus_e2e::{rootfs, service};
use std::fs;
use std::os::unix::fs::symlink;

const README: &str = include_str!("../../../README.md");

/// The registry's name in README.md. Here it is the address of a registry on this machine.
const REGISTRY: &str = "registry.example.com";

/// Commands that cannot run in the sandbox, by their beginnings, and what is done instead. All of
/// them come before the first command that runs.
const INSTEAD: [(&str, &str); 7] = [
    ("cargo xtask dist", "the programs are there already, in target/dist"),
    ("apt install ", "they run from there"),
    ("curl ", "nydusd is that of target/tools"),
    (
        "install -D ",
        "the kit starts containerd with packaging/containerd-2.toml and other directories",
    ),
    ("systemctl enable --now nydus-snapshotter", "the kit starts it, with SETTINGS"),
    ("systemctl restart containerd", "the kit starts it"),
    ("nydusify convert ", "the kit makes an image with nydus-image, and pushes it under that name"),
];

/// What is replaced in the packaged configurations; the kit fills in the paths.
const SETTINGS: [(&str, &str); 4] = [
    ("\"/var/lib/containerd/io.containerd.snapshotter.v1.nydus\"", "\"ROOT\""),
    ("\"/run/containerd-nydus/containerd-nydus-grpc.sock\"", "\"SOCKET\""),
    ("\"nydusd\"", "\"NYDUSD\""),
    ("\"/etc/nydus/nydusd-config.json\"", "\"TEMPLATE\""),
];
const SCHEME: (&str, &str) = ("\"scheme\": \"https\"", "\"scheme\": \"http\"");

const CONFIG: &str = include_str!("../../../packaging/config.toml");
const NYDUSD: &str = include_str!("../../../packaging/nydusd-config.json");

#[test]
fn quick_start_is_at_most_ten_commands() {
    let commands = commands();
    assert!((1..=10).contains(&commands.len()), "{commands:#?}");
    let instead: Vec<_> = commands.iter().map_while(|command| beginning(command)).collect();
    assert_eq!(instead, INSTEAD.map(|(beginning, _)| beginning), "{commands:#?}");
}

#[test]
fn quick_start_runs_a_container() {
    let Some(stage) = Stage::of_a_node() else { return not_run!("not root of the machine") };
    let place = stage.path().to_owned();
    let Some(node) = Node::start(stage) else { return not_run!("a program is missing") };
    let rest = commands().split_off(INSTEAD.len());
    let ran: Vec<_> = rest.iter().map(|command| node.succeeds(command)).collect();
    let status = ran.last().expect("a command");
    for word in [node.reference.as_str(), "fuse", "demo"] {
        assert!(status.shows(word.as_bytes()), "no {word:?}: {status}");
    }
    node.succeeds("ctr task rm --force demo && ctr container rm demo");
    let Node { stage, containerd, snapshotter, registry, .. } = node;
    drop((containerd, snapshotter, registry));
    assert_eq!(service::naming(&place), []);
    drop(stage);
}

/// A registry with the image, the snapshotter and containerd. They end backwards.
struct Node {
    reference: String,
    registry: Registry,
    snapshotter: Snapshotter,
    containerd: Containerd,
    stage: Stage,
}

impl Node {
    fn start(stage: Stage) -> Option<Self> {
        let layers = rootfs::layers(stage.path(), 1 << 20)?;
        let image = image::nydus(&stage.join("image"), &layers, Rafs::V6)?;
        let registry = Registry::start(&stage.join("registry"), None)?;
        let (repository, tag) = pushed();
        registry.push(&image, &repository, &tag);
        let reference = format!("{}/{repository}:{tag}", registry.address());
        let config = SETTINGS.iter().fold(CONFIG.to_owned(), replaced);
        let nydusd = replaced(NYDUSD.to_owned(), &SCHEME);
        let snapshotter = Snapshotter::start(&stage, Which::Ours, &config, &nydusd)?;
        // Where `status` looks for it.
        fs::create_dir_all("/run/containerd-nydus").expect("a directory");
        let socket = "/run/containerd-nydus/containerd-nydus-grpc.sock";
        symlink(snapshotter.socket(), socket).expect("a link");
        let (plugin, root) = (snapshotter.socket(), snapshotter.root());
        let containerd = Containerd::start(&stage, "containerd-2.1", &plugin, &root)?;
        Some(Self { reference, registry, snapshotter, containerd, stage })
    }

    /// Runs a command of README.md.
    fn succeeds(&self, command: &str) -> Ran {
        let host = self.registry.address().to_string();
        let mut shell = self.stage.command("sh");
        shell.args(["-c", &command.replace(REGISTRY, &host)]).env("PATH", self.path());
        shell.env("CONTAINERD_ADDRESS", self.containerd.socket());
        shell.env("CONTAINERD_NAMESPACE", self.containerd.cgroup());
        let ran = run(&mut shell);
        assert!(ran.ok(), "{ran}\n{}\n{}", self.containerd.said(), self.snapshotter.said());
        ran
    }

    fn path(&self) -> String {
        let ours = programs::ours("containerd-nydus-grpc");
        let ours = ours.parent().expect("a directory").canonicalize().expect("a directory");
        format!("{}:{}:/usr/bin:/bin", ours.display(), self.containerd.programs().display())
    }
}

/// The commands of the first block under "Quick start", each on one line, without comments.
fn commands() -> Vec<String> {
    let (_, section) = README.split_once("\n## Quick start\n").expect("a section");
    let (_, block) = section.split_once("```\n").expect("a block");
    let (block, _) = block.split_once("```").expect("its end");
    let block = block.replace("\\\n", " ");
    let lines = block.lines().map(|line| line.split_once(" #").map_or(line, |(line, _)| line));
    let commands = lines.filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    commands.map(|line| line.trim().to_owned()).collect()
}

/// The row of [`INSTEAD`] that a command belongs to.
fn beginning(command: &str) -> Option<&'static str> {
    INSTEAD.iter().map(|row| row.0).find(|beginning| command.starts_with(beginning))
}

/// Repository and tag to which README.md lets `nydusify` push.
fn pushed() -> (String, String) {
    let all = commands();
    let convert = all.iter().find(|command| command.starts_with("nydusify")).expect("nydusify");
    let target = convert.split_whitespace().skip_while(|word| *word != "--target").nth(1);
    let path = target.and_then(|target| target.strip_prefix(REGISTRY)?.strip_prefix('/'));
    let (repository, tag) = path.and_then(|path| path.split_once(':')).expect("REPOSITORY:TAG");
    (repository.to_owned(), tag.to_owned())
}

/// `text` with one thing replaced, which must be in it.
fn replaced(text: String, (what, with): &(&str, &str)) -> String {
    assert!(text.contains(what), "{what} is not in the packaged configuration");
    text.replace(what, with)
}
