//! The world: nodes, the network between them, clients, and a clock that goes on when nothing more is to happen now. What tests do
//! to it, and what they ask it, is here too.

use std::collections::BTreeMap;

use doozer::replica::Replica;
use doozer::store::Kind;
use doozer::wire::{ErrCode, FLAG_DEL, FLAG_SET, Request, Verb};

use crate::anything::CROWD;
use crate::chance::{Chance, Queue};
use crate::checker::Checker;
use crate::client::{self, Answer, Client, Load, Plan};
use crate::disk::Disk;
use crate::failure::{self, Tell};
use crate::net::{At, CLIENTS, Chaos, End, Host, Net, PipeId, Side};
use crate::node::{self, Dialer, Flags, Life, Node, Wake};

/// How long connecting takes at most, in microseconds.
const CONNECT: u64 = 1_000_000;
/// How long anything takes that only has to come some time, when all is well, in milliseconds.
pub const LIMIT: u64 = 60_000;

/// What happens.
#[derive(Debug)]
pub enum Event {
    /// Something happens to the process of this number of a node.
    Node(Host, u32, Wake),
    /// Something may have arrived at one side of a connection.
    Arrive(PipeId, Side),
    /// What this side sent has been taken over by its kernel.
    Sent(PipeId, Side, End),
    /// A process dials an address.
    Dial(Host, u32, Dialer, String),
    /// A client, in this connection of its.
    Client(usize, u64, client::Wake),
    /// A node has said that it leads in this term.
    Led(Host, u64),
}

/// How long a read of the present takes at most, in milliseconds.
const READ: u64 = 1_000;
/// How many steps the longest run has; one that has more gets nowhere.
const STEPS: u64 = 500_000_000;
/// Lines of what happened that a failed run tells, unless it is to tell all.
const LAST_LINES: usize = 60;

/// See the module.
pub struct World {
    seed: u64,
    pub nodes: Vec<Node>,
    pub net: Net,
    pub queue: Queue<Event>,
    pub chance: Chance,
    pub clients: Vec<Client>,
    pub checker: Checker,
    names: u64,
    connections: u64,
    /// Who led, by term.
    leaders: BTreeMap<u64, Host>,
    /// Of each node, up to which revision of its process the checker has been told.
    known: Vec<i64>,
    /// The last entry that anyone has applied, and the members as of it.
    members: (u64, Vec<u64>),
    /// Who is in the cluster as of it, members and standbys, by raft id.
    known_ids: Vec<u64>,
    /// What happened, as one number.
    trace: u32,
    pub steps: u64,
}

impl World {
    /// So many nodes, none of which runs. The first is to found the cluster, the others to attach to it.
    pub fn new(seed: u64, nodes: usize, flags: Flags) -> World {
        let mut chance = Chance::new(seed);
        let mut nodes: Vec<Node> = (0..nodes).map(|host| Node::new(host, flags, &mut chance)).collect();
        let first = nodes[0].addr.clone();
        for node in &mut nodes[1..] {
            node.attach.push(first.clone());
        }
        World {
            seed,
            known: vec![0; nodes.len()],
            nodes,
            net: Net::new(),
            queue: Queue::default(),
            chance,
            clients: Vec::new(),
            checker: Checker::new().with_history(flags.history),
            names: 0,
            connections: 0,
            leaders: BTreeMap::new(),
            members: (0, Vec::new()),
            known_ids: Vec::new(),
            trace: 0,
            steps: 0,
        }
    }

    /// A cluster of so many voters, of as many nodes.
    pub fn cluster(seed: u64, voters: usize) -> World {
        World::with(seed, voters, voters, Flags::default())
    }

    /// A cluster of so many voters; the other nodes do not run.
    pub fn with(seed: u64, nodes: usize, voters: usize, flags: Flags) -> World {
        let mut world = World::new(seed, nodes, flags);
        for host in 0..voters {
            world.start(host);
        }
        for slot in 1..voters {
            world.add_slot(0, slot);
        }
        world.until(LIMIT, "all are voters", |world| world.voters(0) == voters);
        world
    }

    // ---- time ----

    /// Milliseconds since the beginning.
    pub fn now(&self) -> u64 {
        self.queue.now() / 1_000
    }

    /// Lets so many milliseconds pass.
    pub fn run(&mut self, ms: u64) {
        self.run_us(ms * 1_000);
    }

    /// Lets so many microseconds pass.
    pub fn run_us(&mut self, us: u64) {
        let until = self.queue.now() + us;
        while self.step(until) {}
    }

    /// Goes on until something is so, for so many milliseconds at most, and says how long it took.
    #[track_caller]
    pub fn until(&mut self, ms: u64, what: &str, mut is_so: impl FnMut(&mut World) -> bool) -> u64 {
        let began = self.now();
        let until = self.queue.now() + ms * 1_000;
        loop {
            if is_so(self) {
                return self.now() - began;
            }
            assert!(self.queue.now() < until, "not within {ms} ms: {what}");
            let next = (self.queue.now() + 5_000).min(until);
            while self.step(next) {}
        }
    }

