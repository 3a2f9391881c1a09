//! Removes a tree that a guest may have made, without ever going through a mount.

use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, RenameFlags, ResolveFlags, openat2, renameat_with, unlinkat,
};
use rustix::io::Errno;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Removes `name` in `parent`, whatever it is, with what is in it; at most `steps` files and
/// directories. True if all of it is gone: what is mounted stays, with the directories that lead
/// to it, and what is in it is not touched.
///
/// However deep the tree is, at most two of its directories are open: directories are moved up
/// before they are emptied. So is what a guest moves meanwhile, or makes.
///
/// # Errors
/// The first that is found; what else there is is removed all the same.
pub(crate) fn remove(parent: BorrowedFd<'_>, name: &OsStr, steps: u64) -> io::Result<bool> {
    let Ok(name) = CString::new(name.as_bytes()) else { return Err(Errno::INVAL.into()) };
    let mut sweep = Sweep { steps, moved: 0, error: None };
    let mut is_gone = sweep.remove_one(parent, &name);
    if !is_gone && let Some(top) = sweep.open(parent, &name) {
        while sweep.pass(&top) {}
        is_gone = sweep.remove_one(parent, &name);
    }
    match sweep.error {
        Some(error) => Err(error.into()),
        None => Ok(is_gone),
    }
}

struct Sweep {
    steps: u64,
    /// Directories moved up so far, which makes their names unique.
    moved: u64,
    error: Option<Errno>,
}

impl Sweep {
    /// Notes an error that is no mount in the way, nor what somebody else has removed or filled.
    fn note(&mut self, error: Errno) {
        let expected = [Errno::BUSY, Errno::NOTEMPTY, Errno::EXIST, Errno::NOENT, Errno::XDEV];
        if !expected.contains(&error) {
            self.error.get_or_insert(error);
        }
    }

    /// Whether there are steps left, and one of them is taken.
    fn step(&mut self) -> bool {
        let left = self.steps > 0;
        self.steps = self.steps.saturating_sub(1);
        left
    }

    /// Removes a file, a link, or an empty directory; whether it is gone.
    fn remove_one(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> bool {
        if !self.step() {
            return false;
        }
        let unlinked = match unlinkat(parent, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => unlinkat(parent, name, AtFlags::REMOVEDIR),
            unlinked => unlinked,
        };
        match unlinked {
            Ok(()) | Err(Errno::NOENT) => true,
            Err(error) => {
                self.note(error);
                false
            }
        }
    }

    /// A directory, but none that something is mounted on.
    fn open(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Option<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        match openat2(parent, name, flags, Mode::empty(), beneath) {
            Ok(directory) => Some(directory),
            Err(error) => {
                // A link or file that was put there meanwhile is met in the next pass.
                if ![Errno::NOTDIR, Errno::LOOP].contains(&error) {
                    self.note(error);
                }
                None
            }
        }
    }

    /// Removes what can be removed in `top`, and moves up what is below its directories. Whether
    /// that has changed anything.
    fn pass(&mut self, top: &OwnedFd) -> bool {
        let mut changed = false;
        for name in self.names(top) {
            if self.steps == 0 {
                return false;
            }
            if self.remove_one(top.as_fd(), &name) {
                changed = true;
            } else if let Some(below) = self.open(top.as_fd(), &name) {
                for inner in self.names(&below) {
                    changed |= self.remove_one(below.as_fd(), &inner)
                        || self.move_up(below.as_fd(), &inner, top.as_fd());
                }
                changed |= self.remove_one(top.as_fd(), &name);
            }
        }
        changed
    }

    fn names(&mut self, directory: &OwnedFd) -> Vec<CString> {
        // As many as are removed in one go: a guest may have made any number.
        const AT_ONCE: usize = 4096;
        let entries = match Dir::read_from(directory) {
            Ok(entries) => entries,
            Err(error) => {
                self.note(error);
                return Vec::new();
            }
        };
        let names = entries.flatten().map(|entry| entry.file_name().to_owned());
        names.filter(|name| ![c".", c".."].contains(&name.as_c_str())).take(AT_ONCE).collect()
    }

    /// Whether a directory was moved. One that something is mounted on cannot be.
    fn move_up(&mut self, from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'_>) -> bool {
        while self.step() {
            self.moved += 1;
            let new = format!("moved-{}", self.moved);
            match renameat_with(from, name, to, &*new, RenameFlags::NOREPLACE) {
                Ok(()) => return true,
                // A guest may use such names, too.
                Err(Errno::EXIST) => {}
                Err(error) => {
                    self.note(error);
                    return false;
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, mkdirat, openat};
    use std::fs;
    use std::path::Path;

    fn check(make: impl FnOnce(&Path), steps: u64, expected: bool) {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("outside")).unwrap();
        fs::write(place.path().join("outside/kept"), "").unwrap();
        make(&place.path().join("tree"));
        let parent = fs::File::open(place.path()).unwrap();
        let gone = remove(parent.as_fd(), "tree".as_ref(), steps).unwrap();
        assert_eq!(gone, expected);
        assert_eq!(place.path().join("tree").symlink_metadata().is_err(), expected);
        assert!(place.path().join("outside/kept").exists());
        let again = remove(parent.as_fd(), "tree".as_ref(), u64::MAX).unwrap();
        assert!(again, "nothing is in the way");
    }

    #[test]
    fn trees_go() {
        check(|_| {}, 1, true);
        check(|tree| fs::write(tree, "").unwrap(), 1, true);
        check(|tree| std::os::unix::fs::symlink("outside", tree).unwrap(), 1, true);
        check(wide, u64::MAX, true);
        check(wide, 10, false);
        check(deep, u64::MAX, true);
        check(deep, 100, false);
    }

    /// More than is read at once, and names that the removal itself uses.
    fn wide(tree: &Path) {
        for name in ["moved-1/moved-2/moved-1", "moved-2/moved-1/x", "a/b/c/d", "a/e/f"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        (0..5000).for_each(|number| fs::write(tree.join(format!("a/b/{number}")), "").unwrap());
        std::os::unix::fs::symlink("../../outside", tree.join("a/link")).unwrap();
    }

    /// Deeper than any path, and than descriptors would do.
    fn deep(tree: &Path) {
        fs::create_dir(tree).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut directory = openat(CWD, tree, flags, Mode::empty()).unwrap();
        for _ in 0..3000 {
            mkdirat(&directory, "d", Mode::RWXU).unwrap();
            directory = openat(&directory, "d", flags, Mode::empty()).unwrap();
        }
    }
}
