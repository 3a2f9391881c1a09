//! The program `nydus-overlayfs`: takes argv from the system and hands it to the library.
#![no_main]
#![cfg_attr(feature = "freestanding", no_std)]

use core::ffi::{CStr, c_char};
use nydus_overlayfs::Standard;
use nydus_overlayfs::front::{self, Called};
use rustix::stdio::{stderr, stdin, stdout};

#[cfg(feature = "freestanding")]
mod freestanding;

/// # Safety
/// `argv` must point to `argc` C strings that stay valid, may be written to, and are used by
/// nobody else until the process ends, and what the kernel puts after them (System V ABI); so it
/// is at the start of a process.
unsafe fn start(argc: usize, argv: *const *mut c_char) -> u8 {
    // SAFETY: the caller's promise.
    let called = unsafe { called(argc, argv) };
    if let Called::Foreign(kind) = called {
        // SAFETY: the caller's promise.
        return unsafe { pass_on(argc, argv, kind) };
    }
    for index in 1..argc {
        // SAFETY: index < argc, and the caller promises strings that may be written to. The
        // length is that of the string, and no other reference to it exists yet.
        let argument = unsafe {
            let argument = *argv.add(index);
            core::slice::from_raw_parts_mut(argument.cast(), CStr::from_ptr(argument).count_bytes())
        };
        nydus_overlayfs::secrets::blank(argument);
    }
    // SAFETY: the caller's promise; from here on the strings are only read.
    nydus_overlayfs::run(unsafe { arguments(argc, argv) }, called, standard())
}

/// # Safety
/// As [`start`].
unsafe fn arguments<'a>(
    argc: usize,
    argv: *const *mut c_char,
) -> impl Iterator<Item = &'a CStr> + Clone {
    // SAFETY: index < argc, and the caller promises strings that stay.
    (1..argc).map(move |index| unsafe { CStr::from_ptr(*argv.add(index)) })
}

/// # Safety
/// As [`start`].
unsafe fn called<'a>(argc: usize, argv: *const *mut c_char) -> Called<'a> {
    match argc {
        0 => Called::Helper,
        // SAFETY: there is a name, and the caller's promise.
        _ => unsafe { front::called(CStr::from_ptr(*argv), arguments(argc, argv)) },
    }
}

/// Runs the distribution's `mount.fuse3` with all that we were given, unchanged.
///
/// # Safety
/// As [`start`], with a name in `argv`.
#[cold]
unsafe fn pass_on(argc: usize, argv: *const *mut c_char, kind: &[u8]) -> u8 {
    const AT_EXECFN: usize = 31;
    // SAFETY: the kernel puts the environment after the NULL that ends argv, and after its NULL
    // the auxiliary vector, pairs that end with AT_NULL (getauxval(3)).
    let (environment, me) = unsafe {
        let environment = argv.add(argc + 1);
        let mut end = environment;
        while !(*end).is_null() {
            end = end.add(1);
        }
        let mut pair = end.add(1).cast::<[usize; 2]>();
        while (*pair)[0] != 0 && (*pair)[0] != AT_EXECFN {
            pair = pair.add(1);
        }
        let me = if (*pair)[0] == AT_EXECFN { (*pair)[1] as *const c_char } else { c"".as_ptr() };
        (environment, CStr::from_ptr(me))
    };
    // SAFETY: `index` counts up to the NULL.
    let variables = (0..).map(|index| unsafe { *environment.add(index) });
    let mut variables = variables.take_while(|one| !one.is_null());
    // SAFETY: the caller promises strings, of the environment too.
    let path =
        variables.find_map(|one| unsafe { CStr::from_ptr(one) }.to_bytes().strip_prefix(b"PATH="));
    // SAFETY: there is a name.
    let name = unsafe { CStr::from_ptr(*argv) };
    nydus_overlayfs::pass_on(kind, name, path.unwrap_or_default(), me, standard(), |file| {
        // SAFETY: both arrays are the kernel's own, of C strings up to a NULL.
        unsafe { overlay_mount::raw::execve(file, argv.cast(), environment.cast()) }
    })
}

fn standard() -> Standard {
    // SAFETY: this program never closes its standard descriptors; where one is closed already,
    // the first thing that `run` does is to fill it.
    #[allow(unused_unsafe, reason = "safe with rustix's feature std, which others here turn on")]
    unsafe {
        Standard { input: stdin(), output: stdout(), error: stderr() }
    }
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