    /// Goes on until just that moment in which something becomes so.
    #[track_caller]
    pub fn until_just(&mut self, ms: u64, what: &str, mut is_so: impl FnMut(&World) -> bool) {
        let until = self.queue.now() + ms * 1_000;
        while !is_so(self) {
            assert!(self.step(until), "not within {ms} ms: {what}");
        }
    }

    /// The next thing happens, if it does before `until`.
    fn step(&mut self, until: u64) -> bool {
        let Some(event) = self.queue.next(until) else { return false };
        self.steps += 1;
        assert!(self.steps < STEPS, "this never comes to an end");
        let mut hasher = crc32fast::Hasher::new_with_initial(self.trace);
        hasher.update(&self.queue.now().to_le_bytes());
        hasher.update(&[match &event {
            Event::Node(host, ..) => u8::try_from(*host).expect("few nodes"),
            Event::Arrive(..) => 100,
            Event::Sent(..) => 101,
            Event::Dial(..) => 102,
            Event::Client(..) => 103,
            Event::Led(..) => 104,
        }]);
        self.trace = hasher.finalize();
        match event {
            Event::Node(host, process, wake) => self.wake(host, process, wake),
            Event::Arrive(pipe, side) => {
                let mut at = At { queue: &mut self.queue, chance: &mut self.chance };
                if self.net.arrive(pipe, side, &mut at) {
                    match self.net.end_of(pipe, side) {
                        End::Node(host, process) => self.wake(host, process, Wake::Readable(pipe, side)),
                        End::Client(id, serial) => self.client(id, serial, client::Wake::Readable),
                        End::Nobody => {}
                    }
                }
            }
            Event::Sent(pipe, side, end) => {
                if let End::Node(host, process) = end {
                    self.wake(host, process, Wake::Sent(pipe, side));
                }
            }
            Event::Dial(host, process, dialer, addr) => self.dial(host, process, dialer, &addr),
            Event::Client(id, serial, wake) => self.client(id, serial, wake),
            Event::Led(host, term) => {
                let first = *self.leaders.entry(term).or_insert(host);
                assert_eq!(first, host, "two leaders in term {term}");
            }
        }
        true
    }

    fn wake(&mut self, host: Host, process: u32, wake: Wake) {
        let World { nodes, net, queue, chance, .. } = self;
        let mut outside = node::Outside { net, queue, chance, end: None };
        nodes[host].wake(process, wake, &mut outside);
        nodes[host].notice_applied();
        if let Some(running) = nodes[host].running_mut() {
            if running.replica.applied() > self.members.0 {
                self.members = (running.replica.applied(), running.replica.voters().to_vec());
                self.known_ids = running.replica.members().nodes().keys().copied().collect();
            }
            if running.replica.revision() != self.known[host] {
                learn(running, host, &mut self.known[host], &mut self.checker);
            }
        }
        if let Some(why) = outside.end {
            let now = self.queue.now();
            self.nodes[host].say(now, [format!("its process ends: {why}")]);
            self.end_process(host, true);
            // Whoever crashes is started again by who looks after that.
            if why == "it starts anew" {
                self.start(host);
            }
        }
    }

    fn dial(&mut self, host: Host, process: u32, dialer: Dialer, addr: &str) {
        let there = self.travel(host, addr);
        let back = self.travel(host, addr);
        let dialed = |pipe| Event::Node(host, process, Wake::Dialed(dialer.clone(), pipe));
        let Some(to) = self.nodes.iter().position(|node| node.addr == addr) else {
            return self.queue.after(CONNECT, dialed(None));
        };
        if !self.net.gets_through(host, to) || !self.net.gets_through(to, host) {
            self.queue.after(CONNECT, dialed(None));
        } else if !self.nodes[to].is_up() {
            self.queue.after(there + back, dialed(None));
        } else {
            let at = self.nodes[to].process;
            let pipe = self.net.open([End::Node(host, process), End::Node(to, at)], [host, to]);
            self.queue.after(there, Event::Node(to, at, Wake::Accept(pipe)));
            self.queue.after(there + back, dialed(Some(pipe)));
        }
    }

    fn travel(&mut self, host: Host, addr: &str) -> u64 {
        let to = self.nodes.iter().position(|node| node.addr == addr).unwrap_or(host);
        self.net.travel(host, to, &mut self.chance)
    }

