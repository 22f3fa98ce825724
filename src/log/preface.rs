//! The preface: the first block of every file, which says what the file is.
//!
//! ```text
//!  0  8  magic: "doozer", and two letters for the kind: sg = segment, sn = snapshot, id = identity
//!  8  4  crc32 of bytes 12..4096
//! 12  4  format version
//! 16  …  the kind's own fields; zeros behind them
//! ```
//! Invariant: these 16 bytes mean the same in every version, past and future, so that a file of an unknown version is named
//! as such, and is not mistaken for a damaged one.

use super::block::{Block, get_u32, put_u32};
use crate::limits::BLOCK;

/// Version of all three formats.
pub const VERSION: u32 = 1;

const MAGIC: usize = 0;
const CRC: usize = MAGIC + 8;
const FORMAT: usize = CRC + 4;
/// Where the fields of the kind begin.
pub(super) const BODY: usize = FORMAT + 4;
const _: () = assert!(BODY == 16);

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Segment,
    Snapshot,
    Identity,
}

impl Kind {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            Kind::Segment => b"doozersg",
            Kind::Snapshot => b"doozersn",
            Kind::Identity => b"doozerid",
        }
    }
}

/// Why a preface cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Zeros, another kind of file, or a wrong crc.
    Bad,
    /// Whole, but of this unknown version.
    Version(u32),
}

/// Completes a preface whose body is in place.
pub(super) fn encode(kind: Kind, block: &mut Block) {
    block.0[MAGIC..CRC].copy_from_slice(kind.magic());
    put_u32(&mut block.0, FORMAT, VERSION);
    let crc = crc32fast::hash(&block.0[FORMAT..]);
    put_u32(&mut block.0, CRC, crc);
}

/// Says whether `block` is a whole preface of this kind and of a known version.
pub(super) fn check(kind: Kind, block: &[u8; BLOCK]) -> Result<(), Unfit> {
    if &block[MAGIC..CRC] != kind.magic() || get_u32(block, CRC) != crc32fast::hash(&block[FORMAT..]) {
        return Err(Unfit::Bad);
    }
    match get_u32(block, FORMAT) {
        VERSION => Ok(()),
        version => Err(Unfit::Version(version)),
    }
}

/// `block` as a later version would have written it.
#[cfg(test)]
pub(super) fn with_version(mut block: Block, version: u32) -> Block {
    put_u32(&mut block.0, FORMAT, version);
    let crc = crc32fast::hash(&block.0[FORMAT..]);
    put_u32(&mut block.0, CRC, crc);
    block
}
