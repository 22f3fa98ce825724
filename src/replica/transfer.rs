//! A snapshot on its way to a peer that is new or too far behind.
//!
//! The leader reads its state, a slice each turn, and sends it in parts. A few parts are under way at a time; a part that is not
//! acknowledged is sent again, over another link if necessary. The peer writes the records to a file of its own and builds the
//! state from them at the same time. It acknowledges the last part when the file is durable; then the leader tells raft.
//!
//! A transfer belongs to one boot of the sender and one of the receiver: it is over when either restarts.
//!
//! ```text
//! part    record*               record   length u32 | bytes
//! first record of the first part         raft's term u64 | index u64 | term u64 | state: see snapshot
//! ```
//! Integers are little-endian.

use std::collections::VecDeque;

use bytes::Bytes;

use super::machine::Machine;
use super::snapshot::{BadSnapshot, Restore, Source};
use crate::faults::{self, Fault};
use crate::limits;
use crate::store::Store;
use crate::wire::peer::ChunkFailure;

/// A part that has not been acknowledged for this long, in milliseconds, is sent again.
const RESEND_MS: u64 = 1_000;
/// A transfer without progress for this long, in milliseconds, is given up.
const PATIENCE_MS: u64 = 20_000;
/// A transfer without progress for this long, in milliseconds, does not keep others waiting: another may begin beside it.
const STALLED_MS: u64 = 2_000;
/// Time between two log lines about the progress, in milliseconds.
const TELL_MS: u64 = 2_000;

const HEAD: usize = 24;

/// A part of a snapshot.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Its number, from 0.
    pub seq: u64,
    /// True for the last part.
    pub last: bool,
    /// Its records.
    pub records: Bytes,
}

/// A snapshot that is being sent.
#[derive(Debug)]
pub struct Sending {
    /// Raft id of the receiver.
    pub to: u64,
    /// The number of this transfer.
    pub transfer: u64,
    /// The last entry that it covers.
    pub index: u64,
    /// The receiver's boot; 0 while it is unknown.
    pub epoch: u64,
    /// True if nothing is logged before the transfer is done.
    quiet: bool,
    source: Option<Source>,
    gathered: Vec<u8>,
    /// Number of the next part.
    next: u64,
    /// Parts that are not acknowledged. Those from `unsent` on have not been sent.
    chunks: VecDeque<Chunk>,
    unsent: usize,
    bytes: u64,
    began_ms: u64,
    progress_ms: u64,
    resent_ms: u64,
    told_ms: u64,
    told_bytes: u64,
}

/// The state of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The transfer continues.
    Going,
    /// The peer has the whole snapshot, durably.
    Done,
    /// Nothing came back for too long.
    Stuck,
}

impl Sending {
    /// Begins to send the present state, which covers the entries up to `at` = (index, term), to the node with raft id and boot
    /// `to`.
    pub fn begin(
        machine: &mut Machine,
        to: (u64, u64),
        transfer: u64,
        raft_term: u64,
        at: (u64, u64),
        now_ms: u64,
    ) -> Sending {
        let (source, state) = Source::begin(machine);
        let mut head = Vec::with_capacity(HEAD + state.len());
        for number in [raft_term, at.0, at.1] {
            head.extend_from_slice(&number.to_le_bytes());
        }
        head.extend_from_slice(&state);
        let mut gathered = Vec::new();
        put(&mut gathered, &head);
        Sending {
            to: to.0,
            transfer,
            index: at.0,
            epoch: to.1,
            quiet: false,
            source: Some(source),
            gathered,
            next: 0,
            chunks: VecDeque::new(),
            unsent: 0,
            bytes: 0,
            began_ms: now_ms,
            progress_ms: now_ms,
            resent_ms: now_ms,
            told_ms: now_ms,
            told_bytes: 0,
        }
    }

    /// Sets whether to log nothing before the transfer is done, because an earlier failure was logged.
    pub fn quietly(self, quiet: bool) -> Sending {
        Sending { quiet, ..self }
    }

    /// Returns whether another transfer may begin beside this one.
    pub fn is_stalled(&self, now_ms: u64) -> bool {
        self.idle_ms(now_ms) >= STALLED_MS
    }

    /// Returns whether the transfer is over because the receiver, now in boot `epoch`, has restarted.
    pub fn is_of_earlier_boot(&mut self, epoch: u64) -> bool {
        if self.epoch == 0 {
            self.epoch = epoch;
        }
        epoch > self.epoch
    }

    /// Returns whether the next slice can be read now.
    pub fn wants_slice(&self) -> bool {
        self.source.is_some() && self.chunks.len() < limits::CHUNK_WINDOW
    }