    fn client(&mut self, id: usize, serial: u64, wake: client::Wake) {
        if self.clients[id].serial() != serial {
            return;
        }
        if let client::Wake::Connect = wake {
            return self.connect(id);
        }
        let World { nodes, net, queue, chance, checker, names, clients, .. } = self;
        let (secret, nodes) = (nodes[0].flags.secret, nodes.len());
        clients[id].wake(wake, &mut client::Outside { net, queue, chance, checker, names, nodes, secret });
    }

    /// A client connects, or tries again a little later.
    fn connect(&mut self, id: usize) {
        if self.clients[id].is_connected() {
            return;
        }
        let host = self.clients[id].node;
        if !self.nodes[host].is_up() || !self.net.gets_through(CLIENTS, host) {
            // The longer in vain, the less often.
            let most = 20 * self.nodes[0].flags.heartbeat_ms * 1_000;
            let client = &mut self.clients[id];
            client.attempts += 1;
            let pause = (20_000 << client.attempts.min(20)).min(most);
            if client.roams() {
                client.node = self.chance.index(self.nodes.len());
            }
            let serial = client.serial();
            return self.queue.after(pause, Event::Client(id, serial, client::Wake::Connect));
        }
        self.connections += 1;
        let (serial, process) = (self.connections, self.nodes[host].process);
        let pipe = self.net.open([End::Client(id, serial), End::Node(host, process)], [CLIENTS, host]);
        self.queue.after(50, Event::Node(host, process, Wake::Accept(pipe)));
        let World { nodes, net, queue, chance, checker, names, clients, .. } = self;
        let (secret, nodes) = (nodes[0].flags.secret, nodes.len());
        clients[id].connected(serial, pipe, &mut client::Outside { net, queue, chance, checker, names, nodes, secret });
    }

    // ---- nodes ----

    /// Starts a node's process, and its host if that was dark.
    pub fn start(&mut self, host: Host) {
        self.net.set_dark(host, false, &mut self.queue);
        self.net.probe(host, &mut At { queue: &mut self.queue, chance: &mut self.chance });
        self.nodes[host].start(&mut self.queue, &mut self.chance);
        self.known[host] = 0;
    }

    /// Kills a node's process (SIGKILL).
    pub fn kill(&mut self, host: Host) {
        self.note(host, "killed");
        self.end_process(host, true);
    }

    /// Tells a node where the others are, if there are any, as whoever lost everything has to be.
    pub fn lead_back(&mut self, host: Host) -> bool {
        let others = self.nodes.iter().filter(|node| node.host != host).map(|node| node.addr.clone()).collect();
        self.nodes[host].attach = others;
        self.nodes.len() > 1
    }

    /// Does as the operator of a cluster whose node refuses to start with what it finds: gives it an empty disk.
    pub fn replace_refused_disk(&mut self, host: Host) {
        if self.nodes[host].refused && self.lead_back(host) {
            self.note(host, "the operator gives it an empty disk");
            self.disk(host).wipe();
        }
    }

    /// Takes the power from a node's host: nobody is told.
    pub fn power_off(&mut self, host: Host) {
        self.note(host, "without power");
        self.end_process(host, false);
        self.net.set_dark(host, true, &mut self.queue);
    }

    fn end_process(&mut self, host: Host, says_so: bool) {
        let World { nodes, net, queue, chance, .. } = self;
        nodes[host].die(says_so, &mut node::Outside { net, queue, chance, end: None });
    }

    /// Tells a node to stop (SIGTERM).
    pub fn stop(&mut self, host: Host) {
        self.note(host, "told to stop");
        let process = self.nodes[host].process;
        self.wake(host, process, Wake::Farewell(0));
    }

    /// Kills a node and starts it.
    pub fn restart(&mut self, host: Host) {
        self.kill(host);
        self.start(host);
    }

    /// Holds a node's process up (SIGSTOP).
    pub fn pause(&mut self, host: Host) {
        self.note(host, "paused");
        self.nodes[host].pause();
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&mut self, host: Host) {
        self.note(host, "resumed");
        let World { nodes, net, queue, chance, .. } = self;
        nodes[host].resume(&mut node::Outside { net, queue, chance, end: None });
    }

    pub fn disk(&mut self, host: Host) -> &mut Disk {
        &mut self.nodes[host].disk
    }

    pub fn note(&mut self, host: Host, what: &str) {
        let now = self.queue.now();
        self.nodes[host].say(now, [format!("*** {what}")]);
    }

    /// The node that was elected last, if it still runs.
    pub fn leader(&self) -> Option<Host> {
        let nodes = self.nodes.iter().filter(|node| node.running().is_some());
        let last = nodes.filter_map(|node| Some((node.led?, node.host))).max()?;
        (Some(&last.0) == self.leaders.keys().next_back()).then_some(last.1)
    }

    /// The node that leads, once there is one.
    #[track_caller]
    pub fn find_leader(&mut self) -> Host {
        self.until(LIMIT, "there is a leader", |world| world.leader().is_some());
        self.leader().expect("there is one")
    }

