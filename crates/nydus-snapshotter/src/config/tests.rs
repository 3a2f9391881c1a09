//! What a file's values do, and which are refused.

use super::*;
use std::net::SocketAddr;

fn checked(text: &str) -> Result<Config, Error> {
    parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).check()
}

/// A program, the mount type that it gives, and whether it is ours.
#[test]
fn programs_of_the_slice() {
    for (path, slice_type, ours) in [
        ("nydus-overlayfs", "fuse.nydus-overlayfs", true),
        ("/opt/nydus-overlayfs-1", "fuse./opt/nydus-overlayfs-1", true),
        ("fuse3.nydus-overlayfs", "fuse3.nydus-overlayfs", true),
        ("fuse./opt/nydus-overlayfs", "fuse./opt/nydus-overlayfs", true),
        ("/opt/n-1", "fuse./opt/n-1", false),
        ("nydus-overlayfsX", "fuse.nydus-overlayfsX", false),
    ] {
        let config = checked(&format!("[snapshot]\nnydus_overlayfs_path = '{path}'"));
        let config = config.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!((&*config.slice_type, config.warnings.is_empty()), (slice_type, ours));
        let expected = |warning: &String| warning.contains("expected a program named");
        assert!(config.warnings.iter().all(expected), "{:?}", config.warnings);
    }
}

