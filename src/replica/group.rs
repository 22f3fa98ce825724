//! The raft group, as the replica uses it: proposals in; entries to persist, entries to apply and messages out.
//!
//! A single node is a group of one and works the same way. This module keeps the rules of the `raft` crate:
//! * between `ready` and `advance_append_async` nothing is stepped or proposed, and the new entries are readable in [`Entries`]
//!   before the latter;
//! * a ready counts as persisted only when its records, and all before them, are durable: [`Group::persisted`] takes the log's
//!   proof of that and releases the readies in order;
//! * a leader's messages leave at once, all others only after their ready is persisted;
//! * a snapshot is handed to raft once it is durable, and installed once the log has recorded it: [`Group::take_installed`];
//! * a leader counts as one only when it has applied an entry of its own term: then it has applied all before it;
//! * the only randomness of the crate, the election jitter, is replaced after every call into it by a pure function of seed, id and
//!   term.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{ConfChangeV2, ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot};
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};

use super::batch::Origin;
use super::entries::Entries;
use super::members::Change;
use super::vetting::View;
use crate::faults::{self, Fault};
use crate::limits;
use crate::log::{Durable, Position};

/// A leader sends a sign of life every tick.
const HEARTBEAT_TICKS: usize = 1;
/// Messages with entries that are on their way to a peer before it answers.
const INFLIGHT: usize = 256;

/// What the log must hold before a ready counts as persisted, in this order.
pub trait Persist {
    /// Stages an entry of raft.
    fn entry(&mut self, entry: &Entry);
    /// Stages that the log continues after a snapshot up to this index and of this term.
    fn restart(&mut self, index: u64, term: u64);
    /// Stages term, vote and commit index.
    fn hard_state(&mut self, hard_state: &HardState);
    /// Returns the place of the last staged record.
    fn position(&self) -> Position;
    /// Returns what is durable now.
    fn durable(&self) -> Durable;
}

/// One node's view of its raft group.
pub struct Group {
    node: RawNode<Entries>,
    entries: Entries,
    seed: u64,
    election_ticks: usize,
    /// Readies that are not yet persisted, in order.
    waiting: VecDeque<Waiting>,
    /// Messages that may leave now.
    outbox: Vec<Message>,
    committed: VecDeque<Entry>,
    read_states: Vec<(ReadContext, u64)>,
    /// The commit index that is already in the log.
    logged_commit: u64,
    applied: u64,
    applied_term: u64,
    /// A snapshot that is durable and recorded in the log, but not installed.
    installed: Option<(u64, u64)>,
    /// The durable term and vote.
    promised: (u64, u64),
}

/// A ready that is not yet persisted.
struct Waiting {
    /// raft's number for it.
    number: u64,
    /// The last record that must be durable.
    position: Position,
    /// Messages that may leave once it is persisted.
    messages: Vec<Message>,
    /// Index and term of its snapshot.
    snapshot: Option<(u64, u64)>,
    /// Raft's term and vote in this ready.
    vote: (u64, u64),
}

/// A peer's progress, as the leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The last entry that the peer is known to have.
    pub matched: u64,
    /// True if the peer is sent entries as they come.
    pub replicating: bool,
}

/// How many entries a peer that counts as caught up may lack: it gets them while the next entry is committed.
const NEAR: u64 = 64;

impl Progress {
    /// Returns whether the peer has nearly everything up to the entry `committed`.
    pub fn is_near(self, committed: u64) -> bool {
        self.replicating && self.matched + NEAR >= committed
    }
}

/// The name of a read, unique over all nodes and their boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReadContext {
    origin: Origin,
    context: u64,
}

impl ReadContext {
    fn encode(self) -> Vec<u8> {
        [self.origin.node, self.origin.epoch, self.context].map(u64::to_le_bytes).concat()
    }

    fn decode(bytes: &[u8]) -> Option<ReadContext> {
        let (numbers, []) = bytes.as_chunks::<8>() else { return None };
        let &[node, epoch, context] = numbers else { return None };
        let [node, epoch, context] = [node, epoch, context].map(u64::from_le_bytes);
        Some(ReadContext { origin: Origin { node, epoch }, context })
    }
}