    /// The term of the last leader.
    pub fn term(&self) -> u64 {
        self.leaders.keys().next_back().copied().unwrap_or(0)
    }

    /// Whether a node has said a line with this in it, since so many milliseconds after the beginning.
    pub fn has_said(&self, host: Host, what: &str, since: u64) -> bool {
        self.nodes[host].said.iter().any(|(at, line)| *at >= since * 1_000 && line.contains(what))
    }

    /// How many lines with this in it a node has said, since so many milliseconds after the beginning.
    pub fn times_said(&self, host: Host, what: &str, since: u64) -> usize {
        self.nodes[host].said.iter().filter(|(at, line)| *at >= since * 1_000 && line.contains(what)).count()
    }

    // ---- ways ----

    /// Nothing gets from one to the other, nor back.
    pub fn cut(&mut self, a: Host, b: Host) {
        self.cut_way(a, b);
        self.cut_way(b, a);
    }

    /// Nothing gets from one to the other.
    pub fn cut_way(&mut self, from: Host, to: Host) {
        self.note(from, &format!("nothing gets to {to}"));
        self.net.cut(from, to);
    }

    pub fn heal(&mut self, a: Host, b: Host) {
        self.note(a, &format!("what is sent to {b} gets there again"));
        self.net.heal(a, b, &mut self.queue);
        self.net.heal(b, a, &mut self.queue);
    }

    /// Cuts all ways but those between these neighbours.
    pub fn only(&mut self, neighbours: &[(Host, Host)]) {
        for a in 0..self.nodes.len() {
            for b in 0..a {
                if !neighbours.contains(&(a, b)) && !neighbours.contains(&(b, a)) {
                    self.cut(a, b);
                }
            }
        }
    }

    /// Cuts a node off from all others.
    pub fn isolate(&mut self, host: Host) {
        for other in (0..self.nodes.len()).filter(|other| *other != host) {
            self.cut(host, other);
        }
    }

    pub fn heal_all(&mut self) {
        self.note(0, "all ways are whole");
        self.net.heal_all(&mut self.queue);
    }

    /// The connections between two hosts break.
    pub fn break_between(&mut self, a: Host, b: Host) {
        self.note(a, &format!("the connections with {b} break"));
        self.net.break_between(a, b, &mut At { queue: &mut self.queue, chance: &mut self.chance });
    }

    // ---- clients ----

    /// A client at this node.
    pub fn add_client(&mut self, node: Host, plan: Plan) -> usize {
        let id = self.clients.len();
        self.clients.push(Client::new(id, node, plan));
        self.queue.after(0, Event::Client(id, 0, client::Wake::Connect));
        id
    }

    /// A client that writes and reads at random, at each of these nodes.
    pub fn load(&mut self, nodes: impl IntoIterator<Item = Host>, load: Load) {
        for node in nodes {
            self.add_client(node, Plan::Load(load));
        }
    }

    /// Sends a request by a client of its own, and gives the answer; `None` if that does not come within so many milliseconds.
    pub fn try_call(&mut self, node: Host, request: &Request<'_>, ms: u64) -> Option<Answer> {
        let id = self.add_client(node, Plan::Hand);
        let until = self.queue.now() + ms * 1_000;
        let mut asked = None;
        let answer = loop {
            if let Some(answer) = self.clients[id].answers.pop() {
                break Some(answer);
            }
            if self.queue.now() >= until {
                break None;
            }
            let serial = self.clients[id].serial();
            if self.clients[id].is_connected() && asked != Some(serial) {
                // One that was lost with its connection is not sent again.
                if asked.is_some() {
                    break None;
                }
                asked = Some(serial);
                self.ask(id, request);
            }
            let next = (self.queue.now() + 1_000).min(until);
            while self.step(next) {}
        };
        self.clients[id].stopped = true;
        answer
    }

    /// A client that is connected sends a request: the answer is among its answers later.
    pub fn ask(&mut self, client: usize, request: &Request<'_>) -> i32 {
        let World { nodes, net, queue, chance, checker, names, clients, .. } = self;
        let (secret, nodes) = (nodes[0].flags.secret, nodes.len());
        clients[client].ask(request, &mut client::Outside { net, queue, chance, checker, names, nodes, secret })
    }

    /// As [`World::try_call`], for what must be answered.
    #[track_caller]
    pub fn call(&mut self, node: Host, request: &Request<'_>, ms: u64) -> Answer {
        let answer = self.try_call(node, request, ms);
        answer.unwrap_or_else(|| panic!("no answer of node {node} within {ms} ms to {:?}", request.verb))
    }

