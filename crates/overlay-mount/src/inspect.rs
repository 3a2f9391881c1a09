//! Looks at the directories that the options name, for mistakes that the kernel answers with a bare
//! error number. Reads only; nothing is mounted or written.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use crate::LAYERS_MAX;
use crate::buf::{Data, Line, PathBuf};
use crate::layers::{BadList, check, push_as_layer, unescape};
use crate::mountinfo::path_in_file_system;
use crate::options::{Options, Words};

/// What a directory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A lower layer, the uppermost is number 1.
    Lower {
        /// Its number.
        number: usize,
        /// How many there are.
        of: usize,
    },
    /// The upper directory.
    Upper,
    /// The work directory.
    Work,
}

/// A directory that an option names.
#[derive(Clone, Copy, Debug)]
pub struct Directory<'a> {
    /// What it is for.
    pub role: Role,
    /// Its path as it stands in the option.
    pub path: &'a [u8],
    escaped: bool,
}

/// A mistake in the options or in what they name.
#[derive(Clone, Copy, Debug)]
pub enum Problem<'a> {
    /// The colons of a `lowerdir=` value.
    BadList(BadList),
    /// More layers than overlayfs takes; whether the upper directory is one of them.
    TooMany(usize, bool),
    /// A directory that cannot be opened.
    Unreachable(Directory<'a>, Errno),
    /// A file where a directory is needed.
    NotDirectory(Directory<'a>),
    /// No layer counts that is not data-only.
    NoLower,
    /// One layer and nothing above it.
    OneLower,
    /// An upper directory without a work directory.
    NoWork,
    /// One of upper and work directory holds the other.
    Nested,
    /// Upper and work directory on different mounts.
    TwoMounts,
    /// A read-only file system under the upper directory.
    ReadOnlyUpper(Directory<'a>),
    /// The mark of a `volatile` mount that was not unmounted cleanly.
    Volatile(Directory<'a>),
    /// The same directory twice, or a layer inside another directory of the mount, in the tree of
    /// their file system, whatever mounts lead to them.
    Overlap(Directory<'a>, Directory<'a>),
}

impl Directory<'_> {
    /// Its path; `None` if it is too long for the kernel.
    pub fn unescaped(&self) -> Option<PathBuf> {
        if self.escaped { unescape(self.path) } else { PathBuf::of(self.path) }
    }

    /// Number of the device that it is on.
    pub(crate) fn device(&self) -> Option<u64> {
        let fd = self.open(OFlags::PATH).ok()?;
        rustix::fs::fstat(fd).map(|stat| stat.st_dev).ok()
    }

    /// Appends it as one layer of a `lowerdir=` value; `None` if it does not fit or cannot be said.
    pub(crate) fn push_as_layer(&self, data: &mut Data) -> Option<()> {
        let special = |byte: &u8| b"\\:,".contains(byte);
        let can_be_said = self.escaped || !self.path.iter().any(special);
        can_be_said.then_some(())?;
        push_as_layer(data, self.path)
    }

    fn open(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = self.unescaped().ok_or(Errno::NAMETOOLONG)?;
        rustix::fs::openat(CWD, path.as_c_str(), flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// Type of the file system that it is on, if that is one which cannot be id-mapped everywhere
    /// (`linux/magic.h`).
    pub(crate) fn file_system(&self) -> Option<&'static str> {
        const TYPES: [(u64, &str); 8] = [
            (0xf15f, "ecryptfs"),
            (0x6573_5546, "fuse"),
            (0x794c_7630, "overlay"),
            (0xe0f5_e1e2, "erofs"),
            (0x0102_1994, "tmpfs"),
            (0x7371_7368, "squashfs"),
            (0x6969, "nfs"),
            (0x2fc1_2fc1, "zfs"),
        ];
        let fs = rustix::fs::fstatfs(self.open(OFlags::PATH).ok()?).ok()?;
        // The type of `f_type` differs by architecture.
        #[allow(clippy::unnecessary_cast)]
        let magic = fs.f_type as u64 & 0xffff_ffff;
        TYPES.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name)
    }

    pub(crate) fn describe(&self, line: &mut Line) {
        match self.role {
            Role::Lower { number, of } => {
                line.text("lower layer ").number(number).text(" of ").number(of).text(" ")
            }
            Role::Upper => line.text("upperdir "),
            Role::Work => line.text("workdir "),
        }
        .quoted(self.path);
    }
}

impl Problem<'_> {
    /// Says in `line` what is wrong, and with which directory.
    pub fn describe(&self, line: &mut Line) {
        let mut about = |directory: &Directory<'_>, text| {
            directory.describe(line);
            line.text(text);
        };
        let text = match self {
            Self::Unreachable(directory, _) => return directory.describe(line),
            Self::NotDirectory(directory) => return about(directory, " is not a directory"),
            Self::ReadOnlyUpper(directory) => {
                return about(directory, " is on a read-only file system");
            }
            Self::Volatile(directory) => return about(directory, VOLATILE),
            Self::Overlap(one, other) => {
                about(one, " overlaps with ");
                return other.describe(line);
            }
            Self::TooMany(count, with_upper) => {
                line.number(*count).text(" lower layers");
                if *with_upper {
                    line.text(" with the upper directory of a read-only mount as the topmost");
                }
                line.text("; overlayfs takes at most ").number(LAYERS_MAX);
                return;
            }
            Self::BadList(BadList::LeadingColon) => "lowerdir: a colon before the first layer",
            Self::BadList(BadList::TrailingColon) => "lowerdir: a colon after the last layer",
            Self::BadList(BadList::ManyColons) => "lowerdir: only ':' or '::' separates layers",
            Self::BadList(BadList::LowerAfterData) => "lowerdir: a layer after data-only ones",
            Self::NoLower => {
                "no lower layer is left: data-only layers and an empty lowerdir= are none"
            }
            Self::OneLower => "one lower layer without upperdir, at least 2 layers are needed",
            Self::NoWork => "upperdir needs a workdir",
            Self::Nested => "upperdir and workdir must not be the same or inside each other",
            Self::TwoMounts => "upperdir and workdir must be on the same mount",
        };
        line.text(text);
    }
}

