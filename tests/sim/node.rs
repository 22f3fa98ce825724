//! A node: a process around a replica, which does for it what the server's shell does. Bytes of its connections, writes of its disk,
//! ticks; and what it wants done is done a while later, or never.

use std::collections::BTreeMap;

use doozer::log::Identity;
use doozer::replica::desk::Secrets;
use doozer::replica::handshake::Challenges;
use doozer::replica::join::{Answer, Attempt, Joiner};
use doozer::replica::snapshot::Part;
use doozer::replica::{Config, Conn, Fate, Output, Receipt, Replica, Then};

use crate::Event;
use crate::boot::{self, Boot, CLUSTER, HISTORY, Sizes};
use crate::chance::{Chance, Queue};
use crate::disk::{Disk, Ended, Op, OpId};
use crate::net::{At, End, Host, Net, PipeId, Read, Side};

/// How long a node may take to let another in, to accept a connection, and time between two rounds of asking, in microseconds.
const JOIN_PATIENCE: u64 = 5_000_000;
const JOIN_PAUSE: u64 = 250_000;
/// Why a process ends that was doomed to.
pub const CRASHED: &str = "it crashes";
/// Why one ends whose disk fails.
pub const DISK_ERROR: &str = "its disk fails";
/// Time between two attempts to get space.
const RETRY: u64 = 1_000_000;
/// Time between two parts of a snapshot.
const SNAPSHOT_PAUSE: u64 = 2_000;
/// How long a stopping node waits for clients to take their answers.
const FAREWELL: u64 = 5_000_000;

/// The secret that nodes and clients have to know, if there is one.
pub const SECRET: &str = "open sesame";

/// What happens to a node's process.
#[derive(Clone, Debug)]
pub enum Wake {
    Boot,
    Tick,
    Turn,
    /// An operation of the disk is done.
    Disk(OpId),
    /// It may be tried again to make a segment.
    Retry,
    /// The snapshot goes on.
    Snapshot,
    /// It may be tried again to take one.
    SnapshotAgain,
    /// An address was dialed, or cannot be.
    Dialed(Dialer, Option<PipeId>),
    /// The next address is to be asked.
    Join,
    /// Nobody has answered the attempt of this number.
    JoinLate(u64),
    /// There is something to read.
    Readable(PipeId, Side),
    /// The kernel has taken over what was sent.
    Sent(PipeId, Side),
    /// Somebody has connected.
    Accept(PipeId),
    /// A stopping node looks whether it is done.
    Farewell(u64),
}

/// For whom an address is dialed.
#[derive(Clone, Debug)]
pub enum Dialer {
    Replica(String),
    Join(u64),
}

/// What flags a node is started with.
#[derive(Clone, Copy, Debug)]
pub struct Flags {
    pub heartbeat_ms: u64,
    pub election_ms: u64,
    pub timeout_ms: u64,
    pub pulse_ms: u64,
    /// Past revisions that stay readable.
    pub history: u64,
    pub sizes: Sizes,
    /// Whether nodes and clients have to know [`SECRET`].
    pub secret: bool,
}

impl Default for Flags {
    /// The defaults of the server.
    fn default() -> Flags {
        Flags {
            heartbeat_ms: 50,
            election_ms: 400,
            timeout_ms: 60_000,
            pulse_ms: 0,
            history: HISTORY,
            sizes: Sizes::default(),
            secret: false,
        }
    }
}

/// The secrets of all nodes, if there are any.
fn secrets(secret: bool) -> Secrets {
    let of = |word: &str| if secret { word.into() } else { Vec::new() };
    Secrets { read_write: of(SECRET), read_only: of("for readers") }
}

/// A node and its host.
pub struct Node {
    pub host: Host,
    pub addr: String,
    /// Where it says that it is.
    pub advertised: String,
    pub flags: Flags,
    /// Where it is told that its cluster is.
    pub attach: Vec<String>,
    pub disk: Disk,
    /// Number of its process, over all its boots.
    pub process: u32,
    pub life: Life,
    /// It does not run, and what happens to it waits.
    pub paused: bool,
    held: Vec<Wake>,
    /// Connections that wait until it runs.
    backlog: Vec<PipeId>,
    /// How fast its clock goes, in millionths of the true speed.
    pub clock: u64,
    /// After so many effects its process dies.
    pub doom: Option<u32>,
    /// The term that this process has led last.
    pub led: Option<u64>,
    /// It does not start with what its disk holds.
    pub refused: bool,
    /// The raft id with which it ran last.
    pub last_raft_id: Option<u64>,
    /// The last entry that it has applied with that raft id: all up to it were durable.
    had: u64,
    /// The epoch with which it ran last with that raft id, and the term and vote that were durable then.
    epoch: u64,
    promised: (u64, u64),
    /// What it has said, and when it did.
    pub said: Vec<(u64, String)>,
}

