//! The program `nydus-overlayfs`: takes argv from the system and hands it to the library.
#![no_main]
#![cfg_attr(feature = "freestanding", no_std)]

use core::ffi::{CStr, c_char};
use nydus_overlayfs::Standard;
use nydus_overlayfs::argv::Getopt;
use nydus_overlayfs::mount_fuse::{InvokedAs, invoked_as};
use rustix::stdio::{stderr, stdin, stdout};

#[cfg(feature = "freestanding")]
mod freestanding;

/// The process's own argv. While an argument is written to, the borrow checker lets nobody hold a
/// reference to any of them.
struct Argv {
    argc: usize,
    argv: *const *mut c_char,
}

impl Argv {
    fn get(&self, index: usize) -> &CStr {
        assert!(index < self.argc);
        // SAFETY: it is below argc, and `start`'s caller promises strings that stay.
        unsafe { CStr::from_ptr(*self.argv.add(index)) }
    }

    /// Its bytes without the NUL.
    fn get_mut(&mut self, index: usize) -> &mut [u8] {
        let length = self.get(index).count_bytes();
        // SAFETY: `get` found so many bytes there, which `start`'s caller promises may be written
        // to; all references to them come from `self`, which is borrowed for this one.
        unsafe { core::slice::from_raw_parts_mut((*self.argv.add(index)).cast(), length) }
    }

    /// Those after the program's name.
    fn arguments(&self) -> impl Iterator<Item = &CStr> + Clone {
        (1..self.argc).map(|index| self.get(index))
    }
}

/// # Safety
/// `argv` must point to `argc` C strings that stay valid, may be written to, and are used by
/// nobody else until the process ends, and what the kernel puts after them (System V ABI), as at
/// the start of a process.
unsafe fn start(argc: usize, argv: *const *mut c_char) -> u8 {
    let mut argv = Argv { argc, argv };
    let invoked_as = match argc {
        0 => InvokedAs::Helper,
        _ => invoked_as(argv.get(0), argv.arguments()),
    };
    if invoked_as == InvokedAs::Other {
        // SAFETY: the caller's promise; other than as a helper there is a name.
        return unsafe { pass_on(&argv) };
    }
    let mut getopt = Getopt::default();
    for index in 1..argc {
        let argument = argv.get_mut(index);
        if let Some(options) = getopt.option_value(argument) {
            nydus_overlayfs::secrets::blank(&mut argument[options..]);
        }
    }
    nydus_overlayfs::run(argv.arguments(), invoked_as, standard())
}

/// Runs the distribution's `mount.fuse3` with all that we were given, unchanged.
///
/// # Safety
/// As [`start`], with a name in `argv`.
#[cold]
unsafe fn pass_on(argv: &Argv) -> u8 {
    const AT_EXECFN: usize = 31;
    // SAFETY: the kernel puts the environment after the NULL that ends argv, and after its NULL
    // the auxiliary vector, pairs that end with AT_NULL (getauxval(3)).
    let (environment, me) = unsafe {
        let environment = argv.argv.add(argv.argc + 1);
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
    let (name, path) = (argv.get(0), path.unwrap_or_default());
    nydus_overlayfs::pass_on(name, argv.arguments(), path, me, standard(), |file| {
        // SAFETY: both arrays are the kernel's own, of C strings up to a NULL.
        unsafe { overlay_mount::raw::execve(file, argv.argv.cast(), environment.cast()) }
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
    std::panic::set_hook(Box::new(|_| {
        std::process::exit(nydus_overlayfs::internal_error(standard()).into())
    }));
    // SAFETY: the C runtime hands over the process's argv and runs nothing beside it.
    unsafe { start(argc.unsigned_abs() as usize, argv) }.into()
}
