//! The mesh: links to the other nodes, and the frames on them.
//!
//! Every node keeps a link to every other node. A link is a connection to the port that clients use; a node without a link to a
//! peer dials it. Both sides say who they are. If they belong to different clusters, the link is refused, and both sides log why.
//! Each node tells its peers which links it has ([`routes`](super::routes)), and a frame for a node without a direct link travels
//! the shortest path. So raft and the forwarded writes see a full network as long as the nodes are connected at all.
//!
//! Invariants:
//! * a link is up only when the other side has heard this one: the first frames on an accepted connection may be old, sent before
//!   this node began to run, and their sender may have given the connection up;
//! * a peer has at most one link: of two that were dialed at the same time, both sides keep the one that the smaller id dialed; of
//!   two that the same side dialed, the later one;
//! * a peer that has been silent for [`Timing::silence_ms`] counts as lost, and its link is closed;
//! * a node is known by its id, never by its address: the node that answers at an address says who it is. This node remembers where
//!   it reached a peer, and dials that address as well as the advertised one;
//! * consistency needs nothing of this: any frame may be lost, duplicated or late.

use std::collections::{BTreeMap, BTreeSet};

use super::handshake::{Challenges, Handshake, Key};
use super::members::{Member, Members};
use super::routes::Routes;
use super::session::{Conn, Sessions};
use super::strangers::Refused;
use crate::faults::{self, Fault};
use crate::limits;
use crate::log::NodeId;
use crate::wire::peer::{self, Frame, Hello, Links, PREAMBLE, Refusal, Route, VERSION};

/// A node's log has no room.
pub const FLAG_FULL: u8 = 1;
/// A node is about to stop.
pub const FLAG_LEAVING: u8 = 2;
/// The node has no room for the leader's snapshot. (A version that does not know this flag considers the node unfit to lead.)
pub const FLAG_NO_ROOM: u8 = 4;
/// The node has not caught up since its start.
pub const FLAG_BEHIND: u8 = 8;
/// The node's disk does not finish a write.
pub const FLAG_STUCK: u8 = 16;

/// Time between two attempts to dial a node.
const DIAL_PAUSE_MS: u64 = 250;
/// The same for an address whose node is unknown, while there are links to others.
const SEED_PAUSE_MS: u64 = 1_000;
/// The same after it has refused.
const REFUSED_PAUSE_MS: u64 = 2_000;
/// Time after which the log says that a node without a direct link is relayed; a link that is being dialed comes sooner.
const RELAY_SAID_MS: u64 = 2_000;
/// Time after which the log says that another node claims this node's address: what is known of a node that moves is old for a
/// moment.
const RIVAL_SAID_MS: u64 = 2_000;
/// Nodes of which it is remembered what was said about them last.
const TOLD_MAX: usize = 1_000;
/// Addresses from earlier starts that are kept although no node has answered there since.
const EARLIER_MAX: usize = 16;
/// The key for the report that another node claims this one's address; it is neither an address nor an id.
const RIVAL: &str = " rival";
/// Reports of a node about its links that are passed on between two ticks; of further ones the last is, at the next tick.
const REPORTS_TICK: u32 = 8;
/// Unsent output of a link beyond which reports of other nodes wait for a later tick.
const REPORTS_OUTPUT: usize = 1 << 20;
/// Time for which a node that has violated the protocol gets no link.
const SHUNNED_MS: u64 = 2_000;
/// Time after which a few nodes are believed that this node was taken out of the cluster, if no member denies it with a link.
const RETIRED_MS: u64 = 10_000;
/// Time between two repetitions of the frame that says which links there are; each change is sent at once.
const REPEAT_MS: u64 = 2_000;

/// Who this node is to its peers.
#[derive(Clone, Debug)]
pub struct Me {
    /// Its own id.
    pub node: NodeId,
    /// Its raft id.
    pub raft_id: u64,
    /// The number of this boot.
    pub epoch: u64,
    /// A random number of this boot.
    pub life: u64,
    /// How many times the node has set its data aside.
    pub incarnation: u64,
    /// The cluster's id.
    pub cluster_id: u64,
    /// The cluster's name.
    pub cluster: String,
    /// The secret that admits a node to the cluster; `None` if any node is admitted.
    pub key: Option<Key>,
    /// The address that the node advertises.
    pub addr: String,
}

/// Limits for silent links.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A link on which nothing was sent for this long, in milliseconds, gets a sign of life.
    pub ping_ms: u64,
    /// A link on which nothing came for this long, in milliseconds, is closed.
    pub silence_ms: u64,
}

/// The result of a frame.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// Nothing more to do.
    Done,
    /// End the link.
    End,
    /// A node wants to be registered.
    Join {
        /// Its own id.
        node: NodeId,
        /// How many times the node has set its data aside.
        incarnation: u64,
        /// The address that the node advertises.
        addr: &'a str,
    },
    /// A frame for this node, from the one with this raft id.
    Deliver(u64, Frame<'a>),
    /// This node was taken out of the cluster and must give up its raft id.
    Retired,
}

#[derive(Debug)]
struct Link {
    /// The node at the other end, once it has said who it is.
    peer: Option<Peer>,
    /// The address that was dialed, if this side did.
    dialed: Option<String>,
    /// True if the other side has said who it is, but has not shown yet that it has heard this one.
    unproven: bool,
    /// True if the other side has asked to be registered.
    joins: bool,
    /// True if the other side has refused the link.
    refused: bool,
    /// The handshake, until it is over; `None` without a secret.
    handshake: Option<Box<Handshake>>,
    opened_ms: u64,
    heard_ms: u64,
    sent_ms: u64,
}

impl Link {
    fn is_known(&self) -> bool {
        self.peer.is_some() || self.dialed.is_some()
    }
}

#[derive(Clone, Debug)]
struct Peer {
    raft_id: u64,
    node: NodeId,
    /// The peer's boot: a random number, and how many times the node was started.
    life: u64,
    epoch: u64,
    addr: String,
}

impl Peer {
    fn name(&self) -> String {
        format!("{} (raft id {}, {})", self.node.escape_ascii(), self.raft_id, self.addr)
    }
}

/// This node's links to the other nodes.
#[derive(Debug)]
pub struct Mesh {
    me: Me,
    challenges: Challenges,
    timing: Timing,
    links: BTreeMap<Conn, Link>,
    /// The link of each peer.
    up: BTreeMap<u64, Conn>,
    routes: Routes,
    flags: u8,
    /// The addresses that peers advertise.
    addresses: BTreeMap<u64, String>,
    /// Addresses where others may be: those from the operator, and those known from an earlier start.
    seeds: Vec<String>,
    /// Those of them that are known from an earlier start.
    earlier: Vec<String>,
    /// The raft id of the node that answered at each address that this node dialed. With address translation in between, a peer may
    /// be reachable here, and not at the address that it advertises.
    answered: BTreeMap<String, u64>,
    /// Seeds whose node is unknown, and that are dialed although there are links to others.
    hopes: BTreeSet<String>,
    /// When an address may be dialed again; `u64::MAX` while it is being dialed.
    dials: BTreeMap<String, u64>,
    to_dial: Vec<String>,
    /// The last line about each address, so that the log says it once.
    told: BTreeMap<String, String>,
    /// Reports of nodes about their links, since the last tick; and those that wait for the next one, with the connections on which they
    /// came.
    reports: BTreeMap<u64, u32>,
    late_reports: BTreeMap<u64, (Links, Conn)>,
    /// Nodes that have violated the protocol, and until when they get no link.
    shunned: BTreeMap<NodeId, u64>,
    /// Voters, by raft id, that say that this node was taken out of the cluster, and since when any node says so.
    retired_by: BTreeSet<u64>,
    retired_since: Option<u64>,
    /// The same about nodes and strangers that were refused a link. Strangers may fill this table, but not the other one.
    refused: Refused,
    /// Dialed addresses where the connection was closed without an answer to the challenge, and how many times in a row.
    mute: BTreeMap<String, u32>,
    /// When another node was first found to claim this node's address.
    rival_since: Option<u64>,
    /// For each relayed node: through which node, since when, and whether the log says so.
    relayed: BTreeMap<u64, (u64, u64, bool)>,
    lines: Vec<String>,
    now_ms: u64,
    repeated_ms: u64,
}