/// The state from which a group continues.
#[derive(Debug, Default)]
pub struct Start {
    /// This node's raft id, never 0.
    pub id: u64,
    /// Seed of the election jitter.
    pub seed: u64,
    /// The durable term, vote and commit index.
    pub hard_state: HardState,
    /// The members, as of the applied index.
    pub conf_state: ConfState,
    /// Index of the last applied entry, and its term.
    pub applied: (u64, u64),
    /// Index and term of the entry just before `entries`; not after the last applied entry.
    pub before: (u64, u64),
    /// The entries after `before`. Some are applied, and kept for peers that are a little behind.
    pub entries: Vec<Entry>,
}

impl Group {
    /// Makes a node of the group from the state `start`. A follower stands for election after `election_ticks` without the leader,
    /// or up to twice as many.
    ///
    /// # Errors
    /// If raft refuses the configuration, which is the caller's fault.
    pub fn new(start: Start, election_ticks: usize) -> raft::Result<Group> {
        let Start { id, seed, hard_state, conf_state, applied, before, entries: new } = start;
        let (logged_commit, promised) = (hard_state.commit, (hard_state.term, hard_state.vote));
        let entries = Entries::new(hard_state, conf_state, before);
        entries.append(&new);
        entries.set_applied(applied);
        let config = raft::Config {
            id,
            election_tick: election_ticks,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: applied.0,
            max_size_per_msg: limits::BATCH_MAX as u64,
            max_inflight_msgs: INFLIGHT,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: 4 * limits::BATCH_MAX as u64,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, entries.clone(), &logger)?;
        let mut group = Group {
            node,
            entries,
            seed,
            election_ticks,
            waiting: VecDeque::new(),
            outbox: Vec::new(),
            committed: VecDeque::new(),
            read_states: Vec::new(),
            logged_commit,
            applied: applied.0,
            applied_term: applied.1,
            installed: None,
            promised,
        };
        group.jitter();
        Ok(group)
    }

    /// Returns whether this node is the leader and has applied an entry of its own term, so that it may propose and read.
    pub fn leads(&self) -> bool {
        self.is_leader() && self.applied_term == self.node.raft.term
    }

