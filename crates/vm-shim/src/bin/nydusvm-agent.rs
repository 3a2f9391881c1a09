//! The first process of a guest: mounts what the shim says, runs one container in it, hands on
//! input, output and signals, and powers off.

use rustix::fs::{Mode, OFlags, open, sync};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{
    Pid, Signal, WaitOptions, chroot, fchdir, kill_process, kill_process_group, wait,
};
use rustix::system::{RebootCommand, finit_module, reboot, sethostname};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};
use vm_shim::protocol::{CHUNK, Frame, LAST, Mount, PORT, Process, Start, WINDOW};

/// How long devices may take to appear.
const DEVICE: Duration = Duration::from_secs(30);

type Result<T, E = String> = std::result::Result<T, E>;

/// The port, written by several threads.
type Port = Arc<Mutex<File>>;

fn main() {
    if std::process::id() != 1 {
        eprintln!("nydusvm-agent: this is the first process of a guest, not a command");
        std::process::exit(2);
    }
    if let Err(why) = guest() {
        println!("nydusvm-agent: {why}");
    }
    sync();
    let _ = reboot(RebootCommand::PowerOff);
}

fn guest() -> Result<()> {
    prepare()?;
    if fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.contains("nydusvm.probe")) {
        println!("nydusvm: the guest is up");
        return Ok(());
    }
    let port = find_port()?;
    let reader = port.try_clone().map_err(|error| format!("port: {error}"))?;
    let port = Arc::new(Mutex::new(port));
    say(&port, &Frame::Ready);
    let start = match Frame::read(&reader) {
        Ok(Frame::Start(start)) => start,
        Ok(frame) => return Err(format!("{frame:?}: expected what to start")),
        // The shim is gone, or has changed its mind.
        Err(_) => return Ok(()),
    };
    let ran = run(&start, &port, reader);
    if let Err(why) = &ran {
        say(&port, &Frame::Failed(why.clone()));
    }
    let mut mounted: Vec<_> = start.mounts.iter().map(|mount| mount.target.as_str()).collect();
    mounted.reverse();
    for target in mounted {
        match unmount(target, UnmountFlags::empty()) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => println!("nydusvm-agent: cannot unmount {target}: {error}"),
        }
    }
    ran
}

/// What any guest needs: devices, modules.
fn prepare() -> Result<()> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        attach(kind, kind, target, MountFlags::empty(), "")?;
    }
    attach("tmpfs", "tmpfs", "/run", MountFlags::empty(), "mode=755")?;
    for (name, target) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        let _ = symlink(target, Path::new("/dev").join(name));
    }
    let order =
        fs::read_to_string("/modules/order").map_err(|error| format!("modules: {error}"))?;
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    for name in order.lines() {
        let module = File::open(Path::new("/modules").join(name));
        let parameters = parameters(&line, name);
        let loaded = module.and_then(|module| Ok(finit_module(module, &parameters, 0)?));
        loaded.map_err(|error| format!("module {name}: {error}"))?;
    }
    Ok(())
}

/// What the kernel's command line says for a module (`overlay.metacopy=Y`), as modprobe(8) reads it.
fn parameters(line: &str, module: &str) -> CString {
    let module = module.split('.').next().unwrap_or(module);
    let words =
        line.split_whitespace().filter_map(|word| word.strip_prefix(module)?.strip_prefix('.'));
    CString::new(words.collect::<Vec<_>>().join(" ")).unwrap_or_default()
}

