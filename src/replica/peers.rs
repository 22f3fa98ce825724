//! What the replica makes of its peers: their frames, who of them is in reach, and who leads.
//!
//! Everything here is a hint or a message; what is promised to clients rests on raft and the state machine alone.

use bytes::Bytes;
use raft::eraftpb::{Message, MessageType};

use super::batch::{self, Command, Registration};
use super::group::snapshot_message;
use super::members::Change;
use super::membership::{Step, View};
use super::mesh::{FLAG_FULL, FLAG_LEAVING, Outcome, is_address};
use super::requests::{Asker, GATHER_OVERHEAD, Pending, RECORDS};
use super::session::Conn;
use super::transfer::{Chunk, Progress, Receiving, Sending};
use super::{Fate, Receipt, Replica, Then};
use crate::limits;
use crate::log::{NodeId, Room, name};
use crate::wire::peer::{self, Frame, PREAMBLE, Refusal, Split};
use crate::wire::{ErrCode, Response};

/// Without a leader for so many election time-outs no more writes are taken, even if a majority seems to be in reach.
const LEADERLESS: u64 = 10;
/// The same with writes that are not committed for so long, for whatever reason.
const UNCOMMITTED: u64 = 25;
/// When the leader is known to be gone, the other voters stand for election one after the other, so many ticks apart.
const TURN_TICKS: u64 = 2;
/// A term that is so far ahead was not reached by elections.
const TERMS_AHEAD: u64 = 1 << 32;
/// A node that has set its data aside so often since it last joined is not the one that it says it is.
const INCARNATIONS_AHEAD: u64 = 1_000;
/// How long entries are kept for a peer behind the snapshot that it got.
const CATCH_UP_MS: u64 = 30_000;
/// A leader whose own disk has not finished a write for so many election time-outs hands over.
const STUCK_DISK: u64 = 8;

/// What this node stands for in the cluster, as its directory is to remember.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// How many voters there are.
    pub voters: u32,
    /// Whether this node is one.
    pub voter: bool,
    /// Where the others are.
    pub peers: Vec<String>,
}

impl Replica {
    // ---- connections ----

    /// Addresses of peers that are to be dialed; each is answered by [`Replica::dialed`] or [`Replica::not_dialed`].
    pub fn take_dials(&mut self, into: &mut Vec<String>) {
        self.mesh.take_dials(into);
    }

    /// A peer's address was dialed: the connection is there.
    pub fn dialed(&mut self, addr: &str) -> Conn {
        let conn = self.desk.sessions.open(super::Access::default());
        if let Some(session) = self.desk.sessions.get(conn) {
            (session.fresh, session.peer) = (false, true);
        }
        self.mesh.dialed(&mut self.desk.sessions, conn, addr);
        conn
    }

    /// A peer's address could not be dialed.
    pub fn not_dialed(&mut self, addr: &str, why: &str) {
        self.mesh.not_dialed(addr, why);
    }

    /// Whether a connection is the link of a peer, which is served as long as the server runs.
    pub fn is_peer(&mut self, conn: Conn) -> bool {
        self.desk.sessions.get(conn).is_some_and(|session| session.peer)
    }

    /// Connections that are to be closed at once, whatever is still to be sent.
    pub fn take_aborted(&mut self, into: &mut Vec<Conn>) {
        self.desk.sessions.take_aborted(into);
    }

    /// The first bytes of a connection are those of a peer: `None` if not.
    pub(super) fn preamble(&mut self, conn: Conn, bytes: &[u8]) -> Option<Receipt> {
        let session = self.desk.sessions.get(conn)?;
        if !session.fresh || bytes.is_empty() {
            return None;
        }
        if bytes[0] != PREAMBLE[0] {
            session.fresh = false;
            return None;
        }
        let Some(first) = bytes.first_chunk::<{ PREAMBLE.len() }>() else {
            return Some(Receipt { consumed: 0, then: Then::More { needed: Some(PREAMBLE.len()) } });
        };
        session.fresh = false;
        if *first != PREAMBLE {
            return None;
        }
        session.peer = true;
        self.mesh.accepted(conn);
        let receipt = self.receive_peer(conn, &bytes[PREAMBLE.len()..]);
        Some(Receipt { consumed: receipt.consumed + PREAMBLE.len(), ..receipt })
    }

