//! Disk use while few files are overwritten many times: it must be bounded by the data, not by the writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::{Bench, CONNS, WINDOW};
use crate::client::Client;
use crate::failure::Failure;
use crate::figure::{Goal, Report, Unit, float, megabytes};
use crate::pool::Pool;
use crate::scratch::usage;
use crate::traffic::{Keys, Sets};

const NAME: &str = "disk";
/// Files that are overwritten.
const KEYS: usize = 1000;
/// Time between two looks at the directory.
const EVERY: Duration = Duration::from_millis(100);

/// Disk use in bytes after so many writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    writes: u64,
    bytes: u64,
}

pub fn run(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let count = bench.count(10_000_000, 200_000);
    let server = bench.server(NAME)?;
    let dir = bench.scratch.path(NAME);
    let done = AtomicU64::new(0);
    let mut samples = Vec::new();
    let driven = std::thread::scope(|scope| {
        let (sender, result) = channel();
        let (server, done) = (&server, &done);
        scope.spawn(move || {
            let driven = bench.client(server, || {
                let keys = Keys::new(KEYS);
                let before = Client::connect(server.addr())?.revision()?;
                let mut pool = Pool::connect(server.addr(), CONNS, WINDOW)?;
                let driven = pool.drive(&mut Sets::new(&keys, count, done))?;
                super::count_revisions(server.addr(), before, count)?;
                Ok(driven)
            });
            // The receiver outlives this thread.
            let _sent = sender.send(driven);
        });
        loop {
            match result.recv_timeout(EVERY) {
                Ok(driven) => return driven,
                Err(RecvTimeoutError::Timeout) => {
                    samples.push(Sample { writes: done.load(Ordering::Relaxed), bytes: usage(&dir)? });
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Failure::new("the client's thread panicked")),
            }
        }
    })?;
    samples.push(Sample { writes: count, bytes: usage(&dir)? });
    let shape = Shape::of(&samples, count);
    report.add("overwrites", Unit::Count, float(driven.count));
    report.add("rate", Unit::PerSecond, driven.rate());
    report.add("most", Unit::Megabytes, megabytes(shape.first_most.max(shape.second_most)));
    report.goal(Goal::AtMost(1000.0));
    report.add("after half of them", Unit::Megabytes, megabytes(shape.half));
    report.add("at the end", Unit::Megabytes, megabytes(shape.end));
    report.add("most in the first half", Unit::Megabytes, megabytes(shape.first_most));
    let growth = megabytes(shape.second_most) - megabytes(shape.first_most);
    report.add("growth of the most, second half against first", Unit::Megabytes, growth);
    report.goal(Goal::AtMost(megabytes(doozer::limits::SEGMENT)));
    server.terminate()?;
    bench.remove(NAME)
}

/// Disk use is a saw: the log grows until a snapshot frees it. Whether it grows in the long run shows in its peaks.
#[derive(Debug, PartialEq, Eq)]
struct Shape {
    first_most: u64,
    second_most: u64,
    half: u64,
    end: u64,
}

impl Shape {
    /// Of at least one sample, in order.
    fn of(samples: &[Sample], count: u64) -> Shape {
        let (first, second) = samples.split_at(samples.partition_point(|s| s.writes < count / 2));
        let most = |half: &[Sample]| half.iter().map(|s| s.bytes).max();
        let bytes = |sample: Option<&Sample>| sample.map_or(0, |s| s.bytes);
        let second_most = most(second).unwrap_or(0);
        Shape {
            // A run so short that nothing was seen of its first half shows no growth.
            first_most: most(first).unwrap_or(second_most),
            second_most,
            half: bytes(second.first()),
            end: bytes(second.last()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(samples: &[(u64, u64)]) -> Shape {
        let samples: Vec<_> = samples.iter().map(|&(writes, bytes)| Sample { writes, bytes }).collect();
        Shape::of(&samples, 100)
    }

    #[test]
    fn the_peaks_of_the_halves_are_compared() {
        let saw = shape(&[(0, 1), (20, 9), (40, 3), (51, 5), (70, 8), (100, 2)]);
        assert_eq!(saw, Shape { first_most: 9, second_most: 8, half: 5, end: 2 });
    }

    #[test]
    fn a_run_that_is_over_at_the_first_look_has_a_shape() {
        assert_eq!(shape(&[(100, 7)]), Shape { first_most: 7, second_most: 7, half: 7, end: 7 });
    }
}
