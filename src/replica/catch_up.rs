//! Snapshots for peers that are too far behind for the log, and for this node if it is: when to begin, how to handle the parts, and
//! how to install the result. [`transfer`](super::transfer) handles the parts themselves.

use super::Replica;
use super::group::snapshot_message;
use super::machine::Machine;
use super::mesh::FLAG_NO_ROOM;
use super::requests::{Asker, Pending};
use super::transfer::{Chunk, Progress, Receiving, Sending};
use crate::faults::{self, Fault};
use crate::limits;
use crate::log::name;
use crate::wire::peer::{self, ChunkFailure, Frame};
use crate::wire::{ErrCode, Response};

/// How long entries after the snapshot are kept for a peer that got it, in milliseconds.
const CATCH_UP_MS: u64 = 30_000;

/// A snapshot from the leader that is durable, but not installed.
pub(super) struct Arrived {
    transfer: u64,
    index: u64,
    machine: Machine,
}

/// Why the sending of a snapshot ends.
enum End {
    /// The peer has the whole snapshot.
    Done,
    /// The snapshot can no longer arrive. Holds the reason, if the log should say it.
    Void(Option<&'static str>),
    /// The peer does not take the snapshot.
    Failed(String),
}

impl Replica {
    pub(super) fn begin_sending(&mut self, to: u64) {
        // raft asks for another snapshot only when the previous one is useless.
        if let Some(at) = self.sending.iter().position(|sending| sending.to == to) {
            self.end_sending(at, &End::Void(None));
        }
        if !self.may_send() || self.backoff.paused(self.now_ms).contains(&to) {
            return self.group.snapshot_sent(to, false);
        }
        self.transfers += 1;
        let transfer = (self.config.epoch << 32) | self.transfers;
        let at = (self.group.applied(), self.group.applied_term());
        let quiet = self.backoff.was_told(to);
        if !quiet {
            self.lines.push(format!(
                "sending a snapshot of revision {} to {}, which is too far behind for the log",
                self.machine.store.revision(),
                self.mesh.name(&self.machine.members, to),
            ));
        }
        let receiver = (to, self.mesh.epoch(to));
        let sending = Sending::begin(&mut self.machine, receiver, transfer, self.group.term(), at, self.now_ms);
        self.sending.push(sending.quietly(quiet));
    }

    /// Returns whether another snapshot may begin. Snapshots are sent one after the other, but one that makes no progress holds up
    /// nobody.
    fn may_send(&self) -> bool {
        self.group.is_leader()
            && self.sending.len() < limits::TRANSFERS_MAX
            && self.sending.iter().all(|sending| sending.is_stalled(self.now_ms))
    }

    /// Reads and sends the next slice of each snapshot.
    pub(super) fn send_chunks(&mut self) {
        // This happens even before this node has committed anything as leader: it may need the peer for that.
        let may_send = self.may_send();
        self.group.allow_snapshot(may_send);
        let (mesh, sessions) = (&mut self.mesh, &mut self.desk.sessions);
        for sending in &mut self.sending {
            sending.slice(&mut self.machine.store);
            let (to, transfer) = (sending.to, sending.transfer);
            sending.send(|Chunk { seq, last, records }| {
                let frame = Frame::Chunk { transfer, seq: *seq, last: *last, records };
                mesh.send(sessions, to, |route, out| peer::encode(route, &frame, out))
            });
        }
    }

    fn sending_to(&self, peer: u64, transfer: u64) -> Option<usize> {
        self.sending.iter().position(|sending| sending.to == peer && sending.transfer == transfer)
    }

    pub(super) fn chunk_ack(&mut self, from: u64, transfer: u64, next: u64) {
        let Some(at) = self.sending_to(from, transfer) else { return };
        self.sending[at].acknowledged(next, self.now_ms);
        self.see_to_sending();
    }

    /// A peer has given up a snapshot that this node sends it.
    pub(super) fn chunk_failed(&mut self, from: u64, transfer: u64, reason: ChunkFailure) {
        let Some(at) = self.sending_to(from, transfer) else { return };
        self.end_sending(at, &End::Failed(reason.to_string()));
    }

