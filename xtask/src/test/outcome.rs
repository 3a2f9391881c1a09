//! What a tier's output says.

use std::time::Duration;

/// The result of one tier.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// A reason for each case that was not run.
    pub(crate) not_run: Vec<String>,
    /// Why it failed, beside failed tests.
    pub(crate) trouble: Option<String>,
    pub(crate) time: Duration,
}

impl Outcome {
    pub(crate) fn ok(&self) -> bool {
        self.failed == 0 && self.trouble.is_none()
    }

    /// One that could not even be run.
    pub(crate) fn broken(error: anyhow::Error) -> Self {
        Self { trouble: Some(format!("{error:#}")), ..Self::default() }
    }

    /// The same, with this trouble if `is_broken` and there is no other.
    pub(crate) fn or_broken(mut self, is_broken: bool, why: &str) -> Self {
        self.trouble = self.trouble.or_else(|| is_broken.then(|| why.to_owned()));
        self
    }

    /// One of which nothing was run.
    pub(crate) fn not_run(reason: &str) -> Self {
        Self { not_run: vec![reason.to_owned()], ..Self::default() }
    }

    pub(crate) fn word(&self) -> &'static str {
        match self {
            _ if !self.ok() => "FAILED",
            Self { passed: 0, .. } => "not run",
            _ => "ok",
        }
    }

    /// Failed tests; a tier that broke without a failed test counts as one.
    pub(crate) fn failures(&self) -> usize {
        if self.ok() { 0 } else { self.failed.max(1) }
    }

    /// Adds what another program of the same tier did.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.not_run.extend(other.not_run);
        let troubles = [self.trouble.take(), other.trouble].into_iter().flatten();
        self.trouble = troubles.reduce(|one, two| format!("{one}\n{two}"));
    }

    /// Reads what the test programs printed.
    ///
    /// A test says `NOT RUN: reason` for a case that cannot run here. The test runner may have
    /// left `test name ... ` in front of it on the same line.
    pub(crate) fn read(output: &str) -> Self {
        let mut outcome = Self::default();
        for line in output.lines() {
            if let Some(counts) = line.strip_prefix("test result: ") {
                outcome.passed += count(counts, "passed");
                outcome.failed += count(counts, "failed");
                let ignored = count(counts, "ignored");
                outcome.not_run.extend((0..ignored).map(|_| "ignored in the source".to_owned()));
            } else if let Some((_, reason)) = line.split_once("NOT RUN: ") {
                outcome.not_run.push(reason.trim().to_owned());
            }
        }
        outcome
    }
}

/// The number in front of `word`.
fn count(counts: &str, word: &str) -> usize {
    counts.split([';', '.']).map(str::trim).find_map(|part| number(part, word)).unwrap_or(0)
}

fn number(part: &str, word: &str) -> Option<usize> {
    part.strip_suffix(word)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_over_programs() {
        let output = "\
running 3 tests
test a ... NOT RUN: needs SELinux
ok
NOT RUN: no Go peer
test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1s
";
        let outcome = Outcome::read(output);
        let not_run = ["needs SELinux", "no Go peer", "ignored in the source"];
        assert_eq!((outcome.passed, outcome.failed), (7, 2));
        assert_eq!(outcome.not_run, not_run);
    }

    #[test]
    fn broken_without_a_failed_test_is_one_failure() {
        let broken = Outcome { trouble: Some("killed".to_owned()), ..Outcome::default() };
        assert_eq!(broken.failures(), 1);
        assert_eq!(Outcome::default().failures(), 0);
    }
}
