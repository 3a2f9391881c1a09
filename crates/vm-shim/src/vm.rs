//! A virtual machine under QEMU, and the agent in it.
//!
//! Its memory is shared with `nydusd`, which serves the share over vhost-user. The agent speaks
//! through a virtio port, whose other end is QEMU's standard input: when the shim is gone, the
//! agent sees that and ends the guest.

use crate::ending::Ending;
use crate::initramfs;
use crate::protocol::{Frame, PORT};
use kata_handoff::TAG;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the guest may take to come up.
const BOOT: Duration = Duration::from_secs(60);
/// How long the agent may take to take a frame.
const SEND: Duration = Duration::from_secs(30);
/// How long it counts that hardware acceleration did not work: that may have been the load.
const SLOW: Duration = Duration::from_secs(60 * 60);
/// Longest reason of a guest that is passed on, bytes.
const REASON: usize = 1024;
/// How long a guest may take to show that hardware acceleration works. One that works takes a
/// tenth of this; on some machines it hangs.
const PROBE: Duration = Duration::from_secs(5);

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// KVM if a guest comes up under it, else TCG.
    #[default]
    Auto,
    /// QEMU itself.
    Tcg,
    /// The processor.
    Kvm,
}

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// QEMU for this kind of processor.
    pub qemu: PathBuf,
    /// What executes the guest.
    pub accelerator: Accelerator,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// Its modules: `/lib/modules/RELEASE`.
    pub modules: PathBuf,
    /// More for the kernel's command line, such as `overlay.metacopy=Y`.
    pub kernel_params: String,
    /// The agent, a static program.
    pub agent: PathBuf,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// For its own files, which somebody else removes.
    pub directory: PathBuf,
    /// Where `nydusd` waits for it.
    pub vhost_socket: PathBuf,
}

impl Config {
    fn initramfs(&self) -> PathBuf {
        self.directory.join("initramfs")
    }

    fn command(&self, accelerator: &str, cpu: &str, words: &str) -> Command {
        let memory = format!("memory-backend-memfd,id=m,size={}M,share=on", self.memory_mib);
        let mut command = Command::new(&self.qemu);
        command.args(["-accel", accelerator, "-machine", "q35", "-cpu", cpu]);
        command.args(["-m", &self.memory_mib.to_string(), "-object", &memory]);
        command.args(["-numa", "node,memdev=m", "-nodefaults", "-display", "none", "-no-reboot"]);
        command.args(["-serial", "file:/dev/stdout"]);
        command.arg("-pidfile").arg(pid_file(&self.directory));
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(self.initramfs());
        let Self { kernel_params, .. } = self;
        // On a busy host the timer seems not to work, which ends a guest under TCG (KVM skips it, too).
        let line = format!(
            "console=ttyS0 loglevel=5 panic=-1 mitigations=off no_timer_check {kernel_params} {words}"
        );
        command.arg("-append").arg(line.trim_end());
        command
    }

    /// The process, and the ends of what the guest and QEMU print.
    fn spawn(&self, mut command: Command) -> io::Result<(Child, [Ending; 2])> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| said(&format!("cannot run {}: {error}", self.qemu.display())))?;
        let console = child.stdout.take().map(Ending::of).unwrap_or_default();
        let log = child.stderr.take().map(Ending::of).unwrap_or_default();
        Ok((child, [console, log]))
    }

    /// Whether a guest comes up under KVM. Asked once for all machines of a namespace.
    fn has_kvm(&self) -> io::Result<bool> {
        if !Path::new("/dev/kvm").exists() {
            return Ok(false);
        }
        let known = self.directory.with_file_name(".kvm");
        match fs::read(&known).as_deref() {
            Ok(b"yes") => return Ok(true),
            Ok(b"no") if is_recent(&known) => return Ok(false),
            _ => {}
        }
        let mut command = self.command("kvm", "host", "nydusvm.probe");
        command.stdin(Stdio::null());
        let (mut child, [console, _]) = self.spawn(command)?;
        let ended = wait_for(PROBE, || child.try_wait())?;
        let works = ended && console.text().contains(PROBED);
        let _ = child.kill();
        child.wait()?;
        fs::write(&known, if works { "yes" } else { "no" })?;
        Ok(works)
    }
}

/// What the agent prints when it was only to come up.
pub const PROBED: &str = "nydusvm: the guest is up";

/// Where QEMU writes its process id.
pub fn pid_file(directory: &Path) -> PathBuf {
    directory.join("qemu.pid")
}

/// A running machine. It is killed when dropped.
#[derive(Debug)]
pub struct Vm {
    child: Mutex<Child>,
    pid: u32,
    console: Ending,
    reader: Mutex<UnixStream>,
    writer: Mutex<UnixStream>,
}

impl Vm {
    /// Boots it, and waits until its agent is ready.
    ///
    /// # Errors
    /// It does not come up; with the end of what it printed.
    pub fn start(config: &Config) -> io::Result<Self> {
        let (agent, modules) = (&config.agent, &config.modules);
        let archive = initramfs::build(agent, modules, &initramfs::MODULES, &[])?;
        fs::write(config.initramfs(), archive)?;
        let started = Self::boot(config);
        let _ = fs::remove_file(config.initramfs());
        started
    }

