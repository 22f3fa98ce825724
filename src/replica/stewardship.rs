//! The members, as the replica sees to them: as leader it carries out what [`membership`](super::membership) decides; every node
//! applies the changes, says what they are, and notices when it was taken out itself.

use super::members::Change;
use super::membership::{Others, Step, View};
use super::mesh::{FLAG_BEHIND, FLAG_FULL, FLAG_LEAVING, FLAG_NO_ROOM, FLAG_STUCK};
use super::{Fate, Replica};
use crate::faults::{self, Fault};
use crate::limits;
use crate::log::Room;

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

/// The state of a node that was told to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopping {
    since_ms: u64,
    /// True while the node waits for members that are catching up.
    awaits: bool,
    /// True once the log says so.
    said: bool,
    /// True once the log says that too few members remain.
    warned: bool,
}

impl Replica {
    /// What the leader does about the members.
    pub(super) fn see_to_members(&mut self) {
        let full = self.log.room() == Room::Full;
        let mut flags = 0;
        for (flag, is) in [
            (FLAG_FULL, full),
            (FLAG_LEAVING, self.stopping.is_some()),
            (FLAG_NO_ROOM, self.no_room.is_some()),
            (FLAG_BEHIND, !self.has_caught_up()),
            (FLAG_STUCK, self.disk.is_slow(self.now_ms)),
        ] {
            flags |= if is { flag } else { 0 };
        }
        self.mesh.set_flags(&mut self.desk.sessions, flags);
        self.see_to_stop();
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
        let stopping = self.stopping.is_some();
        let leaves = self.stopping.is_some_and(|stopping| !stopping.awaits);
        // Without its disk this node still sends entries, and counts the others' acknowledgements. If the others do not suffice
        // without it, the cluster is better off with it.
        let stuck = self.disk.should_hand_over(now) && self.other_voters().suffice();
        let step = match view.heir() {
            Some(heir) if leaves || full || stuck => Step::HandOver(heir),
            _ if stopping => Step::Rest,
            _ => view.next(),
        };
        match step {
            Step::Rest => {}
            Step::Propose(change) => {
                self.group.propose_change(&change);
            }
            Step::HandOver(heir) => {
                let why = match (stopping, full, stuck) {
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
        self.group.assert_members(self.machine.members.conf());
        self.desk.wake(&mut self.machine.store);
        let name = if change.raft_id() == self.config.raft_id { format!("this node, {name},") } else { name };
        let voters = self.machine.members.voters().len();
        let path = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        // With the names of others, which a node chooses itself.
        self.mesh.note(match change {
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

    /// Begins to stop: a leader hands over first. If a majority of the others has not caught up since its own start, the node waits
    /// for it, as [`Replica::awaits_others`] says.
    pub fn begin_stop(&mut self) {
        self.stopping.get_or_insert(Stopping { since_ms: self.now_ms, awaits: false, said: false, warned: false });
        self.see_to_members();
    }

    /// Returns whether a stopping node still serves because members that the others need are catching up, or may have come back. True
    /// for at most [`limits::STOP_CATCH_UP_MS`].
    pub fn awaits_others(&self) -> bool {
        self.stopping.is_some_and(|stopping| stopping.awaits)
    }

    /// Returns the condition of the other voters, from this node's knowledge as leader and from their flags.
    fn other_voters(&self) -> Others {
        let (me, now) = (self.config.raft_id, self.now_ms);
        let mut others = Others { all: self.machine.members.voters().len(), ..Others::default() };
        for id in self.machine.members.voters().iter().copied().filter(|id| *id != me) {
            let flags = self.mesh.flags(id);
            if !self.mesh.reaches(id) || flags & (FLAG_LEAVING | FLAG_STUCK | FLAG_FULL | FLAG_NO_ROOM) != 0 {
                continue;
            }
            let lags = self.group.progress(id).is_some_and(|progress| {
                let heard =
                    self.heard.get(&id).is_some_and(|at| now.saturating_sub(*at) <= 2 * self.config.election_ms);
                heard && !progress.is_near(self.group.committed())
            });
            if flags & FLAG_BEHIND != 0 || lags {
                others.behind += 1;
            } else {
                others.ready += 1;
            }
        }
        others
    }

    /// Checks whether a stopping node has to wait for others, and logs it.
    fn see_to_stop(&mut self) {
        let Some(stopping) = self.stopping else { return };
        if !self.machine.members.is_voter(self.config.raft_id) || self.is_alone() {
            // The members may have changed since the node was told to stop.
            self.stopping = Some(Stopping { awaits: false, ..stopping });
            return;
        }
        let others = self.other_voters();
        let waited = self.now_ms.saturating_sub(stopping.since_ms);
        let in_time = waited < limits::STOP_CATCH_UP_MS;
        // What a node that has just come back says of itself may still be on its way: it is taken for one that is gone.
        let news = waited < limits::STOP_NEWS_MS;
        let awaits = !others.suffice() && ((others.will_suffice() && in_time) || news);
        let Others { all, ready, behind } = others;
        // A node that has just caught up may not have told yet.
        let says = awaits && !stopping.said && waited >= self.config.election_ms;
        if says {
            self.lines.push(format!(
                "not stopping yet: without this node {ready} of {all} members have all that is committed, and {behind} are catching up; \
                 waiting for them, at most {} s",
                limits::STOP_CATCH_UP_MS / 1_000
            ));
        }
        let warns = !awaits && !others.suffice() && !stopping.warned;
        if warns {
            self.lines.push(format!(
                "without this node {ready} of {all} members are left that have all that is committed: writes wait, or are refused, until \
                 there are {}",
                all / 2 + 1
            ));
        }
        let (said, warned) = (stopping.said | says, stopping.warned | warns);
        self.stopping = Some(Stopping { awaits, said, warned, ..stopping });
    }

    /// Whether another could lead in this node's place, and does not yet.
    pub(super) fn is_to_hand_over(&self) -> bool {
        let fit = |v: &u64| *v != self.config.raft_id && self.mesh.reaches(*v) && self.mesh.flags(*v) == 0;
        self.group.is_leader() && self.machine.members.voters().iter().any(fit)
    }
}
