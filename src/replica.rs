//! The replica: one server's part in the cluster, without a socket, a disk or a clock.
//!
//! The shell tells the replica what happened (bytes came, a write is durable, time has passed), and the replica answers what to do
//! (bytes to send, blocks to write). The shell first reports everything that a turn of the loop brings, then calls
//! [`Replica::turn`] once: the mutations of the turn become one batch, one raft entry, one write.
//!
//! ```text
//! receive -> request -+- read, wait ------------------------------> desk -> output
//!                     +- mutation -> gather -> turn: propose -> log -> written -> commit -> apply -> output
//! ```
//!
//! Read in this order: [`session`] (connections), `shares` (how much each may ask), `requests` (what they ask), [`desk`], `slots` and
//! `tokens` (reads and waits), [`batch`] (the proposed mutations), [`forward`] (sends them to the leader, and again if needed),
//! [`group`] and [`entries`] (raft), [`machine`] and [`members`] (apply), [`snapshot`] (the state, to a file and back), [`rebuild`]
//! (the state, from the disk), [`boot`] (what a start does with the data), `introduce` (the node's entries about itself). For the
//! cluster: [`mesh`] and [`routes`] (links), `peers` (the frames of peers), [`vetting`] (what of them is believed), `quorum` (who
//! leads, and whether writes are accepted), [`membership`] and `stewardship` (how the leader manages the members), `disk_watch` and
//! `readiness` (whether the others can rely on this node), [`transfer`], `catch_up` and `backoff` (snapshots to peers), [`join`]
//! and `quota` (how a node gets its raft id). Against strangers: [`handshake`] (how nodes prove the secret to each other) and
//! `strangers` (what the log says about the others). Beside all of them: [`stages`] (where a commit spends its time) and `figures`
//! (the statistics).
//!
//! Invariants:
//! * the replica answers nothing before the data behind the answer is durable: the log says what is ([`crate::log::Durable`]), and
//!   only that releases raft's readies;
//! * a mutation that was received is proposed, even if its client has gone;
//! * everything is deterministic: the same inputs in the same order give the same outputs.

mod backoff;
pub mod batch;
pub mod boot;
mod catch_up;
pub mod desk;
mod disk_watch;
pub mod entries;
mod figures;
pub mod forward;
pub mod group;
pub mod handshake;
mod introduce;
pub mod join;
pub mod machine;
pub mod members;
pub mod membership;
pub mod mesh;
mod peers;
mod quorum;
mod quota;
mod readiness;
pub mod rebuild;
mod requests;
pub mod routes;
pub mod session;
mod shares;
mod slots;
pub mod snapshot;
pub mod stages;
mod stewardship;
mod strangers;
mod tokens;
pub mod transfer;
pub mod vetting;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, HardState};

use backoff::Backoff;
use batch::{Gather, Origin};
use desk::{Desk, Secrets};
use disk_watch::{DiskWatch, Work};
use forward::Forward;
use group::{Group, Persist, change_of};
use handshake::{Challenges, Key};
use introduce::Introduced;
use machine::Machine;
use mesh::{Me, Mesh, Timing};
use quorum::Urgent;
use quota::Quota;
use readiness::Readiness;
use requests::{Asker, Pending, Taken, answer};
use session::Pause;
pub use session::{Access, Conn, Output};
use stages::{Stages, Stopwatch};
pub use stewardship::Standing;
use stewardship::Stopping;
use strangers::Tally;
use transfer::Sending;

use crate::faults::{self, Fault};
use crate::limits;
use crate::log::{self, Log, Position};
use crate::store::PinId;
use crate::wire::peer::ChunkFailure;
use crate::wire::{Request, Response, frame};

/// The settings of a replica.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's id, 16 characters of `[A-Z2-7]`.
    pub id: String,
    /// The same id, as the node's files contain it.
    pub node: log::NodeId,
    /// Its raft id.
    pub raft_id: u64,
    /// The number of this boot.
    pub epoch: u64,
    /// How many times the node has set its data aside.
    pub incarnation: u64,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's id.
    pub cluster_id: u64,
    /// Addresses from the operator where other nodes may be.
    pub seeds: Vec<String>,
    /// Addresses where other nodes were at an earlier start.
    pub earlier: Vec<String>,
    /// Length of a tick in milliseconds: a leader sends a sign of life every tick.
    pub heartbeat_ms: u64,
    /// A follower stands for election after this many milliseconds without the leader, up to twice as many.
    pub election_ms: u64,
    /// A member that has been silent for this many milliseconds is taken out of its slot.
    pub timeout_ms: u64,
    /// How many past revisions stay readable.
    pub history: u64,
    /// The address that the node advertises.
    pub addr: String,
    /// The machine's name.
    pub hostname: String,
    /// The program's version.
    pub version: String,
    /// The secrets that grant access.
    pub secrets: Secrets,
    /// Random bytes of this boot that nobody else knows: the challenges to peers are made of them.
    pub challenges: [u8; 32],
    /// Clients that may be connected and have access only because everyone may read; further ones are served as strangers.
    pub readers: usize,
    /// Time between two writes of `/ctl/node/<id>/applied`, in milliseconds; 0 for never.
    pub pulse_ms: u64,
    /// Size of the log's new segments, in bytes. It decides how long the log becomes before the node takes a snapshot.
    pub segment: u64,
    /// The data directory, for messages to clients.
    pub dir: String,
    /// Measures the time of commits; it affects only the statistics.
    pub stopwatch: Stopwatch,
}

