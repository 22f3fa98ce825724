//! The block: 4,096 bytes, the unit of every write to a segment or a snapshot.
//!
//! ```text
//!  0  4  crc32 of bytes 4..4096
//!  4  2  payload length: at most 4,064; the bytes behind the payload are zero
//!  6  2  flags: 1 = seal, the last write of its segment; 2 = last block of a snapshot
//!  8  8  generation: of the segment; in a snapshot, its raft index
//! 16  8  write: 1, 2, 3… over all segments; in a snapshot, the number of the block, from 1
//! 24  4  index of this block in its write, from 0
//! 28  4  count of blocks in the write, at least 1
//! 32  …  payload
//! ```
//! Numbers are little-endian.
//!
//! Invariants:
//! * Every block of a write but its last is full, so a write's payload is the concatenation of its blocks' payloads.
//! * A block of zeros is not a valid block: the crc32 of 4,092 zeros is not 0.
//! * A device writes a block whole or not at all. This is what tells a torn write from damage.

use crate::faults;
use crate::limits::BLOCK;
use bytemuck::{Pod, Zeroable};

/// 4,096 bytes at an address that O_DIRECT accepts.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(4096))]
pub struct Block(pub [u8; BLOCK]);

impl Block {
    /// A block of zeros: what a new segment is made of, and what an erased block is.
    pub const ZERO: Block = Block([0; BLOCK]);
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match Head::decode(&self.0) {
            Ok(head) => head.fmt(f),
            Err(blank) => blank.fmt(f),
        }
    }
}

/// The bytes of a run of blocks, aligned for O_DIRECT.
#[must_use]
pub fn bytes_of(blocks: &[Block]) -> &[u8] {
    bytemuck::cast_slice(blocks)
}

/// The bytes of a run of blocks, to read into; aligned for O_DIRECT.
#[must_use]
pub fn bytes_of_mut(blocks: &mut [Block]) -> &mut [u8] {
    bytemuck::cast_slice_mut(blocks)
}

const CRC: usize = 0;
const LENGTH: usize = CRC + 4;
const FLAGS: usize = LENGTH + 2;
const GENERATION: usize = FLAGS + 2;
const WRITE: usize = GENERATION + 8;
const INDEX: usize = WRITE + 8;
const COUNT: usize = INDEX + 4;
/// Where the payload begins.
pub(super) const HEAD: usize = COUNT + 4;
/// Payload bytes of a full block.
pub(super) const PAYLOAD: usize = BLOCK - HEAD;

const _: () = assert!(HEAD == 32 && size_of::<Block>() == BLOCK && align_of::<Block>() == BLOCK);
const _: () = assert!(PAYLOAD <= u16::MAX as usize);

/// Flag of the write that ends its segment: the log goes on in the next generation.
pub(super) const SEAL: u16 = 1;
/// Flag of the last block of a snapshot.
pub(super) const LAST: u16 = 2;
const KNOWN_FLAGS: u16 = SEAL | LAST;

/// A block's header, crc apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub length: u16,
    pub flags: u16,
    pub generation: u64,
    pub write: u64,
    pub index: u32,
    pub count: u32,
}

/// Why a block has no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blank {
    /// It is all zeros.
    Zero,
    /// Its crc is wrong, or its header contradicts itself.
    Bad,
}

impl Head {
    /// Writes this header over the first 32 bytes of `block`, whose payload is in place, with the crc of all of it.
    pub(super) fn encode(&self, block: &mut [u8; BLOCK]) {
        debug_assert!(self.is_sound());
        put_u16(block, LENGTH, self.length);
        put_u16(block, FLAGS, self.flags);
        put_u64(block, GENERATION, self.generation);
        put_u64(block, WRITE, self.write);
        put_u32(block, INDEX, self.index);
        put_u32(block, COUNT, self.count);
        let crc = crc32fast::hash(&block[LENGTH..]);
        put_u32(block, CRC, crc);
    }

    pub(super) fn decode(block: &[u8; BLOCK]) -> Result<Head, Blank> {
        let crc = get_u32(block, CRC);
        if crc == 0 && is_zero(block) {
            return Err(Blank::Zero);
        }
        if crc != crc32fast::hash(&block[LENGTH..]) && !faults::is_armed(faults::Fault::SumsUnchecked) {
            return Err(Blank::Bad);
        }
        let head = Head {
            length: get_u16(block, LENGTH),
            flags: get_u16(block, FLAGS),
            generation: get_u64(block, GENERATION),
            write: get_u64(block, WRITE),
            index: get_u32(block, INDEX),
            count: get_u32(block, COUNT),
        };
        if head.is_sound() { Ok(head) } else { Err(Blank::Bad) }
    }