    fn boot(config: &Config) -> io::Result<Self> {
        let kvm = match config.accelerator {
            Accelerator::Auto => config.has_kvm()?,
            accelerator => accelerator == Accelerator::Kvm,
        };
        let (accelerator, cpu) = if kvm { ("kvm", "host") } else { ("tcg", "max") };
        let mut command = config.command(accelerator, cpu, "");
        let socket = with("socket,id=fs,path=", &config.vhost_socket);
        command.arg("-chardev").arg(socket).arg("-device");
        command.arg(format!("vhost-user-fs-pci,chardev=fs,tag={TAG},queue-size=1024"));
        command.args(["-chardev", "socket,id=agent,fd=0", "-device", "virtio-serial-pci"]);
        command.args(["-device", &format!("virtserialport,chardev=agent,name={PORT}")]);
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_write_timeout(Some(SEND))?;
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        let (child, [console, log]) = config.spawn(command)?;
        let vm = Self {
            pid: child.id(),
            console: console.clone(),
            child: Mutex::new(child),
            reader: Mutex::new(ours.try_clone()?),
            writer: Mutex::new(ours),
        };
        vm.ready().map_err(|error| {
            vm.kill();
            let ends = [log, console].map(|ending| tail(&ending.text()));
            said(&format!("the guest does not come up: {error}{}", ends.concat()))
        })?;
        Ok(vm)
    }

    fn ready(&self) -> io::Result<()> {
        self.limit(Some(BOOT))?;
        match self.receive() {
            Ok(Frame::Ready) => self.limit(None),
            Ok(Frame::Failed(why)) => Err(said(&reason(&why))),
            Ok(frame) => Err(said(&format!("its agent says {}", reason(&format!("{frame:?}"))))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(said(&format!("nothing heard in {} s", BOOT.as_secs())))
            }
            Err(error) => Err(error),
        }
    }

    /// QEMU's process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The end of what the guest's kernel and agent printed, to be added to a reason.
    pub fn console_tail(&self) -> String {
        tail(&self.console.text())
    }

    /// How long [`Vm::receive`] may wait, if not for ever.
    ///
    /// # Errors
    /// A limit of zero.
    pub fn limit(&self, limit: Option<Duration>) -> io::Result<()> {
        lock(&self.reader).set_read_timeout(limit)
    }

    /// What the agent says next.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn receive(&self) -> io::Result<Frame> {
        Frame::read(&mut *lock(&self.reader)).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                said("the guest is gone")
            }
            _ => error,
        })
    }

    /// Says something to the agent.
    ///
    /// # Errors
    /// The machine is gone, or the agent does not listen for long.
    pub fn send(&self, frame: &Frame) -> io::Result<()> {
        frame.write(&mut *lock(&self.writer))
    }

    /// Waits until it has ended by itself; who kills it meanwhile does not wait.
    ///
    /// # Errors
    /// It does not.
    pub fn wait(&self, limit: Duration) -> io::Result<()> {
        match wait_for(limit, || lock(&self.child).try_wait())? {
            true => Ok(()),
            false => Err(said(&format!("the guest does not end within {} s", limit.as_secs()))),
        }
    }

    /// Ends it at once, if it has not ended.
    pub fn kill(&self) {
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether a process ends in time.
fn wait_for(
    limit: Duration,
    mut ended: impl FnMut() -> io::Result<Option<ExitStatus>>,
) -> io::Result<bool> {
    let start = Instant::now();
    while ended()?.is_none() {
        if start.elapsed() > limit {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(true)
}

/// Whether a file was written lately.
fn is_recent(file: &Path) -> bool {
    let written = file.metadata().and_then(|file| file.modified()).ok();
    written.and_then(|time| time.elapsed().ok()).is_some_and(|age| age < SLOW)
}

/// A reason that a guest tells, as part of one line.
pub(crate) fn reason(why: &str) -> String {
    let end = (0..=REASON.min(why.len())).rfind(|at| why.is_char_boundary(*at)).unwrap_or(0);
    why[..end].replace(|sign: char| sign.is_control(), " ")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with(word: &str, path: &Path) -> OsString {
    let mut text = OsString::from(word);
    text.push(path);
    text
}

fn said(why: &str) -> io::Error {
    io::Error::other(why.to_owned())
}

/// The end of a log, as part of one line.
fn tail(text: &str) -> String {
    // What the agent says has been heard, and that it powers off is no news.
    let news = |line: &&str| {
        !line.is_empty() && !line.starts_with("nydusvm-agent:") && !line.contains("reboot: ")
    };
    let lines: Vec<_> = text.lines().map(str::trim).filter(news).collect();
    let end = &lines[lines.len().saturating_sub(3)..];
    end.iter().map(|line| format!("; {}", reason(line))).collect()
}
