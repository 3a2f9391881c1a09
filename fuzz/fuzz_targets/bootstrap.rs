#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rafs_erofs::properties::bootstrap(data));
