//! `containerd-shim-nydusvm-v2`: runs a container of a Nydus image in a virtual machine of its
//! own, from the mount slice alone. A reference for authors of runtimes: no network, no terminal,
//! no exec, no claims on security.

use vm_shim::shim::Service;

#[tokio::main]
async fn main() {
    containerd_shim::asynchronous::run::<Service>("io.containerd.nydusvm.v2", None).await;
}