    /// Ends the transfers that are over, and allows those whose pause has ended.
    pub(super) fn see_to_sending(&mut self) {
        let mut at = 0;
        while at < self.sending.len() {
            match self.end_of(at) {
                Some(end) => self.end_sending(at, &end),
                None => at += 1,
            }
        }
        let (members, mesh) = (&self.machine.members, &self.mesh);
        self.backoff.retain(|id| members.nodes().contains_key(&id));
        for id in members.nodes().keys().filter(|id| **id != self.config.raft_id) {
            let no_room = mesh.flags(*id) & FLAG_NO_ROOM != 0;
            self.backoff.hear(*id, mesh.epoch(*id), no_room, self.now_ms);
        }
        self.group.deny_snapshot(self.backoff.paused(self.now_ms));
    }

    /// Returns why a transfer is over, or `None` if it is not.
    fn end_of(&mut self, at: usize) -> Option<End> {
        let sending = &mut self.sending[at];
        if !self.group.is_leader() {
            return Some(End::Void(None));
        }
        if sending.is_of_earlier_boot(self.mesh.epoch(sending.to)) {
            return Some(End::Void(Some("it was started anew")));
        }
        // A peer that is gone for longer than a link needs to come back must begin again, because others may be waiting.
        if !self.mesh.reaches(sending.to) && sending.idle_ms(self.now_ms) >= 4 * self.config.election_ms {
            return Some(End::Void(Some("it is out of reach")));
        }
        let name = self.mesh.name(&self.machine.members, sending.to);
        match sending.tick(self.now_ms, &name, &mut self.lines) {
            Progress::Going => None,
            Progress::Done => Some(End::Done),
            Progress::Stuck => {
                let seconds = sending.idle_ms(self.now_ms) / 1_000;
                Some(End::Failed(format!("nothing came back for {seconds} s")))
            }
        }
    }

    fn end_sending(&mut self, at: usize, end: &End) {
        let sending = self.sending.remove(at);
        let (to, now) = (sending.to, self.now_ms);
        let name = self.mesh.name(&self.machine.members, to);
        match end {
            End::Done => {
                self.backoff.done(to);
                self.held.retain(|(held, ..)| *held != to);
                self.held.push((to, sending.index, now + CATCH_UP_MS));
            }
            End::Void(None) => {}
            End::Void(Some(why)) => self.lines.push(format!("gave up sending a snapshot to {name}: {why}")),
            End::Failed(why) => {
                if self.backoff.failed(to, self.mesh.epoch(to).max(sending.epoch), why, now) {
                    self.lines.push(format!(
                        "{name} did not take a snapshot: {why}; it is sent again, at longer and longer intervals, until it takes it"
                    ));
                }
                self.group.deny_snapshot(self.backoff.paused(now));
            }
        }
        self.group.snapshot_sent(to, matches!(end, End::Done));
        sending.end(&mut self.machine.store);
    }

    /// Returns the first entry that the log keeps in memory for peers that are being sent, or have been sent, a snapshot.
    pub(super) fn hold(&mut self) -> u64 {
        let (group, now) = (&self.group, self.now_ms);
        let sent = self.sending.iter().map(|sending| sending.index).min().unwrap_or(u64::MAX);
        let held = self.held.iter().map(|(_, index, _)| *index).min().unwrap_or(u64::MAX);
        self.held.retain(|(to, index, until)| {
            let caught_up = group.progress(*to).is_none_or(|p| p.replicating && p.matched >= *index);
            !caught_up && now < *until
        });
        sent.min(held)
    }