    /// Returns whether this node was elected.
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Returns the leader's raft id as far as this node knows, or 0.
    pub fn leader(&self) -> u64 {
        self.node.raft.leader_id
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// Returns the durable term and vote. Messages to other nodes rest on them, so no later boot may have less.
    pub fn promised(&self) -> (u64, u64) {
        self.promised
    }

    /// Index of the last entry that is known to be committed.
    pub fn committed(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// Index of the last entry.
    pub fn last_index(&self) -> u64 {
        self.entries.last()
    }

    /// Index of the last entry that was handed out by [`Group::next_committed`].
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Term of the last applied entry.
    pub fn applied_term(&self) -> u64 {
        self.applied_term
    }

    /// Returns a peer's progress; only the leader knows it.
    pub fn progress(&self, id: u64) -> Option<Progress> {
        let progress = self.node.raft.prs().get(id).filter(|_| self.is_leader())?;
        Some(Progress { matched: progress.matched, replicating: progress.state == ProgressState::Replicate })
    }

    /// Returns whether the log has a change of the members that is not applied here. The next leader may apply it or drop it.
    pub fn has_change(&self) -> bool {
        self.entries.changes_members_behind(self.applied)
    }

    /// Returns whether a change of the members may be unapplied; only the leader knows.
    pub fn is_changing(&self) -> bool {
        self.node.raft.has_pending_conf()
    }

    /// Returns whether leadership is being handed over.
    pub fn is_handing_over(&self) -> bool {
        self.node.raft.lead_transferee.is_some()
    }

    /// Stands for election at once, without waiting for a time-out: the only voter need not wait for anyone.
    ///
    /// # Errors
    /// If raft refuses to campaign.
    pub fn campaign(&mut self) -> raft::Result<()> {
        if !self.may_stand() || (faults::is_armed(Fault::NobodyStands) && !self.node.raft.prs().is_singleton()) {
            return Ok(());
        }
        self.node.campaign()?;
        self.jitter();
        Ok(())
    }

    /// Returns whether this node may stand for election now. raft requires that all entries of an only voter are durable. And a
    /// node that still has to install a snapshot must not stand: raft looks through the entries that are not applied, and panics if
    /// there are none.
    fn may_stand(&self) -> bool {
        let alone = self.node.raft.prs().is_singleton();
        self.is_leader() || (!self.is_restoring() && (self.waiting.is_empty() || !alone))
    }

    /// Forgets the leader, which is known to be gone; this node then votes for another at once.
    pub fn forget_leader(&mut self) {
        if !self.is_leader() {
            self.node.raft.leader_id = raft::INVALID_ID;
        }
    }

    /// Proposes a batch. Returns `false` if that is impossible now: this node does not lead, is handing over, or too much is
    /// uncommitted.
    pub fn propose(&mut self, batch: Bytes) -> bool {
        self.propose_entry(Entry { data: batch, ..Entry::default() })
    }

    /// Proposes a change of the members. Returns `false` if that is impossible now.
    pub fn propose_change(&mut self, change: &Change) -> bool {
        let data = change.to_raft().write_to_bytes().expect("a change has an encoding").into();
        !self.is_changing()
            && self.propose_entry(Entry { entry_type: EntryType::EntryConfChangeV2, data, ..Entry::default() })
    }

    fn propose_entry(&mut self, entry: Entry) -> bool {
        if !self.is_leader() {
            return false;
        }
        let mut message = Message { msg_type: MessageType::MsgPropose, from: self.node.raft.id, ..Message::default() };
        message.set_entries(vec![entry].into());
        let taken = self.node.raft.step(message).is_ok();
        self.jitter();
        taken
    }

    /// Returns what decides which messages of peers make sense now.
    pub fn view(&self) -> View {
        let raft = &self.node.raft;
        let log = &raft.raft_log;
        View {
            me: raft.id,
            leader: raft.leader_id,
            is_leader: self.is_leader(),
            term: raft.term,
            last: log.last_index(),
            committed: (log.committed, log.term(log.committed).unwrap_or(0)),
            is_durable: log.persisted == log.last_index(),
            reads: raft.read_only.pending_read_count(),
        }
    }

    /// Takes a message of a peer, which [`vetting::message`](super::vetting::message) has checked.
    pub fn step(&mut self, mut message: Message) {
        if message.msg_type == MessageType::MsgTimeoutNow && !self.may_stand() {
            return;
        }
        self.shorten_search(&mut message);
        // raft refuses only late messages, of a peer that is no longer a member.
        let _late = self.node.step(message);
        self.jitter();
    }

    /// Steps to a later term, without a vote and without a leader.
    pub fn follow(&mut self, from: u64, term: u64) {
        // raft takes over the term of a forced request for a vote, even while it follows a leader. It refuses the vote, because the
        // candidate has no entries. A node with an empty log grants it, which does no harm.
        let message = Message {
            msg_type: MessageType::MsgRequestVote,
            from,
            to: self.node.raft.id,
            term,
            context: (&b"CampaignTransfer"[..]).into(),
            ..Message::default()
        };
        self.step(message);
    }

    /// Points a follower's rejection to where raft's search for the last common entry ends. raft goes back entry by entry, through
    /// the whole log if the follower says so.
    fn shorten_search(&self, message: &mut Message) {
        let searches = message.msg_type == MessageType::MsgAppendResponse && message.reject && self.is_leader();
        if searches && (1..self.node.raft.term).contains(&message.log_term) {
            message.reject_hint = self.entries.last_not_after(message.reject_hint, message.log_term);
        }
    }

    /// A message could not be sent to a peer.
    pub fn unreachable(&mut self, id: u64) {
        self.node.report_unreachable(id);
    }

    /// Tells raft that a peer has the snapshot that raft asked to send, or that it cannot be sent.
    pub fn snapshot_sent(&mut self, id: u64, done: bool) {
        let status = if done { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.node.report_snapshot(id, status);
        self.jitter();
    }

    /// Hands leadership over to a voter.
    pub fn hand_over(&mut self, to: u64) {
        if faults::is_armed(Fault::HandOverForEver) {
            self.node.raft.lead_transferee = Some(to);
            return;
        }
        self.node.transfer_leader(to);
        self.jitter();
    }

    /// Asks for the commit index at which a read is linearizable. [`Group::take_read_states`] returns the answer with the same
    /// context, which must never have been used before.
    pub fn read_index(&mut self, origin: Origin, context: u64) {
        self.node.read_index(ReadContext { origin, context }.encode());
    }

    /// A tick has passed.
    pub fn tick(&mut self) {
        if faults::is_armed(Fault::NobodyStands) && self.leader() == 0 && self.committed() > 0 {
            return;
        }
        let heir = self.node.raft.lead_transferee;
        if self.may_stand() {
            self.node.tick();
            self.jitter();
        }
        if faults::is_armed(Fault::HandOverForEver) && self.is_leader() {
            self.node.raft.lead_transferee = heir;
        }
    }

    /// Takes what raft has ready: stages records with `log`, and queues committed entries, read states and messages.
    pub fn pump(&mut self, log: &mut impl Persist) {
        loop {
            self.pump_readies(log);
            // A ready with nothing to write waits only for the readies before it.
            let waiting = self.waiting.len();
            self.persisted(log.durable());
            if self.waiting.len() == waiting {
                return;
            }
        }
    }

    fn pump_readies(&mut self, log: &mut impl Persist) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            self.outbox.append(&mut ready.take_messages());
            for state in ready.take_read_states() {
                if let Some(context) = ReadContext::decode(&state.request_ctx) {
                    self.read_states.push((context, state.index));
                }
            }
            self.committed.extend(ready.take_committed_entries());
            let entries = ready.take_entries();
            let hard_state = ready.hs().cloned();
            if let Some(hard_state) = &hard_state {
                self.entries.set_hard_state(hard_state.clone());
            }
            let mut snapshot = None;
            if !ready.snapshot().is_empty() {
                let meta = ready.snapshot().get_metadata();
                self.entries.restart((meta.index, meta.term), meta.get_conf_state().clone());
                log.restart(meta.index, meta.term);
                snapshot = Some((meta.index, meta.term));
            }
            self.entries.append(&entries);
            for entry in &entries {
                log.entry(entry);
            }
            // The commit index alone needs no write. The next write includes it, so that recovery knows what it may apply.
            let mut state = self.node.raft.hard_state();
            if faults::is_armed(Fault::VoteNotPersisted) {
                state.vote = 0;
            }
            let skipped = faults::is_armed(Fault::TermNotPersisted) && entries.is_empty();
            if ready.must_sync() && (hard_state.is_some() || state.commit > self.logged_commit) && !skipped {
                log.hard_state(&state);
                self.logged_commit = state.commit;
            }
            self.waiting.push_back(Waiting {
                number: ready.number(),
                position: log.position(),
                messages: ready.take_persisted_messages(),
                snapshot,
                vote: (self.node.raft.term, self.node.raft.vote),
            });
            self.node.advance_append_async(ready);
        }
        self.jitter();
    }

    /// Releases the readies that waited for this durable position. Call [`Group::pump`] afterwards.
    pub fn persisted(&mut self, durable: Durable) {
        let hasty = (faults::is_armed(Fault::AnswerBeforeDurable) && self.is_leader())
            || (faults::is_armed(Fault::AckBeforeDurable) && !self.is_leader());
        while let Some(ready) = self.waiting.pop_front_if(|w| durable.covers(w.position) || hasty) {
            self.node.on_persist_ready(ready.number);
            self.outbox.extend(ready.messages);
            self.installed = ready.snapshot.or(self.installed);
            self.promised = ready.vote;
        }
        self.jitter();
    }

    /// Returns index and term of a snapshot to install now: the snapshot is durable, and so is the log's record of it.
    pub fn take_installed(&mut self) -> Option<(u64, u64)> {
        let (index, term) = self.installed.take()?;
        (self.applied, self.applied_term) = (index, term);
        // The snapshot covers entries that were committed before it and not applied.
        self.committed.retain(|entry| entry.index > index);
        self.node.advance_apply_to(index);
        Some((index, term))
    }

    /// Returns whether committed entries wait to be applied.
    pub fn has_committed(&self) -> bool {
        !self.committed.is_empty()
    }

    /// Returns the next committed entry, to apply now.
    pub fn next_committed(&mut self) -> Option<Entry> {
        let entry = self.committed.pop_front()?;
        assert_eq!(entry.index, self.applied + 1, "committed entries come in order");
        self.applied = entry.index;
        self.applied_term = entry.term;
        Some(entry)
    }

    /// Tells raft which entries are applied, and forgets entries that nobody needs: the oldest, beyond `keep` bytes. Entries after
    /// `hold` are kept as far as memory allows.
    pub fn applied_all(&mut self, keep: usize, hold: u64) {
        self.entries.set_applied((self.applied, self.applied_term));
        self.node.advance_apply_to(self.applied);
        self.entries.forget(self.applied, keep, hold);
    }

    /// Tells raft of a change of the members that took effect.
    pub fn apply_change(&mut self, change: &Change) {
        let conf = self.node.apply_conf_change(&change.to_raft()).expect("a change that was checked is valid");
        self.entries.set_conf_state(conf);
        self.jitter();
    }

    /// Asserts that raft counts the votes of exactly the members in the state: otherwise two majorities might not overlap.
    ///
    /// # Panics
    /// If raft counts other votes.
    pub fn assert_members(&self, of_state: &ConfState) {
        let sorted = |ids: &[u64]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        let of_raft = self.conf_state();
        assert_eq!(
            sorted(&of_raft.voters),
            sorted(&of_state.voters),
            "raft counts the votes of others than the members"
        );
        let learners = [&of_raft.learners[..], &of_raft.learners_next[..]].concat();
        assert_eq!(sorted(&learners), sorted(&of_state.learners), "raft has other standbys than the state");
    }

    /// Sets whether raft gets snapshots to send now.
    pub fn allow_snapshot(&mut self, allowed: bool) {
        self.entries.allow_snapshot(allowed);
    }

    /// Makes raft get no snapshot for these nodes.
    pub fn deny_snapshot(&mut self, nodes: BTreeSet<u64>) {
        self.entries.deny_snapshot(nodes);
    }

    /// Takes the answers to [`Group::read_index`]: each context, and the index that must be applied first.
    pub fn take_read_states(&mut self, origin: Origin) -> Vec<(u64, u64)> {
        let states = std::mem::take(&mut self.read_states);
        states.into_iter().filter(|(c, _)| c.origin == origin).map(|(c, index)| (c.context, index)).collect()
    }

    /// Returns whether a snapshot was handed to raft and is not installed yet.
    pub fn is_restoring(&self) -> bool {
        self.installed.is_some() || self.waiting.iter().any(|w| w.snapshot.is_some())
    }

    /// Returns whether [`Group::pump`] has more to do.
    pub fn has_more(&self) -> bool {
        self.node.has_ready() || self.installed.is_some()
    }

    /// Takes the messages that may leave for the peers now.
    pub fn take_messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.outbox)
    }

    /// The members, for a snapshot.
    pub fn conf_state(&self) -> ConfState {
        self.node.raft.prs().conf().to_conf_state()
    }

    /// Replaces the crate's random time-out: the same seed, id and term give the same jitter.
    fn jitter(&mut self) {
        let mix = splitmix(self.seed ^ splitmix(self.node.raft.id ^ splitmix(self.node.raft.term)));
        let spread = mix % self.election_ticks as u64;
        let ticks = self.election_ticks + usize::try_from(spread).expect("less than the election ticks");
        self.node.raft.set_randomized_election_timeout(ticks);
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, 2014).
fn splitmix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Returns the raft id of the node that asks for a read, or for whom a read is answered.
pub fn read_origin(message: &Message) -> Option<u64> {
    let [entry] = message.entries.as_slice() else { return None };
    ReadContext::decode(&entry.data).map(|context| context.origin.node)
}

