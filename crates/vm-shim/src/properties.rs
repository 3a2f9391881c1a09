//! What holds for every input; the fuzz target and the test call the same function.

use crate::protocol::{Frame, PAYLOAD};

/// Takes the bytes as what one side of the port says to the other.
///
/// # Panics
/// If more or less is read than the frame's head says, a payload is longer than it may be, or a
/// frame is not what it is after it was written and read again.
pub fn frames(data: &[u8]) {
    let mut rest = data;
    loop {
        let before = rest;
        let Ok(frame) = Frame::read(&mut rest) else { return };
        let head: [u8; 4] = before[1..5].try_into().expect("a head was read");
        let length = u32::from_le_bytes(head) as usize;
        assert!(length <= PAYLOAD);
        assert_eq!(before.len() - rest.len(), 5 + length);
        // What is not UTF-8 in a reason, and a `Start` that is no object, becomes longer.
        let mut bytes = Vec::new();
        if frame.write(&mut bytes).is_ok() {
            assert!(bytes.len() <= 5 + PAYLOAD);
            assert_eq!(Frame::read(&*bytes).expect("it was written"), frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hold() {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/frames");
        let seeds: Vec<_> = std::fs::read_dir(seeds).expect("seeds").flatten().collect();
        assert!(seeds.len() > 13, "one of each kind");
        for seed in seeds {
            let bytes = std::fs::read(seed.path()).expect("a seed");
            frames(&bytes);
            for at in 0..bytes.len() {
                for new in [0, 1, 8, b'"', 0xff] {
                    let mut changed = bytes.clone();
                    changed[at] = new;
                    frames(&changed);
                    frames(&changed[..at]);
                }
            }
        }
    }
}
