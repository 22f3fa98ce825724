//! A turn: one system under one load for some seconds.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::compare::closed::{self, Looped};
use crate::compare::definition::{Load, Work};
use crate::compare::subject::Subject;
use crate::compare::teller::Teller;
use crate::compare::{fan_out, hand_over, idle, open, work};
use crate::engine::Engine;
use crate::failure::Failure;
use crate::process::thread_cpu;
use crate::stages::Batches;
use crate::system;

/// How long.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Before it is measured.
    pub warm_up: Duration,
    /// While it is.
    pub measured: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Sample {
    /// Of the operations, in nanoseconds.
    pub latency: Histogram<u64>,
    /// Time that was measured.
    pub wall: Duration,
    /// Operations that ought to have been sent, and were not, because the servers did not keep up.
    pub unasked: u64,
    /// How long after they were due operations were asked, of an open loop, in nanoseconds.
    pub late: Option<Histogram<u64>>,
    /// CPU time of the client.
    pub client: Duration,
    /// CPU time of the servers; none if they run elsewhere.
    pub servers: Option<Duration>,
    /// What the leader tells of its batches, if it does.
    pub batches: Option<Batches>,
}

/// What an operation has done, beside what its answer said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effects {
    /// Complete operations.
    pub operations: u64,
    /// Watches that were woken.
    pub wakes: u64,
    /// Revisions that belong to no operation.
    pub besides: u64,
}

/// Runs a load, which was prepared. With a rate, operations are sent at that rate.
///
/// # Errors
/// An answer is wrong or missing, or the writes or wakes are not as many as asserted.
pub fn run(subject: &Subject, load: &Load, rate: Option<f64>, times: Times) -> Result<Sample, Failure> {
    let within = |e: Failure| subject.system.explain(e.within(&subject.kind.to_string()));
    measure(subject, load, rate, times).map_err(within)
}

fn measure(subject: &Subject, load: &Load, rate: Option<f64>, times: Times) -> Result<Sample, Failure> {
    let idle = idle::Watches::start(subject, load)?;
    // A fan-out's writer has a connection of its own.
    let conns = load.connections + usize::from(load.work == Work::FanOut);
    let mut engine = subject.connect(load.at, conns)?;
    let mut teller = Teller::connect(subject, load)?;
    let before = subject.count(&mut engine)?;
    let mut effects = Effects::default();
    let mut sample = None;
    let mut part = parts(subject, load, rate, &engine);
    for time in [times.warm_up, times.measured] {
        let told = teller.ask()?;
        let (servers, client) = (system::cpu(&*subject.system)?, thread_cpu());
        let looped = part(&mut engine, &mut effects, time)?;
        let client = thread_cpu().saturating_sub(client);
        let servers = system::cpu(&*subject.system)?.zip(servers).map(|(after, before)| after.saturating_sub(before));
        let since = teller.ask()?.zip(told).map(|(after, before)| after.since(&before));
        let batches = since.as_ref().and_then(Batches::of);
        let Looped { latency, wall, unasked, late } = looped;
        sample = Some(Sample { latency, wall, unasked, late, client, servers, batches });
    }
    let revisions = subject.count(&mut engine)? - before - 1;
    check(load, effects, revisions)?;
    drop(part);
    engine.close()?;
    idle.end()?;
    sample.filter(|sample| !sample.latency.is_empty()).ok_or_else(|| Failure::new("no operation was completed"))
}

type Part<'a> = Box<dyn FnMut(&mut Engine, &mut Effects, Duration) -> Result<Looped, Failure> + 'a>;

/// What runs a part of the turn.
fn parts<'a>(subject: &'a Subject, load: &'a Load, rate: Option<f64>, engine: &Engine) -> Part<'a> {
    let dir = subject.dir(load);
    match load.work {
        Work::FanOut => {
            let mut fan_out = fan_out::FanOut::new(load, &dir, engine.watch_stays());
            Box::new(move |engine, effects, time| fan_out.run(engine, effects, time))
        }
        Work::HandOver => {
            let mut lock = hand_over::Lock::new(&dir);
            Box::new(move |engine, effects, time| lock.run(engine, effects, time))
        }
        _ => {
            let mut operations = work::operations(load, &dir);
            Box::new(move |engine, effects, time| {
                let looped = match rate {
                    None => closed::run(engine, load, &mut *operations, time)?,
                    Some(rate) => open::run(engine, load, &mut *operations, rate, time)?,
                };
                effects.operations += looped.latency.len();
                if subject.kind.numbers_mismatches() {
                    effects.besides = operations.mismatches();
                }
                Ok(looped)
            })
        }
    }
}

