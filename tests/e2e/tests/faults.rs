//! What can go wrong while the helper works: it is killed, a system call fails, others mount at
//! the same place, somebody swaps the target. Afterwards the mount is complete, or nothing is
//! there.

use nix::errno::Errno;
use nydus_e2e::linux;
use nydus_e2e::mounts::{Mount, mount_at, mounts};
use nydus_e2e::programs::{self, BUILDS};
use nydus_e2e::stage::Stage;
use nydus_e2e::trace::{Next, steps, trace};
use nydus_e2e::tree::{changes, tree};
use rustix::fs::{CWD, MemfdFlags, RenameFlags, renameat_with};
use rustix::mount::UnmountFlags;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Options for each way to a mount; `@` stands for the stage, `MANY` for many more layers.
fn options() -> Vec<&'static str> {
    let mut all = vec![
        "lowerdir=@/l1:@/l2,upperdir=@/u,workdir=@/w",
        "lowerdir=l1:l2,upperdir=u,workdir=w",
        "lowerdir=l1:l2,upperdir=u,workdir=w,shared",
        "lowerdir=l1:l2MANY,upperdir=u,workdir=w",
    ];
    if linux(5, 19) && root_of_the_machine() {
        all.push("lowerdir=l1:l2,upperdir=u,workdir=w,uidmap=0:0:9,gidmap=0:0:9");
    }
    all
}

fn root_of_the_machine() -> bool {
    let ids = fs::read_to_string("/proc/self/uid_map").expect("a map");
    ids.split_whitespace().eq(["0", "0", "4294967295"])
}

fn cases() -> impl Iterator<Item = (&'static str, &'static str)> {
    let all = options();
    BUILDS.into_iter().flat_map(move |build| all.clone().into_iter().map(move |one| (build, one)))
}

/// How many layers make more than 4,095 bytes, and their names.
const MANY: usize = 45;

/// What was there before a try.
struct Scene {
    stage: Stage,
    mounts: Vec<Mount>,
    files: Vec<String>,
}

impl Scene {
    fn new(options: &str) -> Self {
        let stage = Stage::in_memory(&["l1", "l2", "u", "w", "t"]);
        fs::write(stage.join("l2/file"), "contents").expect("a file");
        if options.contains("MANY") {
            many().for_each(|name| fs::create_dir(stage.join(name)).expect("a layer"));
        }
        Self { mounts: mounts(), files: tree(stage.path()), stage }
    }

    fn command(&self, build: &str, options: &str) -> Command {
        let many: String = many().map(|name| format!(":{name}")).collect();
        let options = options.replace('@', &self.stage.path().display().to_string());
        let mut command = self.stage.command(programs::ours(build));
        command.args(["overlay", "t", "-o", &options.replace("MANY", &many)]);
        command
    }

    /// Whether there is a mount, which then is complete and goes; else nothing is left, but for
    /// what the kernel makes before it mounts.
    fn is_whole(&self, what: &str) -> bool {
        let mounted = mount_at(&self.stage.join("t")).is_some();
        if mounted {
            let file = fs::read(self.stage.join("t/file"));
            assert_eq!(file.expect("a file"), b"contents", "{what}");
            fs::write(self.stage.join("t/new"), "").expect("writable");
            self.stage.unmount_all();
        } else {
            let left = changes(&self.files, &tree(self.stage.path()));
            assert!(left.is_empty() || left == by_kernel(), "{what}: {left:?}");
        }
        assert_eq!(mounts(), self.mounts, "{what}");
        mounted
    }
}

/// More layers than fit into one `mount(2)`.
fn many() -> impl Iterator<Item = String> {
    (0..MANY).map(|number| format!("{}{number}", "n".repeat(100)))
}

/// What an overlay that was made leaves when it goes, mounted or not.
fn by_kernel() -> &'static [&'static str] {
    const ALL: [&str; 3] =
        ["+ 40000 0:0 /w/work ", "+ 40755 0:0 /u  trusted.overlay.uuid=", "- 40755 0:0 /u "];
    if linux(6, 7) { &ALL } else { &ALL[..1] }
}

/// Of errors and tries, one of so many is taken: a guest's emulated processor is slow.
fn share() -> usize {
    std::env::var("FAULTS_SHARE").map_or(1, |share| share.parse().expect("a number"))
}

#[test]
fn killed_at_each_system_call() {
    let mut kills = 0;
    for (build, options) in cases() {
        for kill in 0.. {
            let scene = Scene::new(options);
            let mut command = scene.command(build, options);
            let code = trace(&mut command, |_, stop| stop.index < kill);
            scene.is_whole(&format!("{build} {options} killed at {kill}"));
            if code.is_some() {
                break;
            }
            kills += 1;
        }
    }
    println!("killed {kills} times");
    assert!(kills > 300, "{kills}");
}

