//! The floor of a cluster by itself: three minimal processes, against one, and the echo between two, in turns.

use super::{Echo, in_turns};
use crate::child::Server;
use crate::client::Client;
use crate::failure::{Context, Failure};
use crate::figure::{Report, Unit, micros};
use crate::machine::on_core;
use crate::scenario::{ALONE, Bench};
use crate::system::floor::Floor;
use crate::traffic::value;

/// Revision of the first answer; answers are as long as those of a server that has been used a little.
const FIRST_REV: i64 = 1000;

pub fn run(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let cores = bench.cores.nodes;
    let floor3 = Floor::start(&bench.scratch, &cores, FIRST_REV)?;
    let file = bench.scratch.path("floor");
    let floor = Server::floor(&file, cores[0], FIRST_REV, &[])?;
    let echo = Server::echo(cores[0])?;
    let value = value(0);
    let [three, one, echoes] = on_core(bench.cores.client, || {
        let (mut three, mut one) = (Client::connect(floor3.addr())?, Client::connect(floor.addr())?);
        let mut echo = Echo::connect(echo.addr(), cores[1], bench.cores.client)?;
        let turns: [super::Turn<'_>; 3] = [
            &mut |count| three.time_sets(ALONE, &value, count),
            &mut |count| one.time_sets(ALONE, &value, count),
            &mut |count| echo.time(count),
        ];
        in_turns(bench.rounds(), bench.count(1000, 25), turns)
    })?;
    report.add_latencies("floor of three", &three);
    report.add_latencies("floor of one", &one);
    report.add_latencies("peer echo", &echoes);
    let ratios = three.iter().zip(&one).map(|(three, one)| micros(three, 0.5) / micros(one, 0.5));
    report.add_rounds("floor of three p50 / floor of one p50", Unit::Ratio, ratios);
    report.remarks.extend(floor3.end()?);
    floor.kill()?;
    echo.kill()?;
    std::fs::remove_file(&file).context(format!("cannot remove {}", file.display()))
}
