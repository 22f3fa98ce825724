//! SET with one outstanding, three nodes, the client at the leader and at a follower, against the floor of a cluster on the
//! same cores and the same disk, in turns; and what a message between two processes costs, which is what a client at a
//! follower has to pay.

use super::{Echo, in_turns, still_leads};
use crate::child::Server;
use crate::client::Client;
use crate::failure::Failure;
use crate::figure::{Goal, Report, Unit, micros};
use crate::scenario::{ALONE, Bench, count_revisions};
use crate::system::floor::Floor;
use crate::traffic::value;

const NAME: &str = "cluster-latency";

pub fn run(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let count = bench.count(1000, 25);
    let mut cluster = bench.cluster(NAME, &[])?;
    let leader = cluster.leader()?;
    let others = cluster.others(leader.node);
    let follower = others[0];
    let revision = cluster.whole()?;
    let cores = [leader.node, others[0], others[1]].map(|node| cluster.core(node));
    let floor3 = Floor::start(&bench.scratch, &cores, revision + 1)?;
    let echo = Server::echo(cores[0])?;
    let value = value(0);
    let [floor, led, followed, echoes] = bench.client_of(&cluster, || {
        let mut floor = Client::connect(floor3.addr())?;
        let mut led = Client::connect(cluster.addr(leader.node))?;
        let mut followed = Client::connect(cluster.addr(follower))?;
        let mut echo = Echo::connect(echo.addr(), cores[1], bench.cores.client)?;
        let turns: [super::Turn<'_>; 4] = [
            &mut |count| floor.time_sets(ALONE, &value, count),
            &mut |count| led.time_sets(ALONE, &value, count),
            &mut |count| followed.time_sets(ALONE, &value, count).map_err(|e| e.within("at a follower")),
            &mut |count| echo.time(count),
        ];
        let latencies = in_turns(bench.rounds(), count, turns)?;
        let writes = 2 * (super::WARM_UP + count) * super::TURNS * u64::from(bench.rounds());
        count_revisions(cluster.addr(leader.node), revision, writes)?;
        Ok(latencies)
    })?;
    still_leads(&mut cluster, leader)?;
    report.add_latencies("floor of three", &floor);
    report.add_latencies("SET at the leader", &led);
    report.add_latencies("SET at a follower", &followed);
    report.add_latencies("peer echo", &echoes);
    let ratios = led.iter().zip(&floor).map(|(led, floor)| micros(led, 0.5) / micros(floor, 0.5));
    report.add_rounds("leader p50 / floor p50", Unit::Ratio, ratios);
    report.goal(Goal::AtMost(1.4));
    let all = followed.iter().zip(&led).zip(&echoes);
    let ratios = all.map(|((followed, led), echo)| micros(followed, 0.5) / (micros(led, 0.5) + micros(echo, 0.5)));
    report.add_rounds("follower p50 / (leader p50 + echo p50)", Unit::Ratio, ratios);
    report.goal(Goal::AtMost(1.15));
    report.remarks.extend(floor3.end()?);
    echo.kill()?;
    bench.disband(cluster, NAME)
}
