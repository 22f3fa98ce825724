//! The writer: what is staged becomes writes, one at a time, and what was written becomes a proof.
//!
//! ```text
//! append_* ──> gathering write ──next_write──> in flight ──written──> Durable
//!                                  │ does not fit: a seal goes first, and the log goes on in the segment prepared ahead
//! wants_segment ──> the server writes zeros, syncs, renames ──prepared──> ahead
//! release ──> old segments ──> a spare, which wants_segment names to be written over, or removals
//! ```
//! Invariants:
//! * At most one write is in flight. So a whole block of write n + 1 proves that all of write n is durable.
//! * The segment after the current one is wanted as soon as the current one is begun: a whole segment before it is needed.
//! * A segment is given up only when a snapshot covers the highest index that it ever named, and when a later segment holds a
//!   durable write: the opening of that write carries the state on.
//! * Segments are given up from the oldest on, so what is left is a run without gaps.

use super::block::{Block, PAYLOAD, blocks_for, bytes_of};
use super::gather::Gather;
use super::name;
use super::record::{self, HardState, OPENING, RECORD_HEAD, Record, State};
use super::recovery::Recovered;
use super::segment::{self, Header, NodeId};
use crate::faults;
use crate::limits::SPARE_SEGMENTS;
use std::collections::VecDeque;

/// What a log is made with.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// Size of new segments in bytes: a multiple of 4,096, at least four blocks. [`crate::limits::SEGMENT`] outside of tests.
    pub segment_size: u64,
    /// The node's own id.
    pub node: NodeId,
}

/// The place of a record in the log: 1, 2, 3… over all segments; 0 stands before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(pub(super) u64);

/// Proof that all records up to some position are durable. Only a completed write, or recovery, makes one.
///
/// A vote, an acknowledgement, an answer is to be kept together with the [`Position`] of what it promises, and let go
/// when a proof covers that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    write: u64,
    position: u64,
}

impl Durable {
    pub(super) fn new(write: u64, position: u64) -> Durable {
        Durable { write, position }
    }

    /// Whether the record at `position`, and all before it, are durable.
    #[must_use]
    pub fn covers(&self, position: Position) -> bool {
        position.0 <= self.position
    }

    /// Position of the last durable record.
    #[must_use]
    pub fn position(&self) -> Position {
        Position(self.position)
    }

    /// Number of the last durable write.
    #[must_use]
    pub fn write(&self) -> u64 {
        self.write
    }
}

/// A write that the server has to make durable: O_DIRECT and O_DSYNC, or followed by fdatasync.
#[must_use = "a write that is not carried out and reported stops the log"]
#[derive(Debug)]
pub struct Write {
    /// 1, 2, 3… over all segments.
    pub number: u64,
    /// Of the segment that it goes into.
    pub generation: u64,
    /// Where in the segment's file, in bytes.
    pub offset: u64,
    /// What to write. The buffer is used again once the write is handed back.
    pub blocks: Vec<Block>,
}

impl Write {
    /// What to write, as bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        bytes_of(&self.blocks)
    }

    /// Name of the file that it goes into.
    #[must_use]
    pub fn file(&self) -> String {
        name::segment(self.generation)
    }
}

/// A segment to be made ready.
///
/// In this order:
/// 1. With `recycle`, rename that file to the temporary name, and sync the directory: else a crash could leave the new preface
///    under the old name. Without, create a file of the temporary name and write `size` zeros; a hole would not do.
/// 2. Write `header` at offset 0, and sync the file.
/// 3. Rename it to its name, and sync the directory.
/// 4. Report [`Log::prepared`]. If space cannot be had, remove the temporary file and report [`Log::prepare_failed`].
#[must_use = "the log stops when no segment is prepared"]
#[derive(Debug)]
pub struct Prepare {
    /// Generation of the new segment.
    pub generation: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Generation of an old segment of the same size, whose file is to be used again.
    pub recycle: Option<u64>,
    /// The preface: one block.
    pub header: Vec<Block>,
}

