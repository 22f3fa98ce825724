//! What raft reads of the log: the entries that are not yet applied or that a peer may still ask for, kept in memory.
//!
//! The log on disk is written by [`crate::log`] and read only at start; raft is served from here. Entries behind
//! the applied index are kept up to a bound of bytes and then forgotten: who needs older ones gets a snapshot.
//!
//! Invariants: indices are consecutive; `before` is the index and the term of the entry in front of the first one, so
//! that raft can match there; entries that are not applied are never forgotten.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::faults::{self, Fault};
use crate::limits;
use crate::store::Queue;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, StorageError};

/// The in-memory log, shared between raft, which reads it, and the replica, which appends.
#[derive(Clone, Debug)]
pub struct Entries {
    inner: Rc<RefCell<Inner>>,
}

#[derive(Debug)]
struct Inner {
    hard_state: HardState,
    conf_state: ConfState,
    before: (u64, u64),
    entries: Queue<Entry>,
    bytes: usize,
    /// Whether a snapshot can be sent now, and the nodes that get none.
    snapshots: bool,
    without_snapshot: BTreeSet<u64>,
    /// Index and term of the last applied entry.
    applied: (u64, u64),
}

impl Entries {
    /// A log that begins behind the entry `before` = (index, term), with (0, 0) for a new one.
    pub fn new(hard_state: HardState, conf_state: ConfState, before: (u64, u64)) -> Entries {
        let inner = Inner {
            hard_state,
            conf_state,
            before,
            entries: Queue::default(),
            bytes: 0,
            snapshots: false,
            without_snapshot: BTreeSet::new(),
            applied: before,
        };
        Entries { inner: Rc::new(RefCell::new(inner)) }
    }

    /// Appends entries; one whose index exists already replaces it and all behind it.
    ///
    /// # Panics
    /// When the entries would leave a gap, or replace what was forgotten: raft does neither.
    pub fn append(&self, entries: &[Entry]) {
        let inner = &mut *self.inner.borrow_mut();
        for entry in entries {
            assert!(entry.index > inner.before.0, "entry {} replaces an applied one", entry.index);
            if faults::is_armed(Fault::ConflictServed) && inner.last() >= entry.index {
                continue;
            }
            while inner.last() >= entry.index {
                let gone = inner.entries.pop_back().expect("an entry at or behind the index");
                inner.bytes -= gone.data.len();
            }
            assert_eq!(entry.index, inner.last() + 1, "entries are consecutive");
            inner.bytes += entry.data.len();
            inner.entries.push_back(entry.clone());
        }
    }

    /// Remembers how far the entries are applied.
    pub fn set_applied(&self, applied: (u64, u64)) {
        self.inner.borrow_mut().applied = applied;
    }

    /// Whether a change of the members is behind this index.
    pub fn changes_members_behind(&self, index: u64) -> bool {
        let inner = self.inner.borrow();
        let entries = (0..inner.entries.len()).rev().map_while(|at| inner.entries.get(at));
        let mut behind = entries.take_while(|entry| entry.index > index);
        behind.any(|entry| entry.get_entry_type() != EntryType::EntryNormal)
    }

    /// Forgets entries up to and including `applied`, the oldest first, until no more than `keep` bytes are held. Those behind `hold`
    /// are kept up to a larger bound.
    pub fn forget(&self, applied: u64, keep: usize, hold: u64) {
        let inner = &mut *self.inner.borrow_mut();
        while let Some(first) = inner.entries.front()
            && first.index <= applied
            && inner.bytes > if first.index > hold { keep.max(limits::KEEP_FOR_SNAPSHOT) } else { keep }
        {
            inner.before = (first.index, first.term);
            inner.bytes -= first.data.len();
            inner.entries.pop_front();
        }
    }

    /// Goes on behind a snapshot up to the entry `before` = (index, term): all entries are void.
    pub fn restart(&self, before: (u64, u64), conf_state: ConfState) {
        let inner = &mut *self.inner.borrow_mut();
        inner.before = before;
        inner.applied = before;
        inner.conf_state = conf_state;
        inner.entries = Queue::default();
        inner.bytes = 0;
    }

    /// Remembers the members as of the applied index.
    pub fn set_conf_state(&self, conf_state: ConfState) {
        self.inner.borrow_mut().conf_state = conf_state;
    }

    /// Whether [`raft::Storage::snapshot`] gives one.
    pub fn allow_snapshot(&self, allowed: bool) {
        self.inner.borrow_mut().snapshots = allowed;
    }

    /// Makes [`raft::Storage::snapshot`] return no snapshot for these nodes.
    pub fn deny_snapshot(&self, nodes: BTreeSet<u64>) {
        self.inner.borrow_mut().without_snapshot = nodes;
    }

    /// Remembers the durable term, vote and commit index.
    pub fn set_hard_state(&self, hard_state: HardState) {
        self.inner.borrow_mut().hard_state = hard_state;
    }

