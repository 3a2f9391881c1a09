//! The program `containerd-nydus-grpc`.
fn main() {}
