//! How a container ends, whatever its guest says or does not.

use crate::bench::Bench;
use crate::world::named;
use nydus_e2e::node::LIMIT;
use nydus_e2e::rootfs::noise;
use nydus_e2e::{machines, service};
use rustix::fs::{CWD, FileType};
use rustix::process::Signal;
use std::fs::{self, File};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use vm_shim::shim::container::State;

/// A client that has stopped reading hides nothing: the container can be ended.
#[test]
fn output_that_nobody_reads_hides_no_end() {
    let Some(bench) = Bench::new() else { return };
    let fifo = bench.node.stage.join("stdout");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, 0o600.into(), 0).expect("a fifo");
    let qemu = bench.settings.qemu.clone();
    let container = bench.container(&qemu, &fifo.to_string_lossy(), "exec cat /data/big");
    bench.wait(container.start()).expect("a process");
    let mut reader = File::options().read(true).write(true).open(&fifo).expect("a fifo");
    let full = || rustix::io::ioctl_fionread(&reader).is_ok_and(|bytes| bytes == FIFO as u64);
    assert!(service::until(LIMIT, full), "{:?}", container.state());
    bench.wait(container.kill(15)).expect("a signal");
    assert_eq!(bench.wait(container.wait()).0, 128 + 15);
    let mut bytes = vec![0; FIFO];
    reader.read_exact(&mut bytes).expect("what was printed");
    assert!(bytes == noise(FIFO), "something else");
    bench.end(&container);
}

/// Bytes that a fifo holds.
const FIFO: usize = 64 << 10;

/// The end is the end, whatever the guest says later; a process may end before anybody looks.
#[test]
fn an_end_is_final() {
    let Some(bench) = Bench::new() else { return };
    let go = bench.node.stage.join("go");
    let started = r"printf '\006\0\0\0\0' >&3";
    let waits = format!("while [ ! -e {} ]; do sleep 0.05; done", go.display());
    let script = format!("({waits}; {started}) &\nexec sleep 1000");
    let container = bench.container(&bench.agent(&script), "", "");
    bench.wait(container.kill(15)).expect("a signal");
    fs::write(go, "").expect("a file");
    assert!(service::until(LIMIT, || Arc::strong_count(&container) == 1), "somebody listens");
    assert!(
        matches!(container.state(), State::Stopped { code: 143, .. }),
        "{:?}",
        container.state()
    );
    bench.wait(container.remove()).expect("nothing is left");

    let script = r"dd bs=65536 count=1 of=/dev/null 2>&1; printf '\012\004\0\0\0\007\0\0\0' >&3";
    let container = bench.container(&bench.agent(script), "", "");
    bench.wait(container.start()).expect("it has run");
    assert_eq!(bench.wait(container.wait()).0, 7);
    bench.end(&container);
}

/// A `nydusd` that does not answer is no reason to leave anything, nor is a caller that is gone.
#[test]
fn a_sandbox_goes_in_any_case() {
    let Some(bench) = Bench::new() else { return };
    let Bench { settings, slice, runtime, .. } = &bench;
    let directory = settings.directory("test", "c1");
    let slices = std::slice::from_ref(slice);
    let (sandbox, _) = runtime.block_on(machines::made(settings, slices)).expect("a sandbox");
    service::signal(&named(&directory, "nydusd"), Signal::STOP);
    bench.wait(sandbox.remove()).expect("nothing is left");
    let nothing = || !directory.exists() && service::naming(&directory).is_empty();
    assert!(nothing());
    for limit in [0, 1, 5, 10, 20, 40, 80] {
        let made = async {
            let limit = Duration::from_millis(limit);
            tokio::time::timeout(limit, machines::made(settings, slices)).await
        };
        if let Ok(made) = runtime.block_on(made) {
            bench.wait(made.expect("a sandbox").0.remove()).expect("nothing is left");
        }
        assert!(service::until(LIMIT, nothing), "{limit}");
        let mounts = nydus_e2e::mounts::mounts();
        assert!(!mounts.iter().any(|mount| mount.point.starts_with(&directory)), "{mounts:?}");
    }
    bench.node.clear();
}

/// Bytes that a guest prints, and what is held of them at most.
const FLOOD: usize = 64 << 20;
const HELD: u64 = 1 << 20;

/// A guest that sends output which nobody asked for loses its container, and nothing else.
#[test]
fn a_flood_of_output_ends_one_container() {
    let Some(bench) = Bench::new() else { return };
    let fifo = bench.node.stage.join("stdout");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, 0o600.into(), 0).expect("a fifo");
    let started = r"dd bs=65536 count=1 of=/dev/null 2>&1; printf '\006\0\0\0\0' >&3";
    let piece = r"printf '\010\0\0\001\0' >&3; head -c 65536 /dev/zero >&3";
    let script = format!("{started}\nwhile :; do {piece} || exit; done");
    let container = bench.container(&bench.agent(&script), &fifo.to_string_lossy(), "");
    bench.wait(container.start()).expect("a process");
    assert_eq!(bench.wait(container.wait()).0, 255);
    let State::Stopped { why: Some(why), .. } = container.state() else { panic!("no reason") };
    assert_eq!(why, "the guest sends more output than was asked for");
    bench.end(&container);
}

/// What a guest's kernel and its QEMU print is held to its end, and the end is told.
#[test]
fn a_flood_on_the_console_is_not_kept() {
    let Some(bench) = Bench::new() else { return };
    let print = format!("head -c {FLOOD} /dev/zero | tr '\\0' x");
    let failed = r"printf '\013\003\0\0\0why' >&3";
    let script = format!(
        "dd bs=65536 count=1 of=/dev/null 2>&1\n{print}\n{print} >&2\necho\necho the end\n{failed}"
    );
    let container = bench.container(&bench.agent(&script), "", "");
    let error = bench.wait(container.start()).expect_err("it failed").to_string();
    assert!(error.starts_with("why; ") && error.ends_with("; the end"), "{error}");
    assert!(error.len() < 8 << 10, "{}", error.len());
    let directory = bench.settings.directory("test", "c1");
    let files = fs::read_dir(directory).expect("a directory").flatten();
    let held: u64 = files.map(|file| file.metadata().expect("a file").len()).sum();
    assert!(held < HELD, "{held}");
    bench.end(&container);
}