impl Prepare {
    /// Name that the file gets in the end.
    #[must_use]
    pub fn file(&self) -> String {
        name::segment(self.generation)
    }

    /// Name that the file has while it is made ready.
    #[must_use]
    pub fn temporary(&self) -> String {
        name::temporary(&self.file())
    }

    /// Name of the old file that is to be used again.
    #[must_use]
    pub fn recycled_file(&self) -> Option<String> {
        self.recycle.map(name::segment)
    }
}

/// Whether there is room for one more batch of the largest size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is.
    Open,
    /// Not until the next segment is prepared, which is under way: hold new batches back.
    Waiting,
    /// Not, and the next segment could not be had: refuse writes and say so, until [`Log::retry_segment`] helped.
    Full,
}

/// State of the segment behind the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    Missing,
    Asked,
    Failed,
    Ready { size: u64 },
}

/// The segment that is written to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Current {
    pub generation: u64,
    pub size: u64,
    /// First block that is free.
    pub next: usize,
    /// Highest index named in it.
    pub highest: u64,
}

/// A segment that is sealed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Old {
    pub generation: u64,
    pub size: u64,
    pub highest: u64,
}

/// Where a recovered log goes on.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    pub current: Current,
    pub ahead: Ahead,
    pub old: VecDeque<Old>,
    /// Newest generation that holds a durable write; 0 for none.
    pub anchor: u64,
    pub next_write: u64,
    /// State that the last write left, before what recovery made of it.
    pub state: State,
    pub meter: Meter,
}

struct InFlight {
    number: u64,
    seal: bool,
    /// Position of the last record that it makes durable.
    position: u64,
}

/// The log's writer. It opens no file: it says what is to be written, and is told what was.
pub struct Log {
    params: Params,
    /// Most blocks that a write may have, in every segment that it may go into.
    write_max: usize,
    /// State behind everything that is staged.
    state: State,
    next_number: u64,
    /// What is staged; the last one still gathers.
    staged: VecDeque<Gather>,
    in_flight: Option<InFlight>,
    /// Buffers to be used again.
    buffers: Vec<Vec<Block>>,
    current: Option<Current>,
    ahead: Ahead,
    old: VecDeque<Old>,
    spares: VecDeque<Old>,
    removals: Vec<String>,
    anchor: u64,
    /// Highest index that a durable snapshot covers.
    released: u64,
    durable: Durable,
    meter: Meter,
}

impl Log {
    /// A log without records and without a segment: [`Log::wants_segment`] asks for the first.
    ///
    /// [`super::Survey::Empty`] says in which order a node is founded.
    ///
    /// # Panics
    /// If the segments' size is not one that a segment may have.
    #[must_use]
    pub fn create(params: Params) -> Log {
        assert!(segment::is_size(params.segment_size), "segments of {} bytes", params.segment_size);
        Log {
            params,
            write_max: segment::write_max(params.segment_size),
            state: State::EMPTY,
            next_number: 1,
            staged: VecDeque::new(),
            in_flight: None,
            buffers: Vec::new(),
            current: None,
            ahead: Ahead::Missing,
            old: VecDeque::new(),
            spares: VecDeque::new(),
            removals: Vec::new(),
            anchor: 0,
            released: 0,
            durable: Durable::new(0, 0),
            meter: Meter::default(),
        }
    }

    /// A log that goes on where recovery found its end. All of [`Recovered::steps`] must have been carried out.
    ///
    /// Where the snapshot is ahead of the log, or the hard state had to be raised, the records that say so are staged.
    #[must_use]
    pub fn resume(params: Params, recovered: &Recovered) -> Log {
        let tail = recovered.tail.clone();
        let ahead_size = if let Ahead::Ready { size } = tail.ahead { size } else { params.segment_size };
        let smallest = params.segment_size.min(ahead_size);
        let mut log = Log {
            write_max: segment::write_max(smallest),
            state: tail.state,
            next_number: tail.next_write,
            current: Some(tail.current),
            ahead: tail.ahead,
            old: tail.old,
            anchor: tail.anchor,
            durable: recovered.durable,
            meter: tail.meter,
            ..Log::create(params)
        };
        if let Some((index, term)) = recovered.restart {
            log.restart(index, term);
        }
        if log.state.hard != recovered.hard_state {
            let HardState { term, vote, commit } = recovered.hard_state;
            log.append_hard_state(term, vote, commit);
        }
        log.release(recovered.snapshot.map_or(0, |(index, _)| index));
        log
    }