pub enum Life {
    Down,
    /// It is being started.
    Starting,
    /// It is asking for a raft id.
    Joining(Box<Joining>),
    Running(Box<Running>),
}

pub struct Joining {
    identity: Identity,
    joiner: Joiner,
    challenges: Challenges,
    trying: Attempt,
    addresses: Vec<String>,
    next: usize,
    attempt: u64,
    pipe: Option<PipeId>,
    received: Vec<u8>,
}

pub struct Running {
    pub replica: Replica,
    identity: Identity,
    /// What its clock says, and when it was last looked at, in microseconds.
    clock_us: u64,
    clock_at: u64,
    links: BTreeMap<Conn, Link>,
    conns: BTreeMap<(PipeId, Side), Conn>,
    turn_due: bool,
    preparing: bool,
    prepare_due: bool,
    snapshot: Snapshot,
    snapshot_due: bool,
    /// The identity is being written, and what it is to be has changed meanwhile.
    remembering: bool,
    stopping: bool,
    sending: usize,
}

/// The task that writes snapshots.
#[derive(Debug, PartialEq, Eq)]
enum Snapshot {
    Idle,
    /// A step is planned, or an operation under way, for this file.
    Busy(String),
    /// More is to come from the leader.
    Waiting(String),
}

/// A connection.
struct Link {
    pipe: PipeId,
    side: Side,
    received: Vec<u8>,
    /// Nothing more is received.
    ended: bool,
    paused: bool,
    sending: bool,
    closed: bool,
}

/// What a node meets outside of itself.
pub struct Outside<'a> {
    pub net: &'a mut Net,
    pub queue: &'a mut Queue<Event>,
    pub chance: &'a mut Chance,
    /// It is gone, for this reason.
    pub end: Option<&'static str>,
}

impl Outside<'_> {
    fn at(&mut self) -> (&mut Net, At<'_>) {
        (self.net, At { queue: self.queue, chance: self.chance })
    }
}

impl Node {
    pub fn new(host: Host, flags: Flags, chance: &mut Chance) -> Node {
        let addr = format!("10.0.0.{}:8046", host + 1);
        Node {
            host,
            advertised: addr.clone(),
            addr,
            flags,
            attach: Vec::new(),
            disk: Disk::new(),
            process: 0,
            life: Life::Down,
            paused: false,
            held: Vec::new(),
            backlog: Vec::new(),
            clock: 1_000_000 + chance.below(10_000),
            doom: None,
            led: None,
            refused: false,
            last_raft_id: None,
            had: 0,
            epoch: 0,
            promised: (0, 0),
            said: Vec::new(),
        }
    }

    pub fn is_up(&self) -> bool {
        !matches!(self.life, Life::Down)
    }

    /// Whether its replica runs, and is not paused.
    pub fn runs(&self) -> bool {
        matches!(self.life, Life::Running(_)) && !self.paused
    }

    /// It was told to stop, and does so.
    pub fn is_stopping(&self) -> bool {
        self.running().is_some_and(|running| running.stopping || running.replica.awaits_others())
    }

    pub fn running(&self) -> Option<&Running> {
        if let Life::Running(running) = &self.life { Some(running) } else { None }
    }

    /// Remembers how far it has applied, and what it has promised.
    pub fn notice_applied(&mut self) {
        let Life::Running(running) = &self.life else { return };
        self.had = self.had.max(running.replica.applied());
        self.promised = running.replica.promised();
    }

    pub fn running_mut(&mut self) -> Option<&mut Running> {
        if let Life::Running(running) = &mut self.life { Some(running) } else { None }
    }

    /// How it is, for a test that has failed.
    pub fn describe(&self) -> String {
        let life = match &self.life {
            Life::Down => "down".to_owned(),
            Life::Starting => "starting".to_owned(),
            Life::Joining(joining) => format!("joining, attempt {}", joining.attempt),
            Life::Running(running) => {
                let replica = &running.replica;
                let (applied, voters, serves) = (replica.applied(), replica.voters(), replica.serving());
                format!(
                    "running as {} with {applied} applied, members {voters:?}, serves: {serves}, snapshot {:?}",
                    running.identity.raft_id, running.snapshot
                )
            }
        };
        format!(
            "node {}, process {}, paused: {}: {life}; {}",
            self.host,
            self.process,
            self.paused,
            self.disk.describe()
        )
    }

