//! How long no write is acknowledged when the leader is killed, or hangs.
//!
//! A client on each of the other nodes sets a file of its own over and over, one request at a time, each with the revision
//! of the one before: a write that is lost or done twice is seen. A node that cannot reach a majority in time, as on a busy machine,
//! refuses with READONLY: that is counted, and tried again. Any other error is no result, for the clients' own nodes stay up.
//! The gap is the longest time between two acknowledged writes, of whichever client, that ends after the leader was struck
//! and begins before all is well again: a new leader is known, and both clients have had some more writes. Then the node
//! comes back, and what that costs is told apart.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use doozer::wire::ErrCode;

use crate::client::{Client, PATIENCE};
use crate::cluster::{Cluster, Leader, NodeId};
use crate::failure::Failure;
use crate::figure::{Goal, Report, Unit, float};
use crate::machine;
use crate::scenario::Bench;
use crate::traffic::VALUE;

const NAME: &str = "failover";
/// Writes of each client before the leader is struck, and again once there is another one.
const STEADY: u64 = 200;
/// Time until a write that was refused is tried again.
const AGAIN: Duration = Duration::from_millis(5);
/// Rounds of each kind.
const ROUNDS: u32 = 20;

/// What is done to the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    /// It is ended with SIGKILL, and started again later.
    Kill,
    /// It is hung with SIGSTOP, and goes on later.
    Hang,
}

/// When what happened in a round.
#[derive(Clone, Copy, Debug)]
struct Course {
    struck: Instant,
    elected: Instant,
    steady: Instant,
    whole: Instant,
}

/// What came of a round.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// No write was acknowledged.
    gap: Duration,
    /// A client had none of its own acknowledged.
    longest: Duration,
    elected: Duration,
    /// No write was acknowledged while the node came back.
    returning: Duration,
    writes: u64,
    /// Writes that were refused.
    refused: u64,
}

pub fn run(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let mut cluster = bench.cluster(NAME, &[])?;
    let kinds = [(Blow::Kill, "killed", "kill -9", 0.3), (Blow::Hang, "hung", "SIGSTOP", 1.0)];
    for (blow, name, what, goal) in kinds {
        let mut rounds = Vec::new();
        for number in 1..=bench.rounds_of(ROUNDS) {
            let round = round(bench, &mut cluster, blow);
            let round = round.map_err(|e| cluster.explain(e.within(&format!("round {number} of {what}"))))?;
            rounds.push(round);
        }
        let mut add = |figure: &str, of: fn(&Round) -> Duration| {
            report.add_rounds(
                format!("leader {name}: {figure}"),
                Unit::Seconds,
                rounds.iter().map(|r| of(r).as_secs_f64()),
            );
        };
        add("a new one after", |r| r.elected);
        add("a client waited for", |r| r.longest);
        add("its node comes back: no write for", |r| r.returning);
        add("no write for", |r| r.gap);
        report.goal(Goal::AtMost(goal));
        report.add(format!("leader {name}: writes"), Unit::Count, float(rounds.iter().map(|r| r.writes).sum()));
        let refused = rounds.iter().map(|r| r.refused).sum();
        report.add(format!("leader {name}: writes that were refused"), Unit::Count, float(refused));
        report.goal(Goal::AtMost(0.0));
    }
    bench.disband(cluster, NAME)
}

fn round(bench: &Bench, cluster: &mut Cluster, blow: Blow) -> Result<Round, Failure> {
    let leader = cluster.leader()?;
    let nodes = cluster.others(leader.node);
    let addrs: Vec<_> = nodes.iter().map(|&node| (node, cluster.addr(node))).collect();
    let written: Vec<AtomicU64> = nodes.iter().map(|_| AtomicU64::new(0)).collect();
    let stop = AtomicBool::new(false);
    let (course, writers) = std::thread::scope(|scope| {
        let start = |((node, addr), written)| {
            let (core, stop) = (bench.cores.client, &stop);
            let write = move || {
                machine::pin(core)?;
                Writer::new(Client::connect(addr)?, node, written).run(stop)
            };
            scope.spawn(write)
        };
        let writers: Vec<_> = addrs.into_iter().zip(&written).map(start).collect();
        let course = strike(cluster, leader, blow, &Watch { written: &written, writers: &writers });
        stop.store(true, Ordering::Relaxed);
        let join = |writer: ScopedJoinHandle<'_, Result<_, Failure>>| {
            writer.join().unwrap_or_else(|_| Err(Failure::new("a client's thread panicked")))
        };
        // What a client has met says more than that nothing came of it.
        let writers = writers.into_iter().map(join).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, Failure>((course?, writers))
    })?;
    cluster.whole()?;
    for node in cluster.all() {
        let mut client = Client::connect(cluster.addr(node))?;
        for writer in &writers {
            writer.check(&mut client).map_err(|e| e.within(&node.to_string()))?;
        }
    }
    let each: Vec<&[Instant]> = writers.iter().map(|writer| &writer.acknowledged[..]).collect();
    let refused = writers.iter().map(|writer| writer.refused).sum();
    Ok(Round { refused, ..Round::of(&course, &each) })
}

