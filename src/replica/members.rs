//! Who is in the cluster: raft ids, who has them, and which of them vote. Part of the replicated state.
//!
//! A node that attaches is registered and gets a raft id, which is never given again. The leader then makes it a learner, a
//! standby; promotes it into an open slot; demotes it; removes it. Each is one committed [`Change`], which is checked once more
//! when it is applied, against the state at its place in the log: whether it takes effect is the same on every server.
//!
//! The slots, the files of `/ctl/cal`, are the face of it: a voter stands in one, an empty one is open. They are kept here beside
//! the tree so that nobody has to search for them. A client may have made very many slots, so nothing here looks at all of them.
//!
//! Invariants:
//! * there is always a voter: the last one is neither demoted nor put out of its slot;
//! * a raft id that was removed has no entry here and is below `next`: that is how a node learns that it was taken out;
//! * `conf` is what raft was told, at every applied index.

use std::collections::{BTreeMap, BTreeSet};

use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};

use super::batch::Registration;
use crate::faults::{self, Fault};
use crate::limits;
use crate::log::NodeId;
use crate::store::{Lookup, Mutation, Store};

/// The founder's raft id.
pub const FOUNDER: u64 = 1;
/// Where the slots are.
pub(super) const SLOTS: &[u8] = b"/ctl/cal/";

/// A node that was registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its own id.
    pub node: NodeId,
    /// How often it had set its data aside when it was registered.
    pub incarnation: u64,
    /// Where it listens.
    pub addr: String,
}

/// A slot's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Revision of the file.
    pub rev: i64,
    /// The id of the node in it; empty if it is open.
    pub holder: Vec<u8>,
    /// Who was put out of it by a client, and does not move in again by itself. Not part of the replicated state: it is
    /// forgotten with a restart.
    pub former: Option<Vec<u8>>,
}

/// Why a mutation of a slot, or a registration, was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It would put the last member out of its slot.
    LastMember,
    /// Only the cluster writes an id into a slot.
    Filled,
    /// A slot is a file of `/ctl/cal`, not a directory.
    NotASlot,
    /// The raft id was given up, or never was this node's.
    Retired,
    /// There are too many nodes.
    Crowded,
}

impl Denied {
    /// What a client is told.
    pub fn detail(self) -> &'static str {
        match self {
            Denied::LastMember => {
                "refused: this is the last member's slot, without it the cluster would stop; fill another slot first"
            }
            Denied::Filled => {
                "refused: only the cluster writes an id into a slot; write an empty value to open it, and a standby moves in"
            }
            Denied::NotASlot => "refused: a slot is a file /ctl/cal/<n>, it has nothing below it",
            Denied::Retired => "refused: this raft id was given up",
            Denied::Crowded => "refused: the cluster has as many nodes as it can; it forgets dead ones after a while",
        }
    }
}

/// A change of the members, proposed by the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A registered node becomes a standby.
    Admit(u64),
    /// A standby becomes a voter, and its id is written into this slot, which is open at this revision.
    Promote(u64, Vec<u8>, i64),
    /// A voter becomes a standby. It stands in no slot, or in this one, at this revision, which is opened.
    Demote(u64, Option<(Vec<u8>, i64)>),
    /// A standby is forgotten.
    Remove(u64),
}

/// What a change of the members does to a file: its new value, or that it is deleted.
pub type Write = (Vec<u8>, Option<Vec<u8>>);

const ADMIT: u8 = 1;
const PROMOTE: u8 = 2;
const DEMOTE: u8 = 3;
const VACATE: u8 = 4;
const REMOVE: u8 = 5;

impl Change {
    /// The raft id that it is about.
    pub fn raft_id(&self) -> u64 {
        match self {
            Change::Admit(id) | Change::Promote(id, ..) | Change::Demote(id, _) | Change::Remove(id) => *id,
        }
    }

