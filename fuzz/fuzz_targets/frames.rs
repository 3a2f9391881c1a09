#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vm_shim::properties::frames(data));