/// Whether the store counts as many writes as the load was to make, and whether all watches were woken.
fn check(load: &Load, effects: Effects, revisions: i64) -> Result<(), Failure> {
    let Effects { operations, wakes, besides } = effects;
    let expected = load.assert.revisions * crate::figure::float(operations) + crate::figure::float(besides);
    let counted = crate::figure::float(u64::try_from(revisions).unwrap_or(u64::MAX));
    if (counted - expected).abs() >= 1.0 {
        return Err(Failure::new(format!(
            "{revisions} revisions after {operations} operations, instead of {expected}"
        )));
    }
    if wakes != load.assert.wakes * operations {
        let each = load.assert.wakes;
        return Err(Failure::new(format!("{wakes} watches were woken by {operations} operations, {each} by each")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::definition::Assert;
    use crate::fake::Fake;
    use crate::stages::tests::told;
    use crate::system::Kind;
    use crate::system::remote::Remote;

    /// A store that lost a write, or made one twice, must not get a figure for it.
    #[test]
    fn a_miscount_is_no_result() {
        let load = |work: &str, assert: &str| -> Load {
            toml::from_str(&format!("name='a'\nwork='{work}'\n{assert}\n")).unwrap()
        };
        let effects = |operations, wakes| Effects { operations, wakes, besides: 0 };
        let set = load("set", "assert.revisions=1.0");
        check(&set, effects(1000, 0), 1000).unwrap();
        for wrong in [999, 1001, -1] {
            assert!(check(&set, effects(1000, 0), wrong).unwrap_err().to_string().contains("1000 operations"));
        }
        // One of ten, beginning with the first.
        let mixed = load("mixed", "assert.revisions=0.1");
        for (operations, revisions) in [(1000, 100), (1001, 101), (1009, 101)] {
            check(&mixed, effects(operations, 0), revisions).unwrap();
        }
        assert!(check(&mixed, effects(1000, 0), 101).is_err());
        let fan_out = load("fan-out", "assert={revisions=1.0, wakes=7}");
        check(&fan_out, effects(10, 70), 10).unwrap();
        assert!(check(&fan_out, effects(10, 69), 10).unwrap_err().to_string().contains("69 watches"));
    }

    /// The whole way, against a server of a map: all is asked, answered and counted, in both loops, and by clients who are in
    /// each other's way.
    #[test]
    fn a_turn_asks_and_counts() {
        let fake = Fake::start();
        let remote = Remote { kind: Kind::Doozer, addrs: vec![fake.addr()] };
        let subject = Subject::new(Kind::Doozer, Box::new(remote), "/bench").unwrap();
        let times = Times { warm_up: Duration::from_millis(10), measured: Duration::from_millis(50) };
        for (work, outstanding, revisions, rate) in [
            ("set", 1, 1.0, None),
            ("get", 16, 0.0, None),
            ("mixed", 16, 0.1, Some(2000.0)),
            ("compare-and-set", 1, 1.0, None),
        ] {
            let text = format!("work='{work}'\nfiles=100\nconnections=4\noutstanding={outstanding}\n");
            let load: Load = toml::from_str(&format!("name='{work}'\n{text}assert.revisions={revisions:?}")).unwrap();
            subject.prepare(&load).unwrap();
            let sample = run(&subject, &load, rate, times).unwrap();
            assert!(sample.servers.is_none() && sample.wall >= times.measured / 2, "{sample:?}");
            if rate.is_some() {
                assert_eq!(sample.latency.len() + sample.unasked, 100);
            }
            let e = run(&subject, &Load { assert: Assert { revisions: 0.5, wakes: 0 }, ..load }, rate, times);
            assert!(e.unwrap_err().to_string().contains("revisions after"), "{work}");
        }
        // What is there already is not made again.
        let again: Load = toml::from_str("name='set'\nwork='set'\nassert.revisions=1.0").unwrap();
        assert!(subject.prepare(&again).unwrap_err().to_string().contains("not made"));
    }

    /// Stages of what warmed the server up, or of another load, would be those of the machine at another time.
    #[test]
    fn the_stages_are_those_of_the_measured_part() {
        let times = Times { warm_up: Duration::from_millis(10), measured: Duration::from_millis(20) };
        let turn = |fake: Fake, name: &str, rest: &str| {
            let remote = Remote { kind: Kind::Polling, addrs: vec![fake.addr()] };
            let subject = Subject::new(Kind::Polling, Box::new(remote), "/bench").unwrap();
            let load: Load = toml::from_str(&format!("name='{name}'\nwork='{name}'\nconnections=4\n{rest}")).unwrap();
            subject.prepare(&load).unwrap();
            (run(&subject, &load, None, times).unwrap(), run(&subject, &load, Some(1000.0), times).unwrap())
        };
        let telling = || Fake::telling(|writes| told(&vec![(1, [1, 2, 3, 4, 5, 6]); writes]));
        let (closed, open) = turn(telling(), "set", "assert.revisions=1.0");
        for sample in [closed, open] {
            let batches = sample.batches.unwrap();
            assert_eq!((batches.count, batches.commands), (sample.latency.len(), 1.0));
            let all = batches.stages.iter().zip([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
            assert!(all.into_iter().all(|(mean, us)| (mean - us).abs() < us / 100.0), "{batches:?}");
        }
        let (reads, _) = turn(telling(), "get", "assert.revisions=0.0");
        assert_eq!(reads.batches, None);
        // A server that is older than STATS.
        let (older, _) = turn(Fake::start(), "set", "assert.revisions=1.0");
        assert_eq!(older.batches, None);
    }
}
