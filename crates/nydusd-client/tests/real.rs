//! The client and process against the real `nydusd`: `NYDUSD`, or the one in `target/tools`,
//! with `nydus-image` beside it. Needs root and /dev/fuse.
//!
//! Each test has a thread with its own mount namespace and a current-thread runtime, so that
//! daemons, which are started from that thread, mount there and leave nothing on the host.

use nydusd_client::{
    Binary, Client, Daemon, Error, Exit, Failure, Limits, Log, Mode, Mount, Spec, State,
    clear_stale,
};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use std::fs;
use std::future::Future;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(30);

fn nydusd() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/nydusd/bin/nydusd");
    let program = std::env::var_os("NYDUSD").map_or(here, PathBuf::from);
    let found = program.exists() && Path::new("/dev/fuse").exists();
    if !found {
        eprintln!("NOT RUN: no nydusd at {}, or no /dev/fuse", program.display());
    }
    found.then_some(program)
}

/// What a test works with.
struct World {
    dir: TempDir,
    binary: Binary,
}

impl World {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A small image; gives the bootstrap.
    fn image(&self, version: &str) -> String {
        let (source, blobs) = (self.path("source"), self.path("blobs"));
        for dir in [&source, &blobs] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(source.join("hello"), "from the image\n").unwrap();
        let bootstrap = self.text(&format!("boot{version}"));
        let image = self.binary.program.with_file_name("nydus-image");
        let output = Command::new(image)
            .args(["create", "-l", "error", "-t", "dir-rafs", "-v", version, "-B", &bootstrap])
            .arg("-D")
            .args([&blobs, &source])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        bootstrap
    }

    fn config(&self, id: &str) -> String {
        format!(
            r#"{{"device":{{"id":"{id}","backend":{{"type":"localfs","config":{{"dir":"{}"}}}},
            "cache":{{"type":"blobcache","config":{{"work_dir":"{}"}}}}}},"mode":"direct",
            "digest_validate":false,"iostats_files":false,"enable_xattr":true,
            "fs_prefetch":{{"enable":false}}}}"#,
            self.text("blobs"),
            self.text("cache")
        )
    }

    fn shared(&self) -> Spec {
        let mountpoint = self.path("mnt");
        fs::create_dir_all(&mountpoint).unwrap();
        self.spec(Mode::Shared { mountpoint })
    }

    fn dedicated(&self, bootstrap: &str, config: &str) -> Spec {
        let Mode::Shared { mountpoint } = self.shared().mode else { unreachable!() };
        fs::write(self.path("config.json"), config).unwrap();
        let (config, bootstrap) = (self.path("config.json"), bootstrap.into());
        self.spec(Mode::Dedicated { config, bootstrap, mountpoint })
    }

    fn virtiofs(&self) -> Spec {
        self.spec(Mode::Virtiofs { sock: self.path("vhost.sock"), hybrid: None })
    }

    fn spec(&self, mode: Mode) -> Spec {
        Spec {
            stderr: Some(self.path("stderr")),
            log: Log { level: "info".into(), file: Some(self.path("nydusd.log")), rotation: 100 },
            failover_policy: "none".into(),
            ..Spec::new(mode, self.path("api.sock"))
        }
    }

    async fn start(&self, spec: Spec) -> Daemon {
        Daemon::start(&self.binary, spec, LIMIT).await.unwrap()
    }

    /// No socket, mount or process of this test is there.
    fn nothing_is_left(&self, pid: u32) {
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "{mounts}");
        for socket in ["api.sock", "vhost.sock"] {
            assert!(!self.path(socket).exists(), "{socket}");
        }
        assert!(!alive(pid), "process {pid}");
    }
}

impl Drop for World {
    /// A test that fails may leave a daemon, which may be stopped: whoever looks into its mount
    /// would wait for ever.
    fn drop(&mut self) {
        let dir = self.dir.path().to_str().unwrap().to_owned();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if let (Some(pid), true) = (pid, String::from_utf8_lossy(&line).contains(&dir)) {
                let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
            }
        }
        let _ = unmount(self.path("mnt"), UnmountFlags::DETACH);
    }
}