    /// Bytes of a peer have come.
    pub(super) fn receive_peer(&mut self, conn: Conn, bytes: &[u8]) -> Receipt {
        let mut consumed = 0;
        loop {
            let rest = &bytes[consumed..];
            let split = peer::split(rest);
            let (Ok(Split::Whole { size }) | Ok(Split::Partial { needed: Some(size) })) = split else {
                if let Ok(Split::Partial { needed }) = split {
                    return Receipt { consumed, then: Then::More { needed } };
                }
                self.end_link(conn);
                return Receipt { consumed, then: Then::Close };
            };
            if size > limits::GREETING_MAX && !self.mesh.is_greeted(conn) {
                self.end_link(conn);
                return Receipt { consumed, then: Then::Close };
            }
            if let Ok(Split::Partial { needed }) = split {
                return Receipt { consumed, then: Then::More { needed } };
            }
            consumed += size;
            match self.mesh.frame(&mut self.desk.sessions, &self.machine.members, conn, &rest[..size]) {
                Outcome::Done => {}
                Outcome::Join { node, incarnation, addr } => self.join(conn, node, incarnation, addr),
                Outcome::Deliver(from, frame) => self.deliver(from, frame),
                Outcome::Retired => self.fate = Some(Fate::Rejoin),
                Outcome::End => {
                    self.end_link(conn);
                    return Receipt { consumed, then: Then::Close };
                }
            }
        }
    }

    /// A link is over: what is to be sent on it is sent, and then it is closed.
    pub(super) fn end_link(&mut self, conn: Conn) {
        self.mesh.gone(&mut self.desk.sessions, conn);
        self.desk.sessions.end(conn);
    }

    fn join(&mut self, conn: Conn, node: NodeId, incarnation: u64, addr: &str) {
        if self.is_closed() || !self.log_takes(addr.len()) || !is_address(addr.as_bytes()) {
            let detail = "no majority of the cluster is within reach of this node: it cannot let anyone in now";
            return self.mesh.refuse(&mut self.desk.sessions, conn, Refusal::Unavailable, detail);
        }
        // One that is here already can only be another who calls itself so, or the same from before it is known to be gone.
        let same = self.machine.members.nodes().iter().filter(|(_, m)| m.node == node);
        for (id, member) in same {
            let ahead = incarnation.saturating_sub(member.incarnation);
            if ahead > INCARNATIONS_AHEAD || (ahead > 0 && self.mesh.reaches(*id)) {
                let detail = "a node with this id is in the cluster";
                return self.mesh.refuse(&mut self.desk.sessions, conn, Refusal::Unavailable, detail);
            }
        }
        let registration = Registration { raft_id: 0, node, incarnation, addr: addr.as_bytes() };
        self.enqueue(Pending { asker: Asker::Joiner(conn) }, &Command::Register(registration));
    }

    fn deliver(&mut self, from: u64, frame: Frame<'_>) {
        match frame {
            Frame::Raft(message) => self.message(from, *message),
            Frame::Forward(batch) => {
                // Nobody speaks for another, and what nobody could have been asked is no mutation.
                if !batch::verify(batch).is_ok_and(|parcel| parcel.origin.node == from) {
                    return;
                }
                let batch = Bytes::copy_from_slice(batch);
                if self.group.leads() {
                    self.forward.lead(self.group.term(), &self.machine);
                    self.forward.take(batch, &self.machine);
                } else if self.group.is_leader() {
                    self.forward.take_early(batch);
                }
            }
            Frame::Chunk { transfer, seq, last, records } => {
                let records = Bytes::copy_from_slice(records);
                self.chunk(from, transfer, Chunk { seq, last, records });
            }
            Frame::ChunkAck { transfer, next, failed } => self.chunk_ack(from, transfer, next, failed),
            _ => {}
        }
    }

