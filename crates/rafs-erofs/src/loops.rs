//! Loop devices that go by themselves.

use crate::ioctl;
use rustix::io::Errno;
use std::fs::File;
use std::path::PathBuf;

/// How often somebody else may be faster to take a free device.
const TRIES: usize = 64;

/// A loop device. The last one to close it frees it: this, or a mount; so nothing is left of a
/// process that was killed.
#[derive(Debug)]
pub(crate) struct Loop {
    pub(crate) path: PathBuf,
    _device: File,
}

impl Loop {
    /// A device that shows `file`.
    pub(crate) fn of(file: &File) -> Result<Self, String> {
        let named = |path: &str, error: std::io::Error| format!("{path}: {error}");
        let control = "/dev/loop-control";
        let free = File::open(control).map_err(|error| named(control, error))?;
        let mut tries = 0..TRIES;
        loop {
            let number =
                ioctl::loop_get_free(&free).map_err(|error| named(control, error.into()))?;
            let path = format!("/dev/loop{number}");
            let device = File::open(&path).map_err(|error| named(&path, error))?;
            match ioctl::loop_configure(&device, file) {
                Ok(()) => return Ok(Self { path: path.into(), _device: device }),
                Err(Errno::BUSY) if tries.next().is_some() => {}
                Err(error) => return Err(named(&path, error.into())),
            }
        }
    }
}
