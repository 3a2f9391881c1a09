#![no_main]

#[allow(dead_code, reason = "the other target calls the other function")]
#[path = "../../crates/nydus-overlayfs/tests/properties/checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::words(data));
