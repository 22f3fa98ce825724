//! Decides how the leader manages the members: whom it admits, promotes, demotes and removes, and when it must not.
//!
//! The leader makes one change at a time, based on the replicated state and on what it knows about the others: who is heard, who
//! has caught up. A change is proposed, and checked again when it is applied.
//!
//! Invariant: the leader proposes no change after which the members that are heard could not continue.

use super::group::Progress;
use super::members::{Change, Members};
use crate::faults::{self, Fault};
use crate::log::NodeId;

/// A standby is forgotten after a silence of this many times a member's limit.
const STANDBY_PATIENCE: u64 = 10;

/// The leader's knowledge.
pub struct View<'a> {
    /// The leader's raft id.
    pub me: u64,
    /// The replicated state.
    pub members: &'a Members,
    /// The leader's last committed entry.
    pub committed: u64,
    /// Returns a peer's progress.
    pub progress: &'a dyn Fn(u64) -> Option<Progress>,
    /// Returns how long a peer has been silent, in milliseconds.
    pub silent_ms: &'a dyn Fn(u64) -> u64,
    /// Returns whether a peer is reachable and wants to stay.
    pub fit: &'a dyn Fn(u64) -> bool,
    /// A member that has been silent for this long, in milliseconds, is taken out.
    pub timeout_ms: u64,
    /// A peer that has been silent for this long, in milliseconds, does not count.
    pub election_ms: u64,
}

/// The condition of all voters except one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// The number of all voters, including that one.
    pub all: usize,
    /// Other voters that have everything that is committed.
    pub ready: usize,
    /// Other voters that will have it soon.
    pub behind: usize,
}

impl Others {
    /// Returns whether the others can commit without that one now.
    pub fn suffice(self) -> bool {
        self.ready > self.all / 2
    }

    /// Returns whether the others can soon commit without that one.
    pub fn will_suffice(self) -> bool {
        self.ready + self.behind > self.all / 2
    }
}

/// What the leader does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Rest,
    /// Propose this.
    Propose(Change),
    /// Hand leadership to this node, because the leader itself must be demoted.
    HandOver(u64),
}