/// Returns the change of the members in an entry, if it has one.
pub fn change_of(entry: &Entry) -> Option<Change> {
    if entry.get_entry_type() != EntryType::EntryConfChangeV2 || !is_flat(&entry.data, Some(CHANGES)) {
        return None;
    }
    let mut change = ConfChangeV2::default();
    change.merge_from_bytes(&entry.data).ok()?;
    Change::of_raft(&change)
}

/// Returns whether an encoded message has no groups and no unknown kinds of fields, and none deeper in its fields with the number
/// `messages`, which hold messages. The decoder of the protobuf crate calls itself for each group, so a peer could fill the stack
/// (RUSTSEC-2024-0437).
pub fn is_flat(mut rest: &[u8], messages: Option<u64>) -> bool {
    while !rest.is_empty() {
        let Some(tag) = varint(&mut rest) else { return false };
        let is_fine = match tag & 7 {
            0 => varint(&mut rest).is_some(),
            2 => match varint(&mut rest).and_then(|len| rest.split_at_checked(usize::try_from(len).ok()?)) {
                Some((inner, behind)) => {
                    rest = behind;
                    messages != Some(tag >> 3) || is_flat(inner, None)
                }
                None => false,
            },
            _ => false,
        };
        if !is_fine {
            return false;
        }
    }
    true
}

