//! Seeded option sets, valid and invalid, for the comparison with `mount(8)`.

use overlay_mount::table::TABLE;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

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

/// The value that no output may show.
pub const SECRET: &str = "c2VjcmV0LXJlZ2lzdHJ5LXRva2Vu";

/// Directories that each case finds, relative to its working directory: name and whether the
/// name needs backslashes in an option. See [`escaped`].
pub const LAYERS: &[&str] =
    &["l1", "l2", "l3", "a,b", "c:d", "e\\f", "sp ace", "new\nline", "t\tab", "\u{e4}", "l1/sub"];

/// Non-UTF-8 name of one more layer.
pub const RAW_LAYER: &[u8] = b"raw\xff\xfe";

/// Length of each name in [`long_layer`].
const LONG: usize = 148;

/// How many layers have long names.
pub const LONG_LAYERS: usize = 24;

/// A layer with a long name.
pub fn long_layer(number: usize) -> String {
    format!("{}{number:02}", "n".repeat(LONG))
}

/// `name` with the letters escaped that mean something in a `lowerdir=` value.
pub fn escaped(name: &[u8]) -> Vec<u8> {
    let mut path = Vec::new();
    for byte in name {
        if matches!(byte, b',' | b':' | b'\\') {
            path.push(b'\\');
        }
        path.push(*byte);
    }
    path
}

/// Option words of one case.
pub type Words = Vec<Vec<u8>>;

/// The words with commas between them.
pub fn join(words: &[Vec<u8>]) -> Vec<u8> {
    words.join(&b',')
}

/// The words that a person can read.
pub fn show(words: &[Vec<u8>]) -> String {
    OsStr::from_bytes(&join(words)).to_string_lossy().into_owned()
}

/// Words of a mount in `base`; most of them are ones that the kernel takes.
pub fn words(rng: &mut Rng, base: &str) -> Words {
    let mut words = frame(rng, base);
    for _ in 0..rng.below(5) {
        let word = extra(rng);
        words.insert(rng.below(words.len() + 1), word);
    }
    words
}

/// Layers, upper and work directory.
fn frame(rng: &mut Rng, base: &str) -> Words {
    let mut words = vec![lower(rng, base)];
    if rng.chance(4) {
        words.push([b"lowerdir+=".as_slice(), &path(rng, base, b"l3")].concat());
    }
    if rng.chance(4) {
        words.push([b"datadir+=".as_slice(), &path(rng, base, b"d1")].concat());
    }
    if rng.chance(65) {
        let upper = if rng.chance(92) {
            rng.pick(&["u", "u,2"])
        } else {
            rng.pick(&["l1", "file", "missing", "u/in"])
        };
        let work = if rng.chance(92) {
            rng.pick(&["w", "w:2"])
        } else {
            rng.pick(&["u/in", "u", "missing", "other/w"])
        };
        words
            .push([b"upperdir=".as_slice(), &escaped(&path(rng, base, upper.as_bytes()))].concat());
        if rng.chance(96) {
            words.push(
                [b"workdir=".as_slice(), &escaped(&path(rng, base, work.as_bytes()))].concat(),
            );
        }
    }
    if rng.chance(25) {
        let last = words.len();
        words.swap(rng.below(last), last - 1);
    }
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
        let name = match rng.below(120) {
            _ if many => long_layer(number).into_bytes(),
            0 => b"missing".to_vec(),
            1 => b"file".to_vec(),
            2 => RAW_LAYER.to_vec(),
            3 => b"d1".to_vec(),
            _ => rng.pick(LAYERS).as_bytes().to_vec(),
        };
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

/// Words of overlayfs, good and bad.
const OVERLAY: &[&str] = &[
    "index=on",
    "index=off",
    "index=bad",
    "index",
    "metacopy=on",
    "metacopy=off",
    "metacopy=",
    "redirect_dir=on",
    "redirect_dir=off",
    "redirect_dir=follow",
    "redirect_dir=nofollow",
    "redirect_dir=bad",
    "xino=on",
    "xino=off",
    "xino=auto",
    "xino=bad",
    "volatile",
    "volatile=",
    "volatile=1",
    "userxattr",
    "nfs_export=on",
    "nfs_export=off",
    "verity=off",
    "verity=on",
    "verity=require",
    "uuid=on",
    "uuid=off",
    "uuid=null",
    "uuid=auto",
    "default_permissions",
    "source=x",
    "override_creds",
    "lowerdir=l1:l2",
    "lowerdir=",
    "upperdir=",
    "workdir=w",
];

/// Words that are almost some that are known, and nonsense.
const NONSENSE: &[&str] = &[
    "",
    "=x",
    "=",
    "foo",
    "foo=bar",
    "uid=0",
    "gid=root",
    "mode=755",
    "sub",
    "nosub",
    "_rnetdev",
    "RO",
    " ro",
    "ro ",
    "rox",
    "no suid",
    "user=joe",
    "user=",
    "users=1",
    "comment=a=b",
    "x-systemd.automount",
    "X-foo",
    "x-",
    "verity.foo=1",
    "a\\,b",
    "\\",
    "$HOME",
    "`id`",
    "*",
    "#",
    "'",
    "a'b",
    "lowerdir:x",
    "size=1m",
    "nr_inodes=5",
];

const SECURITY: &[&str] = &[
    "context=system_u:object_r:tmp_t:s0",
    "context=\"system_u:object_r:tmp_t:s0:c1,c2\"",
    "fscontext=\"a,ro\"",
    "defcontext=x",
    "rootcontext=y",
    "seclabel",
    "smackfsdef=_",
    "smackfsroot",
];

/// Words that are treated otherwise on purpose; `overlay_mount::table::DIFFERENCES` says how.
pub const DELIBERATE: &[&str] = &[
    "nofail",
    "X-containerd.foo=1",
    "X-mount.mkdir",
    "X-mount.mkdir=0700",
    "X-mount.owner=7",
    "X-mount.idmap=0:0:1",
    "bind",
    "rbind",
    "move",
    "remount",
];

fn extra(rng: &mut Rng) -> Vec<u8> {
    let word = match rng.below(100) {
        0..60 => table_word(rng),
        60..72 => rng.pick(OVERLAY).to_owned(),
        72..79 => rng.pick(NONSENSE).to_owned(),
        79..84 => rng.pick(SECURITY).to_owned(),
        84..86 => format!("x-pad={}", "p".repeat(rng.below(4200))),
        86..97 => carried(rng),
        _ => rng.pick(DELIBERATE).to_owned(),
    };
    word.into_bytes()
}

fn table_word(rng: &mut Rng) -> String {
    loop {
        let name = TABLE[rng.below(TABLE.len())].name;
        let suffix = match rng.below(30) {
            0 => "=",
            1 => "=1",
            2 => "=no",
            3 => "x",
            _ => "",
        };
        let word = format!("{name}{suffix}");
        let is_deliberate = name.starts_with("X-") || DELIBERATE.contains(&name);
        if !is_deliberate && !is_carried(word.as_bytes()) {
            return word;
        }
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

/// Whether the word is meant for another reader of the slice.
pub fn is_carried(word: &[u8]) -> bool {
    let key = word.split(|byte| *byte == b'=').next().unwrap_or_default();
    matches!(key, b"extraoption" | b"io.katacontainers.volume")
}
