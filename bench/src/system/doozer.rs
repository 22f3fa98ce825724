//! `doozerd`, as the rest of this program starts it.

use std::net::SocketAddr;

use super::{Ground, Start, System};
use crate::child::Server;
use crate::cluster::Cluster;
use crate::failure::Failure;
use crate::machine::NODES;
use crate::scenario;

struct Single {
    server: Server,
    version: String,
}

struct Three {
    cluster: Cluster,
    addrs: Vec<SocketAddr>,
    pids: Vec<u32>,
    version: String,
}

/// Starts it under a name, each node on its core, and with these flags; a cluster's nodes listen on this port.
///
/// # Errors
/// It does not come up.
pub fn start(ground: &Ground, name: &str, port: u16, flags: &[&str]) -> Result<Start, Failure> {
    let Some(program) = &ground.doozerd else {
        return Ok(Start::Missing("`cargo build --release --bin doozerd`, or name one with --doozerd PATH".into()));
    };
    let version = scenario::version(program)?;
    let dirs = ground.dirs(name);
    if let [dir] = &dirs[..] {
        let server = Server::doozerd(program, dir, ground.cores.server, flags)?;
        return Ok(Start::Running(Box::new(Single { server, version })));
    }
    let dirs = <[_; NODES]>::try_from(dirs).map_err(|_| Failure::new("three nodes or one"))?;
    let mut cluster = Cluster::start(program, dirs, ground.cores.nodes, port, flags, None)?;
    let leader = cluster.leader()?.node;
    let nodes: Vec<_> = std::iter::once(leader).chain(cluster.others(leader)).collect();
    let addrs = nodes.iter().map(|&node| cluster.addr(node)).collect();
    let pids = nodes.iter().map(|&node| cluster.pid(node)).collect::<Result<_, _>>()?;
    Ok(Start::Running(Box::new(Three { cluster, addrs, pids, version })))
}

impl System for Single {
    fn addrs(&self) -> Vec<SocketAddr> {
        vec![self.server.addr()]
    }

    fn pids(&self) -> Vec<u32> {
        vec![self.server.pid()]
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn explain(&self, e: Failure) -> Failure {
        self.server.explain(e)
    }
}

impl System for Three {
    fn addrs(&self) -> Vec<SocketAddr> {
        self.addrs.clone()
    }

    fn pids(&self) -> Vec<u32> {
        self.pids.clone()
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn explain(&self, e: Failure) -> Failure {
        self.cluster.explain(e)
    }
}