const VOLATILE: &str = " was in use by a volatile mount that was not unmounted cleanly: \
     remove its work/incompat/volatile once the upperdir is known to be good";

/// All directories that count, the layers from the top, then the upper and work directory. The
/// upper directory of a read-only mount is the topmost layer, and there is no work directory.
pub fn directories<'a, W: Words<'a>>(
    options: &Options<'a, W>,
) -> impl Iterator<Item = Directory<'a>> + Clone + use<'a, W> {
    let top = usize::from(options.upper_as_layer().is_some());
    let of = options.layers().count() - top;
    let layers = options.layers().zip(0..).map(move |(layer, index)| Directory {
        role: match index + 1 - top {
            0 => Role::Upper,
            number => Role::Lower { number, of },
        },
        path: layer.raw,
        escaped: layer.escaped,
    });
    let named =
        |key, role| options.last(key).map(move |path| Directory { role, path, escaped: true });
    layers.chain(named(b"upperdir", Role::Upper)).chain(named(b"workdir", Role::Work))
}

/// The first mistake that can be seen, `None` where all looks well.
pub fn first_problem<'a, W: Words<'a>>(options: &Options<'a, W>) -> Option<Problem<'a>> {
    let mut first = None;
    problems(options, &mut |problem| {
        first.get_or_insert(problem);
    });
    first
}

/// Calls `found` for each mistake that can be seen.
pub fn problems<'a, W: Words<'a>>(options: &Options<'a, W>, found: &mut dyn FnMut(Problem<'a>)) {
    if let Some(Err(bad)) = options.last(b"lowerdir").map(check) {
        found(Problem::BadList(bad));
    }
    let count = options.layers().count();
    if count > LAYERS_MAX {
        found(Problem::TooMany(count, options.upper_as_layer().is_some()));
        return;
    }
    let plain = options.layers().filter(|layer| !layer.data_only).count();
    if plain == usize::from(options.upper_as_layer().is_some()) {
        found(Problem::NoLower);
        return;
    }
    each_directory(options, found);
    match (options.last(b"upperdir"), options.last(b"workdir")) {
        (None, _) if count == 1 => found(Problem::OneLower),
        (Some(_), None) => found(Problem::NoWork),
        (Some(_), Some(_)) => upper_and_work(options, found),
        _ => {}
    }
    overlaps(options, found);
}

