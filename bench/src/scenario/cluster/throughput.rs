//! SET/s over many connections with many requests outstanding on each: all at the leader, and spread over the nodes.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::{STEADY, role, still_leads};
use crate::failure::Failure;
use crate::figure::{Goal, Report, Unit, float, micros};
use crate::pool::{Driven, Pool};
use crate::process;
use crate::scenario::throughput::{KEYS, checked};
use crate::scenario::{Bench, CONNS, WINDOW, count_revisions};
use crate::traffic::{Keys, Sets};

const NAME: &str = "cluster-throughput";

/// A round, and each node's CPU time in it.
struct Round {
    driven: Driven,
    nodes: Vec<Duration>,
}

pub fn run(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let count = bench.count(1_000_000, 20_000);
    let mut cluster = bench.cluster(NAME, &STEADY)?;
    let leader = cluster.leader()?;
    let nodes: Vec<_> = cluster.all().collect();
    let pids = nodes.iter().map(|&node| cluster.pid(node)).collect::<Result<Vec<_>, _>>()?;
    let addrs: Vec<SocketAddr> = nodes.iter().map(|&node| cluster.addr(node)).collect();
    let before = cluster.whole()?;
    let [led, spread] = bench.client_of(&cluster, || {
        let keys = Keys::new(KEYS);
        let done = AtomicU64::new(0);
        let mut pools =
            [Pool::connect(cluster.addr(leader.node), CONNS, WINDOW)?, Pool::spread(&addrs, CONNS, WINDOW)?];
        let warm_up = 20 * KEYS as u64;
        for pool in &mut pools {
            checked(pool, &mut Sets::new(&keys, warm_up, &done), warm_up)?;
        }
        let cpu = || pids.iter().map(|&pid| process::cpu(pid)).collect::<Result<Vec<_>, _>>();
        let mut rounds = [Vec::new(), Vec::new()];
        for _ in 0..bench.rounds() {
            for (pool, rounds) in pools.iter_mut().zip(&mut rounds) {
                let before = cpu()?;
                let driven = checked(pool, &mut Sets::new(&keys, count, &done), count)?;
                let nodes = cpu()?.iter().zip(&before).map(|(after, before)| after.saturating_sub(*before)).collect();
                rounds.push(Round { driven, nodes });
            }
        }
        let writes = 2 * (warm_up + count * u64::from(bench.rounds()));
        count_revisions(cluster.addr(leader.node), before, writes)?;
        Ok(rounds)
    })?;
    cluster.whole()?;
    still_leads(&mut cluster, leader)?;
    for (name, rounds) in [("at the leader", led), ("spread over the nodes", spread)] {
        report.add_rounds(format!("SET/s, {name}"), Unit::PerSecond, rounds.iter().map(|r| r.driven.rate()));
        report.goal(Goal::AtLeast(100_000.0));
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            let latencies = rounds.iter().map(|r| micros(&r.driven.latency, quantile));
            report.add_rounds(format!("SET {label}, {CONNS} x {WINDOW} outstanding"), Unit::Micros, latencies);
        }
        let each = |cpu: Duration, r: &Round| cpu.as_secs_f64() * 1e6 / float(r.driven.count);
        let share = |cpu: Duration, r: &Round| 100.0 * cpu.as_secs_f64() / r.driven.wall.as_secs_f64();
        for (at, &node) in nodes.iter().enumerate() {
            let who = role(node, leader);
            report.add_rounds(
                format!("{who}: CPU time per SET"),
                Unit::Micros,
                rounds.iter().map(|r| each(r.nodes[at], r)),
            );
            report.add_rounds(format!("{who}: busy"), Unit::Percent, rounds.iter().map(|r| share(r.nodes[at], r)));
        }
        report.add_rounds("client: CPU time per SET", Unit::Micros, rounds.iter().map(|r| each(r.driven.cpu, r)));
        report.add_rounds("client: busy", Unit::Percent, rounds.iter().map(|r| share(r.driven.cpu, r)));
    }
    bench.disband(cluster, NAME)
}
