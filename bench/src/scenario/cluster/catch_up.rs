//! SET with one outstanding while a new node receives a large tree, against before, in one run.
//!
//! One of three members is killed for good, so that two are left; then, in each round, a new node with nothing attaches in
//! its place, and receives the tree as a standby. Random files of the tree are set one after the other all the time, at the
//! leader. The transfer lasts from when the new node is started until it has the revision that the cluster had then.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::{STEADY, still_leads};
use crate::client::{Client, PATIENCE, histogram, nanos};
use crate::cluster::{Cluster, Leader, NodeId};
use crate::failure::Failure;
use crate::figure::{Goal, Report, Unit, float, micros};
use crate::machine;
use crate::scenario::{Bench, check_load, large, load};
use crate::traffic::{Layout, Random, value};

const NAME: &str = "catch-up";
/// A member that is gone stays one: else its slot would be filled in the midst of a measurement.
const TIMEOUT: [&str; 2] = ["-timeout", "100000"];
/// Sets before a new node comes, at the least: with fewer there is nothing to compare with.
const BASELINE: u64 = 100;

/// A set.
#[derive(Clone, Copy, Debug)]
struct Sample {
    sent: Instant,
    answered: Instant,
}

/// What came of a round.
struct Round {
    before: Histogram<u64>,
    during: Histogram<u64>,
    took: Duration,
}

pub fn run(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let layout = large(bench);
    let mut cluster = bench.cluster(NAME, &[STEADY, TIMEOUT].concat())?;
    let leader = cluster.leader()?;
    load(bench, cluster.server(leader.node)?, layout)?;
    cluster.whole()?;
    let gone = *cluster.others(leader.node).last().unwrap_or(&leader.node);
    let mut rounds = Vec::new();
    for number in 1..=bench.rounds() {
        let round = round(bench, &mut cluster, leader, gone, layout);
        rounds.push(round.map_err(|e| cluster.explain(e.within(&format!("round {number}"))))?);
    }
    still_leads(&mut cluster, leader)?;
    report.add_rounds(
        format!("a new node has {} files after", layout.files),
        Unit::Seconds,
        rounds.iter().map(|r| r.took.as_secs_f64()),
    );
    type Side = fn(&Round) -> &Histogram<u64>;
    let sides: [(&str, Side); 2] = [("before", |r| &r.before), ("meanwhile", |r| &r.during)];
    for (name, of) in sides {
        report.add_rounds(format!("SET {name}: samples"), Unit::Count, rounds.iter().map(|r| float(of(r).len())));
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("most", 1.0)] {
            report.add_rounds(
                format!("SET {name} {label}"),
                Unit::Micros,
                rounds.iter().map(|r| micros(of(r), quantile)),
            );
        }
    }
    for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        let ratios = rounds.iter().map(|r| micros(&r.during, quantile) / micros(&r.before, quantile));
        report.add_rounds(format!("SET {label} meanwhile / before"), Unit::Ratio, ratios);
    }
    report.goal(Goal::AtMost(3.0));
    bench.disband(cluster, NAME)
}

