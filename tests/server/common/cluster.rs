//! A cluster of `doozerd` processes: started, grown, killed, hung, woken, wiped and started again, node by node.
//!
//! Each node has a directory and an address of its own, which it keeps over a restart: the loopback network has millions
//! of addresses, so every test process takes one that bears its process id, with a port for each node below those that
//! the kernel hands out. All nodes die with the test, however it ends.
//!
//! What a node has to say of its role is in `/ctl` and on its stderr; nothing here waits for time to pass.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use doozer::wire::Verb;
use rustix::process::Signal;

use super::history::Load;
use super::process::{Exited, Server, Setup};
use super::wire::*;
use super::{LIMIT, eventually};

static TURN: RwLock<()> = RwLock::new(());

/// Held by a test that others may run beside.
pub fn together() -> RwLockReadGuard<'static, ()> {
    TURN.read().unwrap_or_else(PoisonError::into_inner)
}

/// Held by a test that has to see a quiet machine, or takes most of the disk: no other test of the program runs meanwhile.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    TURN.write().unwrap_or_else(PoisonError::into_inner)
}

/// An address that nobody else listens on, nor is given by the kernel.
pub fn fresh_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(port < 32_000, "ports below the ephemeral ones have run out");
    let [.., high, low] = std::process::id().to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, 128 | (high & 127), low, 1), port))
}

/// The command that ties a process to the life of the thread that starts it, where there is one: a test that is killed
/// leaves no server behind.
pub fn dying_with_us() -> &'static [&'static str] {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let mut command = Command::new("setpriv");
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    });
    if *found { &["setpriv", "--pdeathsig", "KILL"] } else { &[] }
}

/// A time in which a node was down, or on its way up.
#[derive(Clone, Copy, Debug)]
pub struct Downtime {
    pub node: usize,
    pub from: Instant,
    /// `None`: it still is.
    pub until: Option<Instant>,
}

struct Node {
    addr: SocketAddr,
    setup: Setup,
    server: Option<Server>,
    hung: bool,
    /// Its id, once it has served.
    id: Option<String>,
    /// What it said in its earlier lives.
    past: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.past.is_empty() {
            eprintln!("---- earlier, of the node at {}\n{}----", self.addr, self.past);
        }
    }
}

/// A cluster, or what is to become one.
pub struct Cluster {
    nodes: Vec<Node>,
    /// The first node has been started for the first time: every other one attaches.
    founded: bool,
    /// Nodes are told whom to attach to.
    attaches: bool,
    downtimes: Vec<Downtime>,
}

impl Cluster {
    /// So many nodes, of which none is started.
    pub fn new(count: usize) -> Cluster {
        let node = |_| {
            let addr = fresh_address();
            (addr, Setup::new().listen(addr).run_by(dying_with_us()))
        };
        Cluster::of((0..count).map(node).collect())
    }

    /// Of nodes that are to be started like this, each listening there.
    pub fn of(nodes: Vec<(SocketAddr, Setup)>) -> Cluster {
        let node = |(addr, setup)| Node { addr, setup, server: None, hung: false, id: None, past: String::new() };
        Cluster { nodes: nodes.into_iter().map(node).collect(), founded: false, attaches: true, downtimes: Vec::new() }
    }

    /// With these flags for every node.
    pub fn flags<S: AsRef<OsStr> + Copy>(mut self, flags: &[S]) -> Cluster {
        for node in &mut self.nodes {
            node.setup = node.setup.clone().flags(flags);
        }
        self
    }

    /// With this in every node's environment.
    pub fn env(mut self, name: &str, value: &str) -> Cluster {
        for node in &mut self.nodes {
            node.setup = node.setup.clone().env(name, value);
        }
        self
    }

    /// Without telling a node whom to attach to: the flags do.
    pub fn finding_each_other(mut self) -> Cluster {
        self.attaches = false;
        self
    }

    /// Starts all nodes, and makes so many of them members.
    #[track_caller]
    pub fn up(mut self, members: usize) -> Cluster {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.start_all(&all);
        self.grow(members);
        self
    }

    // ---- the nodes ----

    /// How many nodes there are, running or not.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Where a node listens.
    pub fn addr(&self, node: usize) -> SocketAddr {
        self.nodes[node].addr
    }

    /// How a node is started.
    pub fn setup(&self, node: usize) -> &Setup {
        &self.nodes[node].setup
    }

