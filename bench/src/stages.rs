//! Where the time of a SET goes: the stages of a commit, as a server tells of them, and the rest of what a client saw.
//!
//! ```text
//! sent -> received -gather-> -submit-> -write-> -replicate-> -apply-> -answer-> handed to the sockets -> seen by the client
//!      \__ the rest                                                                               the rest __/
//! ```
//!
//! A server counts them batch by batch, those of its own clients that it led itself. Told are means, for means add up.

use doozer::stats::Stats;
use hdrhistogram::Histogram;

use crate::failure::Failure;
use crate::figure::{Report, Unit};

/// The stages of a commit, as the server names them.
pub const STAGES: [&str; 6] = ["gather", "submit", "write", "replicate", "apply", "answer"];
/// What is left of what a client saw.
pub const REST: &str = "sockets, client";

/// The means of a server's batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batches {
    /// How many.
    pub count: u64,
    /// Commands of a batch.
    pub commands: f64,
    /// How long each of the [`STAGES`] took, in microseconds.
    pub stages: [f64; STAGES.len()],
}

impl Batches {
    /// Of what a server has counted; none if it has not led any batch to its end, or has not led all of them.
    pub fn of(told: &Stats) -> Option<Batches> {
        let stages = STAGES.map(|stage| told.histogram(&format!("commit_{stage}_ns")));
        let count = stages[0]?.count();
        if count == 0 || stages.iter().any(|stage| stage.is_none_or(|stage| stage.count() != count)) {
            return None;
        }
        let commands = told.histogram("batch_commands")?.mean();
        Some(Batches { count, commands, stages: stages.map(|stage| stage.map_or(0.0, |ns| ns.mean() / 1e3)) })
    }
}

/// What the mean of SETs that were sent one at a time is made of, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// In the order of [`STAGES`].
    stages: [f64; STAGES.len()],
    rest: f64,
    /// What the client saw.
    seen: f64,
}

impl Parts {
    /// Of what the server has counted meanwhile, and of what the client saw, in nanoseconds.
    ///
    /// # Errors
    /// The server has not counted each SET once.
    pub fn of(told: &Stats, seen: &Histogram<u64>) -> Result<Parts, Failure> {
        let batches = Batches::of(told).filter(|batches| batches.count == seen.len());
        let Batches { stages, .. } =
            batches.ok_or_else(|| Failure::new("the server's stages do not count each SET once"))?;
        let seen = seen.mean() / 1e3;
        Ok(Parts { stages, rest: rest(seen, &stages), seen })
    }
}

/// What is left of a mean.
pub fn rest(mean: f64, stages: &[f64]) -> f64 {
    mean - stages.iter().sum::<f64>()
}

/// Adds the parts of the rounds' means to a report.
pub fn add(report: &mut Report, name: &str, rounds: &[Parts]) {
    for (at, stage) in STAGES.iter().enumerate() {
        report.add_rounds(format!("{name} mean: {stage}"), Unit::Micros, rounds.iter().map(|parts| parts.stages[at]));
    }
    report.add_rounds(format!("{name} mean: {REST}"), Unit::Micros, rounds.iter().map(|parts| parts.rest));
    report.add_rounds(format!("{name} mean"), Unit::Micros, rounds.iter().map(|parts| parts.seen));
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::client::histogram;

    /// Of each batch, its commands, and microseconds of each stage.
    pub fn told(batches: &[(u64, [u64; STAGES.len()])]) -> Stats {
        let mut stats = Stats::default();
        for (at, stage) in STAGES.iter().enumerate() {
            let mut counted = doozer::stats::Histogram::default();
            batches.iter().for_each(|(_, stages)| counted.record(stages[at] * 1000));
            stats.histograms.push((format!("commit_{stage}_ns"), counted));
        }
        let mut commands = doozer::stats::Histogram::default();
        batches.iter().for_each(|(count, _)| commands.record(*count));
        stats.histograms.push(("batch_commands".into(), commands));
        stats
    }

    fn near(one: f64, two: f64) -> bool {
        (one - two).abs() <= 0.01 * two.abs()
    }

    #[test]
    fn batches_have_the_means_of_their_stages() {
        let batches = Batches::of(&told(&[(1, [1, 2, 100, 4, 5, 6]), (3, [3, 4, 300, 8, 7, 10])])).unwrap();
        assert_eq!((batches.count, batches.commands), (2, 2.0));
        let all = batches.stages.iter().zip([2.0, 3.0, 200.0, 6.0, 6.0, 8.0]);
        assert!(all.into_iter().all(|(&stage, mean)| near(stage, mean)), "{batches:?}");
    }

    /// A node that has sent batches to another leader knows no more of these than when they came and were answered: means of some
    /// of the stages would be taken for those of all.
    #[test]
    fn batches_that_another_node_led_have_no_stages() {
        let mut stats = told(&[(1, [1; 6])]);
        stats.histograms[0].1.record(1000);
        assert_eq!(Batches::of(&stats), None);
        assert_eq!(Batches::of(&told(&[])), None);
        let mut stats = told(&[(1, [1; 6])]);
        stats.histograms.remove(2);
        assert_eq!(Batches::of(&stats), None, "a server that counts other stages");
    }

    #[test]
    fn the_parts_add_up_to_what_the_client_saw() {
        let mut seen = histogram();
        [150_000, 250_000].into_iter().for_each(|ns| seen.record(ns).unwrap());
        let stats = told(&[(1, [1, 2, 100, 10, 5, 6]), (1, [1, 2, 100, 20, 5, 6])]);
        let parts = Parts::of(&stats, &seen).unwrap();
        assert!(near(parts.seen, 200.0) && near(parts.rest, 71.0), "{parts:?}");
        assert!(near(parts.stages.iter().sum::<f64>() + parts.rest, parts.seen), "{parts:?}");
        let mut report = Report::new("latency", true);
        add(&mut report, "SET", &[parts]);
        let names: Vec<_> = report.figures.iter().map(|figure| figure.name.as_str()).collect();
        assert_eq!(names[..2], ["SET mean: gather", "SET mean: submit"]);
        assert_eq!(names[6..], ["SET mean: sockets, client", "SET mean"]);
    }

    /// Someone else's SET in the server's means would be taken for a part of ours.
    #[test]
    fn a_set_that_is_not_counted_once_is_no_result() {
        let mut seen = histogram();
        seen.record(1000).unwrap();
        for batches in [&[][..], &[(1, [1; 6]), (1, [1; 6])]] {
            assert!(Parts::of(&told(batches), &seen).unwrap_err().to_string().contains("each SET once"));
        }
    }
}
