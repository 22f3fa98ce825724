//! SET with one outstanding, against the floor (see [`crate::floor`]) on the same cores and the same disk, in turns.

use super::{ALONE, Bench};
use crate::child::Server;
use crate::client::Client;
use crate::failure::Failure;
use crate::figure::{Goal, Report, Unit, micros};
use crate::traffic::value;

/// Sets before each round, to warm up what the other server's round has pushed out of the caches.
const WARM_UP: u64 = 500;

pub fn run(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let count = bench.count(20_000, 500);
    let doozerd = bench.server("latency")?;
    let revision = doozerd.revision();
    let file = bench.scratch.path("floor");
    let floor = Server::floor(&file, bench.cores.server, revision + 1)?;
    let value = value(0);
    let (own, least) = bench.client(&doozerd, || {
        let mut clients = [Client::connect(doozerd.addr())?, Client::connect(floor.addr())?];
        let mut rounds = [Vec::new(), Vec::new()];
        for _ in 0..bench.rounds {
            for (client, rounds) in clients.iter_mut().zip(&mut rounds) {
                client.time_sets(ALONE, &value, WARM_UP)?;
                rounds.push(client.time_sets(ALONE, &value, count)?);
            }
        }
        let writes = (WARM_UP + count) * u64::from(bench.rounds);
        super::count_revisions(doozerd.addr(), revision, writes)?;
        let [own, least] = rounds;
        Ok((own, least))
    })?;
    report.add_latencies("SET", &own);
    report.add_latencies("floor", &least);
    let ratios = own.iter().zip(&least).map(|(own, least)| micros(own, 0.5) / micros(least, 0.5));
    report.add_rounds("SET p50 / floor p50", Unit::Ratio, ratios);
    report.goal(Goal::AtMost(1.15));
    let said = floor.said();
    report.remarks.extend(said);
    floor.kill()?;
    doozerd.terminate()?;
    std::fs::remove_file(&file).map_err(|e| Failure::new(format!("cannot remove {}: {e}", file.display())))?;
    bench.remove("latency")
}