/// Strikes the leader, and waits until all is as before.
fn strike(cluster: &mut Cluster, leader: Leader, blow: Blow, watch: &Watch<'_, '_>) -> Result<Course, Failure> {
    watch.until(STEADY)?;
    let struck = Instant::now();
    match blow {
        Blow::Kill => cluster.kill(leader.node)?,
        Blow::Hang => cluster.hang(leader.node)?,
    }
    let elected = cluster.leader()?.since;
    watch.until(STEADY)?;
    let steady = Instant::now();
    match blow {
        Blow::Kill => cluster.restart(leader.node)?,
        Blow::Hang => cluster.resume(leader.node)?,
    }
    cluster.leader()?;
    cluster.whole()?;
    let whole = Instant::now();
    watch.until(1)?;
    Ok(Course { struck, elected, steady, whole })
}

/// The clients' progress.
struct Watch<'a, 'scope> {
    written: &'a [AtomicU64],
    writers: &'a [ScopedJoinHandle<'scope, Result<Done, Failure>>],
}

impl Watch<'_, '_> {
    /// Waits until each client has had `count` more writes.
    fn until(&self, count: u64) -> Result<(), Failure> {
        let now = || self.written.iter().map(|written| written.load(Ordering::Relaxed));
        let goals: Vec<u64> = now().map(|written| written + count).collect();
        let deadline = Instant::now() + PATIENCE;
        while now().zip(&goals).any(|(written, goal)| written < *goal) {
            if self.writers.iter().any(ScopedJoinHandle::is_finished) || Instant::now() > deadline {
                return Err(Failure::new("the clients' writes do not go on"));
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// A client that writes.
struct Writer<'a> {
    client: Client,
    node: NodeId,
    written: &'a AtomicU64,
}

/// What it has written.
struct Done {
    path: String,
    acknowledged: Vec<Instant>,
    /// The last one's revision and value.
    last: (i64, Vec<u8>),
    /// How many were refused meanwhile.
    refused: u64,
}

impl<'a> Writer<'a> {
    fn new(client: Client, node: NodeId, written: &'a AtomicU64) -> Writer<'a> {
        Writer { client, node, written }
    }

    fn run(mut self, stop: &AtomicBool) -> Result<Done, Failure> {
        let path = format!("/bench/failover/{}", self.node).replace(' ', "-");
        let mut last = self.client.get(path.as_bytes(), None)?;
        let (mut acknowledged, mut refused) = (Vec::new(), 0);
        while !stop.load(Ordering::Relaxed) {
            let mut value = [0; VALUE];
            value[..8].copy_from_slice(&self.written.load(Ordering::Relaxed).to_be_bytes());
            let rev = self.client.compare_and_set(path.as_bytes(), &value, last.0);
            if rev.as_ref().is_err_and(|e| e.code() == Some(ErrCode::Readonly.code())) {
                refused += 1;
                std::thread::park_timeout(AGAIN);
                continue;
            }
            let rev = rev.map_err(|e| self.explain(e, &acknowledged))?;
            if rev <= last.0 {
                return Err(Failure::new(format!("{}: revision {rev} after {}", self.node, last.0)));
            }
            acknowledged.push(Instant::now());
            last = (rev, value.to_vec());
            self.written.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Done { path, acknowledged, last, refused })
    }

    fn explain(&self, e: Failure, acknowledged: &[Instant]) -> Failure {
        let silent = acknowledged.last().map_or(0, |last| last.elapsed().as_millis());
        let writes = acknowledged.len();
        e.within(&format!("the client at {}, {silent} ms after the last of {writes} writes", self.node))
    }
}

impl Done {
    /// Checks that the last write is there, and no other after it.
    fn check(&self, client: &mut Client) -> Result<(), Failure> {
        let found = client.get(self.path.as_bytes(), None)?;
        if found == self.last {
            return Ok(());
        }
        Err(Failure::new(format!("{} is {found:?}; acknowledged last was {:?}", self.path, self.last)))
    }
}

impl Round {
    /// Of the times of each client's acknowledged writes.
    fn of(course: &Course, each: &[&[Instant]]) -> Round {
        let mut all = each.concat();
        all.sort();
        Round {
            gap: longest(&all, course.struck, course.steady),
            longest: each.iter().map(|one| longest(one, course.struck, course.steady)).max().unwrap_or_default(),
            elected: course.elected.saturating_duration_since(course.struck),
            returning: longest(&all, course.steady, course.whole),
            writes: all.len() as u64,
            refused: 0,
        }
    }
}

/// The longest time between two that follow each other which has a part between `from` and `to`.
fn longest(times: &[Instant], from: Instant, to: Instant) -> Duration {
    let touching = times.windows(2).filter(|pair| pair[1] > from && pair[0] < to);
    touching.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    /// A gap counts from the last write before the blow, and one that begins a moment after it counts, too: what was on its
    /// way is acknowledged first. What comes later belongs to the node's return.
    #[test]
    fn the_gap_is_the_longest_that_touches_the_blow() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let course = Course { struck: at(100), elected: at(180), steady: at(500), whole: at(2000) };
        let one: Vec<_> = [0, 60, 99, 104, 300, 400, 600, 700, 1500, 2500].map(at).to_vec();
        let two: Vec<_> = [0, 50, 98, 340, 450, 650, 2100].map(at).to_vec();
        let round = Round::of(&course, &[&one, &two]);
        let ms = [round.gap, round.longest, round.elected, round.returning].map(|d| d.as_millis());
        assert_eq!(ms, [196, 242, 80, 800]);
        assert_eq!(round.writes, 17);
    }

    /// The whole way of a client against a server of a map: it counts, stops when it is told to, and what it wrote is found.
    #[test]
    fn a_client_writes_until_it_is_told_to_stop() {
        let fake = Fake::start();
        let (written, stop) = ([AtomicU64::new(0)], AtomicBool::new(false));
        let node = NodeId::FIRST;
        let done = std::thread::scope(|scope| {
            let writers = [scope.spawn(|| Writer::new(Client::connect(fake.addr())?, node, &written[0]).run(&stop))];
            Watch { written: &written, writers: &writers }.until(50).unwrap();
            stop.store(true, Ordering::Relaxed);
            let [writer] = writers;
            writer.join().unwrap().unwrap()
        });
        assert!(done.acknowledged.len() >= 50 && done.acknowledged.is_sorted());
        let mut client = Client::connect(fake.addr()).unwrap();
        done.check(&mut client).unwrap();
        // A write that nobody acknowledged, or one that was lost, is found out.
        client.set(done.path.as_bytes(), b"another").unwrap();
        assert!(done.check(&mut client).unwrap_err().to_string().contains("acknowledged last"));
    }

    /// READONLY says that the write was not applied: so it is the same one that is tried again.
    #[test]
    fn a_write_that_is_refused_is_counted_and_tried_again() {
        let fake = Fake::refusing(3);
        let (written, stop) = ([AtomicU64::new(0)], AtomicBool::new(false));
        let done = std::thread::scope(|scope| {
            let write = || Writer::new(Client::connect(fake.addr())?, NodeId::FIRST, &written[0]).run(&stop);
            let writers = [scope.spawn(write)];
            Watch { written: &written, writers: &writers }.until(10).unwrap();
            stop.store(true, Ordering::Relaxed);
            let [writer] = writers;
            writer.join().unwrap().unwrap()
        });
        assert_eq!(done.refused, 3);
        let mut client = Client::connect(fake.addr()).unwrap();
        done.check(&mut client).unwrap();
        assert_eq!(usize::try_from(client.revision().unwrap()).unwrap(), done.acknowledged.len());
    }

    /// A client that has ended is not waited for.
    #[test]
    fn a_client_that_meets_an_error_ends_the_wait() {
        let fake = Fake::start();
        let written = [AtomicU64::new(0)];
        std::thread::scope(|scope| {
            let writers = [scope.spawn(|| {
                Client::connect(fake.addr())?.set(b"bad path", b"")?;
                Err(Failure::new("it is to fail"))
            })];
            let e = Watch { written: &written, writers: &writers }.until(1).unwrap_err().to_string();
            assert!(e.contains("do not go on"), "{e}");
        });
    }
}