    /// Reads a slice of the state.
    pub fn slice(&mut self, store: &mut Store) {
        if !self.wants_slice() {
            return;
        }
        let Some(mut source) = self.source.take() else { return };
        let gathered = &mut self.gathered;
        source.slice(store, |record| {
            put(gathered, record);
            gathered.len() >= limits::CHUNK
        });
        let last = source.is_finished();
        if last {
            source.end(store);
        } else {
            self.source = Some(source);
        }
        if last || self.gathered.len() >= limits::CHUNK {
            let records = Bytes::from(std::mem::take(&mut self.gathered));
            self.chunks.push_back(Chunk { seq: self.next, last, records });
            self.next += 1;
        }
    }

    /// Sends the next parts; a part counts as sent if `send` returns true.
    pub fn send(&mut self, mut send: impl FnMut(&Chunk) -> bool) {
        while let Some(chunk) = self.chunks.get(self.unsent) {
            if !send(chunk) {
                return;
            }
            self.unsent += 1;
        }
    }

    /// The peer has all parts before `next`.
    pub fn acknowledged(&mut self, next: u64, now_ms: u64) {
        while let Some(chunk) = self.chunks.pop_front_if(|chunk| chunk.seq < next) {
            self.bytes += chunk.records.len() as u64;
            self.unsent = self.unsent.saturating_sub(1);
            self.progress_ms = now_ms;
        }
    }

    /// Returns for how long the peer has acknowledged nothing, in milliseconds.
    pub fn idle_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.progress_ms)
    }

    /// Time has passed. Adds a line for the operator now and then.
    pub fn tick(&mut self, now_ms: u64, name: &str, lines: &mut Vec<String>) -> Progress {
        if self.source.is_none() && self.chunks.is_empty() {
            let ms = now_ms.saturating_sub(self.began_ms);
            lines.push(format!(
                "sent a snapshot up to entry {} to {name}: {} KiB in {ms} ms",
                self.index,
                self.bytes >> 10
            ));
            return Progress::Done;
        }
        let idle = self.idle_ms(now_ms);
        if idle >= PATIENCE_MS {
            return Progress::Stuck;
        }
        if idle >= RESEND_MS && now_ms.saturating_sub(self.resent_ms) >= RESEND_MS {
            self.resent_ms = now_ms;
            self.unsent = 0;
        }
        if now_ms.saturating_sub(self.told_ms) >= TELL_MS && self.bytes > self.told_bytes && !self.quiet {
            (self.told_ms, self.told_bytes) = (now_ms, self.bytes);
            lines.push(format!(
                "sending a snapshot up to entry {} to {name}: {} KiB so far",
                self.index,
                self.bytes >> 10
            ));
        }
        Progress::Going
    }

    /// Lets the store forget the state that was being read.
    pub fn end(self, store: &mut Store) {
        if let Some(source) = self.source {
            source.end(store);
        }
    }
}

fn put(gathered: &mut Vec<u8>, record: &[u8]) {
    let len = u32::try_from(record.len()).expect("a record within its limit");
    gathered.extend_from_slice(&len.to_le_bytes());
    gathered.extend_from_slice(record);
}

/// A snapshot that is being received.
#[derive(Debug)]
pub struct Receiving {
    /// Raft id of the leader that sends it.
    pub from: u64,
    /// The number of the transfer.
    pub transfer: u64,
    /// The leader's term in raft.
    pub raft_term: u64,
    index: u64,
    term: u64,
    state: Vec<u8>,
    restore: Option<Restore>,
    /// Number of the part that comes next.
    next: u64,
    /// Parts whose records are not written yet, each with the place of the next record.
    chunks: VecDeque<(Chunk, usize)>,
    /// Parts before this one are written.
    written: u64,
    acknowledged: u64,
    complete: bool,
    failed: Option<BadSnapshot>,
    heard_ms: u64,
}

impl Receiving {
    /// Begins with the first part. Returns `None` if the part is malformed.
    pub fn begin(from: u64, transfer: u64, first: Chunk, history: u64, now_ms: u64) -> Option<Receiving> {
        let (head, at) = record(&first.records, 0)?;
        let (numbers, state) = head.split_at_checked(HEAD)?;
        let number = |i: usize| numbers.get(8 * i..8 * i + 8)?.try_into().ok().map(u64::from_le_bytes);
        let (raft_term, index, term) = (number(0)?, number(1)?, number(2)?);
        let restore = Restore::of_state(state, history).ok()?;
        Some(Receiving {
            from,
            transfer,
            raft_term,
            index,
            term,
            state: state.to_vec(),
            restore: Some(restore),
            next: 1,
            chunks: VecDeque::from([(first, at)]),
            written: 0,
            acknowledged: 0,
            complete: false,
            failed: None,
            heard_ms: now_ms,
        })
    }