    /// Stages an entry; the data is copied here, once.
    ///
    /// # Panics
    /// If the index leaves a gap, or replaces a committed entry, or the entry does not fit into one write: raft does neither.
    pub fn append_entry(&mut self, index: u64, term: u64, entry_type: u8, data: &[u8]) -> Position {
        self.stage(&Record::Entry { index, term, entry_type, data })
    }

    /// Stages the hard state, behind the entries that it calls committed.
    ///
    /// # Panics
    /// If the term or the commit index falls, or the commit index is above the last staged entry.
    pub fn append_hard_state(&mut self, term: u64, vote: u64, commit: u64) -> Position {
        self.stage(&Record::HardState(HardState { term, vote, commit }))
    }

    /// Stages that all entries are void and that the log goes on behind a snapshot that came from the leader and is durable.
    /// The snapshot is not to be acknowledged before this is durable.
    ///
    /// # Panics
    /// If the index is below the commit index.
    pub fn restart(&mut self, index: u64, term: u64) -> Position {
        self.stage(&Record::Restart { index, term })
    }

    fn stage(&mut self, record: &Record<'_>) -> Position {
        let after = match self.state.after(record) {
            Ok(after) => after,
            Err(why) => panic!("log: {why}: {record:?} on {:?}", self.state),
        };
        let (size, most) = (record::size(record), self.write_max * PAYLOAD);
        assert!(OPENING + size <= most, "log: a record of {size} bytes does not fit into a write of {most}");
        if self.staged.back().is_none_or(|last| last.used() + size > most) {
            let buffer = self.buffers.pop().unwrap_or_default();
            self.staged.push_back(Gather::new(buffer, self.state));
        }
        let gather = self.staged.back_mut().expect("pushed above");
        gather.push(record, after);
        self.state = after;
        self.position()
    }

    /// Position of the last staged record.
    #[must_use]
    pub fn position(&self) -> Position {
        Position(self.state.position - 1)
    }