    /// As raft is to be told, with the change itself as context.
    pub fn to_raft(&self) -> ConfChangeV2 {
        let mut single = ConfChangeSingle::default();
        single.set_node_id(self.raft_id());
        single.set_change_type(match self {
            Change::Promote(..) => ConfChangeType::AddNode,
            Change::Admit(_) | Change::Demote(..) => ConfChangeType::AddLearnerNode,
            Change::Remove(_) => ConfChangeType::RemoveNode,
        });
        let mut change = ConfChangeV2::default();
        change.set_changes(vec![single].into());
        change.set_context(self.encode().into());
        change
    }

    /// What raft was told, back.
    pub fn of_raft(change: &ConfChangeV2) -> Option<Change> {
        Change::decode(change.get_context()).filter(|c| c.to_raft() == *change)
    }

    fn encode(&self) -> Vec<u8> {
        let (kind, id, slot) = match self {
            Change::Admit(id) => (ADMIT, id, None),
            Change::Promote(id, path, rev) => (PROMOTE, id, Some((path, *rev))),
            Change::Demote(id, None) => (DEMOTE, id, None),
            Change::Demote(id, Some((path, rev))) => (VACATE, id, Some((path, *rev))),
            Change::Remove(id) => (REMOVE, id, None),
        };
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&id.to_le_bytes());
        if let Some((path, rev)) = slot {
            bytes.extend_from_slice(&rev.to_le_bytes());
            bytes.extend_from_slice(path);
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Change> {
        let (&kind, rest) = bytes.split_first()?;
        let (&id, rest) = rest.split_first_chunk()?;
        let id = u64::from_le_bytes(id);
        let slot = || {
            let (&rev, path) = rest.split_first_chunk()?;
            Some((path.to_vec(), i64::from_le_bytes(rev)))
        };
        match kind {
            ADMIT => Some(Change::Admit(id)),
            PROMOTE => slot().map(|(path, rev)| Change::Promote(id, path, rev)),
            DEMOTE => Some(Change::Demote(id, None)),
            VACATE => slot().map(|slot| Change::Demote(id, Some(slot))),
            REMOVE => Some(Change::Remove(id)),
            _ => None,
        }
    }
}

/// The members, standbys and slots of the cluster; part of the replicated state.
#[derive(Clone, Debug, PartialEq)]
pub struct Members {
    conf: ConfState,
    nodes: BTreeMap<u64, Member>,
    next: u64,
    slots: BTreeMap<Vec<u8>, Slot>,
    /// The slots that are not open: each with its holder and its path.
    filled: BTreeSet<(Vec<u8>, Vec<u8>)>,
    /// Raised with every change.
    version: u64,
}

impl Default for Members {
    fn default() -> Members {
        Members::founding()
    }
}

impl Members {
    /// Every cluster begins with the founder as its only voter.
    pub fn founding() -> Members {
        Members::with(ConfState { voters: vec![FOUNDER], ..ConfState::default() }, BTreeMap::new(), FOUNDER + 1)
    }

    /// As a snapshot has them; the slots are in its tree.
    pub fn with(conf: ConfState, nodes: BTreeMap<u64, Member>, next: u64) -> Members {
        Members { conf, nodes, next, slots: BTreeMap::new(), filled: BTreeSet::new(), version: 0 }
    }

    /// Finds the slots in the tree of a snapshot.
    pub fn find_slots(&mut self, store: &mut Store) {
        self.slots.clear();
        self.filled.clear();
        if faults::is_armed(Fault::SlotsForgotten) {
            return;
        }
        let rev = store.revision();
        let mut budget = isize::MAX;
        let mut name = Vec::new();
        for offset in 0.. {
            let found = store.getdir(b"/ctl/cal", rev, offset, &mut budget, &mut name);
            if !matches!(found, crate::store::Getdir::Found) {
                break;
            }
            let path = [SLOTS, &name].concat();
            if let Lookup::File { rev, value } = store.lookup(&path, rev) {
                let slot = Slot { rev, holder: value.to_vec(), former: None };
                self.put_slot(path, slot);
            }
        }
    }

    fn put_slot(&mut self, path: Vec<u8>, slot: Slot) {
        if !slot.holder.is_empty() {
            self.filled.insert((slot.holder.clone(), path.clone()));
        }
        self.slots.insert(path, slot);
    }

