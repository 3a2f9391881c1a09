//! The TOML file: keys, sections and defaults of the Go snapshotter, version 1.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

macro_rules! sections {
    ($($(#[$doc:meta])* $name:ident { $($key:ident: $type:ty = $default:expr,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        #[allow(missing_docs, reason = "named as in the file")]
        pub struct $name { $(pub $key: $type,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }
    )*};
}

sections! {
    /// The whole file.
    File {
        version: u32 = 1,
        root: PathBuf = "/var/lib/containerd/io.containerd.snapshotter.v1.nydus".into(),
        address: PathBuf = "/run/containerd-nydus/containerd-nydus-grpc.sock".into(),
        uid: u32 = 0,
        gid: u32 = 0,
        daemon_mode: String = "dedicated".into(),
        cleanup_on_close: bool = false,
        system: System = System::default(),
        daemon: Daemon = Daemon::default(),
        cgroup: Cgroup = Cgroup::default(),
        log: Log = Log::default(),
        metrics: Metrics = Metrics::default(),
        remote: Remote = Remote::default(),
        snapshot: Snapshot = Snapshot::default(),
        cache_manager: CacheManager = CacheManager::default(),
        native: Native = Native::default(),
        image: Image = Image::default(),
        experimental: toml::Table = toml::Table::new(),
    }

    /// `[system]`: the Go snapshotter's own API, which is not built.
    System {
        enable: bool = true,
        address: PathBuf = "/run/containerd-nydus/system.sock".into(),
        uid: u32 = 0,
        gid: u32 = 0,
        debug: toml::Table = toml::Table::new(),
    }

    /// `[daemon]`.
    Daemon {
        nydusd_path: PathBuf = "nydusd".into(),
        nydusimage_path: PathBuf = PathBuf::new(),
        nydusd_config: PathBuf = "/etc/nydus/nydusd-config.json".into(),
        fs_driver: String = "fusedev".into(),
        recover_policy: String = "restart".into(),
        threads_number: u32 = 0,
        log_rotation_size: u32 = 100,
        failover_policy: String = "resend".into(),
    }

    /// `[cgroup]`.
    Cgroup {
        enable: bool = false,
        memory_limit: String = String::new(),
    }

    /// `[log]`.
    Log {
        log_to_stdout: bool = true,
        level: String = "info".into(),
        dir: PathBuf = PathBuf::new(),
        log_rotation_max_size: u64 = 200,
        log_rotation_max_backups: u32 = 5,
        log_rotation_max_age: u32 = 0,
        log_rotation_local_time: bool = true,
        log_rotation_compress: bool = true,
    }

    /// `[metrics]`.
    Metrics {
        address: String = String::new(),
        hung_io_interval: String = "10s".into(),
        collect_interval: String = "1m".into(),
    }

    /// `[remote]`.
    Remote {
        convert_vpc_registry: bool = false,
        skip_ssl_verify: bool = false,
        mirrors_config: Mirrors = Mirrors::default(),
        auth: Auth = Auth::default(),
    }

    /// `[remote.mirrors_config]`.
    Mirrors {
        dir: PathBuf = PathBuf::new(),
    }

    /// `[remote.auth]`.
    Auth {
        enable_kubeconfig_keychain: bool = false,
        kubeconfig_path: String = String::new(),
        enable_cri_keychain: bool = false,
        image_service_address: String = String::new(),
        enable_kubelet_credential_providers: bool = false,
        credential_provider_config: String = String::new(),
        credential_provider_bin_dir: String = String::new(),
        credential_renewal_interval: String = String::new(),
    }

    /// `[snapshot]`.
    Snapshot {
        enable_nydus_overlayfs: bool = false,
        nydus_overlayfs_path: String = "nydus-overlayfs".into(),
        enable_kata_volume: bool = false,
        sync_remove: bool = false,
        enable_overlayfs_volatile: bool = false,
    }

    /// `[cache_manager]`.
    CacheManager {
        disable: bool = false,
        gc_period: String = "24h".into(),
        cache_dir: PathBuf = PathBuf::new(),
    }

    /// `[native]`, which the Go snapshotter does not know.
    Native {
        kernel_native: String = "auto".into(),
        warm: String = "never".into(),
        warm_rate: String = "50MiB".into(),
    }

    /// `[image]`.
    Image {
        public_key_file: String = String::new(),
        validate_signature: bool = false,
    }
}