    /// A node's process.
    #[track_caller]
    pub fn server(&self, node: usize) -> &Server {
        self.nodes[node].server.as_ref().unwrap_or_else(|| panic!("node {node} is down"))
    }

    /// All that a node has said in this life.
    #[track_caller]
    pub fn stderr(&self, node: usize) -> String {
        self.server(node).stderr()
    }

    /// A node's id, of the last time that it came up.
    #[track_caller]
    pub fn id(&self, node: usize) -> &str {
        self.nodes[node].id.as_deref().unwrap_or_else(|| panic!("node {node} has never served"))
    }

    /// The node of this id.
    pub fn node(&self, id: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.id.as_deref() == Some(id))
    }

    /// Nodes that run and are not hung.
    pub fn live(&self) -> Vec<usize> {
        let live = |node: &Node| node.server.is_some() && !node.hung;
        (0..self.nodes.len()).filter(|i| live(&self.nodes[*i])).collect()
    }

    /// Nodes that are not live.
    pub fn absent(&self) -> Vec<usize> {
        let live = self.live();
        (0..self.nodes.len()).filter(|node| !live.contains(node)).collect()
    }

    /// Whether a node is not started.
    pub fn is_down(&self, node: usize) -> bool {
        self.nodes[node].server.is_none()
    }

    /// Whether a node is hung.
    pub fn is_hung(&self, node: usize) -> bool {
        self.nodes[node].hung
    }

    /// Live nodes but for these.
    pub fn others(&self, than: &[usize]) -> Vec<usize> {
        self.live().into_iter().filter(|node| !than.contains(node)).collect()
    }

    /// A connection to a node.
    #[track_caller]
    pub fn connect(&self, node: usize) -> Client {
        Client::connect(self.addr(node))
    }

    /// Times in which nodes were down.
    pub fn downtimes(&self) -> &[Downtime] {
        &self.downtimes
    }

    /// Writers at each of these nodes: so many connections, each with about so many requests a second.
    pub fn load(&self, nodes: &[usize], connections: usize, per_second: u32) -> Load {
        self.heavy_load(nodes, connections, per_second, 0)
    }

    /// The same with values that are longer by `more` bytes.
    pub fn heavy_load(&self, nodes: &[usize], connections: usize, per_second: u32, more: usize) -> Load {
        let targets: Vec<(usize, SocketAddr)> = nodes.iter().map(|node| (*node, self.addr(*node))).collect();
        Load::start(&targets, connections, per_second, more)
    }

    // ---- up and down ----

    /// Adds a node, which is not yet started.
    pub fn add(&mut self) -> usize {
        let mut more = Cluster::new(1);
        let mut node = more.nodes.pop().expect("one");
        if let Some(first) = self.nodes.first() {
            // With the flags of the others, on a directory of its own.
            let home = node.setup.clone();
            node.setup = first.setup.clone().listen(node.addr).on_directory_of(&home);
        }
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Starts a node, and does not wait for it. One that has never served attaches to another one, the first of all apart.
    pub fn spawn(&mut self, node: usize) {
        assert!(self.nodes[node].server.is_none(), "node {node} runs already");
        let founds = node == 0 && !self.founded;
        self.founded |= founds;
        let via = self.others(&[node]).first().copied().unwrap_or(0);
        let via = self.addr(via).to_string();
        let node = &mut self.nodes[node];
        let server = match self.attaches && !founds && node.id.is_none() {
            true => node.setup.clone().flags(["-a", &via]).spawn(),
            false => node.setup.spawn(),
        };
        (node.server, node.hung) = (Some(server), false);
    }

    /// Waits until a node serves clients.
    #[track_caller]
    pub fn serves(&mut self, node: usize) {
        let addr = self.addr(node);
        let server = self.nodes[node].server.as_mut().expect("a node that was started");
        server.says("say hello");
        let id = eventually(&format!("node {node} serves"), || {
            assert!(server.runs(), "node {node} has ended: {}", server.stderr());
            let mut c = Client::over(TcpStream::connect_timeout(&addr, Duration::from_secs(1)).ok()?);
            let asked = c.try_raw(&framed(&bare(Verb::SelfId)));
            c.try_next().filter(|reply| asked && reply.err_code.is_none())?.value
        });
        self.nodes[node].id = Some(String::from_utf8(id).expect("an id is text"));
        for downtime in self.downtimes.iter_mut().filter(|d| d.node == node && d.until.is_none()) {
            downtime.until = Some(Instant::now());
        }
    }

    /// Starts a node, and waits until it serves clients.
    #[track_caller]
    pub fn start(&mut self, node: usize) {
        self.spawn(node);
        self.serves(node);
    }

    /// Starts these nodes in this order, each without waiting for the other.
    #[track_caller]
    pub fn start_all(&mut self, nodes: &[usize]) {
        nodes.iter().for_each(|node| self.spawn(*node));
        nodes.iter().for_each(|node| self.serves(*node));
    }

    #[track_caller]
    fn take(&mut self, node: usize, from: Instant) -> Server {
        self.downtimes.push(Downtime { node, from, until: None });
        let node = &mut self.nodes[node];
        let server = node.server.take().expect("a node that runs");
        node.past += &server.stderr();
        node.past += "----\n";
        server
    }

    /// Ends a node as a power cut would.
    #[track_caller]
    pub fn kill(&mut self, node: usize) {
        self.kill_all(&[node]);
    }

    /// Ends these nodes at the same time, as a power cut of the house would.
    #[track_caller]
    pub fn kill_all(&mut self, nodes: &[usize]) {
        let from = Instant::now();
        for node in nodes {
            self.server(*node).signal(Signal::KILL);
        }
        for node in nodes {
            self.take(*node, from).kill();
        }
    }

    /// Stops a node in order.
    #[track_caller]
    pub fn stop(&mut self, node: usize) -> Exited {
        let stopped = self.take(node, Instant::now()).stop();
        self.nodes[node].past += &stopped.stderr;
        stopped
    }

    /// Waits until a node has ended by itself.
    #[track_caller]
    pub fn exited(&mut self, node: usize) -> Exited {
        self.take(node, Instant::now()).exited()
    }

    /// Hangs a node: it keeps its connections and does nothing.
    #[track_caller]
    pub fn hang(&mut self, node: usize) {
        self.server(node).signal(Signal::STOP);
        self.nodes[node].hung = true;
    }

    /// Wakes a hung node.
    #[track_caller]
    pub fn wake(&mut self, node: usize) {
        self.nodes[node].hung = false;
        self.server(node).signal(Signal::CONT);
    }

    /// Takes the data of a node that is down.
    pub fn wipe(&mut self, node: usize) {
        assert!(self.nodes[node].server.is_none(), "node {node} runs");
        std::fs::remove_dir_all(&self.nodes[node].setup.dir).unwrap();
        self.nodes[node].id = None;
    }

    /// Gives a node that is down a new address.
    pub fn move_away(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        assert!(node.server.is_none(), "a node that runs cannot move");
        node.addr = fresh_address();
        node.setup = node.setup.clone().listen(node.addr);
    }

    // ---- membership ----

    /// What the slots hold: ids, or nothing.
    #[track_caller]
    pub fn slots(&self) -> BTreeMap<String, String> {
        let via = *self.live().first().expect("a live node");
        self.syncs(via);
        self.slots_at(via)
    }

    /// Waits until a node has all that was acknowledged up to now. One that was just started may not know of a quorum yet.
    #[track_caller]
    pub fn syncs(&self, node: usize) -> i64 {
        let mut c = self.connect(node);
        eventually(&format!("node {node} answers SYNC"), || c.call(&bare(Verb::Sync)).rev)
    }

    /// What the slots hold, as this node sees it.
    #[track_caller]
    pub fn slots_at(&self, node: usize) -> BTreeMap<String, String> {
        let mut c = self.connect(node);
        let now = c.rev();
        let mut slots = BTreeMap::new();
        for offset in 0.. {
            let said = c.call(&walk("/ctl/cal/*", offset).at(now));
            let Some(value) = said.value.as_ref().filter(|_| said.err_code.is_none()) else {
                assert_eq!(said.to_string(), "RANGE");
                break;
            };
            slots.insert(said.path(), String::from_utf8(value.clone()).expect("an id is text"));
        }
        slots
    }

    /// Nodes that are in a slot.
    #[track_caller]
    pub fn members(&self) -> Vec<usize> {
        let mut members: Vec<usize> = self.slots().values().filter_map(|id| self.node(id)).collect();
        members.sort_unstable();
        members
    }

    /// Live nodes that are in no slot.
    #[track_caller]
    pub fn standbys(&self) -> Vec<usize> {
        self.others(&self.members())
    }

    /// Waits until there are so many slots and each holds a live node.
    #[track_caller]
    pub fn has_members(&self, count: usize) {
        let mut last = BTreeMap::new();
        let live = self.live();
        let lives = |id: &String| self.node(id).is_some_and(|node| live.contains(&node));
        let began = Instant::now();
        while last.len() != count || !last.values().all(lives) {
            last = self.slots();
            assert!(began.elapsed() < LIMIT, "not {count} members of nodes {live:?}, but {last:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        // A node that does not know of a new member yet counts the votes of the others only: if the leader died now, none could be
        // elected.
        for node in live {
            eventually("all nodes know the members", || (self.slots_at(node) == last).then_some(()));
        }
    }

    /// Opens slots until there are so many, and waits until standbys have moved in.
    #[track_caller]
    pub fn grow(&self, members: usize) {
        let mut c = self.connect(self.live()[0]);
        for slot in self.slots().len()..members {
            let said = c.call(&set(&format!("/ctl/cal/{slot}"), 0, b""));
            assert!(said.err_code.is_none(), "slot {slot} cannot be opened: {said}");
        }
        self.has_members(members);
    }

    /// Deletes the slots with the highest numbers until there are so many.
    #[track_caller]
    pub fn shrink(&self, members: usize) {
        let mut c = self.connect(self.live()[0]);
        for slot in (members..self.slots().len()).rev() {
            let said = c.call(&del(&format!("/ctl/cal/{slot}"), -1));
            assert!(said.err_code.is_none(), "slot {slot} cannot be deleted: {said}");
        }
        self.has_members(members);
    }

    // ---- who leads ----

    /// Whom a node takes for the leader: the last that it has said of it.
    #[track_caller]
    pub fn follows(&self, node: usize) -> Option<usize> {
        let said = self.stderr(node);
        let last = said.lines().rev().find(|line| line.contains("leader is ") || line.contains("this node leads"))?;
        if last.contains("this node leads") {
            return Some(node);
        }
        let (_, name) = last.split_once("leader is ")?;
        match name.strip_prefix("raft id ") {
            // It was not known by name yet.
            Some(rest) => self.of_raft_id(rest.split(' ').next()?),
            None => self.node(name.get(..16)?),
        }
    }

    /// The node that some live node has named with this raft id.
    fn of_raft_id(&self, raft_id: &str) -> Option<usize> {
        let words = format!(" (raft id {raft_id}, ");
        let named = |node: usize| {
            let said = self.stderr(node);
            let at = said.rfind(&words)?;
            self.node(said.get(at - 16..at)?)
        };
        self.live().into_iter().find_map(named)
    }

    /// The leader, once all live nodes know it.
    #[track_caller]
    pub fn leader(&self) -> usize {
        self.leader_of(&self.live())
    }

    /// The leader among these nodes, once all of them know it.
    #[track_caller]
    pub fn leader_of(&self, nodes: &[usize]) -> usize {
        eventually(&format!("one leader of nodes {nodes:?}"), || {
            let leader = self.follows(*nodes.first()?)?;
            let agreed = nodes.contains(&leader) && nodes.iter().all(|node| self.follows(*node) == Some(leader));
            agreed.then_some(leader)
        })
    }

    /// Waits until every live node has all that was acknowledged.
    #[track_caller]
    pub fn converges(&self) -> i64 {
        let live = self.live();
        let rev = self.syncs(live[0]);
        for node in live {
            // A read of the future waits.
            let said = self.connect(node).call(&get("/ctl/name").at(rev));
            assert!(said.err_code.is_none(), "node {node} at revision {rev}: {said}");
        }
        rev
    }

    /// Waits until a node refuses new writes. What it takes before it knows that there is no quorum may be done later, so each
    /// write goes over a connection of its own.
    #[track_caller]
    pub fn refuses_writes(&self, node: usize) {
        eventually(&format!("node {node} answers READONLY"), || {
            let mut c = self.connect(node);
            c.stream().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            c.send(&set("/perhaps", -1, b""));
            c.stream().peek(&mut [0]).ok()?;
            assert_eq!(c.recv().to_string(), "READONLY");
            Some(())
        });
    }
}
