//! What can go wrong with an image, as a table.

use nydus_e2e::bare::{LOGIN, Node, TEMPLATE, check_container, names_in};
use nydus_e2e::client::Labels;
use nydus_e2e::proxy::{Fault, Proxy};
use nydus_e2e::service;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// What goes wrong, what the client is told (one of several, between `|`), and how it is put right.
pub(crate) struct Wrong {
    pub(crate) what: &'static str,
    pub(crate) expected: &'static str,
    pub(crate) wrong: fn(&mut Node),
    pub(crate) right: fn(&mut Node),
}

fn bootstrap(node: &Node) -> PathBuf {
    bootstraps(node).remove(0)
}

/// Damages the bootstrap; [`again`] makes it whole.
fn damage(node: &Node, how: fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(bootstrap(node)).expect("a bootstrap");
    how(&mut bytes);
    fs::write(bootstrap(node), bytes).expect("a bootstrap");
}

/// Unpacks the image anew.
pub(crate) fn again(node: &mut Node) {
    node.clear();
    node.unpack();
}

fn unpack_without_labels(node: &mut Node) {
    node.clear();
    node.expect(node.client.unpack(&node.image, &Labels::new()));
}

pub(crate) fn replace_daemon(node: &Node, script: &str) {
    let program = node.stage.join("nydusd");
    fs::rename(&program, node.stage.join("nydusd.real")).expect("a program");
    if !script.is_empty() {
        fs::write(&program, script).expect("a script");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a script");
    }
}

pub(crate) fn real_daemon(node: &mut Node) {
    fs::rename(node.stage.join("nydusd.real"), node.stage.join("nydusd")).expect("a program");
}

pub(crate) fn template(node: &Node) -> PathBuf {
    node.stage.join("s/nydusd.json")
}

/// The same as at the start: [`Snapshotter`] writes it.
fn right_template(node: &mut Node) {
    let cache = node.snapshotter.root().join("cache");
    let text = TEMPLATE.replace("CACHE", &cache.to_string_lossy());
    fs::write(template(node), text).expect("a template");
}

pub(crate) const WRONG: &[Wrong] = &[
    Wrong {
        what: "wrong credentials",
        expected: "refuses the credentials for repository test/image",
        wrong: |node| node.snapshotter.login(&node.host, (LOGIN.0, "wrong")),
        right: |node| node.snapshotter.login(&node.host, LOGIN),
    },
    Wrong {
        what: "no credentials",
        expected: "refuses the credentials for repository test/image",
        wrong: |node| fs::remove_file(node.stage.join("s/.docker/config.json")).expect("a file"),
        right: |node| node.snapshotter.login(&node.host, LOGIN),
    },
    Wrong {
        what: "the registry is down",
        expected: "cannot be asked: ",
        wrong: |node| drop(node.proxy.take()),
        right: |node| {
            let address = node.host.parse().expect("an address");
            node.proxy = Some(Proxy::start_at(address, node.registry.address()));
        },
    },
    Wrong {
        what: "a blob is missing",
        expected: "does not have blob sha256:",
        wrong: |node| node.fail(Fault::Missing(node.image.layers[0].digest.clone())),
        right: |node| node.fail(Fault::None),
    },
    Wrong {
        what: "another blob is missing",
        expected: "does not have blob sha256:",
        wrong: |node| node.fail(Fault::Missing(node.image.layers[1].digest.clone())),
        right: |node| node.fail(Fault::None),
    },
    Wrong {
        what: "the registry stalls",
        expected: "cannot be asked: no answer in 4s",
        wrong: |node| node.fail(Fault::Stall),
        right: |node| node.fail(Fault::None),
    },
    Wrong {
        what: "the registry stalls, and no scheme is given",
        expected: "cannot be asked: no answer in 4s",
        wrong: |node| {
            let text = fs::read_to_string(template(node)).expect("a template");
            fs::write(template(node), text.replace(r#""scheme":"http","#, "")).expect("a template");
            node.fail(Fault::Stall);
        },
        right: |node| {
            node.fail(Fault::None);
            check_container(node, &node.unpack(), "no scheme");
            node.expect(node.client.remove("no scheme"));
            right_template(node);
        },
    },
    Wrong {
        what: "a credential helper that hangs",
        expected: "docker-credential-hangs\" gave no answer within 5s",
        wrong: |node| {
            let program = node.stage.join("s/docker-credential-hangs");
            fs::write(&program, "#!/bin/sh\nsleep 1000\n").expect("a script");
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a script");
            let text = r#"{"credsStore":"hangs"}"#;
            fs::write(node.stage.join("s/.docker/config.json"), text).expect("config.json");
        },
        right: |node| {
            let left = service::naming(&node.stage.join("s/docker-credential-hangs"));
            assert_eq!(left, [], "it is ended");
            node.snapshotter.login(&node.host, LOGIN);
        },
    },
    Wrong {
        what: "the bootstrap is empty",
        expected: "is no RAFS bootstrap",
        wrong: |node| damage(node, Vec::clear),
        right: again,
    },
    Wrong {
        what: "the bootstrap is zeroed",
        expected: "is no RAFS bootstrap",
        wrong: |node| damage(node, |bytes| bytes.fill(0)),
        right: again,
    },
    Wrong {
        what: "the bootstrap is cut",
        expected: "is cut|FillSuperblock",
        wrong: |node| damage(node, |bytes| bytes.truncate(bytes.len() / 2 + 10)),
        right: again,
    },
    Wrong {
        what: "the bootstrap is cut after its superblock",
        expected: "FillSuperblock",
        wrong: |node| damage(node, |bytes| bytes.truncate(8192)),
        right: again,
    },
    Wrong {
        what: "the bootstrap is zeroed behind its superblock",
        expected: "FillSuperblock",
        wrong: |node| damage(node, |bytes| bytes[2048..].fill(0)),
        right: again,
    },
    Wrong {
        what: "no reference",
        expected: "disable_snapshot_annotations",
        wrong: unpack_without_labels,
        right: again,
    },
    Wrong {
        what: "no nydusd",
        expected: "nydusd",
        wrong: |node| replace_daemon(node, ""),
        right: real_daemon,
    },
    Wrong {
        what: "nydusd that fails",
        expected: "its last words",
        wrong: |node| replace_daemon(node, "#!/bin/sh\necho its last words >&2\nexit 3\n"),
        right: real_daemon,
    },
    Wrong {
        what: "no template",
        expected: "nydusd.json: No such file",
        wrong: |node| fs::remove_file(template(node)).expect("a template"),
        right: right_template,
    },
    Wrong {
        what: "a template that is no JSON",
        expected: "no JSON",
        wrong: |node| fs::write(template(node), "{").expect("a template"),
        right: right_template,
    },
];

pub(crate) fn bootstraps(node: &Node) -> Vec<PathBuf> {
    let snapshots = node.snapshotter.root().join("snapshots");
    let all = names_in(&snapshots).into_iter().map(|id| snapshots.join(id).join("fs/image"));
    all.map(|image| image.join("image.boot")).filter(|boot| boot.exists()).collect()
}