/// The errors that manual pages tell of these calls.
fn errors_of(call: i64) -> &'static [Errno] {
    use Errno::*;
    match call {
        libc::SYS_mount => &[
            EPERM,
            EINVAL,
            ENOENT,
            EBUSY,
            ELOOP,
            ENOMEM,
            ENODEV,
            EACCES,
            EROFS,
            ENOTDIR,
            ENAMETOOLONG,
            EFAULT,
            EMFILE,
            ENXIO,
            ENOTBLK,
        ],
        libc::SYS_openat => &[
            ENOENT,
            EACCES,
            ELOOP,
            EMFILE,
            ENFILE,
            ENOMEM,
            ENOTDIR,
            ENAMETOOLONG,
            ESTALE,
            EIO,
            EINTR,
        ],
        libc::SYS_fsopen => &[EPERM, ENOSYS, EMFILE, ENFILE, ENODEV, ENOMEM],
        libc::SYS_fsconfig => {
            &[EINVAL, ENOMEM, EBUSY, EPERM, EOPNOTSUPP, EACCES, EBADF, ENOENT, ENODEV, ENOSYS]
        }
        libc::SYS_fsmount => &[EPERM, ENOMEM, EMFILE, ENFILE, EBUSY, EINVAL, ENOSPC],
        libc::SYS_move_mount => &[EINVAL, ENOENT, ENOTDIR, EPERM, ELOOP, ENOMEM, ENOSPC],
        libc::SYS_open_tree => &[EPERM, EINVAL, ENOENT, ENOMEM, EMFILE, ENFILE, ENOSYS],
        libc::SYS_mount_setattr => &[EPERM, EINVAL, ENOSYS, ENOMEM, EBADF, EBUSY],
        libc::SYS_fchdir => &[EACCES, EIO, ENOMEM, ENOTDIR],
        libc::SYS_statfs | libc::SYS_fstatfs => &[ENOENT, EACCES, EIO, ENOMEM, ENOSYS],
        libc::SYS_umount2 => &[EPERM, EINVAL, EBUSY, ENOENT, ENOMEM],
        libc::SYS_clone => &[EAGAIN, ENOMEM, EPERM, ENOSPC, EINVAL],
        libc::SYS_pipe2 => &[EMFILE, ENFILE],
        libc::SYS_unshare | libc::SYS_setns => &[EPERM, ENOMEM, ENOSPC, EINVAL],
        libc::SYS_mkdirat => &[ENOSPC, EIO, EROFS, ENOMEM],
        libc::SYS_write => &[EINVAL, EPERM, EIO, EINTR],
        libc::SYS_wait4 => &[ECHILD, EINTR],
        libc::SYS_close => &[EIO, EINTR],
        libc::SYS_ppoll | libc::SYS_poll => &[ENOMEM, EINTR, EINVAL],
        _ => &[],
    }
}

/// The error number `next` of those that a call at stop `index` is given.
fn error_of(call: i64, index: usize, next: usize) -> Option<Errno> {
    let all = errors_of(call);
    let first = if share() == 1 { 0 } else { index / 2 };
    let is_left = next < all.len().div_ceil(share());
    is_left.then(|| all[(first + next * share()) % all.len()])
}

/// Each call of the program itself, each error that it can give.
#[test]
fn each_call_fails_in_each_way() {
    let (mut tries, mut mounted) = (0, 0);
    for (build, options) in cases() {
        for index in 0.. {
            let (mut call, mut next) = (None, 0);
            while call.is_none_or(|call| error_of(call, index, next).is_some()) {
                let scene = Scene::new(options);
                let (code, said) = fail_at(&scene, build, options, index, next, &mut call);
                let Some(number) = call else { break };
                let Some(errno) = error_of(number, index, next) else { break };
                let what = format!("{build} {options} stop {index} call {number} {errno}: {said}");
                tries += 1;
                let code = code.unwrap_or_else(|| panic!("it died: {what}"));
                let is_mounted = scene.is_whole(&what);
                mounted += usize::from(is_mounted);
                assert_eq!(code == 0, is_mounted, "{what}");
                check_said(code, &said, &what);
                next += 1;
            }
            if call.is_none() {
                break;
            }
        }
    }
    println!("{tries} calls failed, {mounted} mounts made all the same");
    assert!(tries > 500 / share() && mounted > 50 / share(), "{tries} {mounted}");
}

/// Lets the call at stop `index` fail with its error number `next`; the exit code and what was
/// said. Tells the call, which is none if the program ends before.
fn fail_at(
    scene: &Scene,
    build: &str,
    options: &str,
    index: usize,
    next: usize,
    call: &mut Option<i64>,
) -> (Option<i32>, String) {
    let mut stderr: File =
        rustix::fs::memfd_create(c"stderr", MemfdFlags::CLOEXEC).expect("a file").into();
    let mut command = scene.command(build, options);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(stderr.try_clone().expect("a descriptor"));
    let code = steps(&mut command, |(_, stop)| {
        if stop.index != index {
            return Next::Go;
        }
        *call = Some(stop.call.cast_signed());
        match error_of(stop.call.cast_signed(), index, next) {
            Some(errno) if stop.entry => Next::Fail(errno),
            _ => Next::Run,
        }
    });
    let mut said = String::new();
    stderr.rewind().and_then(|()| stderr.read_to_string(&mut said)).expect("text");
    // After a call nothing can fail any more.
    if index % 2 == 1 {
        *call = call.map(|_| -1);
    }
    (code, said)
}

