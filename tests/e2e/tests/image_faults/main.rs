//! What goes wrong when an image is to be served: the client is told, and nothing is left.

mod liars;
mod wrong;

use nydus_e2e::bare::{LOGIN, MODES, Node, check_container, check_files, unmount};
use nydus_e2e::client::Labels;
use nydus_e2e::image::{self, Rafs};
use nydus_e2e::proxy::Fault;
use nydus_e2e::rootfs;
use nydus_e2e::service;
use nydus_e2e::stage::Stage;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;
use wrong::{WRONG, Wrong, again, real_daemon, replace_daemon, template};

#[test]
fn faults_leave_nothing() {
    let all = MODES.into_iter().flat_map(|mode| [(mode, Rafs::V5), (mode, Rafs::V6)]);
    Node::each(all, |mut node| {
        for wrong in WRONG {
            again(&mut node);
            check_wrong(&mut node, wrong);
        }
        node.clear();
    });
}

fn check_wrong(node: &mut Node, wrong: &Wrong) {
    (wrong.wrong)(node);
    let what = |node: &Node| format!("{}\n{}", wrong.what, node.snapshotter.said());
    let keys = node.expect(node.client.keys());
    let top = node.unpack();
    let client = node.client.patient_for(Duration::from_secs(10));
    for key in ["prepared", "viewed"] {
        let answer = match key {
            "viewed" => client.view(key, &top),
            _ => client.prepare(key, &top, &Labels::new()),
        };
        let error = answer.err().unwrap_or_else(|| panic!("{key}: {}", what(node)));
        let said = error.message();
        let expected = wrong.expected.split('|').any(|words| said.contains(words));
        assert!(expected && !said.contains('\n'), "{said}\n{}", what(node));
    }
    assert_eq!(node.expect(node.client.keys()), keys, "{}", what(node));
    if node.mode == "shared" {
        // The daemon waits for the next image, or for this.
        node.expect(node.client.cleanup());
    }
    node.check_left(keys.len());
    (wrong.right)(node);
    check_container(node, &node.unpack(), "right");
}

/// What is cached of an image starts it, whatever is wrong with its registry.
#[test]
fn what_is_cached_needs_no_registry() {
    let names = [
        "wrong credentials",
        "no credentials",
        "the registry is down",
        "a blob is missing",
        "the registry stalls",
        "a credential helper that hangs",
    ];
    for mut node in MODES.into_iter().filter_map(|mode| Node::start(mode, Rafs::V5)) {
        let top = node.unpack();
        check_container(&node, &top, "first");
        node.expect(node.client.remove("first"));
        for wrong in WRONG.iter().filter(|wrong| names.contains(&wrong.what)) {
            (wrong.wrong)(&mut node);
            // In dedicated mode it ends by itself.
            node.expect(node.client.cleanup());
            end_daemons(&node);
            check_container(&node, &top, wrong.what);
            node.expect(node.client.remove(wrong.what));
            (wrong.right)(&mut node);
        }
        node.clear();
    }
}

fn end_daemons(node: &Node) {
    let killed = node.daemons();
    for pid in killed.iter().copied().filter_map(rustix::process::Pid::from_raw) {
        // It may have ended.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    let ended = service::until(Duration::from_secs(20), || {
        !node.daemons().iter().any(|pid| killed.contains(pid))
    });
    assert!(ended, "{}", node.snapshotter.said());
}

/// A disk that others filled: what needs space fails, Remove does not, and then there is some.
#[test]
fn a_full_disk_is_survived() {
    fn small(stage: &Stage) {
        fs::create_dir_all(stage.join("s/r")).expect("a directory");
        let options = Some(c"size=24m");
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("disk", stage.join("s/r"), "tmpfs", flags, options).expect("tmpfs");
    }
    for node in MODES.into_iter().filter_map(|mode| Node::start_on(mode, Rafs::V6, small)) {
        let top = node.unpack();
        let keys = node.expect(node.client.keys());
        let filler = node.snapshotter.root().join("filler");
        let client = node.client.patient_for(Duration::from_secs(10));
        for spare in [0, 4096, 16384] {
            fill(&filler, spare);
            let error = client.prepare("full", &top, &Labels::new()).expect_err("a full disk");
            let said = error.message();
            let expected = said.contains("No space left on device");
            assert!(expected, "{spare}: {said}\n{}", node.snapshotter.said());
            assert_eq!(node.expect(node.client.keys()), keys);
            node.check_left(keys.len());
        }
        node.expect(node.client.remove(&top));
        fs::remove_file(&filler).expect("a file to remove");
        check_container(&node, &node.unpack(), "after");
        node.clear();
    }
}

