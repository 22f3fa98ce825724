//! The node runs on a disk in memory, and its power goes at every operation in turn, with any part of the write in flight on the
//! disk. Beside it runs a model: the list of records that were staged.

use super::disk::*;
use crate::limits::BLOCK;
use crate::log::*;
use std::collections::BTreeMap;

struct Model {
    rng: Rng,
    node: Node,
    in_flight: Option<Write>,
    /// Every record that was staged; the one at position p is at p - 1.
    staged: Vec<Kept>,
    /// The log as raft sees it: terms by index.
    terms: BTreeMap<u64, u64>,
    term: u64,
    operations: usize,
}

impl Model {
    fn new(seed: u64) -> Model {
        Model {
            rng: Rng::new(seed),
            node: Node::create(),
            in_flight: None,
            staged: Vec::new(),
            terms: BTreeMap::new(),
            term: 1,
            operations: 0,
        }
    }

    fn stage(&mut self, kept: Kept) {
        let position = kept.stage(&mut self.node.log);
        self.note(&kept);
        self.staged.push(kept);
        assert_eq!(position.0, self.staged.len() as u64);
    }

    fn note(&mut self, kept: &Kept) {
        match kept {
            Kept::Entry(index, term, ..) => {
                self.terms.split_off(index);
                self.terms.insert(*index, *term);
            }
            Kept::Restart(index, term) => self.terms = BTreeMap::from([(*index, *term)]),
            Kept::HardState(_) => {}
        }
    }

    /// One operation, chosen by the seed.
    fn operate(&mut self) {
        self.operations += 1;
        match self.rng.below(20) {
            0..8 => self.append(),
            8..10 => self.commit(),
            10..16 => self.advance_write(),
            16..18 => self.node.prepare(),
            18 => self.snapshot(),
            _ => self.restart_or_new_term(),
        }
    }

    fn append(&mut self) {
        for _ in 0..1 + self.rng.below(3) {
            let (commit, last) = (self.node.log.hard_state().commit, self.node.log.last_index());
            // Now and then an uncommitted suffix is replaced.
            let back = if self.rng.below(6) == 0 { self.rng.below(4) as u64 } else { 0 };
            let index = (last + 1).saturating_sub(back).max(commit + 1);
            let size = [10, 300, 3000, 9000][self.rng.below(4)];
            if !self.node.log.can_accept(1, size) {
                return;
            }
            let data = self.rng.bytes(size);
            self.stage(Kept::Entry(index, self.term, 0, data));
        }
    }

    fn commit(&mut self) {
        let hard = self.node.log.hard_state();
        let ahead = usize::try_from(self.node.log.last_index() - hard.commit).unwrap();
        let commit = hard.commit + self.rng.below(ahead + 1) as u64;
        self.stage(Kept::HardState(HardState { term: self.term, vote: 1, commit }));
    }

    fn advance_write(&mut self) {
        if let Some(write) = self.in_flight.take() {
            self.node.disk.write(&write);
            let before = self.node.log.durable();
            assert!(self.node.log.written(write).position() >= before.position());
        }
        self.in_flight = self.node.log.next_write();
    }

    /// A snapshot of what is committed and durable becomes durable.
    fn snapshot(&mut self) {
        let durable = usize::try_from(self.node.log.durable().position().0).unwrap();
        let commit = self.staged[..durable].iter().rev().find_map(|kept| match kept {
            Kept::HardState(hard) => Some(hard.commit),
            _ => None,
        });
        let Some(index) = commit.filter(|&commit| commit > 0) else {
            return;
        };
        let Some(&term) = self.terms.get(&index) else {
            return;
        };
        self.put_snapshot(index, term);
        self.node.log.release(index);
    }

    fn put_snapshot(&mut self, index: u64, term: u64) {
        self.node.disk.snapshot(index, term, &[b"state"]);
        if self.rng.below(2) == 0 {
            let newest = name::snapshot(index);
            self.node.disk.files.retain(|name, _| !name.ends_with(".snap") || *name >= newest);
        }
    }

    fn restart_or_new_term(&mut self) {
        self.term += 1;
        if self.rng.below(2) == 0 {
            // A leader sends a snapshot; it is durable before the log is told.
            let hard = self.node.log.hard_state();
            let index = hard.commit + 1 + self.rng.below(20) as u64;
            self.put_snapshot(index, self.term);
            if self.rng.below(4) > 0 {
                self.stage(Kept::Restart(index, self.term));
                self.stage(Kept::HardState(HardState { term: self.term, vote: 0, commit: index }));
                self.node.log.release(index);
            } else {
                // The crash comes first.
                self.crash();
            }
        }
    }

