//! A FUSE program with one file, `hello`, that user and group 1000 own:
//! `tinyfs SOURCE TARGET [-o OPTIONS]`. With `idmap` among the options its mount can be id-mapped.
//! `source` holds what stood for SOURCE, `options` what stood behind -o.

use nydus_e2e::fuse::{DIRECTORY, FILE, Node, bytes, entries, long, part, serve_one, word};
use rustix::mount::MountFlags;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

const NAMES: [&str; 3] = ["hello", "source", "options"];
const ENOENT: i32 = 2;
const ENOSYS: i32 = 38;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--serve", source, options] => serve(source, options),
        [source, target] => mount(source, target, ""),
        [source, target, "-o", options] => mount(source, target, options),
        _ => panic!("usage: tinyfs SOURCE TARGET [-o OPTIONS]"),
    }
}

/// Mounts, and lets a process of its own serve: who called waits for this one.
fn mount(source: &str, target: &str, options: &str) {
    let session = File::options().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
    let number = session.as_raw_fd();
    let data =
        format!("fd={number},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions");
    let data = std::ffi::CString::new(data).expect("a string");
    rustix::mount::mount(source, target, c"fuse.tinyfs", MountFlags::empty(), data.as_c_str())
        .expect("a mount");
    let mut command = Command::new("/proc/self/exe");
    command.args(["--serve", source, options]).stdin(Stdio::from(OwnedFd::from(session)));
    #[allow(clippy::zombie_processes, reason = "it outlives this process")]
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a process");
}

fn serve(source: &str, options: &str) {
    let session = File::from(rustix::io::dup(std::io::stdin()).expect("a session"));
    let texts = ["hello\n", source, options];
    while serve_one(&session, |request| reply(request, texts, options)).is_ok() {}
}

fn node(number: u64, texts: [&str; 3]) -> Node {
    match texts.get((number as usize).wrapping_sub(2)) {
        Some(text) => Node { number, mode: FILE, size: text.len() as u64, owner: 1000 },
        None => Node { number, mode: DIRECTORY, size: 0, owner: 0 },
    }
}

fn reply(request: &[u8], texts: [&str; 3], options: &str) -> Option<Result<Vec<u8>, i32>> {
    let (operation, number, body) = (word(request, 4), long(request, 16), &request[40..]);
    Some(Ok(match operation {
        // FORGET, BATCH_FORGET, INTERRUPT
        2 | 42 | 36 => return None,
        // LOOKUP
        1 => {
            let name = body.strip_suffix(b"\0").unwrap_or(body);
            match NAMES.iter().zip(2..).find(|(known, _)| known.as_bytes() == name) {
                Some((_, number)) => {
                    [bytes(&[number, 0, 0, 0, 0]), node(number, texts).attributes()].concat()
                }
                None => return Some(Err(ENOENT)),
            }
        }
        // GETATTR
        3 => [vec![0; 16], node(number, texts).attributes()].concat(),
        // OPEN, OPENDIR
        14 | 27 => bytes(&[0, 0]),
        // READ, READDIR
        15 => part(texts[number as usize - 2].as_bytes(), body),
        28 => {
            part(&entries(NAMES.iter().zip(2..).map(|(name, number)| (*name, number, true))), body)
        }
        // STATFS
        17 => bytes(&[0, 0, 0, 0, 0, 255 << 32 | 4096, 4096, 0, 0, 0]),
        // RELEASE, FLUSH, RELEASEDIR, DESTROY
        18 | 25 | 29 | 38 => Vec::new(),
        // INIT
        26 => init(body, options.split(',').any(|word| word == "idmap")),
        _ => return Some(Err(ENOSYS)),
    }))
}

/// `struct fuse_init_out`.
fn init(body: &[u8], idmap: bool) -> Vec<u8> {
    const FUSE_INIT_EXT: u32 = 1 << 30;
    const FUSE_ALLOW_IDMAP: u32 = 1 << (40 - 32);
    let minor = word(body, 4).min(41);
    let (flags, flags2) = if idmap { (FUSE_INIT_EXT, FUSE_ALLOW_IDMAP) } else { (0, 0) };
    // Major and minor, readahead, flags; limits; the largest write, time granularity, pages and
    // alignment, and the second half of the flags.
    let mut reply: Vec<u8> =
        [7, minor, 0, flags, 0, 4096, 1, 0, flags2].map(u32::to_ne_bytes).concat();
    reply.resize(64, 0);
    reply
}
