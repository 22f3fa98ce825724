//! etcd from its package: `apt-get install etcd-server`. It syncs its log before it answers; nothing switches that off.
//!
//! What differs from its defaults is where it listens and writes; the quota of its database, for runs that write large
//! values would reach the 2 GB at which it refuses them; and that it logs errors only, for else it writes a line for each
//! request that took more than 100 ms, which under full load are all of them.

use std::net::SocketAddr;
use std::path::Path;

use super::daemon::{Daemon, ask, leader_first};
use super::{Ground, Start, System, present};
use crate::cluster::address;
use crate::failure::Failure;

const PROGRAM: &[&str] = &["/usr/bin/etcd", "/usr/local/bin/etcd"];
const PORT: u16 = 12379;
const PORT_PEER: u16 = 12380;
const QUOTA: u64 = 8 << 30;

struct Etcd {
    nodes: Vec<Daemon>,
    addrs: Vec<SocketAddr>,
    version: String,
}

/// Starts it.
///
/// # Errors
/// It does not come up.
pub fn start(ground: &Ground) -> Result<Start, Failure> {
    let Some(program) = present(PROGRAM) else {
        return Ok(Start::Missing("`apt-get install etcd-server`".into()));
    };
    let dirs = ground.dirs("etcd");
    let addrs: Vec<_> = (0..dirs.len()).map(|node| address(node, PORT)).collect();
    let mut nodes = Vec::new();
    for (number, dir) in dirs.iter().enumerate() {
        nodes.push(Daemon::start(program, &flags(dir, number, &addrs), dir)?);
    }
    let mut version = String::new();
    for (node, &addr) in nodes.iter_mut().zip(&addrs) {
        node.wait_for(|| match metric(addr, "etcd_server_has_leader")?.as_str() {
            "1" => Ok(()),
            _ => Err(Failure::new(format!("{addr} has no leader"))),
        })?;
        version = get(addr, "/version")?.split('"').nth(3).unwrap_or_default().to_string();
    }
    let addrs = leader_first(addrs, |addr| Ok(metric(addr, "etcd_server_is_leader")? == "1"))?;
    Ok(Start::Running(Box::new(Etcd { nodes, addrs, version })))
}

fn flags(dir: &Path, number: usize, addrs: &[SocketAddr]) -> Vec<String> {
    let peer = |number: usize| format!("http://{}:{PORT_PEER}", addrs[number].ip());
    let cluster: Vec<_> = (0..addrs.len()).map(|number| format!("node{number}={}", peer(number))).collect();
    let client = format!("http://{}", addrs[number]);
    let data = dir.join("data").display().to_string();
    let flags = [
        ("name", format!("node{number}")),
        ("data-dir", data),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer(number)),
        ("initial-advertise-peer-urls", peer(number)),
        ("initial-cluster", cluster.join(",")),
        ("quota-backend-bytes", QUOTA.to_string()),
        ("logger", "zap".to_string()),
        ("log-level", "error".to_string()),
    ];
    flags.into_iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

fn get(addr: SocketAddr, path: &str) -> Result<String, Failure> {
    let said = ask(addr, &format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n"))?;
    if !said.starts_with("HTTP/1.1 200") {
        return Err(Failure::new(format!("{addr}{path}: {}", said.lines().next().unwrap_or_default())));
    }
    Ok(said.split_once("\r\n\r\n").map(|(_, body)| body.to_string()).unwrap_or_default())
}

fn metric(addr: SocketAddr, name: &str) -> Result<String, Failure> {
    let all = get(addr, "/metrics")?;
    let found = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.map(String::from).ok_or_else(|| Failure::new(format!("{addr} has no {name}")))
}

impl System for Etcd {
    fn addrs(&self) -> Vec<SocketAddr> {
        self.addrs.clone()
    }

    fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(Daemon::pid).collect()
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn explain(&self, e: Failure) -> Failure {
        self.nodes.iter().fold(e, |e, node| node.explain(e))
    }
}
