//! ZooKeeper from its package: `apt-get install zookeeper`. forceSync is on by default: it syncs its log before it answers.
//!
//! What differs from the package's `zoo.cfg` is where it listens and writes, that any number of connections is taken, and
//! that the web server for administrators, whose port would be the same for all, is off.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::daemon::{Daemon, ask, leader_first};
use super::{Ground, Start, System, present};
use crate::cluster::address;
use crate::failure::{Context, Failure};

const JAVA: &[&str] = &["/usr/bin/java"];
/// Debian's and Ubuntu's; it names the other jars that it needs.
const JAR: &[&str] = &["/usr/share/java/zookeeper.jar"];
const MAIN: &str = "org.apache.zookeeper.server.quorum.QuorumPeerMain";
const PORT: u16 = 12181;
const PORT_QUORUM: u16 = 12888;
const PORT_ELECTION: u16 = 13888;

struct ZooKeeper {
    nodes: Vec<Daemon>,
    addrs: Vec<SocketAddr>,
    version: String,
}

/// Starts it.
///
/// # Errors
/// It does not come up.
pub fn start(ground: &Ground) -> Result<Start, Failure> {
    let (Some(java), Some(jar)) = (present(JAVA), present(JAR)) else {
        return Ok(Start::Missing("`apt-get install zookeeper`".into()));
    };
    let dirs = ground.dirs("zookeeper");
    let addrs: Vec<_> = (0..dirs.len()).map(|node| address(node, PORT)).collect();
    let machine = machine(java)?;
    let mut nodes = Vec::new();
    for (number, dir) in dirs.iter().enumerate() {
        nodes.push(node(java, jar, dir, number, &addrs).map_err(|e| e.within(&format!("node {}", number + 1)))?);
    }
    let mut version = String::new();
    for (node, &addr) in nodes.iter_mut().zip(&addrs) {
        version = node.wait_for(|| field(addr, "Zookeeper version"))?;
        node.wait_for(|| field(addr, "Mode"))?;
    }
    let addrs = leader_first(addrs, |addr| Ok(field(addr, "Mode")? != "follower"))?;
    let version = format!("{} on {machine}", version.split('-').next().unwrap_or_default());
    Ok(Start::Running(Box::new(ZooKeeper { nodes, addrs, version })))
}

/// The virtual machine that it runs on, as that tells it.
fn machine(java: &Path) -> Result<String, Failure> {
    let told = Command::new(java).arg("-version").stdin(Stdio::null()).output().context(java.display())?;
    let told = String::from_utf8_lossy(&told.stderr);
    Ok(told.lines().next().unwrap_or_default().trim().to_string())
}

fn node(java: &Path, jar: &Path, dir: &Path, number: usize, addrs: &[SocketAddr]) -> Result<Daemon, Failure> {
    let data = dir.join("data");
    std::fs::create_dir_all(&data).context(format!("cannot make {}", data.display()))?;
    let write = |path: PathBuf, text: String| std::fs::write(&path, text).context(path.display());
    let config = dir.join("zoo.cfg");
    write(data.join("myid"), format!("{}\n", number + 1))?;
    write(config.clone(), configuration(&data, number, addrs))?;
    let args = [Path::new("-cp"), jar, Path::new(MAIN), &config];
    Daemon::start(java, &args, dir)
}

fn configuration(data: &Path, number: usize, addrs: &[SocketAddr]) -> String {
    let mut text = format!(
        "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPort={PORT}\nclientPortAddress={}\n\
         maxClientCnxns=0\nadmin.enableServer=false\n",
        data.display(),
        addrs[number].ip(),
    );
    if addrs.len() > 1 {
        for (number, addr) in addrs.iter().enumerate() {
            text.push_str(&format!("server.{}={}:{PORT_QUORUM}:{PORT_ELECTION}\n", number + 1, addr.ip()));
        }
    }
    text
}

/// A line of what a node says of itself.
fn field(addr: SocketAddr, name: &str) -> Result<String, Failure> {
    let said = ask(addr, "srvr")?;
    let found = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    found.map(|value| value.trim().to_string()).ok_or_else(|| Failure::new(format!("{addr}: {said}")))
}

impl System for ZooKeeper {
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
