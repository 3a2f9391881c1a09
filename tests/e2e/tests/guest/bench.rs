//! One container without containerd, whose machine may be a script.

use crate::world::prepared;
use nydus_e2e::image::Rafs;
use nydus_e2e::node::LIMIT;
use nydus_e2e::{bare, machines, not_run, service};
use nydus_mount_slice::Mount;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Runtime;
use vm_shim::shim::container::{Container, Request};
use vm_shim::shim::settings::Settings;
use vm_shim::shim::stdio::Stdio;
use vm_shim::vm::Vm;

/// What a test of one container without containerd needs.
pub(crate) struct Bench {
    pub(crate) node: bare::Node,
    pub(crate) settings: Settings,
    pub(crate) runtime: Runtime,
    pub(crate) slice: Mount,
}

impl Bench {
    pub(crate) fn new() -> Option<Self> {
        let node = bare::Node::start("dedicated", Rafs::V6)?;
        let settings = machines::settings("guest-6.1", &node.stage.join("vm"));
        if settings.is_none() {
            not_run!("no QEMU or no guest kernel");
        }
        let (_, slice) = prepared(&node, "c1");
        let runtime = Runtime::new().expect("a runtime");
        Some(Self { node, settings: settings?, runtime, slice })
    }

    /// A container whose machine is up, under this QEMU or what stands in for it.
    pub(crate) fn container(&self, qemu: &Path, stdout: &str, shell: &str) -> Arc<Container> {
        let settings = Settings { qemu: qemu.to_owned(), ..self.settings.clone() };
        let directory = settings.directory("test", "c1");
        self.runtime.block_on(async {
            let slices = std::slice::from_ref(&self.slice);
            let (sandbox, storages) = machines::made(&settings, slices).await.expect("a sandbox");
            let vm = Vm::start(&settings.machine(&directory, sandbox.vhost_socket()));
            let id = "c1".to_owned();
            let (stdin, stderr) = (String::new(), String::new());
            let request =
                Request { id, bundle: directory, stdin, stdout: stdout.to_owned(), stderr };
            let stdio = Stdio::open("", stdout, "").expect("a fifo");
            let start = machines::start(storages, shell);
            Container::new(request, (sandbox, vm.expect("a machine")), start, stdio)
        })
    }

    /// A script of sh in place of QEMU: its descriptor 3 is the agent's port.
    pub(crate) fn agent(&self, script: &str) -> PathBuf {
        let path = self.node.stage.join("agent");
        let ready = r"printf '\005\0\0\0\0' >&3";
        fs::write(&path, format!("#!/bin/sh\nexec 3<&0\n{ready}\n{script}\n")).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a script");
        path
    }

    pub(crate) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        let work = async { tokio::time::timeout(LIMIT, work).await };
        self.runtime.block_on(work).expect("in time")
    }

    pub(crate) fn end(self, container: &Container) {
        self.wait(container.remove()).expect("nothing is left");
        assert!(!self.settings.directory("test", "c1").exists());
        assert_eq!(service::naming(&self.settings.state), []);
        self.node.clear();
    }
}
