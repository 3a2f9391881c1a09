//! What the helper's tiers said on a kernel, and the table of docs/kernels.md.

use std::collections::BTreeSet;

/// Results of tiers on one kernel.
#[derive(Debug)]
pub struct Results {
    guest: String,
    kernel: String,
    passed: usize,
    /// Tiers that did not end with 0.
    failed: Vec<String>,
    seen: BTreeSet<String>,
    lacks: BTreeSet<String>,
    /// Cases of equivalence, and how many differ.
    equivalence: [usize; 2],
    /// System calls at which the helper was killed, and which failed.
    faults: [usize; 2],
}

impl Results {
    /// Reads what the tiers printed.
    pub fn read<'a>(guest: &str, text: &str, tiers: impl Iterator<Item = &'a str>) -> Self {
        let after = |mark: &str| -> BTreeSet<String> {
            let parts = text.lines().filter_map(|line| line.split_once(mark));
            parts.map(|(_, rest)| rest.trim().to_owned()).collect()
        };
        let sum = |mark: &str, word: &str| -> usize {
            let lines = text.lines().filter(|line| line.contains(mark));
            lines.filter_map(|line| number_before(line, word)).sum()
        };
        let is_failed = |tier: &&str| !text.contains(&format!("== {tier} ended: 0\n"));
        Self {
            guest: guest.to_owned(),
            kernel: after("kernel ").into_iter().next().unwrap_or_default(),
            passed: sum("test result:", "passed"),
            failed: tiers.filter(is_failed).map(str::to_owned).collect(),
            seen: after("SEEN: "),
            lacks: after("THIS KERNEL LACKS: "),
            equivalence: ["cases,", "differ"].map(|word| sum("mounted, ", word)),
            faults: [sum("killed ", "times"), sum("mounts made all the same", "calls")],
        }
    }

    /// Each tier that failed.
    pub fn failures(&self) -> Vec<String> {
        self.failed.iter().map(|tier| format!("{}: {tier}", self.guest)).collect()
    }
}

/// The number in front of `word`.
fn number_before(line: &str, word: &str) -> Option<usize> {
    let mut words =
        line.split_whitespace().rev().skip_while(|one| one.trim_end_matches(';') != word);
    words.nth(1)?.parse().ok()
}

/// The page.
pub fn table(all: &[Results]) -> String {
    let mut page = HEAD.to_owned();
    for results in all {
        let Results { kernel, passed, failed, equivalence, faults, .. } = results;
        let place = if results.guest == "host" { "this machine" } else { "guest" };
        let failed = if failed.is_empty() { "none".to_owned() } else { failed.join(", ") };
        let ([cases, differ], [kills, fails]) = (equivalence, faults);
        page += &format!(
            "| {kernel} | {place} | {passed} | {failed} | {cases} | {differ} | {kills} | {fails} |\n"
        );
    }
    page += "\n## What was seen\n\n";
    page += &matrix(all, |results| &results.seen, "yes");
    page += "\n## What a kernel lacks\n\nThe helper says so in its error, and mounts nothing.\n\n";
    page += &matrix(all, |results| &results.lacks, "lacks it");
    page
}

const HEAD: &str = "# Kernels

Written by `cargo xtask test --kernels`, which runs the helper's own tiers in guests with Debian's
kernels and on this machine. Equivalence compares with `mount(8)` of util-linux 2.38 and, from Linux
6.7 on, 2.41. Killed and failed count system calls of the helper at which it was killed, and which
were made to fail, each with every error that it can give.

| kernel | where | tests passed | tiers failed | equivalence: cases | differ | killed | failed calls |
|---|---|---|---|---|---|---|---|
";

/// A row for each line that `of` has on some kernel.
fn matrix(all: &[Results], of: fn(&Results) -> &BTreeSet<String>, word: &str) -> String {
    let short = |results: &Results| {
        let mut numbers = results.kernel.split(['.', '-', '+']);
        format!("{}.{}", numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
    };
    let head: String = all.iter().map(|results| format!(" {} |", short(results))).collect();
    let mut text = format!("| |{head}\n|---|{}\n", "---|".repeat(all.len()));
    let rows: BTreeSet<&String> = all.iter().flat_map(of).collect();
    for row in rows {
        let cell = |results| if of(results).contains(row) { word } else { "" };
        let cells: String = all.iter().map(|results| format!(" {} |", cell(results))).collect();
        text += &format!("| {row} |{cells}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_was_printed() {
        let text = "kernel 6.1.0-50-cloud-amd64\n\
            test a ... SEEN: 100 layers by context\n\
            THIS KERNEL LACKS: this (6.7)\n\
            equivalence direct: 1040 cases, 396 mounted, 0 differ\n\
            equivalence mount.fuse3: 260 cases, 75 mounted, 1 differ\n\
            killed 400 times\nkilled 20 times\n\
            500 calls failed, 60 mounts made all the same\n\
            test result: ok. 5 passed; 0 failed; 0 ignored\n\
            test result: FAILED. 7 passed; 1 failed; 0 ignored\n\
            == plan ended: 0\n== idmap ended: 101\n";
        let results = Results::read("guest", text, ["plan", "idmap", "layers"].into_iter());
        assert_eq!(results.failures(), ["guest: idmap", "guest: layers"]);
        assert_eq!(
            (results.passed, results.equivalence, results.faults),
            (12, [1300, 1], [420, 500])
        );
        let page = table(&[results]);
        for line in [
            "| 6.1.0-50-cloud-amd64 | guest | 12 | idmap, layers | 1300 | 1 | 420 | 500 |",
            "| | 6.1 |",
            "| 100 layers by context | yes |",
            "| this (6.7) | lacks it |",
        ] {
            assert!(page.contains(line), "{page}");
        }
    }
}