    pub fn replica(&mut self) -> Option<&mut Replica> {
        if let Life::Running(running) = &mut self.life { Some(&mut running.replica) } else { None }
    }

    /// Its own id.
    pub fn id(&self) -> Option<String> {
        self.running().map(|running| running.identity.node.escape_ascii().to_string())
    }

    /// Its raft id.
    pub fn raft_id(&self) -> Option<u64> {
        self.running().map(|running| running.identity.raft_id)
    }

    /// Starts its process.
    pub fn start(&mut self, queue: &mut Queue<Event>, chance: &mut Chance) {
        assert!(!self.is_up());
        self.process += 1;
        self.life = Life::Starting;
        (self.led, self.refused) = (None, false);
        queue.after(chance.between((3_000, 20_000)), Event::Node(self.host, self.process, Wake::Boot));
    }

    /// The process is gone, whatever it was doing.
    pub fn die(&mut self, says_so: bool, outside: &mut Outside<'_>) {
        if !self.is_up() {
            return;
        }
        self.life = Life::Down;
        (self.paused, self.doom) = (false, None);
        self.held.clear();
        self.backlog.clear();
        let (net, mut at) = outside.at();
        net.end_process(End::Node(self.host, self.process), says_so, &mut at);
        self.disk.crash(!says_so, outside.chance);
    }

    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// It runs again: everything that happened meanwhile comes at once, in any order.
    pub fn resume(&mut self, outside: &mut Outside<'_>) {
        self.paused = false;
        let mut held = std::mem::take(&mut self.held);
        // A connection is there before its bytes.
        if outside.chance.once_in(2) {
            held.sort_by_key(|wake| matches!(wake, Wake::Tick));
        } else {
            held.sort_by_key(|wake| !matches!(wake, Wake::Tick));
        }
        for wake in held {
            outside.queue.after(0, Event::Node(self.host, self.process, wake));
        }
    }

    /// Something happens to its process, if that still is the one.
    pub fn wake(&mut self, process: u32, wake: Wake, outside: &mut Outside<'_>) {
        if process != self.process || !self.is_up() {
            if let Wake::Dialed(_, Some(pipe)) = wake {
                let (net, mut at) = outside.at();
                net.close(pipe, 0, &mut at);
            }
            return;
        }
        if self.paused {
            return self.held.push(wake);
        }
        match (std::mem::replace(&mut self.life, Life::Down), wake) {
            (Life::Starting, Wake::Boot) => self.boot(outside),
            (Life::Joining(joining), wake) => self.join(*joining, wake, outside),
            (Life::Running(mut running), wake) => {
                let mut process = Process { node: self, running: &mut running, outside };
                process.wake(wake);
                self.life = Life::Running(running);
            }
            (life, wake) => {
                self.life = life;
                if let Wake::Accept(pipe) = wake {
                    self.backlog.push(pipe);
                }
            }
        }
    }

    fn boot(&mut self, outside: &mut Outside<'_>) {
        let mut lines = Vec::new();
        let boot = boot::boot(&mut self.disk, &self.flags, &self.attach, &self.advertised, outside.chance, &mut lines);
        self.say(outside.queue.now(), lines);
        self.go_on(boot, outside);
    }

