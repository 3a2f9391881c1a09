//! containerd's fifos for input and output of a container.

use super::sandbox::Failure;
use crate::protocol::{CHUNK, LAST, WINDOW};
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
    pieces: mpsc::SyncSender<Vec<u8>>,
    end: mpsc::Receiver<()>,
}

impl Output {
    /// `written` is called after each piece.
    pub fn new(mut file: Option<File>, written: impl Fn() + Send + 'static) -> Self {
        let (pieces, queue) = mpsc::sync_channel::<Vec<u8>>(WINDOW + LAST);
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

    /// Never waits. A guest sends no more than [`WINDOW`] pieces ahead, [`LAST`] more after its end,
    /// and none above [`CHUNK`]; one that does is not ours.
    ///
    /// # Errors
    /// There is no room: the guest does not keep to the protocol.
    pub fn write(&self, bytes: Vec<u8>) -> Result<(), Overflow> {
        if bytes.len() > CHUNK {
            return Err(Overflow);
        }
        match self.pieces.try_send(bytes) {
            Err(mpsc::TrySendError::Full(_)) => Err(Overflow),
            // Its thread ends with us.
            _ => Ok(()),
        }
    }

    /// Waits until all is written, but not for a reader that has stopped.
    pub fn finish(self, limit: Instant) {
        drop(self.pieces);
        let _ = self.end.recv_timeout(limit.saturating_duration_since(Instant::now()));
    }
}

/// A guest that sends output which nobody has asked for.
#[derive(Debug)]
pub struct Overflow;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// A reader that has stopped: no more is held for it than the window.
    #[test]
    fn a_flood_is_refused() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let output = Output::new(Some(file), || {});
        let piece = || vec![b'x'; CHUNK];
        assert!(output.write(vec![0; CHUNK + 1]).is_err());
        let taken = (0..1000).take_while(|_| output.write(piece()).is_ok()).count();
        // The pipe, the piece that is being written, and those that wait.
        let (least, most) = (WINDOW + LAST, WINDOW + LAST + (64 << 10) / CHUNK + 1);
        assert!((least..=most).contains(&taken), "{taken}");
        let drained =
            thread::spawn(move || std::io::copy(&mut reader.by_ref(), &mut std::io::sink()));
        output.finish(Instant::now() + std::time::Duration::from_secs(30));
        let drained = drained.join().expect("a reader").expect("bytes");
        assert_eq!(drained, (taken * CHUNK) as u64);
    }
}
