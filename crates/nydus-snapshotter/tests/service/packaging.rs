//! Files that operators install, read by those that will read them.

use serde_yaml_ng::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_containerd-nydus-grpc");

fn packaged(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging").join(name)
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

/// Its configurations are ours and `nydusd`'s, and what it mounts is what they name.
#[test]
fn the_daemon_set_is_whole() {
    let text = std::fs::read_to_string(packaged("kubernetes/daemonset.yaml")).unwrap();
    let documents = serde_yaml_ng::Deserializer::from_str(&text);
    let documents: Vec<Value> =
        documents.map(|one| serde::Deserialize::deserialize(one).unwrap()).collect();
    let of = |kind: &str| documents.iter().find(|one| one["kind"] == kind).unwrap();
    let data = &of("ConfigMap")["data"];
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    std::fs::write(&config, data["config.toml"].as_str().unwrap()).unwrap();
    let mut check = Command::new(PROGRAM);
    let checked = check.arg("--config").arg(config).args(["config", "check"]).output().unwrap();
    assert!(checked.status.success(), "{}", said(&checked));
    // This machine need not have what the pod's image has.
    let lacks = |line: &str| line.contains("daemon.nydusd_path") || line.contains("nydusd_config");
    let warnings = String::from_utf8_lossy(&checked.stderr);
    assert!(warnings.lines().all(lacks), "{}", said(&checked));
    let template = data["nydusd-config.json"].as_str().unwrap();
    let template: serde_json::Value = serde_json::from_str(template).unwrap();
    let backend = &template["device"]["backend"]["type"];
    assert_eq!(
        (backend.as_str(), template["fs_prefetch"]["enable"].as_bool()),
        (Some("registry"), Some(false))
    );
    let pod = &of("DaemonSet")["spec"]["template"]["spec"];
    assert_eq!(pod["hostPID"], true, "nydusd outlives the pod");
    let container = &pod["containers"][0];
    let mounts = container["volumeMounts"].as_sequence().unwrap();
    let mount = |path: &str| mounts.iter().find(|mount| mount["mountPath"] == path);
    let root = nydus_snapshotter::config::file::File::default().root;
    let root = mount(root.to_str().unwrap()).unwrap();
    assert_eq!(root["mountPropagation"], "Bidirectional");
    let volumes = pod["volumes"].as_sequence().unwrap();
    for mount in mounts {
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
        let volume = volume.unwrap_or_else(|| panic!("no volume {:?}", mount["name"]));
        // What a mount names must have the same name for containerd, outside.
        let host = &volume["hostPath"]["path"];
        assert!(host.is_null() || *host == mount["mountPath"], "{host:?}");
    }
}

#[test]
fn the_unit_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let unit = std::fs::read_to_string(packaged("nydus-snapshotter.service")).unwrap();
    let installed = "/usr/local/bin/containerd-nydus-grpc";
    assert!(unit.contains(installed));
    let file = directory.path().join("nydus-snapshotter.service");
    std::fs::write(&file, unit.replace(installed, PROGRAM)).unwrap();
    let verify = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output();
    match verify {
        Ok(verified) => {
            let of_it = |line: &&str| line.contains("nydus-snapshotter.service");
            let told: Vec<_> = said(&verified).lines().filter(of_it).map(str::to_owned).collect();
            assert!(verified.status.success() && told.is_empty(), "{}", said(&verified));
        }
        Err(error) => println!("NOT RUN: systemd-analyze: {error}"),
    }
}
