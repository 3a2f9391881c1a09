//! The limit of open files that a daemon can have here.

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// What `nydusd` sets when it is not told (its `--rlimit-nofile`); it fails if it may not.
const WANTED: u64 = 1_000_000;
/// With less in `fs.file-max`, `nydusd` sets no limit at all but fails.
const FILE_MAX: u64 = 2 * 16_384;

/// What bounds the limit.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    hard: u64,
    privileged: bool,
    nr_open: u64,
    file_max: u64,
}

/// Value for `--rlimit-nofile`; `None` where `nydusd`'s own default works.
pub(crate) fn limit_here() -> Option<u64> {
    let sysctl = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/fs/{name}")).ok()?;
        text.trim().parse().ok()
    };
    let privileged =
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE));
    limit(Bounds {
        hard: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
        privileged,
        nr_open: sysctl("nr_open").unwrap_or(WANTED),
        file_max: sysctl("file-max").unwrap_or(u64::MAX),
    })
}

/// setrlimit(2): the hard limit is raised with CAP_SYS_RESOURCE only, never above `fs.nr_open`.
fn limit(bounds: Bounds) -> Option<u64> {
    let most = if bounds.privileged { bounds.hard.max(bounds.nr_open) } else { bounds.hard };
    match most {
        _ if bounds.file_max < FILE_MAX => Some(0),
        most if most < WANTED => Some(most),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_one_that_may_be_set() {
        for (hard, privileged, nr_open, file_max, want) in [
            (1_048_576, false, 1_048_576, u64::MAX, None),
            (1_000_000, false, 1_048_576, u64::MAX, None),
            (20_000, false, 1_048_576, u64::MAX, Some(20_000)),
            (20_000, true, 1_048_576, u64::MAX, None),
            (20_000, true, 65_536, u64::MAX, Some(65_536)),
            (u64::MAX, false, 65_536, u64::MAX, None),
            (1_048_576, true, 1_048_576, 10_000, Some(0)),
        ] {
            let bounds = Bounds { hard, privileged, nr_open, file_max };
            assert_eq!(limit(bounds), want, "{bounds:?}");
        }
    }
}
