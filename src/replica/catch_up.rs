//! Peers that are too far behind for the log get a snapshot, and this node gets one if it is: when to begin, what to do with what
//! comes, and how to go on from it. The parts themselves are [`transfer`](super::transfer)'s.

use super::Replica;
use super::group::snapshot_message;
use super::machine::Machine;
use super::requests::{Asker, Pending};
use super::transfer::{Chunk, Progress, Receiving, Sending};
use crate::faults::{self, Fault};
use crate::log::name;
use crate::wire::peer::{self, Frame};
use crate::wire::{ErrCode, Response};

/// How long entries are kept for a peer behind the snapshot that it got.
const CATCH_UP_MS: u64 = 30_000;

/// A snapshot from the leader that is durable, but not gone on from.
pub(super) struct Arrived {
    transfer: u64,
    index: u64,
    machine: Machine,
}

impl Replica {
    pub(super) fn begin_sending(&mut self, to: u64) {
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

    pub(super) fn chunk_ack(&mut self, from: u64, transfer: u64, next: u64, failed: bool) {
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
        // Who is gone for longer than a link needs to come back begins anew; others may be waiting for theirs.
        let gone = !self.mesh.reaches(sending.to) && sending.idle_ms(self.now_ms) >= 4 * self.config.election_ms;
        if gone {
            self.lines.push(format!("gave up sending a snapshot to {name}, which is out of reach"));
            return self.end_sending(false);
        }
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

    pub(super) fn chunk(&mut self, from: u64, transfer: u64, chunk: Chunk) {
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
        self.reader = self.reader.take().map(|_| self.machine.store.pin().0);
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
