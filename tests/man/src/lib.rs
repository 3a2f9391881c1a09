//! Nothing but tests: `tests/man.rs` compares the man pages with the programs and documents that
//! they describe. A package of its own, so that no program depends on the others for its tests.
