//! Mutations on their way: to the leader, into its log, and back as applied.
//!
//! The mutations that a server takes from its clients in a turn are a parcel, numbered from the first command of its boot on. The
//! parcel goes to the leader, which may be this server, and is kept until all of it is applied here. When another node leads, or
//! nothing comes back, all kept parcels are sent again, in order. The leader takes parcels into its log only in the order of their
//! numbers, and the state machine drops commands that it has seen ([`machine`](super::machine)). So each command is applied once,
//! whatever is lost on the way.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::batch::{self, Origin, Parcel};
use super::machine::Machine;
use crate::faults::{self, Fault};
use crate::limits;

/// This node's mutations on their way to the leader, and those of others on their way into its log.
#[derive(Debug, Default)]
pub struct Forward {
    /// Own parcels that are not completely applied.
    unanswered: VecDeque<(Parcel, Bytes)>,
    unanswered_bytes: usize,
    /// The leader to which they were sent, and its term.
    sent: Option<(u64, u64)>,
    /// When something last came back, or all parcels were sent again.
    progress_ms: u64,
    /// When a command of this server was last applied, or the oldest unapplied one was kept.
    applied_ms: u64,
    /// As leader: parcels to propose, and the work of each.
    inbox: VecDeque<(Bytes, usize)>,
    inbox_bytes: usize,
    /// After an election, before everything earlier is applied: parcels to take then.
    early: Vec<Bytes>,
    /// As leader, the term; and for each server the epoch and number of its next parcel.
    led: Option<u64>,
    expected: BTreeMap<u64, (u64, u64)>,
}

impl Forward {
    /// Returns whether one more parcel may be under way.
    pub fn is_open(&self) -> bool {
        self.unanswered_bytes < limits::FORWARD_MAX
    }

