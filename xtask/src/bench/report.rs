//! The table on standard output.

use super::result::{Chain, Point, Requirement, Results};
use std::collections::BTreeSet;

pub(super) fn print(results: &Results) {
    print_programs(results);
    print_chains(results);
    print_layers(results);
    println!("\nrequirements");
    results.requirements.iter().for_each(print_requirement);
}

fn print_programs(results: &Results) {
    println!(
        "\n{:<32} {:>7} {:>10} {:>10} {:>9} {:>9} {:>13} {:>7} {:>11} {:>11}",
        "2 layers",
        "mounts",
        "median µs",
        "p99 µs",
        "to floor",
        "to Go",
        "instructions",
        "faults",
        "memory KiB",
        "size KiB"
    );
    for program in &results.programs {
        println!(
            "{:<32} {:>7} {:>10.0} {:>10.0} {:>9} {:>9} {:>13} {:>7} {:>11} {:>11.1}",
            program.label,
            program.time.mounts,
            program.time.median_us,
            program.time.p99_us,
            number(program.ratio_to_floor, 2),
            number(program.ratio_to_go, 2),
            number(program.instructions.map(|count| count as f64), 0),
            program.page_faults,
            program.peak_memory_kib,
            program.size_bytes as f64 / 1024.0,
        );
    }
}

fn print_chains(results: &Results) {
    println!(
        "\n{:<36} {:>7} {:>10} {:>10} {:>14}",
        "what containerd runs as mount.fuse", "mounts", "median µs", "p99 µs", "times faster"
    );
    for Chain { label, time, faster_than_stock, .. } in &results.chains {
        println!(
            "{label:<36} {:>7} {:>10.0} {:>10.0} {:>14}",
            time.mounts,
            time.median_us,
            time.p99_us,
            number(*faster_than_stock, 2),
        );
    }
}

fn print_layers(results: &Results) {
    let counts: BTreeSet<_> = results.layers.iter().map(|point| point.layers).collect();
    let keys: Vec<_> = results.layers.iter().filter(|point| point.layers == 2).collect();
    print!("\n{:<32}", "median µs by layers");
    counts.iter().for_each(|count| print!(" {count:>8}"));
    for Point { key, .. } in keys {
        print!("\n{key:<32}");
        for count in &counts {
            let median = results.point(key, *count).map(|point| point.time.median_us);
            print!(" {:>8}", number(median, 0));
        }
    }
    println!();
}

fn print_requirement(requirement: &Requirement) {
    let Requirement { what, unit, limit, measured, met } = requirement;
    let word = match (measured, met) {
        (None, _) => "not measured",
        (_, true) => "met",
        (_, false) => "NOT met",
    };
    let measured = number(*measured, if *limit < 1000.0 { 2 } else { 0 });
    println!("  {what:<46} {measured:>8} {unit:<4} limit {limit:>6} {unit:<4} {word}");
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}