    /// Index and term of the last entry that it covers, and its description.
    pub fn describe(&self) -> (u64, u64, Vec<u8>) {
        (self.index, self.term, self.state.clone())
    }

    /// Returns whether it covers more than the entries up to `committed`, and whether its last entry can exist: no entry is of a later
    /// term than the leader's.
    pub fn is_ahead_of(&self, committed: u64) -> bool {
        self.index > committed && self.index <= limits::INDEX_MAX && (1..=self.raft_term).contains(&self.term)
    }

    /// Takes a part, or drops it if it is not the next one.
    pub fn take(&mut self, chunk: Chunk, now_ms: u64) {
        self.heard_ms = now_ms;
        let gap = chunk.seq > self.next && faults::is_armed(Fault::ChunksWithGaps);
        if chunk.seq == self.next || gap {
            self.next = chunk.seq + 1;
            self.chunks.push_back((chunk, 0));
        } else if chunk.seq < self.written {
            // The part was acknowledged, but the acknowledgement was lost.
            self.acknowledged = 0;
        }
    }

    /// Returns the reason, for the sender and for the operator, if nothing came for too long, or if the contents make no sense.
    pub fn failure(&self, now_ms: u64) -> Option<(ChunkFailure, String)> {
        match &self.failed {
            Some(bad) => Some((ChunkFailure::Malformed, bad.to_string())),
            None if self.is_written() || now_ms.saturating_sub(self.heard_ms) < PATIENCE_MS => None,
            None => Some((ChunkFailure::Silence, "nothing came any more".into())),
        }
    }

    /// Returns whether there are records to write.
    pub fn has_records(&self) -> bool {
        !self.chunks.is_empty()
    }

    /// Hands the records of the next part to `sink`, until `sink` returns true because it is full. Returns `false` if there is no
    /// part.
    pub fn write(&mut self, mut sink: impl FnMut(&[u8]) -> bool) -> bool {
        let Some((chunk, at)) = self.chunks.front_mut() else { return false };
        while let Some((bytes, end)) = record(&chunk.records, *at) {
            *at = end;
            if let Some(restore) = &mut self.restore
                && self.failed.is_none()
                && let Err(bad) = restore.record(bytes)
            {
                self.failed = Some(bad);
            }
            if sink(bytes) && end < chunk.records.len() {
                return true;
            }
        }
        if *at < chunk.records.len() {
            self.failed = Some(BadSnapshot::Record);
        }
        self.written = chunk.seq + 1;
        self.complete |= chunk.last;
        self.chunks.pop_front();
        true
    }

    /// Returns whether all records are written.
    pub fn is_written(&self) -> bool {
        self.complete && self.chunks.is_empty()
    }

    /// Returns the number to acknowledge, if it is new. The last part counts only when the file is durable.
    pub fn acknowledge(&mut self, durable: bool) -> Option<u64> {
        let next = if self.complete && !durable { self.written - 1 } else { self.written };
        if next <= self.acknowledged {
            return None;
        }
        self.acknowledged = next;
        Some(next)
    }

    /// Returns the state.
    ///
    /// # Errors
    /// If something is missing.
    pub fn finish(&mut self) -> Result<Machine, BadSnapshot> {
        if let Some(bad) = self.failed.take() {
            return Err(bad);
        }
        self.restore.take().ok_or(BadSnapshot::Record)?.finish()
    }
}