fn round(bench: &Bench, cluster: &mut Cluster, leader: Leader, gone: NodeId, layout: Layout) -> Result<Round, Failure> {
    cluster.kill(gone)?;
    cluster.wipe(gone, leader.node)?;
    let baseline = Duration::from_secs(bench.count(10, 1));
    let (stop, written, addr) = (AtomicBool::new(false), AtomicU64::new(0), cluster.addr(leader.node));
    let (samples, from, to) = std::thread::scope(|scope| {
        let write = || {
            machine::pin(bench.cores.client)?;
            write(Client::connect(addr)?, layout, &written, &stop)
        };
        let writer = scope.spawn(write);
        let begun = Instant::now();
        while begun.elapsed() < baseline || written.load(Ordering::Relaxed) < BASELINE && !writer.is_finished() {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        let from = Instant::now();
        // The node is to end with this process, so it is this thread that starts it.
        let outcome = if writer.is_finished() { Ok(()) } else { attach(cluster, leader, gone) };
        let to = Instant::now();
        stop.store(true, Ordering::Relaxed);
        let samples = writer.join().unwrap_or_else(|_| Err(Failure::new("the client's thread panicked")))?;
        outcome.map(|()| (samples, from, to))
    })?;
    cluster.whole()?;
    check_load(cluster.server(gone)?, layout).map_err(|e| e.within("the new node"))?;
    Ok(Round::of(&samples, from, to))
}

/// Starts the new node, and waits until it has what the cluster has now.
fn attach(cluster: &mut Cluster, leader: Leader, new: NodeId) -> Result<(), Failure> {
    let goal = Client::connect(cluster.addr(leader.node))?.revision()?;
    cluster.restart(new)?;
    let mut client = Client::connect(cluster.addr(new))?;
    let deadline = Instant::now() + 5 * PATIENCE;
    loop {
        let revision = client.revision()?;
        if revision >= goal {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::new(format!("the new node is at revision {revision} still, not at {goal}")));
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Sets random files to what they are, one after the other, until it is told to stop.
fn write(mut client: Client, layout: Layout, written: &AtomicU64, stop: &AtomicBool) -> Result<Vec<Sample>, Failure> {
    let mut random = Random::new(layout.files);
    let mut samples = Vec::new();
    let mut last = 0;
    while !stop.load(Ordering::Relaxed) {
        let number = random.next() % layout.files;
        let (path, value) = (layout.path(number), value(number));
        let sent = Instant::now();
        let rev = client.set(path.as_bytes(), &value)?;
        samples.push(Sample { sent, answered: Instant::now() });
        written.fetch_add(1, Ordering::Relaxed);
        if rev <= last {
            return Err(Failure::new(format!("revision {rev} after {last}")));
        }
        last = rev;
    }
    Ok(samples)
}

impl Round {
    /// A set belongs to the transfer if any of its time does.
    fn of(samples: &[Sample], from: Instant, to: Instant) -> Round {
        let mut round = Round { before: histogram(), during: histogram(), took: to - from };
        for sample in samples.iter().filter(|sample| sample.sent <= to) {
            let side = if sample.answered < from { &mut round.before } else { &mut round.during };
            side.saturating_record(nanos(sample.answered - sample.sent));
        }
        round
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    /// A set that the new node's arrival delays was sent before it.
    #[test]
    fn what_touches_the_transfer_belongs_to_it() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let sample = |(sent, answered)| Sample { sent: at(sent), answered: at(answered) };
        let samples = [(0, 10), (10, 99), (99, 180), (180, 190), (199, 230), (230, 240)].map(sample);
        let round = Round::of(&samples, at(100), at(200));
        assert_eq!((round.before.len(), round.during.len(), round.took), (2, 3, Duration::from_millis(100)));
        assert!(round.during.equivalent(round.during.max(), 81_000_000), "{}", round.during.max());
    }

    /// What is written meanwhile must not change the tree that is compared at the end.
    #[test]
    fn the_tree_stays_as_it_was() {
        let fake = Fake::start();
        let layout = Layout { files: 100, per_directory: 10 };
        let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
        let samples = std::thread::scope(|scope| {
            let writer = scope.spawn(|| write(Client::connect(fake.addr())?, layout, &written, &stop));
            let mut client = Client::connect(fake.addr()).unwrap();
            while client.revision().unwrap() < 1000 {}
            stop.store(true, Ordering::Relaxed);
            writer.join().unwrap().unwrap()
        });
        let mut client = Client::connect(fake.addr()).unwrap();
        assert_eq!(u64::try_from(client.revision().unwrap()).unwrap(), samples.len() as u64);
        assert_eq!(written.into_inner(), samples.len() as u64);
        for number in 0..100 {
            let (rev, found) = client.get(layout.path(number).as_bytes(), None).unwrap();
            assert!(rev == 0 || found == value(number), "{number}");
        }
    }
}