#[test]
fn values_have_effects() {
    type Row = (&'static str, fn(&Config) -> bool);
    let table: &[Row] = &[
        ("", |c| c.mode == DaemonMode::Dedicated && c.driver == Driver::Fusedev),
        ("", |c| c.logs == c.root.join("logs") && c.cache == c.root.join("cache")),
        ("", |c| c.slice_type == "fuse.nydus-overlayfs" && c.warnings.is_empty()),
        ("daemon_mode = 'multiple'", |c| c.mode == DaemonMode::Dedicated),
        ("daemon_mode = 'shared'", |c| c.mode == DaemonMode::Shared),
        ("root = '/r'", |c| c.cache == Path::new("/r/cache")),
        ("[log]\nlog_to_stdout = false", |c| !c.file.log.log_to_stdout),
        ("[daemon]\nrecover_policy = 'failover'", |c| c.recover == Recover::Failover),
        ("[cgroup]\nenable = true\nmemory_limit = '10%'", |c| {
            c.cgroup.is_some_and(|limit| limit.bytes(1000) == Some(100))
        }),
        ("[cgroup]\nmemory_limit = '10%'", |c| c.cgroup.is_none()),
        ("[metrics]\ncollect_interval = '1h30m'", |c| c.collect_interval.as_secs() == 5400),
        ("[metrics]\naddress = 'h:1'", |c| c.metrics.as_deref() == Some("h:1")),
        ("[metrics]\naddress = ':9110'", |c| {
            c.metrics.as_ref().is_some_and(|address| address.parse::<SocketAddr>().is_ok())
        }),
        ("[metrics]\naddress = ''", |c| c.metrics.is_none()),
        ("[log]\nlevel = 'WARNING'", |c| c.file.log.level == "warn"),
        ("[log]\nlevel = 'fatal'", |c| c.file.log.level == "error"),
        ("[daemon]\nnydusd_path = ''\nnydusd_config = ''", |c| {
            c.file.daemon == file::Daemon::default()
        }),
        ("root = ''\naddress = ''\ndaemon_mode = ''\n[log]\nlevel = ''", |c| {
            c.file == checked("").expect("the defaults").file
        }),
        ("[daemon]\nlog_rotation_size = 0\n[log]\nlog_rotation_max_size = 0", |c| {
            c.file.daemon.log_rotation_size == 100 && c.file.log.log_rotation_max_size == 200
        }),
        ("", |c| c.kernel_native == KernelNative::Auto && c.warm == Warm::Never),
        ("", |c| c.warm_rate == Some(50 << 20)),
        ("daemon_mode = 'none'", |c| c.kernel_native == KernelNative::Off),
        ("[native]\nkernel_native = 'required'\nwarm = 'idle'\nwarm_rate = '1.5M'", |c| {
            c.kernel_native == KernelNative::Required
                && c.warm == Warm::Idle
                && c.warm_rate == Some(1_500_000)
        }),
        ("[native]\nkernel_native = 'off'\nwarm = 'now'\nwarm_rate = '0'", |c| {
            c.kernel_native == KernelNative::Off && c.warm == Warm::Now && c.warm_rate.is_none()
        }),
        ("[daemon]\nfailover_policy = 'flush'", |c| c.file.daemon.failover_policy == "flush"),
        (
            "daemon_mode = 'none'\n[daemon]\nfs_driver = 'proxy'\n[snapshot]\nenable_kata_volume = true",
            |c| c.driver == Driver::Proxy,
        ),
        ("new = 1\n[daemon]\nother = 2", |c| {
            c.warnings == ["daemon.other is not known", "new is not known"]
        }),
        ("[system]\nenable = false", |c| c.warnings.is_empty()),
        ("[system]\nenable = true\naddress = '/s'", |c| {
            c.warnings == ["system.address", "system.enable"].map(|k| format!("{k} has no effect"))
        }),
        ("[metrics]\nhung_io_interval = '10s'", |c| {
            c.warnings == ["metrics.hung_io_interval has no effect"]
        }),
        ("[system.debug]\npprof_address = ''", |c| c.warnings.is_empty()),
        ("[system.debug]\npprof_address = ':1'", |c| {
            c.warnings == ["system.debug.pprof_address has no effect"]
        }),
        ("[experimental]\nenable_stargz = false", |c| c.warnings.is_empty()),
        ("[experimental.tarfs]\nexport_mode = 'x'\nmax_concurrent_proc = 0", |c| {
            c.warnings == ["experimental.tarfs.export_mode has no effect"]
        }),
        ("[remote.auth]\nkubeconfig_path = 'k'", |c| {
            c.warnings == ["remote.auth.kubeconfig_path has no effect"]
        }),
        ("[remote.mirrors_config]\ndir = '/nowhere'", |c| {
            c.warnings == ["remote.mirrors_config.dir has no effect"]
        }),
        ("[daemon]\nnydusimage_path = 'i'\n[cache_manager]\ngc_period = '24h'", |c| {
            c.warnings
                == ["cache_manager.gc_period", "daemon.nydusimage_path"]
                    .map(|key| format!("{key} has no effect"))
        }),
    ];
    for (text, effect) in table {
        let config = checked(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert!(effect(&config), "{text}: {config:?}");
        let again = checked(&config.effective()).unwrap();
        assert_eq!(again.effective(), config.effective(), "{text}");
        assert_eq!(again.warnings, Vec::<String>::new(), "{text}");
    }
}

#[test]
fn what_cannot_run_is_refused() {
    let long = format!("address = '/{}'", "a".repeat(MAX_SOCKET));
    let table = [
        ("version = 2", "version = \"2\": expected 1"),
        ("root = 'r'", "root = \"r\": expected an absolute path"),
        ("address = 'a.sock'", "address = \"a.sock\": expected an absolute path"),
        ("daemon_mode = 'one'", "expected dedicated, shared or none"),
        (&*long, "expected at most 107 bytes"),
        ("[metrics]\naddress = 'foo'", "metrics.address = \"foo\": expected HOST:PORT"),
        ("[metrics]\naddress = 'foo:http'", "expected HOST:PORT"),
        ("[daemon]\nfs_driver = 'fscache'", "\"fscache\" is not built: expected fusedev or proxy"),
        ("[daemon]\nfs_driver = 'blockdev'", "is not built"),
        ("[daemon]\nfs_driver = 'x'", "daemon.fs_driver = \"x\": expected fusedev or proxy"),
        ("[daemon]\nfs_driver = 'proxy'", "expected none, because fs_driver is proxy"),
        (
            "daemon_mode = 'none'\n[daemon]\nfs_driver = 'proxy'",
            "enable_kata_volume = \"false\": expected true",
        ),
        ("[daemon]\nrecover_policy = 'x'", "expected none, restart or failover"),
        ("[daemon]\nthreads_number = 1025", "expected at most 1024"),
        ("[daemon]\nfailover_policy = 'x'", "expected none, resend or flush"),
        ("[native]\nkernel_native = 'on'", "expected auto, off or required"),
        (
            "daemon_mode = 'none'\n[native]\nkernel_native = 'required'",
            "expected auto or off, because daemon_mode is none",
        ),
        ("[native]\nwarm = 'soon'", "expected never, idle or now"),
        ("[native]\nwarm_rate = '10%'", "expected bytes a second, such as 50MiB"),
        ("[cgroup]\nmemory_limit = '10 apples'", "such as 200MiB"),
        ("[log]\nlevel = 'loud'", "log.level = \"loud\""),
        ("[metrics]\ncollect_interval = 'soon'", "a time such as 1m"),
        ("[metrics]\ncollect_interval = '0'", "at least 1s"),
        ("[metrics]\ncollect_interval = '999ms'", "at least 1s"),
        ("[remote.auth]\nenable_cri_keychain = true", "enable_cri_keychain is not built"),
        ("[remote.mirrors_config]\ndir = '/usr'", "mirrors_config.dir is not built"),
        ("[image]\nvalidate_signature = true", "validate_signature is not built"),
        ("[experimental]\nenable_stargz = true", "experimental.enable_stargz is not built"),
        (
            "[experimental.tarfs]\nenable_tarfs = true",
            "experimental.tarfs.enable_tarfs is not built",
        ),
        ("[snapshot]\nnydus_overlayfs_path = 'a b'", "without blanks"),
        ("[snapshot]\nnydus_overlayfs_path = '/opt/nydus-overlayfs/'", "without blanks"),
    ];
    for (text, expected) in table {
        let error = checked(text).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(expected) && !error.contains('\n'), "{text}: {error}");
    }
    for (text, expected) in [("a = ", "line 1: "), ("\n\nroot = 1", "line 3: "), ("root = 1", "")] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(expected) && !error.contains('\n'), "{text}: {error}");
    }
}

