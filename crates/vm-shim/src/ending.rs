//! The end of what a program prints. A guest decides how much that is, so only the end is kept,
//! in memory.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes that are kept.
const KEPT: usize = 16 << 10;
/// How long the last of it may take to come, after its program has ended.
const LAST: Duration = Duration::from_secs(1);

/// Reads what a program prints to its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending(Arc<(Mutex<Kept>, Condvar)>);

#[derive(Debug, Default)]
struct Kept {
    bytes: VecDeque<u8>,
    is_all: bool,
}

impl Ending {
    /// Reads from now on, in a thread of its own, so that the program never waits.
    pub(crate) fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let ending = Self::default();
        let to = ending.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                let mut kept = to.kept();
                kept.bytes.extend(&buffer[..length]);
                let more = kept.bytes.len().saturating_sub(KEPT);
                kept.bytes.drain(..more);
            }
            to.kept().is_all = true;
            to.0.1.notify_all();
        });
        ending
    }

    /// The last lines of what was printed, after the end of its program or a second.
    pub(crate) fn text(&self) -> String {
        let kept = self.0.1.wait_timeout_while(self.kept(), LAST, |kept| !kept.is_all);
        let (mut kept, _) = kept.unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(kept.bytes.make_contiguous()).into_owned()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::repeat;

    #[test]
    fn the_end_is_kept() {
        for (length, expected) in [(0, "end"), (3, "xxxend"), (1 << 24, "xend")] {
            let ending = Ending::of(repeat(b'x').take(length).chain(&b"end"[..]));
            let text = ending.text();
            assert!(text.ends_with(expected), "{length}");
            assert_eq!(text.len(), KEPT.min(usize::try_from(length).unwrap() + 3));
            assert!(ending.kept().bytes.capacity() <= 4 * KEPT);
        }
    }
}
