//! Start without libc, x86-64 Linux only.
//!
//! A mount takes the kernel about as long as a C or Rust runtime takes to start: without one the
//! whole process is half as long. What a runtime would give is here: the entry point, the memory
//! routines that the compiler calls, and the end after a panic.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("the feature `freestanding` is for x86-64 Linux: build without it elsewhere");

use core::arch::{asm, global_asm};
use core::ffi::c_char;

// The kernel starts with argc at the stack pointer and argv above it (System V ABI AMD64, 3.4.1).
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, [rsp]",
    "lea rsi, [rsp + 8]",
    "and rsp, -16",
    "call {enter}",
    "ud2",
    enter = sym enter,
);

/// # Safety
/// Only `_start` may call it.
unsafe extern "C" fn enter(argc: usize, argv: *const *mut c_char) -> ! {
    // SAFETY: argc and argv are the kernel's, and nothing else runs in this process.
    exit(unsafe { crate::start(argc, argv) })
}

fn exit(code: u8) -> ! {
    const EXIT_GROUP: u64 = 231;
    // SAFETY: exit_group(2) does not return and takes a number.
    unsafe { asm!("syscall", in("rax") EXIT_GROUP, in("rdi") u64::from(code), options(noreturn)) }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(nydus_overlayfs::internal_error(crate::standard()))
}

/// memcpy(3).
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller promises two areas of `length` bytes; the direction flag is clear (ABI).
    unsafe {
        asm!("rep movsb", inout("rcx") length => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    to
}

/// memmove(3).
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= length {
        // SAFETY: a copy forward reads each byte before it is overwritten.
        return unsafe { memcpy(to, from, length) };
    }
    // SAFETY: `to` lies inside the source, so length > 0 and a copy backward from the last byte
    // reads each byte before it is overwritten; the flag is cleared again.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") length => _,
            inout("rdi") to.add(length - 1) => _, inout("rsi") from.add(length - 1) => _,
            options(nostack));
    }
    to
}

/// memset(3).
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, length: usize) -> *mut u8 {
    // SAFETY: the caller promises `length` bytes; the direction flag is clear (ABI).
    unsafe {
        asm!("rep stosb", inout("rcx") length => _, inout("rdi") to => _, in("al") byte as u8,
            options(nostack, preserves_flags));
    }
    to
}

/// memcmp(3).
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, length: usize) -> i32 {
    for index in 0..length {
        // SAFETY: the caller promises `length` bytes in both.
        let (one, other) = unsafe { (*one.add(index), *other.add(index)) };
        if one != other {
            return i32::from(one) - i32::from(other);
        }
    }
    0
}

/// bcmp(3).
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, length: usize) -> i32 {
    // SAFETY: the same promises.
    unsafe { memcmp(one, other, length) }
}

/// strlen(3).
///
/// # Safety
/// As in C.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const c_char) -> usize {
    let mut length = 0;
    // SAFETY: the caller promises a NUL. Volatile, lest the compiler make a call of strlen of it.
    while unsafe { text.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}