impl View<'_> {
    fn live(&self, id: u64) -> bool {
        id == self.me || (self.silent_ms)(id) <= 2 * self.election_ms
    }

    /// Returns whether the voters that are heard can commit the removal of the voter `id`, and continue after it.
    fn can_spare(&self, id: u64) -> bool {
        let voters = self.members.voters();
        let live = voters.iter().filter(|v| self.live(**v)).count();
        let rest = voters.iter().filter(|v| **v != id && self.live(**v)).count();
        live > voters.len() / 2 && rest > (voters.len() - 1) / 2
    }

    fn caught_up(&self, id: u64) -> bool {
        (self.progress)(id).is_some_and(|progress| progress.is_near(self.committed))
    }

    /// Returns the voter that is best suited to lead instead of this node.
    pub fn heir(&self) -> Option<u64> {
        let others = self.members.voters().iter().copied().filter(|v| *v != self.me);
        others
            .filter(|v| self.live(*v) && (self.fit)(*v) && self.caught_up(*v))
            .max_by_key(|v| ((self.progress)(*v).map_or(0, |p| p.matched), std::cmp::Reverse(*v)))
    }

    /// Returns the next step.
    pub fn next(&self) -> Step {
        self.take_out()
            .or_else(|| self.promote())
            .or_else(|| self.admit())
            .or_else(|| self.forget())
            .unwrap_or(Step::Rest)
    }

    /// Takes out voters that lost their slot, that came back under another raft id, or that are silent.
    fn take_out(&self) -> Option<Step> {
        if self.members.voters().len() == 1 {
            return None;
        }
        for &id in self.members.voters() {
            let Some(member) = self.members.nodes().get(&id) else { continue };
            let slot = self.members.slot_of(&member.node).map(|(path, slot)| (path.clone(), slot.rev));
            let gone = id != self.me && (self.silent_ms)(id) >= self.timeout_ms;
            if slot.is_some() && !gone && !self.members.is_superseded(id) {
                continue;
            }
            if id == self.me {
                return self.heir().map(Step::HandOver);
            }
            if self.can_spare(id) {
                return Some(Step::Propose(Change::Demote(id, slot)));
            }
        }
        None
    }

    fn promote(&self) -> Option<Step> {
        let candidates = self.members.standbys().iter().copied().filter_map(|id| {
            let member = self.members.nodes().get(&id)?;
            let fits = self.members.slot_of(&member.node).is_none()
                && !self.members.is_superseded(id)
                && (faults::is_armed(Fault::PromotedUnseen) || self.live(id) && (self.fit)(id) && self.caught_up(id));
            fits.then_some((id, &member.node))
        });
        let candidates: Vec<_> = candidates.collect();
        if candidates.is_empty() {
            // Clients may have made very many slots.
            return None;
        }
        self.members.slots().iter().filter(|(_, slot)| slot.holder.is_empty()).find_map(|(path, slot)| {
            let fits = |(_, node): &&(u64, &NodeId)| slot.former.as_deref() != Some(&node[..]);
            let (id, _) = candidates.iter().find(fits)?;
            Some(Step::Propose(Change::Promote(*id, path.clone(), slot.rev)))
        })
    }

    fn admit(&self) -> Option<Step> {
        let mut nodes = self.members.nodes().keys().copied();
        let id = nodes.find(|id| !self.members.is_known_to_raft(*id) && !self.members.is_superseded(*id))?;
        Some(Step::Propose(Change::Admit(id)))
    }

    fn forget(&self) -> Option<Step> {
        let patience = STANDBY_PATIENCE.saturating_mul(self.timeout_ms);
        // A node whose disk is lost again and again must not fill the table with its old ids.
        let gone = |id: &u64| {
            self.members.is_superseded(*id)
                || self.members.is_replaced(*id) && !self.live(*id)
                || (self.silent_ms)(*id) >= patience
        };
        let id = self.members.standbys().iter().copied().find(gone)?;
        Some(Step::Propose(Change::Remove(id)))
    }
}