    /// Returns whether no parcel is under way.
    pub fn is_empty(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// Keeps a parcel of this server, to send or propose.
    ///
    /// # Panics
    /// If `batch` is not a batch with one parcel.
    pub fn keep(&mut self, batch: Bytes, now_ms: u64) {
        let parcel = batch::parcel(&batch).expect("what was gathered is one parcel");
        if self.unanswered.is_empty() {
            (self.progress_ms, self.applied_ms) = (now_ms, now_ms);
        }
        self.unanswered_bytes += batch.len();
        self.unanswered.push_back((parcel, batch));
    }

    /// All commands of this server up to `seq` are applied.
    pub fn applied(&mut self, seq: u64, now_ms: u64) {
        while let Some((_, batch)) =
            self.unanswered.pop_front_if(|(parcel, _)| parcel.first + u64::from(parcel.count) <= seq + 1)
        {
            self.unanswered_bytes -= batch.len();
            (self.progress_ms, self.applied_ms) = (now_ms, now_ms);
        }
    }

    /// Returns since when the oldest command under way has been waiting.
    pub fn waits_since(&self) -> Option<u64> {
        (!self.unanswered.is_empty()).then_some(self.applied_ms)
    }

    // ---- towards another leader ----

    /// `leader` leads in `term`: returns the parcels to send to it now. These are all of them if the leader was not known before,
    /// or if nothing has come back for `patience_ms`.
    pub fn follow(&mut self, leader: u64, term: u64, now_ms: u64, patience_ms: u64) -> impl Iterator<Item = &Bytes> {
        self.step_down();
        self.early.clear();
        let late = now_ms.saturating_sub(self.progress_ms) >= patience_ms;
        let again = (self.sent != Some((leader, term)) || late) && !faults::is_armed(Fault::NotSentAgain);
        if again {
            self.sent = Some((leader, term));
            self.progress_ms = now_ms;
        }
        self.unanswered.iter().map(|(_, batch)| batch).take(if again { usize::MAX } else { 0 })
    }

    /// Returns the parcel that was kept last.
    pub fn last(&self) -> Option<&Bytes> {
        self.unanswered.back().map(|(_, batch)| batch)
    }

    /// The sent parcels may not have arrived: the next [`Forward::follow`] sends them again.
    pub fn lost(&mut self) {
        self.sent = None;
    }

    // ---- as leader ----

    /// This server leads in `term`, and has applied everything from before it.
    pub fn lead(&mut self, term: u64, machine: &Machine) {
        if self.led == Some(term) {
            return;
        }
        self.step_down();
        self.sent = None;
        self.led = Some(term);
        let own: Vec<Bytes> = self.unanswered.iter().map(|(_, batch)| batch.clone()).collect();
        let early = std::mem::take(&mut self.early);
        for batch in own.into_iter().chain(early) {
            self.take(batch, machine);
        }
    }

    /// Keeps a parcel that came after this server was elected and before it leads.
    pub fn take_early(&mut self, batch: Bytes) {
        if self.early.iter().map(Bytes::len).sum::<usize>() <= limits::INBOX_MAX {
            self.early.push(batch);
        }
    }

    fn step_down(&mut self) {
        self.led = None;
        self.expected.clear();
        self.inbox.clear();
        self.inbox_bytes = 0;
    }

    /// Takes a parcel to propose, if it is its server's next. Drops a parcel that came before or too early, one that is malformed or
    /// too much work for an entry, and one for which there is no room: the server will send it again.
    pub fn take(&mut self, batch: Bytes, machine: &Machine) {
        let Ok((parcel, work)) = batch::parcel_and_work(&batch) else { return };
        if work > limits::PARCEL_WORK {
            return;
        }
        let Parcel { origin: Origin { node, epoch }, first, count } = parcel;
        // The state machine hands out raft ids, so it knows every server that may send something, except the founder, which comes
        // before all.
        if !machine.members.nodes().is_empty() && !machine.members.nodes().contains_key(&node) {
            return;
        }
        if self.led.is_none() || machine.members.is_retired(node) || self.inbox_bytes > limits::INBOX_MAX {
            return;
        }
        let seen = || machine.seen().get(&node).map_or((0, 1), |seen| (seen.epoch, seen.seq + 1));
        let any = faults::is_armed(Fault::FirstParcelExpected);
        let expected = self.expected.entry(node).or_insert_with(|| if any { (epoch, first) } else { seen() });
        let next = if epoch > expected.0 { 1 } else { expected.1 };
        let end = first.saturating_add(u64::from(count));
        let early = first > next && !faults::is_armed(Fault::GapAccepted);
        let again = end <= next && !faults::is_armed(Fault::AppliedTwice);
        if epoch < expected.0 || early || again {
            return;
        }
        *expected = (epoch, end);
        self.inbox_bytes += batch.len();
        self.inbox.push_back((batch, work));
    }

    /// Returns whether there is something to propose.
    pub fn has_inbox(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Proposes the next parcels as one batch, which holds no more work than a full one; `propose` returns whether it was taken.
    pub fn propose(&mut self, propose: impl FnOnce(Bytes) -> bool) {
        let (mut size, mut total) = (0, 0);
        let next = self.inbox.iter().take_while(|(batch, work)| {
            let first = size == 0;
            size += batch.len();
            total += work;
            first || (size <= limits::BATCH_SOFT && total <= limits::BATCH_WORK)
        });
        let batches: Vec<Bytes> = next.map(|(batch, _)| batch.clone()).collect();
        if batches.is_empty() {
            return;
        }
        if propose(batch::merge(&batches)) {
            for (batch, _) in self.inbox.drain(..batches.len()) {
                self.inbox_bytes -= batch.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::batch::Gather;
    use crate::store::Mutation;

    fn gather(node: u64) -> Gather {
        Gather::new(Origin { node, epoch: 1 })
    }

    fn parcel(gather: &mut Gather, commands: usize) -> Bytes {
        for _ in 0..commands {
            gather.push(&Mutation::Nop.into());
        }
        gather.take().unwrap().into()
    }

    fn proposed(forward: &mut Forward) -> Vec<u64> {
        let mut seqs = Vec::new();
        forward.propose(|batch| batch::decode(&batch, |_, seq, _| seqs.push(seq)).is_ok());
        seqs
    }

    /// A new leader may have none of what the old one had taken: all of it has to come again, in order, and only then.
    #[test]
    fn everything_unanswered_is_sent_again_to_a_new_leader() {
        let (mut forward, mut own) = (Forward::default(), gather(1));
        let (a, b) = (parcel(&mut own, 2), parcel(&mut own, 1));
        forward.keep(a.clone(), 0);
        forward.keep(b.clone(), 0);
        assert_eq!(forward.follow(2, 1, 0, 100).cloned().collect::<Vec<_>>(), [a, b.clone()]);
        assert_eq!(forward.follow(2, 1, 50, 100).count(), 0);
        forward.applied(2, 60);
        assert_eq!(forward.follow(2, 2, 70, 100).cloned().collect::<Vec<_>>(), [b]);
        assert_eq!(forward.follow(2, 2, 80, 100).count(), 0);
        assert_eq!(forward.follow(2, 2, 170, 100).count(), 1, "nothing has come back for long");
        forward.applied(3, 180);
        assert!(forward.is_empty() && forward.follow(3, 3, 999, 100).count() == 0);
    }

    /// A gap in the log would make the state machine drop what fills it.
    #[test]
    fn the_leader_takes_parcels_in_order_only() {
        let machine = Machine::founding(10);
        let (mut forward, mut other) = (Forward::default(), gather(7));
        let (a, b) = (parcel(&mut other, 1), parcel(&mut other, 2));
        forward.take(a.clone(), &machine);
        assert!(!forward.has_inbox(), "it does not lead");
        forward.lead(1, &machine);
        for batch in [&b, &a, &a, &b, &b] {
            forward.take(batch.clone(), &machine);
        }
        assert_eq!(proposed(&mut forward), [1, 2, 3]);
        assert!(!forward.has_inbox());
    }

    /// What this server could not send while another led it proposes itself, before anything newer.
    #[test]
    fn a_new_leader_proposes_its_own_first() {
        let machine = Machine::founding(10);
        let (mut forward, mut own) = (Forward::default(), gather(1));
        forward.keep(parcel(&mut own, 2), 0);
        forward.lead(3, &machine);
        forward.lead(3, &machine);
        assert_eq!(proposed(&mut forward), [1, 2]);
    }

    /// raft may refuse a proposal, while it hands over for one: nothing of it may be lost.
    #[test]
    fn what_is_not_taken_is_proposed_again() {
        let machine = Machine::founding(10);
        let (mut forward, mut own) = (Forward::default(), gather(1));
        forward.lead(1, &machine);
        forward.take(parcel(&mut own, 1), &machine);
        forward.propose(|_| false);
        assert_eq!(proposed(&mut forward), [1]);
    }

    /// Applying an entry holds up everybody. The leader counted the commands of the parcels that it joined, not the depths of their
    /// paths, and took the first whatever it held.
    #[test]
    fn an_entry_holds_a_bounded_amount_of_work() {
        let machine = Machine::founding(10);
        let mut forward = Forward::default();
        let deep = [b'a'; limits::PATH_MAX];
        let each = 1 + limits::PATH_MAX / limits::WORK_PATH;
        let parcel = |gather: &mut Gather, commands: usize| {
            for _ in 0..commands {
                gather.push(&Mutation::Del { path: &deep, rev: -1 }.into());
            }
            Bytes::from(gather.take().unwrap())
        };
        forward.lead(1, &machine);
        let most = limits::BATCH_WORK / each;
        let (mut a, mut b) = (gather(7), gather(8));
        for commands in [most / 2, most / 2, 2] {
            forward.take(parcel(&mut a, commands), &machine);
        }
        forward.take(parcel(&mut b, most), &machine);
        assert_eq!(proposed(&mut forward).len(), most / 2 * 2);
        assert_eq!(proposed(&mut forward).len(), 2);
        assert_eq!(proposed(&mut forward).len(), most);
        forward.take(parcel(&mut b, limits::PARCEL_WORK / each + 1), &machine);
        assert!(!forward.has_inbox(), "no node gathers so much");
    }
}