    fn take_slot(&mut self, path: &[u8]) -> Option<Slot> {
        let (path, slot) = self.slots.remove_entry(path)?;
        if slot.holder.is_empty() {
            return Some(slot);
        }
        let key = (slot.holder, path);
        self.filled.remove(&key);
        Some(Slot { holder: key.0, ..slot })
    }

    /// Returns whether a file at this path would be a slot that does not exist yet.
    pub fn is_new_slot(&self, path: &[u8]) -> bool {
        path.starts_with(SLOTS) && !self.slots.contains_key(path)
    }

    /// Returns the path of the first slot with this holder.
    fn held_by(&self, holder: &[u8]) -> Option<&Vec<u8>> {
        let (found, path) = self.filled.range((holder.to_vec(), Vec::new())..).next()?;
        (found == holder).then_some(path)
    }

    /// Voters and learners, as raft knows them.
    pub fn conf(&self) -> &ConfState {
        &self.conf
    }

    /// The raft ids that vote.
    pub fn voters(&self) -> &[u64] {
        &self.conf.voters
    }

    /// The raft ids of the standbys.
    pub fn standbys(&self) -> &[u64] {
        &self.conf.learners
    }

    /// Whether it votes.
    pub fn is_voter(&self, raft_id: u64) -> bool {
        self.conf.voters.contains(&raft_id)
    }

    /// Whether it is a voter or a standby.
    pub fn is_known_to_raft(&self, raft_id: u64) -> bool {
        self.is_voter(raft_id) || self.conf.learners.contains(&raft_id)
    }

    /// All that were registered and not removed.
    pub fn nodes(&self) -> &BTreeMap<u64, Member> {
        &self.nodes
    }

    /// The next raft id to be given.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The slots, by path.
    pub fn slots(&self) -> &BTreeMap<Vec<u8>, Slot> {
        &self.slots
    }

    /// Raised with every change of anything here.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The slot in which a node stands.
    pub fn slot_of(&self, node: &NodeId) -> Option<(&Vec<u8>, &Slot)> {
        self.slots.get_key_value(self.held_by(node)?)
    }

    /// Whether a raft id was given up.
    pub fn is_retired(&self, raft_id: u64) -> bool {
        // The founder registers itself with its first command.
        raft_id != 0 && raft_id < self.next && !self.nodes.contains_key(&raft_id) && !self.nodes.is_empty()
    }

    /// The raft id that a voter which stands in the slot of this path has.
    pub fn voter_in(&self, path: &[u8]) -> Option<u64> {
        let holder = &self.slots.get(path)?.holder;
        self.nodes.iter().find(|(id, m)| m.node[..] == holder[..] && self.is_voter(**id)).map(|(id, _)| *id)
    }

    /// Whether a later incarnation of the same node is registered.
    pub fn is_superseded(&self, raft_id: u64) -> bool {
        let Some(member) = self.nodes.get(&raft_id) else { return false };
        self.nodes.values().any(|m| m.node == member.node && m.incarnation > member.incarnation)
    }

    /// Whether another node has come to its address since: as one whose disk was lost does, for it knows nothing of its old life.
    pub fn is_replaced(&self, raft_id: u64) -> bool {
        let Some(member) = self.nodes.get(&raft_id) else { return false };
        self.nodes.range(raft_id + 1..).any(|(_, m)| m.addr == member.addr)
    }

    /// Registers a node, or its new address, and gives its raft id.
    ///
    /// # Errors
    /// When the raft id that it says it has is not its own.
    pub fn register(&mut self, r: &Registration<'_>) -> Result<u64, Denied> {
        let addr = String::from_utf8_lossy(r.addr).into_owned();
        let id = if r.raft_id == 0 {
            let any = faults::is_armed(Fault::OldIdGivenBack);
            let known = self.nodes.iter().find(|(_, m)| m.node == r.node && (m.incarnation == r.incarnation || any));
            match known {
                Some((id, _)) => *id,
                None if self.nodes.len() >= limits::NODES_MAX => return Err(Denied::Crowded),
                None => self.next,
            }
        } else {
            let founder = r.raft_id == FOUNDER && self.nodes.is_empty();
            let own = self.nodes.get(&r.raft_id).is_some_and(|m| m.node == r.node);
            if !founder && !own {
                return Err(Denied::Retired);
            }
            r.raft_id
        };
        let member = Member { node: r.node, incarnation: r.incarnation, addr };
        if self.nodes.get(&id) != Some(&member) {
            self.version += 1;
            self.nodes.insert(id, member);
        }
        self.next = self.next.max(id + 1);
        Ok(id)
    }