/// A zombie is not: when its parent reaps it is the parent's affair.
fn alive(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

/// Stops a process; each of its threads has stopped when this returns.
fn stop(pid: u32) {
    send(pid, Signal::STOP);
    let start = Instant::now();
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stopped = |thread: fs::DirEntry| {
        fs::read_to_string(thread.path().join("status")).unwrap().contains("State:\tT")
    };
    while !threads().all(|thread| stopped(thread.unwrap())) {
        assert!(start.elapsed() < LIMIT, "process {pid} does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// By itself, or, if it was busy, by SIGKILL after the time limit; which one is nydusd's affair.
fn has_stopped(status: Option<ExitStatus>) -> bool {
    status.is_some_and(|status| status.success() || status.signal() == Some(9))
}

/// Runs a test in its own mount namespace, at most for two minutes.
fn with_nydusd<F: Future<Output = ()>>(test: impl FnOnce(World) -> F + Send) {
    let Some(program) = nydusd() else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: a mount namespace has no descriptors that would be lost.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let binary = Binary::probe(&program).await.unwrap();
                let world = World { dir: TempDir::new().unwrap(), binary };
                timeout(LIMIT * 4, test(world)).await.unwrap();
            });
        });
    });
}

#[test]
fn what_the_program_knows() {
    with_nydusd(|world| async move {
        let Binary { fuse, virtiofs, git_commit, .. } = &world.binary;
        assert!(fuse.knows("--mountpoint") && !fuse.knows("--sock"));
        assert!(virtiofs.knows("--sock") && !virtiofs.knows("--mountpoint"));
        assert!(fuse.values("--failover-policy").contains(&"resend".to_owned()));
        assert!(!git_commit.is_empty());
        let version = Command::new(&world.binary.program).arg("--version").output().unwrap();
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        let hybrid = world.binary.hybrid_mode().await;
        println!("hybrid mode: {hybrid:?}, {version}");
        assert!(hybrid.is_none() || !version.contains("v2.2.0"), "it panics on --hybrid-mode");
    });
}

#[test]
fn dedicated_reads_and_stops() {
    for version in ["5", "6"] {
        with_nydusd(move |world| async move {
            let spec = world.dedicated(&world.image(version), &world.config("/7"));
            let daemon = world.start(spec).await;
            let hello = fs::read_to_string(world.path("mnt/hello")).unwrap();
            assert_eq!(hello, "from the image\n");

            let info = daemon.client().daemon().await.unwrap();
            assert_eq!((info.state, info.id), (State::Running, None));
            assert_eq!(info.version.git_commit, world.binary.git_commit);
            let metrics = daemon.client().metrics(None).await.unwrap();
            assert_eq!((metrics.id.as_str(), metrics.data_read), ("/", 15));
            let cache = daemon.client().cache_metrics(Some("/7")).await.unwrap();
            assert_eq!(cache.store_path, world.text("cache"));
            assert_eq!(cache.underlying_files.len(), 1);

            let Exit(status) = daemon.stop().await.unwrap();
            assert!(has_stopped(status), "{status:?}");
            world.nothing_is_left(daemon.pid());
        });
    }
}

#[test]
fn shared_mounts_by_api() {
    with_nydusd(|world| async move {
        let daemon = world.start(world.shared()).await;
        let client = daemon.client();
        // The second shows that any text comes back as it was.
        for (version, at) in [("5", "/5"), ("6", "/a+b c%20&=é")] {
            let mount = Mount::rafs(world.image(version), world.config(at));
            client.mount(at, &mount).await.unwrap();
            let hello = world.path("mnt").join(&at[1..]).join("hello");
            assert_eq!(fs::read_to_string(hello).unwrap(), "from the image\n", "{at}");
            assert_eq!(client.metrics(Some(at)).await.unwrap().id, at);
            client.cache_metrics(Some(at)).await.unwrap();
            client.remount(at, &mount).await.unwrap();
        }
        // A request that was answered may be listed a moment longer.
        while !client.inflight().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let instances = client.daemon().await.unwrap().backend_collection;
        assert_eq!(instances.as_object().unwrap().len(), 2);
        for at in ["/5", "/a+b c%20&=é"] {
            client.unmount(at).await.unwrap();
            assert!(!world.path("mnt").join(&at[1..]).join("hello").exists());
        }
        daemon.stop().await.unwrap();
        world.nothing_is_left(daemon.pid());
    });
}