impl Mesh {
    /// A node without links. `given` are the addresses from the operator, `earlier` those known from an earlier start.
    pub fn new(me: Me, challenges: Challenges, timing: Timing, given: &[String], earlier: Vec<String>) -> Mesh {
        Mesh {
            challenges,
            routes: Routes::new(me.raft_id, me.epoch),
            me,
            timing,
            links: BTreeMap::new(),
            up: BTreeMap::new(),
            flags: 0,
            addresses: BTreeMap::new(),
            seeds: given.iter().chain(&earlier).cloned().collect(),
            earlier,
            answered: BTreeMap::new(),
            hopes: BTreeSet::new(),
            dials: BTreeMap::new(),
            to_dial: Vec::new(),
            told: BTreeMap::new(),
            reports: BTreeMap::new(),
            late_reports: BTreeMap::new(),
            shunned: BTreeMap::new(),
            retired_by: BTreeSet::new(),
            retired_since: None,
            refused: Refused::default(),
            mute: BTreeMap::new(),
            rival_since: None,
            relayed: BTreeMap::new(),
            lines: Vec::new(),
            now_ms: 0,
            repeated_ms: 0,
        }
    }

    /// Returns whether a path of links leads to a node.
    pub fn reaches(&self, raft_id: u64) -> bool {
        self.routes.reaches(raft_id)
    }

    /// Returns the last boot that a node has announced; 0 if none is known. What it says on its own link counts before what others
    /// pass on.
    pub fn epoch(&self, raft_id: u64) -> u64 {
        let peer = self.up.get(&raft_id).and_then(|conn| self.peer_of(*conn));
        peer.map_or_else(|| self.routes.epoch(raft_id), |peer| peer.epoch)
    }

    /// Returns the peer at the other end of a connection, once it has said who it is.
    fn peer_of(&self, conn: Conn) -> Option<&Peer> {
        self.links.get(&conn)?.peer.as_ref()
    }

    /// Returns whether a report that came on this connection is the node's own word.
    fn is_own_word(&self, came: Conn, node: u64) -> bool {
        self.peer_of(came).is_some_and(|peer| peer.raft_id == node)
    }

    /// Returns whether a node speaks for itself here, on a link on which it was heard lately. Then nobody passes on its frames.
    fn speaks_for_itself(&self, raft_id: u64) -> bool {
        let link = self.up.get(&raft_id).and_then(|conn| self.links.get(conn));
        link.is_some_and(|link| self.now_ms.saturating_sub(link.heard_ms) < self.timing.silence_ms / 2)
    }

    /// A frame in the name of a node violates the protocol. Returns whether the link on which the frame came must end: a node that
    /// passes on a frame has not read it.
    pub fn accuse(&mut self, members: &Members, conn: Conn, from: u64, what: impl std::fmt::Display) -> bool {
        let Some(peer) = self.peer_of(conn) else { return true };
        let (node, through, is_direct) = (peer.node, peer.name(), peer.raft_id == from);
        let name = self.name(members, from);
        if is_direct {
            self.shunned.insert(node, self.now_ms + SHUNNED_MS);
        }
        let line = if is_direct {
            format!("closed the link to {name}: it sent {what}; does it run this program?")
        } else {
            format!("dropped a frame in the name of {name}, which came through {through}: {what}")
        };
        self.tell_of_stranger(&format!("raft id {from}"), line);
        is_direct
    }

    /// Returns the flags of a node: [`FLAG_FULL`], [`FLAG_LEAVING`], [`FLAG_NO_ROOM`], [`FLAG_BEHIND`], [`FLAG_STUCK`].
    pub fn flags(&self, raft_id: u64) -> u8 {
        self.routes.flags(raft_id)
    }

    /// Adds a line that contains the name of another node.
    pub fn note(&mut self, line: String) {
        self.lines.push(line);
    }

    /// Takes the lines for the operator. All of them contain words of other nodes.
    pub fn take_lines(&mut self) -> impl Iterator<Item = String> {
        self.lines.drain(..)
    }

    /// Takes the addresses to dial; the caller reports the outcome with [`Mesh::dialed`] or [`Mesh::not_dialed`].
    pub fn take_dials(&mut self, into: &mut Vec<String>) {
        into.append(&mut self.to_dial);
    }

    // ---- connections ----

    /// A dialed connection is open.
    pub fn dialed(&mut self, sessions: &mut Sessions, conn: Conn, addr: &str) {
        self.open(conn, Some(addr.to_owned()));
        sessions.append(conn, |out| out.extend_from_slice(&PREAMBLE));
        self.begin_greeting(sessions, conn);
    }

    /// An address could not be dialed.
    pub fn not_dialed(&mut self, addr: &str, why: &str) {
        let pause = if self.hopes.contains(addr) { SEED_PAUSE_MS } else { DIAL_PAUSE_MS };
        self.dials.insert(addr.to_owned(), self.now_ms + pause);
        self.tell(addr, &format!("cannot reach the node at {addr}: {why}; trying again"));
    }

    /// Returns whether the other side of this connection is a node that may be linked with: this node dialed it, or it has said who it
    /// is, with the secret of this cluster.
    pub fn knows(&self, conn: Conn) -> bool {
        self.links.get(&conn).is_some_and(Link::is_known)
    }

    /// Returns how many connections such nodes have.
    pub fn connections(&self) -> usize {
        self.links.values().filter(|link| link.is_known()).count()
    }

    /// A peer has connected.
    pub fn accepted(&mut self, conn: Conn) {
        self.open(conn, None);
    }

    fn open(&mut self, conn: Conn, dialed: Option<String>) {
        let now = self.now_ms;
        let handshake = self.new_handshake(dialed.is_some());
        let link = Link {
            peer: None,
            dialed,
            unproven: false,
            joins: false,
            refused: false,
            handshake,
            opened_ms: now,
            heard_ms: now,
            sent_ms: now,
        };
        self.links.insert(conn, link);
    }

    /// The other side has closed the connection, or it broke.
    pub fn gone(&mut self, sessions: &mut Sessions, conn: Conn) {
        let peer = self.links.get(&conn).and_then(|link| link.peer.as_ref());
        let leaves = peer.is_some_and(|peer| self.flags(peer.raft_id) & FLAG_LEAVING != 0);
        self.note_mute(conn);
        self.lose(sessions, conn, if leaves { "that node was told to stop" } else { "the other side closed it" });
    }

