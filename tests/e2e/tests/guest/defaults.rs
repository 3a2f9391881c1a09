//! A guest's kernel with other defaults of overlayfs than the host's: Kata's own are built with
//! all of them on.

use crate::world::prepared;
use nydus_e2e::client::upper;
use nydus_e2e::image::Rafs;
use nydus_e2e::machines::{self, Machine};
use nydus_e2e::run::run;
use nydus_e2e::{bare, not_run, service};
use std::fs;
use std::process::Command;
use tokio::runtime::Runtime;
use vm_shim::shim::settings::Settings;

const ON: [&str; 3] = ["metacopy", "index", "redirect_dir"];

/// Files of which the guest changes no byte, and a directory that it renames.
const WORK: &str = "set -e
for name in metacopy index redirect_dir; do cat /sys/module/overlay/parameters/$name; done
chmod 4711 /data/lower; chown 1:2 /data/both; mv /etc /moved; cat /moved/group | wc -l";

/// The same as the host sees it.
const LOOK: &str = "cat /data/lower /data/both; stat -c '%a %u:%g' /data/lower /data/both
cat /moved/group | wc -l; ls -d /etc 2>/dev/null || echo gone";

#[test]
fn what_a_guest_leaves_is_read_by_hosts() {
    let Some(node) = bare::Node::start("dedicated", Rafs::V6) else { return };
    let state = node.stage.join("vm");
    let Some(settings) = machines::settings("guest-6.1", &state) else {
        return not_run!("no QEMU or no guest kernel");
    };
    let kernel_params = ON.map(|name| format!("overlay.{name}=Y")).join(" ");
    let settings = Settings { kernel_params, ..settings };
    let runtime = Runtime::new().expect("a runtime");
    let (entry, slice) = prepared(&node, "work");
    let machine = Machine::start(&runtime, &settings, &[slice], WORK).expect("a guest");
    let said = machine.output();
    let lines = said.strip_prefix("Y\nY\nY\n").expect("the kernel's defaults are on");
    runtime.block_on(machine.sandbox.remove()).expect("nothing is left");

    // The guest's own way to rename a directory was taken, no other of its defaults.
    let attributes = |name: &str| {
        nydus_e2e::tree::tree(&upper(&entry)).into_iter().filter(|line| line.contains(name)).count()
    };
    assert_eq!(attributes("trusted.overlay.redirect"), 1);
    assert_eq!(attributes("trusted.overlay.metacopy"), 0);
    let root = node.mount(&entry, "host");
    let host = run(Command::new("chroot").arg(&root).args(["/bin/sh", "-c", LOOK]));
    let expected = format!("lower\ntwo\n4711 0:0\n644 1:2\n{lines}gone\n");
    assert_eq!(String::from_utf8_lossy(&host.stdout), expected, "{host}");
    bare::unmount(&root);
    assert!(fs::exists(upper(&entry)).expect("a look"));
    assert_eq!(service::naming(&state), []);
    node.clear();
}
