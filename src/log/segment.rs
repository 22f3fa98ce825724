//! A segment: a file of fixed size, written with zeros (or taken over from an old segment) before it gets its name.
//!
//! ```text
//! block 0      preface: generation (8), size of the file in bytes (8), node id (16)
//! block 1      first block of the first write
//! …            writes, each a run of whole blocks, one directly behind the other
//!              the seal: a write of one block that says that the log goes on in the next generation
//! …            blocks that were never reached: zeros, or whatever an older generation left there
//! last block   never holds anything but the seal
//! ```
//! Invariants:
//! * A name `{generation:016x}.log` belongs to a file that is durable in its whole size, preface included: it is written
//!   under a temporary name, synced, renamed, and the directory synced.
//! * The last block is never part of another write, so that a segment can always be sealed.
//! * No segment is larger than [`SEGMENT`]: a preface that says otherwise is not one of ours, and nothing behind it is read.
//! * The next generation is there, durable, before a segment is sealed.

use super::block::{Block, get_u64, put_u64, widen};
use super::preface::{self, BODY, Kind, Unfit};
use crate::limits::{BLOCK, COUNT_MAX, SEGMENT};

/// A node's own id, 16 characters.
pub type NodeId = [u8; 16];

const GENERATION: usize = BODY;
const SIZE: usize = GENERATION + 8;
const NODE: usize = SIZE + 8;

/// Fewest blocks that a segment may have: the preface, two writes of one block, the seal.
const BLOCKS_MIN: u64 = 4;

/// What a segment's preface says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub generation: u64,
    /// Size of the file in bytes.
    pub size: u64,
    pub node: NodeId,
}

impl Header {
    pub(super) fn encode(&self) -> Block {
        assert!(is_size(self.size) && self.generation > 0);
        let mut block = Block::ZERO;
        put_u64(&mut block.0, GENERATION, self.generation);
        put_u64(&mut block.0, SIZE, self.size);
        block.0[NODE..NODE + 16].copy_from_slice(&self.node);
        preface::encode(Kind::Segment, &mut block);
        block
    }

    pub(super) fn decode(block: &[u8; BLOCK]) -> Result<Header, Unfit> {
        preface::check(Kind::Segment, block)?;
        let mut node = [0; 16];
        node.copy_from_slice(&block[NODE..NODE + 16]);
        let header = Header { generation: get_u64(block, GENERATION), size: get_u64(block, SIZE), node };
        let is_possible = is_size(header.size) && (1..=COUNT_MAX).contains(&header.generation);
        if is_possible { Ok(header) } else { Err(Unfit::Bad) }
    }
}

/// Whether a segment may have this size: whole blocks, enough of them, and not too many.
pub(super) fn is_size(size: u64) -> bool {
    size.is_multiple_of(BLOCK as u64) && (BLOCKS_MIN * BLOCK as u64..=SEGMENT).contains(&size)
}

/// Blocks of a segment of this many bytes, the preface included.
pub(super) fn blocks(size: u64) -> usize {
    widen(size / BLOCK as u64)
}

/// Most blocks that a write into a segment of this size may have.
pub(super) fn write_max(size: u64) -> usize {
    (blocks(size) - 2).min(crate::limits::WRITE_MAX / BLOCK)
}

/// Offset of a block in its file.
pub(super) fn offset(block: usize) -> u64 {
    block as u64 * BLOCK as u64
}
