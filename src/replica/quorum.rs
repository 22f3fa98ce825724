//! Decides who leads and whether writes are accepted, from who is reachable and whose disk works.
//!
//! These decisions affect how soon the next leader is elected, and whether a write is refused before anything was done with it.
//! They never affect what is committed.

use super::mesh::FLAG_STUCK;
use super::requests::Asker;
use super::{Replica, Syncs};
use crate::faults::{self, Fault};
use crate::limits;
use crate::log::Room;
use crate::wire::peer::Refusal;
use crate::wire::{ErrCode, Response};

/// Without a leader for so many election time-outs no more writes are taken, even if a majority seems to be in reach.
const LEADERLESS: u64 = 10;
/// The same with writes that are not committed for so long, for whatever reason.
const UNCOMMITTED: u64 = 25;
/// A node that has met neither a majority nor a leader since its start has not lost them: it reports their absence only after this
/// many election time-outs.
const START: u64 = 3;
/// When the leader is known to be gone, the other voters stand for election one after the other, so many ticks apart.
const TURN_TICKS: u64 = 2;
/// The pauses between attempts grow with every failed election, up to this factor.
const TURNS_LONGEST: u64 = 6;
/// Time after which the operator is told about a peer's stuck disk, and its node no longer counts, in milliseconds.
const PEER_DISK_MS: u64 = limits::DISK_SAID_MS - limits::DISK_SLOW_MS;

/// The leader is known to be gone: the others elect a new one at once, without waiting for a time-out.
///
/// They stand for election in turns, in the order of their ids. Two may still stand at the same time if a message takes longer than
/// a turn, and then perhaps neither wins. So they try again in the next term, with longer turns, until there is a leader.
#[derive(Clone, Copy, Debug)]
pub(super) struct Urgent {
    term: u64,
    /// The tick at which the first turn begins.
    since: u64,
    /// Number of failed elections.
    failed: u64,
}

