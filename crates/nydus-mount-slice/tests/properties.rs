//! The fuzz targets' properties on generated inputs: recorded payloads and golden options, cut,
//! spliced and spiked. `SLICE_SEED` sets the seed, `SLICE_CASES` the number of inputs.

use std::{env, fs, thread};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nydus_mount_slice::properties::slice_decode;
use serde_json::Value;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

const SPIKES: [&str; 24] = [
    "\"source\":\"/s\",",
    "\"config\":\"c\",",
    "\"snapshotdir\":\"/d\",",
    "\"fs_version\":\"v6\",",
    "\"Source\":",
    "null",
    "{}",
    "[]",
    "\"\"",
    "\"metadata\":{},",
    "1e400",
    "\\ud800",
    "\\u0000",
    "extraoption=",
    "io.katacontainers.volume=",
    ",",
    "=",
    "\r\n",
    "é",
    "ſ",
    "{\"a\":",
    "}",
    " ",
    "\"volume_type\":\"image_guest_pull\",",
];

#[test]
fn hold_on_generated_inputs() {
    let number = |name, default| env::var(name).map_or(default, |n| n.parse().expect(name));
    let seed = number("SLICE_SEED", 0x006e_7964_7573);
    println!("SLICE_SEED={seed}");
    let corpus = corpus();
    let mut random = Random(seed.max(1));
    for _ in 0..number("SLICE_CASES", 12_000) {
        let input = Input(mutated(&corpus, &mut random));
        slice_decode(&input.0);
    }
}

/// Shows the input on which a property fails.
struct Input(Vec<u8>);

impl Drop for Input {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("slice_decode(b\"{}\")", self.0.escape_ascii());
        }
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let golden = fs::read_dir(GOLDEN).expect(GOLDEN).map(|entry| entry.expect(GOLDEN).path());
    let recorded = fs::read_to_string(format!("{GOLDEN}/go-readings.jsonl")).expect(GOLDEN);
    let mut corpus: Vec<_> = golden
        .filter(|path| path.extension().is_some_and(|ext| ext != "jsonl"))
        .map(|path| fs::read(path).expect(GOLDEN))
        .collect();
    corpus.sort();
    for line in recorded.lines() {
        let case: Value = serde_json::from_str(line).expect(line);
        let value = case["value"].as_str().expect(line);
        corpus.extend(STANDARD.decode(value));
        corpus.push(value.into());
    }
    assert!(corpus.len() > 500, "{}", corpus.len());
    corpus
}

fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = random.pick(corpus).clone();
    for _ in 0..random.below(4) {
        let (a, b) = (random.below(input.len() + 1), random.below(input.len() + 1));
        let cut = a.min(b)..a.max(b);
        match random.below(6) {
            0 => drop(input.drain(cut)),
            1 => drop(input.splice(cut, random.pick(corpus).iter().copied())),
            2 if !input.is_empty() => input[a.min(b).saturating_sub(1)] ^= 1 << random.below(8),
            _ => drop(input.splice(a..a, random.pick(&SPIKES).bytes())),
        }
    }
    input
}

/// Xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).expect("below a usize")
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
