//! SET/s and GET/s over many connections with many requests outstanding on each.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::{Bench, CONNS, WINDOW};
use crate::client::Client;
use crate::failure::Failure;
use crate::figure::{Goal, Report, Unit, float, micros};
use crate::pool::{Driven, Pool, Traffic};
use crate::process;
use crate::traffic::{Gets, Keys, Sets};

/// Files that are written and read.
pub(super) const KEYS: usize = 1000;

/// A round, and the server's CPU time in it.
struct Round {
    driven: Driven,
    server: Duration,
}

pub fn run(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let (set_count, get_count) = (bench.count(1_000_000, 20_000), bench.count(2_000_000, 20_000));
    let server = bench.server("throughput")?;
    let (sets, gets) = bench.client(&server, || {
        let keys = Keys::new(KEYS);
        let done = AtomicU64::new(0);
        let mut pool = Pool::connect(server.addr(), CONNS, WINDOW)?;
        // Each key has to be there before it is read; this warms up, too.
        let warm_up = 20 * KEYS as u64;
        pool.drive(&mut Sets::new(&keys, warm_up, &done))?;
        let (mut sets, mut gets) = (Vec::new(), Vec::new());
        let mut round = |traffic: &mut dyn FnMut(&mut Pool) -> Result<Driven, Failure>| {
            let before = process::cpu(server.pid())?;
            let driven = traffic(&mut pool)?;
            Ok::<Round, Failure>(Round { driven, server: process::cpu(server.pid())?.saturating_sub(before) })
        };
        let before = Client::connect(server.addr())?.revision()?;
        for _ in 0..bench.rounds() {
            sets.push(round(&mut |pool| checked(pool, &mut Sets::new(&keys, set_count, &done), set_count))?);
            gets.push(round(&mut |pool| checked(pool, &mut Gets::new(&keys, get_count), get_count))?);
        }
        super::count_revisions(server.addr(), before, set_count * u64::from(bench.rounds()))?;
        Ok((sets, gets))
    })?;
    for (name, rounds, goal) in [("SET", sets, 200_000.0), ("GET", gets, 400_000.0)] {
        describe(name, &rounds, goal, report);
    }
    server.terminate()?;
    bench.remove("throughput")
}

pub(super) fn checked(pool: &mut Pool, traffic: &mut impl Traffic, count: u64) -> Result<Driven, Failure> {
    let driven = pool.drive(traffic)?;
    if driven.count == count {
        Ok(driven)
    } else {
        Err(Failure::new(format!("{} answers to {count} requests", driven.count)))
    }
}

fn describe(name: &str, rounds: &[Round], goal: f64, report: &mut Report) {
    report.add_rounds(format!("{name}/s"), Unit::PerSecond, rounds.iter().map(|r| r.driven.rate()));
    report.goal(Goal::AtLeast(goal));
    for (label, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        let latencies = rounds.iter().map(|r| micros(&r.driven.latency, quantile));
        report.add_rounds(format!("{name} {label}, {CONNS} x {WINDOW} outstanding"), Unit::Micros, latencies);
    }
    type Side = fn(&Round) -> Duration;
    let sides: [(&str, Side); 2] = [("server", |r| r.server), ("client", |r| r.driven.cpu)];
    let mut busy = Vec::new();
    for (side, cpu) in sides {
        let each = rounds.iter().map(|r| cpu(r).as_secs_f64() * 1e6 / float(r.driven.count));
        report.add_rounds(format!("{side}'s CPU time per {name}"), Unit::Micros, each);
        let share = rounds.iter().map(|r| 100.0 * cpu(r).as_secs_f64() / r.driven.wall.as_secs_f64());
        busy.push(report.add_rounds(format!("{side} busy in {name}"), Unit::Percent, share).measured);
    }
    if busy[1] > 95.0 && busy[0] < 90.0 {
        report.remarks.push(format!("in {name} the client was busier than the server: the server can do more"));
    }
}
