//! Runs tiers beside each other: one that computes and two that wait; at the end, when one kind is
//! done, more of the other.

use super::outcome::Outcome;
use super::tiers::{Lane, Tier};
use std::sync::{Mutex, PoisonError};

/// Runs all of them, the longest first; the outcomes in the order of `chosen`.
pub(super) fn run(chosen: &[Tier], run: impl Fn(&Tier) -> Outcome + Sync) -> Vec<(&Tier, Outcome)> {
    let mut waiting: Vec<_> = chosen.iter().enumerate().collect();
    waiting.sort_by_key(|(_, tier)| std::cmp::Reverse(tier.limit));
    let (waiting, ended) = (Mutex::new(waiting), Mutex::new(Vec::new()));
    let next = |lane| {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let own = waiting.iter().position(|(_, tier)| tier.lane == lane);
        (!waiting.is_empty()).then(|| waiting.remove(own.unwrap_or(0)))
    };
    let work = |lane| {
        while let Some((number, tier)) = next(lane) {
            let outcome = run(tier);
            ended.lock().unwrap_or_else(PoisonError::into_inner).push((number, tier, outcome));
        }
    };
    std::thread::scope(|scope| {
        let work = &work;
        for lane in [Lane::Computes, Lane::Waits, Lane::Waits] {
            scope.spawn(move || work(lane));
        }
    });
    let mut ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    ended.sort_by_key(|(number, ..)| *number);
    ended.into_iter().map(|(_, tier, outcome)| (tier, outcome)).collect()
}