    fn go_on(&mut self, boot: Boot, outside: &mut Outside<'_>) {
        match boot {
            Boot::Join(identity, addresses) => {
                let joiner = boot::joiner(&identity, &self.advertised, self.flags.secret);
                let mut challenges = Challenges::new(&self.secret_seed(outside));
                let trying = joiner.attempt(challenges.make());
                let joining = Joining {
                    identity,
                    joiner,
                    challenges,
                    trying,
                    addresses,
                    next: 0,
                    attempt: 0,
                    pipe: None,
                    received: Vec::new(),
                };
                self.life = Life::Joining(Box::new(joining));
                self.plan(0, Wake::Join, outside);
            }
            Boot::Refuse(why) => {
                self.say(outside.queue.now(), [format!("refuses to start: {why}")]);
                self.refused = true;
                self.life = Life::Starting;
                outside.end = Some("its data is damaged");
            }
            Boot::Run(identity, recovered) => {
                let config = Config {
                    id: identity.node.escape_ascii().to_string(),
                    node: identity.node,
                    raft_id: identity.raft_id,
                    epoch: identity.boot_epoch,
                    incarnation: identity.incarnation,
                    cluster: identity.cluster.clone(),
                    cluster_id: identity.cluster_id,
                    seeds: self.attach.clone(),
                    earlier: identity.peers.clone(),
                    heartbeat_ms: self.flags.heartbeat_ms,
                    election_ms: self.flags.election_ms,
                    timeout_ms: self.flags.timeout_ms,
                    history: self.flags.history,
                    addr: self.advertised.clone(),
                    hostname: format!("host{}", self.host),
                    version: "test".into(),
                    secrets: secrets(self.flags.secret),
                    challenges: self.secret_seed(outside),
                    readers: usize::MAX,
                    pulse_ms: self.flags.pulse_ms,
                    segment: doozer::limits::SEGMENT,
                    dir: "/data".into(),
                    stopwatch: || 0,
                };
                assert!(identity.raft_id != 0 && identity.cluster == CLUSTER);
                self.say(
                    outside.queue.now(),
                    vec![format!("runs: raft id {}, epoch {}", identity.raft_id, identity.boot_epoch)],
                );
                let is_same = self.last_raft_id.replace(identity.raft_id) == Some(identity.raft_id);
                let start = &recovered.start;
                let has = start.entries.last().map_or(start.applied.0, |entry| entry.index);
                let epoch = std::mem::replace(&mut self.epoch, identity.boot_epoch);
                assert!(!is_same || identity.boot_epoch > epoch, "node {} has its epoch {epoch} again", self.host);
                let stored = (start.hard_state.term, start.hard_state.vote);
                // What is lost as a whole at the very end of the log cannot be told from what was never written.
                if is_same && !std::mem::take(&mut self.disk.may_have_lost_its_end) {
                    let (had, promised) = (self.had, self.promised);
                    assert!(has >= had, "node {} comes back with entries up to {has}, and had {had}", self.host);
                    let kept = stored.0 > promised.0 || (stored.0 == promised.0 && [0, stored.1].contains(&promised.1));
                    assert!(kept, "node {} comes back with term and vote {stored:?}, and had {promised:?}", self.host);
                }
                (self.had, self.promised) = (start.applied.0, stored);
                let mut replica = Replica::new(config, *recovered).expect("raft takes what was recovered");
                replica.hurry(self.flags.sizes.keep, self.flags.sizes.snapshot_after);
                // The checker is told of every revision, though a turn applies more of them than the history holds.
                replica.keep_history(0);
                replica.campaign().expect("an only voter may stand");
                self.life = Life::Running(Box::new(Running {
                    replica,
                    identity,
                    clock_us: 0,
                    clock_at: outside.queue.now(),
                    links: BTreeMap::new(),
                    conns: BTreeMap::new(),
                    turn_due: false,
                    preparing: false,
                    prepare_due: false,
                    snapshot: Snapshot::Idle,
                    snapshot_due: false,
                    remembering: false,
                    stopping: false,
                    sending: 0,
                }));
                self.plan(0, Wake::Tick, outside);
                for pipe in std::mem::take(&mut self.backlog) {
                    self.plan(1, Wake::Accept(pipe), outside);
                }
            }
        }
    }

    /// Random bytes of this process, which no choice of the world depends on.
    fn secret_seed(&self, outside: &Outside<'_>) -> [u8; 32] {
        let mut chance = Chance::new(outside.queue.now() ^ (self.host as u64) << 48 ^ u64::from(self.process) << 32);
        let mut seed = [0; 32];
        seed.as_chunks_mut::<8>().0.iter_mut().for_each(|bytes| *bytes = chance.next().to_le_bytes());
        seed
    }

    fn plan(&self, us: u64, wake: Wake, outside: &mut Outside<'_>) {
        outside.queue.after(us, Event::Node(self.host, self.process, wake));
    }

    pub fn say(&mut self, now: u64, lines: impl IntoIterator<Item = String>) {
        for line in lines {
            if self.said.last().is_none_or(|(_, last)| *last != line) {
                self.said.push((now, line));
            }
        }
    }

    // ---- joining ----