    /// Forgets a link.
    fn lose(&mut self, sessions: &mut Sessions, conn: Conn, why: &str) {
        let Some(link) = self.links.remove(&conn) else { return };
        if let Some(addr) = &link.dialed {
            let pause = self.dials.entry(addr.clone()).or_insert(0);
            *pause = if *pause == u64::MAX || *pause < self.now_ms { self.now_ms + DIAL_PAUSE_MS } else { *pause };
        }
        let Some(peer) = link.peer.filter(|peer| self.up.get(&peer.raft_id) == Some(&conn)) else { return };
        self.up.remove(&peer.raft_id);
        // Of two links dialed at the same time, the other side may have closed one before it used the other.
        let same = |of: &Peer| (of.raft_id, of.life) == (peer.raft_id, peer.life);
        let usable = |link: &Link| link.unproven && link.handshake.is_none();
        let other = self.links.iter().find(|(_, link)| usable(link) && link.peer.as_ref().is_some_and(same));
        if let Some(other) = other.map(|(conn, _)| *conn) {
            return self.take_up(sessions, other, &peer);
        }
        self.lines.push(format!("link to {} is lost: {why}", peer.name()));
        // Dial at once after losing a link: the other node may be back.
        if !link.refused {
            self.dials.insert(peer.addr.clone(), self.now_ms);
        }
        self.changed(sessions);
    }

    /// Returns whether the other side has said who it is, and belongs to the cluster.
    pub fn is_greeted(&self, conn: Conn) -> bool {
        self.links.get(&conn).and_then(|link| link.peer.as_ref()).is_some_and(|peer| peer.raft_id != 0)
    }

