//! The scenarios of three nodes. Those that compare do so in turns, with what they compare with on the same cores.

pub mod catch_up;
pub mod failover;
pub mod floor3;
pub mod get;
pub mod idle;
pub mod latency;
pub mod throughput;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use doozer::limits::PORT_DEFAULT;
use hdrhistogram::Histogram;

use super::Bench;
use crate::client::{histogram, nanos};
use crate::cluster::{Cluster, Leader, NodeId};
use crate::failure::{Context, Failure};
use crate::floor::ECHO;
use crate::machine::{NODES, on_core, pin};

/// On a busy machine a leader is not heard for half a second now and then, and another one is elected: what was measured at the first
/// would be void. So where no election is measured, none comes about that soon.
const STEADY: [&str; 2] = ["-election", "5000"];

impl Bench {
    /// Starts a cluster on data directories `name-1` and so on.
    fn cluster(&self, name: &str, flags: &[&str]) -> Result<Cluster, Failure> {
        self.cluster_with(name, flags, None)
    }

    /// The same with a secret.
    pub(super) fn cluster_with(&self, name: &str, flags: &[&str], secret: Option<String>) -> Result<Cluster, Failure> {
        Cluster::start(&self.doozerd, self.dirs(name), self.cores.nodes, PORT_DEFAULT, flags, secret)
    }

    /// Ends a cluster, and frees its disk.
    fn disband(&self, cluster: Cluster, name: &str) -> Result<(), Failure> {
        cluster.end()?;
        for dir in self.dirs(name) {
            std::fs::remove_dir_all(&dir).context(format!("cannot remove {}", dir.display()))?;
        }
        Ok(())
    }

    fn dirs(&self, name: &str) -> [std::path::PathBuf; NODES] {
        std::array::from_fn(|number| self.scratch.path(&format!("{name}-{}", number + 1)))
    }

    /// Runs a client's part on the client's core; a failure is told with the nodes' last words.
    fn client_of<T: Send>(
        &self,
        cluster: &Cluster,
        body: impl FnOnce() -> Result<T, Failure> + Send,
    ) -> Result<T, Failure> {
        on_core(self.cores.client, body).map_err(|e| cluster.explain(e))
    }
}

/// What is compared with a leader that has been measured is compared with nothing if it was another one in between.
fn still_leads(cluster: &mut Cluster, leader: Leader) -> Result<(), Failure> {
    let now = cluster.leader()?;
    if now.node == leader.node && now.since == leader.since {
        return Ok(());
    }
    Err(cluster.explain(Failure::new(format!("{} was elected meanwhile; {} led before", now.node, leader.node))))
}

/// A node's place in a figure's name.
fn role(node: NodeId, leader: Leader) -> String {
    if node == leader.node { format!("{node}, the leader") } else { node.to_string() }
}

/// A client of the peer echo, which is between a follower and a leader: on the former's core.
struct Echo {
    stream: TcpStream,
    /// The follower's core.
    core: Option<usize>,
    /// The core to be on afterwards.
    home: usize,
}

impl Echo {
    fn connect(addr: SocketAddr, core: Option<usize>, home: usize) -> Result<Echo, Failure> {
        let stream = TcpStream::connect(addr).context(format!("cannot connect to {addr}"))?;
        stream.set_nodelay(true).context("TCP_NODELAY")?;
        Ok(Echo { stream, core, home })
    }

    /// Sends a message and waits until it is back, so many times.
    fn time(&mut self, count: u64) -> Result<Histogram<u64>, Failure> {
        self.core.map_or(Ok(()), pin)?;
        let mut latency = histogram();
        for number in 0..count {
            let mut message = [0; ECHO];
            message[..8].copy_from_slice(&number.to_be_bytes());
            let start = Instant::now();
            self.stream.write_all(&message).context("cannot send to the echo")?;
            let mut back = [0; ECHO];
            self.stream.read_exact(&mut back).context("cannot receive from the echo")?;
            latency.saturating_record(nanos(start.elapsed()));
            if back != message {
                return Err(Failure::new("the echo is not what was sent"));
            }
        }
        pin(self.home)?;
        Ok(latency)
    }
}

/// One of those that take turns.
type Turn<'a> = &'a mut dyn FnMut(u64) -> Result<Histogram<u64>, Failure>;

/// Turns of each in a round.
const TURNS: u64 = 20;
/// Operations at the beginning of each turn, to warm up what the others' turns have pushed out of the caches.
const WARM_UP: u64 = 50;

/// Has each take turns of `count` operations, and returns the latencies of each by round.
fn in_turns<const N: usize>(
    rounds: u32,
    count: u64,
    mut all: [Turn<'_>; N],
) -> Result<[Vec<Histogram<u64>>; N], Failure> {
    let mut latencies = std::array::from_fn(|_| Vec::new());
    for _ in 0..rounds {
        let round = one_round(count, &mut all)?;
        latencies.iter_mut().zip(round).for_each(|(rounds, latency): (&mut Vec<_>, _)| rounds.push(latency));
    }
    Ok(latencies)
}

/// A round of these turns.
fn one_round<const N: usize>(count: u64, all: &mut [Turn<'_>; N]) -> Result<[Histogram<u64>; N], Failure> {
    let mut latencies = std::array::from_fn(|_| histogram());
    for _ in 0..TURNS {
        for (turn, latency) in all.iter_mut().zip(&mut latencies) {
            turn(WARM_UP)?;
            *latency += turn(count)?;
        }
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What warms up must not be counted, nor one's turn as another's.
    #[test]
    fn each_round_holds_the_turns_of_each() {
        let of = |nanos: u64| {
            move |count: u64| {
                let mut latency = histogram();
                latency.record_n(nanos, count).unwrap();
                Ok(latency)
            }
        };
        let [one, two] = in_turns(3, 7, [&mut of(100), &mut of(200)]).unwrap();
        for (rounds, nanos) in [(one, 100), (two, 200)] {
            assert_eq!(rounds.len(), 3);
            assert!(
                rounds.iter().all(|round| round.len() == 7 * TURNS && round.min() == nanos && round.max() == nanos)
            );
        }
    }
}