    /// What holds for every header that this code has ever written.
    fn is_sound(&self) -> bool {
        let length = usize::from(self.length);
        length <= PAYLOAD
            && self.flags & !KNOWN_FLAGS == 0
            && self.write > 0
            && self.index < self.count
            && (length == PAYLOAD || self.index + 1 == self.count)
    }

    /// The payload of `block`, whose header this is.
    pub(super) fn payload<'a>(&self, block: &'a [u8; BLOCK]) -> &'a [u8] {
        &block[HEAD..HEAD + usize::from(self.length)]
    }
}

fn is_zero(block: &[u8; BLOCK]) -> bool {
    block.as_chunks::<64>().0.iter().all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Blocks that a payload of `bytes` takes.
pub(super) fn blocks_for(bytes: usize) -> usize {
    bytes.div_ceil(PAYLOAD)
}

pub(super) fn put_u16(at: &mut [u8], offset: usize, value: u16) {
    at[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u32(at: &mut [u8], offset: usize, value: u32) {
    at[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u64(at: &mut [u8], offset: usize, value: u64) {
    at[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}

fn array<const N: usize>(at: &[u8], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&at[offset..offset + N]);
    bytes
}

pub(super) fn get_u16(at: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(array(at, offset))
}

pub(super) fn get_u32(at: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array(at, offset))
}

pub(super) fn get_u64(at: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array(at, offset))
}

/// A count of bytes or blocks in memory as the width it has in a file.
pub(super) fn narrow(value: usize) -> u32 {
    u32::try_from(value).expect("a length that the limits keep below 4 GiB")
}

/// A count of bytes or blocks in a file as the width it has in memory.
pub(super) fn widen(value: u64) -> usize {
    usize::try_from(value).expect("a 64-bit machine")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Block {
        let mut block = Block::ZERO;
        block.0[HEAD..HEAD + 5].copy_from_slice(b"hello");
        Head { length: 5, flags: 0, generation: 3, write: 7, index: 1, count: 2 }.encode(&mut block.0);
        block
    }

    /// A block that reads back as another one would be replayed as something that nobody wrote.
    #[test]
    fn a_block_reads_back_as_it_was_written() {
        let block = sample();
        let head = Head::decode(&block.0).unwrap();
        assert_eq!(head, Head { length: 5, flags: 0, generation: 3, write: 7, index: 1, count: 2 });
        assert_eq!(head.payload(&block.0), b"hello");
    }

    /// Rot of a single bit anywhere in a block, its padding included, must not pass.
    #[test]
    fn every_flipped_bit_of_a_block_is_seen() {
        let mut block = sample();
        for at in 0..BLOCK * 8 {
            block.0[at / 8] ^= 1 << (at % 8);
            assert_eq!(Head::decode(&block.0), Err(Blank::Bad), "bit {at}");
            block.0[at / 8] ^= 1 << (at % 8);
        }
    }

    /// A new segment is all zeros: were they a valid block, an empty log would replay them.
    #[test]
    fn zeros_are_not_a_block() {
        assert_eq!(Head::decode(&Block::ZERO.0), Err(Blank::Zero));
        for at in [0, 3, 4, 2048, BLOCK - 1] {
            let mut block = Block::ZERO;
            block.0[at] = 1;
            assert_eq!(Head::decode(&block.0), Err(Blank::Bad), "byte {at}");
        }
    }

    /// A header with a right crc may still come from a foreign hand: it must not index out of a block.
    #[test]
    fn a_header_that_contradicts_itself_is_bad() {
        let sound = Head { length: 10, flags: 0, generation: 1, write: 1, index: 0, count: 1 };
        let unsound = [
            Head { length: 4065, ..sound },
            Head { flags: 4, ..sound },
            Head { write: 0, ..sound },
            Head { index: 1, ..sound },
            Head { count: 0, ..sound },
            Head { count: 2, ..sound },
        ];
        for head in unsound {
            assert!(!head.is_sound(), "{head:?}");
        }
        assert!(sound.is_sound());
    }
}