    /// Writes at a node, which has to be acknowledged within so many milliseconds, whatever else it is answered.
    #[track_caller]
    pub fn write(&mut self, node: Host, ms: u64) -> u64 {
        let began = self.now();
        loop {
            let left = (began + ms).saturating_sub(self.now());
            let request = set("/probe", -1, b"probe");
            let answer = self.call(node, &request, left);
            match answer.err {
                None => return self.now() - began,
                Some(ErrCode::Readonly) => self.run(5),
                // What a snapshot has overtaken: nobody can tell.
                Some(ErrCode::Other) if answer.detail == "outcome unknown" => {}
                Some(_) => panic!("a write at node {node}: {answer:?}"),
            }
        }
    }

    /// Writes at each of these nodes go through within so many milliseconds.
    #[track_caller]
    pub fn all_write(&mut self, nodes: &[Host], ms: u64) {
        let began = self.now();
        for node in nodes {
            let left = (began + ms).saturating_sub(self.now()).max(200);
            self.write(*node, left);
        }
    }

    /// Writes so many files of a size, which stay.
    #[track_caller]
    pub fn fill(&mut self, node: Host, files: usize, size: usize) {
        let value = |file: usize| vec![u8::try_from(file % 256).expect("a byte"); size];
        self.write_files(node, 16, (0..files).map(|file| (format!("/fill/{}/{file}", file % 7), value(file))));
    }

    /// Writes so many empty files into one directory.
    #[track_caller]
    pub fn crowd(&mut self, node: Host, files: usize) {
        self.write_files(node, files, (0..files).map(|file| (format!("{CROWD}/{file}"), Vec::new())));
    }

    /// Writes files, so many at once.
    #[track_caller]
    fn write_files(&mut self, node: Host, at_once: usize, files: impl Iterator<Item = (String, Vec<u8>)>) {
        let client = self.add_client(node, Plan::Hand);
        self.until(LIMIT, "it is connected", |world| world.clients[client].is_connected());
        let mut files = files.peekable();
        while files.peek().is_some() {
            for (path, value) in files.by_ref().take(at_once) {
                self.ask(client, &set(&path, -1, &value));
            }
            self.until(LIMIT, "it is written", |world| world.clients[client].open() == 0);
        }
        assert!(self.clients[client].answers.iter().all(|answer| answer.err.is_none()));
        self.clients[client].answers.clear();
    }

    /// The contents of a file at a node; `None` if it is missing.
    pub fn file(&mut self, node: Host, path: &str) -> Option<String> {
        let answer = self.try_call(node, &get(path), LIMIT)?;
        (answer.rev > Some(0)).then(|| String::from_utf8_lossy(&answer.value.unwrap_or_default()).into_owned())
    }

    // ---- members ----

    /// Makes an open slot.
    #[track_caller]
    pub fn add_slot(&mut self, node: Host, slot: usize) {
        let path = format!("/ctl/cal/{slot}");
        let answer = self.call(node, &set(&path, -1, b""), LIMIT);
        assert_eq!(answer.err, None, "{answer:?}");
    }

    /// The slots with a node in them, as a node sees them: slot and the node's id.
    pub fn slots(&mut self, node: Host) -> Vec<(usize, String)> {
        let slots = 0..self.nodes.len() + 2;
        let held = slots.filter_map(|slot| Some((slot, self.file(node, &format!("/ctl/cal/{slot}"))?)));
        held.filter(|(_, id)| !id.is_empty()).collect()
    }

    /// How many slots have a node in them.
    pub fn voters(&mut self, node: Host) -> usize {
        self.slots(node).len()
    }

    // ---- the end ----

    /// Takes all faults away, and starts whatever ran once.
    pub fn heal_everything(&mut self) {
        self.note(0, "everything is healed");
        self.heal_all();
        self.net.chaos = Chaos::default();
        for host in 0..self.nodes.len() {
            let node = &mut self.nodes[host];
            node.disk.heal();
            (node.disk.failing, node.doom) = (false, None);
            if !node.is_up() && node.process > 0 {
                self.start(host);
            } else if node.paused {
                self.resume(host);
            }
        }
    }

    /// Time within which a cluster finds itself together, whatever was before, in milliseconds.
    fn patience(&self) -> u64 {
        LIMIT.max(self.nodes[0].flags.election_ms * 100)
    }

    /// Time passes until those that are connected have had time to find out.
    pub fn settle(&mut self) {
        let ms = self.nodes[0].flags.election_ms * 20;
        self.run(ms);
    }

    /// The members, as of the last entry that anyone has applied.
    pub fn members(&self) -> &[u64] {
        &self.members.1
    }

    /// Whether so few disks have what they had that the cluster may stop for good: by what any node takes for the members, for a
    /// change of them that not all know of may never get through.
    pub fn has_lost_its_majority(&self, harmed: impl Fn(Host) -> bool) -> bool {
        let sound: Vec<u64> =
            self.nodes.iter().filter(|node| !harmed(node.host)).filter_map(|node| node.last_raft_id).collect();
        let lost = |members: &[u64]| members.iter().filter(|id| sound.contains(id)).count() <= members.len() / 2;
        let known = self.nodes.iter().filter(|node| !harmed(node.host));
        let known = known.filter_map(|node| node.running()).map(|running| running.replica.voters());
        lost(&self.members.1) || known.filter(|members| !members.is_empty()).any(lost)
    }

