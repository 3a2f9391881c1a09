//! What is said about a test run.

use super::outcome::Outcome;
use super::tiers::{Tier, When};
use crate::sandbox::Sandbox;
use crate::ui;
use std::collections::BTreeMap;

/// `--list`.
pub(super) fn list(tiers: &[Tier]) {
    for tier in tiers {
        let when = match tier.when {
            When::Always => "",
            When::Full => "(--full)",
            When::Named => "(by name)",
        };
        println!("  {:<14} {:<42} {when}", tier.name, tier.what);
    }
}

pub(super) fn say_privileges(sandbox: Sandbox) {
    match sandbox {
        Sandbox::Root => {}
        Sandbox::User => println!(
            "not root: tests run as root of a user namespace; those that need more say NOT RUN"
        ),
        Sandbox::None => println!("neither root nor user namespaces: end-to-end tiers are not run"),
    }
}

/// Prints the table, the reasons and the closing line; true when nothing failed.
pub(super) fn summary(results: &[(&Tier, Outcome)], missing: &[(&str, String)]) -> bool {
    println!(
        "\n{:<14} {:<8} {:>8} {:>7} {:>7} {:>8}",
        "tier", "result", "time", "passed", "failed", "not run"
    );
    for (tier, outcome) in results {
        let Outcome { passed, time, not_run, .. } = outcome;
        let (word, failed) = (outcome.word(), outcome.failures());
        let seconds = format!("{:.1} s", time.as_secs_f64());
        println!(
            "{:<14} {word:<8} {seconds:>8} {passed:>7} {failed:>7} {:>8}",
            tier.name,
            not_run.len()
        );
    }
    say_reasons(results, missing);
    let sum =
        |of: fn(&Outcome) -> usize| results.iter().map(|(_, outcome)| of(outcome)).sum::<usize>();
    let skipped = sum(|outcome| outcome.not_run.len()) + missing.len();
    let failed = sum(Outcome::failures);
    println!("\n{} passed, {failed} failed, {skipped} skipped", sum(|outcome| outcome.passed));
    failed == 0
}

fn say_reasons(results: &[(&Tier, Outcome)], missing: &[(&str, String)]) {
    println!();
    for (part, reason) in missing {
        ui::not_run(part, reason.lines().next().unwrap_or_default());
    }
    for (tier, outcome) in results {
        let mut counted = BTreeMap::<&str, usize>::new();
        for reason in &outcome.not_run {
            *counted.entry(reason).or_default() += 1;
        }
        for (reason, times) in counted {
            ui::not_run(&tier.name, &format!("{reason} ({times} x)"));
        }
        if let Some(trouble) = &outcome.trouble {
            println!("  FAILED: {}: {trouble}", tier.name);
        }
    }
}
