//! Three servers that are one cluster: formed as a user would form it, hurt, and waited for until it is whole again.
//!
//! Each node has an address of its own for the whole of its life, 127.x.y.z with the same port: a port that the kernel hands
//! out could be taken by a connection while the node is down. Who leads is learned from what the nodes say on stderr: it is
//! settled when all that run name the same node, and that one says so itself.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use doozer::wire::ErrCode;
use rustix::process::Signal;

use crate::child::{Launch, Line, Server, owned};
use crate::client::{Client, PATIENCE};
use crate::failure::{Context, Failure};
use crate::machine::NODES;
use crate::say::say;

/// Time between two looks at what comes without an event.
const LOOK: Duration = Duration::from_millis(5);

/// A node, by its place among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeId(usize);

impl NodeId {
    /// The one that founds the cluster.
    pub const FIRST: NodeId = NodeId(0);
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0 + 1)
    }
}

/// Who leads.
#[derive(Clone, Copy, Debug)]
pub struct Leader {
    /// The node.
    pub node: NodeId,
    /// When it said so.
    pub since: Instant,
}

/// The cluster. Its servers are killed when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    program: PathBuf,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    launch: Launch,
    /// What the node calls itself, once it has run.
    id: Option<String>,
    /// None while it is down.
    server: Option<Server>,
    hung: bool,
    /// Whom it has named last.
    names: Option<Named>,
}

/// What a node has said of who leads.
#[derive(Debug)]
struct Named {
    leader: String,
    at: Instant,
    /// It has said so of itself.
    own: bool,
}

impl Cluster {
    /// Starts a cluster in three data directories, on three cores, with a secret or without: the first founds it, the others attach
    /// and get into the slots that are opened for them.
    ///
    /// # Errors
    /// It does not come about.
    pub fn start(
        program: &Path,
        dirs: [PathBuf; NODES],
        cores: [Option<usize>; NODES],
        port: u16,
        flags: &[&str],
        secret: Option<String>,
    ) -> Result<Cluster, Failure> {
        let flags = owned(flags);
        let node = |(number, (dir, core))| {
            let attach = (number > 0).then(|| address(0, port));
            let (flags, secret) = (flags.clone(), secret.clone());
            let launch = Launch { dir, listen: address(number, port), core, attach, flags, secret };
            Node { launch, id: None, server: None, hung: false, names: None }
        };
        let nodes = dirs.into_iter().zip(cores).enumerate().map(node).collect();
        let mut cluster = Cluster { program: program.to_path_buf(), nodes };
        match cluster.form() {
            Ok(()) => Ok(cluster),
            Err(e) => Err(cluster.explain(e.within("the cluster does not form"))),
        }
    }

    fn form(&mut self) -> Result<(), Failure> {
        for node in self.all() {
            self.restart(node)?;
        }
        let mut client = self.client(NodeId::FIRST)?;
        let mut members = self.nodes[0].id.iter().cloned().collect::<Vec<_>>();
        for slot in 1..NODES {
            let path = format!("/ctl/cal/{slot}");
            let mut rev = client.compare_and_set(path.as_bytes(), b"", 0)?;
            let id = loop {
                let (at, id) = client.wait(path.as_bytes(), rev + 1).map_err(|e| e.within("nobody is promoted"))?;
                if !id.is_empty() {
                    break String::from_utf8_lossy(&id).into_owned();
                }
                rev = at;
            };
            members.push(id);
        }
        if let Some(node) = self.nodes.iter().find(|node| node.id.as_ref().is_none_or(|id| !members.contains(id))) {
            return Err(Failure::new(format!("{:?} has no slot; those that have are {members:?}", node.id)));
        }
        self.whole()?;
        self.leader()?;
        Ok(())
    }

