//! Virtual machines for containers: QEMU, a guest's kernel and the reference runtime.

use crate::programs::{ours, tool};
use std::fs;
use std::path::{Path, PathBuf};
use vm_shim::shim::settings::Settings;
use vm_shim::vm::Accelerator;

/// The runtime's name for containerd.
pub const RUNTIME: &str = "io.containerd.nydusvm.v2";

/// What machines with this kernel (`guest-6.1`) need, their state in `state`; `None` if a part is
/// missing.
pub fn settings(kernel: &str, state: &Path) -> Option<Settings> {
    let modules = tool(kernel)?;
    let boot = fs::read_dir(modules.join("boot")).ok()?.flatten().map(|entry| entry.path());
    let is_kernel = |path: &PathBuf| path.to_string_lossy().contains("/vmlinuz-");
    Some(Settings {
        nydusd: tool("nydusd/bin/nydusd")?,
        // One that may open a million files is rare among test machines.
        nydusd_args: ["--rlimit-nofile", "0"].map(str::to_owned).into(),
        qemu: Some(PathBuf::from("/usr/bin/qemu-system-x86_64")).filter(|path| path.exists())?,
        accelerator: Accelerator::Tcg,
        kernel: { boot }.find(is_kernel)?,
        modules,
        agent: ours("nydusvm-agent"),
        memory_mib: 256,
        state: state.to_owned(),
    })
}

/// The same as the runtime reads it.
pub fn text(settings: &Settings) -> String {
    let Settings { nydusd, qemu, kernel, modules, agent, memory_mib, state, .. } = settings;
    let accelerator = format!("{:?}", settings.accelerator).to_lowercase();
    let paths = [
        ("nydusd", nydusd),
        ("qemu", qemu),
        ("kernel", kernel),
        ("modules", modules),
        ("agent", agent),
        ("state", state),
    ];
    let lines = paths.map(|(name, path)| format!("{name} = {path:?}\n")).concat();
    let args = &settings.nydusd_args;
    format!(
        "{lines}nydusd_args = {args:?}\naccelerator = {accelerator:?}\nmemory_mib = {memory_mib}\n"
    )
}
