//! How fast background work may read, and when it is to end.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longest sleep, so that an end is noticed.
const NAP: Duration = Duration::from_millis(100);

/// A rate that several jobs share.
#[derive(Debug)]
pub(super) struct RateLimit {
    /// Bytes a second.
    rate: u64,
    /// When the next byte may be read.
    next: Mutex<Instant>,
}

impl RateLimit {
    /// At most so many bytes a second.
    pub(super) fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), next: Mutex::new(Instant::now()) }
    }

    /// When what was just read is paid for. Time in which nothing was read is not saved up.
    fn spend(&self, bytes: u64, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        let cost = Duration::from_nanos(cost.try_into().unwrap_or(u64::MAX));
        *next = (*next).max(now) + cost;
        *next
    }
}

/// What a job asks after each piece of work.
#[derive(Debug, Default)]
pub(super) struct JobControl {
    /// It is to end.
    stop: AtomicBool,
    /// Somebody waits for it: no rate counts.
    hurry: AtomicBool,
}

impl JobControl {
    /// Ends the job.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Whether it is to end.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Lets it work as fast as it can.
    pub(super) fn hurry(&self) {
        self.hurry.store(true, Ordering::Release);
    }

    /// Waits as long as the rate wants it, unless in a hurry; `Break` to end.
    pub(super) fn worked(&self, bytes: u64, limit: Option<&RateLimit>) -> ControlFlow<()> {
        let hurries = || self.hurry.load(Ordering::Acquire);
        let until = limit.filter(|_| !hurries()).map(|limit| limit.spend(bytes, Instant::now()));
        loop {
            if self.is_stopped() {
                return ControlFlow::Break(());
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            match left.filter(|left| !left.is_zero() && !hurries()) {
                Some(left) => sleep(left.min(NAP)),
                None => return ControlFlow::Continue(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_and_not_saved_up() {
        let (limit, start) = (RateLimit::new(1000), Instant::now());
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        // When; bytes that are read; when that is paid for, in seconds.
        for (now, bytes, paid) in [(1, 2000, 3), (1, 1000, 4), (10, 0, 10), (20, 500_000, 520)] {
            assert_eq!(limit.spend(bytes, after(now)), after(paid), "{now} {bytes}");
        }
    }

    #[test]
    fn control() {
        let slow = RateLimit::new(1);
        let control = JobControl::default();
        control.hurry();
        assert!(control.worked(1 << 40, Some(&slow)).is_continue());
        assert!(control.worked(1 << 40, None).is_continue());
        control.stop();
        assert!(control.worked(0, None).is_break());
    }
}