/// The port to the shim, once its device is there.
fn find_port() -> Result<File> {
    let start = Instant::now();
    loop {
        let ports = fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten();
        let is_ours = |path: &PathBuf| {
            fs::read_to_string(path.join("name")).is_ok_and(|name| name.trim_end() == PORT)
        };
        let found = ports.map(|port| port.path()).find(is_ours);
        if let Some(name) = found.as_deref().and_then(Path::file_name) {
            let device = Path::new("/dev").join(name);
            let opened = File::options().read(true).write(true).open(&device);
            return opened.map_err(|error| format!("{}: {error}", device.display()));
        }
        if start.elapsed() > DEVICE {
            return Err(format!("no port {PORT} in {} s", DEVICE.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs the container to its end.
fn run(start: &Start, port: &Port, reader: File) -> Result<()> {
    start.mounts.iter().try_for_each(mount_one)?;
    let root = start.mounts.last().map(|mount| Path::new(&mount.target));
    let root = root.ok_or("no file system: expected the container's root as the last")?;
    if !start.hostname.is_empty() {
        sethostname(start.hostname.as_bytes()).map_err(|error| format!("host name: {error}"))?;
    }
    let inner = system(root)?;
    if start.read_only {
        let flags = MountFlags::RDONLY;
        let done = rustix::mount::mount_remount(root, flags, "");
        done.map_err(|error| format!("{}: {error}", root.display()))?;
    }
    let ran = process(root, &start.process).map(|child| follow(child, port, reader));
    for target in inner.iter().rev() {
        let _ = unmount(target, UnmountFlags::DETACH);
    }
    ran
}

fn mount_one(mount: &Mount) -> Result<()> {
    directory(Path::new(&mount.target))?;
    let (mut flags, mut data) = (MountFlags::empty(), Vec::new());
    for option in &mount.options {
        match option.as_str() {
            "nodev" => flags |= MountFlags::NODEV,
            "nosuid" => flags |= MountFlags::NOSUID,
            "noexec" => flags |= MountFlags::NOEXEC,
            "ro" => flags |= MountFlags::RDONLY,
            other => data.push(other),
        }
    }
    attach(&mount.source, &mount.fs_type, &mount.target, flags, &data.join(","))
}

/// What any container needs in its root; what was mounted.
fn system(root: &Path) -> Result<Vec<PathBuf>> {
    let mut mounted = Vec::new();
    for (kind, place, data) in [
        ("proc", "proc", ""),
        ("sysfs", "sys", ""),
        ("devtmpfs", "dev", ""),
        ("devpts", "dev/pts", "newinstance,ptmxmode=0666,mode=0620"),
        ("tmpfs", "dev/shm", "mode=1777"),
    ] {
        let target = root.join(place);
        directory(&target)?;
        attach(kind, kind, &target.to_string_lossy(), MountFlags::NOSUID, data)?;
        mounted.push(target);
    }
    Ok(mounted)
}

fn attach(source: &str, kind: &str, target: &str, flags: MountFlags, data: &str) -> Result<()> {
    let text = CString::new(data).map_err(|_| "mount options with a zero byte".to_owned())?;
    let done = mount(source, target, kind, flags, text.as_c_str());
    done.map_err(|error| format!("cannot mount {kind} at {target} ({data}): {error}"))
}

fn directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.map_err(|error| format!("cannot make {}: {error}", path.display()))
}

/// Starts the process in the container's root. Its thread alone takes its user and groups; the
/// root is everybody's, until it is started.
fn process(root: &Path, process: &Process) -> Result<Child> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let own = open("/", flags, Mode::empty()).map_err(|error| error.to_string())?;
    chroot(root).map_err(|error| format!("{}: {error}", root.display()))?;
    let started = std::thread::scope(|scope| {
        let thread = scope.spawn(|| start(process));
        thread.join().unwrap_or_else(|_| Err("cannot start it".to_owned()))
    });
    let back = fchdir(&own).and_then(|()| chroot("."));
    back.map_err(|error| format!("back to the agent's root: {error}"))?;
    started
}

fn start(process: &Process) -> Result<Child> {
    let [program, arguments @ ..] = process.args.as_slice() else {
        return Err("no program: expected process.args".to_owned());
    };
    directory(Path::new(&process.cwd))?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir(&process.cwd);
    command.envs(process.env.iter().filter_map(|word| word.split_once('=')));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let groups: Vec<_> =
        process.additional_gids.iter().map(|gid| rustix::fs::Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups)
        .and_then(|()| set_thread_gid(rustix::fs::Gid::from_raw(process.gid)))
        .and_then(|()| set_thread_uid(rustix::fs::Uid::from_raw(process.uid)))
        .map_err(|error| format!("user {}, group {}: {error}", process.uid, process.gid))?;
    command.spawn().map_err(|error| format!("cannot run {program}: {error}"))
}

/// What lets each output send one more frame, until the process has ended.
type Windows = Arc<Mutex<Option<[mpsc::Sender<()>; 2]>>>;

/// Hands on input, output and signals until the process has ended, and ends the others.
fn follow(mut child: Child, port: &Port, reader: File) {
    say(port, &Frame::Started);
    let pid = Pid::from_child(&child);
    let [(stdout, out), (stderr, err)] = [window(), window()];
    let windows: Windows = Arc::new(Mutex::new(Some([stdout, stderr])));
    let outputs = [
        child.stdout.take().map(|pipe| hand_on(pipe, port, Frame::Stdout, out)),
        child.stderr.take().map(|pipe| hand_on(pipe, port, Frame::Stderr, err)),
    ];
    let (input, inputs) = mpsc::channel();
    if let Some(stdin) = child.stdin.take() {
        let port = Arc::clone(port);
        spawn(move || feed(stdin, &inputs, &port));
    }
    let leave = Arc::clone(&windows);
    spawn(move || obey(reader, pid, input, &leave));
    let code = reap(Some(pid));
    // To all but this: pid -1. What is left of the container would keep its mounts.
    let _ = kill_process_group(Pid::INIT, Signal::KILL);
    reap(None);
    // What is left in the pipes is little, and its reader may have stopped: no window counts.
    windows.lock().unwrap_or_else(PoisonError::into_inner).take();
    outputs.into_iter().flatten().for_each(|thread| drop(thread.join()));
    say(port, &Frame::Exited(code));
}

fn window() -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
    let (sender, receiver) = mpsc::channel();
    for _ in 0..WINDOW {
        let _ = sender.send(());
    }
    (sender, receiver)
}

fn hand_on(
    mut pipe: impl Read + Send + 'static,
    port: &Port,
    frame: fn(Vec<u8>) -> Frame,
    window: mpsc::Receiver<()>,
) -> JoinHandle<()> {
    let port = Arc::clone(port);
    spawn(move || {
        let (mut buffer, mut last) = (vec![0; CHUNK], LAST);
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            if window.recv().is_err() {
                let Some(left) = last.checked_sub(1) else { break };
                last = left;
            }
            say(&port, &frame(buffer[..length].to_vec()));
        }
    })
}

/// Writes input to the process. One that has closed its input, or never reads, stops nobody else.
fn feed(mut stdin: impl Write, inputs: &mpsc::Receiver<Vec<u8>>, port: &Port) {
    let mut open = true;
    while let Ok(bytes) = inputs.recv() {
        open = open && stdin.write_all(&bytes).is_ok();
        say(port, &Frame::Taken);
    }
}

/// Does what the shim says until it is gone, which ends the container.
fn obey(reader: File, pid: Pid, input: mpsc::Sender<Vec<u8>>, windows: &Windows) {
    let mut input = Some(input);
    let written = |output: usize| {
        let windows = windows.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = windows.as_ref().map(|windows| windows[output].send(()));
    };
    loop {
        match Frame::read(&reader) {
            Ok(Frame::Stdin(bytes)) => drop(input.as_ref().map(|input| input.send(bytes))),
            Ok(Frame::StdinEnd) => drop(input.take()),
            Ok(Frame::StdoutWritten) => written(0),
            Ok(Frame::StderrWritten) => written(1),
            Ok(Frame::Signal(number)) => match Signal::from_named_raw(number) {
                Some(signal) => {
                    let _ = kill_process(pid, signal);
                }
                None => println!("nydusvm-agent: signal {number}: not known"),
            },
            Ok(frame) => println!("nydusvm-agent: {frame:?}: not expected"),
            Err(_) => break,
        }
    }
    let _ = kill_process(pid, Signal::KILL);
}

/// Waits for this process, or for all; its exit code.
fn reap(wanted: Option<Pid>) -> i32 {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if Some(pid) == wanted => {
                let signal = || 128 + status.terminating_signal().unwrap_or_default();
                return status.exit_status().unwrap_or_else(signal);
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return 255,
        }
    }
}

fn say(port: &Port, frame: &Frame) {
    let port = port.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = frame.write(&*port) {
        println!("nydusvm-agent: nobody listens: {error}");
    }
}
