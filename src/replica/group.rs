//! The raft group, seen from the replica: proposals in; entries to persist, entries to apply and messages out.
//!
//! A single node is a group of one and goes the same way. The rules of the `raft` crate that are kept here:
//! * between `ready` and `advance_append_async` nothing is stepped or proposed, and the new entries are readable in
//!   [`Entries`] before the latter;
//! * a ready counts as persisted only when its records, and all before them, are durable: [`Group::persisted`] takes
//!   the log's proof of that and releases the readies in order;
//! * a leader's messages go at once, all others only after their ready is persisted;
//! * the only randomness of the crate, the election jitter, is replaced by a pure function of seed, id and term after
//!   every call into it.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Message};
use raft::{RawNode, StateRole};

use super::entries::Entries;
use crate::limits;
use crate::log::{Durable, Position};

/// Length of a [`Group::tick`], in milliseconds.
pub const TICK_MS: u64 = 50;
const HEARTBEAT_TICKS: usize = 1;
const ELECTION_TICKS: usize = 10;
/// How many bytes of applied entries are kept for peers that are a little behind.
const KEEP: usize = 16 << 20;

/// What the log must hold before a ready counts as persisted, in this order.
pub trait Persist {
    /// Stages an entry of raft.
    fn entry(&mut self, entry: &Entry);
    /// Stages term, vote and commit index.
    fn hard_state(&mut self, hard_state: &HardState);
    /// The place of the last record staged.
    fn position(&self) -> Position;
}

/// One node's view of its raft group.
pub struct Group {
    node: RawNode<Entries>,
    entries: Entries,
    seed: u64,
    /// Readies that are not yet persisted, in order.
    waiting: VecDeque<Waiting>,
    /// Messages that may leave now.
    outbox: Vec<Message>,
    committed: VecDeque<Entry>,
    read_states: Vec<(u64, u64)>,
    /// The commit index that the log already knows.
    logged_commit: u64,
    applied: u64,
}

/// A ready that is not yet persisted.
struct Waiting {
    /// raft's number for it.
    number: u64,
    /// The last record that must be durable.
    position: Position,
    /// What may leave then.
    messages: Vec<Message>,
}

/// Where a group goes on from.
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
    /// Entries behind the applied one.
    pub entries: Vec<Entry>,
}

impl Group {
    /// A node of the group, at the point that `start` describes.
    ///
    /// # Errors
    /// When raft refuses the configuration, which is a fault of the caller.
    pub fn new(start: Start) -> raft::Result<Group> {
        let Start { id, seed, hard_state, conf_state, applied, entries: new } = start;
        let logged_commit = hard_state.commit;
        let entries = Entries::new(hard_state, conf_state, applied);
        entries.append(&new);
        let config = raft::Config {
            id,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: applied.0,
            max_size_per_msg: limits::BATCH_MAX as u64,
            max_inflight_msgs: 64,
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
            waiting: VecDeque::new(),
            outbox: Vec::new(),
            committed: VecDeque::new(),
            read_states: Vec::new(),
            logged_commit,
            applied: applied.0,
        };
        group.jitter();
        Ok(group)
    }

    /// Whether this node is the leader and has committed an entry of its own term, so that it may propose and read.
    pub fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader && self.node.raft.commit_to_current_term()
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// Index of the last entry that was handed out by [`Group::next_committed`].
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Term of the last applied entry.
    pub fn applied_term(&self) -> u64 {
        self.entries.term_of(self.applied).expect("the term of the applied entry is kept")
    }

    /// Stands for election now instead of after a time-out: the only voter need not wait for anyone.
    ///
    /// # Errors
    /// Those of raft.
    pub fn campaign(&mut self) -> raft::Result<()> {
        self.node.campaign()?;
        self.jitter();
        Ok(())
    }

    /// Proposes a batch.
    ///
    /// # Errors
    /// When this node does not lead, or too much is uncommitted. The batch is lost then: ask [`Group::leads`] first.
    pub fn propose(&mut self, batch: Vec<u8>) -> raft::Result<()> {
        self.node.propose(Vec::new(), batch)
    }

    /// Asks for the commit index under which a read is linearizable; the answer comes by [`Group::take_read_states`]
    /// with the same context, which must never have been used before.
    pub fn read_index(&mut self, context: u64) {
        self.node.read_index(context.to_be_bytes().to_vec());
    }

    /// A tick of [`TICK_MS`] has passed.
    pub fn tick(&mut self) {
        self.node.tick();
        self.jitter();
    }

    /// Takes what raft has ready: stages records with `log`, and queues committed entries, read states and messages.
    pub fn pump(&mut self, log: &mut impl Persist) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            self.outbox.append(&mut ready.take_messages());
            for state in ready.take_read_states() {
                if let Ok(context) = <[u8; 8]>::try_from(state.request_ctx.as_slice()) {
                    self.read_states.push((u64::from_be_bytes(context), state.index));
                }
            }
            self.committed.extend(ready.take_committed_entries());
            let entries = ready.take_entries();
            let hard_state = ready.hs().cloned();
            if let Some(hard_state) = &hard_state {
                self.entries.set_hard_state(hard_state.clone());
            }
            self.entries.append(&entries);
            for entry in &entries {
                log.entry(entry);
            }
            // The commit index alone needs no write; it goes along with the next one, so that recovery knows what it may
            // apply.
            let state = self.node.raft.hard_state();
            if ready.must_sync() && (hard_state.is_some() || state.commit > self.logged_commit) {
                log.hard_state(&state);
                self.logged_commit = state.commit;
            }
            self.waiting.push_back(Waiting {
                number: ready.number(),
                position: log.position(),
                messages: ready.take_persisted_messages(),
            });
            self.node.advance_append_async(ready);
        }
        self.jitter();
    }

    /// The log is durable so far: releases the readies that waited for it. Call [`Group::pump`] afterwards.
    pub fn persisted(&mut self, durable: Durable) {
        while let Some(ready) = self.waiting.pop_front_if(|w| durable.covers(w.position)) {
            self.node.on_persist_ready(ready.number);
            self.outbox.extend(ready.messages);
        }
        self.jitter();
    }

    /// The next committed entry, to be applied now.
    pub fn next_committed(&mut self) -> Option<Entry> {
        let entry = self.committed.pop_front()?;
        assert_eq!(entry.index, self.applied + 1, "committed entries come in order");
        self.applied = entry.index;
        Some(entry)
    }

    /// Tells raft how far the entries are applied, and forgets what nobody needs.
    pub fn applied_all(&mut self) {
        self.node.advance_apply_to(self.applied);
        self.entries.forget(self.applied, KEEP);
    }

    /// Applies a committed change of the members.
    ///
    /// # Panics
    /// When the entry is no configuration change that this version wrote.
    pub fn apply_conf_change(&mut self, entry: &Entry) {
        use protobuf::Message as _;
        let mut change = raft::eraftpb::ConfChangeV2::default();
        match entry.get_entry_type() {
            EntryType::EntryConfChangeV2 => {
                change.merge_from_bytes(&entry.data).expect("a configuration change in the log");
            }
            other => panic!("entry {} of the unexpected type {other:?}", entry.index),
        }
        let _state = self.node.apply_conf_change(&change).expect("a committed configuration change is valid");
        self.jitter();
    }

    /// Contexts of [`Group::read_index`] that were answered, each with the index that must be applied first.
    pub fn take_read_states(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.read_states)
    }

    /// Messages that may leave for the peers now.
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
        let spread = mix % ELECTION_TICKS as u64;
        let ticks = ELECTION_TICKS + usize::try_from(spread).expect("less than the election ticks");
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