/// The number of the field of a change of the members that holds messages.
const CHANGES: u64 = 2;

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Makes a message for a snapshot, with index, term and members only; the contents travel another way.
pub fn snapshot_message(to: u64, term: u64, meta: (u64, u64), conf: ConfState, from: u64) -> Message {
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = meta;
    metadata.set_conf_state(conf);
    let mut message = Message { msg_type: MessageType::MsgSnapshot, to, from, term, ..Message::default() };
    message.set_snapshot(snapshot);
    message
}

#[cfg(test)]
mod tests {
    use super::super::Staging;
    use super::*;
    use crate::log::{Log, Params};

    /// A leader answers a node that has restarted meanwhile. Each boot counts contexts anew, so the late answer has the context of
    /// another read, which may need a later index.
    #[test]
    fn the_answer_to_a_read_of_an_earlier_boot_or_of_another_node_answers_one_of_this_boot() {
        let conf_state = ConfState::from((vec![1, 2, 3], vec![]));
        let mut group = Group::new(Start { id: 2, seed: 7, conf_state, ..Start::default() }, 8).unwrap();
        let mut log = Log::create(Params { segment_size: limits::SEGMENT, node: *b"ABCDEFGHIJKLMNOP" });
        let own = Origin { node: 2, epoch: 5 };
        let of_leader = |msg_type| Message { msg_type, from: 1, to: 2, term: 3, ..Message::default() };
        let mut answers = |group: &mut Group, origin: Origin, index: u64| {
            let data = ReadContext { origin, context: 1 }.encode().into();
            let mut answer = Message { index, ..of_leader(MessageType::MsgReadIndexResp) };
            answer.set_entries(vec![Entry { data, ..Entry::default() }].into());
            group.step(answer);
            group.pump(&mut Staging(&mut log));
            group.take_read_states(own)
        };
        group.step(of_leader(MessageType::MsgHeartbeat));
        assert!(answers(&mut group, Origin { epoch: 4, ..own }, 7).is_empty());
        assert!(answers(&mut group, Origin { epoch: 6, ..own }, 7).is_empty());
        assert!(answers(&mut group, Origin { node: 3, ..own }, 7).is_empty());
        assert_eq!(answers(&mut group, own, 9), [(1, 9)]);
    }

    /// A node that counts other votes than the state says may elect a second leader.
    #[test]
    #[should_panic(expected = "raft counts the votes of others than the members")]
    fn other_voters_than_those_of_the_state_go_unnoticed() {
        let conf_state = ConfState::from((vec![1, 2], vec![3]));
        let group = Group::new(Start { id: 2, seed: 7, conf_state, ..Start::default() }, 8).unwrap();
        group.assert_members(&ConfState::from((vec![2, 1], vec![3])));
        group.assert_members(&ConfState::from((vec![1, 2, 3], vec![])));
    }
}
