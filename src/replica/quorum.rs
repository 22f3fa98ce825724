//! Who leads, and whether writes can be taken: found out from who is in reach.
//!
//! What is found out here decides how soon the next leader is elected, and whether a write is refused before anything was done
//! about it. It never decides what is committed.

use super::Replica;
use super::requests::Asker;
use crate::faults::{self, Fault};
use crate::wire::peer::Refusal;
use crate::wire::{ErrCode, Response};

/// Without a leader for so many election time-outs no more writes are taken, even if a majority seems to be in reach.
const LEADERLESS: u64 = 10;
/// The same with writes that are not committed for so long, for whatever reason.
const UNCOMMITTED: u64 = 25;
/// When the leader is known to be gone, the other voters stand for election one after the other, so many ticks apart.
const TURN_TICKS: u64 = 2;

impl Replica {
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
            || (!self.is_alone() && longer(self.forward.waits_since(), UNCOMMITTED * election))
            || (self.closed && faults::is_armed(Fault::ClosedForEver));
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
    pub(super) fn withdraw(&mut self) {
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
}

/// What a read that needs a majority is told without one.
pub(super) fn no_quorum(tag: Option<i32>) -> Response<'static> {
    Response::error(tag, ErrCode::Readonly, Some(b"no quorum within reach"))
}
