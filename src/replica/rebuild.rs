//! From what recovery reads to where the replica goes on: the snapshot's state, the entries behind it that are known to
//! be committed applied to it, and the others in the memory of raft.
//!
//! An entry is held only until a hard state says that it is committed, so a long log costs time, not memory. The last of those
//! that are applied are kept, for peers that are a little behind: without them each would need a snapshot after a full stop.

use std::collections::VecDeque;

use raft::eraftpb::{Entry, EntryType, HardState};

use super::batch::BadBatch;
use super::group::{self, change_of};
use super::machine::Machine;
use super::snapshot::{BadSnapshot, Restore};
use crate::faults::{self, Fault};
use crate::limits;
use crate::log::{self, Event, NodeId, Record};

/// Why what was read cannot be used, although all its checksums are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The contents of a snapshot are unusable.
    Snapshot {
        /// The last entry that the snapshot covers; it names the file.
        index: u64,
        /// What is wrong with the contents.
        bad: BadSnapshot,
    },
    /// The batch of an entry.
    Batch {
        /// The entry.
        index: u64,
        /// What is wrong with it.
        bad: BadBatch,
    },
    /// An entry is of a type that this version does not write.
    Entry {
        /// The entry.
        index: u64,
        /// Its type.
        other: u8,
    },
    /// An entry of the log names a boot of this node from which the node could not count on.
    Epoch {
        /// The number of the boot.
        epoch: u64,
    },
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unusable::Snapshot { index, bad } => {
                write!(f, "file {}: the snapshot cannot be used: {bad}", log::name::snapshot(*index))
            }
            Unusable::Entry { index, other } => {
                write!(f, "entry {index} of the log is of type {other}, which this version does not know")
            }
            Unusable::Batch { index, bad } => write!(f, "entry {index} of the log cannot be used: {bad}"),
            Unusable::Epoch { epoch } => {
                write!(f, "the end of the log cannot be used: it says that this node has been started {epoch} times")
            }
        }
    }
}

impl std::error::Error for Unusable {}

/// Takes the events of [`log::recover`].
#[derive(Debug)]
pub struct Rebuild {
    node: NodeId,
    history: u64,
    /// A snapshot that is being read.
    restore: Option<Restore>,
    machine: Machine,
    applied: (u64, u64),
    commit: u64,
    /// Not known to be committed.
    entries: VecDeque<Entry>,
    /// Applied, and kept; and what lies in front of them.
    kept: VecDeque<Entry>,
    kept_bytes: usize,
    kept_most: usize,
    before: (u64, u64),
    failed: Option<Unusable>,
}