    /// Index of the last staged entry (or of the restart behind which there is none yet).
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.state.last_index
    }

    /// The hard state that was staged last.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.state.hard
    }

    /// Whether anything waits for [`Log::next_write`].
    #[must_use]
    pub fn staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Whether a write is in flight.
    #[must_use]
    pub fn in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// What is durable by now.
    #[must_use]
    pub fn durable(&self) -> Durable {
        self.durable
    }

    /// The next write, if none is in flight, something is staged, and there is a segment for it.
    pub fn next_write(&mut self) -> Option<Write> {
        if self.in_flight.is_some() {
            return None;
        }
        let (count, before) = self.staged.front().map(|gather| (gather.count(), gather.before()))?;
        let current = self.current.as_mut()?;
        let (gather, flags) = if count <= current.free() {
            (self.staged.pop_front()?, 0)
        } else if matches!(self.ahead, Ahead::Ready { .. }) {
            (Gather::new(self.buffers.pop().unwrap_or_default(), before), super::block::SEAL)
        } else {
            return None;
        };
        let (number, offset) = (self.next_number, segment::offset(current.next));
        self.next_number += 1;
        current.next += gather.count();
        current.highest = current.highest.max(gather.highest());
        let after = gather.after();
        self.in_flight = Some(InFlight { number, seal: flags != 0, position: after.position - 1 });
        let generation = current.generation;
        let blocks = gather.close(generation, number, flags);
        self.meter.add(after.last_index, segment::offset(blocks.len()));
        Some(Write { number, generation, offset, blocks })
    }

    /// Reports that `write` is durable. The returned proof covers everything up to it.
    ///
    /// # Panics
    /// If it is not the write that is in flight.
    pub fn written(&mut self, write: Write) -> Durable {
        let in_flight = self.in_flight.take().expect("log: a write completed, and none is in flight");
        assert_eq!(write.number, in_flight.number, "log: another write completed than the one in flight");
        self.buffers.push(write.blocks);
        self.buffers.truncate(2);
        self.durable = Durable::new(in_flight.number, in_flight.position);
        if faults::is_armed(faults::Fault::ProofOfTooMuch) {
            self.durable = Durable::new(in_flight.number, self.state.position - 1);
        }
        if in_flight.seal {
            self.advance();
        } else if self.anchor != write.generation {
            self.anchor = write.generation;
            self.give_up();
        }
        self.durable
    }

    /// Goes on to the segment prepared ahead: the current one is sealed.
    fn advance(&mut self) {
        let Current { generation, size, highest, .. } = self.current.take().expect("a seal was written to it");
        self.old.push_back(Old { generation, size, highest });
        let Ahead::Ready { size } = self.ahead else { panic!("log: sealed without a successor") };
        self.current = Some(Current { generation: generation + 1, size, next: 1, highest: 0 });
        self.ahead = Ahead::Missing;
    }

    /// Whether [`Log::wants_segment`] would ask for one.
    #[must_use]
    pub fn is_segment_missing(&self) -> bool {
        self.ahead == Ahead::Missing
    }

    /// Asks for the segment to come, once: until its answer, and after a failure until [`Log::retry_segment`], `None`.
    pub fn wants_segment(&mut self) -> Option<Prepare> {
        if !self.is_segment_missing() {
            return None;
        }
        self.ahead = Ahead::Asked;
        let generation = self.wanted();
        let size = self.params.segment_size;
        let header = vec![Header { generation, size, node: self.params.node }.encode()];
        let recycle = self.spares.pop_front().map(|spare| spare.generation);
        Some(Prepare { generation, size, recycle, header })
    }

    fn wanted(&self) -> u64 {
        self.current.map_or(1, |current| current.generation + 1)
    }

    /// Reports that the segment that was asked for is there, durable, under its name.
    ///
    /// # Panics
    /// If it was not asked for.
    pub fn prepared(&mut self, generation: u64) {
        assert!(self.ahead == Ahead::Asked && generation == self.wanted(), "log: a segment came that nobody wants");
        let size = self.params.segment_size;
        if self.current.is_none() {
            self.current = Some(Current { generation, size, next: 1, highest: 0 });
            self.ahead = Ahead::Missing;
        } else {
            self.ahead = Ahead::Ready { size };
        }
    }

    /// Reports that the segment that was asked for cannot be had now, for want of space.
    ///
    /// # Panics
    /// If it was not asked for.
    pub fn prepare_failed(&mut self, generation: u64) {
        assert!(self.ahead == Ahead::Asked && generation == self.wanted(), "log: a segment failed that nobody wants");
        self.ahead = Ahead::Failed;
    }

    /// Lets [`Log::wants_segment`] ask again after a failure; the server's timer calls it.
    pub fn retry_segment(&mut self) {
        if self.ahead == Ahead::Failed {
            self.ahead = Ahead::Missing;
        }
    }

    /// Whether records with so many bytes of data fit into what is prepared, with everything that is staged, and with some
    /// blocks to spare for raft's own small records, which need not ask.
    ///
    /// To be asked before a batch is proposed, and before a leader's entries are taken: what was accepted always fits.
    /// The rule is that all that is staged fits into the current segment alone, or into the one ahead alone: then it fits however
    /// it will be parted into writes, and wherever the seal will come.
    #[must_use]
    pub fn can_accept(&self, records: usize, bytes: usize) -> bool {
        let staged: usize = self.staged.iter().map(Gather::count).sum();
        let needed = staged + self.blocks_most(records * RECORD_HEAD + bytes) + self.reserve();
        let sealing = self.in_flight.as_ref().is_some_and(|write| write.seal);
        let current = self.current.filter(|_| !sealing).map_or(0, |current| current.free());
        let ahead = match self.ahead {
            Ahead::Ready { size } => segment::blocks(size) - 2,
            _ => 0,
        };
        needed <= current.max(ahead)
    }

    /// Most blocks by which records of so many bytes can lengthen what is staged.
    fn blocks_most(&self, payload: usize) -> usize {
        let most = self.write_max * PAYLOAD - OPENING;
        // Two neighbouring writes hold more than one could, so of several every second one is more than half full.
        let writes = if payload <= most { 1 } else { 1 + 2 * payload.div_ceil(most) };
        blocks_for(payload + writes * OPENING) + writes
    }

    /// Whether there is room for one more batch of the largest size.
    #[must_use]
    pub fn room(&self) -> Room {
        let batch = crate::limits::BATCH_MAX.min((self.write_max * PAYLOAD) / 2);
        match self.ahead {
            _ if self.can_accept(1, batch) => Room::Open,
            Ahead::Failed => Room::Full,
            _ => Room::Waiting,
        }
    }

    /// Whether the next segment could not be had, and an old one would be free for it if a snapshot covered it.
    #[must_use]
    pub fn needs_release(&self) -> bool {
        self.ahead == Ahead::Failed && self.spares.is_empty() && !self.old.is_empty()
    }

    /// Blocks that are kept for records that nobody asks [`Log::can_accept`] about: hard states, a new leader's empty entry.
    fn reserve(&self) -> usize {
        16.min(segment::blocks(self.params.segment_size) / 8)
    }

    /// Reports that a durable snapshot covers all entries up to `index`: segments behind it are used again or removed.
    pub fn release(&mut self, index: u64) {
        self.released = self.released.max(index);
        self.meter.forget(self.released);
        self.give_up();
    }

    fn give_up(&mut self) {
        while let Some(&oldest) = self.old.front() {
            if oldest.highest > self.released || oldest.generation >= self.anchor {
                return;
            }
            self.old.pop_front();
            if oldest.size != self.params.segment_size {
                self.removals.push(name::segment(oldest.generation));
                continue;
            }
            self.spares.push_back(oldest);
            if self.spares.len() > SPARE_SEGMENTS
                && let Some(spare) = self.spares.pop_front()
            {
                self.removals.push(name::segment(spare.generation));
            }
        }
    }

    /// Files that are of no use any more, the oldest first. They may be removed at leisure.
    pub fn take_removals(&mut self) -> Vec<String> {
        std::mem::take(&mut self.removals)
    }

    /// Bytes of the log behind the entry at `index`, to within some hundred KiB: what a restart would replay.
    #[must_use]
    pub fn bytes_since(&self, index: u64) -> u64 {
        self.meter.since(index)
    }
}