    /// Whether a change of the members is on its way: it may get through however little is left of the cluster afterwards.
    pub fn is_changing_members(&self) -> bool {
        self.nodes.iter().filter_map(|node| node.running()).any(|running| running.replica.is_changing_members())
    }

    /// Nodes of the cluster that run and are connected, if only by way of others. One that was forgotten is none until it has come
    /// back, which it does on the word of a node that it knows as a member: anyone else could say so.
    fn connected_with(&self, host: Host) -> Vec<Host> {
        let mut found = vec![host];
        let mut next = 0;
        while next < found.len() {
            let from = found[next];
            next += 1;
            for to in 0..self.nodes.len() {
                let both = self.net.gets_through(from, to) && self.net.gets_through(to, from);
                let is_part = self.is_part(to) && (self.is_part(from) || self.takes_for_member(from, to));
                if both && is_part && self.nodes[to].runs() && !found.contains(&to) {
                    found.push(to);
                }
            }
        }
        found
    }

    /// Whether a node is in the cluster, as of the last entry that anyone has applied.
    fn is_part(&self, host: Host) -> bool {
        self.nodes[host].raft_id().is_some_and(|id| self.known_ids.contains(&id))
    }

    /// Whether one node takes another for a member, though perhaps under an earlier raft id.
    fn takes_for_member(&self, host: Host, other: Host) -> bool {
        let (Some(running), Some(id)) = (self.nodes[host].running(), self.nodes[other].id()) else { return false };
        let (members, voters) = (running.replica.members(), running.replica.voters());
        members.nodes().iter().any(|(raft_id, member)| member.node == *id.as_bytes() && voters.contains(raft_id))
    }

    /// Whoever is connected with a majority writes, and whoever runs reads.
    #[track_caller]
    pub fn probe_all(&mut self) {
        let members = self.members().to_vec();
        for host in 0..self.nodes.len() {
            if !self.nodes[host].runs() {
                continue;
            }
            let connected = self.connected_with(host);
            let ids: Vec<u64> = connected.iter().filter_map(|host| self.nodes[*host].raft_id()).collect();
            let is_majority_of =
                |members: &[u64]| ids.iter().filter(|id| members.contains(id)).count() > members.len() / 2;
            // Those that were started again count by what they know until they hear of the latest change.
            let mut known = connected.iter().filter_map(|host| self.nodes[*host].running());
            let is_majority = is_majority_of(&members) && known.all(|known| is_majority_of(known.replica.voters()));
            let serves = self.nodes[host].running().is_some_and(|running| running.replica.serving());
            if is_majority {
                let ms = self.write(host, self.patience());
                let most = 5_000 + self.nodes[0].flags.election_ms * 20;
                assert!(
                    ms <= most,
                    "node {host} is connected with a majority, {connected:?}, and writes after {ms} ms"
                );
            }
            if serves {
                let answer = self.call(host, &get("/probe"), 2_000);
                assert_eq!(answer.err, None, "a read at node {host}: {answer:?}");
            }
        }
    }

    /// A node that serves is read from, whatever has become of the others; unless its process ends just then.
    #[track_caller]
    pub fn must_read(&mut self, host: Host) {
        let node = &self.nodes[host];
        let serves = node.runs() && !node.is_stopping() && node.running().is_some_and(|r| r.replica.serving());
        let process = node.process;
        if serves && self.net.gets_through(CLIENTS, host) {
            let answer = self.try_call(host, &get("/probe"), READ);
            let node = &self.nodes[host];
            let same = node.process == process && node.runs() && !node.is_stopping();
            assert!(!same || answer.is_some_and(|answer| answer.err.is_none()), "node {host} cannot be read from");
        }
    }

    /// Asks for something, whatever becomes of it.
    pub fn demand(&mut self, host: Host, request: &Request<'_>) {
        let _whatever = self.try_call(host, request, 300);
    }

    /// The latest revision that any node has.
    pub fn revision(&self) -> i64 {
        self.nodes.iter().filter_map(|node| node.running()).map(|running| running.replica.revision()).max().unwrap_or(0)
    }

