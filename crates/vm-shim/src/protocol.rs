//! What the shim and the agent in its guest say to each other, over a port of the virtual machine:
//! frames of one byte that tells the kind, the payload's length (32 bits, little endian) and the
//! payload.

use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

/// Longest payload, bytes.
pub const PAYLOAD: usize = 1 << 20;

/// So many frames of each output may be on their way: each that was written makes room for one.
pub const WINDOW: usize = 8;

/// Longest piece of input or output, bytes.
pub const CHUNK: usize = 16 << 10;

/// So many more frames of each output may come once the process has ended: what is left in its
/// pipe, which holds up to 1 MiB (pipe(7)), and the piece that waited for room.
pub const LAST: usize = (1 << 20) / CHUNK + 1;

/// Name of the port.
pub const PORT: &str = "nydusvm";

/// The process to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory in the container.
    pub cwd: String,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub additional_gids: Vec<u32>,
}

/// One file system for the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What is mounted.
    pub source: String,
    /// File system type.
    pub fs_type: String,
    /// Where.
    pub target: String,
    /// Mount options.
    pub options: Vec<String>,
}

#[cfg(feature = "shim")]
impl From<kata_handoff::Storage> for Mount {
    fn from(storage: kata_handoff::Storage) -> Self {
        let kata_handoff::Storage { source, fs_type, mount_point: target, options, .. } = storage;
        Self { source, fs_type, target, options }
    }
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// To be mounted, in this order; the last is the container's root.
    pub mounts: Vec<Mount>,
    /// Nothing is written to the root.
    pub read_only: bool,
    /// What it runs.
    pub process: Process,
    /// Name of the machine, empty for none.
    pub hostname: String,
}

/// One thing said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// To the guest: run this.
    Start(Box<Start>),
    /// Input for the process. The next comes after [`Frame::Taken`].
    Stdin(Vec<u8>),
    /// There is no more.
    StdinEnd,
    /// A signal for the process.
    Signal(i32),
    /// A [`Frame::Stdout`] is where it should go.
    StdoutWritten,
    /// Same.
    StderrWritten,
    /// From the guest: it is up.
    Ready,
    /// The process runs.
    Started,
    /// The process has read its input, or never will.
    Taken,
    /// What it prints.
    Stdout(Vec<u8>),
    /// Same.
    Stderr(Vec<u8>),
    /// It ended: exit code, or 128 and the signal.
    Exited(i32),
    /// It never began: why.
    Failed(String),
}

impl Frame {
    fn parts(&self) -> (u8, Vec<u8>) {
        let none = Vec::new;
        match self {
            Self::Start(start) => (1, serde_json::to_vec(start).unwrap_or_default()),
            Self::Stdin(bytes) => (2, bytes.clone()),
            Self::StdinEnd => (3, none()),
            Self::Signal(number) => (4, number.to_le_bytes().into()),
            Self::Ready => (5, none()),
            Self::Started => (6, none()),
            Self::Taken => (7, none()),
            Self::Stdout(bytes) => (8, bytes.clone()),
            Self::Stderr(bytes) => (9, bytes.clone()),
            Self::Exited(code) => (10, code.to_le_bytes().into()),
            Self::Failed(why) => (11, why.clone().into_bytes()),
            Self::StdoutWritten => (12, none()),
            Self::StderrWritten => (13, none()),
        }
    }

    fn from_parts(kind: u8, payload: Vec<u8>) -> io::Result<Self> {
        let number = || payload.as_slice().try_into().map(i32::from_le_bytes);
        let frame = match kind {
            1 => serde_json::from_slice(&payload).ok().map(Self::Start),
            2 => Some(Self::Stdin(payload)),
            3 => Some(Self::StdinEnd),
            4 => number().ok().map(Self::Signal),
            5 => Some(Self::Ready),
            6 => Some(Self::Started),
            7 => Some(Self::Taken),
            8 => Some(Self::Stdout(payload)),
            9 => Some(Self::Stderr(payload)),
            10 => number().ok().map(Self::Exited),
            11 => Some(Self::Failed(String::from_utf8_lossy(&payload).into_owned())),
            12 => Some(Self::StdoutWritten),
            13 => Some(Self::StderrWritten),
            _ => None,
        };
        frame.ok_or_else(|| invalid(&format!("frame of kind {kind}: not as expected")))
    }

    /// Reads the next one.
    ///
    /// # Errors
    /// The other side is gone; not a frame.
    pub fn read(mut from: impl Read) -> io::Result<Self> {
        let mut head = [0; 5];
        from.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = u32::from_le_bytes(length) as usize;
        if length > PAYLOAD {
            return Err(invalid(&format!("frame of {length} bytes, expected at most {PAYLOAD}")));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload)?;
        Self::from_parts(kind, payload)
    }

    /// Writes it, at once.
    ///
    /// # Errors
    /// The other side is gone; it is too long.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        let (kind, payload) = self.parts();
        if payload.len() > PAYLOAD {
            return Err(invalid(&format!("{} bytes, expected at most {PAYLOAD}", payload.len())));
        }
        let mut bytes = vec![kind];
        bytes.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(payload);
        to.write_all(&bytes)
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let process = Process {
            args: vec!["sh".to_owned()],
            env: vec![],
            cwd: "/".to_owned(),
            uid: 1,
            gid: 2,
            additional_gids: vec![3],
        };
        let mounts = vec![Mount {
            source: "overlay".to_owned(),
            fs_type: "overlay".to_owned(),
            target: "/r".to_owned(),
            options: vec!["index=off".to_owned()],
        }];
        let start = Start { mounts, read_only: true, process, hostname: "h".to_owned() };
        let frames = [
            Frame::Start(start.into()),
            Frame::Stdin(b"x".to_vec()),
            Frame::StdinEnd,
            Frame::Signal(15),
            Frame::StdoutWritten,
            Frame::StderrWritten,
            Frame::Ready,
            Frame::Started,
            Frame::Taken,
            Frame::Stdout(vec![]),
            Frame::Stderr(vec![0, 255]),
            Frame::Exited(-1),
            Frame::Failed("why".to_owned()),
        ];
        let mut bytes = Vec::new();
        frames.iter().try_for_each(|frame| frame.write(&mut bytes)).expect("a buffer");
        let mut from = bytes.as_slice();
        for frame in frames {
            assert_eq!(Frame::read(&mut from).ok(), Some(frame));
        }
        assert!(Frame::read(from).is_err(), "the end");
    }

    #[test]
    fn nonsense_is_refused() {
        for (bytes, expected) in [
            (&[0, 0, 0, 0, 0][..], "frame of kind 0: not as expected"),
            (&[1, 1, 0, 0, 0, b'{'], "frame of kind 1: not as expected"),
            (&[4, 1, 0, 0, 0, 9], "frame of kind 4: not as expected"),
            (&[2, 1, 0, 16, 0], "frame of 1048577 bytes, expected at most 1048576"),
            (&[2, 9, 0, 0, 0, 1], "failed to fill whole buffer"),
        ] {
            let error = Frame::read(bytes).expect_err("nonsense").to_string();
            assert_eq!(error, expected);
        }
        assert!(Frame::Stdin(vec![0; PAYLOAD + 1]).write(io::sink()).is_err());
    }
}