impl Replica {
    /// Returns whether writes are refused: for long enough to be sure no majority is reachable or nobody leads, or this node's disk
    /// is stuck.
    pub fn is_closed(&self) -> bool {
        self.closed || self.disk_stuck
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
            self.urgent = Some(Urgent { term: self.group.term(), since: self.ticks, failed: 0 });
        }
        let Some(urgent) = &mut self.urgent else { return };
        if self.group.leader() != 0 || !self.machine.members.is_voter(me) {
            self.urgent = None;
            return;
        }
        let term = self.group.term();
        if urgent.term != term {
            // Somebody stands in this term, and gets time to win.
            let failed = (urgent.failed + 1).min(TURNS_LONGEST - 1);
            *urgent = Urgent { term, since: self.ticks + TURN_TICKS * failed, failed };
        }
        let Urgent { since, failed, .. } = *urgent;
        if self.ticks < since {
            return;
        }
        let length = TURN_TICKS * (failed + 1);
        let reached = self.machine.members.voters().iter().filter(|v| self.mesh.reaches(**v));
        let (all, before) = reached.fold((0, 0), |(all, before), v| (all + 1, before + u64::from(*v < me)));
        let turn = (self.ticks - since) % (length * all);
        if turn / length == before && self.stood != Some(self.ticks) {
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

    /// Checks whether this node's disk answers, and whether the others say that theirs do.
    pub(super) fn watch_disks(&mut self) {
        let now = self.now_ms;
        self.disk.set_starved(self.log.room() == Room::Waiting);
        self.disk.tell(&self.config.dir, now, &mut self.lines);
        let stuck = self.disk.is_stuck(now);
        if stuck != self.disk_stuck {
            self.disk_stuck = stuck;
            if stuck {
                let reason = self.disk.reason(&self.config.dir, now);
                self.withdraw_writes(Some(reason.as_bytes()));
                self.refuse_syncs();
            }
            self.resume_stalled();
        }
        let Replica { mesh, machine, stuck_peers, lines, config, .. } = self;
        for id in machine.members.nodes().keys().copied().filter(|id| *id != config.raft_id) {
            if mesh.reaches(id) && mesh.flags(id) & FLAG_STUCK != 0 {
                let (since, said) = stuck_peers.entry(id).or_insert((now, false));
                if !*said && now.saturating_sub(*since) >= PEER_DISK_MS {
                    *said = true;
                    lines.push(format!("the disk of {} is stuck, as it says", mesh.name(&machine.members, id)));
                }
            } else if stuck_peers.remove(&id).is_some_and(|(_, said)| said) && mesh.reaches(id) {
                lines.push(format!("the disk of {} works again", mesh.name(&machine.members, id)));
            }
        }
        stuck_peers.retain(|id, _| machine.members.nodes().contains_key(id));
    }

    /// Returns whether a peer has reported a stuck disk for a while.
    fn is_stuck_peer(&self, id: u64) -> bool {
        self.stuck_peers.get(&id).is_some_and(|(_, said)| *said)
    }

    /// Checks whether there is a quorum of reachable members whose disks work.
    pub(super) fn watch_quorum(&mut self) {
        let voters = self.machine.members.voters();
        let reached = voters.iter().filter(|v| self.mesh.reaches(**v)).count();
        let stuck = voters.iter().filter(|v| self.mesh.reaches(**v) && self.is_stuck_peer(**v)).count();
        let live = reached - stuck;
        let all = voters.len();
        let now = self.now_ms;
        if live > all / 2 {
            (self.lost_since, self.met) = (None, true);
        } else if self.is_led_by_unknown_majority() {
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
        let patience = if self.met { election } else { START * election };
        // A node whose disk is slow does not learn what is committed. One that catches up applies what others wrote first.
        if self.disk.is_slow(now) || self.catches_up() {
            self.excused_ms = now;
        }
        let waits_since = self.forward.waits_since().map(|since| since.max(self.excused_ms));
        let patience = if faults::is_armed(Fault::RefusedLate) { 5 * patience } else { patience };
        let closed = longer(self.lost_since, patience)
            || longer(self.leaderless_since, LEADERLESS * election)
            || (!self.is_alone() && longer(waits_since, UNCOMMITTED * election))
            || (self.closed && faults::is_armed(Fault::ClosedForEver));
        if closed == self.closed {
            return;
        }
        self.closed = closed;
        if closed {
            let no = if self.met { "no quorum" } else { "no quorum yet" };
            let disks = if stuck > 0 { format!(" ({stuck} of them with a stuck disk)") } else { String::new() };
            let why = match (live > all / 2, self.leader()) {
                (false, _) => "",
                (true, None) => ", but none of them leads",
                (true, Some(_)) => ", but nothing is committed",
            };
            self.lines.push(format!(
                "{no}: {reached} of {all} members in reach{disks}{why}; reads go on, writes are refused until there is one"
            ));
            self.withdraw();
        } else {
            self.lines.push(format!("quorum: {live} of {all} members in reach, writes go on"));
        }
    }

    /// Returns whether a leader is there for a majority that this node may not know: until it has caught up, the members may have
    /// changed without it. A leader that no longer reaches its majority steps down.
    fn is_led_by_unknown_majority(&self) -> bool {
        !self.has_caught_up() && self.leader().is_some_and(|leader| leader != self.config.raft_id)
    }

    /// Returns whether this node is behind the cluster and moves towards it: the leader has named an entry that is not applied here
    /// yet, a snapshot arrives, or entries were applied since the last tick.
    fn catches_up(&mut self) -> bool {
        let applied = self.group.applied();
        let moves = applied > std::mem::replace(&mut self.applied_before, applied);
        moves || self.is_behind() || self.snapshots.receiving().is_some()
    }

    /// The loop stood still for this long, in milliseconds: nobody was without a quorum, and nothing waited, for that time.
    pub(super) fn quorum_stalled(&mut self, ms: u64) {
        for since in self.lost_since.iter_mut().chain(&mut self.leaderless_since) {
            *since += ms;
        }
        if ms > 0 {
            self.excused_ms = self.now_ms;
        }
    }

    /// Refuses requests that need a quorum and have not been sent to anyone.
    fn withdraw(&mut self) {
        self.withdraw_writes(None);
        let asked = self.asked.drain(..).flat_map(|(_, _, syncs)| syncs);
        for (conn, tag) in asked.chain(self.syncs.drain(..)).collect::<Vec<_>>() {
            self.desk.answered(conn, &no_quorum(tag));
        }
        self.resume_stalled();
    }

    /// Refuses SYNCs while this node's disk is stuck, since they might wait for long. A follower cannot even ask the leader: its
    /// messages leave only when its log is durable.
    pub(super) fn refuse_syncs(&mut self) {
        let mut refused: Syncs = self.reading.drain(..).flat_map(|(_, syncs)| syncs).collect();
        if !self.group.leads() {
            refused.extend(self.asked.drain(..).flat_map(|(_, _, syncs)| syncs));
            refused.append(&mut self.syncs);
        }
        if refused.is_empty() {
            return;
        }
        let reason = self.disk.reason(&self.config.dir, self.now_ms);
        for (conn, tag) in refused {
            self.desk.answered(conn, &Response::error(tag, ErrCode::Readonly, Some(reason.as_bytes())));
        }
    }

    /// Refuses the mutations that have not been sent to anyone, with the reason.
    fn withdraw_writes(&mut self, reason: Option<&[u8]>) {
        self.stages.withdrawn();
        if faults::is_armed(Fault::ReadonlyThoughSent) {
            for pending in &mut self.pending {
                if let Asker::Client { conn, tag, .. } = std::mem::replace(&mut pending.asker, Asker::Own) {
                    self.desk.answered(conn, &Response::error(tag, ErrCode::Readonly, None));
                }
            }
        }
        for _ in 0..self.gather.withdraw() {
            let Some(pending) = self.pending.pop_back() else { break };
            match pending.asker {
                Asker::Client { conn, tag, .. } => {
                    self.desk.answered(conn, &Response::error(tag, ErrCode::Readonly, reason));
                }
                Asker::Own => self.introduced = super::Introduced::No,
                Asker::Joiner(conn) => {
                    let detail = "this node cannot reach a quorum, or its disk is stuck: it cannot let anyone in now";
                    self.mesh.refuse(&mut self.desk.sessions, conn, Refusal::Unavailable, detail);
                }
            }
        }
    }
}

/// What a read that needs a majority is told without one.
pub(super) fn no_quorum(tag: Option<i32>) -> Response<'static> {
    Response::error(tag, ErrCode::Readonly, Some(b"no quorum within reach"))
}
