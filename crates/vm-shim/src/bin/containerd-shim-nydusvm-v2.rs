//! `containerd-shim-nydusvm-v2`: runs a container of a Nydus image in a virtual machine of its
//! own, from the mount slice alone. A reference for authors of runtimes: no network, no terminal,
//! no exec, no claims on security.

use containerd_shim::{Config, asynchronous::run};
use vm_shim::shim::Service;

#[tokio::main]
async fn main() {
    // Each child has somebody who waits for it; one who waits for all would take them away.
    let config = Config { no_reaper: true, no_sub_reaper: true, ..Config::default() };
    run::<Service>("io.containerd.nydusvm.v2", Some(config)).await;
}