impl Current {
    /// Blocks that are free for writes, the seal's apart.
    fn free(&self) -> usize {
        (segment::blocks(self.size) - 1).saturating_sub(self.next)
    }
}

/// How many bytes of log there are behind an index: a mark for every 256 KiB.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    /// Last index and bytes so far; both rise.
    marks: VecDeque<(u64, u64)>,
    bytes: u64,
}

impl Meter {
    const STEP: u64 = 256 << 10;

    pub(super) fn add(&mut self, last_index: u64, bytes: u64) {
        self.bytes += bytes;
        while self.marks.back().is_some_and(|&(index, _)| index > last_index) {
            self.marks.pop_back();
        }
        if self.marks.back().is_none_or(|&(_, at)| at + Meter::STEP <= self.bytes) {
            self.marks.push_back((last_index, self.bytes));
        }
    }

    fn since(&self, index: u64) -> u64 {
        let covered = self.marks.partition_point(|&(last, _)| last <= index);
        let at = covered.checked_sub(1).and_then(|mark| self.marks.get(mark)).map_or(0, |&(_, at)| at);
        self.bytes - at
    }

    fn forget(&mut self, index: u64) {
        while self.marks.get(1).is_some_and(|&(last, _)| last <= index) {
            self.marks.pop_front();
        }
    }
}