    /// A message of raft, from the node that it names, and such as raft can take.
    fn message(&mut self, from: u64, message: Message) {
        let known = matches!(
            message.msg_type,
            MessageType::MsgAppend
                | MessageType::MsgAppendResponse
                | MessageType::MsgRequestVote
                | MessageType::MsgRequestVoteResponse
                | MessageType::MsgHeartbeat
                | MessageType::MsgHeartbeatResponse
                | MessageType::MsgReadIndex
                | MessageType::MsgReadIndexResp
                | MessageType::MsgTimeoutNow
                | MessageType::MsgRequestPreVote
                | MessageType::MsgRequestPreVoteResponse
        );
        let append = message.msg_type == MessageType::MsgAppend;
        let run = !append
            || message.entries.iter().zip(1..).all(|(entry, i)| message.index.checked_add(i) == Some(entry.index));
        // raft takes these on trust, and panics on what no peer of sound mind would say.
        let (last, term) = (self.group.last_index(), self.group.term());
        let sane = message.term <= term.saturating_add(TERMS_AHEAD)
            && match message.msg_type {
                MessageType::MsgHeartbeat => message.commit <= last,
                MessageType::MsgAppendResponse => message.index <= last,
                _ => true,
            };
        if !known || !run || !sane || message.from != from || message.to != self.config.raft_id {
            return;
        }
        self.hear(from);
        // What finds no room in the log now is sent again.
        let bytes: usize = message.entries.iter().map(|e| e.data.len()).sum();
        if append && !self.log.can_accept(RECORDS + message.entries.len(), bytes + GATHER_OVERHEAD) {
            return;
        }
        // Whoever asks for votes has seen the leader go; so may this node have.
        if message.msg_type == MessageType::MsgRequestPreVote {
            self.watch_leader();
        }
        self.group.step(message);
    }

    fn hear(&mut self, from: u64) {
        if self.machine.members.nodes().contains_key(&from) {
            self.heard.insert(from, self.now_ms);
        }
    }

    /// Sends what raft has for the peers.
    pub(super) fn send_messages(&mut self) {
        for message in self.group.take_messages() {
            let to = message.to;
            if message.msg_type == MessageType::MsgSnapshot {
                self.begin_sending(to);
                continue;
            }
            let sent =
                self.mesh.send(&mut self.desk.sessions, to, |route, out| peer::encode_raft(route, &message, out));
            if !sent && message.msg_type == MessageType::MsgAppend {
                self.group.unreachable(to);
            }
        }
    }

    // ---- who leads, who is there ----

    /// Whether no majority is in reach, or no leader to be had, for long enough to be sure: writes are refused.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The node that leads, as far as is known, and is in reach.
    pub(super) fn leader(&self) -> Option<u64> {
        let leader = self.group.leader();
        (leader != 0 && self.mesh.reaches(leader)).then_some(leader)
    }

    /// A leader that is in nobody's reach is gone: the others need not wait for a time-out.
    pub(super) fn watch_leader(&mut self) {
        let (leader, me) = (self.group.leader(), self.config.raft_id);
        if leader != 0 && leader != me && !self.mesh.reaches(leader) {
            self.lines.push(format!("the leader {} is out of reach", self.mesh.name(&self.machine.members, leader)));
            self.group.forget_leader();
            self.urgent = Some((self.group.term(), self.ticks));
        }
        let Some((term, since)) = self.urgent else { return };
        if self.group.leader() != 0 || self.group.term() != term || !self.machine.members.is_voter(me) {
            self.urgent = None;
            return;
        }
        let reached = self.machine.members.voters().iter().filter(|v| self.mesh.reaches(**v));
        let (all, before) = reached.fold((0, 0), |(all, before), v| (all + 1, before + u64::from(*v < me)));
        let turn = (self.ticks - since) % (TURN_TICKS * all);
        if turn / TURN_TICKS == before && self.stood != Some(self.ticks) {
            self.stood = Some(self.ticks);
            // Whether it is taken shows by who leads.
            let _refused = self.group.campaign();
        }
    }

