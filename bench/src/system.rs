//! The systems that are compared: how each is started, where it listens, which processes it is, and how it is spoken to.
//!
//! Each runs as its package has it, with its durable defaults, on directories of its own on the disk that is measured,
//! as one node or as three on addresses of this machine. Their processes end with this one, however it ends. The
//! [`floor`] is one of them: the least that any could be.

pub mod daemon;
pub mod doozer;
pub mod etcd;
pub mod floor;
pub mod remote;
pub mod zookeeper;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::doozer::limits::PORT_DEFAULT;
use serde::{Deserialize, Serialize};

use crate::codec::{self, Codec};
use crate::failure::Failure;
use crate::machine::Cores;
use crate::process;
use crate::scratch::Scratch;

/// Which system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Kind {
    /// `doozerd`.
    Doozer,
    /// `doozerd` that polls for a while before its core sleeps.
    #[serde(rename = "doozer-polling")]
    #[value(name = "doozer-polling")]
    Polling,
    /// Apache ZooKeeper.
    ZooKeeper,
    /// etcd.
    Etcd,
    /// What a durable answer costs at the least.
    #[value(skip)]
    Floor,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Doozer => "doozer",
            Kind::Polling => "doozer-polling",
            Kind::ZooKeeper => "zookeeper",
            Kind::Etcd => "etcd",
            Kind::Floor => "floor",
        })
    }
}

impl Kind {
    /// What makes the client's end of a connection.
    pub fn codec(self) -> fn() -> Box<dyn Codec> {
        match self {
            Kind::Doozer | Kind::Polling | Kind::Floor => || Box::new(codec::doozer::Doozer::new()),
            Kind::ZooKeeper => || Box::new(codec::zookeeper::ZooKeeper::new()),
            Kind::Etcd => || Box::new(codec::etcd::Etcd::new()),
        }
    }

    /// Whether a write that was refused has a revision, too: ZooKeeper's leader numbers it before it is known to fail.
    pub fn numbers_mismatches(self) -> bool {
        self == Kind::ZooKeeper
    }

    /// Whether a file's parents have to be made before it.
    pub fn has_parents(self) -> bool {
        self == Kind::ZooKeeper
    }
}

/// A system that runs. Its processes are killed when it is dropped.
pub trait System: Send + Sync {
    /// Where its nodes listen; the leader's address is the first.
    fn addrs(&self) -> Vec<SocketAddr>;

    /// Its processes; none if it runs elsewhere.
    fn pids(&self) -> Vec<u32>;

    /// Its version, as it tells it.
    fn version(&self) -> String;

    /// Adds what its processes have said last.
    fn explain(&self, e: Failure) -> Failure {
        e
    }
}

/// CPU time of all processes of a system; none if it runs elsewhere.
///
/// # Errors
/// One of them is gone.
pub fn cpu(system: &dyn System) -> Result<Option<Duration>, Failure> {
    let pids = system.pids();
    if pids.is_empty() {
        return Ok(None);
    }
    pids.into_iter().map(process::cpu).sum::<Result<Duration, Failure>>().map(Some)
}

/// Where the systems are to run.
#[derive(Debug)]
pub struct Ground {
    /// Their data goes below this directory.
    pub scratch: Scratch,
    /// Who may run where.
    pub cores: Cores,
    /// Our server.
    pub doozerd: Option<PathBuf>,
    /// One node or three.
    pub nodes: usize,
}

impl Ground {
    /// The cores of the nodes.
    pub fn node_cores(&self) -> Vec<Option<usize>> {
        if self.nodes == 1 { vec![Some(self.cores.server)] } else { self.cores.nodes.to_vec() }
    }

    /// That the client is on the core of a node, if it is: then they wait for each other.
    pub fn shared_core(&self) -> Option<String> {
        let client = self.cores.client;
        let numbers = (1..).zip(self.node_cores()).filter(|(_, core)| *core == Some(client));
        let numbers: Vec<_> = numbers.map(|(number, _): (u32, _)| number.to_string()).collect();
        match self.nodes {
            _ if numbers.is_empty() => None,
            1 => Some(format!("doozer's server and the client share core {client}, so the figures mean little")),
            _ => Some(format!("the client shares core {client} with doozer's node {}", numbers.join(" and "))),
        }
    }

    /// A directory for the data of each node, which is yet to be made.
    pub fn dirs(&self, name: &str) -> Vec<PathBuf> {
        (1..=self.nodes).map(|number| self.scratch.path(&format!("{name}-{number}"))).collect()
    }
}

/// What came of starting a system.
pub enum Start {
    /// It runs.
    Running(Box<dyn System>),
    /// It is not installed; the text says how to get it.
    Missing(String),
}

/// Starts a system, and waits until it takes writes.
///
/// # Errors
/// It does not come up.
pub fn start(kind: Kind, ground: &Ground) -> Result<Start, Failure> {
    let name = kind.to_string();
    let started = match kind {
        Kind::Doozer => doozer::start(ground, &name, PORT_DEFAULT, &[]),
        Kind::Polling => doozer::start(ground, &name, PORT_DEFAULT + 1, &["--busy-poll", "1000"]),
        Kind::ZooKeeper => zookeeper::start(ground),
        Kind::Etcd => etcd::start(ground),
        Kind::Floor => floor::Floor::start(&ground.scratch, &ground.node_cores(), 1000)
            .map(|floor| Start::Running(Box::new(floor))),
    };
    started.map_err(|e| e.within(&name))
}

/// One that is among these a second time.
pub fn twice<T: PartialEq>(all: &[T]) -> Option<&T> {
    all.iter().enumerate().find_map(|(at, one)| all[..at].contains(one).then_some(one))
}

/// The first of these paths that is there.
fn present(paths: &'static [&'static str]) -> Option<&'static Path> {
    paths.iter().map(Path::new).find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures of a client and a server that wait for each other are taken for those of the server.
    #[test]
    fn a_client_on_a_servers_core_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let said = |nodes, client| {
            let cores = Cores { server: 1, client, nodes: [Some(1), None, Some(1)], reason: String::new() };
            let scratch = Scratch::new(dir.path()).unwrap();
            Ground { scratch, cores, doozerd: None, nodes }.shared_core()
        };
        assert_eq!((said(1, 0), said(3, 0)), (None, None));
        assert!(said(1, 1).unwrap().contains("share core 1"));
        assert!(said(3, 1).unwrap().ends_with("core 1 with doozer's node 1 and 3"));
    }
}