    /// Heals everything, lets all come to its end, and checks the cluster against what its clients were told.
    pub fn finish(&mut self) {
        let all = 0..self.nodes.len();
        self.heal_everything();
        // The load goes on for a while: it has to be able to.
        self.run(3_000);
        let up: Vec<Host> = all.filter(|host| self.nodes[*host].process > 0).collect();
        self.until(self.patience(), "all run", |world| {
            for host in &up {
                world.replace_refused_disk(*host);
                // One that was told to stop has done so.
                if !world.nodes[*host].is_up() {
                    world.start(*host);
                }
            }
            up.iter().all(|host| world.nodes[*host].runs() && !world.nodes[*host].is_stopping())
        });
        self.all_write(&up, self.patience());
        for client in &mut self.clients {
            client.stopped |= !client.is_watching();
        }
        // What reads the future is answered by what is written now.
        for _ in 0..20 {
            self.write(up[0], self.patience());
        }
        self.until(self.patience(), "everything is answered", |world| {
            world.clients.iter().all(|client| client.open() == 0)
        });
        self.must_read_the_next(up[0], &up);
        self.check_members(&up);
        self.check(&up);
        self.until(self.patience(), "whatever has come is known to who waits for it", |world| {
            world.checker.overdue() == 0
        });
    }

    /// The end of a cluster that may have too few of its disks: it says so, accepts nothing, and what can be read is true. Returns
    /// whether that was so.
    pub fn finish_without_a_majority(&mut self) -> bool {
        self.heal_everything();
        self.settle();
        self.settle();
        for host in 0..self.nodes.len() {
            if self.nodes[host].running().is_none_or(|running| !running.replica.serving()) {
                continue;
            }
            let answer = self.call(host, &set("/probe", -1, b"probe"), self.patience());
            if answer.err.is_none() {
                self.finish();
                return false;
            }
            assert_eq!(answer.err, Some(ErrCode::Readonly), "a write at node {host}, without a majority: {answer:?}");
            let rev = self.nodes[host].running().map_or(0, |running| running.replica.revision());
            self.read_history(host, 1, rev);
        }
        true
    }

    /// Reads of the revision that comes next are answered when it is there.
    #[track_caller]
    fn must_read_the_next(&mut self, writer: Host, nodes: &[Host]) {
        let next = self.revision() + 1;
        let first = self.clients.len();
        for node in nodes {
            self.add_client(*node, Plan::Hand);
        }
        let readers = first..self.clients.len();
        self.until(LIMIT, "they are connected", |world| readers.clone().all(|id| world.clients[id].is_connected()));
        for id in readers.clone() {
            self.ask(id, &Request { rev: Some(next), ..get("/probe") });
        }
        // Nothing comes behind it that could wake them as well.
        self.write(writer, self.patience());
        self.until(LIMIT, "a read of the next revision is answered", |world| {
            readers.clone().all(|id| world.clients[id].open() == 0)
        });
    }

    /// The members have their slots, every node its files in `/ctl`, and no disk holds what is of no use any more.
    #[track_caller]
    fn check_members(&mut self, nodes: &[Host]) {
        let patience = self.patience() + self.nodes[0].flags.timeout_ms;
        self.until(patience, "each member stands in a slot, and nobody else", |world| {
            let held = world.slots(nodes[0]);
            let voters = world.members().to_vec();
            let places = |id: &String| held.iter().filter(|(_, holder)| holder == id).count();
            held.len() == voters.len()
                && nodes.iter().all(|host| {
                    let node = &world.nodes[*host];
                    let votes = node.raft_id().is_some_and(|id| voters.contains(&id));
                    node.id().is_none_or(|id| places(&id) == usize::from(votes))
                })
        });
        self.until(patience, "what is replicated beside the files is the same everywhere", |world| {
            let mut states =
                nodes.iter().map(|host| world.nodes[*host].running().map(|r| beside_the_files(&r.replica)));
            let first = states.next().expect("a node");
            states.all(|state| state == first)
        });
        for host in nodes {
            let (id, addr) = (self.nodes[*host].id().expect("it runs"), self.nodes[*host].advertised.clone());
            for (file, value) in [("addr", &addr[..]), ("writable", "true")] {
                let path = format!("/ctl/node/{id}/{file}");
                self.until(LIMIT, &format!("{path} is {value}"), |world| {
                    world.file(nodes[0], &path).as_deref() == Some(value)
                });
            }
            let kept = self.nodes[*host].disk.snapshots_kept();
            assert!(kept <= 2, "node {host} keeps {kept} snapshots");
        }
    }

    /// All nodes have the same history, and it is what the clients were told.
    #[track_caller]
    pub fn check(&mut self, nodes: &[Host]) {
        let rev = nodes.iter().map(|node| self.call(*node, &Request::new(Verb::Sync), self.patience()).rev).max();
        let mut last = rev.flatten().expect("SYNC gives a revision");
        // Each of them gets there, some time. Meanwhile the servers may have written something by themselves.
        let mut known = 0;
        loop {
            for node in nodes {
                self.read_history(*node, known + 1, last);
            }
            if self.revision() <= last {
                for node in nodes {
                    self.read_files(*node, last);
                }
            }
            if self.revision() <= last {
                return self.verify(last, nodes);
            }
            known = std::mem::replace(&mut last, self.revision());
        }
    }

