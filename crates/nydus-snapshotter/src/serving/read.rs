//! Reads every file of an image that `nydusd` serves, so that all its data is cached.

use rustix::fs::OFlags;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Files that are read at once: each waits for the registry most of the time.
const READERS: usize = 4;
/// Bytes that are read at once.
const PART: usize = 1 << 20;

/// Reads all files below `root`. `step` is told how many bytes were read, and ends it by `Break`.
///
/// # Errors
/// The first file that cannot be read.
pub(super) fn all(
    root: &Path,
    step: &(dyn Fn(u64) -> ControlFlow<()> + Sync),
) -> Result<ControlFlow<()>, (PathBuf, io::Error)> {
    let files = Mutex::new(walkdir::WalkDir::new(root).same_file_system(true).into_iter());
    let next = || loop {
        let entry = files.lock().unwrap_or_else(PoisonError::into_inner).next()?;
        let failed = |error: walkdir::Error| {
            (error.path().unwrap_or(root).to_owned(), io::Error::from(error))
        };
        match entry.map_err(failed) {
            Ok(entry) if !entry.file_type().is_file() => {}
            Ok(entry) => return Some(Ok(entry.into_path())),
            Err(error) => return Some(Err(error)),
        }
    };
    let reader = || {
        let mut part = vec![0; PART];
        while let Some(path) = next() {
            let path = path?;
            match one(&path, &mut part, step) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ended) => return Ok(ended),
                Err(error) => return Err((path, error)),
            }
        }
        Ok(ControlFlow::Continue(()))
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(reader)).collect();
        readers.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    let mut flow = ControlFlow::Continue(());
    for outcome in outcomes {
        let panicked = |_| Err((root.to_owned(), io::Error::other("a reader panicked")));
        if outcome.unwrap_or_else(panicked)?.is_break() {
            flow = ControlFlow::Break(());
        }
    }
    Ok(flow)
}

fn one(
    path: &Path,
    part: &mut [u8],
    step: &(dyn Fn(u64) -> ControlFlow<()> + Sync),
) -> io::Result<ControlFlow<()>> {
    // The image may not be as it was when its names were listed: a link would lead out of it, a
    // FIFO wait.
    let flags = OFlags::NOATIME | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("expected a regular file"));
    }
    let length = found.size();
    loop {
        match file.read(part)? {
            0 => break,
            read if step(read as u64).is_break() => return Ok(ControlFlow::Break(())),
            _ => {}
        }
    }
    // It was read for the cache on disk: memory is for what containers read.
    let _ =
        rustix::fs::fadvise(&file, 0, std::num::NonZero::new(length), rustix::fs::Advice::DontNeed);
    Ok(ControlFlow::Continue(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn every_byte_is_read_once() {
        let root = tempfile::tempdir().unwrap();
        for number in 0..20_u64 {
            let directory = root.path().join(format!("d{}", number % 3));
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(number.to_string()), vec![1; 1 << number]).unwrap();
        }
        std::os::unix::fs::symlink("nowhere", root.path().join("link")).unwrap();
        let bytes = AtomicU64::new(0);
        let count = |read| {
            bytes.fetch_add(read, Ordering::Relaxed);
            ControlFlow::Continue(())
        };
        assert!(all(root.path(), &count).unwrap().is_continue());
        assert_eq!(bytes.into_inner(), (1 << 20) - 1);
        assert!(all(root.path(), &|_| ControlFlow::Break(())).unwrap().is_break());
        let [link, fifo] = ["link", "fifo"].map(|name| root.path().join(name));
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
        for other in [link, fifo, "/dev/null".into()] {
            assert!(one(&other, &mut [0], &count_nothing).is_err(), "{}", other.display());
        }
        let missing = root.path().join("missing");
        assert_eq!(all(&missing, &count_nothing).unwrap_err().0, missing);
    }

    fn count_nothing(_: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}