#[test]
fn refusals_keep_the_servers_words() {
    with_nydusd(|world| async move {
        let bootstrap = world.image("6");
        let daemon = world.start(world.shared()).await;
        let client = daemon.client();
        let good = Mount::rafs(&bootstrap, world.config("/7"));
        client.mount("/7", &good).await.unwrap();

        let missing = world.text("missing");
        let bad = r#"{"device":{"backend":{"config":{"auth":"c2VjcmV0OnB3"}}}}"#;
        let no_blobs = world.config("/8").replace(&world.text("blobs"), &missing);
        for (mount, words) in [
            (good, "object or filesystem already exists"),
            (Mount::rafs(&bootstrap, bad), "LoadConfig"),
            (Mount::rafs(&missing, world.config("/8")), "FillSuperblock"),
            (Mount::rafs(world.text("source/hello"), world.config("/8")), "UnexpectedEof"),
            (Mount::rafs(&bootstrap, no_blobs), "CreateDevice"),
            (Mount::passthrough(&missing), "No such file or directory"),
        ] {
            let at = if words.contains("already") { "/7" } else { "/8" };
            let error = client.mount(at, &mount).await.unwrap_err();
            let refusal = error.refusal().unwrap();
            assert_eq!((refusal.status, refusal.code.as_str()), (500, "UNDEFINED"));
            assert!(refusal.message.contains(words), "{words}: {error}");
            assert_eq!(error.is_already_mounted(), at == "/7", "{error}");
            assert!(!format!("{error} {error:?} {mount:?}").contains("c2VjcmV0"));
        }
        assert!(client.unmount("/8").await.unwrap_err().is_not_mounted());
        assert!(client.metrics(Some("/8")).await.unwrap_err().is_no_counter());
        assert!(client.start().await.unwrap_err().is_wrong_state());
        daemon.stop().await.unwrap();
        assert!(client.state().await.unwrap_err().is_unreachable());
        world.nothing_is_left(daemon.pid());
    });
}

#[test]
fn registry_auth_is_changed_or_not_known() {
    with_nydusd(|world| async move {
        let daemon = world.start(world.shared()).await;
        let changed = daemon.client().set_registry_auth("/7", &"c2VjcmV0OnB3".into()).await;
        let error = changed.unwrap_err();
        assert!(error.is_unknown_call() || error.refusal().is_some(), "{error}");
        assert!(!format!("{error} {error:?}").contains("c2VjcmV0"));
        daemon.stop().await.unwrap();
    });
}

#[test]
fn killed_daemon_is_noticed_and_cleared() {
    with_nydusd(|world| async move {
        let spec = world.dedicated(&world.image("6"), &world.config("/7"));
        let daemon = world.start(spec.clone()).await;
        send(daemon.pid(), Signal::KILL);
        let exit = timeout(LIMIT, daemon.ended()).await.unwrap();
        assert_eq!(exit.0.and_then(|status| status.signal()), Some(9));
        // Its socket and mount are still there; the next start needs neither.
        assert!(world.path("api.sock").exists());
        let next = world.start(spec).await;
        assert!(world.path("mnt/hello").exists());
        next.stop().await.unwrap();
        world.nothing_is_left(next.pid());
    });
}

#[test]
fn live_daemon_is_adopted() {
    with_nydusd(|world| async move {
        let spec = world.dedicated(&world.image("6"), &world.config("/7"));
        let first = world.start(spec.clone()).await;
        let pid = first.pid();
        let other = Daemon::adopt(spec.clone(), Some(pid + 1)).await.unwrap_err();
        assert!(matches!(other, Error::OtherProcess { found, .. } if found == pid), "{other}");
        let busy = clear_stale(&spec).await.unwrap_err();
        assert!(matches!(busy, Error::SocketInUse(_)), "{busy}");
        // As after our own death: nobody who knows the child is left.
        drop(first);
        let adopted = Daemon::adopt(spec, Some(pid)).await.unwrap();
        assert_eq!(adopted.pid(), pid);
        assert!(timeout(Duration::from_millis(50), adopted.ended()).await.is_err());
        assert_eq!(adopted.client().state().await.unwrap(), State::Running);
        assert_eq!(adopted.stop().await.unwrap(), Exit(None));
        world.nothing_is_left(pid);
    });
}