/// Returns the record at a place of a part, and the place after the record.
fn record(records: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (&len, rest) = records.get(at..)?.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(len) as usize;
    let record = rest.get(..len)?;
    Some((record, at + 4 + len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::batch::{Gather, Origin};
    use crate::store::{Lookup, Mutation};

    fn machine(files: u32, size: usize) -> Machine {
        let mut machine = Machine::founding(1_000);
        let mut gather = Gather::new(Origin { node: 1, epoch: 1 });
        for i in 0..files {
            let path = format!("/d{}/f{i}", i % 7);
            gather.push(&Mutation::Set { path: path.as_bytes(), rev: -1, value: &vec![7; size] }.into());
            if gather.len() > limits::BATCH_SOFT {
                machine.apply(&gather.take().unwrap(), |_, _, _, _| ()).unwrap();
            }
        }
        if let Some(batch) = gather.take() {
            machine.apply(&batch, |_, _, _, _| ()).unwrap();
        }
        machine
    }

    /// Carries parts over a link that loses about every n-th, and gives the state that arrives.
    fn carry(from: &mut Machine, lose: u64) -> Machine {
        let mut sending = Sending::begin(from, (2, 1), 9, 3, (100, 2), 0);
        let mut receiving: Option<Receiving> = None;
        let (mut count, mut now) = (0_u64, 0);
        loop {
            now += 100;
            sending.slice(&mut from.store);
            let mut came = Vec::new();
            sending.send(|chunk| {
                count += 1;
                if lose == 0 || (count * count + count / 4) % lose != 0 {
                    came.push(chunk.clone());
                }
                true
            });
            for chunk in came {
                match &mut receiving {
                    None if chunk.seq == 0 => receiving = Receiving::begin(1, 9, chunk, 1_000, now),
                    None => {}
                    Some(receiving) => receiving.take(chunk, now),
                }
            }
            if let Some(receiving) = &mut receiving {
                while receiving.write(|_| false) {}
                if let Some(next) = receiving.acknowledge(receiving.is_written()) {
                    sending.acknowledged(next, now);
                }
            }
            match sending.tick(now, "", &mut Vec::new()) {
                Progress::Going => {}
                Progress::Done => return receiving.unwrap().finish().unwrap(),
                Progress::Stuck => panic!("stuck"),
            }
        }
    }

    /// The receiver goes on from what it got: it must be what the sender had, also when parts were lost on the way.
    #[test]
    fn a_state_arrives_whole_over_a_bad_link() {
        for lose in [0, 3, 2] {
            let mut from = machine(2_000, 1_000);
            let to = carry(&mut from, lose);
            assert_eq!(to.store.revision(), from.store.revision());
            assert_eq!(to.seen(), from.seen());
            let (mut a, mut b) = (Vec::new(), Vec::new());
            for rev in 1_100..=2_000 {
                assert_eq!(from.store.event(rev, &mut a), to.store.event(rev, &mut b), "revision {rev}");
                assert_eq!(a, b);
            }
            assert!(
                matches!(to.store.lookup(b"/d3/f3", 2_000), Lookup::File { rev: 4, value } if value.len() == 1_000)
            );
        }
    }

    /// A new cluster has almost nothing to send.
    #[test]
    fn an_empty_state_arrives() {
        let mut from = machine(0, 0);
        assert_eq!(carry(&mut from, 0).store.revision(), 0);
    }

    /// A peer's bytes are not to be trusted: they are refused, not a panic.
    #[test]
    fn a_part_that_makes_no_sense_is_refused() {
        for bytes in [&b""[..], b"\x10\0\0\0short", b"\xff\xff\xff\xff"] {
            let chunk = Chunk { seq: 0, last: true, records: Bytes::copy_from_slice(bytes) };
            assert!(Receiving::begin(1, 1, chunk, 10, 0).is_none());
        }
        let mut from = machine(10, 10);
        let mut sending = Sending::begin(&mut from, (2, 1), 9, 3, (100, 2), 0);
        while sending.wants_slice() {
            sending.slice(&mut from.store);
        }
        let mut receiving = None;
        sending.send(|chunk| {
            let records = chunk.records.slice(..chunk.records.len() - 3);
            receiving = Receiving::begin(1, 9, Chunk { records, ..chunk.clone() }, 10, 0);
            true
        });
        let mut receiving = receiving.unwrap();
        while receiving.write(|_| false) {}
        assert!(receiving.failure(0).is_some());
    }

    /// The log repeated the progress every two seconds, even when there was none.
    #[test]
    fn a_transfer_without_progress_is_said_to_go_on() {
        let mut from = machine(2_000, 1_000);
        let mut sending = Sending::begin(&mut from, (2, 1), 9, 3, (100, 2), 0);
        while sending.wants_slice() {
            sending.slice(&mut from.store);
        }
        sending.send(|_| true);
        let mut lines = Vec::new();
        for now in (0..10_000).step_by(50) {
            assert_eq!(sending.tick(now, "a node", &mut lines), Progress::Going);
        }
        assert!(lines.is_empty(), "{lines:?}");
        sending.acknowledged(1, 10_000);
        for now in (10_000..29_000).step_by(50) {
            assert_eq!(sending.tick(now, "a node", &mut lines), Progress::Going);
            assert_eq!(sending.is_stalled(now), now >= 12_000, "another may begin");
        }
        assert!(lines.len() == 1 && lines[0].ends_with("KiB so far"), "{lines:?}");
        assert_eq!(sending.tick(30_000, "a node", &mut lines), Progress::Stuck);
    }

    /// Parts for a process that has ended are useless to its successor.
    #[test]
    fn a_transfer_goes_on_to_another_boot() {
        let mut from = machine(1, 1);
        let mut sending = Sending::begin(&mut from, (2, 0), 9, 3, (100, 2), 0);
        assert!(!sending.is_of_earlier_boot(0) && !sending.is_of_earlier_boot(7) && !sending.is_of_earlier_boot(7));
        assert!(sending.is_of_earlier_boot(8));
    }
}
