//! GET/s of each of three nodes, with all clients at that one, against a single server on the same core, in turns. The client
//! is on another core than the one that it asks.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use super::{role, still_leads};
use crate::child::{Launch, Server};
use crate::client::Client;
use crate::failure::Failure;
use crate::figure::{Goal, Report, Unit};
use crate::machine::{apart, on_core};
use crate::pool::{Driven, Pool};
use crate::scenario::throughput::{KEYS, checked};
use crate::scenario::{Bench, CONNS, WINDOW};
use crate::traffic::{Gets, Keys, Sets};

const NAME: &str = "cluster-get";
const SINGLE: &str = "cluster-get-single";
/// What two measurements of one server differ by anyway.
const NOISE: f64 = 0.05;

pub fn run(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let count = bench.count(1_000_000, 20_000);
    let mut cluster = bench.cluster(NAME, &[])?;
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
            let launch = Launch { dir, listen, core, attach: None, flags: Vec::new() };
            let server = Server::launch(&bench.doozerd, &launch)?;
            bench.client(&server, || fill(server.addr()))?;
            singles.insert(core, (server, launch.dir));
        }
    }
    let read = |core: Option<usize>, addr| {
        let client = core.map_or(Ok(bench.cores.client), apart)?;
        on_core(client, || checked(&mut Pool::connect(addr, CONNS, WINDOW)?, &mut Gets::new(&keys, count), count))
    };
    let mut rounds: Vec<[Vec<Driven>; 2]> = cluster.all().map(|_| [Vec::new(), Vec::new()]).collect();
    for _ in 0..bench.rounds() {
        for (node, [alone, member]) in cluster.all().zip(&mut rounds) {
            let core = cluster.core(node);
            let (single, _) = &singles[&core];
            alone.push(read(core, single.addr()).map_err(|e| single.explain(e))?);
            member.push(read(core, cluster.addr(node)).map_err(|e| cluster.explain(e.within(&node.to_string())))?);
        }
    }
    still_leads(&mut cluster, leader)?;
    for (node, [alone, member]) in cluster.all().zip(&rounds) {
        let who = role(node, leader);
        report.add_rounds(format!("GET/s, {who}"), Unit::PerSecond, member.iter().map(Driven::rate));
        report.add_rounds("GET/s, single, on its core", Unit::PerSecond, alone.iter().map(Driven::rate));
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