    /// Says who leads, once it is known.
    pub(super) fn tell_leader(&mut self) {
        let now = (self.group.leader(), self.group.term());
        if now.0 == 0 || now == self.told_leader {
            return;
        }
        self.told_leader = now;
        let (leader, term) = now;
        self.lines.push(if leader == self.config.raft_id {
            format!("this node leads (raft id {leader}, term {term})")
        } else {
            format!("leader is {} in term {term}", self.mesh.name(&self.machine.members, leader))
        });
    }

    /// Finds out whether writes can be taken.
    pub(super) fn watch_quorum(&mut self) {
        let voters = self.machine.members.voters();
        let live = voters.iter().filter(|v| self.mesh.reaches(**v)).count();
        let all = voters.len();
        let now = self.now_ms;
        if live > all / 2 {
            self.lost_since = None;
        } else {
            self.lost_since.get_or_insert(now);
        }
        // One that was elected, but cannot commit, leads nobody.
        if self.leader().is_some_and(|leader| leader != self.config.raft_id || self.group.leads()) {
            self.leaderless_since = None;
        } else {
            self.leaderless_since.get_or_insert(now);
        }
        let election = self.config.election_ms;
        let longer = |since: Option<u64>, ms: u64| since.is_some_and(|since| now.saturating_sub(since) >= ms);
        let closed = longer(self.lost_since, election)
            || longer(self.leaderless_since, LEADERLESS * election)
            || (!self.is_alone() && longer(self.forward.waits_since(), UNCOMMITTED * election));
        if closed == self.closed {
            return;
        }
        self.closed = closed;
        if closed {
            self.lines.push(format!(
                "no quorum: {live} of {all} members in reach, and {}; reads go on, writes are refused until they are committed again",
                if self.leader().is_some() { "nothing is committed" } else { "no leader" }
            ));
            self.withdraw();
        } else {
            self.lines.push(format!("quorum: {live} of {all} members in reach, writes go on"));
        }
    }

    /// Refuses what was not sent to anyone yet.
    fn withdraw(&mut self) {
        for _ in 0..self.gather.withdraw() {
            let Some(pending) = self.pending.pop_back() else { break };
            match pending.asker {
                Asker::Client { conn, tag, .. } => {
                    self.desk.answered(conn, &Response::error(tag, ErrCode::Readonly, None));
                }
                Asker::Own => self.introduced = super::Introduced::No,
                Asker::Joiner(conn) => {
                    let detail = "the cluster has lost its quorum: it cannot let anyone in now";
                    self.mesh.refuse(&mut self.desk.sessions, conn, Refusal::Unavailable, detail);
                }
            }
        }
        let asked = self.asked.drain(..).flat_map(|(_, _, syncs)| syncs);
        for (conn, tag) in asked.chain(self.syncs.drain(..)).collect::<Vec<_>>() {
            self.desk.answered(conn, &no_quorum(tag));
        }
        self.resume_stalled();
    }

    // ---- members ----