    /// Sends a frame to the node at the other end of a link.
    pub fn say(&mut self, sessions: &mut Sessions, conn: Conn, frame: &Frame<'_>) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.sent_ms = self.now_ms;
            let route = Route { from: self.me.raft_id, to: 0, hops: 0 };
            sessions.append(conn, |out| peer::encode(route, frame, out));
        }
    }

    /// Refuses a link; the reason is the last frame sent on it, and nothing more is read from it.
    pub fn refuse(&mut self, sessions: &mut Sessions, conn: Conn, reason: Refusal, detail: &str) {
        self.say(sessions, conn, &Frame::Refuse { reason, detail });
        self.lose(sessions, conn, "this node refused it");
        sessions.end(conn);
    }

    // ---- frames ----

    /// Takes a whole frame that came on a link.
    pub fn frame<'a>(
        &mut self,
        sessions: &mut Sessions,
        members: &Members,
        conn: Conn,
        bytes: &'a [u8],
    ) -> Outcome<'a> {
        let Some(link) = self.links.get_mut(&conn) else { return Outcome::End };
        link.heard_ms = self.now_ms;
        if link.handshake.is_some() || link.peer.is_none() {
            return self.greeting(sessions, members, conn, bytes);
        }
        let from = link.peer.as_ref().map(|p| p.raft_id);
        let me = self.me.raft_id;
        if link.unproven
            && let Some(peer) = link.peer.clone()
        {
            let Ok(received) = peer::decode(bytes) else { return Outcome::End };
            // A node that refuses this side has heard it too, but there will be no link.
            if !matches!(received.frame, Frame::Refuse { .. }) && !self.come_up(sessions, conn, &peer) {
                return Outcome::Done;
            }
        }
        // A frame for another node is passed on unread, once it is known to be whole.
        let route = peer::route(bytes);
        // The peer itself has sent a frame, or passes it on for a node that does not speak for itself here.
        let is_credible = |mesh: &Mesh| {
            from == Some(route.from) || (route.hops < limits::HOPS_MAX && !mesh.speaks_for_itself(route.from))
        };
        if route.to != 0 && route.to != me && from.is_some_and(|id| id != 0) {
            if peer::decode(bytes).is_err() {
                return Outcome::End;
            }
            if is_credible(self) {
                self.relay(sessions, conn, route, bytes);
            }
            return Outcome::Done;
        }
        let Ok(received) = peer::decode(bytes) else { return Outcome::End };
        match (received.frame, from) {
            (Frame::Refuse { reason, detail }, _) => self.refused(sessions, members, conn, reason, detail),
            (Frame::Join { incarnation, addr }, Some(0)) => {
                let Some(link) = self.links.get_mut(&conn).filter(|link| !link.joins) else { return Outcome::End };
                let Some(peer) = &link.peer else { return Outcome::End };
                link.joins = true;
                Outcome::Join { node: peer.node, incarnation, addr }
            }
            (Frame::Ping, Some(_)) => Outcome::Done,
            (Frame::Links(links), Some(id)) if id != 0 => {
                if self.hear_links(sessions, members, conn, links) {
                    Outcome::Done
                } else {
                    Outcome::End
                }
            }
            (
                frame @ (Frame::Raft(_)
                | Frame::Forward(_)
                | Frame::Chunk { .. }
                | Frame::ChunkAck { .. }
                | Frame::ChunkFailed { .. }),
                Some(id),
            ) if id != 0 && route.to == me && route.from != me && route.from != 0 => {
                if is_credible(self) {
                    Outcome::Deliver(route.from, frame)
                } else {
                    Outcome::Done
                }
            }
            _ => Outcome::End,
        }
    }

    fn relay(&mut self, sessions: &mut Sessions, came: Conn, route: Route, bytes: &[u8]) {
        if faults::is_armed(Fault::RelayLoops) {
            if let Some(any) = self.up.values().copied().find(|conn| *conn != came && has_room(sessions, *conn)) {
                sessions.append(any, |out| out.extend_from_slice(bytes));
            }
            return;
        }
        let Some(next) = self.routes.next_hop(route.to).and_then(|hop| self.up.get(&hop)).copied() else { return };
        if next != came && has_room(sessions, next) {
            sessions.append(next, |out| {
                peer::relay(bytes, out);
            });
        }
    }

    /// A peer reports its own links, or passes on another node's report. Returns `false` if the peer lies about itself.
    fn hear_links(&mut self, sessions: &mut Sessions, members: &Members, came: Conn, links: Links) -> bool {
        let node = links.node;
        let is_direct = self.is_own_word(came, node);
        if is_direct && let Some(&Peer { epoch, raft_id, .. }) = self.peer_of(came) {
            if epoch != links.epoch {
                return false;
            }
            // A node that tells this one about its links has not taken it out.
            self.retired_by.remove(&raft_id);
            if self.retired_by.is_empty() && members.is_voter(raft_id) {
                self.retired_since = None;
            }
        }
        // A node that was away for long may know none of the others, but no more than a cluster can have.
        let is_known =
            |id: u64| members.nodes().contains_key(&id) || self.routes.others().any(|other| other.node == id);
        let strangers = self.routes.others().filter(|other| !members.nodes().contains_key(&other.node)).count();
        if links.peers.len() > limits::NODES_MAX
            || links.epoch > limits::EPOCH_MAX
            || (!is_known(node) && strangers >= limits::NODES_MAX)
            || (!is_direct && self.speaks_for_itself(node))
        {
            return true;
        }
        let reports = self.reports.entry(node).or_insert(0);
        *reports += 1;
        if *reports > REPORTS_TICK {
            self.late_reports.insert(node, (links, came));
        } else if self.routes.hear(links.clone(), is_direct) {
            self.pass_on(sessions, came, links);
        }
        true
    }

    /// Passes on what a node reports about its links to all peers but the one that it came from.
    fn pass_on(&mut self, sessions: &mut Sessions, came: Conn, links: Links) {
        let others: Vec<Conn> = self.up.values().copied().filter(|conn| *conn != came).collect();
        let mut is_late = false;
        for conn in others {
            if sessions.get(conn).is_some_and(|session| session.unsent() < REPORTS_OUTPUT) {
                self.say(sessions, conn, &Frame::Links(links.clone()));
            } else {
                is_late = true;
            }
        }
        if is_late {
            self.late_reports.insert(links.node, (links, came));
        }
    }

    /// Takes and passes on the reports that were too many for the last tick, or had no room.
    fn pass_on_late(&mut self, sessions: &mut Sessions) {
        self.reports.clear();
        for (node, (links, came)) in std::mem::take(&mut self.late_reports) {
            let is_direct = self.is_own_word(came, node);
            let is_now = self.routes.others().any(|known| *known == links);
            if is_now || self.routes.hear(links.clone(), is_direct) {
                self.pass_on(sessions, came, links);
            }
        }
    }

    /// Returns why a node with this greeting may not be linked with, if there is a reason.
    fn objection(&self, members: &Members, hello: &Hello<'_>) -> Option<(Refusal, String)> {
        let me = &self.me;
        let ours = format!("this is {} of cluster {}", me.node.escape_ascii(), me.cluster);
        if hello.version != VERSION {
            let version = hello.version;
            let detail = format!(
                "{ours}, which speaks version {VERSION} of the peer protocol, not {version}: run the same program everywhere"
            );
            return Some((Refusal::Version, detail));
        }
        if hello.node == me.node && hello.life != me.life {
            let detail =
                format!("{ours}: another process runs as this node, on a copy of its directory; stop one of them");
            return Some((Refusal::Unavailable, detail));
        }
        if hello.node == me.node {
            return Some((Refusal::Myself, format!("{ours}: a node needs no link to itself")));
        }
        if !is_address(hello.addr.as_bytes()) {
            return Some((Refusal::NotMember, format!("{ours}: where you say that you listen is no address")));
        }
        let known = hello.cluster_id != 0 || hello.raft_id != 0;
        if (known && hello.cluster_id != me.cluster_id) || (!hello.cluster.is_empty() && hello.cluster != me.cluster) {
            let detail = if hello.cluster == me.cluster {
                format!("{ours}, and you are of another cluster with the same name: attach an empty directory")
            } else if known {
                format!(
                    "{ours}, and you are of cluster {}: attach to a node of that, or attach an empty directory",
                    hello.cluster
                )
            } else {
                format!("{ours}, and you ask for cluster {}: attach to a node of that, or leave -c away", hello.cluster)
            };
            return Some((Refusal::Cluster, detail));
        }
        // Nodes that this node does not know yet take no place from the members.
        let is_member = members.nodes().contains_key(&hello.raft_id);
        if self.up.len() >= limits::NODES_MAX && !is_member && !self.up.contains_key(&hello.raft_id) {
            return Some((Refusal::Unavailable, format!("{ours}, which has as many links as it can")));
        }
        // Where a secret is set, the handshake has proved it.
        if me.key.is_none() && !hello.secret.is_empty() {
            return Some((
                Refusal::Secret,
                format!("{ours}, which has another DOOZER_RWSECRET: set the same on all nodes"),
            ));
        }
        if self.shunned.contains_key(&hello.node) {
            let detail = format!("{ours}, and you sent what no node of a cluster sends; ask again later");
            return Some((Refusal::Unavailable, detail));
        }
        if hello.epoch > limits::EPOCH_MAX {
            return Some((Refusal::NotMember, format!("{ours}: no node was started so often")));
        }
        if hello.raft_id != 0 {
            if members.is_retired(hello.raft_id) && !faults::is_armed(Fault::RetiredLinked) {
                return Some((
                    Refusal::Retired,
                    format!("{ours}: you were taken out of it, and may come back as a standby"),
                ));
            }
            let other = members.nodes().get(&hello.raft_id).filter(|m| m.node != hello.node);
            // A process that has ended is silent. If the old process still speaks, the one with the same identity runs on a copy.
            let twin = self.up.get(&hello.raft_id).and_then(|conn| self.links.get(conn)).is_some_and(|link| {
                let heard = self.now_ms.saturating_sub(link.heard_ms) < self.timing.silence_ms / 2;
                heard && link.peer.as_ref().is_some_and(|peer| peer.life != hello.life)
            });
            if twin {
                let detail =
                    format!("{ours}: another process runs as this node, on a copy of its directory; stop one of them");
                return Some((Refusal::Unavailable, detail));
            }
            if other.is_some() || hello.raft_id == me.raft_id {
                return Some((Refusal::NotMember, format!("{ours}: raft id {} is another node's", hello.raft_id)));
            }
        }
        None
    }

    fn greeted(
        &mut self,
        sessions: &mut Sessions,
        members: &Members,
        conn: Conn,
        hello: &Hello<'_>,
    ) -> Outcome<'static> {
        let Some(link) = self.links.get(&conn) else { return Outcome::End };
        let dialed = link.dialed.clone();
        if let Some((reason, detail)) = self.objection(members, hello) {
            if reason != Refusal::Myself {
                let node = hello.node.escape_ascii().to_string();
                let why = refused_here(reason, hello).unwrap_or_else(|| detail.clone());
                let line = format!("refused a link with node {node} at {}: {why}", printable(hello.addr));
                self.tell_of_stranger(&node, line);
            } else if let Some(addr) = &dialed {
                self.forget_seed(addr);
            }
            self.pause_dial(dialed.as_ref());
            // A node that is to give up its data on this node's word must know who says so.
            if reason == Refusal::Retired && dialed.is_none() {
                self.hello(sessions, conn);
            }
            self.refuse(sessions, conn, reason, &detail);
            return Outcome::End;
        }
        self.greet_back(sessions, conn, dialed.is_some());
        let Hello { raft_id, node, life, epoch, addr, .. } = *hello;
        let peer = Peer { raft_id, node, life, epoch, addr: addr.to_owned() };
        if let Some(link) = self.links.get_mut(&conn) {
            link.peer = Some(peer.clone());
        }
        // A node without a raft id will ask for one, and dial again with it.
        if raft_id == 0 {
            return Outcome::Done;
        }
        // An answer to a dial is fresh. The first frames of a connection dialed by the other side may have waited here for long.
        if dialed.is_some() {
            self.come_up(sessions, conn, &peer);
        } else if let Some(link) = self.links.get_mut(&conn) {
            link.unproven = true;
        }
        Outcome::Done
    }

    /// The other side of a link is there, and has heard this one. Returns whether the link is kept: there may be a better one.
    fn come_up(&mut self, sessions: &mut Sessions, conn: Conn, peer: &Peer) -> bool {
        let dialed = self.links.get(&conn).and_then(|link| link.dialed.clone());
        if let Some(addr) = &dialed {
            self.answered.insert(addr.clone(), peer.raft_id);
            self.told.remove(addr);
        }
        let mut is_news = true;
        if let Some(&old) = self.up.get(&peer.raft_id)
            && let Some(before) = self.links.get(&old)
        {
            let by_smaller = |dialed: bool| dialed == (self.me.node < peer.node);
            let (new_dialed, old_dialed) = (dialed.is_some(), before.dialed.is_some());
            // A link of an earlier boot is dead.
            let same_boot = before.peer.as_ref().is_some_and(|before| before.life == peer.life);
            if same_boot && new_dialed != old_dialed && !by_smaller(new_dialed) {
                self.pause_dial(dialed.as_ref());
                if let Some(link) = self.links.get_mut(&conn) {
                    link.unproven = false;
                }
                sessions.end(conn);
                return false;
            }
            is_news = !same_boot;
            self.links.remove(&old);
            sessions.abort(old);
        }
        self.told.remove(&peer.addr);
        self.refused.forget(&peer.node.escape_ascii().to_string());
        if is_news {
            self.lines.push(format!("link to {} is up", peer.name()));
        }
        let others: Vec<Links> = self.routes.others().cloned().collect();
        for links in others {
            self.say(sessions, conn, &Frame::Links(links));
        }
        self.take_up(sessions, conn, peer);
        true
    }

    /// Makes this the link to the peer.
    fn take_up(&mut self, sessions: &mut Sessions, conn: Conn, peer: &Peer) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.unproven = false;
        }
        self.up.insert(peer.raft_id, conn);
        let before = self.addresses.insert(peer.raft_id, peer.addr.clone());
        self.earlier.retain(|addr| *addr == peer.addr || Some(addr) != before.as_ref());
        if !self.changed(sessions) {
            // The same peer on another connection may not know the links.
            let own = self.routes.own().clone();
            self.say(sessions, conn, &Frame::Links(own));
        }
    }

    fn refused(
        &mut self,
        sessions: &mut Sessions,
        members: &Members,
        conn: Conn,
        reason: Refusal,
        detail: &str,
    ) -> Outcome<'static> {
        let Some(link) = self.links.get_mut(&conn) else { return Outcome::End };
        link.refused = true;
        let dialed = link.dialed.clone();
        // One that has not proved the secret is not believed anything.
        if link.handshake.as_ref().is_some_and(|handshake| !handshake.is_proved()) || reason == Refusal::Secret {
            if let Some(addr) = &dialed {
                let why = self.refused_unproved(reason);
                self.tell(addr, &format!("the node at {addr} refused the link: {why}"));
            }
            self.pause_dial(dialed.as_ref());
            return Outcome::End;
        }
        // That this node was taken out is believed only of one that this node has dialed, and that has said that it is of the same
        // cluster. Without a secret anyone can say that: then it has to be a member, as far as this node knows, though perhaps under
        // another raft id by now.
        let trusted = dialed.is_some()
            && link.peer.as_ref().is_some_and(|peer| {
                let mut known = members.nodes().iter().filter(|(_, member)| member.node == peer.node);
                self.me.key.is_some() || known.any(|(id, _)| members.is_voter(*id))
            });
        if let Some(addr) = &dialed {
            if reason == Refusal::Myself {
                self.forget_seed(addr);
            } else {
                self.tell(addr, &format!("the node at {addr} refused the link: {}", printable(detail)));
            }
        }
        self.pause_dial(dialed.as_ref());
        sessions.end(conn);
        if reason == Refusal::Retired
            && trusted
            && let Some((raft_id, node)) = self.peer_of(conn).map(|peer| (peer.raft_id, peer.node))
        {
            // A node that calls itself like a voter, but has another raft id, may be anybody.
            if members.nodes().get(&raft_id).is_some_and(|member| member.node == node) {
                self.retired_by.insert(raft_id);
            }
            self.retired_since.get_or_insert(self.now_ms);
            if self.is_retired(members) {
                return Outcome::Retired;
            }
        }
        Outcome::End
    }

    /// Returns whether this node was taken out of the cluster, by the word of others. One node alone could lie, and this node would give
    /// up its data: so it takes more than half of the other voters, as this node knows them. All of them may be gone since; then any
    /// node of the cluster is believed, after a while in which no voter has a link with this node.
    pub fn is_retired(&self, members: &Members) -> bool {
        let Some(since) = self.retired_since else { return false };
        let others: Vec<u64> = members.voters().iter().copied().filter(|id| *id != self.me.raft_id).collect();
        let says = |id: &&u64| self.retired_by.contains(*id);
        let is_alone = !others.iter().any(|id| self.up.contains_key(id));
        2 * others.iter().filter(says).count() > others.len()
            || (is_alone && self.now_ms.saturating_sub(since) >= RETIRED_MS)
    }

    /// This node itself answers there.
    fn forget_seed(&mut self, addr: &str) {
        self.seeds.retain(|seed| seed != addr);
        self.earlier.retain(|seed| seed != addr);
    }

    fn pause_dial(&mut self, dialed: Option<&String>) {
        if let Some(addr) = dialed {
            self.dials.insert(addr.clone(), self.now_ms + REFUSED_PAUSE_MS);
        }
    }

    // ---- sending ----

    /// Sends a frame to a node, over the shortest path of links. Returns `false` if there is no path, or no room on it.
    pub fn send(&mut self, sessions: &mut Sessions, to: u64, encode: impl FnOnce(Route, &mut Vec<u8>)) -> bool {
        let Some(conn) = self.routes.next_hop(to).and_then(|hop| self.up.get(&hop)).copied() else { return false };
        if !has_room(sessions, conn) {
            return false;
        }
        if let Some(link) = self.links.get_mut(&conn) {
            link.sent_ms = self.now_ms;
        }
        let route = Route { from: self.me.raft_id, to, hops: limits::HOPS_MAX };
        sessions.append(conn, |out| encode(route, out));
        true
    }

    /// Sets this node's flags, and tells the others.
    pub fn set_flags(&mut self, sessions: &mut Sessions, flags: u8) {
        self.flags = flags;
        self.changed(sessions);
    }

    /// Tells the others this node's links, if they have changed.
    fn changed(&mut self, sessions: &mut Sessions) -> bool {
        let changed = self.routes.set_own(self.up.keys().copied().collect(), self.flags);
        if changed {
            self.repeat(sessions);
        }
        changed
    }

    fn repeat(&mut self, sessions: &mut Sessions) {
        self.repeated_ms = self.now_ms;
        let own = self.routes.own().clone();
        for conn in self.up.values().copied().collect::<Vec<_>>() {
            self.say(sessions, conn, &Frame::Links(own.clone()));
        }
    }

    // ---- time ----

    /// Time has passed: ends silent connections, and dials missing ones.
    pub fn tick(&mut self, sessions: &mut Sessions, members: &Members, now_ms: u64, stalled_ms: u64) {
        self.now_ms = now_ms;
        // Frames that came while this process did not run are still unread.
        for link in self.links.values_mut() {
            link.heard_ms += stalled_ms;
            link.opened_ms += stalled_ms;
        }
        let mut silent = Vec::new();
        let mut quiet = Vec::new();
        for (conn, link) in &self.links {
            // What a peer sends before it is linked does not make its time longer.
            let (since, limit) = match &link.peer {
                Some(peer) if peer.raft_id != 0 => (link.heard_ms, self.timing.silence_ms),
                Some(_) => (link.opened_ms, limits::ATTACHING_MS),
                None => (link.opened_ms, limits::GREETING_MS),
            };
            if now_ms.saturating_sub(since) > limit && !faults::is_armed(Fault::SilenceUnnoticed) {
                silent.push(*conn);
            } else if link.peer.is_some() && now_ms.saturating_sub(link.sent_ms) >= self.timing.ping_ms {
                quiet.push(*conn);
            }
        }
        for conn in silent {
            let why = format!("nothing was heard for {} ms", self.timing.silence_ms);
            self.lose(sessions, conn, &why);
            sessions.abort(conn);
        }
        for conn in quiet {
            self.say(sessions, conn, &Frame::Ping);
        }
        self.part_with_retired(sessions, members);
        self.pass_on_late(sessions);
        self.shunned.retain(|_, until| *until > now_ms);
        if now_ms.saturating_sub(self.repeated_ms) >= REPEAT_MS {
            let up = &self.up;
            // A new node knows no member yet.
            let knows_none = members.nodes().is_empty();
            let wanted = |id: u64| knows_none || members.nodes().contains_key(&id) || up.contains_key(&id);
            self.routes.retain(|id| wanted(id) || (id >= members.next()));
            self.addresses.retain(|id, _| wanted(*id));
            self.answered.retain(|_, id| wanted(*id));
            self.repeat(sessions);
        }
        self.dial(members);
        self.lines.extend(self.refused.tick(now_ms));
        self.tell_rivals(members);
        self.tell_routes(members);
    }

    /// Ends the links with nodes that have been taken out meanwhile, as a node may have made before it had the state: when they dial
    /// again they are told.
    fn part_with_retired(&mut self, sessions: &mut Sessions, members: &Members) {
        if faults::is_armed(Fault::RetiredLinked) {
            return;
        }
        let retired = self.up.iter().filter(|(id, _)| members.is_retired(**id)).map(|(_, conn)| *conn);
        for conn in retired.collect::<Vec<_>>() {
            self.lose(sessions, conn, "it was taken out of the cluster");
            sessions.end(conn);
        }
    }

    fn dial(&mut self, members: &Members) {
        let mut wanted: Vec<(&String, u64)> = Vec::new();
        for (id, member) in members.nodes() {
            if *id != self.me.raft_id && member.node != self.me.node && !self.up.contains_key(id) {
                // If two nodes would dial each other at once, the one with the smaller id goes first, and a new node first of all.
                let patience = if self.me.node < member.node { 1 } else { 2 };
                let reached = self.answered.iter().filter(|(_, of)| *of == id).map(|(addr, _)| addr);
                let all = std::iter::once(self.addresses.get(id).unwrap_or(&member.addr)).chain(reached);
                wanted.extend(all.map(|addr| (addr, patience * DIAL_PAUSE_MS)));
            }
        }
        self.hopes.clear();
        if self.up.is_empty() {
            wanted.extend(self.seeds.iter().map(|seed| (seed, 0)));
        } else if !wanted.is_empty() || members.nodes().is_empty() {
            // A missing node may be at an address whose node is unknown. A new node does not know yet who is missing.
            let advertised = |seed: &String| wanted.iter().any(|(addr, _)| *addr == seed);
            let unknown = self.seeds.iter().filter(|seed| !self.answered.contains_key(*seed) && !advertised(seed));
            let unknown: Vec<&String> = unknown.collect();
            self.hopes.extend(unknown.iter().copied().cloned());
            wanted.extend(unknown.into_iter().map(|seed| (seed, SEED_PAUSE_MS)));
        }
        // A peer that is linked, advertises an address, and has answered there, has it now, even if another node had it before. That it
        // says so alone would keep this node from the other one.
        let has = |id: &u64| self.addresses.get(id).filter(|addr| self.answered.get(*addr) == Some(id));
        let taken: Vec<&String> = self.up.keys().filter_map(has).collect();
        wanted.retain(|(addr, _)| !taken.contains(addr));
        let known: Vec<&String> = wanted.iter().map(|(addr, _)| *addr).collect();
        self.dials.retain(|addr, at| *at == u64::MAX || known.contains(&addr) || *at > self.now_ms);
        self.mute.retain(|addr, _| known.contains(&addr));
        for (addr, patience) in wanted {
            let due = *self.dials.entry(addr.clone()).or_insert(self.now_ms + patience);
            if *addr != self.me.addr && due <= self.now_ms {
                self.dials.insert(addr.clone(), u64::MAX);
                self.to_dial.push(addr.clone());
            }
        }
    }

    // ---- words ----

    fn tell(&mut self, of: &str, line: &str) {
        self.lines.extend(news(&mut self.told, of, line));
    }

    fn tell_of_stranger(&mut self, of: &str, line: String) {
        self.lines.extend(self.refused.tell(self.now_ms, of, line));
    }

    /// Logs who else claims this node's address. Both nodes are reachable, so neither has replaced the other.
    fn tell_rivals(&mut self, members: &Members) {
        let rival = |(id, member): &(&u64, &Member)| {
            let addr = self.addresses.get(*id).unwrap_or(&member.addr);
            member.node != self.me.node && *addr == self.me.addr && self.routes.reaches(**id)
        };
        let Some((_, rival)) = members.nodes().iter().find(rival) else {
            self.told.remove(RIVAL);
            self.rival_since = None;
            return;
        };
        let since = *self.rival_since.get_or_insert(self.now_ms);
        if self.now_ms.saturating_sub(since) < RIVAL_SAID_MS {
            return;
        }
        let line = format!(
            "node {} says that it is at {}, and so does this node: give each an address of its own with -advertise",
            rival.node.escape_ascii(),
            printable(&self.me.addr)
        );
        self.tell(RIVAL, &line);
    }

    /// Logs who is reached through others, if that lasts: nodes that have just started have no links to each other yet.
    fn tell_routes(&mut self, members: &Members) {
        let mut relayed = BTreeMap::new();
        for links in self.routes.others() {
            let Some(hop) = self.routes.next_hop(links.node).filter(|hop| *hop != links.node) else { continue };
            let before = self.relayed.get(&links.node).filter(|(through, ..)| *through == hop);
            relayed.insert(links.node, before.copied().unwrap_or((hop, self.now_ms, false)));
        }
        for (node, (hop, since, said)) in &mut relayed {
            if !*said && self.now_ms.saturating_sub(*since) >= RELAY_SAID_MS {
                *said = true;
                let line = format!("{} is relayed through {}", self.name(members, *node), self.name(members, *hop));
                self.lines.push(line);
            }
        }
        self.relayed = relayed;
    }

    /// Returns the name of a node for the log: id and address.
    pub fn name(&self, members: &Members, raft_id: u64) -> String {
        match members.nodes().get(&raft_id) {
            Some(m) => {
                let addr = self.addresses.get(&raft_id).unwrap_or(&m.addr);
                Peer { raft_id, node: m.node, life: 0, epoch: 0, addr: addr.clone() }.name()
            }
            // A node that has just joined knows its neighbours before it knows the members.
            None => match self.up.get(&raft_id).and_then(|conn| self.links.get(conn)?.peer.as_ref()) {
                Some(peer) => peer.name(),
                None => format!("raft id {raft_id}"),
            },
        }
    }

    /// Returns the addresses at which other nodes may be found after a restart: those that they advertise, and those at which this
    /// node reached them. A node that always dials this one was never reached, perhaps since an earlier start: until each was, the
    /// addresses from earlier starts stay.
    pub fn known_addresses(&self, members: &Members) -> Vec<String> {
        let others = members.nodes().iter().filter(|(id, m)| **id != self.me.raft_id && m.node != self.me.node);
        let others: BTreeMap<u64, &Member> = others.map(|(id, member)| (*id, member)).collect();
        let advertised = others.iter().map(|(id, m)| self.addresses.get(id).unwrap_or(&m.addr).clone());
        let reached = self.answered.iter().filter(|(_, id)| others.contains_key(*id)).map(|(addr, _)| addr.clone());
        let mut known: Vec<String> = advertised.chain(reached).collect();
        if !others.keys().all(|other| self.answered.values().any(|id| id == other)) {
            let unknown =
                self.earlier.iter().filter(|addr| !self.answered.contains_key(*addr) && **addr != self.me.addr);
            known.extend(unknown.take(EARLIER_MAX).cloned());
        }
        known.sort_unstable();
        known.dedup();
        known
    }
}