/// Makes a file that leaves this many bytes of the disk free.
fn fill(path: &Path, spare: u64) {
    let mut file = File::create(path).expect("a file");
    for block in [1 << 20, 4096] {
        while file.write_all(&vec![1; block]).is_ok() {}
    }
    let blocks = file.metadata().expect("a file").len() / 4096;
    file.set_len(blocks * 4096 - spare).expect("a file to shorten");
}

/// A nydusd that takes long: who waits for it can give up, and nobody else waits.
#[test]
fn a_client_gives_up() {
    let Some(mut node) = Node::start("dedicated", Rafs::V6) else { return };
    let top = node.unpack();
    // The program is asked for its options once.
    check_container(&node, &top, "c0");
    node.expect(node.client.remove("c0"));
    node.expect(node.client.cleanup());
    let second = node.unpack_another();
    let keys = node.expect(node.client.keys());
    let real = fs::canonicalize(node.stage.join("nydusd")).expect("nydusd");
    replace_daemon(&node, &format!("#!/bin/sh\nsleep 5\nexec {} \"$@\"\n", real.display()));
    let impatient = node.client.patient_for(Duration::from_millis(300));
    let error = impatient.prepare("slow", &top, &Labels::new()).expect_err("too late");
    assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
    let started = || node.daemons().len() == 1;
    assert!(service::until(Duration::from_secs(10), started), "{}", node.snapshotter.said());
    real_daemon(&mut node);
    let quick = node.client.patient_for(Duration::from_secs(3));
    node.expect(quick.prepare("quick", &second, &Labels::new()));
    assert!(node.client.stat("slow").is_ok(), "it is still being mounted");
    node.expect(node.client.remove("quick"));
    node.expect(node.client.cleanup());
    let undone = || node.daemons().is_empty() && node.client.keys().is_ok_and(|now| now == keys);
    assert!(service::until(Duration::from_secs(15), undone), "{}", node.snapshotter.said());
    node.check_left(keys.len());
    check_container(&node, &top, "c1");
    node.clear();
}

/// Also one that asks for the mounts of a container that is there, while the registry stalls:
/// with the daemon up already, and before it is.
#[test]
fn a_client_gives_up_the_mounts() {
    for mut node in MODES.into_iter().filter_map(|mode| Node::start(mode, Rafs::V6)) {
        let top = node.unpack();
        node.container("c1", &top);
        for fault in [Fault::Stall, Fault::None] {
            node.snapshotter.service().kill();
            service::end_naming(&node.snapshotter.root());
            // What is cached would be given without a question.
            fs::remove_dir_all(node.snapshotter.root().join("cache")).expect("a cache");
            node.snapshotter.restart();
            node.fail(fault.clone());
            let millis = if fault == Fault::None { 5 } else { 1500 };
            let impatient = node.client.patient_for(Duration::from_millis(millis));
            let error = impatient.mounts("c1").expect_err("too late");
            assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
            // The snapshotter learns of it meanwhile.
            sleep(Duration::from_millis(300));
            node.fail(Fault::None);
            let mounts = node.expect(node.client.mounts("c1"));
            let root = node.mount(&mounts[0], "m1");
            check_files(&root);
            unmount(&root);
        }
        node.clear();
    }
}

/// An image with wrong credentials, of which nothing is cached, is refused; nydusd, which prefetches,
/// goes on for the other.
#[test]
fn a_refused_image_harms_no_other() {
    let Some(node) = Node::start("shared", Rafs::V6) else { return };
    let text = fs::read_to_string(template(&node)).expect("a template");
    let eager = r#""fs_prefetch":{"enable":true,"threads_count":4,"prefetch_all":true}"#;
    let text = text.replace(r#""fs_prefetch":{"enable":false}"#, eager);
    assert!(text.contains(eager));
    fs::write(template(&node), text).expect("a template");
    let root = node.mount(&node.container("c1", &node.unpack()), "m1");
    let before = node.daemons();
    let layers = [node.stage.join("layer3")];
    rootfs::layer(&layers[0], &[("data/other", b"other\n")]);
    let other = image::nydus(&node.stage.join("other"), &layers, node.version).expect("an image");
    node.registry.push(&other, "test/image", "other");
    let names = node.expect(node.client.unpack(&other, &node.labels("other")));
    let second = names.last().expect("a layer");
    node.snapshotter.login(&node.host, (LOGIN.0, "wrong"));
    let refused = node.client.prepare("c2", second, &Labels::new()).expect_err("credentials");
    assert!(refused.message().contains("refuses the credentials"), "{refused}");
    node.snapshotter.login(&node.host, LOGIN);
    check_files(&root);
    assert_eq!(node.daemons(), before, "{}", node.snapshotter.said());
    unmount(&root);
    node.clear();
}
