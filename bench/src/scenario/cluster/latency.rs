//! SET with one outstanding, three nodes, the client at the leader and at a follower, against the floor of a cluster on the
//! same cores and the same disk, in turns; and what a message between two processes costs, which is what a client at a
//! follower has to pay.
//!
//! Where the time of a SET at the leader goes is told by the leader itself, as with one server; what it counts is its own clients'.

use std::cell::RefCell;

use super::{Echo, STEADY, one_round, still_leads};
use crate::child::Server;
use crate::client::{Client, histogram};
use crate::failure::Failure;
use crate::figure::{Goal, Report, Unit, micros};
use crate::scenario::{ALONE, Bench, count_revisions};
use crate::stages::{self, Parts};
use crate::system::floor::Floor;
use crate::traffic::value;

const NAME: &str = "cluster-latency";

pub fn run(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let count = bench.count(1000, 25);
    let mut cluster = bench.cluster(NAME, &STEADY)?;
    let leader = cluster.leader()?;
    let others = cluster.others(leader.node);
    let follower = others[0];
    let revision = cluster.whole()?;
    let cores = [leader.node, others[0], others[1]].map(|node| cluster.core(node));
    let floor3 = Floor::start(&bench.scratch, &cores, revision + 1)?;
    let echo = Server::echo(cores[0])?;
    let value = value(0);
    let (latencies, parts) = bench.client_of(&cluster, || {
        let mut floor = Client::connect(floor3.addr())?;
        let mut led = Client::connect(cluster.addr(leader.node))?;
        let mut followed = Client::connect(cluster.addr(follower))?;
        let mut teller = Client::connect(cluster.addr(leader.node))?;
        let mut echo = Echo::connect(echo.addr(), cores[1], bench.cores.client)?;
        // The leader counts the sets that warm it up, too.
        let all = RefCell::new(histogram());
        let mut turns: [super::Turn<'_>; 4] = [
            &mut |count| floor.time_sets(ALONE, &value, count),
            &mut |count| led.time_sets(ALONE, &value, count).inspect(|latency| *all.borrow_mut() += latency),
            &mut |count| followed.time_sets(ALONE, &value, count).map_err(|e| e.within("at a follower")),
            &mut |count| echo.time(count),
        ];
        let mut latencies = [const { Vec::new() }; 4];
        let mut parts = Vec::new();
        for _ in 0..bench.rounds() {
            let before = teller.stats()?;
            let round = one_round(count, &mut turns)?;
            parts.push(Parts::of(&teller.stats()?.since(&before), &all.replace(histogram()))?);
            latencies.iter_mut().zip(round).for_each(|(rounds, latency)| rounds.push(latency));
        }
        let writes = 2 * (super::WARM_UP + count) * super::TURNS * u64::from(bench.rounds());
        count_revisions(cluster.addr(leader.node), revision, writes)?;
        Ok((latencies, parts))
    })?;
    let [floor, led, followed, echoes] = latencies;
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
    stages::add(report, "SET at the leader", &parts);
    report.remarks.extend(floor3.end()?);
    echo.kill()?;
    bench.disband(cluster, NAME)
}
