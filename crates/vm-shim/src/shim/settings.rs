//! What the shim is told: `/etc/nydusvm.toml`, or the file that `NYDUSVM_CONFIG` names in
//! containerd's environment.

use crate::vm;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where the settings are if nothing else is said.
const FILE: &str = "/etc/nydusvm.toml";

/// Programs and files that a container's virtual machine needs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `nydusd`.
    pub nydusd: PathBuf,
    /// More arguments for it.
    #[serde(default)]
    pub nydusd_args: Vec<String>,
    /// QEMU for this machine.
    #[serde(default = "qemu")]
    pub qemu: PathBuf,
    /// What executes the guest.
    #[serde(default)]
    pub accelerator: vm::Accelerator,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// Its modules: `/lib/modules/RELEASE`.
    pub modules: PathBuf,
    /// More for the kernel's command line, such as `overlay.metacopy=Y`.
    #[serde(default)]
    pub kernel_params: String,
    /// The guest's agent, a static program.
    pub agent: PathBuf,
    /// The guest's memory, MiB.
    #[serde(default = "memory")]
    pub memory_mib: u32,
    /// Where the shims keep sockets and shares.
    #[serde(default = "state")]
    pub state: PathBuf,
}

fn qemu() -> PathBuf {
    "/usr/bin/qemu-system-x86_64".into()
}

fn memory() -> u32 {
    256
}

fn state() -> PathBuf {
    "/run/nydusvm".into()
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// One line: no file, or not such a file.
    pub fn read() -> Result<Self, String> {
        let path = std::env::var_os("NYDUSVM_CONFIG").map_or_else(|| FILE.into(), PathBuf::from);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        toml::from_str(&text).map_err(|error| format!("{}: {}", path.display(), error.message()))
    }

    /// Directory of one container's machine. Short: sockets are in it.
    pub fn directory(&self, namespace: &str, id: &str) -> PathBuf {
        self.state.join(namespace).join(id)
    }

    /// The virtual machine of a container.
    pub fn machine(&self, directory: &Path, vhost_socket: PathBuf) -> vm::Config {
        vm::Config {
            qemu: self.qemu.clone(),
            accelerator: self.accelerator,
            kernel: self.kernel.clone(),
            modules: self.modules.clone(),
            kernel_params: self.kernel_params.clone(),
            agent: self.agent.clone(),
            memory_mib: self.memory_mib,
            directory: directory.to_owned(),
            vhost_socket,
        }
    }
}
