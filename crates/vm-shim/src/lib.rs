//! stub
#![allow(missing_docs)]
#[cfg(feature = "shim")]
pub mod shim;
pub mod protocol {
    use kata_handoff::Storage;
    #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    pub struct Process {
        pub args: Vec<String>,
        pub env: Vec<String>,
        pub cwd: String,
        pub uid: u32,
        pub gid: u32,
        pub additional_gids: Vec<u32>,
    }
    #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    pub struct Start {
        pub storage: Storage,
        pub process: Process,
        pub hostname: String,
    }
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Frame {
        Start(Start),
        Stdin(Vec<u8>),
        StdinEnd,
        Signal(i32),
        Ready,
        Started,
        Stdout(Vec<u8>),
        Stderr(Vec<u8>),
        Exited(i32),
        Failed(String),
    }
}
pub mod vm {
    use super::protocol::Frame;
    use std::{io, path::PathBuf, time::Duration};
    pub struct Config {
        pub qemu: PathBuf,
        pub kernel: PathBuf,
        pub modules: PathBuf,
        pub agent: PathBuf,
        pub memory_mib: u32,
        pub directory: PathBuf,
        pub vhost_socket: PathBuf,
    }
    pub struct Vm;
    impl Vm {
        pub fn start(_: &Config) -> io::Result<Self> {
            Ok(Self)
        }
        pub fn pid(&self) -> u32 {
            0
        }
        pub fn receive(&self) -> io::Result<Frame> {
            Ok(Frame::Ready)
        }
        pub fn send(&self, _: &Frame) -> io::Result<()> {
            Ok(())
        }
        pub fn wait(&self, _: Duration) -> io::Result<()> {
            Ok(())
        }
        pub fn kill(&self) {}
    }
}
