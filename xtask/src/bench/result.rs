//! What was measured, as it is written to JSON.

use serde::Serialize;
use std::time::Duration;

#[derive(Serialize)]
pub(super) struct Results {
    pub(super) machine: Machine,
    /// Two layers.
    pub(super) programs: Vec<Program>,
    /// What containerd waits for, two layers.
    pub(super) chains: Vec<Chain>,
    /// Latency by number of layers.
    pub(super) layers: Vec<Point>,
    pub(super) requirements: Vec<Requirement>,
}

#[derive(Serialize)]
pub(super) struct Machine {
    pub(super) kernel: String,
    pub(super) processor: String,
    pub(super) processors: usize,
    pub(super) commit: String,
}

#[derive(Serialize)]
pub(super) struct Program {
    pub(super) key: &'static str,
    pub(super) label: &'static str,
    #[serde(flatten)]
    pub(super) time: Spread,
    pub(super) ratio_to_floor: Option<f64>,
    pub(super) ratio_to_go: Option<f64>,
    pub(super) peak_memory_kib: u64,
    pub(super) page_faults: u64,
    /// None where they are not counted.
    pub(super) instructions: Option<u64>,
    pub(super) size_bytes: u64,
}

#[derive(Serialize)]
pub(super) struct Chain {
    pub(super) key: &'static str,
    pub(super) label: &'static str,
    #[serde(flatten)]
    pub(super) time: Spread,
    pub(super) faster_than_stock: Option<f64>,
}

#[derive(Serialize)]
pub(super) struct Point {
    pub(super) key: &'static str,
    pub(super) layers: usize,
    #[serde(flatten)]
    pub(super) time: Spread,
}

/// Of the times of one program, in microseconds.
#[derive(Serialize, Clone, Copy)]
pub(super) struct Spread {
    pub(super) mounts: usize,
    pub(super) median_us: f64,
    pub(super) p99_us: f64,
}

impl Spread {
    pub(super) fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |share: f64| {
            let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
            times.get(index).map_or(f64::NAN, |time| (time.as_nanos() / 100) as f64 / 10.0)
        };
        Self { mounts: times.len(), median_us: at(0.5), p99_us: at(0.99) }
    }
}

/// One of the limits on speed, memory and size.
#[derive(Serialize)]
pub(super) struct Requirement {
    pub(super) what: &'static str,
    pub(super) unit: &'static str,
    pub(super) limit: f64,
    /// None where a peer could not be had.
    pub(super) measured: Option<f64>,
    pub(super) met: bool,
}

type What = (&'static str, &'static str);

impl Requirement {
    pub(super) fn at_most((what, unit): What, limit: f64, measured: Option<f64>) -> Self {
        let met = measured.is_some_and(|measured| measured <= limit);
        Self { what, unit, limit, measured, met }
    }

    pub(super) fn at_least((what, unit): What, limit: f64, measured: Option<f64>) -> Self {
        let met = measured.is_some_and(|measured| measured >= limit);
        Self { what, unit, limit, measured, met }
    }
}

impl Results {
    pub(super) fn program(&self, key: &str) -> Option<&Program> {
        self.programs.iter().find(|program| program.key == key)
    }

    pub(super) fn chain(&self, key: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.key == key)
    }

    pub(super) fn point(&self, key: &str, layers: usize) -> Option<&Point> {
        self.layers.iter().find(|point| point.key == key && point.layers == layers)
    }

    /// Judges what was measured by the project's limits.
    pub(super) fn judge(&mut self) {
        let ratio = |a: Option<f64>, b: Option<f64>| Some(a? / b?);
        let median = |key| Some(self.program(key)?.time.median_us);
        let at_500 = |key| Some(self.point(key, 500)?.time.median_us);
        let memory = |key| Some(self.program(key)?.peak_memory_kib as f64);
        let more = memory("ours").zip(memory("floor")).map(|(ours, floor)| ours - floor);
        let size = self.program("ours").map(|ours| ours.size_bytes as f64 / 1024.0);
        let instructions = |key| Some(self.program(key)?.instructions? as f64);
        let faster = |key| self.chain(key)?.faster_than_stock;
        let (ours, floor, go) = (median("ours"), median("floor"), median("go"));
        let many = ratio(at_500("ours"), at_500("floor"));
        let behind = ("stock chain to ours behind mount.fuse3", "x");
        let front = ("stock chain to ours as mount.fuse", "x");
        let way = "time, 500 layers by lowerdir+, to the floor";
        self.requirements = vec![
            Requirement::at_most(("time, 2 layers, to the floor", "x"), 1.05, ratio(ours, floor)),
            Requirement::at_least(("faster than the Go helper", "x"), 3.7, ratio(go, ours)),
            Requirement::at_least(behind, 1.6, faster("behind")),
            Requirement::at_least(front, 6.0, faster("front")),
            Requirement::at_most((way, "x"), 1.3, many),
            Requirement::at_most(("instructions", ""), 80_000.0, instructions("ours")),
            Requirement::at_most(
                ("instructions, as mount.fuse", ""),
                90_000.0,
                instructions("ours-front"),
            ),
            Requirement::at_most(("peak memory over the floor's", "KiB"), 512.0, more),
            Requirement::at_most(("binary", "KiB"), 128.0, size),
        ];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_of_a_hundred() {
        let spread = Spread::of((1..=100).rev().map(Duration::from_micros).collect());
        assert_eq!((spread.mounts, spread.median_us, spread.p99_us), (100, 51.0, 100.0));
    }

    #[test]
    fn what_is_not_measured_is_not_met() {
        assert!(!Requirement::at_most(("", ""), 1.0, None).met);
        assert!(!Requirement::at_least(("", ""), 1.0, None).met);
    }
}