impl Rebuild {
    /// From the empty state, with which every cluster begins; `history` is how many revisions are to stay readable.
    pub fn new(node: NodeId, history: u64) -> Rebuild {
        Rebuild {
            node,
            history,
            restore: None,
            machine: Machine::founding(history),
            applied: (0, 0),
            commit: 0,
            entries: VecDeque::new(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            kept_most: limits::KEEP,
            before: (0, 0),
            failed: None,
        }
    }

    /// The same, keeping no more than so many bytes of applied entries for peers.
    pub fn keeping(self, bytes: usize) -> Rebuild {
        Rebuild { kept_most: bytes.min(limits::KEEP), ..self }
    }

    /// Takes the next event.
    pub fn take(&mut self, event: Event<'_>) {
        if let Event::Void = event {
            *self = Rebuild::new(self.node, self.history).keeping(self.kept_most);
        } else if self.failed.is_none()
            && let Err(failed) = self.try_take(event)
        {
            self.failed = Some(failed);
        }
    }

    fn try_take(&mut self, event: Event<'_>) -> Result<(), Unusable> {
        match event {
            Event::Void => {}
            Event::Snapshot { index, term, meta } => {
                let restore = Restore::begin(meta, &self.node, self.history);
                self.restore = Some(restore.map_err(|bad| Unusable::Snapshot { index, bad })?);
                self.applied = (index, term);
                self.before = (index, term);
                self.commit = index;
            }
            Event::SnapshotRecord(record) => {
                if let Some(restore) = &mut self.restore {
                    let index = self.before.0;
                    restore.record(record).map_err(|bad| Unusable::Snapshot { index, bad })?;
                }
            }
            Event::Record { record, .. } => {
                self.finish_snapshot()?;
                self.record(record)?;
            }
        }
        Ok(())
    }

    fn finish_snapshot(&mut self) -> Result<(), Unusable> {
        if let Some(restore) = self.restore.take() {
            let index = self.before.0;
            self.machine = restore.finish().map_err(|bad| Unusable::Snapshot { index, bad })?;
        }
        Ok(())
    }

    fn record(&mut self, record: Record<'_>) -> Result<(), Unusable> {
        match record {
            Record::Entry { index, term, entry_type, data } => {
                let known = self.entries.back().is_some_and(|last| last.index >= index);
                if known && faults::is_armed(Fault::ConflictRecovered) {
                    return Ok(());
                }
                // An entry that the snapshot covers, too, voids those behind it: a leader that lost had sent them.
                while self.entries.back().is_some_and(|last| last.index >= index) {
                    self.entries.pop_back();
                }
                if index <= self.applied.0 {
                    return Ok(());
                }
                let entry_type = match entry_type {
                    0 => EntryType::EntryNormal,
                    2 => EntryType::EntryConfChangeV2,
                    other => return Err(Unusable::Entry { index, other }),
                };
                let data = bytes::Bytes::copy_from_slice(data);
                self.entries.push_back(Entry { index, term, entry_type, data, ..Entry::default() });
            }
            Record::HardState(state) => {
                self.commit = self.commit.max(state.commit);
                self.apply_committed()?;
            }
            // What a snapshot covers that came from the leader is in its state already.
            Record::Restart { .. } => {
                self.entries.clear();
                self.kept.clear();
                self.kept_bytes = 0;
                self.before = self.applied;
            }
        }
        Ok(())
    }

    fn apply_committed(&mut self) -> Result<(), Unusable> {
        while let Some(entry) = self.entries.pop_front_if(|e| e.index <= self.commit) {
            if let Some(change) = change_of(&entry) {
                self.machine.change(&change);
            } else if entry.entry_type == EntryType::EntryNormal && !entry.data.is_empty() {
                self.machine
                    .apply(&entry.data, |_, _, _, _| ())
                    .map_err(|bad| Unusable::Batch { index: entry.index, bad })?;
            }
            self.applied = (entry.index, entry.term);
            self.keep(entry);
        }
        Ok(())
    }

    fn keep(&mut self, entry: Entry) {
        self.kept_bytes += entry.data.len();
        self.kept.push_back(entry);
        let most = if self.machine.members.nodes().len() > 1 { self.kept_most } else { 0 };
        while self.kept_bytes > most
            && let Some(gone) = self.kept.pop_front()
        {
            self.kept_bytes -= gone.data.len();
            self.before = (gone.index, gone.term);
        }
    }

    /// Returns what was wrong with an event so far.
    pub fn failure(&self) -> Option<&Unusable> {
        self.failed.as_ref()
    }

    /// The state, and where raft goes on, once everything was taken.
    ///
    /// # Errors
    /// What was wrong with an event.
    pub fn finish(
        mut self,
        raft_id: u64,
        seed: u64,
        recovered: &log::Recovered,
    ) -> Result<(Machine, group::Start), Unusable> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        self.finish_snapshot()?;
        let log::HardState { term, vote, mut commit } = recovered.hard_state;
        let ends = self.entries.back().is_none_or(|last| last.index == recovered.last_index);
        assert!(ends, "the entries do not end where the log does");
        // What the only voter has on its disk is committed: no election is needed to know it, nor room in the log for one.
        self.commit = self.commit.max(commit);
        self.apply_committed()?;
        if faults::is_armed(Fault::LastEntryForgotten) {
            self.entries.pop_back();
        }
        let alone = self.machine.members.voters() == [raft_id] || faults::is_armed(Fault::UncommittedApplied);
        if alone && self.entries.iter().all(|e| change_of(e).is_none()) {
            commit = recovered.last_index;
            self.commit = commit;
            self.apply_committed()?;
        }
        if let Some(seen) = self.machine.seen().get(&raft_id).filter(|seen| seen.epoch > limits::COUNT_MAX) {
            return Err(Unusable::Epoch { epoch: seen.epoch });
        }
        let start = group::Start {
            id: raft_id,
            seed,
            hard_state: HardState { term, vote, commit, ..HardState::default() },
            conf_state: self.machine.members.conf().clone(),
            applied: self.applied,
            before: self.before,
            entries: self.kept.into_iter().chain(self.entries).collect(),
        };
        Ok((self.machine, start))
    }

    /// The state of a node that begins: the founder, or one that has just joined and knows of nothing but the founder.
    pub fn founded(self, raft_id: u64, seed: u64) -> (Machine, group::Start) {
        let conf_state = self.machine.members.conf().clone();
        let start = group::Start { id: raft_id, seed, conf_state, ..group::Start::default() };
        (self.machine, start)
    }
}
