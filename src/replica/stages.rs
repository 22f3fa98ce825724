//! Where the time of a commit goes, batch by batch, and how large they are.
//!
//! ```text
//! received -gather-> proposed -submit-> handed to the disk -write-> durable here -replicate-> committed -apply-> applied
//!     -answer-> the answers handed to the sockets                                        (at the leader)
//! received -gather-> sent to the leader -forward-> applied -answer-> …                   (at the others)
//! ```
//!
//! The stages of a batch add up to its total. A batch is taken for received when its first command is, and for answered when the
//! last of its answers is handed out. One that a majority of others had before this node's own disk did has no time to replicate. What
//! the sockets and their clients take, before and behind, is not seen from here.
//!
//! The [`Stopwatch`] is read a few times a batch, and nothing but what is told depends on it.

use std::collections::VecDeque;

use crate::stats::Histogram;

/// Nanoseconds since some moment of the past.
pub type Stopwatch = fn() -> u64;

/// A batch of this node's clients that is on its way. All times are in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Commit {
    /// The sequence number behind its last command.
    next: u64,
    /// This node leads.
    leads: bool,
    received: u64,
    /// Or sent to the leader.
    proposed: Option<u64>,
    submitted: Option<u64>,
    written: Option<u64>,
    committed: u64,
    applied: u64,
}

/// What is counted of each stage, in their order.
#[derive(Debug, Default)]
struct Counts {
    gather: Histogram,
    submit: Histogram,
    write: Histogram,
    replicate: Histogram,
    apply: Histogram,
    forward: Histogram,
    answer: Histogram,
    total: Histogram,
    commands: Histogram,
    waiting: Histogram,
    blocks: Histogram,
}

/// Measures where the time of each commit goes.
pub struct Stages {
    stopwatch: Stopwatch,
    /// When the first command of the batch that is being gathered came.
    gathering: Option<u64>,
    /// The sequence number that the next batch begins with.
    next: u64,
    /// In the order of their commands.
    on_their_way: VecDeque<Commit>,
    /// Applied in this turn, and being answered.
    applied: Vec<Commit>,
    /// When raft handed out the entry that is being applied.
    committed: u64,
    /// When the last answers were handed out since.
    answered: Option<u64>,
    counts: Counts,
}

impl Stages {
    /// Nothing is counted yet.
    pub fn new(stopwatch: Stopwatch) -> Stages {
        Stages {
            stopwatch,
            gathering: None,
            next: 1,
            on_their_way: VecDeque::new(),
            applied: Vec::new(),
            committed: 0,
            answered: None,
            counts: Counts::default(),
        }
    }

    /// A command was taken into the batch.
    pub fn received(&mut self) {
        if self.gathering.is_none() {
            self.gathering = Some((self.stopwatch)());
        }
    }

    /// All that was gathered was given up.
    pub fn withdrawn(&mut self) {
        self.gathering = None;
    }

    /// The batch is whole: all commands before the one that will have the sequence number `next`. So many, with these, wait for
    /// their outcome.
    pub fn gathered(&mut self, next: u64, waiting: u64, leads: bool) {
        let now = (self.stopwatch)();
        let received = self.gathering.take().unwrap_or(now);
        self.counts.commands.record(next - self.next);
        self.counts.waiting.record(waiting);
        self.next = next;
        let commit = Commit {
            next,
            leads,
            received,
            proposed: (!leads).then_some(now),
            submitted: None,
            written: None,
            committed: 0,
            applied: 0,
        };
        self.on_their_way.push_back(commit);
    }

    /// What was gathered was proposed.
    pub fn proposed(&mut self) {
        self.stamp(|commit| commit.leads.then_some(&mut commit.proposed));
    }

    /// All that was proposed, in so many blocks, is handed to the disk.
    pub fn submitted(&mut self, blocks: usize) {
        self.counts.blocks.record(blocks as u64);
        self.stamp(|commit| commit.proposed.is_some().then_some(&mut commit.submitted));
    }

    /// What was handed to the disk is durable.
    pub fn written(&mut self) {
        self.stamp(|commit| commit.submitted.is_some().then_some(&mut commit.written));
    }

    /// Gives the time to all on their way that can have it and have not.
    fn stamp(&mut self, place: impl Fn(&mut Commit) -> Option<&mut Option<u64>>) {
        let mut now = None;
        for commit in &mut self.on_their_way {
            if let Some(time) = place(commit)
                && time.is_none()
            {
                *time = Some(*now.get_or_insert_with(self.stopwatch));
            }
        }
    }

    /// An entry is committed, and will be applied now.
    pub fn committed(&mut self) {
        if !self.on_their_way.is_empty() {
            self.committed = (self.stopwatch)();
        }
    }

    /// All commands of this node before the one with the sequence number `next` are applied.
    pub fn applied(&mut self, next: u64) {
        while let Some(commit) = self.on_their_way.pop_front_if(|commit| commit.next <= next) {
            let applied = (self.stopwatch)();
            self.applied.push(Commit { committed: self.committed, applied, ..commit });
        }
    }

    /// The state was replaced by a later one: what became of the commands before `next` is not known, and so not when.
    pub fn skipped(&mut self, next: u64) {
        while self.on_their_way.pop_front_if(|commit| commit.next <= next).is_some() {}
    }

    /// Answers are handed out.
    pub fn handed_out(&mut self) {
        if !self.applied.is_empty() {
            self.answered = Some((self.stopwatch)());
        }
    }