fn check_said(code: i32, said: &str, what: &str) {
    if code == 0 {
        return assert_eq!(said, "", "{what}");
    }
    let line = said.strip_prefix("nydus-overlayfs: cannot mount overlay on 't': ");
    let line = line.and_then(|line| line.strip_suffix('\n')).unwrap_or_else(|| panic!("{what}"));
    assert!(!line.is_empty() && !line.contains('\n'), "{what}");
    // Where another way is tried after it, the error told may be that of another call.
    const SYSTEM: [&str; 4] = [
        "cannot allocate memory",
        "too many open files",
        "too many open files in system",
        "resource temporarily unavailable",
    ];
    let is_system = SYSTEM.iter().any(|text| line.ends_with(text));
    assert_eq!(code, if is_system { 2 } else { 32 }, "{what}");
    // We have the capability.
    assert!(!line.contains("must be root"), "{what}");
}

/// 1,000 at a time mount and unmount 100 targets.
#[test]
fn many_at_the_same_places() {
    const TARGETS: usize = 100;
    const WORKERS: usize = 1_000;
    let long = share() > 1 || std::env::var_os("NYDUS_FULL").is_some();
    let stage = Stage::with(&["l1", "l2"]);
    fs::write(stage.join("l1/file"), "contents").expect("a file");
    for number in 0..TARGETS {
        fs::create_dir(stage.join(number.to_string())).expect("a target");
    }
    let before = mounts();
    let end = Instant::now() + Duration::from_secs(if long { 60 } else { 6 });
    let (made, undone) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failures = Mutex::new(BTreeMap::<String, usize>::new());
    let work = |number: usize| {
        let target = stage.join((number % TARGETS).to_string());
        while Instant::now() < end {
            let mut command = stage.command(programs::ours(BUILDS[number / 7 % 2]));
            command.arg("overlay").arg(&target).args(["-o", "lowerdir=l1:l2"]);
            let ran = command.output().expect("a helper");
            if ran.status.success() {
                made.fetch_add(1, Ordering::Relaxed);
                unmount_once(&target);
                undone.fetch_add(1, Ordering::Relaxed);
            } else {
                let said =
                    String::from_utf8_lossy(&ran.stderr).replace(&*target.to_string_lossy(), "T");
                *failures.lock().expect("no panic").entry(said).or_default() += 1;
            }
        }
    };
    std::thread::scope(|scope| {
        (0..WORKERS).for_each(|number| _ = scope.spawn(move || work(number)))
    });
    let (made, failures) = (made.into_inner(), failures.into_inner().expect("no panic"));
    println!("{made} mounts and unmounts by {WORKERS} at a time, refused: {failures:?}");
    assert_eq!(undone.into_inner(), made);
    assert_eq!(mounts(), before);
    assert!(made > WORKERS / share(), "{made}");
    // Who opened a target on which another mount was, that went meanwhile, cannot mount there.
    assert!(failures.keys().all(|said| said.contains("'T': ") && said.lines().count() == 1));
}

/// Not detached, which would take along what others mount on it meanwhile: it is busy while a
/// helper has it open.
fn unmount_once(target: &Path) {
    let mut pause = Duration::from_millis(1);
    let end = Instant::now() + Duration::from_secs(60);
    while let Err(error) = rustix::mount::unmount(target, UnmountFlags::empty()) {
        assert!(Instant::now() < end, "{}: {error}", target.display());
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

/// A target that becomes a link to another place, at any moment after it was opened.
#[test]
fn a_swapped_target_is_never_followed() {
    const TRIES: usize = 10_000;
    let (mut tries, mut swapped) = (0, 0);
    while tries < TRIES / share() {
        for (build, options) in cases() {
            let scene = Scene::new(options);
            let stage = &scene.stage;
            fs::create_dir(stage.join("victim")).expect("a directory");
            symlink("victim", stage.join("link")).expect("a link");
            let swap = || {
                let (one, other) = (stage.join("t"), stage.join("link"));
                // Not once it is mounted on.
                renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).is_ok()
            };
            let mut command = scene.command(build, options);
            let mut opened = None;
            let moment = 1 + tries % 40;
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            steps(&mut command, |(_, stop)| {
                // The first directory that it opens is the target.
                let is_open = stop.call.cast_signed() == libc::SYS_openat && !stop.entry;
                if is_open && stop.index > 2 && opened.is_none() {
                    opened = Some(stop.index);
                }
                if opened.is_none_or(|at| at + moment != stop.index + 1) {
                    return Next::Go;
                }
                swapped += usize::from(swap());
                Next::Run
            });
            tries += 1;
            let fresh: Vec<_> =
                mounts().into_iter().filter(|m| !scene.mounts.contains(m)).collect();
            let allowed = ["t", "link"].map(|name| stage.join(name));
            assert!(fresh.len() <= 1, "{fresh:?}");
            assert!(fresh.iter().all(|mount| allowed.contains(&mount.point)), "{fresh:?}");
            stage.unmount_all();
        }
    }
    println!("{tries} tries, {swapped} targets swapped");
    assert!(swapped > tries / 3, "{swapped}");
}