fn each_directory<'a, W: Words<'a>>(options: &Options<'a, W>, found: &mut dyn FnMut(Problem<'a>)) {
    // Without an upper directory the kernel never looks at the work directory.
    let has_upper = options.last(b"upperdir").is_some();
    for directory in directories(options).filter(|d| has_upper || d.role != Role::Work) {
        match directory.open(OFlags::PATH).and_then(|fd| rustix::fs::fstat(&fd)) {
            Err(errno) => found(Problem::Unreachable(directory, errno)),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => {
                found(Problem::NotDirectory(directory));
            }
            Ok(_) => {}
        }
    }
}

fn upper_and_work<'a, W: Words<'a>>(options: &Options<'a, W>, found: &mut dyn FnMut(Problem<'a>)) {
    let find = |role| {
        let directory = directories(options).find(|directory| directory.role == role)?;
        let fd = directory.open(OFlags::PATH | OFlags::DIRECTORY).ok()?;
        let stat = stat(&fd)?;
        Some((directory, fd, stat))
    };
    let (Some((upper, upper_fd, upper_stat)), Some((work, work_fd, work_stat))) =
        (find(Role::Upper), find(Role::Work))
    else {
        return;
    };
    if rustix::fs::fstatvfs(&upper_fd).is_ok_and(|fs| fs.f_flag.bits() & 1 != 0) {
        found(Problem::ReadOnlyUpper(upper));
    }
    if (upper_stat.stx_mnt_id, device(&upper_stat)) != (work_stat.stx_mnt_id, device(&work_stat)) {
        found(Problem::TwoMounts);
    } else if let (Some(upper), Some(work)) =
        (path_in_file_system(&upper_fd), path_in_file_system(&work_fd))
        && (is_inside(work.as_bytes(), upper.as_bytes())
            || is_inside(upper.as_bytes(), work.as_bytes()))
    {
        found(Problem::Nested);
    }
    let mark = c"work/incompat/volatile";
    if rustix::fs::statat(&work_fd, mark, AtFlags::empty()).is_ok() {
        found(Problem::Volatile(work));
    }
}

/// A layer that is, or lies inside, another directory of the mount. The kernel compares places in
/// the tree of a file system (`ovl_check_layer`), and so it does not matter what is mounted where.
fn overlaps<'a, W: Words<'a>>(options: &Options<'a, W>, found: &mut dyn FnMut(Problem<'a>)) {
    let mut known = [None; LAYERS_MAX + 2];
    for (slot, directory) in known.iter_mut().zip(directories(options)) {
        each_place_above(&directory, |place| *slot = Some(place));
    }
    for (index, one) in directories(options).enumerate().take(options.layers().count()) {
        let mut hit = None;
        each_place_above(&one, |place| {
            let at = |(at, other): (usize, &Option<u64>)| *other == Some(place) && at != index;
            hit = hit.or_else(|| known.iter().enumerate().position(at));
        });
        if let Some(other) = hit.and_then(|hit| directories(options).nth(hit)) {
            found(Problem::Overlap(one, other));
            return;
        }
    }
}

/// Calls `tell` with a digest (FNV-1a) of each place from the root of the directory's file system
/// down to the directory itself.
fn each_place_above(directory: &Directory<'_>, mut tell: impl FnMut(u64)) {
    let fd = directory.open(OFlags::PATH | OFlags::DIRECTORY);
    let Some(path) = fd.ok().and_then(|fd| path_in_file_system(&fd)) else { return };
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    for byte in path.as_bytes() {
        if *byte == b'/' {
            tell(digest);
        }
        digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    tell(digest);
}

fn device(stat: &Statx) -> (u32, u32) {
    (stat.stx_dev_major, stat.stx_dev_minor)
}

fn stat(fd: impl AsFd) -> Option<Statx> {
    let want = StatxFlags::INO | StatxFlags::MNT_ID;
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, want).ok()
}

/// Whether one place in a file system is, or lies inside, the other.
fn is_inside(place: &[u8], other: &[u8]) -> bool {
    matches!(place.strip_prefix(other), Some([] | [b'/', ..]))
}
