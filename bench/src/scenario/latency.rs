//! SET with one outstanding, against the floor (see [`crate::floor`]) on the same cores and the same disk, in turns.
//! The turns are short, some hundred milliseconds, so that what else the machine does falls on both alike.
//!
//! Where the time of a SET goes is told by the server itself, stage by stage, as means: these add up to what the client saw, with
//! what is left for the sockets, the kernel and the client.

use super::{ALONE, Bench};
use crate::child::Server;
use crate::client::{Client, histogram};
use crate::failure::{Context, Failure};
use crate::figure::{Goal, Report, Unit, micros};
use crate::stages::{self, Parts};
use crate::traffic::value;

/// Turns of each server in a round.
const TURNS: u64 = 20;
/// Sets at the beginning of each turn, to warm up what the other server's turn has pushed out of the caches.
const WARM_UP: u64 = 50;

pub fn run(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let count = bench.count(1000, 25);
    let doozerd = bench.server("latency")?;
    let revision = doozerd.revision();
    let file = bench.scratch.path("floor");
    let floor = Server::floor(&file, Some(bench.cores.server), revision + 1, &[])?;
    let value = value(0);
    let (own, least, parts) = bench.client(&doozerd, || {
        let mut clients = [Client::connect(doozerd.addr())?, Client::connect(floor.addr())?];
        let mut rounds = [Vec::new(), Vec::new()];
        let mut parts = Vec::new();
        for _ in 0..bench.rounds() {
            let mut round = [histogram(), histogram()];
            // The server counts the sets that warm it up, too.
            let mut all = [histogram(), histogram()];
            let before = clients[0].stats()?;
            for _ in 0..TURNS {
                for ((client, latency), all) in clients.iter_mut().zip(&mut round).zip(&mut all) {
                    *all += client.time_sets(ALONE, &value, WARM_UP)?;
                    let timed = client.time_sets(ALONE, &value, count)?;
                    *all += &timed;
                    *latency += timed;
                }
            }
            parts.push(Parts::of(&clients[0].stats()?.since(&before), &all[0])?);
            for (rounds, latency) in rounds.iter_mut().zip(round) {
                rounds.push(latency);
            }
        }
        let writes = (WARM_UP + count) * TURNS * u64::from(bench.rounds());
        super::count_revisions(doozerd.addr(), revision, writes)?;
        let [own, least] = rounds;
        Ok((own, least, parts))
    })?;
    report.add_latencies("SET", &own);
    report.add_latencies("floor", &least);
    let ratios = own.iter().zip(&least).map(|(own, least)| micros(own, 0.5) / micros(least, 0.5));
    report.add_rounds("SET p50 / floor p50", Unit::Ratio, ratios);
    report.goal(Goal::AtMost(1.15));
    stages::add(report, "SET", &parts);
    let said = floor.said();
    report.remarks.extend(said);
    floor.kill()?;
    doozerd.terminate()?;
    std::fs::remove_file(&file).context(format!("cannot remove {}", file.display()))?;
    bench.remove("latency")
}