#[test]
fn obstacles_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (good, bad) = (file("good", "{}"), file("bad", "{\n\"password\": hunter2}"));
    let long = format!("/{}", "r".repeat(MAX_ROOT));
    let table = [
        ("dedicated", "fusedev", "/", "sh", good.as_str(), &[][..]),
        ("dedicated", "fusedev", "/", &good, &good, &[]),
        ("dedicated", "fusedev", &long, "sh", &good, &["root = ", "at most 70 bytes"]),
        ("dedicated", "fusedev", "/", "no-such", &good, &["nydusd_path = \"no-such\""]),
        ("shared", "fusedev", "/", "/no/such", &good, &["nydusd_path = \"/no/such\""]),
        ("shared", "fusedev", "/", "sh", "/no/such", &["nydusd_config = \"/no/such\"", "No such"]),
        ("none", "fusedev", "/", "no-such", &bad, &["line 2: expected an object of JSON"]),
        ("none", "proxy", "/", "no-such", &bad, &[]),
    ];
    for (mode, driver, root, program, template, expected) in table {
        let text = format!(
            "daemon_mode = '{mode}'\nroot = '{root}'\n[daemon]\nfs_driver = '{driver}'\n\
             nydusd_path = '{program}'\nnydusd_config = '{template}'\n\
             [snapshot]\nenable_kata_volume = true"
        );
        let found = checked(&text).unwrap().obstacles().join("\n");
        assert_eq!(found.is_empty(), expected.is_empty(), "{text}: {found}");
        assert!(expected.iter().all(|word| found.contains(word)), "{text}: {found}");
        assert!(!found.contains("hunter2"), "{found}");
    }
}

#[test]
fn the_example_says_the_defaults() {
    let text = include_str!("../../../../packaging/config.toml");
    let config = checked(text).unwrap();
    assert_eq!(config.file, checked("").unwrap().file);
    assert_eq!(config.warnings, Vec::<String>::new());
}