/// Returns why a link was refused, for the node that refused it. The remedy concerns the other node, which is told it; `None` if
/// the remedy may concern both.
fn refused_here(reason: Refusal, hello: &Hello<'_>) -> Option<String> {
    Some(match reason {
        Refusal::Version => format!("it speaks version {} of the peer protocol, this node {VERSION}", hello.version),
        Refusal::Cluster => format!("it is of another cluster, with the name {}", printable(hello.cluster)),
        Refusal::Secret => "it has another DOOZER_RWSECRET than this node".into(),
        Refusal::Retired => "it was taken out of the cluster, and may come back as a standby".into(),
        _ => return None,
    })
}

fn has_room(sessions: &mut Sessions, conn: Conn) -> bool {
    sessions.get(conn).is_some_and(|session| session.unsent() < limits::PEER_OUTPUT_MAX)
}

/// Returns whether this can be an address that others log and dial.
pub fn is_address(addr: &[u8]) -> bool {
    !addr.is_empty() && addr.len() <= limits::ADDR_MAX && addr.iter().all(u8::is_ascii_graphic)
}

/// Records what was said about somebody. Returns the line if it differs from the last one.
fn news(told: &mut BTreeMap<String, String>, of: &str, line: &str) -> Option<String> {
    if told.get(of).is_some_and(|told| told == line) {
        return None;
    }
    told.insert(of.to_owned(), line.to_owned());
    while told.len() > TOLD_MAX {
        told.pop_first();
    }
    Some(line.to_owned())
}

