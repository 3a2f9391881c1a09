//! Seeded option sets, valid and invalid, for the comparison with `mount(8)`.

use crate::vocabulary::{
    COMMON, DELIBERATE, FAMILIES, LAYERS, NONSENSE, OVERLAY, QUOTES, RAW_LAYER, READ_ONLY, SECRET,
    SECURITY, UPPERLESS, long_layer,
};

/// A small generator of numbers (SplitMix64), so that a seed means the same everywhere.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for case `index` of `seed`.
    pub fn new(seed: u64, index: u64) -> Self {
        Self(seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True in `percent` of 100 calls.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`.
    pub fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }
}

/// Option words of one case.
pub type Words = Vec<Vec<u8>>;

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// The option words.
    pub words: Words,
    /// The target, relative to the working directory.
    pub target: &'static str,
    /// Whether the target stands as an absolute path on the command line.
    pub absolute: bool,
    /// Whether the target's mount is shared: a new mount becomes shared too, then.
    pub shared: bool,
}

/// Case `index` of `seed`, for the working directory `base`.
pub fn case(seed: u64, index: u64, base: &str) -> Case {
    let rng = &mut Rng::new(seed, index);
    Case {
        words: words(rng, base),
        target: if rng.chance(94) { "m" } else { rng.pick(&["link", "m/below", "gone", "file"]) },
        absolute: rng.chance(80),
        shared: rng.chance(15),
    }
}

/// The words with commas between them.
pub fn join(words: &[Vec<u8>]) -> Vec<u8> {
    words.join(&b',')
}

/// Words of a mount in `base`; most of them are ones that the kernel takes.
fn words(rng: &mut Rng, base: &str) -> Words {
    let mut words = if rng.chance(3) { limit(rng, base) } else { frame(rng, base) };
    let family = rng.chance(15).then(|| FAMILIES[rng.below(FAMILIES.len())]);
    for _ in 0..rng.below(if family.is_some() { 7 } else { 5 }) {
        let word = match family {
            Some(family) => rng.pick(family).as_bytes().to_vec(),
            None => extra(rng),
        };
        words.insert(rng.below(words.len() + 1), word);
    }
    if rng.chance(20) {
        read_only(rng, &mut words);
    }
    words
}

/// As containerd looks into a mount, and in other ways to say that.
fn read_only(rng: &mut Rng, words: &mut Words) {
    for _ in 0..rng.below(3) {
        words.insert(rng.below(words.len() + 1), rng.pick(UPPERLESS).into());
    }
    match rng.chance(60) {
        true => words.push(b"ro".to_vec()),
        false => words.insert(rng.below(words.len() + 1), rng.pick(READ_ONLY).into()),
    }
}

/// Words for the kernel that are together as long as `mount(2)` takes, or a little off.
fn limit(rng: &mut Rng, base: &str) -> Words {
    let names: Vec<_> = (0..20).map(|number| format!("{base}/{}", long_layer(number))).collect();
    let lower = format!("lowerdir={}", names.join(":"));
    let rest = format!(",upperdir={base}/u,workdir={base}/w");
    let length = 4090 + rng.below(10);
    let padding = "/".repeat(length - lower.len() - rest.len());
    let padded = lower.replacen(&format!("{base}/"), &format!("{base}/{padding}"), 1);
    [padded, rest].concat().split(',').map(|word| word.as_bytes().to_vec()).collect()
}

/// Layers, upper and work directory.
fn frame(rng: &mut Rng, base: &str) -> Words {
    let mut words = if rng.chance(8) { list(rng, base) } else { vec![lower(rng, base)] };
    if rng.chance(4) {
        words.push([b"lowerdir+=".as_slice(), &path(rng, base, b"l3")].concat());
    }
    if rng.chance(4) {
        words.push([b"datadir+=".as_slice(), &path(rng, base, b"d1")].concat());
    }
    if rng.chance(65) {
        words.extend(upper_and_work(rng, base));
    }
    if rng.chance(25) {
        let last = words.len();
        words.swap(rng.below(last), last - 1);
    }
    words
}

/// Layers with an option each, whose value is a path as it is.
fn list(rng: &mut Rng, base: &str) -> Words {
    let count = 1 + rng.below(3);
    let lower = (0..count).map(|_| {
        let name = rng.pick(LAYERS);
        // A comma would end the option, and a backslash escape the one at its end.
        let name = if name.contains(',') || name.ends_with('\\') { "l1" } else { name };
        [b"lowerdir+=".as_slice(), &path(rng, base, name.as_bytes())].concat()
    });
    lower.collect()
}

fn upper_and_work(rng: &mut Rng, base: &str) -> Words {
    const UPPER: [&[&str]; 2] =
        [&["u", "u", "u,2", "u:3", "u\"q"], &["l1", "file", "missing", "u/in"]];
    const WORK: [&[&str]; 2] = [&["w", "w:2"], &["u/in", "u", "missing", "other/w"]];
    let mut word = |key: &str, [good, bad]: [&[&str]; 2]| {
        let names = if rng.chance(92) { good } else { bad };
        let name = rng.pick(names);
        let path = path(rng, base, name.as_bytes());
        // A colon in these options needs no backslash.
        let value = if path.ends_with(b":3") && rng.chance(50) { path } else { escaped(&path) };
        [key.as_bytes(), &value].concat()
    };
    let mut words = vec![word("upperdir=", UPPER), word("workdir=", WORK)];
    words.truncate(if rng.chance(96) { 2 } else { 1 });
    words
}

fn path(rng: &mut Rng, base: &str, name: &[u8]) -> Vec<u8> {
    let prefix = match rng.below(10) {
        0..6 => format!("{base}/"),
        6..8 => String::new(),
        8 => "./".to_owned(),
        _ => format!("{base}//./"),
    };
    [prefix.as_bytes(), name].concat()
}

/// `name` with the letters escaped that mean something in a `lowerdir=` value.
fn escaped(name: &[u8]) -> Vec<u8> {
    let special = |byte: &u8| matches!(byte, b',' | b':' | b'\\');
    name.iter().flat_map(|byte| special(byte).then_some(b'\\').into_iter().chain([*byte])).collect()
}

fn lower(rng: &mut Rng, base: &str) -> Vec<u8> {
    let mut value = Vec::new();
    let many = rng.chance(10);
    let count = if many { 10 + rng.below(14) } else { 1 + rng.below(4) };
    let odd_separator = rng.chance(12).then(|| rng.below(count));
    for number in 0..count {
        if number > 0 {
            let odd = odd_separator == Some(number);
            value.extend(if odd { rng.pick(&["::", "::", ":::"]) } else { ":" }.bytes());
        }
        let long = many && !rng.chance(5);
        let name = layer(rng, long.then_some(number));
        let path = path(rng, base, &name);
        value.extend(if rng.chance(95) { escaped(&path) } else { path });
    }
    if rng.chance(2) {
        value.push(b':');
    }
    let key =
        if rng.chance(98) { "lowerdir=" } else { rng.pick(&["lowerdir", "Lowerdir=", "lower="]) };
    [key.as_bytes(), &value].concat()
}

fn layer(rng: &mut Rng, long: Option<usize>) -> Vec<u8> {
    match (long, rng.below(120)) {
        (Some(number), _) => long_layer(number).into_bytes(),
        (_, 0) => b"missing".to_vec(),
        (_, 1) => b"file".to_vec(),
        (_, 2) => RAW_LAYER.to_vec(),
        (_, 3) => b"d1".to_vec(),
        _ => rng.pick(LAYERS).as_bytes().to_vec(),
    }
}

fn extra(rng: &mut Rng) -> Vec<u8> {
    let word = match rng.below(100) {
        0..57 => common(rng),
        57..69 => rng.pick(OVERLAY).to_owned(),
        69..75 => rng.pick(NONSENSE).to_owned(),
        75..79 => rng.pick(SECURITY).to_owned(),
        79..82 => rng.pick(QUOTES).to_owned(),
        82..84 => format!("x-pad={}", "p".repeat(rng.below(4200))),
        84..96 => carried(rng),
        _ => rng.pick(DELIBERATE).to_owned(),
    };
    word.into_bytes()
}

/// A word of the common ones, a few of them a little changed.
fn common(rng: &mut Rng) -> String {
    let word = rng.pick(COMMON);
    match rng.below(40) {
        0 => format!("{word}="),
        1 => format!("{word}=1"),
        2 => format!("{word}=no"),
        3 => format!("{word}x"),
        4 => word.to_uppercase(),
        5 => format!("no{word}"),
        _ => word.to_owned(),
    }
}

fn carried(rng: &mut Rng) -> String {
    let key = rng.pick(&["extraoption", "extraoption", "io.katacontainers.volume"]);
    match rng.below(10) {
        0 => key.to_owned(),
        1 => format!("{key}="),
        _ => format!("{key}={SECRET}"),
    }
}
