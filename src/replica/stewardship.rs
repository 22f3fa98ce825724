//! The members, as the replica sees to them: as leader it carries out what [`membership`](super::membership) decides; every node
//! applies the changes, says what they are, and notices when it was taken out itself.

use super::members::Change;
use super::membership::{Step, View};
use super::mesh::{FLAG_FULL, FLAG_LEAVING, FLAG_NO_ROOM};
use super::{Fate, Replica};
use crate::faults::{self, Fault};
use crate::log::Room;

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
    /// What the leader does about the members.
    pub(super) fn see_to_members(&mut self) {
        let full = self.log.room() == Room::Full;
        let flags = if full { FLAG_FULL } else { 0 }
            | if self.stopping { FLAG_LEAVING } else { 0 }
            | if self.no_room.is_some() { FLAG_NO_ROOM } else { 0 };
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
        let untold = (faults::is_armed(Fault::ChangeAppliedByLeader) && !self.group.is_leader())
            || (faults::is_armed(Fault::DemotedStillVotes) && matches!(change, Change::Demote(..)));
        if !untold {
            self.group.apply_change(change);
        }
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