    pub(super) fn chunk(&mut self, from: u64, transfer: u64, chunk: Chunk) {
        self.hear(from);
        // Only the leader sends snapshots. What came before this node knew who leads comes again.
        if self.group.leader() != from || self.group.is_leader() {
            return;
        }
        if let Some((_, reason)) = self.given_up.filter(|(given_up, _)| *given_up == transfer) {
            // The sender did not get the failure: say it again.
            self.fail(from, transfer, reason);
        } else if let Some(receiving) = self.snapshots.receiving()
            && receiving.from == from
            && receiving.transfer == transfer
        {
            receiving.take(chunk, self.now_ms);
        } else if self.arrived.as_ref().is_some_and(|arrived| arrived.transfer == transfer) {
            // The snapshot has arrived, but the sender did not get the acknowledgement.
            self.ack(from, transfer, chunk.seq + 1);
        } else if chunk.seq == 0 && self.no_room.is_some() {
            self.fail(from, transfer, ChunkFailure::NoRoom);
        } else if chunk.seq == 0 {
            if !self.snapshots.is_idle() {
                // Another snapshot is in the way. The sender sends this one again.
                return self.snapshots.abandon(&mut self.machine.store);
            }
            match Receiving::begin(from, transfer, chunk, self.config.history, self.now_ms) {
                // The leader began to send it in an earlier term, and begins again.
                Some(receiving) if receiving.raft_term != self.group.term() => {}
                Some(receiving) if !receiving.is_ahead_of(self.group.committed()) => {
                    let (name, (index, ..)) = (self.mesh.name(&self.machine.members, from), receiving.describe());
                    self.lines.push(format!(
                        "refused a snapshot up to entry {index} from {name}: this node has all entries up to {}",
                        self.group.committed()
                    ));
                    self.fail(from, transfer, ChunkFailure::Malformed);
                }
                Some(receiving) => {
                    let name = self.mesh.name(&self.machine.members, from);
                    self.lines.push(format!("receiving a snapshot up to entry {} from {name}", receiving.describe().0));
                    self.snapshots.begin_received(Box::new(receiving), &self.config.node);
                }
                None => self.fail(from, transfer, ChunkFailure::Malformed),
            }
        }
    }

    fn ack(&mut self, to: u64, transfer: u64, next: u64) {
        let frame = Frame::ChunkAck { transfer, next };
        // A lost frame is asked for again.
        let _lost = self.mesh.send(&mut self.desk.sessions, to, |route, out| peer::encode(route, &frame, out));
    }

    /// Gives up a snapshot that another node sends, and tells that node why.
    fn fail(&mut self, to: u64, transfer: u64, reason: ChunkFailure) {
        self.given_up = Some((transfer, reason));
        let frame = Frame::ChunkFailed { transfer, reason };
        let _lost = self.mesh.send(&mut self.desk.sessions, to, |route, out| peer::encode(route, &frame, out));
    }

    /// The disk has no room for the snapshot that this node receives. `written` bytes of it are free again, and were not enough.
    pub(super) fn no_room_for_received(&mut self, from: u64, transfer: u64, written: u64) {
        let needed = written + limits::SNAPSHOT_RESERVE;
        if self.no_room.is_none() {
            self.lines.push(format!(
                "disk full: no room in {} for the snapshot from {}; make room there, more than {} MiB in all, and it comes again by itself",
                self.config.dir,
                self.mesh.name(&self.machine.members, from),
                needed >> 20,
            ));
        }
        self.no_room = Some(needed);
        self.fail(from, transfer, ChunkFailure::NoRoom);
    }

    /// Returns how many bytes must be free on the disk before this node can receive a snapshot, or `None` if it is not short of
    /// room. The shell calls [`Replica::there_is_room`] when they are free.
    pub fn needs_room(&self) -> Option<u64> {
        self.no_room
    }

    /// The disk has the room that [`Replica::needs_room`] asked for.
    pub fn there_is_room(&mut self) {
        if self.no_room.take().is_some() {
            self.lines.push("there is room for a snapshot again".into());
        }
    }