    /// Index of the last entry.
    pub fn last(&self) -> u64 {
        self.inner.borrow().last()
    }

    /// Returns the index of the last entry up to `index` whose term is not after `term`; 0 if none is known.
    pub fn last_not_after(&self, index: u64, term: u64) -> u64 {
        let inner = self.inner.borrow();
        // Neither the indices nor the terms fall, so those before `within` are up to both.
        let (mut within, mut end) = (0, inner.entries.len());
        while within < end {
            let middle = within.midpoint(end);
            match inner.entries.get(middle) {
                Some(entry) if entry.index <= index && entry.term <= term => within = middle + 1,
                _ => end = middle,
            }
        }
        match within.checked_sub(1).and_then(|at| inner.entries.get(at)) {
            Some(entry) => entry.index,
            None if inner.before.1 <= term => inner.before.0.min(index),
            None => 0,
        }
    }

    /// Term of the entry at `index`, if it is known.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        self.inner.borrow().term(index)
    }
}

impl Inner {
    fn last(&self) -> u64 {
        self.entries.back().map_or(self.before.0, |e| e.index)
    }

    fn position(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.before.0 + 1)?).ok()
    }

    fn term(&self, index: u64) -> Option<u64> {
        if index == self.before.0 {
            return Some(self.before.1);
        }
        self.position(index).and_then(|i| self.entries.get(i)).map(|e| e.term)
    }
}

impl raft::Storage for Entries {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let inner = self.inner.borrow();
        Ok(RaftState::new(inner.hard_state.clone(), inner.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let inner = self.inner.borrow();
        if low <= inner.before.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(high <= inner.last() + 1, "raft asks for entries behind the last one");
        let (Some(from), Some(to)) = (inner.position(low), inner.position(high)) else {
            return Err(Error::Store(StorageError::Unavailable));
        };
        let max = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0;
        let mut found = Vec::with_capacity((to - from).min(64));
        for entry in (from..to).map_while(|at| inner.entries.get(at)) {
            size += entry.data.len() as u64;
            // At least one, whatever its size.
            if size > max && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let inner = self.inner.borrow();
        if index < inner.before.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        inner.term(index).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.inner.borrow().before.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// No more than a place: when the message leaves, the replica reads off its state as it is then, and puts in where that is.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let inner = self.inner.borrow();
        if !inner.snapshots || inner.without_snapshot.contains(&to) {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = inner.applied.0.max(request_index).max(1);
        metadata.term = inner.applied.1.max(1);
        metadata.set_conf_state(inner.conf_state.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::Storage;

    fn entry(index: u64, term: u64, size: usize) -> Entry {
        Entry { index, term, data: vec![0; size].into(), ..Entry::default() }
    }

    fn log() -> Entries {
        Entries::new(HardState::default(), ConfState::default(), (0, 0))
    }

    fn read(log: &Entries, low: u64, high: u64, max: u64) -> Vec<u64> {
        let found = log.entries(low, high, max, GetEntriesContext::empty(false)).unwrap();
        found.iter().map(|e| e.index).collect()
    }

    /// raft panics when an entry that it has not applied is gone; only applied ones may be forgotten.
    #[test]
    fn an_entry_that_is_not_applied_is_never_forgotten() {
        let log = log();
        log.append(&[entry(1, 1, 100), entry(2, 1, 100), entry(3, 2, 100)]);
        log.forget(2, 0, u64::MAX);
        assert_eq!(log.first_index().unwrap(), 3);
        assert_eq!(log.term(2).unwrap(), 1, "the term in front of the first entry stays known");
        assert_eq!(log.term(3).unwrap(), 2);
        assert!(matches!(log.term(1), Err(Error::Store(StorageError::Compacted))));
        log.forget(3, 0, u64::MAX);
        assert_eq!((log.first_index().unwrap(), log.last_index().unwrap()), (4, 3));
    }

    /// A new leader's entries replace a suffix that was never committed.
    #[test]
    fn a_conflicting_suffix_is_replaced() {
        let log = log();
        log.append(&[entry(1, 1, 10), entry(2, 1, 10), entry(3, 1, 10)]);
        log.append(&[entry(2, 2, 10)]);
        assert_eq!(log.last(), 2);
        assert_eq!(log.term_of(2), Some(2));
        assert_eq!(log.inner.borrow().bytes, 20);
    }

    /// A message is bounded in size, but an entry larger than the bound must still get through.
    #[test]
    fn reads_are_bounded_but_never_empty() {
        let log = log();
        log.append(&[entry(1, 1, 100), entry(2, 1, 100), entry(3, 1, 100)]);
        assert_eq!(read(&log, 1, 4, u64::MAX), [1, 2, 3]);
        assert_eq!(read(&log, 1, 4, 200), [1, 2]);
        assert_eq!(read(&log, 2, 4, 0), [2]);
    }
}
