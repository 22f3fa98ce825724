//! SET while a snapshot of a large tree is taken, against the same load without, in one run.
//!
//! Sets of random files of the tree are sent at fixed times, one outstanding; a latency counts from when its request was
//! to be sent, so that a stall is charged to all that it delayed. Meanwhile the log grows and the server takes a
//! snapshot whenever that is due. The data directory tells from outside when: `*.snap.tmp` appears, and gets its name.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::{ALONE, Bench, large, load};
use crate::client::{Client, histogram, nanos};
use crate::failure::Failure;
use crate::figure::{Goal, Report, Unit, float, micros};
use crate::scratch::{Seen, SnapshotWatch};
use crate::traffic::{Layout, Random, value};

const NAME: &str = "snapshot";
/// The least time between two sets.
const INTERVAL: Duration = Duration::from_micros(200);
/// Sets are sent at this share of the rate that one after the other makes.
const SHARE: f64 = 0.4;
/// What removing the old snapshot and the log behind the new one may take counts as part of a snapshot.
const AFTERMATH: Duration = Duration::from_millis(20);
/// Without a snapshot for so long there will be none.
const PATIENCE: Duration = Duration::from_secs(600);

/// A set, in time since the beginning.
#[derive(Clone, Copy, Debug)]
struct Sample {
    due: Duration,
    sent: Duration,
    answered: Duration,
}

/// When a snapshot was being taken, in time since the beginning.
#[derive(Clone, Copy, Debug)]
struct Window {
    from: Duration,
    to: Duration,
}

pub fn run(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let layout = large(bench);
    let server = bench.server(NAME)?;
    let mut watch = SnapshotWatch::new(&bench.scratch.path(NAME))?;
    load(bench, &server, layout)?;
    watch.settle()?;
    let windows = if bench.quick { 1 } else { bench.rounds };
    let (interval, samples, windows) = bench.client(&server, || {
        let mut client = Client::connect(server.addr())?;
        let alone = client.time_sets(ALONE, &value(0), bench.count(5000, 500))?;
        let interval = INTERVAL.max(Duration::from_nanos(alone.value_at_quantile(0.5)).div_f64(SHARE));
        let (samples, windows) = probe(&mut client, layout, &mut watch, interval, windows)?;
        Ok((interval, samples, windows))
    })?;
    let split = Split::of(&samples, &windows);
    report.add("sets sent", Unit::PerSecond, 1.0 / interval.as_secs_f64());
    report.add_rounds("a snapshot takes", Unit::Seconds, windows.iter().map(|w| (w.to - w.from).as_secs_f64()));
    report.add("snapshots", Unit::Count, float(windows.len() as u64));
    for (name, latency) in [("SET without", &split.without), ("SET while a snapshot is taken", &split.with)] {
        report.add(format!("{name}: samples"), Unit::Count, float(latency.len()));
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("most", 1.0)] {
            report.add(format!("{name} {label}"), Unit::Micros, micros(latency, quantile));
        }
    }
    let ratio = |quantile| micros(&split.with, quantile) / micros(&split.without, quantile);
    report.add("p50, with / without", Unit::Ratio, ratio(0.5));
    report.add("p99, with / without", Unit::Ratio, ratio(0.99));
    report.add("p99.9, with / without", Unit::Ratio, ratio(0.999));
    report.goal(Goal::AtMost(3.0));
    let bare = micros(&split.with_bare, 0.999) / micros(&split.without_bare, 0.999);
    report.add("p99.9 from when it was sent, with / without", Unit::Ratio, bare);
    server.terminate()?;
    bench.remove(NAME)
}

/// Sets files at fixed times until `count` snapshots have been taken, and as many sets were made without one as with.
fn probe(
    client: &mut Client,
    layout: Layout,
    watch: &mut SnapshotWatch,
    interval: Duration,
    count: u32,
) -> Result<(Vec<Sample>, Vec<Window>), Failure> {
    let count = usize::try_from(count).unwrap_or(1);
    let begun = Instant::now();
    let (mut samples, mut windows) = (Vec::new(), Vec::<Window>::new());
    let (mut open, mut inside, mut last_end) = (None, 0, Duration::ZERO);
    let mut random = Random::new(layout.files);
    let mut last = None;
    let mut due = Duration::ZERO;
    loop {
        let number = random.next() % layout.files;
        let (path, value) = (layout.path(number), value(number));
        while begun.elapsed() < due {
            std::hint::spin_loop();
        }
        let sent = begun.elapsed();
        let rev = client.set(path.as_bytes(), &value)?;
        let answered = begun.elapsed();
        samples.push(Sample { due, sent, answered });
        if last.is_some_and(|last| rev != last + 1) {
            return Err(Failure::new(format!("revision {rev} after {last:?}, though nobody else writes")));
        }
        last = Some(rev);
        inside += usize::from(open.is_some());
        let mut abandoned = false;
        watch.poll(|seen| match seen {
            // It began while this set was on its way at the earliest.
            Seen::Begun => open = Some(sent),
            Seen::Done => {
                windows.extend(open.take().map(|from| Window { from, to: answered }));
                last_end = answered;
            }
            Seen::Abandoned => abandoned = true,
        })?;
        if abandoned {
            return Err(Failure::new("the server has given up a snapshot"));
        }
        if windows.len() >= count && open.is_none() && samples.len() >= 2 * inside {
            return Ok((samples, windows));
        }
        if answered > last_end + PATIENCE {
            return Err(Failure::new("the server takes no snapshot"));
        }
        due += interval;
    }
}

/// The latencies, apart.
struct Split {
    with: Histogram<u64>,
    without: Histogram<u64>,
    /// From when they were sent, not from when they were to be sent.
    with_bare: Histogram<u64>,
    without_bare: Histogram<u64>,
}

impl Split {
    fn of(samples: &[Sample], windows: &[Window]) -> Split {
        let new = histogram;
        let mut split = Split { with: new(), without: new(), with_bare: new(), without_bare: new() };
        for sample in samples {
            let touches = |w: &Window| sample.answered >= w.from && sample.due <= w.to + AFTERMATH;
            let (full, bare) = if windows.iter().any(touches) {
                (&mut split.with, &mut split.with_bare)
            } else {
                (&mut split.without, &mut split.without_bare)
            };
            full.saturating_record(nanos(sample.answered - sample.due));
            bare.saturating_record(nanos(sample.answered - sample.sent));
        }
        split
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set that was delayed by a snapshot belongs to it, though it was sent before or answered after.
    #[test]
    fn what_touches_a_snapshot_belongs_to_it() {
        let ms = Duration::from_millis;
        let sample = |due, answered| Sample { due: ms(due), sent: ms(due), answered: ms(answered) };
        let windows = [Window { from: ms(100), to: ms(200) }, Window { from: ms(500), to: ms(600) }];
        let split = |due, answered| Split::of(&[sample(due, answered)], &windows).with.len() == 1;
        assert!(!split(0, 99));
        assert!(split(99, 101));
        assert!(split(150, 160));
        assert!(split(199, 300));
        assert!(split(215, 216), "the aftermath");
        assert!(!split(221, 222));
        assert!(split(400, 700));
        assert!(!split(700, 701));
    }

    #[test]
    fn a_delay_before_sending_counts() {
        let ms = Duration::from_millis;
        let split = Split::of(&[Sample { due: ms(1), sent: ms(4), answered: ms(5) }], &[]);
        assert!((3_990_000..4_010_000).contains(&split.without.max()), "{}", split.without.max());
        assert!((990_000..1_010_000).contains(&split.without_bare.max()), "{}", split.without_bare.max());
    }
}
