//! SET while a snapshot of a large tree is taken, against the same load without, in one run.
//!
//! Sets of random files of the tree are sent at fixed times, whether the ones before are answered or not, and a latency
//! counts from when its request was to be sent: so a stall is charged to all that came during it. Meanwhile the log
//! grows, and the server takes a snapshot whenever that is due. The data directory tells from outside when: `*.snap.tmp`
//! appears, and gets its name.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use doozer::wire::{Request, Verb};
use hdrhistogram::Histogram;

use super::{Bench, large, load};
use crate::client::{Client, PATIENCE, histogram, nanos};
use crate::failure::Failure;
use crate::figure::{Goal, Report, Unit, float, micros};
use crate::scratch::{Seen, SnapshotWatch};
use crate::traffic::{Layout, Random, VALUE, value};

const NAME: &str = "snapshot";
/// Time between two sets.
const INTERVAL: Duration = Duration::from_micros(200);
/// Sets that may be unanswered; what is due then is sent when there is room again.
const OUTSTANDING: usize = 10_000;
/// What removing the old snapshot and the log behind the new one may take counts as part of a snapshot.
const AFTERMATH: Duration = Duration::from_millis(20);
/// After so many sets without a snapshot there will be none: their values alone are several times what a snapshot is due for. How long
/// that takes is the machine's matter.
const SETS_MAX: u64 = 4 * doozer::limits::SNAPSHOT_AFTER * doozer::limits::SEGMENT / VALUE as u64;

/// A set, in time since the beginning.
#[derive(Clone, Copy, Debug)]
struct Sample {
    due: Duration,
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
    let count = if bench.quick { 1 } else { bench.rounds() };
    let Probed { samples, windows, held } = bench.client(&server, || {
        let mut client = Client::connect(server.addr())?;
        let before = client.revision()?;
        let probed = Probe::new(&mut client, layout).run(&mut watch, count)?;
        super::count_revisions(server.addr(), before, probed.samples.len() as u64)?;
        Ok(probed)
    })?;
    let split = Split::of(&samples, &windows);
    report.add("sets sent", Unit::PerSecond, 1.0 / INTERVAL.as_secs_f64());
    if held > 0 {
        report.remarks.push(format!(
            "the server did not keep up: {held} sets were due while {OUTSTANDING} were unanswered, and sent when there was room"
        ));
    }
    report.add("snapshots", Unit::Count, float(windows.len() as u64));
    report.add_rounds("a snapshot takes", Unit::Seconds, windows.iter().map(|w| (w.to - w.from).as_secs_f64()));
    for (name, latency) in [("SET without", &split.without), ("SET with", &split.with)] {
        report.add(format!("{name}: samples"), Unit::Count, float(latency.len()));
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("most", 1.0)] {
            report.add(format!("{name} {label}"), Unit::Micros, micros(latency, quantile));
        }
    }
    let ratio = |quantile| micros(&split.with, quantile) / micros(&split.without, quantile);
    report.add("SET p50 with / without", Unit::Ratio, ratio(0.5));
    report.add("SET p99 with / without", Unit::Ratio, ratio(0.99));
    report.add("SET p99.9 with / without", Unit::Ratio, ratio(0.999));
    report.goal(Goal::AtMost(3.0));
    server.terminate()?;
    bench.remove(NAME)
}

/// Sets files at fixed times.
struct Probe<'a> {
    client: &'a mut Client,
    layout: Layout,
    random: Random,
    begun: Instant,
    /// When the sets that are not answered were due, from tag `first` on; those in between that are have none.
    unanswered: VecDeque<Option<Duration>>,
    first: i32,
    samples: Vec<Sample>,
    /// How many may be unanswered.
    places: usize,
    /// Sets that were due when there was no place.
    held: u64,
    /// When the last answer came.
    heard: Instant,
}

/// What came of it.
struct Probed {
    samples: Vec<Sample>,
    windows: Vec<Window>,
    held: u64,
}