/// How much of its input [`Replica::receive`] has used, and what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Bytes used up; hand the rest in again, with further bytes after it.
    pub consumed: usize,
    /// What to do next.
    pub then: Then,
}

/// What to do with a connection after [`Replica::receive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Receive more bytes.
    More {
        /// Size of the frame that has begun, in bytes, if it is known.
        needed: Option<usize>,
    },
    /// Hand the rest in again once the connection is among the resumed ones; receive nothing before.
    Paused,
    /// Receive no more, because the input is not a message. The output says when to close.
    Close,
}

/// A change that the node itself cannot carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The node was taken out of the cluster: set its data aside, and come back as a standby.
    Rejoin,
    /// Another process has written in the name of a later boot of this node, so the cluster drops the writes of this boot: start
    /// again, with a higher boot number.
    Restart,
}

/// The work that a stopping replica has not finished, and its progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// True while a write of the log is under way.
    pub writing: bool,
    /// Number of mutations accepted here and not applied yet.
    pub mutations: usize,
    /// True if this node leads and another could.
    pub leads: bool,
    /// Output that clients have not taken, in bytes.
    pub output: usize,
    /// Index of the last entry applied here.
    pub applied: u64,
    /// The current term.
    pub term: u64,
}

impl Unfinished {
    /// Returns whether any work is unfinished.
    pub fn is_anything(&self) -> bool {
        self.writing || self.mutations > 0 || self.leads || self.output > 0
    }
}

/// SYNCs that are answered together, each with its connection and tag.
type Syncs = Vec<(Conn, Option<i32>)>;

/// Recovered data, from which the replica continues.
pub struct Recovered {
    /// The state up to the last entry that is known to be committed.
    pub machine: Machine,
    /// Where raft continues.
    pub start: group::Start,
    /// The log, ready for the next write.
    pub log: Log,
    /// The last entry that a durable snapshot covers; 0 without a snapshot.
    pub snapshot: u64,
    /// Size of that snapshot in bytes.
    pub snapshot_bytes: u64,
}

impl Recovered {
    /// Returns the highest epoch of this node that the state has seen.
    pub fn epoch(&self) -> u64 {
        self.machine.seen().get(&self.start.id).map_or(0, |seen| seen.epoch)
    }
}

/// A line for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its text.
    pub text: String,
    /// True if the text contains words that another machine has chosen, such as its name. That machine can cause endlessly many
    /// different lines.
    pub of_others: bool,
}

/// One server's part in the cluster: a state machine that takes events and returns what to do.
pub struct Replica {
    config: Config,
    origin: Origin,
    machine: Machine,
    desk: Desk,
    group: Group,
    log: Log,
    gather: Gather,
    /// In the order of their sequence numbers.
    pending: VecDeque<Pending>,
    /// The sequence number of the first pending mutation.
    pending_first: u64,
    /// How many new slots clients have asked for since all earlier ones were applied, and the sequence number of the last.
    new_slots: (usize, u64),
    /// Connections that wait because the batch had no room for their next mutation.
    stalled: Vec<Conn>,
    /// SYNCs of this turn.
    syncs: Syncs,
    /// SYNCs that wait for raft's answer, with their context and the time of the question.
    asked: VecDeque<(u64, u64, Syncs)>,
    /// SYNCs that wait until an index is applied.
    reading: VecDeque<(u64, Syncs)>,
    next_context: u64,
    /// A write of the log is under way.
    writing: bool,
    introduced: Introduced,
    recovered_revision: i64,
    snapshots: snapshot::Snapshots,
    next_pulse_ms: u64,
    /// How much more the turn may apply: see [`limits::APPLY_TURN`].
    applies: usize,
    /// Applied entries that are kept for peers, in bytes.
    keep: usize,
    /// True once clients are served.
    open: bool,
    ticks: u64,
    now_ms: u64,
    /// When the search for a connection that takes nothing last found none.
    looked_ms: Option<u64>,
    mesh: Mesh,
    forward: Forward,
    registrations: Quota,
    /// When this node may leap to a much later term again.
    next_leap_ms: u64,
    /// Snapshots being sent to peers, one for each.
    sending: Vec<Sending>,
    transfers: u64,
    /// For each peer that got a snapshot: its id, the entry up to which it got one, and the time until which entries are kept for
    /// it.
    held: Vec<(u64, u64, u64)>,
    /// Peers that a snapshot could not be sent to.
    backoff: Backoff,
    /// The last transfer that this node gave up as receiver, and why.
    given_up: Option<(u64, ChunkFailure)>,
    /// Wrong secrets of clients, and strangers whose time was over, for the log.
    guesses: Tally,
    expired: Tally,
    /// Bytes that must be free on the disk before the leader's snapshot fits; `None` if there is room.
    no_room: Option<u64>,
    /// A snapshot from the leader that is durable and not installed yet.
    arrived: Option<catch_up::Arrived>,
    /// When each peer was last heard.
    heard: BTreeMap<u64, u64>,
    /// The term in which this node leads, once it manages the members.
    led: Option<u64>,
    /// Set when the leader is gone and the voters must elect another at once.
    urgent: Option<Urgent>,
    /// The tick in which this node last stood for an urgent election.
    stood: Option<u64>,
    /// When the majority became unreachable, and when the leader was lost.
    lost_since: Option<u64>,
    leaderless_since: Option<u64>,
    /// True while writes are refused because there is no quorum.
    closed: bool,
    /// True once a majority was reachable, or a leader known, since the start.
    met: bool,
    /// True while writes are refused because the disk is stuck.
    disk_stuck: bool,
    disk: DiskWatch,
    /// When this node last knew why its own writes are not applied: its disk is slow, or it catches up. In milliseconds.
    excused_ms: u64,
    /// The index that was applied at the last tick.
    applied_before: u64,
    /// Nodes that report a stuck disk: since when, and whether the operator knows.
    stuck_peers: BTreeMap<u64, (u64, bool)>,
    readiness: Readiness,
    /// The leader and term that the log named last.
    told_leader: (u64, u64),
    standing: Option<Standing>,
    stopping: Option<Stopping>,
    fate: Option<Fate>,
    /// Files that are no longer needed.
    removals: Vec<String>,
    /// Lines for the operator.
    lines: Vec<String>,
    /// Keeps the history for the caller of [`Replica::event`].
    reader: Option<PinId>,
    stages: Stages,
}

