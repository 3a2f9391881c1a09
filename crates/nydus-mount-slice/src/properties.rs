//! Properties that hold for every input, shared by the fuzz targets and the tests.

/// To be filled.
pub fn slice_decode(_data: &[u8]) {}