    /// All nodes.
    pub fn all(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId)
    }

    /// All nodes but one.
    pub fn others(&self, than: NodeId) -> Vec<NodeId> {
        self.all().filter(|&node| node != than).collect()
    }

    /// Where a node listens.
    pub fn addr(&self, node: NodeId) -> SocketAddr {
        self.nodes[node.0].launch.listen
    }

    /// A connection to a node that may read and write.
    fn client(&self, node: NodeId) -> Result<Client, Failure> {
        let mut client = Client::connect(self.addr(node))?;
        if let Some(secret) = &self.nodes[node.0].launch.secret {
            client.access(secret.as_bytes())?;
        }
        Ok(client)
    }

    /// Where a node has its data.
    pub fn dir(&self, node: NodeId) -> &Path {
        &self.nodes[node.0].launch.dir
    }

    /// A node's core.
    pub fn core(&self, node: NodeId) -> Option<usize> {
        self.nodes[node.0].launch.core
    }

    /// A node's server.
    ///
    /// # Errors
    /// It is down.
    pub fn server(&self, node: NodeId) -> Result<&Server, Failure> {
        self.nodes[node.0].server.as_ref().ok_or_else(|| Failure::new(format!("{node} is down")))
    }

    /// A node's process.
    ///
    /// # Errors
    /// It is down.
    pub fn pid(&self, node: NodeId) -> Result<u32, Failure> {
        self.server(node).map(Server::pid)
    }

    /// Waits until all nodes that run agree on who leads.
    ///
    /// # Errors
    /// They do not, or one of them has ended.
    pub fn leader(&mut self) -> Result<Leader, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for (number, node) in self.nodes.iter_mut().enumerate() {
                node.listen().map_err(|e| e.within(&NodeId(number).to_string()))?;
            }
            if let Some(leader) = self.agreed() {
                return Ok(leader);
            }
            if Instant::now() > deadline {
                let said: Vec<_> = self.nodes.iter().map(|node| (&node.id, &node.names)).collect();
                return Err(Failure::new(format!("the nodes do not agree on who leads: {said:?}")));
            }
            std::thread::park_timeout(LOOK);
        }
    }

    fn agreed(&self) -> Option<Leader> {
        let running = || self.nodes.iter().enumerate().filter(|(_, node)| node.is_up());
        let names = || running().map(|(number, node)| (number, node.names.as_ref()));
        let (number, named) = names().find_map(|(number, named)| Some((number, named.filter(|named| named.own)?)))?;
        let all = names().all(|(_, other)| other.is_some_and(|other| other.leader == named.leader));
        all.then_some(Leader { node: NodeId(number), since: named.at })
    }

    /// Waits until each node that runs takes a write, and has those that the others took. Returns a revision that all have.
    ///
    /// # Errors
    /// One does not.
    pub fn whole(&self) -> Result<i64, Failure> {
        let running = self.nodes.iter().enumerate().filter(|(_, node)| node.is_up()).map(|(number, _)| NodeId(number));
        let running: Vec<NodeId> = running.collect();
        let path = |node: NodeId| format!("/whole/{}", node.0);
        let mut last = 0;
        let mut clients = Vec::new();
        for &node in &running {
            let mut client = self.client(node).map_err(|e| e.within(&node.to_string()))?;
            let rev = set_when_writable(&mut client, path(node).as_bytes(), path(node).as_bytes());
            last = last.max(rev.map_err(|e| e.within(&format!("a write through {node}")))?);
            clients.push((node, client));
        }
        for (node, client) in &mut clients {
            for path in running.iter().map(|&node| path(node)) {
                let found = client.get(path.as_bytes(), Some(last)).map_err(|e| e.within(&node.to_string()))?;
                if found.1 != path.as_bytes() {
                    return Err(Failure::new(format!("{node} has {found:?} in {path} at revision {last}")));
                }
            }
        }
        Ok(last)
    }

    /// Starts a node that is down: on what it has, or for the first time.
    ///
    /// # Errors
    /// It does not come up, or is not the node that it was.
    pub fn restart(&mut self, at: NodeId) -> Result<(), Failure> {
        let node = &mut self.nodes[at.0];
        let within = |e: Failure| e.within(&at.to_string());
        let server = Server::launch(&self.program, &node.launch).map_err(within)?;
        let id = Client::connect(server.addr()).and_then(|mut client| client.id()).map_err(within)?;
        if node.id.as_ref().is_some_and(|was| *was != id) {
            return Err(within(Failure::new(format!("it was {:?} and is {id} now", node.id))));
        }
        // From now on it knows its cluster.
        node.launch.attach = None;
        (node.id, node.server, node.hung, node.names) = (Some(id), Some(server), false, None);
        Ok(())
    }

    /// Ends a node with SIGKILL.
    ///
    /// # Errors
    /// It was down already.
    pub fn kill(&mut self, at: NodeId) -> Result<(), Failure> {
        let server = self.nodes[at.0].server.take().ok_or_else(|| Failure::new("it is down"));
        server.and_then(Server::kill).map_err(|e| e.within(&at.to_string()))
    }

    /// Hangs a node with SIGSTOP.
    ///
    /// # Errors
    /// It is down.
    pub fn hang(&mut self, at: NodeId) -> Result<(), Failure> {
        self.nodes[at.0].hung = true;
        self.server(at)?.signal(Signal::STOP)
    }

    /// Lets a node that hangs go on.
    ///
    /// # Errors
    /// It is down.
    pub fn resume(&mut self, at: NodeId) -> Result<(), Failure> {
        self.nodes[at.0].hung = false;
        self.server(at)?.signal(Signal::CONT)
    }

    /// Removes what a node has that is down. It will be a new node, which attaches to `to`.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn wipe(&mut self, at: NodeId, to: NodeId) -> Result<(), Failure> {
        let attach = Some(self.addr(to));
        let node = &mut self.nodes[at.0];
        (node.id, node.launch.attach) = (None, attach);
        std::fs::remove_dir_all(&node.launch.dir).context(format!("cannot remove {}", node.launch.dir.display()))
    }

    /// Ends all nodes with SIGTERM, the leader last.
    ///
    /// # Errors
    /// One does not stop in order.
    pub fn end(mut self) -> Result<(), Failure> {
        let leader = self.leader()?.node;
        for at in self.others(leader).into_iter().chain([leader]) {
            if let Some(server) = self.nodes[at.0].server.take() {
                server.terminate().map_err(|e| self.explain(e.within(&at.to_string())))?;
            }
        }
        Ok(())
    }

    /// Prints what the nodes have said last, on the way to the end with `e`.
    pub fn explain(&self, e: Failure) -> Failure {
        for (number, node) in self.nodes.iter().enumerate() {
            let (at, id) = (NodeId(number), node.id.as_deref().unwrap_or("no id yet"));
            let lines = node.server.as_ref().map(Server::tail);
            let lines = lines.unwrap_or_else(|| vec!["it is down".to_string()]);
            say(format_args!("{at} ({id}), {}:\n    {}", node.launch.listen, lines.join("\n    ")));
        }
        e
    }
}