impl Replica {
    /// Makes a replica that continues from `recovered`.
    ///
    /// # Errors
    /// If raft refuses its configuration, which recovery prevents.
    pub fn new(config: Config, recovered: Recovered) -> raft::Result<Replica> {
        let Recovered { machine, start, log, snapshot, snapshot_bytes } = recovered;
        let config = if faults::is_armed(Fault::EpochReused) { Config { epoch: 1, ..config } } else { config };
        let origin = Origin { node: config.raft_id, epoch: config.epoch };
        let election_ticks = config.election_ms.div_ceil(config.heartbeat_ms).max(2);
        let life = start.seed;
        let stages = Stages::new(config.stopwatch);
        let group = Group::new(start, usize::try_from(election_ticks).unwrap_or(usize::MAX))?;
        let me = Me {
            node: config.node,
            raft_id: config.raft_id,
            epoch: config.epoch,
            life,
            incarnation: config.incarnation,
            cluster_id: config.cluster_id,
            cluster: config.cluster.clone(),
            key: Key::of_secret(&config.secrets.read_write),
            addr: config.addr.clone(),
        };
        let timing = Timing { ping_ms: 2 * config.heartbeat_ms, silence_ms: 2 * config.election_ms };
        let snapshots = snapshot::Snapshots::new(snapshot, snapshot_bytes, config.segment);
        let challenges = Challenges::new(&config.challenges);
        let mesh = Mesh::new(me, challenges, timing, &config.seeds, config.earlier.clone());
        Ok(Replica {
            mesh,
            next_pulse_ms: config.pulse_ms,
            recovered_revision: machine.store.revision(),
            config,
            origin,
            machine,
            desk: Desk::default(),
            group,
            log,
            gather: Gather::new(origin),
            pending: VecDeque::new(),
            pending_first: 1,
            new_slots: (0, 0),
            stalled: Vec::new(),
            syncs: Vec::new(),
            asked: VecDeque::new(),
            reading: VecDeque::new(),
            next_context: 1,
            writing: false,
            introduced: Introduced::No,
            snapshots,
            applies: limits::APPLY_TURN,
            keep: limits::KEEP,
            open: false,
            ticks: 0,
            now_ms: 0,
            looked_ms: None,
            forward: Forward::default(),
            registrations: Quota::default(),
            next_leap_ms: 0,
            sending: Vec::new(),
            transfers: 0,
            held: Vec::new(),
            backoff: Backoff::default(),
            given_up: None,
            guesses: Tally::default(),
            expired: Tally::default(),
            no_room: None,
            arrived: None,
            heard: BTreeMap::new(),
            led: None,
            urgent: None,
            stood: None,
            lost_since: None,
            leaderless_since: None,
            closed: false,
            met: false,
            disk_stuck: false,
            disk: DiskWatch::default(),
            excused_ms: 0,
            applied_before: 0,
            stuck_peers: BTreeMap::new(),
            readiness: Readiness::Unknown,
            told_leader: (0, 0),
            standing: None,
            stopping: None,
            fate: None,
            removals: Vec::new(),
            lines: Vec::new(),
            reader: None,
            stages,
        })
    }

    /// Keeps less for peers, and takes snapshots sooner, than the [`limits`] say: so a test with little data reaches states that
    /// otherwise take much.
    pub fn hurry(&mut self, keep: usize, snapshot_after: u64) {
        self.keep = keep.min(self.keep);
        self.snapshots.hurry(snapshot_after);
    }

    /// Makes the only voter of its group elect itself at once.
    ///
    /// # Errors
    /// If raft refuses to campaign.
    pub fn campaign(&mut self) -> raft::Result<()> {
        if self.is_alone() { self.group.campaign() } else { Ok(()) }
    }

    /// Returns whether this node is the only voter.
    fn is_alone(&self) -> bool {
        self.machine.members.voters() == [self.config.raft_id]
    }

    /// Returns whether clients are served: the node is registered in `/ctl`, or has data to read, even if the rest of its cluster
    /// is unreachable.
    pub fn serving(&self) -> bool {
        self.introduced == Introduced::Yes || (self.recovered_revision > 0 && !self.is_alone())
    }

    /// Lines for the operator.
    pub fn take_lines(&mut self, into: &mut Vec<Line>) {
        let line = |of_others| move |text| Line { text, of_others };
        into.extend(self.mesh.take_lines().map(line(true)));
        into.extend(self.lines.drain(..).map(line(false)));
    }

    /// Returns what must happen to the node if it cannot continue.
    pub fn take_fate(&mut self) -> Option<Fate> {
        self.fate.take()
    }

