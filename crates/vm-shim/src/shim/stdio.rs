//! containerd's fifos for input and output of a container.

use super::sandbox::Failure;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;
use tokio::net::unix::pipe;

/// What a container reads and writes; opened before anything is made for it.
#[derive(Debug)]
pub struct Stdio {
    /// Input, if there is any.
    pub stdin: Option<pipe::Receiver>,
    /// Standard output and standard error, if somebody wants them.
    pub outputs: [Option<File>; 2],
}

impl Stdio {
    /// Opens the fifos at these paths, empty for none; each for both ways: clients that come and
    /// go are no end of the input, and no failure of the output.
    ///
    /// # Errors
    /// Not a fifo's path; it cannot be opened.
    pub fn open(stdin: &str, stdout: &str, stderr: &str) -> Result<Self, Failure> {
        let input = |path: &str| pipe::OpenOptions::new().read_write(true).open_receiver(path);
        let output = |path: &str| OpenOptions::new().read(true).write(true).open(path);
        Ok(Self {
            stdin: open(stdin, input)?,
            outputs: [open(stdout, output)?, open(stderr, output)?],
        })
    }
}

fn open<T>(path: &str, open: impl Fn(&str) -> std::io::Result<T>) -> Result<Option<T>, Failure> {
    if path.contains("://") {
        return Err(format!("{path:?}: expected the path of a fifo").into());
    }
    if path.is_empty() {
        return Ok(None);
    }
    Ok(Some(open(path).map_err(|error| format!("cannot open {path}: {error}"))?))
}

/// An output. It is written by a thread of its own: a reader that has stopped must not hide what
/// else the guest says.
#[derive(Debug)]
pub struct Output {
    pieces: mpsc::Sender<Vec<u8>>,
    end: mpsc::Receiver<()>,
}

impl Output {
    /// `written` is called after each piece.
    pub fn new(mut file: Option<File>, written: impl Fn() + Send + 'static) -> Self {
        let (pieces, queue) = mpsc::channel::<Vec<u8>>();
        let (running, end) = mpsc::channel();
        thread::spawn(move || {
            for bytes in queue {
                // A reader that went away is no failure of the container.
                if file.as_mut().is_some_and(|file| file.write_all(&bytes).is_err()) {
                    file = None;
                }
                written();
            }
            drop(running);
        });
        Self { pieces, end }
    }

    /// Never waits; the guest sends no more than [`WINDOW`](crate::protocol::WINDOW) pieces ahead.
    pub fn write(&self, bytes: Vec<u8>) {
        let _ = self.pieces.send(bytes);
    }

    /// Waits until all is written, but not for a reader that has stopped.
    pub fn finish(self, limit: Instant) {
        drop(self.pieces);
        let _ = self.end.recv_timeout(limit.saturating_duration_since(Instant::now()));
    }
}