impl Node {
    fn is_up(&self) -> bool {
        self.server.is_some() && !self.hung
    }

    /// Takes note of what it has said.
    fn listen(&mut self) -> Result<(), Failure> {
        let Node { server: Some(server), id: Some(id), names, .. } = self else { return Ok(()) };
        while let Some(line) = server.line(Duration::ZERO)? {
            if let Some(named) = named(&line, id) {
                *names = Some(named);
            }
        }
        Ok(())
    }
}

/// Whom a line of the node `id` names as leader: `…: this node leads (raft id 3, …)`, `…: leader is ID (raft id 3, …)`, or
/// `…: leader is raft id 3…` while the node has not learned more of it. The raft id is in all of them.
fn named(line: &Line, id: &str) -> Option<Named> {
    let own = line.text.contains("this node leads");
    let rest = line.text.split_once(if own { "this node leads" } else { "leader is " })?.1;
    let word = |text: &str| {
        let word = text.split(|c: char| !c.is_ascii_alphanumeric()).next().filter(|word| !word.is_empty());
        word.map(String::from)
    };
    let raft_id = rest.split_once("raft id ").and_then(|(_, rest)| word(rest));
    let leader = raft_id.or_else(|| if own { Some(id.to_string()) } else { word(rest) })?;
    Some(Named { own: own || leader == id, leader, at: line.at })
}

