//! Virtual machines for containers: QEMU, a guest's kernel and the reference runtime.

use crate::programs::{ours, tool};
use kata_handoff::{Reader, Rootfs, Storage};
use nydus_mount_slice::Mount;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::Runtime;
use vm_shim::protocol::{Frame, Process, Start};
use vm_shim::shim::sandbox::{Failure, Sandbox};
use vm_shim::shim::settings::Settings;
use vm_shim::vm::{Accelerator, Vm};

/// The runtime's name for containerd.
pub const RUNTIME: &str = "io.containerd.nydusvm.v2";

/// QEMU.
pub const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// A kernel for guests.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Itself.
    pub image: PathBuf,
    /// `/lib/modules/RELEASE`.
    pub modules: PathBuf,
}

/// The kernel of this package (`guest-6.1`); `None` if that was not to be had.
pub fn kernel(package: &str) -> Option<Kernel> {
    let package = tool(package)?;
    let of = |part: &str, name: &str| {
        let mut entries = fs::read_dir(package.join(part)).ok()?.flatten();
        entries.find(|entry| entry.file_name().to_string_lossy().starts_with(name))
    };
    let modules = of("lib/modules", "").or_else(|| of("usr/lib/modules", ""))?.path();
    // Newer packages have it beside its modules.
    let image = of("boot", "vmlinuz-").map_or_else(|| modules.join("vmlinuz"), |one| one.path());
    Some(Kernel { image, modules })
}

/// What machines with this kernel (`guest-6.1`) need, their state in `state`; `None` if a part is
/// missing.
pub fn settings(kernel: &str, state: &Path) -> Option<Settings> {
    let Kernel { image, modules } = self::kernel(kernel)?;
    // See `tools::patched_nydusd` in xtask.
    let nydusd = if kernel == "guest-7" { "nydusd-patched" } else { "nydusd" };
    Some(Settings {
        nydusd: tool(&format!("{nydusd}/bin/nydusd"))?,
        // One that may open a million files is rare among test machines.
        nydusd_args: ["--rlimit-nofile", "0"].map(str::to_owned).into(),
        qemu: Some(PathBuf::from(QEMU)).filter(|path| path.exists())?,
        accelerator: Accelerator::Tcg,
        kernel: image,
        modules,
        kernel_params: String::new(),
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

/// How long a guest may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// Containers of snapshots, in a machine, without containerd.
#[allow(missing_docs, reason = "named by their types")]
pub struct Machine {
    pub sandbox: Sandbox,
    pub vm: Vm,
}

impl Machine {
    /// Boots it with a container for each slice, `c1` and so on, and starts this in a shell in the
    /// last of them.
    ///
    /// # Errors
    /// It does not come up, or cannot run there.
    pub fn start(
        runtime: &Runtime,
        settings: &Settings,
        slices: &[Mount],
        shell: &str,
    ) -> Result<Self, Failure> {
        let (sandbox, storages) = runtime.block_on(made(settings, slices))?;
        let directory = settings.directory("test", "c1");
        let vm = Vm::start(&settings.machine(&directory, sandbox.vhost_socket()))?;
        vm.limit(Some(SILENCE))?;
        vm.send(&Frame::Start(start(storages, shell).into()))?;
        match vm.receive()? {
            Frame::Started => Ok(Self { sandbox, vm }),
            frame => {
                let _ = vm.wait(Duration::from_secs(30));
                vm.kill();
                let why = format!("{frame:?}{}", vm.console_tail());
                runtime.block_on(sandbox.remove())?;
                Err(why.into())
            }
        }
    }

    /// What it prints until it ends; then the guest is down.
    ///
    /// # Panics
    /// It fails.
    pub fn output(&self) -> String {
        let mut output = Vec::new();
        loop {
            match self.vm.receive().expect("a frame") {
                Frame::Stdout(bytes) => {
                    self.vm.send(&Frame::StdoutWritten).expect("a guest");
                    output.extend(bytes);
                }
                Frame::Stderr(bytes) => {
                    self.vm.send(&Frame::StderrWritten).expect("a guest");
                    output.extend(bytes);
                }
                Frame::Taken => {}
                Frame::Exited(0) => break,
                frame => panic!("{frame:?}\n{}", String::from_utf8_lossy(&output)),
            }
        }
        self.vm.wait(Duration::from_secs(30)).expect("power off");
        String::from_utf8_lossy(&output).into_owned()
    }
}

/// The host's half of containers `c1` and so on.
///
/// # Errors
/// A slice is refused, or cannot be served.
pub async fn made(
    settings: &Settings,
    slices: &[Mount],
) -> Result<(Sandbox, Vec<Storage>), Failure> {
    let rootfs = |slice| Rootfs::recognise(std::slice::from_ref(slice), Reader::Go);
    let [first, more @ ..] = slices else { return Err("no slice".into()) };
    let directory = settings.directory("test", "c1");
    let (sandbox, storage) = Sandbox::create(settings, directory, "c1", &rootfs(first)?).await?;
    let mut storages = vec![Storage::share(Reader::Go), storage];
    for (number, slice) in (2..).zip(more) {
        storages.push(sandbox.guest.add(&format!("c{number}"), &rootfs(slice)?).await?);
    }
    Ok((sandbox, storages))
}

/// A shell as what runs in the last of these.
pub fn start(storages: Vec<Storage>, shell: &str) -> Start {
    let process = Process {
        args: ["sh", "-c", shell].map(str::to_owned).into(),
        env: vec!["PATH=/bin".to_owned()],
        cwd: "/".to_owned(),
        uid: 0,
        gid: 0,
        additional_gids: vec![],
    };
    let mounts = storages.into_iter().map(Into::into).collect();
    Start { mounts, read_only: false, process, hostname: "guest".to_owned() }
}