    /// The power goes; the node starts again, and its power goes once more in the midst of the repair.
    fn crash(&mut self) {
        let durable = self.node.log.durable();
        let mut most = durable.position().0;
        if let Some(write) = self.in_flight.take() {
            let arrived = match self.rng.below(4) {
                0 => usize::MAX,
                _ => self.rng.below(1 << write.blocks.len().min(16)),
            };
            self.node.disk.tear(&write, |i| arrived & (1 << i) != 0);
            most = self.staged.len() as u64;
        }
        let first = self.recover(durable, most);
        let steps = first.recovered.steps.clone();
        for step in &steps[..self.rng.below(steps.len() + 1)] {
            match step {
                Step::Erase(erase) => {
                    for i in 0..erase.length / BLOCK as u64 {
                        if self.rng.below(2) == 0 {
                            let offset = erase.offset + i * BLOCK as u64;
                            self.node.disk.put(&erase.file, offset, &[0; BLOCK]);
                        }
                    }
                }
                step => self.node.disk.step(step),
            }
        }
        let second = self.recover(durable, most);
        assert_eq!(first.records.last(), second.records.last());
        assert_eq!(first.recovered.hard_state, second.recovered.hard_state);
        let recovered = second.recovered;
        recovered.steps.iter().for_each(|step| self.node.disk.step(step));
        self.node.log = Log::resume(PARAMS, &recovered);
        // What recovery made of it is staged again, and part of the history from here on.
        let position = usize::try_from(recovered.durable.position().0).unwrap();
        self.staged.truncate(position);
        let history = std::mem::take(&mut self.staged);
        self.terms.clear();
        history.iter().for_each(|kept| self.note(kept));
        self.staged = history;
        if let Some((index, term)) = recovered.restart {
            let kept = Kept::Restart(index, term);
            self.note(&kept);
            self.staged.push(kept);
        }
        if self.node.log.position().0 > self.staged.len() as u64 {
            self.staged.push(Kept::HardState(recovered.hard_state));
        }
        assert_eq!(self.node.log.position().0, self.staged.len() as u64);
        self.term = self.term.max(recovered.hard_state.term);
    }

    /// Recovers, and checks it against the model.
    fn recover(&self, durable: Durable, most: u64) -> Outcome {
        let outcome = match self.node.disk.recover() {
            Ok(outcome) => outcome,
            Err(refusal) => panic!("operation {}: {refusal}", self.operations),
        };
        let end = outcome.recovered.durable.position();
        assert!(end >= durable.position(), "acknowledged records are lost");
        assert!(end.0 <= most, "records came from nowhere");
        if outcome.recovered.torn.is_some() {
            assert_eq!(end, durable.position(), "a write is there as a whole or not at all");
        }
        let mut records = outcome.records.clone();
        if outcome.recovered.restart.is_some() {
            records.pop();
        }
        for (i, (position, kept)) in records.iter().enumerate() {
            assert_eq!(*position, end.0 - (records.len() - 1 - i) as u64, "consecutive up to the end");
            assert_eq!(kept, &self.staged[usize::try_from(*position).unwrap() - 1]);
        }
        let snapshot = outcome.recovered.snapshot.map_or(0, |(index, _)| index);
        assert!(outcome.recovered.hard_state.commit >= snapshot);
        assert!(outcome.recovered.hard_state.commit <= outcome.recovered.last_index);
        outcome
    }
}

/// The power goes after any number of operations, over and over in one life.
#[test]
fn no_crash_loses_what_was_durable_or_invents_what_was_not() {
    for seed in 0..400 {
        let mut model = Model::new(seed);
        for _ in 0..12 {
            for _ in 0..model.rng.below(60) {
                model.operate();
            }
            model.crash();
        }
    }
}

/// The same life, cut off at each of its operations.
#[test]
fn every_operation_of_a_life_may_be_its_last() {
    for seed in 0..5 {
        for operations in 0..200 {
            let mut model = Model::new(seed);
            for _ in 0..operations {
                model.operate();
            }
            model.crash();
        }
    }
}