    /// Counts what the last turn has applied and its sockets have been given.
    pub fn end_turn(&mut self) {
        let answered = self.answered.take();
        for commit in std::mem::take(&mut self.applied) {
            // Without anybody left to be answered, there is no such time.
            if let Some(answered) = answered {
                self.count(&commit, answered);
            }
        }
    }

    fn count(&mut self, commit: &Commit, answered: u64) {
        let Commit { leads, received, proposed, submitted, written, committed, applied, .. } = *commit;
        let counts = &mut self.counts;
        let Some(proposed) = proposed else { return };
        if leads {
            // Else another node came to lead on its way, and it took both ways.
            let Some(submitted) = submitted else { return };
            let written = written.unwrap_or(committed).min(committed);
            counts.submit.record(submitted - proposed);
            counts.write.record(written.saturating_sub(submitted));
            counts.replicate.record(committed - written);
            counts.apply.record(applied - committed);
        } else {
            counts.forward.record(applied - proposed);
        }
        counts.gather.record(proposed - received);
        counts.answer.record(answered - applied);
        counts.total.record(answered - received);
    }

    /// What was counted, by name, with what was answered since the last turn.
    pub fn histograms(&mut self) -> Vec<(String, Histogram)> {
        if self.answered.is_some() {
            self.end_turn();
        }
        let Counts { gather, submit, write, replicate, apply, forward, answer, total, commands, waiting, blocks } =
            &self.counts;
        let named = [
            ("commit_gather_ns", gather),
            ("commit_submit_ns", submit),
            ("commit_write_ns", write),
            ("commit_replicate_ns", replicate),
            ("commit_apply_ns", apply),
            // At the others it stands for all that is between gathering and answering.
            ("commit_forward_ns", forward),
            ("commit_answer_ns", answer),
            ("commit_total_ns", total),
            ("batch_commands", commands),
            ("queue_commands", waiting),
            ("write_blocks", blocks),
        ];
        named.map(|(name, histogram)| (name.to_owned(), histogram.clone())).into()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(0) };
    }

    fn stages() -> Stages {
        NOW.set(1_000);
        Stages::new(|| NOW.get())
    }

    fn pass(ns: u64) {
        NOW.set(NOW.get() + ns);
    }

    /// Of each stage that was counted, its name and its sum.
    fn counted(stages: &mut Stages) -> Vec<(String, u64)> {
        let histograms = stages.histograms().into_iter().filter(|(name, h)| name.ends_with("_ns") && h.count() > 0);
        histograms.map(|(name, h)| (name, h.max() * h.count())).collect()
    }

    fn expected(stages: &[(&str, u64)]) -> Vec<(String, u64)> {
        stages.iter().map(|(name, ns)| (format!("commit_{name}_ns"), *ns)).collect()
    }

    /// A stage that is counted twice, or not at all, would send whoever looks for the time to the wrong place.
    #[test]
    fn the_stages_of_a_batch_add_up_to_its_total() {
        let mut stages = stages();
        stages.received();
        pass(1);
        stages.received();
        pass(1);
        stages.gathered(3, 2, true);
        stages.proposed();
        pass(4);
        stages.submitted(1);
        // The next batch gathers meanwhile, and is not written with this one.
        stages.received();
        pass(8);
        stages.written();
        pass(16);
        stages.committed();
        pass(32);
        stages.applied(3);
        pass(64);
        stages.handed_out();
        stages.end_turn();
        let all = [("gather", 2), ("submit", 4), ("write", 8), ("replicate", 16), ("apply", 32), ("answer", 64)];
        assert_eq!(counted(&mut stages), expected(&[&all[..], &[("total", 126)]].concat()));
        assert_eq!(stages.gathering, Some(1_006), "the next one is still being gathered");
    }

    /// Two others may have a batch on their disks before this node has.
    #[test]
    fn a_batch_that_others_have_first_has_no_time_to_replicate() {
        let mut stages = stages();
        stages.received();
        stages.gathered(2, 1, true);
        stages.proposed();
        stages.submitted(1);
        pass(8);
        stages.committed();
        stages.applied(2);
        stages.handed_out();
        stages.written();
        stages.end_turn();
        let zero = [("gather", 0), ("submit", 0), ("write", 8), ("replicate", 0), ("apply", 0), ("answer", 0)];
        assert_eq!(counted(&mut stages), expected(&[&zero[..], &[("total", 8)]].concat()));
    }

    #[test]
    fn what_is_sent_to_another_leader_is_counted_from_there_to_its_return() {
        let mut stages = stages();
        stages.received();
        pass(2);
        stages.gathered(2, 1, false);
        // Entries of others are written in between.
        stages.submitted(1);
        stages.written();
        pass(16);
        stages.committed();
        stages.applied(2);
        pass(4);
        stages.handed_out();
        stages.end_turn();
        assert_eq!(counted(&mut stages), expected(&[("gather", 2), ("forward", 16), ("answer", 4), ("total", 22)]));
    }

    /// Neither a snapshot that covers it, nor a client that is gone, nor a leader that was deposed may leave anything behind.
    #[test]
    fn what_has_no_end_is_not_counted() {
        let mut stages = stages();
        for (next, leads) in [(2, true), (3, false), (4, true)] {
            stages.received();
            stages.gathered(next, 1, leads);
        }
        stages.skipped(2);
        stages.committed();
        stages.applied(3);
        stages.end_turn();
        stages.applied(4);
        stages.handed_out();
        stages.end_turn();
        assert_eq!(counted(&mut stages), []);
        assert!(stages.on_their_way.is_empty() && stages.applied.is_empty());
    }
}
