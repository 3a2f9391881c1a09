//! The properties that the fuzz targets check, on generated inputs: `NYDUS_SEED` and
//! `NYDUS_CASES` say which and how many.

use std::path::Path;
use std::{env, fs, thread};

mod checks;

const PIECES: &[&str] = &[
    ",",
    ",",
    ",",
    "\\",
    "\\,",
    ":",
    ":",
    "::",
    "\"",
    "'",
    "=",
    " ",
    "\n",
    "*",
    "é",
    "\u{1}",
    "/a",
    "b",
    "ro",
    "rw",
    "dev",
    "nosuid",
    "lowerdir=",
    "lowerdir+=",
    "upperdir=",
    "workdir=",
    "user=",
    "x-",
    "X-mount.",
    "context=",
    "context=\"",
    "rootcontext=\"",
    "smackfsdef=",
    "extraoption",
    "extraoption=",
    "extraoption=c2VjcmV0",
    "io.katacontainers.volume=",
    "Extraoption=",
    "extraoptions=",
    "uidmap=",
    "gidmap=0:1:2",
    ",0:1:2",
    ",3:4:5",
    "4294967295",
    "upperdir=/u,",
    "private",
];

const ARGUMENTS: &[&str] = &[
    "\0",
    "\0",
    "\0",
    "\0-o\0",
    "\0-o\0",
    "\0-o",
    "-o",
    "-",
    "--",
    "\0--\0",
    "-N\0",
    "-N",
    "-t",
    "-f",
    "-v",
    "-s",
    "-n",
    "-fno",
    "-sx",
    "--help",
    "overlay\0",
    "/t\0",
    "overlay\0/t\0-o\0",
];

#[test]
fn words_hold() {
    run(checks::words, &[""], &[PIECES]);
}

#[test]
fn argv_holds() {
    let starts = ["", "overlay\0/t\0", "overlay\0/t\0-o\0", "overlay\0/t\0-o", "-o\0-"];
    run(checks::argv, &starts, &[PIECES, ARGUMENTS]);
}

/// The inputs from which fuzzing starts.
#[test]
fn seeds_hold() {
    for (target, property) in [("words", checks::words as fn(&[u8])), ("argv", checks::argv)] {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
        let mut count = 0;
        for seed in fs::read_dir(&seeds).expect("a directory of seeds").flatten() {
            let input = Input(fs::read(seed.path()).expect("a seed"));
            property(&input.0);
            count += 1;
        }
        assert!(count > 10, "{count} in {}", seeds.display());
    }
}

fn run(property: fn(&[u8]), starts: &[&str], vocabularies: &[&[&str]]) {
    let number = |name, default| env::var(name).map_or(default, |n| n.parse().expect(name));
    let seed = number("NYDUS_SEED", 0x006e_7964_7573);
    println!("NYDUS_SEED={seed}");
    let mut random = Random(seed.max(1));
    for _ in 0..number("NYDUS_CASES", 20_000) {
        let mut input = Input(random.pick(starts).bytes().collect());
        extend(&mut input.0, &mut random, vocabularies);
        property(&input.0);
    }
}

/// Shows the input on which a property fails.
struct Input(Vec<u8>);

impl Drop for Input {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("b\"{}\"", self.0.escape_ascii());
        }
    }
}

fn extend(input: &mut Vec<u8>, random: &mut Random, vocabularies: &[&[&str]]) {
    for _ in 0..random.below(16) {
        let vocabulary = *random.pick(vocabularies);
        match random.below(16) {
            0 => input.push(u8::try_from(random.below(256)).expect("a byte")),
            _ => input.extend(random.pick(vocabulary).bytes()),
        }
    }
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
