//! The program `nydus-overlayfs`: takes argv from the system and hands it to the library.
#![no_main]
#![cfg_attr(feature = "freestanding", no_std)]

use core::ffi::{CStr, c_char};
use nydus_overlayfs::Standard;
use rustix::stdio::{stderr, stdin, stdout};

#[cfg(feature = "freestanding")]
mod freestanding;

/// # Safety
/// `argv` must point to `argc` C strings that stay valid, may be written to, and are used by
/// nobody else until the process ends; so it is at the start of a process.
unsafe fn start(argc: usize, argv: *const *mut c_char) -> u8 {
    for index in 1..argc {
        // SAFETY: index < argc, and the caller promises strings that may be written to. The
        // length is that of the string, and no other reference to it exists yet.
        let argument = unsafe {
            let argument = *argv.add(index);
            core::slice::from_raw_parts_mut(argument.cast(), CStr::from_ptr(argument).count_bytes())
        };
        nydus_overlayfs::secrets::blank(argument);
    }
    // SAFETY: this program never closes its standard descriptors; where one is closed already,
    // the first thing that `run` does is to fill it.
    #[allow(unused_unsafe, reason = "safe with rustix's feature std, which others here turn on")]
    let standard = unsafe { Standard { input: stdin(), output: stdout(), error: stderr() } };
    // SAFETY: index < argc, and from here on the strings are only read.
    let arguments = (1..argc).map(|index| unsafe { CStr::from_ptr(*argv.add(index)) });
    nydus_overlayfs::run(arguments, standard)
}

/// C's main, since Rust's own hides the writable argv.
///
/// # Safety
/// Only the C runtime may call it.
#[cfg(not(feature = "freestanding"))]
#[unsafe(no_mangle)]
unsafe extern "C" fn main(argc: core::ffi::c_int, argv: *const *mut c_char) -> core::ffi::c_int {
    // SAFETY: the C runtime hands over the process's argv and runs nothing beside it.
    unsafe { start(argc.unsigned_abs() as usize, argv) }.into()
}