    /// What the leader does about the members.
    pub(super) fn see_to_members(&mut self) {
        let full = self.log.room() == Room::Full;
        let flags = if full { FLAG_FULL } else { 0 } | if self.stopping { FLAG_LEAVING } else { 0 };
        self.mesh.set_flags(&mut self.desk.sessions, flags);
        if !self.group.leads() {
            self.led = None;
            return;
        }
        let (now, me) = (self.now_ms, self.config.raft_id);
        if self.led != Some(self.group.term()) {
            // Nobody was expected to be heard by this node before.
            self.led = Some(self.group.term());
            let ids: Vec<u64> = self.machine.members.nodes().keys().copied().collect();
            self.heard = ids.into_iter().map(|id| (id, now)).collect();
        }
        for id in self.machine.members.nodes().keys() {
            self.heard.entry(*id).or_insert(now);
        }
        if self.group.is_handing_over() || self.group.is_changing() {
            return;
        }
        let view = View {
            me,
            members: &self.machine.members,
            committed: self.group.committed(),
            progress: &|id| self.group.progress(id),
            silent_ms: &|id| now.saturating_sub(self.heard.get(&id).copied().unwrap_or(now)),
            fit: &|id| self.mesh.reaches(id) && self.mesh.flags(id) == 0,
            timeout_ms: self.config.timeout_ms,
            election_ms: self.config.election_ms,
        };
        let stuck =
            self.writing_since.is_some_and(|since| now.saturating_sub(since) >= STUCK_DISK * self.config.election_ms);
        let step = match view.heir() {
            Some(heir) if self.stopping || full || stuck => Step::HandOver(heir),
            _ if self.stopping => Step::Rest,
            _ => view.next(),
        };
        match step {
            Step::Rest => {}
            Step::Propose(change) => {
                self.group.propose_change(&change);
            }
            Step::HandOver(heir) => {
                let why = match (self.stopping, full, stuck) {
                    (true, ..) => "this node stops",
                    (_, true, _) => "the disk of this node is full",
                    (.., true) => "the disk of this node does not finish a write",
                    _ => "this node is to leave its slot",
                };
                self.lines.push(format!("handing over to {}: {why}", self.mesh.name(&self.machine.members, heir)));
                self.group.hand_over(heir);
            }
        }
    }

    /// Applies a change of the members.
    pub(super) fn apply_change(&mut self, change: &Change) {
        let name = self.mesh.name(&self.machine.members, change.raft_id());
        if !self.machine.change(change) {
            return;
        }
        self.group.apply_change(change);
        self.desk.wake(&mut self.machine.store);
        let name = if change.raft_id() == self.config.raft_id { format!("this node, {name},") } else { name };
        let voters = self.machine.members.voters().len();
        let path = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        self.lines.push(match change {
            Change::Admit(_) => format!("{name} is a standby now"),
            Change::Promote(_, slot, _) => format!("{name} is promoted into {}: {voters} members", path(slot)),
            Change::Demote(_, Some((slot, _))) => {
                format!(
                    "{name} is taken out of {}: it was not heard, or came back without its data; {voters} members",
                    path(slot)
                )
            }
            Change::Demote(_, None) => format!("{name} has lost its slot and is a standby now: {voters} members"),
            Change::Remove(_) => format!("{name} is removed from the cluster"),
        });
        self.notice_retirement();
    }

    pub(super) fn notice_retirement(&mut self) {
        if self.machine.members.is_retired(self.config.raft_id) {
            self.fate = Some(Fate::Rejoin);
        }
    }

    /// What this node stands for in the cluster, if that has changed.
    pub fn take_standing(&mut self) -> Option<Standing> {
        let members = &self.machine.members;
        let standing = Standing {
            voters: u32::try_from(members.voters().len()).unwrap_or(u32::MAX),
            voter: members.is_voter(self.config.raft_id),
            peers: self.mesh.known_addresses(members),
        };
        if self.standing.as_ref() == Some(&standing) {
            return None;
        }
        self.standing = Some(standing.clone());
        Some(standing)
    }

    // ---- snapshots to and from peers ----

    fn begin_sending(&mut self, to: u64) {
        if self.sending.is_some() {
            return self.group.snapshot_sent(to, false);
        }
        self.transfers += 1;
        let transfer = (self.config.epoch << 32) | self.transfers;
        let at = (self.group.applied(), self.group.applied_term());
        self.lines.push(format!(
            "sending a snapshot of revision {} to {}, which is too far behind for the log",
            self.machine.store.revision(),
            self.mesh.name(&self.machine.members, to),
        ));
        self.sending = Some(Sending::begin(&mut self.machine, to, transfer, self.group.term(), at, self.now_ms));
    }