#[test]
fn failed_start_says_why_and_leaves_nothing() {
    with_nydusd(|world| async move {
        let bootstrap = world.image("6");
        let secret =
            r#"{"device":{"backend":{"type":"registry","config":{"auth":"c2VjcmV0OnB3"}}}}"#;
        let missing = world.text("missing");
        for (bootstrap, config, words) in [
            (&bootstrap, secret, "LoadConfig"),
            (&bootstrap, "c2VjcmV0OnB3", "LoadConfig"),
            (&missing, world.config("/7").as_str(), "FillSuperblock"),
        ] {
            let spec = world.dedicated(bootstrap, config);
            let error = Daemon::start(&world.binary, spec, LIMIT).await.unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(matches!(&error, Error::Exited(Exit(Some(_)), _)), "{text}");
            assert!(text.contains(words) && !text.contains("c2VjcmV0"), "{words}: {text}");
            world.nothing_is_left(std::process::id() + 1_000_000_000);
        }
        let mut spec = world.shared();
        spec.log.file = None;
        spec.extra = vec!["--no-such-option".into()];
        let error = Daemon::start(&world.binary, spec, LIMIT).await.unwrap_err().to_string();
        assert!(error.contains("status: 2") && error.contains("--no-such-option"), "{error}");
    });
}

#[test]
fn start_that_is_given_up_leaves_nothing() {
    with_nydusd(|world| async move {
        for patience in [0, 1, 3, 5, 8, 12] {
            let spec = world.shared();
            let start = Daemon::start(&world.binary, spec, LIMIT);
            if let Ok(daemon) = timeout(Duration::from_millis(patience), start).await {
                daemon.unwrap().stop().await.unwrap();
            }
        }
        let late = Daemon::start(&world.binary, world.shared(), Duration::ZERO).await;
        assert!(matches!(late.unwrap_err(), Error::NotReady(..)));
        // The orphans are reaped by the runtime; their mounts are gone already.
        world.start(world.shared()).await.stop().await.unwrap();
        world.nothing_is_left(std::process::id() + 1_000_000_000);
    });
}

#[test]
fn virtiofs_without_a_guest_is_killed() {
    with_nydusd(|world| async move {
        let daemon = world.start(world.virtiofs()).await;
        let client = daemon.client();
        fs::create_dir(world.path("share")).unwrap();
        client.mount("/containers", &Mount::passthrough(world.text("share"))).await.unwrap();
        let at = "/rafs/c1/lowerdir";
        let rafs = Mount::rafs(world.image("6"), world.config("/7"));
        client.mount(at, &rafs).await.unwrap();
        assert!(client.mount(at, &rafs).await.unwrap_err().is_already_mounted());
        client.unmount(at).await.unwrap();
        assert!(client.unmount(at).await.unwrap_err().is_not_mounted());
        // No guest has ever connected: most times it does not end on SIGTERM.
        let Exit(status) = daemon.stop().await.unwrap();
        assert!(has_stopped(status), "{status:?}");
        world.nothing_is_left(daemon.pid());
    });
}

#[test]
fn stopped_server_does_not_hold_a_call() {
    with_nydusd(|world| async move {
        let daemon = world.start(world.shared()).await;
        stop(daemon.pid());
        let limit = Duration::from_millis(100);
        let client =
            Client::new(world.path("api.sock")).with_limits(Limits { read: limit, change: limit });
        for error in [client.state().await.unwrap_err(), client.unmount("/7").await.unwrap_err()] {
            assert!(matches!(error, Error::Call(_, Failure::Timeout(_))), "{error}");
        }
        send(daemon.pid(), Signal::CONT);
        daemon.client().state().await.unwrap();
        daemon.stop().await.unwrap();
        world.nothing_is_left(daemon.pid());
    });
}
