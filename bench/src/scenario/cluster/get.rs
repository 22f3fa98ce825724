//! GET/s of each of three nodes, with all clients at that one, against a single server on the same core, in turns. The client
//! is on another core than the one that it asks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::{STEADY, role, still_leads};
use crate::child::{Launch, Server};
use crate::client::Client;
use crate::failure::Failure;
use crate::figure::{Goal, Report, Unit, float};
use crate::machine::{apart, on_core};
use crate::pool::{Driven, Pool};
use crate::scenario::throughput::{KEYS, checked};
use crate::scenario::{Bench, CONNS, WINDOW};
use crate::traffic::{Gets, Keys, Sets};

const NAME: &str = "cluster-get";
const SINGLE: &str = "cluster-get-single";
/// What two measurements of one server differ by anyway.
const NOISE: f64 = 0.05;

/// Turns of each in a round. They are short, so that what else the machine does falls on both alike.
const TURNS: u32 = 10;

/// Of the turns of a round.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    count: u64,
    wall: Duration,
    /// The client's CPU time.
    cpu: Duration,
}

impl Total {
    fn add(&mut self, driven: &Driven) {
        self.count += driven.count;
        self.wall += driven.wall;
        self.cpu += driven.cpu;
    }

    fn rate(&self) -> f64 {
        float(self.count) / self.wall.as_secs_f64()
    }
}

/// Reads `count` times a turn from each server.
fn take_turns(addrs: [SocketAddr; 2], keys: &Keys, count: u64) -> Result<[Total; 2], Failure> {
    let [alone, member] = addrs.map(|addr| Pool::connect(addr, CONNS, WINDOW));
    let mut pools = [alone?, member?];
    let mut totals = [Total::default(); 2];
    for turn in 0..=TURNS {
        for (pool, total) in pools.iter_mut().zip(&mut totals) {
            let driven = checked(pool, &mut Gets::new(keys, count), count)?;
            // The first one warms up.
            if turn > 0 {
                total.add(&driven);
            }
        }
    }
    Ok(totals)
}

pub fn run(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let count = bench.count(100_000, 10_000);
    let mut cluster = bench.cluster(NAME, &STEADY)?;
    let leader = cluster.leader()?;
    let keys = Keys::new(KEYS);
    let fill = |addr| {
        let writes = 20 * KEYS as u64;
        checked(&mut Pool::connect(addr, CONNS, WINDOW)?, &mut Sets::new(&keys, writes, &AtomicU64::new(0)), writes)?;
        Client::connect(addr)?.revision()
    };
    let filled = bench.client_of(&cluster, || fill(cluster.addr(leader.node)))?;
    // Each node has to have the keys before they are read there.
    for node in cluster.all() {
        Client::connect(cluster.addr(node))?.get(b"/bench/keys/000000", Some(filled))?;
    }
    let mut singles = BTreeMap::new();
    for core in cluster.all().map(|node| cluster.core(node)) {
        if !singles.contains_key(&core) {
            let dir = bench.scratch.path(&format!("{SINGLE}-{}", singles.len()));
            let listen = ([127, 0, 0, 1], 0).into();
            let launch = Launch { dir, listen, core, attach: None, flags: Vec::new(), secret: None };
            let server = Server::launch(&bench.doozerd, &launch)?;
            bench.client(&server, || fill(server.addr()))?;
            singles.insert(core, (server, launch.dir));
        }
    }
    let mut rounds: Vec<[Vec<Total>; 2]> = cluster.all().map(|_| [Vec::new(), Vec::new()]).collect();
    for _ in 0..bench.rounds() {
        for (node, rounds) in cluster.all().zip(&mut rounds) {
            let core = cluster.core(node);
            let (single, _) = &singles[&core];
            let client = core.map_or(Ok(bench.cores.client), apart)?;
            let round = on_core(client, || take_turns([single.addr(), cluster.addr(node)], &keys, count));
            let round = round.map_err(|e| single.explain(cluster.explain(e.within(&node.to_string()))))?;
            rounds.iter_mut().zip(round).for_each(|(rounds, total)| rounds.push(total));
        }
    }
    still_leads(&mut cluster, leader)?;
    for (node, [alone, member]) in cluster.all().zip(&rounds) {
        let who = role(node, leader);
        report.add_rounds(format!("GET/s, {who}"), Unit::PerSecond, member.iter().map(Total::rate));
        report.add_rounds("GET/s, single, on its core", Unit::PerSecond, alone.iter().map(Total::rate));
        let busy = member.iter().map(|r| 100.0 * r.cpu.as_secs_f64() / r.wall.as_secs_f64());
        report.add_rounds("client busy at the node", Unit::Percent, busy);
        let ratios = member.iter().zip(alone).map(|(member, alone)| member.rate() / alone.rate());
        report.add_rounds(format!("{who} / single"), Unit::Ratio, ratios);
        report.goal(Goal::AtLeast(1.0 - NOISE));
    }
    for (server, dir) in singles.into_values() {
        server.terminate()?;
        std::fs::remove_dir_all(&dir).map_err(|e| Failure::new(format!("cannot remove {}: {e}", dir.display())))?;
    }
    bench.disband(cluster, NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    /// The turn that warms up must not be counted, nor may one server be read in the other's name.
    #[test]
    fn turns_are_taken_at_both() {
        let keys = Keys::new(10);
        let fakes = [(); 2].map(|()| Fake::start());
        let read = || take_turns([fakes[0].addr(), fakes[1].addr()], &keys, 100);
        let fill = |fake: &Fake| {
            let mut pool = Pool::connect(fake.addr(), 1, 1).unwrap();
            pool.drive(&mut Sets::new(&keys, 1000, &AtomicU64::new(0))).unwrap();
        };
        fill(&fakes[0]);
        assert!(read().unwrap_err().to_string().contains("not what was set"));
        fill(&fakes[1]);
        let [alone, member] = read().unwrap();
        assert_eq!((alone.count, member.count), (1000, 1000));
        assert!(alone.wall > Duration::ZERO && member.rate() > 0.0);
    }
}