    /// Returns the revision at which this boot began to serve, before it wrote anything.
    pub fn recovered_revision(&self) -> i64 {
        self.recovered_revision
    }

    /// Returns how many entries of the log are not known to be committed. They are applied when a majority confirms them.
    pub fn unconfirmed(&self) -> u64 {
        self.group.last_index().saturating_sub(self.group.applied())
    }

    /// Returns the raft ids of the voters, according to the entries applied here.
    pub fn voters(&self) -> &[u64] {
        self.machine.members.voters()
    }

    /// Returns the cluster's members, according to the entries applied here.
    pub fn members(&self) -> &members::Members {
        &self.machine.members
    }

    /// Returns what the state has seen of each server, by raft id.
    pub fn seen(&self) -> &BTreeMap<u64, machine::Seen> {
        self.machine.seen()
    }

    /// Returns whether a change of the members is under way: in the log, and not applied here.
    pub fn is_changing_members(&self) -> bool {
        self.group.has_change()
    }

    /// Returns the event of a revision that is in the history; its path is written into `path`.
    pub fn event(&self, rev: i64, path: &mut Vec<u8>) -> Option<crate::store::Event<'_>> {
        self.machine.store.event(rev, path)
    }

    /// Keeps the history from this revision on for the caller of [`Replica::event`], because a turn may apply more than the history
    /// holds. A later call moves the revision on.
    pub fn keep_history(&mut self, rev: i64) {
        let pin = *self.reader.get_or_insert_with(|| self.machine.store.pin().0);
        self.machine.store.pin_to(pin, rev);
    }

    /// Returns raft's durable term and vote. A later boot of this node must not have less, because others rely on them.
    pub fn promised(&self) -> (u64, u64) {
        self.group.promised()
    }

    /// Returns the index of the last entry applied here.
    pub fn applied(&self) -> u64 {
        self.group.applied()
    }

    /// Returns the current revision.
    pub fn revision(&self) -> i64 {
        self.machine.store.revision()
    }

    /// Returns the number of connections.
    pub fn connections(&self) -> usize {
        self.desk.sessions.count()
    }

    /// Returns how many of the connections are those of known peers: see [`Replica::knows_peer`].
    pub fn peer_connections(&self) -> usize {
        self.mesh.connections()
    }

    // ---- connections ----

    /// Registers a connection whose other side has an unknown address.
    pub fn open(&mut self) -> Conn {
        self.open_from("")
    }

    /// Registers a connection; the log calls the other side `from`, as long as it is a stranger.
    pub fn open_from(&mut self, from: &str) -> Conn {
        let mut access = Access::default();
        self.config.secrets.grant(b"", &mut access);
        let conn = self.desk.sessions.open(access);
        if self.config.secrets.are_set() {
            self.desk.sessions.begin_stranger(conn);
            if let Some(session) = self.desk.sessions.get(conn) {
                session.from = from.into();
            }
        }
        conn
    }

    /// Returns whether a connection is a stranger's: see [`limits::STRANGERS_MAX`].
    pub fn is_stranger(&self, conn: Conn) -> bool {
        self.desk.sessions.is_stranger(conn)
    }

    /// Returns how many connections are strangers'.
    pub fn strangers(&self) -> usize {
        self.desk.sessions.strangers()
    }

    /// Closes the oldest stranger whose guaranteed time is over. Returns false if no stranger's is.
    pub fn evict_stranger(&mut self) -> bool {
        self.desk.sessions.evict_stranger()
    }

    /// The client has gone, and no longer receives anything. Its mutations are still carried out: bytes received from it may still
    /// be handed in, before [`Replica::close`].
    pub fn leave(&mut self, conn: Conn) {
        self.mesh.gone(&mut self.desk.sessions, conn);
        self.desk.leave(&mut self.machine.store, conn);
    }

    /// Forgets a connection from which nothing more comes, and to which nothing more goes.
    pub fn close(&mut self, conn: Conn) {
        self.mesh.gone(&mut self.desk.sessions, conn);
        self.desk.close(&mut self.machine.store, conn);
    }

    /// The client will send no more. The replica answers its requests, except waits; then the output says to close.
    pub fn end_of_stream(&mut self, conn: Conn) {
        self.mesh.gone(&mut self.desk.sessions, conn);
        self.desk.end(&mut self.machine.store, conn);
    }

    /// Takes received bytes; `bytes` begins where the last call stopped.
    pub fn receive(&mut self, conn: Conn, bytes: &[u8]) -> Receipt {
        if let Some(receipt) = self.preamble(conn, bytes) {
            return receipt;
        }
        if self.is_peer(conn) {
            return self.receive_peer(conn, bytes);
        }
        if !self.open {
            self.stalled.push(conn);
            self.desk.sessions.pause(conn, Pause::Room);
            return Receipt { consumed: 0, then: Then::Paused };
        }
        let mut consumed = 0;
        loop {
            match self.desk.sessions.get(conn) {
                None => return Receipt { consumed, then: Then::Close },
                Some(session) if session.delayed => {
                    self.desk.sessions.pause(conn, Pause::Secret);
                    return Receipt { consumed, then: Then::Paused };
                }
                Some(session) if session.full() || !session.deferred.is_empty() => {
                    self.desk.sessions.pause(conn, Pause::Output);
                    return Receipt { consumed, then: Then::Paused };
                }
                Some(_) => {}
            }
            match frame::split(&bytes[consumed..]) {
                Ok(frame::Split::Partial { needed }) => {
                    return Receipt { consumed, then: Then::More { needed } };
                }
                Ok(frame::Split::Whole { body, consumed: size }) => {
                    let body = &bytes[consumed + body.start..consumed + body.end];
                    let request = Request::decode(body);
                    // By reference: moving the request out would copy it.
                    let Ok(request) = &request else {
                        self.end_of_stream(conn);
                        return Receipt { consumed, then: Then::Close };
                    };
                    match self.request(conn, request, body.len()) {
                        Taken::Yes => consumed += size,
                        Taken::NoTurn => return Receipt { consumed, then: Then::Paused },
                        Taken::NoRoom => {
                            self.stalled.push(conn);
                            self.desk.sessions.pause(conn, Pause::Room);
                            return Receipt { consumed, then: Then::Paused };
                        }
                    }
                }
                Err(_) => {
                    self.end_of_stream(conn);
                    return Receipt { consumed, then: Then::Close };
                }
            }
        }
    }

    /// Moves the output of a connection into `into`, which must be empty, or returns a piece of a large output, which other
    /// connections may share.
    pub fn next_output(&mut self, conn: Conn, into: &mut Vec<u8>) -> (Output, Bytes) {
        let output = self.desk.sessions.output(conn, into);
        if output.0 == Output::Send && !self.is_peer(conn) {
            self.stages.handed_out();
        }
        output
    }

    /// Moves the output of a connection into `into`, which must be empty. This copies pieces of a large output.
    pub fn output(&mut self, conn: Conn, into: &mut Vec<u8>) -> Output {
        let (output, piece) = self.next_output(conn, into);
        into.extend_from_slice(&piece);
        output
    }

    /// The output that was last taken has been sent.
    pub fn sent(&mut self, conn: Conn) {
        self.desk.sent(conn);
    }

    /// Moves the connections that have output, or must be closed, into `into`.
    pub fn take_dirty(&mut self, into: &mut Vec<Conn>) {
        self.desk.sessions.take_dirty(into);
    }

    /// Moves the paused connections that may continue into `into`.
    pub fn take_resumed(&mut self, into: &mut Vec<Conn>) {
        self.desk.sessions.take_resumed(into);
    }

    /// Returns the connection to close because of too much unsent output, if there is one. While answers wait for room, or the
    /// total exceeds [`limits::OUTPUT_MAX`], that is a connection whose client has taken nothing for long. If the total exceeds the
    /// limit and there is no such connection, it is the one with the most output.
    pub fn over_output_limit(&mut self) -> Option<Conn> {
        let sessions = &self.desk.sessions;
        let over = sessions.buffered() > limits::OUTPUT_MAX;
        // The search looks at all connections, and its result changes with the time.
        let looked = self.looked_ms == Some(self.now_ms);
        let stuck = if over || self.desk.is_crowded() && !looked { sessions.stuck() } else { None };
        if stuck.is_none() {
            self.looked_ms = Some(self.now_ms);
        }
        if over { stuck.or_else(|| sessions.fattest()) } else { stuck }
    }

    // ---- the turn ----

    /// Ends a turn of the loop: carries out, or sends on its way, everything that the turn brought.
    pub fn turn(&mut self) {
        self.stages.end_turn();
        self.desk.begin_turn();
        self.applies = limits::APPLY_TURN;
        self.desk.run_matches(&mut self.machine.store);
        self.desk.run_scans(&mut self.machine.store);
        self.desk.run_answers(&mut self.machine.store);
        self.desk.wake(&mut self.machine.store);
        self.desk.run_cancels(&mut self.machine.store);
        self.machine.store.drop_more();
        self.advance();
        self.watch_leader();
        self.introduce();
        if faults::is_armed(Fault::SyncNotAsked)
            || (faults::is_armed(Fault::SyncOfLeaderNotAsked) && self.group.leads())
        {
            self.reading.push_back((self.group.applied(), std::mem::take(&mut self.syncs)));
        }
        if !self.open && (self.serving() || self.is_stuck()) {
            self.open = true;
            self.resume_stalled();
        }
        if !self.syncs.is_empty() && !self.closed && self.leader().is_some() {
            let context = self.next_context;
            self.next_context += 1;
            self.group.read_index(self.origin, context);
            self.asked.push_back((context, self.now_ms, std::mem::take(&mut self.syncs)));
        }
        self.send_mutations();
        self.send_chunks();
        self.see_to_receiving();
        self.advance();
        self.see_to_readiness();
        self.tell_leader();
    }

    /// Sends the gathered mutations on their way: into this node's log if it leads, otherwise to the leader.
    fn send_mutations(&mut self) {
        let (now, term) = (self.now_ms, self.group.term());
        if self.group.leads() {
            self.forward.lead(term, &self.machine);
            // One batch is written at a time; meanwhile the next one fills.
            if self.writing {
                return;
            }
            if self.forward.is_open()
                && let Some(batch) = self.gather.take()
            {
                self.gather.reserve(batch.len());
                let next = self.pending_first + self.pending.len() as u64;
                self.stages.gathered(next, self.pending.len() as u64, true);
                let batch = bytes::Bytes::from(batch);
                self.forward.keep(batch.clone(), now);
                self.forward.take(batch, &self.machine);
                self.resume_stalled();
            }
            let (group, log, stages) = (&mut self.group, &self.log, &mut self.stages);
            self.forward.propose(|batch| {
                let room = log.can_accept(requests::RECORDS, batch.len() + requests::GATHER_OVERHEAD);
                let taken = room && group.propose(batch);
                if taken {
                    stages.proposed();
                }
                taken
            });
        } else if let Some(leader) = self.leader().filter(|leader| *leader != self.config.raft_id) {
            let (mesh, sessions) = (&mut self.mesh, &mut self.desk.sessions);
            let mut send = |batch: &bytes::Bytes| {
                let frame = crate::wire::peer::Frame::Forward(batch);
                mesh.send(sessions, leader, |route, out| crate::wire::peer::encode(route, &frame, out))
            };
            let patience = 2 * self.config.election_ms;
            let mut arrives = true;
            for batch in self.forward.follow(leader, term, now, patience) {
                arrives &= send(batch);
            }
            if arrives
                && self.forward.is_open()
                && let Some(batch) = self.gather.take()
            {
                self.gather.reserve(batch.len());
                let next = self.pending_first + self.pending.len() as u64;
                self.stages.gathered(next, self.pending.len() as u64, false);
                self.forward.keep(batch.into(), now);
                if let Some(batch) = self.forward.last() {
                    arrives = send(batch);
                }
                self.resume_stalled();
            }
            if !arrives {
                self.forward.lost();
            }
        }
    }

    /// Returns whether there is work for another turn although nothing happens.
    pub fn has_work(&self) -> bool {
        self.desk.has_work()
            || self.machine.store.has_pending_matches()
            || self.machine.store.has_woken()
            || self.machine.store.has_dropped()
            || self.group.has_committed()
            || self.sending.iter().any(Sending::wants_slice)
    }

    /// Runs raft until it has nothing more to do. Entries for which the turn has no time stay unapplied: a node that has fallen
    /// behind may have very many.
    fn advance(&mut self) {
        loop {
            self.group.pump(&mut Staging(&mut self.log));
            self.send_messages();
            if let Some((index, _)) = self.group.take_installed() {
                self.install(index);
            }
            let mut applied = false;
            while self.applies > 0
                && let Some(entry) = self.group.next_committed()
            {
                let work = self.apply(&entry) + entry.data.len() / limits::APPLY_BYTES;
                self.applies = self.applies.saturating_sub(work.max(1));
                applied = true;
            }
            if applied {
                self.forward.applied(self.pending_first - 1, self.now_ms);
                let alone = self.machine.members.nodes().len() <= 1;
                let keep = if alone { self.keep.min(limits::BATCH_SOFT) } else { self.keep };
                let hold = self.hold();
                self.group.applied_all(keep, hold);
            }
            for (context, index) in self.group.take_read_states(self.origin) {
                self.learn_committed(context, index);
                while let Some((asked, _, syncs)) = self.asked.pop_front_if(|(c, ..)| *c <= context) {
                    if asked == context {
                        self.reading.push_back((index, syncs));
                    } else {
                        self.syncs.extend(syncs);
                    }
                }
            }
            let now = self.group.applied();
            while let Some((_, syncs)) = self.reading.pop_front_if(|(index, _)| *index <= now) {
                for (conn, tag) in syncs {
                    let rev = Some(self.machine.store.revision());
                    self.desk.answered(conn, &Response { tag, rev, ..Response::default() });
                }
            }
            if self.disk_stuck {
                self.refuse_syncs();
            }
            if !applied && !self.group.has_more() {
                break;
            }
        }
    }

    /// Applies an entry, and returns the work of its commands.
    fn apply(&mut self, entry: &Entry) -> usize {
        if let Some(change) = change_of(entry) {
            self.apply_change(&change);
            return 1;
        }
        // A new leader's first entry is empty, and so is a change of the members that raft has dropped.
        if entry.get_entry_type() != EntryType::EntryNormal || entry.data.is_empty() {
            return 0;
        }
        self.stages.committed();
        let Replica { machine, desk, pending, pending_first, gather, origin, mesh, config, .. } = self;
        let outcome = machine.apply(&entry.data, |store, from, seq, outcome| {
            if from == *origin {
                if faults::is_armed(Fault::AnswersSwapped) && pending.len() > 1 {
                    pending.swap(0, 1);
                }
                if let Some(own) = pending.pop_front() {
                    assert_eq!(seq, *pending_first, "own mutations come back in order");
                    match own.asker {
                        Asker::Joiner(conn) => requests::welcome(mesh, &mut desk.sessions, conn, config, outcome),
                        Asker::Client { conn, tag, answer_rev } => answer(desk, conn, tag, answer_rev, outcome),
                        Asker::Own => {}
                    }
                } else {
                    // Somebody else wrote in this node's name. The number is used up, and nobody waits for the outcome.
                    gather.skip_to(seq + 1);
                }
                *pending_first = seq + 1;
            }
            desk.wake(store);
        });
        let work = outcome.unwrap_or_else(|e| panic!("entry {}: {e}", entry.index));
        self.stages.applied(self.pending_first);
        work
    }

    // ---- time ----

    /// Sets the time, in milliseconds since some fixed moment. Call it every [`Config::heartbeat_ms`].
    pub fn tick(&mut self, now_ms: u64) {
        let tick_ms = self.config.heartbeat_ms;
        // The tick after a hold-up counts as one tick, not as all those that were missed. Frames that came meanwhile are still
        // unread, so no peer counts as silent for that time.
        let passed = now_ms.saturating_sub(self.now_ms);
        let stalled = if passed > 4 * tick_ms { passed - tick_ms } else { 0 };
        self.now_ms = now_ms;
        self.desk.tick(&mut self.machine.store, now_ms);
        self.see_to_strangers(if self.open { stalled } else { passed });
        for heard in self.heard.values_mut() {
            *heard += stalled;
        }
        self.disk.stalled(stalled);
        self.quorum_stalled(stalled);
        if now_ms / tick_ms > self.ticks {
            self.ticks = now_ms / tick_ms;
            self.mesh.tick(&mut self.desk.sessions, &self.machine.members, now_ms, stalled);
            let seen = self.machine.seen().get(&self.config.raft_id).map_or(0, |seen| seen.epoch);
            if seen > self.config.epoch && !faults::is_armed(Fault::EpochReused) {
                self.fate.get_or_insert(Fate::Restart);
            }
            if self.mesh.is_retired(&self.machine.members) {
                self.fate = Some(Fate::Rejoin);
            }
            self.group.tick();
            self.watch_leader();
            self.watch_disks();
            self.watch_quorum();
            self.see_to_members();
            self.see_to_sending();
            while let Some((_, _, syncs)) =
                self.asked.pop_front_if(|(_, at, _)| now_ms.saturating_sub(*at) >= self.config.election_ms)
            {
                self.syncs.extend(syncs);
            }
        }
        if self.config.pulse_ms > 0 && now_ms >= self.next_pulse_ms && self.serving() {
            self.next_pulse_ms = now_ms.saturating_add(self.config.pulse_ms);
            let path = format!("/ctl/node/{}/applied", self.config.id);
            let rev = self.machine.store.revision().to_string();
            if !self.is_closed() && self.gather.fits(path.len(), rev.len(), limits::BATCH_SOFT) {
                self.put(&path, &rev);
            }
        }
    }

    /// Closes the strangers whose time is over. `unserved` is the time since the last tick in which this node served nobody.
    fn see_to_strangers(&mut self, unserved: u64) {
        let now = self.now_ms;
        self.desk.sessions.postpone_strangers(unserved);
        let expired = self.desk.sessions.expire_strangers();
        if expired > 0 && self.expired.count(now, expired) {
            self.lines.push(format!(
                "closed a new connection: it neither presented a secret nor proved to be a node within {} s",
                limits::STRANGER_MS / 1_000
            ));
        }
        let (expired, guesses) = (self.expired.tick(now), self.guesses.tick(now));
        self.lines.extend(expired.map(|(n, within)| {
            format!(
                "closed {n} more connections within {within} s that neither presented a secret nor proved to be a node"
            )
        }));
        self.lines.extend(guesses.map(|(n, within)| {
            format!("clients presented {n} more wrong secrets within {within} s; each connection waits longer after each of them")
        }));
    }

    // ---- the log ----

    /// Returns whether there is something to write to the log and no write is under way.
    pub fn has_write(&self) -> bool {
        !self.writing && self.log.staged()
    }

    /// Returns the next write of the log; one at a time.
    pub fn next_write(&mut self) -> Option<log::Write> {
        let write = self.log.next_write()?;
        self.stages.submitted(write.blocks.len());
        self.writing = true;
        self.disk.begin(Work::Write, self.now_ms);
        Some(write)
    }

    /// A write is durable.
    pub fn written(&mut self, write: log::Write) {
        self.stages.written();
        let durable = self.log.written(write);
        self.writing = false;
        self.disk_has_done(Work::Write);
        self.group.persisted(durable);
        // The segment that was being sealed may have had no room for them.
        self.resume_stalled();
    }

    /// The disk has finished some work. If writes waited only for that, they are accepted again at once.
    fn disk_has_done(&mut self, work: Work) {
        self.disk.end(work, self.now_ms);
        self.disk_stuck &= self.disk.is_stuck(self.now_ms);
    }

    /// Returns whether a segment must be made ready: see [`Replica::next_prepare`].
    pub fn wants_segment(&self) -> bool {
        self.log.is_segment_missing()
    }

    /// Returns a segment to make ready for the time when the current one is full.
    pub fn next_prepare(&mut self) -> Option<log::Prepare> {
        let prepare = self.log.wants_segment();
        if prepare.is_some() {
            self.disk.begin(Work::Segment, self.now_ms);
        }
        prepare
    }

    /// The segment of a generation is ready, durably.
    pub fn prepared(&mut self, generation: u64) {
        self.disk_has_done(Work::Segment);
        self.log.prepared(generation);
        self.resume_stalled();
    }

    /// A segment could not be made ready, because there is no space.
    pub fn prepare_failed(&mut self, generation: u64) {
        self.disk_has_done(Work::Segment);
        self.log.prepare_failed(generation);
        self.resume_stalled();
    }

    /// Allows another attempt to make a segment ready.
    pub fn retry_prepare(&mut self) {
        self.log.retry_segment();
    }

    /// Returns the space to leave for the next snapshot when a segment is made, in bytes.
    pub fn snapshot_estimate(&self) -> u64 {
        self.snapshots.estimate()
    }

    /// Returns whether the log is so full that this server cannot even be elected. It can serve reads, because it has everything
    /// that it acknowledged, but no writes.
    pub fn is_stuck(&self) -> bool {
        self.is_alone() && self.has_write() && self.log.room() == log::Room::Full && !self.group.leads()
    }

    /// Returns files that the log no longer needs.
    pub fn take_removals(&mut self) -> Vec<String> {
        let mut removals = self.log.take_removals();
        removals.append(&mut self.removals);
        removals
    }

    fn resume_stalled(&mut self) {
        for conn in std::mem::take(&mut self.stalled) {
            self.desk.sessions.resume(conn, Pause::Room);
        }
    }

    // ---- snapshots ----

    /// Returns whether a snapshot must be written, because one is due or being received: see [`Replica::begin_snapshot`].
    pub fn wants_snapshot(&self) -> bool {
        self.snapshots.wants_writing() || self.is_snapshot_due()
    }

    fn is_snapshot_due(&self) -> bool {
        // Another snapshot of the same state would not shorten the log.
        self.arrived.is_none()
            && self.group.applied() > self.snapshots.last()
            && self.snapshots.is_due(self.log.bytes_since(self.snapshots.last()), self.log.needs_release())
    }

    /// Begins a snapshot if one is due or being received, and returns whether it did. The shell then writes all of
    /// [`Replica::next_snapshot_part`] to a file named [`Replica::snapshot_name`], and reports [`Replica::snapshot_done`] or
    /// [`Replica::snapshot_failed`].
    pub fn begin_snapshot(&mut self) -> bool {
        if self.is_snapshot_due() {
            let (mut index, term) = (self.group.applied(), self.group.applied_term());
            if faults::is_armed(Fault::SegmentsReleasedEarly) {
                self.log.release(index);
            }
            if faults::is_armed(Fault::SnapshotIndexTooHigh) {
                index += 1;
            }
            self.snapshots.begin(&mut self.machine, &self.config.node, index, term);
        }
        self.snapshots.take_in_hand()
    }

    /// Returns whether the snapshot must be finished soon: the log after it grows faster than it, or is full.
    pub fn is_snapshot_urgent(&self) -> bool {
        let log = self.log.bytes_since(self.snapshots.last());
        self.snapshots.is_overdue(log) || self.log.needs_release()
    }

    /// Returns the name of the current snapshot's file.
    pub fn snapshot_name(&self) -> String {
        self.snapshots.name()
    }

    /// Returns the next part of the current snapshot.
    pub fn next_snapshot_part(&mut self) -> snapshot::Part {
        let part = self.snapshots.next_part(&mut self.machine.store);
        if matches!(part, snapshot::Part::Write(_) | snapshot::Part::Nothing) {
            self.disk.begin(Work::Snapshot, self.now_ms);
        }
        part
    }

    /// A part is written, but not durable yet.
    pub fn snapshot_part_written(&mut self, part: log::SnapshotWrite) {
        self.disk_has_done(Work::Snapshot);
        self.snapshots.written(part);
    }

    /// The snapshot is durable under its name. Returns the name of a file that is no longer needed.
    pub fn snapshot_done(&mut self) -> Option<String> {
        self.disk_has_done(Work::Snapshot);
        let old = self.snapshots.done(&mut self.machine.store);
        self.log.release(self.snapshots.last());
        self.arrive();
        old
    }

    /// Reports that the snapshot could not be written because there is no space. Returns true if it was this node's own snapshot. A
    /// received one is reported to its sender, and comes again when there is room: see [`Replica::needs_room`].
    pub fn snapshot_failed(&mut self) -> bool {
        self.disk_has_done(Work::Snapshot);
        let received = self.snapshots.receiving().map(|receiving| (receiving.from, receiving.transfer));
        let written = self.snapshots.failed(&mut self.machine.store);
        if let Some((from, transfer)) = received {
            self.no_room_for_received(from, transfer, written);
        }
        received.is_none()
    }

    /// Returns the output that waits or is being sent, in bytes.
    pub fn buffered(&self) -> usize {
        self.desk.sessions.buffered()
    }

    /// Returns the work that is not finished.
    pub fn unfinished(&self) -> Unfinished {
        Unfinished {
            writing: self.writing,
            mutations: self.pending.len(),
            leads: self.is_to_hand_over(),
            // Answers that are not composed yet count as output.
            output: self.buffered().max(usize::from(self.owes_answers())),
            applied: self.group.applied(),
            term: self.group.term(),
        }
    }

    /// Returns whether nothing is unfinished: no write of the log, no client's mutation, no answer to a client that reads, no
    /// hand-over, and no wait for members that are catching up.
    pub fn is_quiet(&self) -> bool {
        !self.writing
            && self.pending.is_empty()
            && self.gather.is_empty()
            && !self.is_to_hand_over()
            && !self.owes_answers()
            && !self.awaits_others()
    }

    /// Returns whether clients that read are owed answers that are not composed yet.
    fn owes_answers(&self) -> bool {
        self.desk.owes_answers() || self.machine.store.has_woken()
    }
}

/// The log, in which raft's readies are staged.
struct Staging<'a>(&'a mut Log);

impl Persist for Staging<'_> {
    fn entry(&mut self, entry: &Entry) {
        let kind = match entry.get_entry_type() {
            EntryType::EntryNormal => 0,
            EntryType::EntryConfChange => 1,
            EntryType::EntryConfChangeV2 => 2,
        };
        self.0.append_entry(entry.index, entry.term, kind, &entry.data);
    }

    fn restart(&mut self, index: u64, term: u64) {
        self.0.restart(index, term);
    }

    fn hard_state(&mut self, state: &HardState) {
        self.0.append_hard_state(state.term, state.vote, state.commit);
    }

    fn position(&self) -> Position {
        self.0.position()
    }

    fn durable(&self) -> log::Durable {
        self.0.durable()
    }
}

#[cfg(test)]
mod tests;