    /// Whether a client's mutation of a slot is to be refused.
    pub fn deny(&self, store: &Store, mutation: &Mutation<'_>) -> Option<Denied> {
        let (path, rev, value) = match *mutation {
            Mutation::Set { path, rev, value } => (path, rev, value),
            Mutation::Del { path, rev } => (path, rev, &[][..]),
            Mutation::Nop => return None,
        };
        let name = path.strip_prefix(SLOTS)?;
        // What the store refuses it refuses by its own rules.
        let current = match store.lookup(path, store.revision()) {
            Lookup::File { rev, .. } => rev,
            Lookup::Missing => 0,
            Lookup::Dir { .. } => return None,
        };
        if rev != -1 && rev < current {
            return None;
        }
        if name.contains(&b'/') {
            return matches!(mutation, Mutation::Set { .. }).then_some(Denied::NotASlot);
        }
        let holder = self.slots.get(path).map_or(&[][..], |slot| &slot.holder);
        if holder == value && matches!(mutation, Mutation::Set { .. }) {
            return None;
        }
        if !value.is_empty() {
            // The founder writes its own id into the first slot.
            let voter = self.nodes.iter().any(|(id, m)| m.node == *value && self.is_voter(*id));
            let free = holder.is_empty() && self.held_by(value).is_none();
            return (!(voter && free)).then_some(Denied::Filled);
        }
        (!holder.is_empty() && self.filled.len() == 1).then_some(Denied::LastMember)
    }

    /// Takes note of a mutation that was applied as `rev`.
    pub fn applied(&mut self, mutation: &Mutation<'_>, rev: i64) {
        let (Mutation::Set { path, .. } | Mutation::Del { path, .. }) = *mutation else { return };
        if !path.starts_with(SLOTS) {
            return;
        }
        self.version += 1;
        match *mutation {
            Mutation::Set { value, .. } => {
                let former = self.take_slot(path).filter(|_| value.is_empty());
                let former = former.and_then(|slot| if slot.holder.is_empty() { None } else { Some(slot.holder) });
                self.put_slot(path.to_vec(), Slot { rev, holder: value.to_vec(), former });
            }
            Mutation::Del { .. } | Mutation::Nop => {
                self.take_slot(path);
            }
        }
    }

    /// A slot is open to everyone: nobody was put out of it by a client.
    pub fn reopen(&mut self, path: &[u8]) {
        if let Some(slot) = self.slots.get_mut(path) {
            slot.former = None;
        }
    }