    /// Acknowledges the parts that were written.
    pub(super) fn see_to_receiving(&mut self) {
        let now = self.now_ms;
        let Some(receiving) = self.snapshots.receiving() else { return };
        let (from, transfer) = (receiving.from, receiving.transfer);
        if let Some((reason, why)) = receiving.failure(now) {
            self.lines.push(format!("gave up the snapshot that was being received: {why}"));
            self.snapshots.abandon(&mut self.machine.store);
            self.fail(from, transfer, reason);
        } else if let Some(next) = receiving.acknowledge(false) {
            self.ack(from, transfer, next);
        }
    }

    /// A snapshot from the leader is durable: tells raft. Once the log has recorded the snapshot, it is installed.
    pub(super) fn arrive(&mut self) {
        let Some(mut received) = self.snapshots.take_received() else { return };
        let receiving = &mut received.receiving;
        let (from, transfer) = (receiving.from, receiving.transfer);
        let machine = match receiving.finish() {
            Ok(machine) => machine,
            Err(bad) => {
                self.lines.push(format!("the snapshot that was received cannot be used: {bad}"));
                return self.fail(from, transfer, ChunkFailure::Malformed);
            }
        };
        if let Some(why) = self.is_behind_own(&machine) {
            let name = self.mesh.name(&self.machine.members, from);
            self.lines.push(format!("refused a snapshot from {name}: {why}"));
            self.removals.push(name::snapshot(receiving.describe().0));
            return self.fail(from, transfer, ChunkFailure::Malformed);
        }
        let (index, term, _) = receiving.describe();
        let conf = machine.members.conf().clone();
        self.arrived = Some(Arrived { transfer, index, machine });
        self.group.step(snapshot_message(self.config.raft_id, receiving.raft_term, (index, term), conf, from));
        if let Some(next) = receiving.acknowledge(true) {
            self.ack(from, transfer, next);
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

    /// Returns why a received state cannot come after this node's own, if it cannot: a leader's state never goes back.
    fn is_behind_own(&self, later: &Machine) -> Option<String> {
        let (rev, own) = (later.store.revision(), self.machine.store.revision());
        if rev < own {
            return Some(format!("it ends at revision {rev}, and this node is at {own}"));
        }
        if later.members.next() < self.machine.members.next() {
            return Some("it does not know all nodes that were registered".into());
        }
        let issued = self.pending_first + self.pending.len() as u64 - 1;
        let seen = later.seen().get(&self.origin.node);
        let is_foreign = seen.is_some_and(|seen| {
            seen.epoch > self.origin.epoch || (seen.epoch == self.origin.epoch && seen.seq > issued)
        });
        is_foreign.then(|| "it has writes in this node's name that this node never sent".into())
    }

    /// Installs the snapshot that has arrived.
    pub(super) fn install(&mut self, index: u64) {
        let arrived = self.arrived.take().expect("raft restores only what has arrived");
        assert_eq!(arrived.index, index, "the snapshot that raft restores is the one that has arrived");
        self.machine.succeed(arrived.machine);
        self.desk.succeeded(&mut self.machine.store);
        self.reader = self.reader.take().map(|_| self.machine.store.pin().0);
        self.desk.wake(&mut self.machine.store);
        let old = self.snapshots.adopt(index, self.snapshots.last_bytes());
        self.removals.extend(old);
        self.log.release(index);
        self.lines.push(format!("went on from the leader's snapshot: revision {}", self.machine.store.revision()));
        // The outcome of this node's own mutations that the snapshot covers is unknown.
        let seen = self.machine.seen().get(&self.origin.node).filter(|seen| seen.epoch == self.origin.epoch);
        let last = seen.map_or(0, |seen| seen.seq);
        while self.pending_first <= last {
            self.pending_first += 1;
            if let Some(Pending { asker: Asker::Client { conn, tag, .. } }) = self.pending.pop_front()
                && !faults::is_armed(Fault::InstallForgetsAskers)
            {
                self.desk.answered(conn, &Response::error(tag, ErrCode::Other, Some(b"outcome unknown")));
            }
        }
        self.stages.skipped(self.pending_first);
        self.forward.applied(last, self.now_ms);
        self.resume_stalled();
        self.notice_retirement();
    }
}
