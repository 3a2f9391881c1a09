//! What a person sees while a task runs: one line for each step that has ended and, on a terminal,
//! below them one line with what runs and since when.

use anyhow::Result;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

struct Screen {
    /// Number of the step, what it is, and when it began.
    running: Vec<(usize, String, Instant)>,
    ended: Vec<(String, Duration)>,
    begun: usize,
    /// How many steps there will be, where that is known.
    planned: Option<usize>,
    /// A line is shown when a step begins, too.
    announced: bool,
    drawn: bool,
    /// A thread draws.
    redrawn: bool,
}

static SCREEN: Mutex<Screen> = Mutex::new(Screen {
    running: Vec::new(),
    ended: Vec::new(),
    begun: 0,
    planned: None,
    announced: false,
    drawn: false,
    redrawn: false,
});

fn screen() -> MutexGuard<'static, Screen> {
    SCREEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Screen {
    /// Prints a line above the one that says what runs.
    fn say(&mut self, text: &str) {
        self.clear();
        println!("{text}");
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            print!("\r\x1b[2K");
        }
    }

    fn draw(&mut self) {
        let Some((last, ..)) = self.running.last() else { return };
        let place = match self.planned {
            Some(planned) => format!("step {last} of {planned}: "),
            None => String::new(),
        };
        let now = |(_, what, since): &(_, String, Instant)| {
            format!("{what} {} s", since.elapsed().as_secs())
        };
        let now: Vec<_> = self.running.iter().map(now).collect();
        // Longer than the terminal is wide, it would be drawn anew below itself.
        let line: String = format!("  {place}{}", now.join(", ")).chars().take(79).collect();
        print!("\r\x1b[2K{line}");
        let _ = std::io::stdout().flush();
        self.drawn = true;
    }
}

/// Says how many steps there will be, each of which is announced when it begins.
pub(crate) fn plan(steps: usize) {
    let mut screen = screen();
    (screen.planned, screen.announced, screen.begun) = (Some(steps), true, 0);
}

/// Runs one step, then leaves one line: what, result, seconds.
pub(crate) fn timed<T>(what: &str, action: impl FnOnce() -> T, word: fn(&T) -> &'static str) -> T {
    let start = Instant::now();
    let number = begin(what, start);
    let result = action();
    let mut screen = screen();
    screen.running.retain(|step| step.0 != number);
    let took = start.elapsed();
    screen.ended.push((what.to_owned(), took));
    screen.say(&format!("  {what:<44} {:>7}  {:>6.1} s", word(&result), took.as_secs_f64()));
    result
}

fn begin(what: &str, start: Instant) -> usize {
    let mut screen = screen();
    screen.begun += 1;
    let number = screen.begun;
    screen.running.push((number, what.to_owned(), start));
    if std::io::stdout().is_terminal() {
        if !std::mem::replace(&mut screen.redrawn, true) {
            std::thread::spawn(redraw);
        }
    } else if screen.announced {
        let planned = screen.planned.map(|steps| format!(" of {steps}")).unwrap_or_default();
        screen.say(&format!("  step {number}{planned}: {what} ..."));
    }
    number
}

fn redraw() {
    loop {
        screen().draw();
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// [`timed`], for what can go wrong.
pub(crate) fn step<T>(what: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
    timed(what, action, |result| if result.is_ok() { "ok" } else { "FAILED" })
}

/// Prints every step that has ended, the longest first.
pub(crate) fn table() {
    let mut ended = screen().ended.clone();
    ended.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
    println!("\n{:<44} {:>8}", "step, the longest first", "seconds");
    for (what, took) in ended.iter().filter(|(_, took)| took.as_secs_f64() >= 0.5) {
        println!("{what:<44} {:>8.1}", took.as_secs_f64());
    }
}

/// Says loudly that something was not run, and why.
pub(crate) fn not_run(what: &str, why: &str) {
    screen().say(&format!("  not run: {what}: {}", why.replace('\n', "\n    ")));
}