/// An address of this process's own for each node.
pub fn address(node: usize, port: u16) -> SocketAddr {
    let node = u32::try_from(node).unwrap_or(0) + 1;
    let [_, a, b, c] = (std::process::id() << 4 | node).to_be_bytes();
    SocketAddr::from(([127, a, b, c], port))
}

/// Sets a file through a node that may not have found its cluster yet: then it refuses, and is asked again.
fn set_when_writable(client: &mut Client, path: &[u8], value: &[u8]) -> Result<i64, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.set(path, value) {
            Err(e) if e.code() == Some(ErrCode::Readonly.code()) && Instant::now() < deadline => {
                std::thread::park_timeout(LOOK);
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use doozer::limits::PORT_DEFAULT;

    use super::*;

    const ID: &str = "ABCDEFGHIJKLMNOP";
    const OTHER: &str = "QRSTUVWXYZ234567";

    fn line(text: &str) -> Line {
        Line { at: Instant::now(), text: text.to_string() }
    }

    #[test]
    fn who_leads_is_understood() {
        let leader = |text: &str| named(&line(text), ID).map(|named| (named.leader, named.own));
        let named = |leader: &str, own| Some((leader.to_string(), own));
        assert_eq!(leader("doozerd: this node leads (raft id 3, term 3)"), named("3", true));
        assert_eq!(
            leader(&format!("doozerd: leader is {OTHER} (raft id 4, 127.0.0.1:1) in term 5")),
            named("4", false)
        );
        assert_eq!(leader("doozerd: leader is raft id 4 in term 5"), named("4", false));
        assert_eq!(leader("doozerd: this node leads"), named(ID, true));
        assert_eq!(leader(&format!("doozerd: leader is {OTHER}, 127.0.0.1:8046")), named(OTHER, false));
        assert_eq!(leader(&format!("doozerd: leader is {ID}")), named(ID, true));
        assert_eq!(leader("doozerd: listening on 127.0.0.1:8046"), None);
    }

    /// The survivors name a leader that was killed until they have another one; it must not be taken for the next one, nor
    /// one of which only one of them knows.
    #[test]
    fn a_leader_that_is_gone_or_not_known_to_all_does_not_lead() {
        let server = |said: &str| {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", &format!("echo listening on 127.0.0.1:1 >&2; echo {said} >&2; exec sleep 1000")]);
            Server::start(command).unwrap()
        };
        let node = |id: &str, said: &str| {
            let launch = Launch {
                dir: PathBuf::new(),
                listen: address(0, PORT_DEFAULT),
                core: None,
                attach: None,
                flags: Vec::new(),
                secret: None,
            };
            Node { launch, id: Some(id.into()), server: Some(server(said)), hung: false, names: None }
        };
        let nodes = vec![node(ID, "this node leads"), node(OTHER, &format!("leader is {ID}"))];
        let mut cluster = Cluster { program: PathBuf::new(), nodes };
        let leader = cluster.leader().unwrap();
        assert_eq!(leader.node, NodeId(0));
        assert_eq!(cluster.others(NodeId(0)), [NodeId(1)]);
        // The other one names it still.
        cluster.hang(NodeId(0)).unwrap();
        assert!(cluster.agreed().is_none());
        cluster.resume(NodeId(0)).unwrap();
        assert!(cluster.agreed().is_some());
        cluster.kill(NodeId(0)).unwrap();
        assert!(cluster.agreed().is_none());
        // The one that comes back has not heard of the new one.
        cluster.nodes[0] = node(ID, &format!("leader is {ID}"));
        cluster.nodes[1] = node(OTHER, "this node leads");
        for node in &mut cluster.nodes {
            while node.names.is_none() {
                node.listen().unwrap();
            }
        }
        assert!(cluster.agreed().is_none());
    }

    #[test]
    fn each_node_has_an_address_of_its_own() {
        let all: std::collections::BTreeSet<SocketAddr> = (0..NODES).map(|node| address(node, PORT_DEFAULT)).collect();
        assert_eq!(all.len(), NODES);
        assert!(all.iter().all(|addr| addr.ip().is_loopback() && addr.port() == PORT_DEFAULT));
    }
}
