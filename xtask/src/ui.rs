//! What a person sees while a task runs.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Runs one step under a spinner (on a terminal), then leaves one line: what, result, seconds.
pub(crate) fn timed<T>(what: &str, action: impl FnOnce() -> T, word: fn(&T) -> &'static str) -> T {
    let start = Instant::now();
    let spinner = spinner(what);
    let result = action();
    spinner.finish_and_clear();
    println!("  {what:<44} {:>7}  {:>6.1} s", word(&result), start.elapsed().as_secs_f64());
    result
}

/// [`timed`], for what can go wrong.
pub(crate) fn step<T>(what: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
    timed(what, action, |result| if result.is_ok() { "ok" } else { "FAILED" })
}

fn spinner(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg}  {elapsed}");
    let spinner = ProgressBar::new_spinner();
    spinner.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    spinner.set_message(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}

/// Says loudly that something was not run, and why.
pub(crate) fn not_run(what: &str, why: &str) {
    println!("  not run: {what}: {}", why.replace('\n', "\n    "));
}
