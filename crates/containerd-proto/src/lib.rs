//! The parts of containerd's gRPC contracts that this project serves (snapshots) and that its
//! tests call (CRI's image service, containers), generated from `proto/`.

#![forbid(unsafe_code)]
#![allow(missing_docs, unreachable_pub, reason = "generated code")]

/// `containerd.services.snapshots.v1`.
pub mod snapshots {
    tonic::include_proto!("containerd.services.snapshots.v1");
}

/// `runtime.v1` of Kubernetes, as far as tests call it.
#[cfg(feature = "client")]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// `containerd.services.containers.v1`, as far as tests call it.
#[cfg(feature = "client")]
pub mod containers {
    tonic::include_proto!("containerd.services.containers.v1");
}

/// What our snapshotter serves beside the snapshots.
pub mod nydus {
    tonic::include_proto!("nydus.snapshotter.v1");
}