    /// Reads off and sends the next slice of a snapshot.
    pub(super) fn send_chunks(&mut self) {
        // Also before this node has committed anything as leader: it may need the one that is behind for that.
        self.group.allow_snapshot(self.sending.is_none() && self.group.is_leader());
        let Some(sending) = &mut self.sending else { return };
        sending.slice(&mut self.machine.store);
        let (to, transfer) = (sending.to, sending.transfer);
        let (mesh, sessions) = (&mut self.mesh, &mut self.desk.sessions);
        sending.send(|Chunk { seq, last, records }| {
            let frame = Frame::Chunk { transfer, seq: *seq, last: *last, records };
            mesh.send(sessions, to, |route, out| peer::encode(route, &frame, out))
        });
    }

    fn chunk_ack(&mut self, from: u64, transfer: u64, next: u64, failed: bool) {
        let now = self.now_ms;
        let Some(sending) = self.sending.as_mut().filter(|s| s.to == from && s.transfer == transfer) else { return };
        if failed {
            self.lines
                .push(format!("{} does not want the snapshot any more", self.mesh.name(&self.machine.members, from)));
            return self.end_sending(false);
        }
        sending.acknowledged(next, now);
        self.see_to_sending();
    }

    pub(super) fn see_to_sending(&mut self) {
        let Some(sending) = &mut self.sending else { return };
        if !self.group.is_leader() {
            return self.end_sending(false);
        }
        let name = self.mesh.name(&self.machine.members, sending.to);
        match sending.tick(self.now_ms, &name, &mut self.lines) {
            Progress::Going => {}
            Progress::Done => self.end_sending(true),
            Progress::Stuck => self.end_sending(false),
        }
    }

    fn end_sending(&mut self, done: bool) {
        let Some(sending) = self.sending.take() else { return };
        self.group.snapshot_sent(sending.to, done);
        self.held = done.then_some((sending.to, sending.index, self.now_ms + CATCH_UP_MS));
        sending.end(&mut self.machine.store);
    }

    /// The entry from which on the log is kept in memory for a peer that was sent a snapshot.
    pub(super) fn hold(&mut self) -> u64 {
        if let Some(sending) = &self.sending {
            return sending.index;
        }
        let Some((to, index, until)) = self.held else { return u64::MAX };
        let caught_up = self.group.progress(to).is_none_or(|p| p.replicating && p.matched >= index);
        if caught_up || self.now_ms >= until {
            self.held = None;
        }
        index
    }

    fn chunk(&mut self, from: u64, transfer: u64, chunk: Chunk) {
        self.hear(from);
        if let Some(receiving) = self.snapshots.receiving()
            && receiving.from == from
            && receiving.transfer == transfer
        {
            receiving.take(chunk, self.now_ms);
        } else if self.arrived.as_ref().is_some_and(|arrived| arrived.transfer == transfer) {
            // All of it has arrived, and the word of that got lost.
            self.ack(from, transfer, chunk.seq + 1, false);
        } else if chunk.seq == 0 {
            if !self.snapshots.is_idle() {
                // Another is in the way. This one comes again.
                return self.snapshots.abandon(&mut self.machine.store);
            }
            match Receiving::begin(from, transfer, chunk, self.config.history, self.now_ms) {
                Some(receiving) => {
                    let name = self.mesh.name(&self.machine.members, from);
                    self.lines.push(format!("receiving a snapshot up to entry {} from {name}", receiving.describe().0));
                    self.snapshots.begin_received(Box::new(receiving), &self.config.node);
                }
                None => self.ack(from, transfer, 0, true),
            }
        }
    }

    fn ack(&mut self, to: u64, transfer: u64, next: u64, failed: bool) {
        let frame = Frame::ChunkAck { transfer, next, failed };
        // What does not arrive is asked for again.
        let _lost = self.mesh.send(&mut self.desk.sessions, to, |route, out| peer::encode(route, &frame, out));
    }

