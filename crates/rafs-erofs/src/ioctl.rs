//! The calls that no library has. All unsafe code of this crate.

#![allow(unsafe_code, reason = "see above")]

use rustix::io::{Errno, Result};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Setter, Updater, ioctl, opcode};
use std::ffi::c_void;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
struct LoopInfo {
    numbers: [u64; 5],
    /// lo_number, lo_encrypt_type, lo_encrypt_key_size.
    unused: [u32; 3],
    flags: u32,
    names: [[u8; 64]; 2],
    key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LOOP_CONFIGURE: Opcode = 0x4c0a;

/// LOOP_CONFIGURE: `device`, an open loop device, shows `file`, for reading, until it is closed.
pub(crate) fn loop_configure(device: &File, file: &File) -> Result<()> {
    let config = LoopConfig {
        fd: file.as_raw_fd().cast_unsigned(),
        block_size: 0,
        info: LoopInfo {
            numbers: [0; 5],
            unused: [0; 3],
            flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR,
            names: [[0; 64]; 2],
            key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: LOOP_CONFIGURE reads a `struct loop_config`, which `LoopConfig` is.
    unsafe { ioctl(device, Setter::<LOOP_CONFIGURE, LoopConfig>::new(config)) }
}

struct LoopGetFree;

// SAFETY: LOOP_CTL_GET_FREE takes no argument and answers a number.
unsafe impl Ioctl for LoopGetFree {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        0x4c82
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> Result<i32> {
        Ok(output)
    }
}

/// LOOP_CTL_GET_FREE: the number of a loop device that nobody uses at the moment.
pub(crate) fn loop_get_free(control: &File) -> Result<i32> {
    // SAFETY: as `LoopGetFree` says.
    unsafe { ioctl(control, LoopGetFree) }
}

/// `struct fsverity_enable_arg` of linux/fsverity.h.
#[repr(C)]
struct VerityEnable {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    /// salt_size, salt_ptr, sig_size, reserved, sig_ptr.
    unused: [u32; 7],
    reserved: [u64; 11],
}

/// `struct fsverity_digest` of linux/fsverity.h, with room for the largest.
#[repr(C)]
struct VerityDigest {
    algorithm: u16,
    size: u16,
    digest: [u8; DIGEST],
}

const _: () = assert!(size_of::<VerityEnable>() == 128);
const DIGEST: usize = 64;
/// FS_VERITY_HASH_ALG_SHA256.
const SHA256: u32 = 1;
const FS_IOC_ENABLE_VERITY: Opcode = opcode::write::<VerityEnable>(b'f', 133);
/// The length in it is that of the header alone.
const FS_IOC_MEASURE_VERITY: Opcode = opcode::read_write::<[u16; 2]>(b'f', 134);

/// FS_IOC_ENABLE_VERITY with SHA-256 and blocks of 4096 bytes: `file` can never be written again.
/// Waits until all of it was read.
pub(crate) fn verity_enable(file: &File) -> Result<()> {
    let argument = VerityEnable {
        version: 1,
        hash_algorithm: SHA256,
        block_size: 4096,
        unused: [0; 7],
        reserved: [0; 11],
    };
    // SAFETY: FS_IOC_ENABLE_VERITY reads a `struct fsverity_enable_arg`, which `VerityEnable` is;
    // salt and signature have length 0.
    unsafe { ioctl(file, Setter::<FS_IOC_ENABLE_VERITY, VerityEnable>::new(argument)) }
}

/// FS_IOC_MEASURE_VERITY: the digest that fs-verity guards `file` with.
pub(crate) fn verity_measure(file: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let mut digest = VerityDigest { algorithm: 0, size: DIGEST as u16, digest: [0; DIGEST] };
    // SAFETY: FS_IOC_MEASURE_VERITY writes a `struct fsverity_digest` and at most as many bytes
    // behind it as its size says, which `VerityDigest` has room for.
    unsafe {
        let call = Updater::<FS_IOC_MEASURE_VERITY, VerityDigest>::new(&mut digest);
        ioctl(file.as_fd(), call)?;
    }
    let digest = digest.digest.get(..usize::from(digest.size));
    digest.map(<[u8]>::to_vec).ok_or(Errno::OVERFLOW)
}