    /// Reads what has happened from one revision to another, as this node tells it, as far as it is in its history.
    fn read_history(&mut self, node: Host, from: i64, last: i64) {
        // What may be forgotten while it is read is not asked for.
        let history = i64::try_from(self.nodes[node].flags.history).expect("a history has so many revisions");
        let client = self.add_client(node, Plan::History(last));
        self.clients[client].next = from.max(last - history / 2);
        self.until(self.patience(), "the history can be read", |world| world.clients[client].next > last);
        self.clients[client].stopped = true;
    }

    /// Reads every file, as this node has it at a revision.
    fn read_files(&mut self, node: Host, rev: i64) {
        let client = self.add_client(node, Plan::Files(rev));
        self.clients[client].next = 0;
        self.until(LIMIT, "all files can be read", |world| {
            let client = &world.clients[client];
            client.stopped && client.open() == 0
        });
    }

    #[track_caller]
    fn verify(&mut self, last: i64, nodes: &[Host]) {
        if let Err(violation) = self.checker.verify(last, nodes) {
            panic!("{violation}");
        }
    }

    /// What happened, as a number: the same seed gives the same.
    pub fn trace(&self) -> u32 {
        self.trace
    }

    /// Whether a node still asks to be let in.
    pub fn is_joining(&self, host: Host) -> bool {
        matches!(self.nodes[host].life, Life::Joining(..))
    }
}

/// The replicated state but for the files, and what it is as of.
fn beside_the_files(replica: &Replica) -> String {
    let members = replica.members();
    let slots: Vec<_> = members.slots().iter().map(|(path, slot)| (path, slot.rev, &slot.holder)).collect();
    let (conf, nodes, next) = (members.conf(), members.nodes(), members.next());
    format!("{} {conf:?} {nodes:?} {next} {slots:?} {:?}", replica.applied(), replica.seen())
}

/// Tells the checker what a node has applied, since it was asked last.
fn learn(running: &mut node::Running, host: Host, known: &mut i64, checker: &mut Checker) {
    let replica = &mut running.replica;
    let mut path = Vec::new();
    let (mut next, last) = (*known + 1, replica.revision());
    assert!(next <= last + 1, "node {host} was at revision {known}, and is at {last}");
    if next == 1 || replica.event(next, &mut path).is_none() {
        // It begins, or goes on, with a state, and with what of the past comes with it.
        while next <= last && replica.event(next, &mut path).is_none() {
            next += 1;
        }
        checker.learn_from(host, next);
    }
    for rev in next..=last {
        let event = replica.event(rev, &mut path).expect("what comes after the first is there");
        let flags = match event.kind {
            Kind::Set => FLAG_SET,
            Kind::Del => FLAG_DEL,
            Kind::Nop => 0,
        };
        checker.learn(host, rev, flags, &path, event.value);
    }
    replica.keep_history(last);
    *known = last;
    if let Some(violation) = checker.violation() {
        panic!("{violation}");
    }
}

/// A SET.
pub fn set<'a>(path: &'a str, rev: i64, value: &'a [u8]) -> Request<'a> {
    Request { path: Some(path.as_bytes()), rev: Some(rev), value: Some(value), ..Request::new(Verb::Set) }
}

/// A GET.
pub fn get(path: &str) -> Request<'_> {
    Request { path: Some(path.as_bytes()), ..Request::new(Verb::Get) }
}

impl Drop for World {
    /// Tells what happened, if the run has failed or that is wanted anyway.
    fn drop(&mut self) {
        if !std::thread::panicking() && failure::tell() != Tell::All {
            return;
        }
        failure::at(self.queue.now());
        let most = match failure::tell() {
            Tell::Nothing => return,
            Tell::Last => LAST_LINES,
            Tell::All => usize::MAX,
        };
        let mut lines: Vec<(u64, Host, &str)> = Vec::new();
        for node in &self.nodes {
            lines.extend(node.said.iter().map(|(at, line)| (*at, node.host, &line[..])));
        }
        lines.sort_by_key(|(at, ..)| *at);
        for (at, host, line) in &lines[lines.len().saturating_sub(most)..] {
            eprintln!("{:>10.3} node {host}: {line}", micros(*at));
        }
        for node in &self.nodes {
            eprintln!("{}", node.describe());
        }
        for client in self.clients.iter().filter(|client| client.open() > 0) {
            eprintln!("{}", client.describe());
        }
        let (seed, now, steps) = (self.seed, micros(self.queue.now()), self.steps);
        eprintln!("seed {seed} at {now:.3} s after {steps} steps; {:?}", self.checker.statistics());
    }
}

/// Microseconds as seconds.
fn micros(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64()
}
