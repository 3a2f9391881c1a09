#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nydus_mount_slice::properties::slice_decode(data));
