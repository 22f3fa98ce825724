//! What comes from the peers and goes to them: their connections, their frames, the messages of raft.
//!
//! Everything here is a hint or a message, and may be lost; what is promised to clients rests on raft and the state machine alone.

use bytes::Bytes;
use raft::eraftpb::{Message, MessageType};

use super::batch::{self, BadBatch, Command, Registration};
use super::mesh::{Outcome, is_address};
use super::requests::{Asker, GATHER_OVERHEAD, Pending, RECORDS};
use super::session::Conn;
use super::transfer::Chunk;
use super::vetting::{self, Verdict, Violation};
use super::{Access, Fate, Receipt, Replica, Then};
use crate::limits;
use crate::log::NodeId;
use crate::wire::peer::{self, Frame, PREAMBLE, Refusal, Split};

/// A node that has set its data aside so often since it last joined is not the one that it says it is.
const INCARNATIONS_AHEAD: u64 = 1_000;

impl Replica {
    /// Addresses of peers that are to be dialed; each is answered by [`Replica::dialed`] or [`Replica::not_dialed`].
    pub fn take_dials(&mut self, into: &mut Vec<String>) {
        self.mesh.take_dials(into);
    }

    /// A peer's address was dialed: the connection is there.
    pub fn dialed(&mut self, addr: &str) -> Conn {
        let conn = self.desk.sessions.open(Access::default());
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

    /// Returns whether a connection is one that this node dialed, or whose other side has proved to be a node of this cluster. Whoever
    /// only begins like a peer is not known yet.
    pub fn knows_peer(&self, conn: Conn) -> bool {
        self.mesh.knows(conn)
    }

    /// Moves up to `most` of the connections that must be closed, even with unsent output, into `into`.
    pub fn take_aborted(&mut self, most: usize, into: &mut Vec<Conn>) {
        self.desk.sessions.take_aborted(most, into);
    }

    /// Returns whether there are connections for [`Replica::take_aborted`].
    pub fn has_aborted(&self) -> bool {
        self.desk.sessions.has_aborted()
    }

    /// The first bytes of a connection are those of a peer: `None` if not.
    pub(super) fn preamble(&mut self, conn: Conn, bytes: &[u8]) -> Option<Receipt> {
        let session = self.desk.sessions.get(conn)?;
        if !session.fresh || bytes.is_empty() {
            return None;
        }
        if bytes[0] != PREAMBLE[0] {
            session.fresh = false;
            if session.access.read {
                self.desk.sessions.reads(conn, self.config.readers);
            }
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
                Outcome::Deliver(from, frame) => {
                    if let Err(violation) = self.deliver(from, frame)
                        && self.mesh.accuse(&self.machine.members, conn, from, violation)
                    {
                        self.end_link(conn);
                        return Receipt { consumed, then: Then::Close };
                    }
                }
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
        let registration = Registration { raft_id: 0, node, incarnation, addr: addr.as_bytes() };
        let detail = if self.disk_stuck {
            "the disk of this node is stuck: it cannot let anyone in now"
        } else if self.is_closed() || !self.log_takes(addr.len()) || !is_address(addr.as_bytes()) {
            "no majority of the cluster is within reach of this node: it cannot let anyone in now"
        } else if self.is_taken(&registration) {
            "a node with this id is in the cluster"
        } else if !self.gather.fits(addr.len(), size_of::<Registration<'_>>(), limits::BATCH_SOFT)
            || !self.registrations.take(self.config.raft_id, limits::REGISTRATIONS, self.now_ms)
        {
            "too many nodes ask this one to let them in: ask again later, or attach to another node"
        } else {
            self.enqueue(Pending { asker: Asker::Joiner(conn) }, &Command::Register(registration));
            return;
        };
        self.mesh.refuse(&mut self.desk.sessions, conn, Refusal::Unavailable, detail);
    }

    /// Returns whether a node that asks for a raft id bears the id of another node. One that is here already can only be another that
    /// calls itself so, or the same from before it is known to be gone.
    fn is_taken(&self, registration: &Registration<'_>) -> bool {
        let mut same = self.machine.members.nodes().iter().filter(|(_, member)| member.node == registration.node);
        same.any(|(id, member)| {
            let ahead = registration.incarnation.saturating_sub(member.incarnation);
            let is_here = *id == self.config.raft_id || self.mesh.reaches(*id);
            ahead > INCARNATIONS_AHEAD || (ahead > 0 && is_here)
        })
    }

    /// Takes what another node sends.
    ///
    /// # Errors
    /// If no node that follows the protocol would send it.
    fn deliver(&mut self, from: u64, frame: Frame<'_>) -> Result<(), Violation> {
        match frame {
            Frame::Raft(message) => self.message(from, *message)?,
            Frame::Forward(batch) => self.forwarded(from, batch)?,
            Frame::Chunk { transfer, seq, last, records } => {
                let records = Bytes::copy_from_slice(records);
                self.chunk(from, transfer, Chunk { seq, last, records });
            }
            Frame::ChunkAck { transfer, next } => self.chunk_ack(from, transfer, next),
            Frame::ChunkFailed { transfer, reason } => self.chunk_failed(from, transfer, reason),
            _ => {}
        }
        Ok(())
    }

    /// Takes the mutations of another node, to propose them.
    ///
    /// # Errors
    /// If that node cannot have taken them from its clients.
    fn forwarded(&mut self, from: u64, batch: &[u8]) -> Result<(), Violation> {
        let (parcel, doubtful) = batch::verify(batch).map_err(|bad| match bad {
            BadBatch::Work => Violation::Work,
            _ => Violation::Entry,
        })?;
        if parcel.origin.node != from {
            return Err(Violation::Name);
        }
        // A later boot of that node could not write any more if its numbers were used up in advance. What is relayed may have
        // overtaken the announcement of the boot, and comes again.
        if parcel.origin.epoch > self.mesh.epoch(from) || !self.group.is_leader() {
            return Ok(());
        }
        let seen = self.machine.seen().get(&from).map_or(0, |seen| seen.epoch);
        if parcel.origin.epoch > seen + limits::EPOCH_SKIP {
            return Err(Violation::Boot);
        }
        let batch = if doubtful == 0 {
            Bytes::copy_from_slice(batch)
        } else {
            let mut quota = std::mem::take(&mut self.registrations);
            let batch = batch::admit(batch, |registration| {
                if registration.raft_id != 0 {
                    return registration.raft_id == from;
                }
                // The other node keeps to the same bound, by its own clock.
                !self.is_taken(registration) && quota.take(from, 2 * limits::REGISTRATIONS, self.now_ms)
            });
            self.registrations = quota;
            batch
        };
        if self.group.leads() {
            self.forward.lead(self.group.term(), &self.machine);
            self.forward.take(batch, &self.machine);
        } else {
            self.forward.take_early(batch);
        }
        Ok(())
    }

    /// Takes a message of raft.
    ///
    /// # Errors
    /// If no node that follows the protocol would send it.
    fn message(&mut self, from: u64, message: Message) -> Result<(), Violation> {
        let view = self.group.view();
        let verdict = vetting::message(&message, from, &view)?;
        self.hear(from);
        if verdict == Verdict::Drop || !self.considers(&message, view.leader) || !self.may_step(view.term, message.term)
        {
            return Ok(());
        }
        if let Verdict::Follow(term) = verdict {
            self.group.follow(from, term);
            return Ok(());
        }
        // What finds no room in the log now is sent again.
        let bytes: usize = message.entries.iter().map(|e| e.data.len()).sum();
        let is_append = message.msg_type == MessageType::MsgAppend;
        if is_append && !self.log.can_accept(RECORDS + message.entries.len(), bytes + GATHER_OVERHEAD) {
            return Ok(());
        }
        // Whoever asks for votes has seen the leader go; so may this node have.
        if message.msg_type == MessageType::MsgRequestPreVote {
            self.watch_leader();
        }
        self.group.step(message);
        Ok(())
    }

    /// Returns whether a message counts, after what this node knows about its sender.
    fn considers(&self, message: &Message, leader: u64) -> bool {
        let members = &self.machine.members;
        // A new node does not know anybody yet.
        if members.nodes().is_empty() {
            return true;
        }
        if !members.nodes().contains_key(&message.from) {
            return vetting::from_unknown(message, members.nodes().contains_key(&leader));
        }
        leader == 0 || !vetting::is_forced(message) || members.is_voter(message.from)
    }

    /// Returns whether this node may step to a message's term now.
    fn may_step(&mut self, now: u64, term: u64) -> bool {
        if term.saturating_sub(now) <= limits::TERM_LEAP {
            return true;
        }
        let may = self.now_ms >= self.next_leap_ms;
        if may {
            self.next_leap_ms = self.now_ms + limits::TERM_LEAP_MS;
        }
        may
    }

    pub(super) fn hear(&mut self, from: u64) {
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
}