    /// What a change does to the tree, if it holds at this place of the log; it has taken effect here then.
    pub fn change(&mut self, change: &Change) -> Option<Vec<Write>> {
        let id = change.raft_id();
        let slot_is = |path: &Vec<u8>, rev: i64| self.slots.get(path).filter(|slot| slot.rev == rev);
        let mut tree = Vec::new();
        match change {
            Change::Admit(_) => {
                if self.is_known_to_raft(id) || !self.nodes.contains_key(&id) {
                    return None;
                }
                self.conf.learners.push(id);
            }
            Change::Promote(_, path, rev) => {
                let member = self.nodes.get(&id)?;
                let unchanged = slot_is(path, *rev).is_some_and(|slot| slot.holder.is_empty());
                if !unchanged && !faults::is_armed(Fault::SlotChangeUnnoticed) {
                    return None;
                }
                if !self.conf.learners.contains(&id) || self.slot_of(&member.node).is_some() {
                    return None;
                }
                tree.push((path.clone(), Some(member.node.to_vec())));
                self.conf.learners.retain(|l| *l != id);
                self.conf.voters.push(id);
            }
            Change::Demote(_, slot) => {
                if !self.is_voter(id) || self.conf.voters.len() == 1 {
                    return None;
                }
                let node = self.nodes.get(&id).map(|m| m.node);
                match slot {
                    None if node.is_some_and(|node| self.slot_of(&node).is_some()) => return None,
                    None => {}
                    Some((path, rev)) => {
                        slot_is(path, *rev).filter(|slot| node.is_some_and(|node| slot.holder == node))?;
                        tree.push((path.clone(), Some(Vec::new())));
                    }
                }
                self.conf.voters.retain(|v| *v != id);
                self.conf.learners.push(id);
            }
            Change::Remove(_) => {
                if !self.conf.learners.contains(&id) {
                    return None;
                }
                self.conf.learners.retain(|l| *l != id);
                if let Some(gone) = self.nodes.remove(&id)
                    && !self.nodes.values().any(|m| m.node == gone.node)
                {
                    let node = String::from_utf8_lossy(&gone.node).into_owned();
                    for file in ["addr", "hostname", "version", "writable", "applied"] {
                        tree.push((format!("/ctl/node/{node}/{file}").into_bytes(), None));
                    }
                }
            }
        }
        self.conf.voters.sort_unstable();
        self.conf.learners.sort_unstable();
        self.version += 1;
        Some(tree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = *b"AAAAAAAAAAAAAAAA";
    const B: NodeId = *b"BBBBBBBBBBBBBBBB";

    fn register(members: &mut Members, raft_id: u64, node: NodeId, incarnation: u64) -> Result<u64, Denied> {
        members.register(&Registration { raft_id, node, incarnation, addr: b"127.0.0.1:1" })
    }

    fn set(members: &mut Members, store: &mut Store, path: &[u8], value: &[u8]) -> Result<i64, Denied> {
        let mutation = Mutation::Set { path, rev: -1, value };
        if let Some(denied) = members.deny(store, &mutation) {
            return Err(denied);
        }
        let rev = store.apply(mutation).unwrap();
        members.applied(&mutation, rev);
        Ok(rev)
    }

    /// A founder in its slot, and a standby.
    fn two() -> (Members, Store) {
        let (mut members, mut store) = (Members::founding(), Store::new(100));
        assert_eq!(register(&mut members, FOUNDER, A, 0), Ok(FOUNDER));
        set(&mut members, &mut store, b"/ctl/cal/0", &A).unwrap();
        assert_eq!(register(&mut members, 0, B, 0), Ok(2));
        assert!(members.change(&Change::Admit(2)).is_some());
        (members, store)
    }

    /// raft misbehaves when an id returns: asking twice gives the same, another life another, and a removed one never
    /// comes again.
    #[test]
    fn raft_ids_are_never_given_twice() {
        let (mut members, _) = two();
        assert_eq!(register(&mut members, 0, B, 0), Ok(2), "an answer that was lost is given again");
        assert_eq!(register(&mut members, 0, B, 1), Ok(3));
        assert!(members.is_superseded(2) && !members.is_superseded(3));
        assert!(members.change(&Change::Remove(2)).is_some());
        assert!(members.is_retired(2));
        assert_eq!(register(&mut members, 2, B, 0), Err(Denied::Retired));
        assert_eq!(register(&mut members, 0, B, 2), Ok(4));
    }

    /// A cluster without a member would never write again.
    #[test]
    fn the_last_member_keeps_its_slot() {
        let (mut members, mut store) = two();
        assert_eq!(set(&mut members, &mut store, b"/ctl/cal/0", b""), Err(Denied::LastMember));
        let del = Mutation::Del { path: b"/ctl/cal/0", rev: -1 };
        assert_eq!(members.deny(&store, &del), Some(Denied::LastMember));
        assert!(members.change(&Change::Demote(FOUNDER, None)).is_none());
        assert_eq!(set(&mut members, &mut store, b"/ctl/cal/1", b"somebody"), Err(Denied::Filled));
        assert_eq!(set(&mut members, &mut store, b"/ctl/cal/1/x", b""), Err(Denied::NotASlot));
    }

    /// What the leader has decided may be overtaken by a client's change of the slot: then nothing of it may happen.
    #[test]
    fn a_change_whose_slot_has_changed_does_nothing() {
        let (mut members, mut store) = two();
        let rev = set(&mut members, &mut store, b"/ctl/cal/1", b"").unwrap();
        let promote = Change::Promote(2, b"/ctl/cal/1".to_vec(), rev);
        let later = set(&mut members, &mut store, b"/ctl/cal/1", b"").unwrap();
        let before = members.clone();
        assert!(members.change(&promote).is_none());
        assert_eq!(members, before);
        let promote = Change::Promote(2, b"/ctl/cal/1".to_vec(), later);
        assert_eq!(members.change(&promote).unwrap(), [(b"/ctl/cal/1".to_vec(), Some(B.to_vec()))]);
        assert_eq!((members.voters(), members.standbys()), (&[1, 2][..], &[][..]));
        assert!(members.change(&promote).is_none(), "it is no standby any more");
    }

    /// A snapshot holds the slots only as files.
    #[test]
    fn slots_are_found_in_the_tree() {
        let (mut members, mut store) = two();
        set(&mut members, &mut store, b"/ctl/cal/1", b"").unwrap();
        let mut found = Members::with(members.conf().clone(), members.nodes().clone(), members.next());
        found.find_slots(&mut store);
        assert_eq!(found.slots(), members.slots());
        assert_eq!(found.voter_in(b"/ctl/cal/0"), Some(FOUNDER));
    }

    /// A client made sixty thousand slots, and each later change of a slot looked at all of them. They are found by their holder now,
    /// and the index must always agree with the slots.
    #[test]
    fn the_holders_of_slots_are_lost() {
        let (mut members, mut store) = two();
        let check = |members: &Members| {
            let filled = members.slots().iter().filter(|(_, slot)| !slot.holder.is_empty());
            let filled: BTreeSet<_> = filled.map(|(path, slot)| (slot.holder.clone(), path.clone())).collect();
            assert_eq!(members.filled, filled);
            for node in [A, B] {
                assert_eq!(members.slot_of(&node), members.slots().iter().find(|(_, slot)| slot.holder == node));
            }
        };
        check(&members);
        for (path, value) in [("1", &b""[..]), ("2", b""), ("1", b""), ("0", &A)] {
            set(&mut members, &mut store, format!("/ctl/cal/{path}").as_bytes(), value).unwrap();
            check(&members);
        }
        let rev = members.slots()[&b"/ctl/cal/2"[..]].rev;
        for (path, value) in members.change(&Change::Promote(2, b"/ctl/cal/2".to_vec(), rev)).unwrap() {
            assert_eq!(set(&mut members, &mut store, &path, &value.unwrap()), Ok(store.revision()));
            check(&members);
        }
        // With two filled slots, one may be emptied, and the second may not.
        set(&mut members, &mut store, b"/ctl/cal/0", b"").unwrap();
        check(&members);
        let del = Mutation::Del { path: b"/ctl/cal/2", rev: -1 };
        assert_eq!(members.deny(&store, &del), Some(Denied::LastMember));
        let del = Mutation::Del { path: b"/ctl/cal/1", rev: -1 };
        assert_eq!(members.deny(&store, &del), None);
        let rev = store.apply(del).unwrap();
        members.applied(&del, rev);
        check(&members);
        let mut found = Members::with(members.conf().clone(), members.nodes().clone(), members.next());
        found.find_slots(&mut store);
        assert_eq!((found.slot_of(&B), found.slot_of(&A)), (members.slot_of(&B), None));
    }

    /// What raft carries must come back as it was proposed, or servers would differ.
    #[test]
    fn changes_come_back_from_raft() {
        for change in [
            Change::Admit(5),
            Change::Promote(6, b"/ctl/cal/1".to_vec(), 77),
            Change::Demote(7, None),
            Change::Demote(7, Some((b"/ctl/cal/x".to_vec(), 3))),
            Change::Remove(9),
        ] {
            assert_eq!(Change::of_raft(&change.to_raft()), Some(change));
        }
        assert_eq!(Change::of_raft(&ConfChangeV2::default()), None);
    }
}