/// A peer's words, fit for a log.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(500).collect()
}

mod greeting;

#[cfg(test)]
mod tests {
    use super::super::batch::Registration;
    use super::super::session::Access;
    use super::*;

    const SEED: &str = "10.0.0.1:8046";

    fn me() -> Me {
        Me {
            node: *b"BBBBBBBBBBBBBBBB",
            raft_id: 3,
            epoch: 1,
            life: 7,
            incarnation: 0,
            cluster_id: 5,
            cluster: "local".into(),
            key: None,
            addr: "10.0.0.3:8046".into(),
        }
    }

    fn greeting() -> Hello<'static> {
        Hello {
            version: VERSION,
            cluster: "local",
            node: *b"CCCCCCCCCCCCCCCC",
            raft_id: 2,
            epoch: 1,
            life: 9,
            incarnation: 0,
            cluster_id: 5,
            secret: b"",
            addr: "10.0.0.2:8046",
        }
    }

    /// The node of raft id 2, which has dialed the node under test.
    struct Neighbour {
        sessions: Sessions,
        members: Members,
        conn: Conn,
    }

    impl Neighbour {
        fn of(mesh: &mut Mesh) -> Neighbour {
            let mut sessions = Sessions::default();
            let conn = sessions.open(Access::default());
            mesh.accepted(conn);
            Neighbour { sessions, members: Members::default(), conn }
        }

        fn says(&mut self, mesh: &mut Mesh, frame: &Frame<'_>) {
            let mut bytes = Vec::new();
            peer::encode(Route { from: 2, to: 0, hops: 0 }, frame, &mut bytes);
            let outcome = mesh.frame(&mut self.sessions, &self.members, self.conn, &bytes);
            assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
        }

        fn greets(&mut self, mesh: &mut Mesh) {
            self.says(mesh, &Frame::Hello(greeting()));
        }

        fn links(&mut self, mesh: &mut Mesh, node: u64, peers: &[u64]) {
            let links = Links { node, epoch: 1, version: 1, flags: 0, peers: peers.to_vec() };
            self.says(mesh, &Frame::Links(links));
        }
    }

    fn dials(mesh: &mut Mesh) -> Vec<String> {
        let mut dials = Vec::new();
        mesh.take_dials(&mut dials);
        dials
    }

    /// A new node whose attaching took long was linked with a follower before its first tick, and forgot in that tick who leads: it
    /// has no state yet, and so no members. Nobody says again what has not changed.
    #[test]
    fn a_new_node_forgets_whom_its_neighbour_reaches() {
        let mut mesh = unlinked();
        let mut neighbour = Neighbour::of(&mut mesh);
        neighbour.greets(&mut mesh);
        neighbour.links(&mut mesh, 1, &[2]);
        neighbour.links(&mut mesh, 2, &[1, 3]);
        assert!(mesh.reaches(1));
        let mut now = 2 * REPEAT_MS;
        mesh.tick(&mut neighbour.sessions, &neighbour.members, now, now);
        assert!(mesh.reaches(1));
        // It does not know who is missing, and asks where it was told to.
        while dials(&mut mesh) != [SEED] {
            assert!(now < 5 * REPEAT_MS, "nobody is dialed");
            now += 100;
            neighbour.links(&mut mesh, 2, &[1, 3]);
            mesh.tick(&mut neighbour.sessions, &neighbour.members, now, 0);
        }
    }

    /// A second peer, with raft id 4, which has a link as well.
    fn second(mesh: &mut Mesh, neighbour: &mut Neighbour) -> Conn {
        let conn = neighbour.sessions.open(Access::default());
        mesh.accepted(conn);
        let hello = Hello { node: *b"DDDDDDDDDDDDDDDD", raft_id: 4, addr: "10.0.0.4:8046", ..greeting() };
        for frame in [Frame::Hello(hello), Frame::Ping] {
            let mut bytes = Vec::new();
            peer::encode(Route { from: 4, to: 0, hops: 0 }, &frame, &mut bytes);
            mesh.frame(&mut neighbour.sessions, &neighbour.members, conn, &bytes);
        }
        conn
    }

    fn unlinked() -> Mesh {
        let timing = Timing { ping_ms: 100, silence_ms: 1_000 };
        Mesh::new(me(), Challenges::new(&[1; 32]), timing, &[SEED.to_owned()], Vec::new())
    }

    fn linked() -> (Mesh, Neighbour) {
        let mut mesh = unlinked();
        let mut neighbour = Neighbour::of(&mut mesh);
        neighbour.greets(&mut mesh);
        neighbour.links(&mut mesh, 2, &[3]);
        (mesh, neighbour)
    }

    /// A member wrote in the name of another one, or silenced it with a report about it.
    #[test]
    fn nobody_speaks_for_a_node_that_speaks_for_itself() {
        let (mut mesh, mut neighbour) = linked();
        let raft = |from: u64, hops: u8| {
            let mut bytes = Vec::new();
            peer::encode(Route { from, to: 3, hops }, &Frame::Forward(b"a batch"), &mut bytes);
            bytes
        };
        let delivered = |mesh: &mut Mesh, neighbour: &mut Neighbour, from, hops| {
            let bytes = raft(from, hops);
            let outcome = mesh.frame(&mut neighbour.sessions, &neighbour.members, neighbour.conn, &bytes);
            matches!(outcome, Outcome::Deliver(of, _) if of == from)
        };
        assert!(delivered(&mut mesh, &mut neighbour, 2, limits::HOPS_MAX), "its own");
        assert!(delivered(&mut mesh, &mut neighbour, 4, 7), "that node has no link here");
        let conn = second(&mut mesh, &mut neighbour);
        assert!(!delivered(&mut mesh, &mut neighbour, 4, 7));
        let forged = Links { node: 4, epoch: 9, version: u64::MAX, flags: FLAG_FULL, peers: vec![] };
        neighbour.says(&mut mesh, &Frame::Links(forged));
        assert_eq!((mesh.flags(4), mesh.epoch(4)), (0, 1));
        // It hangs: others pass on what it last said.
        mesh.tick(&mut neighbour.sessions, &neighbour.members, 600, 0);
        assert!(delivered(&mut mesh, &mut neighbour, 4, 7));
        mesh.gone(&mut neighbour.sessions, conn);
        assert!(delivered(&mut mesh, &mut neighbour, 4, 7));
    }

    /// Links that advertised the addresses of members kept the members from each other, for as long as they lasted.
    #[test]
    fn a_peer_takes_the_address_of_another_by_saying_so() {
        let (mut mesh, mut neighbour) = linked();
        let registration =
            |raft_id, node, addr: &'static str| Registration { raft_id, node, incarnation: 0, addr: addr.as_bytes() };
        let mut members = Members::founding();
        for (raft_id, node, addr) in [
            (1, *b"AAAAAAAAAAAAAAAA", SEED),
            (0, *b"CCCCCCCCCCCCCCCC", "10.0.0.2:8046"),
            (0, me().node, "10.0.0.3:8046"),
        ] {
            assert!(members.register(&registration(raft_id, node, addr)).is_ok());
        }
        neighbour.members = members;
        // Node 4 says that it is where node 1 is, which has no link.
        let conn = neighbour.sessions.open(Access::default());
        mesh.accepted(conn);
        let hello = Hello { node: *b"DDDDDDDDDDDDDDDD", raft_id: 4, addr: SEED, ..greeting() };
        let from_4 = |frame: &Frame<'_>| {
            let mut bytes = Vec::new();
            peer::encode(Route { from: 4, to: 0, hops: 0 }, frame, &mut bytes);
            bytes
        };
        for frame in [Frame::Hello(hello), Frame::Ping] {
            mesh.frame(&mut neighbour.sessions, &neighbour.members, conn, &from_4(&frame));
        }
        let mut now = 0;
        let mut is_dialed = |mesh: &mut Mesh, neighbour: &mut Neighbour, conn: Conn| {
            for _ in 0..50 {
                now += 100;
                neighbour.links(mesh, 2, &[3]);
                mesh.frame(&mut neighbour.sessions, &neighbour.members, conn, &from_4(&Frame::Ping));
                mesh.tick(&mut neighbour.sessions, &neighbour.members, now, 0);
                if dials(mesh).contains(&SEED.to_owned()) {
                    return true;
                }
            }
            false
        };
        assert!(is_dialed(&mut mesh, &mut neighbour, conn));
        // It does answer there: node 1 has moved, or is gone.
        let dialed = neighbour.sessions.open(Access::default());
        mesh.dialed(&mut neighbour.sessions, dialed, SEED);
        mesh.frame(&mut neighbour.sessions, &neighbour.members, dialed, &from_4(&Frame::Hello(hello)));
        assert!(!is_dialed(&mut mesh, &mut neighbour, dialed));
    }

    /// Each report of a flood was passed on to all, and filled the memory of a peer that does not read.
    #[test]
    fn a_flood_of_reports_is_passed_on_a_few_times() {
        let (mut mesh, mut neighbour) = linked();
        let conn = second(&mut mesh, &mut neighbour);
        let unsent = |neighbour: &mut Neighbour| neighbour.sessions.get(conn).unwrap().unsent();
        let before = unsent(&mut neighbour);
        let flood = |mesh: &mut Mesh, neighbour: &mut Neighbour, versions: std::ops::Range<u64>| {
            for version in versions {
                let peers = (1..=64).collect();
                let links = Links { node: 2, epoch: 1, version, flags: 0, peers };
                neighbour.says(mesh, &Frame::Links(links));
            }
        };
        flood(&mut mesh, &mut neighbour, 2..1_000);
        let size = 700;
        assert!(unsent(&mut neighbour) - before <= size * REPORTS_TICK as usize, "{}", unsent(&mut neighbour));
        // The last report is passed on all the same, and where there is no room none is.
        mesh.tick(&mut neighbour.sessions, &neighbour.members, 50, 0);
        assert!(mesh.routes.others().any(|links| links.node == 2 && links.version == 999));
        for tick in 1..2_000 {
            flood(&mut mesh, &mut neighbour, 1_000 * tick..1_000 * tick + 20);
            mesh.tick(&mut neighbour.sessions, &neighbour.members, 50 + tick % 10, 0);
        }
        assert!(unsent(&mut neighbour) <= REPORTS_OUTPUT + 3 * size * REPORTS_TICK as usize);
    }

    /// A node that asks again and again on one link makes a log entry each time.
    #[test]
    fn a_link_asks_once_for_a_raft_id() {
        let mut mesh = unlinked();
        let mut neighbour = Neighbour::of(&mut mesh);
        neighbour.says(&mut mesh, &Frame::Hello(Hello { raft_id: 0, ..greeting() }));
        let mut bytes = Vec::new();
        peer::encode(Route::default(), &Frame::Join { incarnation: 0, addr: "10.0.0.2:8046" }, &mut bytes);
        let mut outcome = || {
            let outcome = mesh.frame(&mut neighbour.sessions, &neighbour.members, neighbour.conn, &bytes);
            matches!(outcome, Outcome::Join { .. })
        };
        assert!(outcome() && !outcome());
    }

    /// One member could make each of the others give up its data.
    #[test]
    fn one_member_alone_takes_nobody_out_of_the_cluster() {
        use super::super::members::Change;
        let mut members = Members::founding();
        let nodes = [*b"AAAAAAAAAAAAAAAA", *b"CCCCCCCCCCCCCCCC", me().node, *b"DDDDDDDDDDDDDDDD"];
        for (id, node) in (1..).zip(nodes) {
            let raft_id = if id == 1 { 1 } else { 0 };
            let addr = format!("10.0.0.{id}:8046");
            let registration = Registration { raft_id, node, incarnation: 0, addr: addr.as_bytes() };
            assert_eq!(members.register(&registration), Ok(id));
        }
        let mut store = crate::store::Store::new(10);
        for id in 2..=4 {
            let path = format!("/ctl/cal/{id}").into_bytes();
            let open = crate::store::Mutation::Set { path: &path, rev: -1, value: b"" };
            let rev = store.apply(open).unwrap();
            members.applied(&open, rev);
            assert!(members.change(&Change::Admit(id)).is_some());
            assert!(members.change(&Change::Promote(id, path, rev)).is_some());
        }
        let (mut mesh, mut neighbour) = linked();
        neighbour.members = members;
        let refuses = |mesh: &mut Mesh, neighbour: &mut Neighbour, raft_id: u64, node: NodeId| {
            let addr = format!("10.0.0.{raft_id}:8046");
            let conn = neighbour.sessions.open(Access::default());
            mesh.dialed(&mut neighbour.sessions, conn, &addr);
            let hello = Hello { node, raft_id, life: 77, addr: &addr, ..greeting() };
            let refusal = Frame::Refuse { reason: Refusal::Retired, detail: "gone" };
            let mut is_retired = false;
            for frame in [Frame::Hello(hello), refusal] {
                let mut bytes = Vec::new();
                peer::encode(Route { from: raft_id, to: 0, hops: 0 }, &frame, &mut bytes);
                let outcome = mesh.frame(&mut neighbour.sessions, &neighbour.members, conn, &bytes);
                is_retired = matches!(outcome, Outcome::Retired);
            }
            mesh.gone(&mut neighbour.sessions, conn);
            is_retired
        };
        // Whoever knows the secret can call itself like a voter, but the raft ids of the voters are theirs.
        for (id, node) in (100..).zip(nodes) {
            assert!(!refuses(&mut mesh, &mut neighbour, id, node));
        }
        assert!(!refuses(&mut mesh, &mut neighbour, 4, nodes[3]));
        assert!(!refuses(&mut mesh, &mut neighbour, 4, nodes[3]), "twice the same");
        // A member that keeps its link denies it.
        for now in (0..3 * RETIRED_MS).step_by(200) {
            neighbour.links(&mut mesh, 2, &[3]);
            mesh.tick(&mut neighbour.sessions, &neighbour.members, now, 0);
            assert!(!mesh.is_retired(&neighbour.members));
        }
        assert!(refuses(&mut mesh, &mut neighbour, 1, nodes[0]), "two of three others");
    }
}