/// Returns why a client may not take the node out of a slot: the other reachable members could not continue without it. Returns
/// `None` also if the slot's revision is greater than the client's `rev`: such a request changes nothing and is answered with
/// REV_MISMATCH, whether or not a majority is reachable.
pub fn objection(members: &Members, slot: &[u8], rev: i64, reaches: impl Fn(u64) -> bool) -> Option<String> {
    let id = members.voter_in(slot)?;
    if rev != -1 && members.slots().get(slot).is_some_and(|slot| rev < slot.rev) {
        return None;
    }
    let rest: Vec<u64> = members.voters().iter().copied().filter(|v| *v != id).collect();
    let live = rest.iter().filter(|v| reaches(**v)).count();
    (live <= rest.len() / 2 && !rest.is_empty()).then(|| {
        format!(
            "refused: without the node in {}, {live} of {} members would be within reach, too few to go on; see to the others first",
            String::from_utf8_lossy(slot),
            rest.len(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::batch::Registration;
    use crate::store::{Mutation, Store};

    /// A cluster of so many voters and standbys, in their slots.
    struct Cluster {
        members: Members,
        store: Store,
        silent: Vec<u64>,
        silent_ms: u64,
        behind: Vec<u64>,
    }

    fn node(id: u64) -> NodeId {
        [b'A' + u8::try_from(id).unwrap(); 16]
    }

    fn slot(n: u64) -> Vec<u8> {
        format!("/ctl/cal/{n}").into_bytes()
    }

    impl Cluster {
        fn new(voters: u64, standbys: u64) -> Cluster {
            let (members, store) = (Members::founding(), Store::new(100));
            let mut cluster = Cluster { members, store, silent: vec![], silent_ms: 5_000, behind: vec![] };
            for id in 1..=voters + standbys {
                cluster.register(id, 0);
                if id > 1 {
                    cluster.members.change(&Change::Admit(id)).unwrap();
                }
                if id <= voters {
                    let rev = cluster.write(id, if id == 1 { node(1).to_vec() } else { vec![] });
                    if id > 1 {
                        let tree = cluster.members.change(&Change::Promote(id, slot(id), rev)).unwrap();
                        cluster.write(id, tree[0].1.clone().unwrap());
                    }
                    cluster.members.reopen(&slot(id));
                }
            }
            cluster
        }

        fn register(&mut self, id: u64, incarnation: u64) {
            let raft_id = u64::from(id == 1);
            let addr = format!("10.0.0.{id}:8046");
            let r = Registration { raft_id, node: node(id), incarnation, addr: addr.as_bytes() };
            self.members.register(&r).unwrap();
        }

        fn write(&mut self, n: u64, value: Vec<u8>) -> i64 {
            let path = slot(n);
            let mutation = Mutation::Set { path: &path, rev: -1, value: &value };
            let rev = self.store.apply(mutation).unwrap();
            self.members.applied(&mutation, rev);
            rev
        }

        fn next(&self, me: u64) -> Step {
            View {
                me,
                members: &self.members,
                committed: 1000,
                progress: &|id| {
                    let matched = if self.behind.contains(&id) { 10 } else { 990 };
                    Some(Progress { matched, replicating: true })
                },
                silent_ms: &|id| if self.silent.contains(&id) { self.silent_ms } else { 0 },
                fit: &|_| true,
                timeout_ms: 4_000,
                election_ms: 400,
            }
            .next()
        }
    }

    /// A standby that would hold up the commits is no help as a member.
    #[test]
    fn only_a_caught_up_standby_moves_into_an_open_slot() {
        let mut cluster = Cluster::new(1, 2);
        assert_eq!(cluster.next(1), Step::Rest);
        let rev = cluster.write(9, vec![]);
        cluster.behind = vec![2];
        assert_eq!(cluster.next(1), Step::Propose(Change::Promote(3, slot(9), rev)));
        cluster.behind = vec![2, 3];
        assert_eq!(cluster.next(1), Step::Rest);
        cluster.silent = vec![3];
        cluster.behind = vec![2];
        assert_eq!(cluster.next(1), Step::Rest);
    }

    /// A member that is not heard is taken out if the others can commit that and go on, and never else.
    #[test]
    fn a_silent_member_is_taken_out_if_the_rest_can_go_on() {
        let mut cluster = Cluster::new(3, 0);
        cluster.silent = vec![3];
        let rev = cluster.members.slots()[&slot(3)].rev;
        assert_eq!(cluster.next(1), Step::Propose(Change::Demote(3, Some((slot(3), rev)))));
        cluster.silent = vec![2, 3];
        assert_eq!(cluster.next(1), Step::Rest);
        let mut two = Cluster::new(2, 0);
        two.silent = vec![2];
        assert_eq!(two.next(1), Step::Rest);
    }

    /// An operator who empties a slot wants that node demoted, the leader too.
    #[test]
    fn a_voter_without_a_slot_is_demoted_and_the_leader_hands_over_first() {
        let mut cluster = Cluster::new(3, 0);
        cluster.write(2, vec![]);
        assert_eq!(cluster.next(1), Step::Propose(Change::Demote(2, None)));
        assert_eq!(cluster.next(2), Step::HandOver(1));
        (cluster.silent, cluster.silent_ms) = (vec![3], 2_000);
        assert_eq!(cluster.next(1), Step::Rest, "1 and 3 could not go on");
    }

    /// Whom the operator has put out of a slot must not be back in it at once; another standby may.
    #[test]
    fn who_was_put_out_of_a_slot_does_not_move_in_again() {
        let mut cluster = Cluster::new(3, 0);
        let rev = cluster.write(3, vec![]);
        cluster.members.change(&Change::Demote(3, None)).unwrap();
        assert_eq!(cluster.next(1), Step::Rest);
        cluster.register(4, 0);
        cluster.members.change(&Change::Admit(4)).unwrap();
        assert_eq!(cluster.next(1), Step::Propose(Change::Promote(4, slot(3), rev)));
        let rev = cluster.write(3, vec![]);
        assert!(
            matches!(cluster.next(1), Step::Propose(Change::Promote(3, _, at)) if at == rev),
            "opened anew, for all"
        );
    }

    /// A member that lost its data comes back under another raft id: the old one votes for nobody any more.
    #[test]
    fn a_node_that_comes_back_takes_its_old_place() {
        let mut cluster = Cluster::new(3, 0);
        let r = Registration { raft_id: 0, node: node(3), incarnation: 1, addr: b"x" };
        assert_eq!(cluster.members.register(&r), Ok(4));
        let rev = cluster.members.slots()[&slot(3)].rev;
        assert_eq!(cluster.next(1), Step::Propose(Change::Demote(3, Some((slot(3), rev)))));
        let tree = cluster.members.change(&Change::Demote(3, Some((slot(3), rev)))).unwrap();
        let rev = cluster.write(3, tree[0].1.clone().unwrap());
        cluster.members.reopen(&slot(3));
        assert_eq!(cluster.next(1), Step::Propose(Change::Admit(4)));
        cluster.members.change(&Change::Admit(4)).unwrap();
        assert_eq!(cluster.next(1), Step::Propose(Change::Promote(4, slot(3), rev)));
        let tree = cluster.members.change(&Change::Promote(4, slot(3), rev)).unwrap();
        cluster.write(3, tree[0].1.clone().unwrap());
        assert_eq!(cluster.next(1), Step::Propose(Change::Remove(3)));
        cluster.members.change(&Change::Remove(3)).unwrap();
        assert_eq!(cluster.next(1), Step::Rest);
    }

    /// A node whose disk was lost is another one to the cluster, at the same address. What it was does not come back.
    #[test]
    fn a_standby_is_forgotten_when_another_node_has_come_to_its_address() {
        let mut cluster = Cluster::new(3, 1);
        (cluster.silent, cluster.silent_ms) = (vec![4], 2_000);
        assert_eq!(cluster.next(1), Step::Rest);
        let r = Registration { raft_id: 0, node: node(5), incarnation: 0, addr: b"10.0.0.4:8046" };
        assert_eq!(cluster.members.register(&r), Ok(5));
        cluster.members.change(&Change::Admit(5)).unwrap();
        assert_eq!(cluster.next(1), Step::Propose(Change::Remove(4)));
        cluster.silent = vec![5];
        assert_eq!(cluster.next(1), Step::Rest, "both are there: somebody has set up the same address twice");
    }

    /// Whoever asks for what would stop the cluster must be told why not.
    #[test]
    fn emptying_a_slot_that_the_rest_needs_is_refused() {
        let cluster = Cluster::new(3, 0);
        assert_eq!(objection(&cluster.members, &slot(2), -1, |_| true), None);
        let why = objection(&cluster.members, &slot(2), -1, |id| id != 3).unwrap();
        assert!(why.contains("1 of 2 members"), "{why}");
        assert_eq!(objection(&cluster.members, &slot(7), -1, |_| false), None, "nobody is in it");
    }

    /// `doozer add /ctl/cal/1` was refused with words about the quorum although slot 1 existed: the operator looked for a fault of
    /// the network.
    #[test]
    fn a_slot_of_another_revision_is_a_mismatch_and_no_matter_of_the_quorum() {
        let cluster = Cluster::new(3, 0);
        let rev = cluster.members.slots()[&slot(2)].rev;
        for stale in [0, rev - 1, -2] {
            assert_eq!(objection(&cluster.members, &slot(2), stale, |id| id != 3), None, "revision {stale}");
        }
        for fits in [-1, rev, rev + 1] {
            assert!(objection(&cluster.members, &slot(2), fits, |id| id != 3).is_some(), "revision {fits}");
        }
    }
}
