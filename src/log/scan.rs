//! Reads one segment, block by block, and finds its whole writes and its end.
//!
//! Invariant: a write is handed out only when all of its blocks are whole and in their place.

use super::block::{Blank, Block, Head, SEAL};
use super::table::{self, End, Fault, Meaning, Place, Seen};
use crate::faults;
use crate::limits::{BLOCK, WRITE_MAX};

/// A whole write.
pub(super) struct Whole<'a> {
    pub payload: &'a [u8],
    pub seal: bool,
    pub blocks: usize,
}

/// A segment that is being read.
pub(super) struct Scan {
    generation: u64,
    /// Blocks of the segment.
    blocks: usize,
    place: Place,
    /// Number of the write that is due.
    due: u64,
    /// Its first block.
    start: usize,
    /// Its count of blocks, once one of them was seen.
    count: Option<u32>,
    /// How many of its blocks were taken.
    taken: u32,
    payload: Vec<u8>,
    torn: bool,
    used: bool,
}

impl Scan {
    /// A segment that goes on with write `due`; `payload` is a buffer.
    pub(super) fn new(generation: u64, blocks: usize, due: u64, payload: Vec<u8>) -> Scan {
        Scan {
            generation,
            blocks,
            place: Place::Front,
            due,
            start: 1,
            count: None,
            taken: 0,
            payload,
            torn: false,
            used: false,
        }
    }

    /// A segment that should not have been written to yet.
    pub(super) fn ahead(generation: u64, blocks: usize, due: u64) -> Scan {
        Scan { place: Place::Ahead, ..Scan::new(generation, blocks, due, Vec::new()) }
    }

    /// Looks at block `at`; blocks come in order. A write that it completes goes to `write`.
    pub(super) fn block(
        &mut self,
        at: usize,
        block: &[u8; BLOCK],
        write: &mut dyn FnMut(Whole<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let (seen, head) = self.see(at, block);
        let meaning = table::block(self.place, seen);
        if self.place == Place::Front && meaning == Meaning::Nothing {
            // What was taken of the write that is due is all that came of it, unless more is found further behind.
            self.place = Place::Behind;
            self.torn = self.taken > 0;
            if self.torn && faults::is_armed(faults::Fault::TornTailAccepted) {
                self.torn = false;
                let payload = std::mem::take(&mut self.payload);
                return self.complete(&payload, 0, write);
            }
        }
        match (meaning, head) {
            (Meaning::Take, Some(head)) => {
                self.count = Some(head.count);
                self.taken += 1;
                if head.count == 1 {
                    // The usual write of one block is read where it lies.
                    return self.complete(head.payload(block), head.flags, write);
                }
                self.payload.extend_from_slice(head.payload(block));
                if self.taken == head.count {
                    let payload = std::mem::take(&mut self.payload);
                    let result = self.complete(&payload, head.flags, write);
                    self.payload = payload;
                    self.payload.clear();
                    return result;
                }
            }
            (Meaning::Torn, Some(head)) => {
                self.count = Some(head.count);
                self.torn = true;
            }
            (Meaning::Damage(Fault::Hole), _) if faults::is_armed(faults::Fault::HoleTakenForEnd) => {}
            (Meaning::Damage(fault), _) => return Err(fault),
            (Meaning::Used, _) => self.used = true,
            (Meaning::Nothing | Meaning::Take | Meaning::Torn, _) => {}
        }
        Ok(())
    }

    fn complete(
        &mut self,
        payload: &[u8],
        flags: u16,
        write: &mut dyn FnMut(Whole<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let blocks = super::block::widen(u64::from(self.taken));
        write(Whole { payload, seal: flags == SEAL, blocks })?;
        self.start += blocks;
        self.due = self.due.saturating_add(1);
        (self.count, self.taken) = (None, 0);
        if flags == SEAL {
            self.place = Place::Sealed;
        }
        Ok(())
    }

    /// What a block is, and its header if it is one of the write that is due.
    fn see(&self, at: usize, block: &[u8; BLOCK]) -> (Seen, Option<Head>) {
        let head = match Head::decode(block) {
            Ok(head) => head,
            Err(Blank::Zero) => return (Seen::Zero, None),
            Err(Blank::Bad) => return (Seen::Bad, None),
        };
        let seen = match (head.generation.cmp(&self.generation), head.write.cmp(&self.due)) {
            (std::cmp::Ordering::Less, _) => Seen::Old,
            (std::cmp::Ordering::Greater, _) => Seen::Newer,
            (_, std::cmp::Ordering::Less) => Seen::Past,
            (_, std::cmp::Ordering::Greater) => Seen::Later,
            _ if self.belongs(at, &head) => Seen::Due,
            _ => Seen::Astray,
        };
        (seen, Some(head))
    }

    /// Whether a block of the write that is due lies in its place, and the write in the segment.
    fn belongs(&self, at: usize, head: &Head) -> bool {
        let (index, count) = (u64::from(head.index), u64::from(head.count));
        let (start, end) = (self.start as u64, self.blocks as u64);
        let fits = match head.flags {
            0 => start + count < end && count <= (WRITE_MAX / BLOCK) as u64,
            SEAL => count == 1 && start < end,
            _ => false,
        };
        fits && at as u64 == start + index && self.count.is_none_or(|count| count == head.count)
    }

    /// First block of the write that is due: where the log ends in this segment.
    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// Number of the write that is due.
    pub(super) fn due(&self) -> u64 {
        self.due
    }

    /// How the segment ends, when all of its blocks were looked at.
    pub(super) fn end(&self) -> End {
        match self.place {
            Place::Sealed => End::Sealed,
            // A write whose blocks run up to the very end would be complete, or reach the reserved last block.
            _ if self.torn || self.taken > 0 => End::Torn,
            _ => End::Clean,
        }
    }

    /// Blocks of the torn write.
    pub(super) fn torn_blocks(&self) -> usize {
        self.count.map_or(0, |count| super::block::widen(u64::from(count)))
    }

    /// Whether a segment prepared ahead was written to.
    pub(super) fn used(&self) -> bool {
        self.used
    }

    /// The buffer, to be used again.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.payload
    }
}

/// What a segment's first write says of the log before it: its number and the bytes of its opening.
pub(super) fn first_write(generation: u64, block: &Block) -> Option<(u64, super::record::State)> {
    let head = Head::decode(&block.0).ok()?;
    let first = head.generation == generation && head.index == 0;
    let state = super::record::State::decode(head.payload(&block.0))?;
    first.then_some((head.write, state))
}