    /// Acknowledges the parts that were written.
    pub(super) fn see_to_receiving(&mut self) {
        let now = self.now_ms;
        let Some(receiving) = self.snapshots.receiving() else { return };
        let (from, transfer) = (receiving.from, receiving.transfer);
        if let Some(why) = receiving.failure(now) {
            self.lines.push(format!("gave up the snapshot that was being received: {why}"));
            self.snapshots.abandon(&mut self.machine.store);
            self.ack(from, transfer, 0, true);
        } else if let Some(next) = receiving.acknowledge(false) {
            self.ack(from, transfer, next, false);
        }
    }

    /// A snapshot from the leader is durable: raft is told, and when the log knows of it too, it is gone on from.
    pub(super) fn arrive(&mut self) {
        let Some(mut received) = self.snapshots.take_received() else { return };
        let receiving = &mut received.receiving;
        let (from, transfer) = (receiving.from, receiving.transfer);
        let machine = match receiving.finish() {
            Ok(machine) => machine,
            Err(bad) => {
                self.lines.push(format!("the snapshot that was received cannot be used: {bad}"));
                return self.ack(from, transfer, 0, true);
            }
        };
        let (index, term, _) = receiving.describe();
        let conf = machine.members.conf().clone();
        self.arrived = Some(Arrived { transfer, index, machine });
        self.group.step(snapshot_message(self.config.raft_id, receiving.raft_term, (index, term), conf, from));
        if let Some(next) = receiving.acknowledge(true) {
            self.ack(from, transfer, next, false);
        }
        self.advance();
        if !self.group.is_restoring() {
            // The log has caught up by itself, or another leads.
            self.arrived = None;
            if index != self.snapshots.last() {
                self.removals.push(name::snapshot(index));
            }
        }
    }

    /// Goes on from the snapshot that has arrived.
    pub(super) fn install(&mut self, index: u64) {
        let arrived = self.arrived.take().expect("raft restores only what has arrived");
        assert_eq!(arrived.index, index, "the snapshot that raft restores is the one that has arrived");
        // What goes on against the present state is ended with it.
        self.desk.finish(&mut self.machine.store);
        self.machine.succeed(arrived.machine);
        self.desk.wake(&mut self.machine.store);
        let old = self.snapshots.adopt(index, self.snapshots.last_bytes());
        self.removals.extend(old);
        self.log.release(index);
        self.lines.push(format!("went on from the leader's snapshot: revision {}", self.machine.store.revision()));
        // What became of own mutations that it covers cannot be told any more.
        let seen = self.machine.seen().get(&self.origin.node).filter(|seen| seen.epoch == self.origin.epoch);
        let last = seen.map_or(0, |seen| seen.seq);
        while self.pending_first <= last {
            self.pending_first += 1;
            if let Some(Pending { asker: Asker::Client { conn, tag, .. } }) = self.pending.pop_front() {
                self.desk.answered(conn, &Response::error(tag, ErrCode::Other, Some(b"outcome unknown")));
            }
        }
        self.forward.applied(last, self.now_ms);
        self.resume_stalled();
        self.notice_retirement();
    }

    // ---- the end ----

    /// The server is to stop: a leader hands over first.
    pub fn begin_stop(&mut self) {
        self.stopping = true;
        self.see_to_members();
    }

    /// Whether another could lead in this node's place, and does not yet.
    pub(super) fn is_to_hand_over(&self) -> bool {
        let voters = self.machine.members.voters();
        self.group.is_leader() && voters.iter().any(|v| *v != self.config.raft_id && self.mesh.reaches(*v))
    }
}

/// A snapshot from the leader that is durable, but not gone on from.
pub(super) struct Arrived {
    transfer: u64,
    index: u64,
    machine: super::Machine,
}

/// What a read that needs a majority is told without one.
pub(super) fn no_quorum(tag: Option<i32>) -> Response<'static> {
    Response::error(tag, ErrCode::Readonly, Some(b"no quorum within reach"))
}
