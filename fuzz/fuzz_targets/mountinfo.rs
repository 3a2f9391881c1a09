#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kata_handoff::properties::mountinfo(data));
