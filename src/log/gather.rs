//! A write while it gathers: records are copied, once, to where the device will take them from.
//!
//! Invariants:
//! * All records of a write become durable together or not at all.
//! * The blocks' headers are filled in last, when it is known where the write goes; until then their place is kept free.
//! * The bytes behind the payload are zero, also in a buffer that is used again.

use super::block::{Block, HEAD, Head, PAYLOAD, narrow};
use super::record::{self, OPENING, Record, State};

/// A write that still takes records.
pub(super) struct Gather {
    blocks: Vec<Block>,
    /// Payload bytes so far, the opening included.
    used: usize,
    before: State,
    after: State,
    /// Highest index that an entry or a restart in it names.
    highest: u64,
}

impl Gather {
    /// An empty write behind `before`, in a buffer that may have served before.
    pub(super) fn new(mut blocks: Vec<Block>, before: State) -> Gather {
        blocks.clear();
        let mut gather = Gather { blocks, used: 0, before, after: before, highest: 0 };
        gather.put(&before.encode());
        debug_assert_eq!(gather.used, OPENING);
        gather
    }

    /// Adds a record that leads to the state `after`.
    pub(super) fn push(&mut self, record: &Record<'_>, after: State) {
        let (head, data) = record::encode(record, self.after.position);
        self.put(&head);
        self.put(data.bytes());
        self.after = after;
        if let Record::Entry { index, .. } | Record::Restart { index, .. } = *record {
            self.highest = self.highest.max(index);
        }
    }

    fn put(&mut self, mut bytes: &[u8]) {
        let blocks = (self.used + bytes.len()).div_ceil(PAYLOAD);
        self.blocks.resize(blocks, Block::ZERO);
        while !bytes.is_empty() {
            let (block, at) = (self.used / PAYLOAD, self.used % PAYLOAD);
            let (now, rest) = bytes.split_at(bytes.len().min(PAYLOAD - at));
            self.blocks[block].0[HEAD + at..HEAD + at + now.len()].copy_from_slice(now);
            self.used += now.len();
            bytes = rest;
        }
    }

    pub(super) fn used(&self) -> usize {
        self.used
    }

    pub(super) fn count(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn before(&self) -> State {
        self.before
    }

    pub(super) fn after(&self) -> State {
        self.after
    }

    pub(super) fn highest(&self) -> u64 {
        self.highest
    }

    /// Fills in the headers: the write is complete.
    pub(super) fn close(mut self, generation: u64, write: u64, flags: u16) -> Vec<Block> {
        let count = narrow(self.blocks.len());
        let mut rest = self.used;
        for (index, block) in (0..count).zip(self.blocks.iter_mut()) {
            let length = u16::try_from(rest.min(PAYLOAD)).expect("a payload of at most one block");
            rest -= usize::from(length);
            Head { length, flags, generation, write, index, count }.encode(&mut block.0);
        }
        self.blocks
    }
}