    fn join(&mut self, mut joining: Joining, wake: Wake, outside: &mut Outside<'_>) {
        match wake {
            Wake::Join => {
                joining.attempt += 1;
                joining.received.clear();
                let address = joining.addresses[joining.next].clone();
                let dialer = Dialer::Join(joining.attempt);
                outside.queue.after(0, Event::Dial(self.host, self.process, dialer, address));
                self.plan(JOIN_PATIENCE, Wake::JoinLate(joining.attempt), outside);
            }
            Wake::JoinLate(attempt) if attempt == joining.attempt => self.ask_next(&mut joining, outside),
            Wake::Dialed(Dialer::Join(attempt), pipe) if attempt == joining.attempt => match pipe {
                None => self.ask_next(&mut joining, outside),
                Some(pipe) => {
                    joining.pipe = Some(pipe);
                    joining.trying = joining.joiner.attempt(joining.challenges.make());
                    let (net, mut at) = outside.at();
                    net.send(pipe, 0, &joining.trying.opening(), false, &mut at);
                }
            },
            Wake::Dialed(_, Some(pipe)) => {
                let (net, mut at) = outside.at();
                net.close(pipe, 0, &mut at);
            }
            Wake::Readable(pipe, 0) if Some(pipe) == joining.pipe => {
                let (net, mut at) = outside.at();
                match net.read(pipe, 0, &mut at) {
                    Read::Nothing => {}
                    Read::End | Read::Broken => self.ask_next(&mut joining, outside),
                    Read::Bytes(bytes) => {
                        joining.received.extend_from_slice(&bytes);
                        let mut out = Vec::new();
                        let (used, answer) =
                            joining.trying.receive(&joining.received, &mut out).expect("a node of the cluster");
                        joining.received.drain(..used);
                        let (net, mut at) = outside.at();
                        net.send(pipe, 0, &out, false, &mut at);
                        match answer {
                            None => {}
                            Some(Answer::Welcome { raft_id, cluster_id, cluster }) => {
                                net.close(pipe, 0, &mut at);
                                let welcome = (raft_id, cluster_id, cluster);
                                let (identity, peers) = (joining.identity, joining.addresses);
                                let boot =
                                    boot::joined(&mut self.disk, &self.flags, identity, welcome, peers, outside.chance);
                                return self.go_on(boot, outside);
                            }
                            Some(Answer::Later(why)) => {
                                self.say(outside.queue.now(), [format!("cannot attach yet: {why}")]);
                                self.ask_next(&mut joining, outside);
                            }
                            Some(Answer::Refused(why)) => panic!("{} is not let in: {why}", self.addr),
                        }
                    }
                }
            }
            Wake::Accept(pipe) => self.backlog.push(pipe),
            _ => {}
        }
        self.life = Life::Joining(Box::new(joining));
    }

    fn ask_next(&self, joining: &mut Joining, outside: &mut Outside<'_>) {
        if let Some(pipe) = joining.pipe.take() {
            let (net, mut at) = outside.at();
            net.close(pipe, 0, &mut at);
        }
        joining.attempt += 1;
        joining.next = (joining.next + 1) % joining.addresses.len();
        self.plan(if joining.next == 0 { JOIN_PAUSE } else { 0 }, Wake::Join, outside);
    }
}

/// A process that something happens to.
struct Process<'a, 'b> {
    node: &'a mut Node,
    running: &'a mut Running,
    outside: &'a mut Outside<'b>,
}

impl Process<'_, '_> {
    fn wake(&mut self, wake: Wake) {
        match wake {
            Wake::Boot | Wake::Join | Wake::JoinLate(_) => {}
            Wake::Tick => self.tick(),
            Wake::Turn => self.turn(),
            Wake::Disk(id) => self.disk_done(id),
            Wake::Retry => {
                self.running.replica.retry_prepare();
                (self.running.preparing, self.running.prepare_due) = (false, true);
                self.end_of_turn_soon();
            }
            Wake::Snapshot => self.snapshot_step(),
            Wake::SnapshotAgain => {
                self.running.snapshot_due |= self.running.replica.wants_snapshot();
                self.see_to_snapshot();
            }
            Wake::Dialed(Dialer::Join(_), Some(pipe)) => {
                let (net, mut at) = self.outside.at();
                net.close(pipe, 0, &mut at);
            }
            Wake::Dialed(Dialer::Join(_), None) => {}
            Wake::Dialed(Dialer::Replica(addr), pipe) => {
                match pipe {
                    Some(pipe) => {
                        let conn = self.running.replica.dialed(&addr);
                        self.link(conn, pipe, 0);
                    }
                    None => self.running.replica.not_dialed(&addr, "it does not accept a connection"),
                }
                self.end_of_turn_soon();
            }
            Wake::Accept(pipe) => {
                if self.running.stopping {
                    let (net, mut at) = self.outside.at();
                    return net.close(pipe, 1, &mut at);
                }
                let conn = self.running.replica.open();
                self.link(conn, pipe, 1);
                self.readable(conn);
            }
            Wake::Readable(pipe, side) => {
                if let Some(conn) = self.running.conns.get(&(pipe, side)) {
                    self.readable(*conn);
                }
            }
            Wake::Sent(pipe, side) => self.sent(pipe, side),
            Wake::Farewell(until) => self.farewell(until),
        }
    }

