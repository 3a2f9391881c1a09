//! What is undone, and when.

use crate::host::on;
use kata_handoff::{Guest, Reader};
use nydus_e2e::handoff::Wire;
use nydus_e2e::image::Rafs;
use nydus_e2e::node::LIMIT;
use nydusd_client::Client;
use rustix::process::Signal;
use std::time::Duration;

#[test]
fn a_dead_nydusd_is_in_nobodys_way() {
    for reader in [Reader::Go, Reader::Rust] {
        on(reader, Rafs::V6, async |host| {
            host.guest.add("c1", &host.rootfs()).await.expect("c1");
            host.signal(Signal::KILL);
            host.daemon.ended().await;
            let error = host.guest.add("c2", &host.rootfs()).await.expect_err("it is dead");
            assert!(error.to_string().contains("api.sock"), "{error}");
            host.guest.remove("c1").await.expect("c1 goes all the same");
        });
    }
}

/// Whether a call was carried out that `nydusd` did not answer is not known: it is undone.
#[test]
fn what_is_not_answered_is_undone() {
    on(Reader::Go, Rafs::V6, async |host| {
        let wire = Wire::new(&host.stage.join("wire.sock"), host.daemon.client().socket());
        let client = Client::new(wire.socket());
        host.daemon.client().unmount("/containers").await.expect("served");
        wire.lose("POST ");
        let lost = Guest::attach(host.share.clone(), client.clone()).await.expect_err("lost");
        assert!(lost.to_string().contains("the connection broke"), "{lost}");
        assert!(!host.serves("/containers").await);
        wire.lose("none");
        let guest = Guest::attach(host.share.clone(), client).await.expect("a guest");
        wire.lose("POST ");
        let lost = guest.add("c1", &host.rootfs()).await.expect_err("lost");
        assert!(lost.to_string().contains("the connection broke"), "{lost}");
        assert!(!host.serves("/rafs/c1/lowerdir").await);
        host.is_clean();
        wire.lose("none");
        guest.add("c2", &host.rootfs()).await.expect("c2");
        wire.lose("DELETE ");
        // The snapshot is out of the share all the same.
        let lost = guest.remove("c2").await.expect_err("lost");
        assert!(lost.to_string().contains("the connection broke"), "{lost}");
        host.is_clean();
        wire.lose("none");
        guest.remove("c2").await.expect("it may be gone already");
    });
}

/// A caller that goes away leaves nothing half done.
#[test]
fn who_does_not_wait_leaves_nothing() {
    on(Reader::Go, Rafs::V6, async |host| {
        host.signal(Signal::STOP);
        let rootfs = host.rootfs();
        let added = tokio::time::timeout(Duration::from_millis(50), host.guest.add("c1", &rootfs));
        assert!(added.await.is_err(), "nydusd has answered");
        host.signal(Signal::CONT);
        let gone = async {
            while host.serves("/rafs/c1/lowerdir").await
                || host.share.containers().is_ok_and(|c| !c.is_empty())
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, gone).await.expect("it is undone");
    });
}
