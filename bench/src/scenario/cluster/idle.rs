//! What three nodes cost that nobody asks anything: CPU time, disk, revisions.
//!
//! The log's segments have their full size from the beginning, so that a log which grows need not show in the size of the
//! directory: the bytes that each process has had written to its disk do show it. At the end one write proves that they do.

use std::time::{Duration, Instant};

use super::{STEADY, role, still_leads};
use crate::client::{Client, PATIENCE};
use crate::cluster::{Cluster, NodeId};
use crate::failure::Failure;
use crate::figure::{Goal, Report, Unit, float};
use crate::process;
use crate::scenario::Bench;
use crate::scratch::usage;

const NAME: &str = "idle";
/// Nothing is written for so long before it begins: segments are made ready in the background.
const QUIET: Duration = Duration::from_secs(2);

/// A node at a moment.
#[derive(Clone, Copy, Debug)]
struct State {
    cpu: Duration,
    written: u64,
    usage: u64,
    revision: i64,
}

impl State {
    fn of(cluster: &Cluster, node: NodeId) -> Result<State, Failure> {
        // Being asked costs CPU time; it is taken last, and what it takes is a millisecond in the whole time.
        let revision = Client::connect(cluster.addr(node))?.revision()?;
        let (pid, usage) = (cluster.pid(node)?, usage(cluster.dir(node))?);
        Ok(State { revision, usage, written: process::written(pid)?, cpu: process::cpu(pid)? })
    }
}

pub fn run(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let time = Duration::from_secs(bench.count(20, 3));
    let mut cluster = bench.cluster(NAME, &STEADY)?;
    let leader = cluster.leader()?;
    let nodes: Vec<NodeId> = cluster.all().collect();
    let states = |cluster: &Cluster| {
        nodes
            .iter()
            .map(|&node| State::of(cluster, node))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| cluster.explain(e))
    };
    settle(&cluster, &nodes)?;
    let (begun, before) = (Instant::now(), states(&cluster)?);
    std::thread::sleep(time);
    let (wall, after) = (begun.elapsed(), states(&cluster)?);
    still_leads(&mut cluster, leader)?;
    cluster.whole()?;
    for (&node, last) in nodes.iter().zip(&after) {
        if process::written(cluster.pid(node)?)? == last.written {
            return Err(Failure::new(format!("{node} has taken a write, but /proc says that it has written nothing")));
        }
    }
    report.add("time", Unit::Seconds, wall.as_secs_f64());
    let pairs = || nodes.iter().zip(before.iter().zip(&after));
    for (&node, (before, after)) in pairs() {
        let share = after.cpu.saturating_sub(before.cpu).as_secs_f64() / wall.as_secs_f64();
        report.add(format!("{}: busy", role(node, leader)), Unit::Percent, 100.0 * share);
        report.goal(Goal::AtMost(1.0));
    }
    for (&node, (before, after)) in pairs() {
        report.add(format!("{node}: growth of its directory"), Unit::Bytes, float(after.usage) - float(before.usage));
        report.goal(Goal::AtMost(0.0));
        report.add(format!("{node}: written to its disk"), Unit::Bytes, float(after.written - before.written));
        report.goal(Goal::AtMost(0.0));
    }
    let revisions = pairs().map(|(_, (before, after))| after.revision - before.revision).max().unwrap_or(0);
    report.add("revisions made", Unit::Count, float(u64::try_from(revisions).unwrap_or(u64::MAX)));
    report.goal(Goal::AtMost(0.0));
    bench.disband(cluster, NAME)
}

/// Waits until nothing has been written for a while. Where something is written all the time, that is what is measured.
fn settle(cluster: &Cluster, nodes: &[NodeId]) -> Result<(), Failure> {
    let written =
        || nodes.iter().map(|&node| process::written(cluster.pid(node)?)).collect::<Result<Vec<_>, Failure>>();
    let deadline = Instant::now() + PATIENCE / 4;
    let (mut last, mut since) = (written()?, Instant::now());
    while since.elapsed() < QUIET && Instant::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(50));
        let now = written()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(())
}