impl<'a> Probe<'a> {
    fn new(client: &'a mut Client, layout: Layout) -> Probe<'a> {
        let (random, begun) = (Random::new(layout.files), Instant::now());
        Probe {
            client,
            layout,
            random,
            begun,
            unanswered: VecDeque::new(),
            first: 0,
            samples: Vec::new(),
            places: OUTSTANDING,
            held: 0,
            heard: begun,
        }
    }

    /// Until `count` snapshots have been taken, and as many sets were made without one as with, and all is answered.
    fn run(mut self, watch: &mut SnapshotWatch, count: u32) -> Result<Probed, Failure> {
        self.client.set_blocking(false)?;
        let mut windows = Vec::<Window>::new();
        let mut during = Duration::ZERO;
        let mut open = None;
        let (mut due, mut looked) = (Duration::ZERO, Duration::ZERO);
        let (mut waits, mut sets) = (false, 0);
        loop {
            let now = self.begun.elapsed();
            let enough = windows.len() as u64 >= u64::from(count) && open.is_none() && now >= 2 * during;
            if now >= due && !enough {
                if self.unanswered.len() < self.places {
                    self.send(due);
                    due += INTERVAL;
                    waits = false;
                } else {
                    self.held += u64::from(!waits);
                    waits = true;
                }
            }
            self.client.flush_some()?;
            if !self.receive()? {
                if enough && self.unanswered.is_empty() {
                    return Ok(Probed { samples: self.samples, windows, held: self.held });
                }
                if !self.unanswered.is_empty() && self.heard.elapsed() > PATIENCE {
                    return Err(Failure::new(format!("no answer within {} s", PATIENCE.as_secs())));
                }
                continue;
            }
            let now = self.begun.elapsed();
            let mut abandoned = false;
            watch.poll(|seen| match seen {
                // It was not there when we last looked.
                Seen::Begun => open = Some(looked),
                Seen::Done => {
                    sets = self.samples.len();
                    windows.extend(open.take().map(|from| Window { from, to: now }));
                    during = windows.iter().map(|w| w.to - w.from).sum();
                }
                Seen::Abandoned => abandoned = true,
            })?;
            looked = now;
            if abandoned {
                return Err(Failure::new("the server has given up a snapshot"));
            }
            let without = (self.samples.len() - sets) as u64;
            if without > SETS_MAX {
                return Err(Failure::new(format!("the server has taken no snapshot in {without} sets")));
            }
        }
    }

    fn send(&mut self, due: Duration) {
        let number = self.random.next() % self.layout.files;
        let (path, value) = (self.layout.path(number), value(number));
        // Tags begin again long after the last use of any.
        let tag = (usize::try_from(self.first).unwrap_or(0) + self.unanswered.len()) & 0x7fff_ffff;
        let (tag, path) = (i32::try_from(tag).ok(), Some(path.as_bytes()));
        self.client.send(Request { tag, path, value: Some(&value), rev: Some(-1), ..Request::new(Verb::Set) });
        if self.unanswered.is_empty() {
            // Until now there was nothing to hear.
            self.heard = Instant::now();
        }
        self.unanswered.push_back(Some(due));
    }

    /// Takes the answers that are there. False if there is none.
    fn receive(&mut self) -> Result<bool, Failure> {
        let mut any = false;
        while let Some(response) = self.client.try_receive()? {
            any = true;
            self.heard = Instant::now();
            let at = response.tag.and_then(|tag| usize::try_from(tag.wrapping_sub(self.first) & i32::MAX).ok());
            let due = at.and_then(|at| self.unanswered.get_mut(at)).and_then(Option::take);
            let Some(due) = due.filter(|_| response.rev.is_some_and(|rev| rev > 0)) else {
                return Err(Failure::new(format!("not an answer to a SET that is outstanding: {response:?}")));
            };
            self.samples.push(Sample { due, answered: self.begun.elapsed() });
            while self.unanswered.front().is_some_and(Option::is_none) {
                self.unanswered.pop_front();
                self.first = self.first.wrapping_add(1) & i32::MAX;
            }
        }
        Ok(any)
    }
}

/// The latencies, apart.
struct Split {
    with: Histogram<u64>,
    without: Histogram<u64>,
}

impl Split {
    fn of(samples: &[Sample], windows: &[Window]) -> Split {
        let mut split = Split { with: histogram(), without: histogram() };
        for sample in samples {
            let touches = |w: &Window| sample.answered >= w.from && sample.due <= w.to + AFTERMATH;
            let latency = if windows.iter().any(touches) { &mut split.with } else { &mut split.without };
            latency.saturating_record(nanos(sample.answered - sample.due));
        }
        split
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::Path;
    use std::thread::JoinHandle;

    use super::*;

    /// A set that was delayed by a snapshot belongs to it, though it was due before or answered after.
    #[test]
    fn what_touches_a_snapshot_belongs_to_it() {
        let ms = Duration::from_millis;
        let windows = [Window { from: ms(100), to: ms(200) }, Window { from: ms(500), to: ms(600) }];
        let with = |due, answered| {
            let split = Split::of(&[Sample { due: ms(due), answered: ms(answered) }], &windows);
            assert_eq!(split.with.len() + split.without.len(), 1);
            split.with.len() == 1
        };
        assert!(!with(0, 99));
        assert!(with(99, 101));
        assert!(with(150, 160));
        assert!(with(199, 300));
        assert!(with(215, 216), "the aftermath");
        assert!(!with(221, 222));
        assert!(with(400, 700));
        assert!(!with(700, 701));
    }

    /// Starts a server of a map, and makes a snapshot in `dir` by hand: it begins at a revision, and ends at least `lasts` revisions
    /// after that. On a busy machine it may begin later.
    fn snapshot_from(dir: &Path, begins: i64, lasts: i64) -> (SocketAddr, JoinHandle<()>) {
        let addr = crate::fake::Fake::start().addr();
        let draft = dir.join("1.snap.tmp");
        let thread = std::thread::spawn(move || {
            let mut watched = Client::connect(addr).unwrap();
            let mut until = |revision| loop {
                let now = watched.revision().unwrap();
                if now >= revision {
                    return now;
                }
            };
            until(begins);
            std::fs::write(&draft, "").unwrap();
            let begun = until(begins);
            until(begun + lasts);
            std::fs::rename(&draft, draft.with_file_name("1.snap")).unwrap();
        });
        (addr, thread)
    }

    /// The whole way against a server of a map, whose snapshots are made by hand.
    #[test]
    fn sets_go_on_until_a_snapshot_has_come_and_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = SnapshotWatch::new(dir.path()).unwrap();
        let (addr, server) = snapshot_from(dir.path(), 1_000, 200);
        let mut client = Client::connect(addr).unwrap();
        let before = client.revision().unwrap();
        let layout = Layout { files: 100, per_directory: 10 };
        let Probed { samples, windows, .. } = Probe::new(&mut client, layout).run(&mut watch, 1).unwrap();
        server.join().unwrap();
        assert_eq!(windows.len(), 1);
        let split = Split::of(&samples, &windows);
        assert!(split.with.len() > 100 && split.without.len() > 50, "{} {}", split.with.len(), split.without.len());
        client.set_blocking(true).unwrap();
        assert_eq!(client.revision().unwrap(), before + i64::try_from(samples.len()).unwrap());
    }

    /// On a busy machine a server falls behind; that is a bad figure, not a failure. What was due meanwhile is sent late, and waits from
    /// when it was due.
    #[test]
    fn sets_that_find_no_place_are_sent_later() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = SnapshotWatch::new(dir.path()).unwrap();
        let (addr, server) = snapshot_from(dir.path(), 300, 300);
        let mut client = Client::connect(addr).unwrap();
        let mut probe = Probe::new(&mut client, Layout { files: 100, per_directory: 10 });
        // As if 300 had been due already, on a server that takes one at a time.
        probe.places = 1;
        probe.begun -= 300 * INTERVAL;
        let Probed { samples, held, .. } = probe.run(&mut watch, 1).unwrap();
        server.join().unwrap();
        assert!(samples.len() >= 600 && held > 0, "{} {held}", samples.len());
        assert!(samples.windows(2).all(|pair| pair[1].due - pair[0].due == INTERVAL), "none is left out");
        assert!(samples[0].answered - samples[0].due >= 300 * INTERVAL, "{:?}", samples[0]);
    }
}