    fn plan(&mut self, us: u64, wake: Wake) {
        self.node.plan(us, wake, self.outside);
    }

    /// Whether the process still lives to have this effect.
    fn effect(&mut self) -> bool {
        if let Some(left) = &mut self.node.doom {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => self.outside.end = Some(CRASHED),
            }
        }
        self.outside.end != Some(CRASHED)
    }

    /// Whatever wakes the process ends with a turn, with what else comes soon.
    fn end_of_turn_soon(&mut self) {
        if !std::mem::replace(&mut self.running.turn_due, true) {
            let us = self.outside.chance.below(30);
            self.plan(us, Wake::Turn);
        }
    }

    fn tick(&mut self) {
        let true_time = self.outside.queue.now();
        let running = &mut *self.running;
        running.clock_us += (true_time - running.clock_at) * self.node.clock / 1_000_000;
        running.clock_at = true_time;
        running.replica.tick(running.clock_us / 1_000);
        // How much is free is not modelled: there is room, or there is none.
        if running.replica.needs_room().is_some() && !self.node.disk.brimful && !self.node.disk.stalled {
            running.replica.there_is_room();
        }
        self.end_of_turn_soon();
        self.remember();
        let period = self.node.flags.heartbeat_ms * 1_000;
        let late = if self.outside.chance.once_in(50) { self.outside.chance.below(10_000) } else { 0 };
        self.plan(period * 1_000_000 / self.node.clock + late, Wake::Tick);
    }

    fn remember(&mut self) {
        if self.running.remembering {
            return;
        }
        let Some(standing) = self.running.replica.take_standing() else { return };
        let before = self.running.identity.clone();
        boot::stand(&mut self.running.identity, standing);
        if self.running.identity != before {
            self.running.remembering = true;
            self.write(Op::Identity(boot::encode(&self.running.identity)));
        }
    }

    fn turn(&mut self) {
        self.running.turn_due = false;
        let replica = &mut self.running.replica;
        replica.turn();
        let (mut dirty, mut resumed) = (Vec::new(), Vec::new());
        replica.take_dirty(&mut dirty);
        if !self.running.stopping {
            replica.take_resumed(&mut resumed);
        }
        for conn in dirty {
            self.send(conn);
        }
        for conn in resumed {
            self.go_on_receiving(conn);
        }
        self.append();
        if self.running.replica.wants_segment() {
            self.running.prepare_due = true;
        }
        self.prepare();
        if self.running.replica.wants_snapshot() {
            self.running.snapshot_due = true;
        }
        self.see_to_snapshot();
        let replica = &mut self.running.replica;
        let (mut aborted, mut dials, mut said) = (Vec::new(), Vec::new(), Vec::new());
        replica.take_aborted(usize::MAX, &mut aborted);
        replica.take_dials(&mut dials);
        replica.take_lines(&mut said);
        let more = replica.has_work();
        let now = self.outside.queue.now();
        let lines: Vec<String> = said.into_iter().map(|line| line.text).collect();
        for line in &lines {
            if let Some(rest) = line.strip_prefix("this node leads (raft id ") {
                let term = rest.split("term ").nth(1).and_then(|t| t.trim_end_matches(')').parse().ok());
                self.node.led = term;
                self.outside.queue.after(0, Event::Led(self.node.host, term.expect("a term")));
            }
        }
        self.node.say(now, lines);
        for conn in aborted {
            self.close(conn);
        }
        for addr in dials {
            if !self.effect() {
                break;
            }
            let (host, process) = (self.node.host, self.node.process);
            self.outside.queue.after(0, Event::Dial(host, process, Dialer::Replica(addr.clone()), addr));
        }
        let removals = self.running.replica.take_removals();
        if !removals.is_empty() {
            self.write(Op::Remove(removals));
        }
        if let Some(fate) = self.running.replica.take_fate()
            && self.effect()
        {
            if fate == Fate::Rejoin {
                self.node.say(now, ["it was taken out of its cluster, and starts anew".to_owned()]);
                boot::leave(&mut self.running.identity);
                self.node.disk.write_identity(boot::encode(&self.running.identity));
            }
            self.outside.end = Some("it starts anew");
        }
        if let Some(conn) = self.running.replica.over_output_limit() {
            self.close(conn);
        }
        if more {
            self.end_of_turn_soon();
        }
    }

    // ---- the disk ----

    fn write(&mut self, op: Op) {
        if !self.effect() {
            return;
        }
        let id = self.node.disk.begin(op);
        let mut us = self.outside.chance.between(self.node.disk.latency);
        if self.outside.chance.once_in(500) {
            us += 20_000;
        }
        self.plan(us, Wake::Disk(id));
    }

    fn append(&mut self) {
        if let Some(write) = self.running.replica.has_write().then(|| self.running.replica.next_write()).flatten() {
            self.write(Op::Append(write));
        }
    }

    fn prepare(&mut self) {
        if !self.running.preparing
            && std::mem::take(&mut self.running.prepare_due)
            && let Some(prepare) = self.running.replica.next_prepare()
        {
            self.running.preparing = true;
            self.write(Op::Prepare(prepare));
        }
    }

    fn disk_done(&mut self, id: OpId) {
        if self.node.disk.holds(id) {
            return self.plan(10_000, Wake::Disk(id));
        }
        let (op, done) = match self.node.disk.end(id, self.outside.chance) {
            Ended::Done(op) => (op, true),
            Ended::NoRoom(op) => (op, false),
            Ended::Failed => {
                self.outside.end = Some(DISK_ERROR);
                return;
            }
        };
        if !self.effect() {
            return;
        }
        let replica = &mut self.running.replica;
        match op {
            Op::Append(write) => {
                replica.written(write);
                self.append();
            }
            Op::Prepare(prepare) if done => {
                replica.prepared(prepare.generation);
                self.running.preparing = false;
            }
            Op::Prepare(prepare) => {
                replica.prepare_failed(prepare.generation);
                self.plan(RETRY, Wake::Retry);
            }
            Op::Part(..) if !done => {
                replica.snapshot_failed();
                self.running.snapshot = Snapshot::Idle;
                self.plan(RETRY, Wake::SnapshotAgain);
            }
            Op::Part(_, part) => {
                replica.snapshot_part_written(part);
                let pause = if replica.is_snapshot_urgent() { 0 } else { SNAPSHOT_PAUSE };
                self.plan(pause, Wake::Snapshot);
            }
            Op::Commit(_) => {
                let old = replica.snapshot_done();
                self.running.snapshot = Snapshot::Idle;
                if let Some(old) = old {
                    self.write(Op::Remove(vec![old]));
                }
                self.see_to_snapshot();
            }
            Op::Abandon(_) => {
                self.running.snapshot = Snapshot::Idle;
                self.see_to_snapshot();
            }
            Op::Identity(_) => {
                self.running.remembering = false;
                self.remember();
            }
            Op::Remove(_) => {}
        }
        self.end_of_turn_soon();
    }

    fn see_to_snapshot(&mut self) {
        if !self.running.snapshot_due {
            return;
        }
        match std::mem::replace(&mut self.running.snapshot, Snapshot::Idle) {
            Snapshot::Idle => {
                self.running.snapshot_due = false;
                if self.running.replica.begin_snapshot() {
                    self.running.snapshot = Snapshot::Busy(self.running.replica.snapshot_name());
                    self.plan(100, Wake::Snapshot);
                }
            }
            Snapshot::Waiting(file) => {
                self.running.snapshot_due = false;
                self.running.snapshot = Snapshot::Busy(file);
                self.plan(0, Wake::Snapshot);
            }
            busy @ Snapshot::Busy(_) => self.running.snapshot = busy,
        }
    }

    fn snapshot_step(&mut self) {
        let Snapshot::Busy(file) = &self.running.snapshot else { return };
        let file = file.clone();
        match self.running.replica.next_snapshot_part() {
            Part::Nothing => self.write(Op::Commit(file)),
            Part::Abandon => self.write(Op::Abandon(file)),
            Part::Wait => {
                self.running.snapshot = Snapshot::Waiting(file);
                self.see_to_snapshot();
            }
            Part::Later => self.plan(5, Wake::Snapshot),
            Part::Write(part) => self.write(Op::Part(file, part)),
        }
    }

    // ---- connections ----

    fn link(&mut self, conn: Conn, pipe: PipeId, side: Side) {
        let link =
            Link { pipe, side, received: Vec::new(), ended: false, paused: false, sending: false, closed: false };
        self.running.links.insert(conn, link);
        self.running.conns.insert((pipe, side), conn);
    }

    fn readable(&mut self, conn: Conn) {
        loop {
            let Some(link) = self.running.links.get_mut(&conn) else { return };
            if link.ended || link.paused || link.closed {
                return;
            }
            let (net, mut at) = self.outside.at();
            match net.read(link.pipe, link.side, &mut at) {
                Read::Nothing => return,
                Read::Broken => return self.close(conn),
                Read::End => {
                    link.ended = true;
                    self.running.replica.end_of_stream(conn);
                    return self.end_of_turn_soon();
                }
                Read::Bytes(bytes) => {
                    // A stopping server takes no more, but of its peers.
                    if self.running.stopping && !self.running.replica.is_peer(conn) {
                        link.ended = true;
                        return;
                    }
                    link.received.extend_from_slice(&bytes);
                    self.hand_in(conn);
                }
            }
        }
    }

    fn hand_in(&mut self, conn: Conn) {
        let Some(link) = self.running.links.get_mut(&conn) else { return };
        let Receipt { consumed, then } = self.running.replica.receive(conn, &link.received);
        link.received.drain(..consumed);
        match then {
            Then::More { needed } => {
                assert!(needed.is_none_or(|needed| needed > link.received.len()), "a whole frame is taken");
            }
            Then::Close => link.ended = true,
            Then::Paused => link.paused = true,
        }
        self.end_of_turn_soon();
    }

    fn go_on_receiving(&mut self, conn: Conn) {
        let Some(link) = self.running.links.get_mut(&conn) else { return };
        if !std::mem::take(&mut link.paused) {
            return;
        }
        self.hand_in(conn);
        self.see_off(conn);
        self.readable(conn);
    }

    fn send(&mut self, conn: Conn) {
        let Some(link) = self.running.links.get_mut(&conn) else { return };
        if link.sending || link.closed {
            return;
        }
        let mut bytes = Vec::new();
        match self.running.replica.output(conn, &mut bytes) {
            Output::Nothing => {}
            Output::Finish => self.close(conn),
            Output::Send => {
                if !self.effect() {
                    return;
                }
                let Some(link) = self.running.links.get_mut(&conn) else { return };
                link.sending = true;
                self.running.sending += 1;
                let (net, mut at) = self.outside.at();
                net.send(link.pipe, link.side, &bytes, true, &mut at);
            }
        }
    }

    fn sent(&mut self, pipe: PipeId, side: Side) {
        let Some(&conn) = self.running.conns.get(&(pipe, side)) else { return };
        let Some(link) = self.running.links.get_mut(&conn) else { return };
        if std::mem::take(&mut link.sending) {
            self.running.sending -= 1;
            self.running.replica.sent(conn);
            self.end_of_turn_soon();
            self.send(conn);
        }
    }

    fn close(&mut self, conn: Conn) {
        let Some(link) = self.running.links.get_mut(&conn) else { return };
        if std::mem::replace(&mut link.closed, true) {
            return;
        }
        if std::mem::take(&mut link.sending) {
            self.running.sending -= 1;
        }
        self.running.replica.leave(conn);
        let (net, mut at) = self.outside.at();
        net.close(link.pipe, link.side, &mut at);
        // What was received before is handed in all the same.
        if std::mem::take(&mut link.paused) {
            self.hand_in(conn);
        }
        self.end_of_turn_soon();
        self.see_off(conn);
    }

    /// A connection that is closed, and of which nothing more is to be handed in, is over.
    fn see_off(&mut self, conn: Conn) {
        if let Some(link) = self.running.links.get(&conn)
            && link.closed
            && !link.paused
        {
            self.running.conns.remove(&(link.pipe, link.side));
            self.running.links.remove(&conn);
            self.running.replica.close(conn);
            self.end_of_turn_soon();
        }
    }

    // ---- the end ----

    fn farewell(&mut self, until: u64) {
        if !self.running.stopping {
            self.running.replica.begin_stop();
            self.end_of_turn_soon();
            if self.running.replica.awaits_others() {
                return self.plan(5_000, Wake::Farewell(0));
            }
            self.running.stopping = true;
            let until = self.outside.queue.now() + FAREWELL;
            return self.plan(5_000, Wake::Farewell(until));
        }
        let replica = &self.running.replica;
        let quiet = replica.is_quiet() && replica.buffered() == 0 && self.running.sending == 0;
        if quiet || self.outside.queue.now() >= until {
            self.outside.end = Some("it stops");
        } else {
            self.plan(5_000, Wake::Farewell(until));
        }
    }
}
