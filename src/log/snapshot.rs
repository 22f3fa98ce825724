//! A snapshot: `{index:016x}.snap`, written as `.tmp`, synced, renamed.
//!
//! ```text
//! block 0   preface: raft index (8), term (8)
//! block 1…  blocks as in a segment: generation = the index, write = 1, 2, 3…, each a write of one block; all full but the last,
//!           which is flagged. Their payloads make one stream of pieces, which may cross from one block into the next:
//!
//! piece:  0  1  kind: 1 = meta, the first; 2 = record, any number; 3 = end, the last
//!         1  4  length of the data
//!         5  …  data   end: count of records (8), bytes of the stream before the end (8), their crc32 (4)
//! ```
//! What meta and the records hold is the replica's business.
//!
//! Invariants:
//! * A file under its own name is whole: every cut and every flipped bit of it is seen, the crc of each block and the end see to it.
//! * The file does not say who wrote it, so its bytes can be sent to another node as they are.

use super::block::{Block, HEAD, Head, LAST, PAYLOAD, bytes_of, get_u32, get_u64, narrow, put_u32, put_u64, widen};
use super::name;
use super::preface::{self, BODY, Kind, Unfit};
use crate::faults;
use crate::limits::{BLOCK, COUNT_MAX, SNAPSHOT_RECORD_MAX, SNAPSHOT_WRITE};
use std::collections::VecDeque;

const INDEX: usize = BODY;
const TERM: usize = INDEX + 8;

const PIECE_HEAD: usize = 5;
const META: u8 = 1;
const RECORD: u8 = 2;
const END: u8 = 3;
const END_LENGTH: usize = 20;

/// Blocks of a piece of the file that is written at once.
const CHUNK: usize = SNAPSHOT_WRITE / BLOCK;

/// Part of a snapshot's file, to be written where it says. A sync is due only at the end.
#[must_use = "a snapshot lacks what is not written"]
#[derive(Debug)]
pub struct SnapshotWrite {
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What to write.
    pub blocks: Vec<Block>,
}

impl SnapshotWrite {
    /// What to write, as bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        bytes_of(&self.blocks)
    }
}

/// Turns records into the bytes of a snapshot's file. Feed it while [`SnapshotWriter::pending`] is small, and take what is full.
pub struct SnapshotWriter {
    index: u64,
    /// Blocks that are being filled; the last one is open.
    blocks: Vec<Block>,
    /// Offset of the first of them, in blocks of the file.
    base: u64,
    /// Payload bytes in the open block.
    used: usize,
    full: VecDeque<SnapshotWrite>,
    buffers: Vec<Vec<Block>>,
    records: u64,
    bytes: u64,
    crc: crc32fast::Hasher,
    finished: bool,
}

impl SnapshotWriter {
    /// A snapshot of everything up to the raft entry at `index`, which is of `term`.
    ///
    /// # Panics
    /// If `meta` is longer than [`SNAPSHOT_RECORD_MAX`].
    #[must_use]
    pub fn new(index: u64, term: u64, meta: &[u8]) -> SnapshotWriter {
        let mut preface = Block::ZERO;
        put_u64(&mut preface.0, INDEX, index);
        put_u64(&mut preface.0, TERM, term);
        preface::encode(Kind::Snapshot, &mut preface);
        let mut blocks = Vec::with_capacity(CHUNK);
        blocks.extend([preface, Block::ZERO]);
        let mut writer = SnapshotWriter {
            index,
            blocks,
            base: 0,
            used: 0,
            full: VecDeque::new(),
            buffers: Vec::new(),
            records: 0,
            bytes: 0,
            crc: crc32fast::Hasher::new(),
            finished: false,
        };
        writer.piece(META, meta);
        writer
    }

    /// Name of the file once it is whole and durable; until then it has [`name::temporary`] of that.
    #[must_use]
    pub fn file(&self) -> String {
        name::snapshot(self.index)
    }

    /// Adds a record.
    ///
    /// # Panics
    /// If it is longer than [`SNAPSHOT_RECORD_MAX`], or the snapshot is finished.
    pub fn push(&mut self, record: &[u8]) {
        self.records += 1;
        self.piece(RECORD, record);
    }

    /// Adds the end: what is left can then be taken.
    ///
    /// # Panics
    /// If it is finished already.
    pub fn finish(&mut self) {
        let mut end = [0; END_LENGTH];
        put_u64(&mut end, 0, self.records);
        put_u64(&mut end, 8, self.bytes);
        put_u32(&mut end, 16, self.crc.clone().finalize());
        self.piece(END, &end);
        self.close(LAST);
        self.hand_out();
        self.finished = true;
    }

    /// The next part of the file, if one is full or the snapshot is finished.
    pub fn next_write(&mut self) -> Option<SnapshotWrite> {
        self.full.pop_front()
    }

    /// Bytes that wait to be taken.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.full.iter().map(|write| write.bytes().len()).sum()
    }

    /// Takes a buffer back, to be used again.
    pub fn give_back(&mut self, write: SnapshotWrite) {
        if self.buffers.len() < 4 {
            self.buffers.push(write.blocks);
        }
    }

    fn piece(&mut self, kind: u8, data: &[u8]) {
        assert!(!self.finished && data.len() <= SNAPSHOT_RECORD_MAX);
        let mut head = [0; PIECE_HEAD];
        head[0] = kind;
        put_u32(&mut head, 1, narrow(data.len()));
        self.put(&head);
        self.put(data);
    }

    fn put(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.crc.update(bytes);
        while !bytes.is_empty() {
            if self.used == PAYLOAD {
                self.close(0);
                if self.blocks.len() == CHUNK {
                    self.hand_out();
                }
                self.blocks.push(Block::ZERO);
                self.used = 0;
            }
            let (now, rest) = bytes.split_at(bytes.len().min(PAYLOAD - self.used));
            let open = self.blocks.last_mut().expect("there is an open block until the end");
            open.0[HEAD + self.used..HEAD + self.used + now.len()].copy_from_slice(now);
            self.used += now.len();
            bytes = rest;
        }
    }

    /// Completes the open block.
    fn close(&mut self, flags: u16) {
        let length = u16::try_from(self.used).expect("a payload of at most one block");
        let write = self.base + self.blocks.len() as u64 - 1;
        let open = self.blocks.last_mut().expect("there is an open block until the end");
        Head { length, flags, generation: self.index, write, index: 0, count: 1 }.encode(&mut open.0);
    }

    fn hand_out(&mut self) {
        let mut buffer = self.buffers.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK));
        buffer.clear();
        let blocks = std::mem::replace(&mut self.blocks, buffer);
        let offset = self.base * BLOCK as u64;
        self.base += blocks.len() as u64;
        self.full.push_back(SnapshotWrite { offset, blocks });
    }
}

/// What is wrong with a snapshot's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotFault {
    /// Its first block is not the preface of a snapshot.
    Preface,
    /// It is whole as far as can be seen, but of an unknown version.
    Version(u32),
    /// Its index or its term is a number that no log counts to.
    Number,
    /// A block is damaged.
    Block,
    /// A block is whole, but of another place or of another snapshot.
    Astray,
    /// The pieces make no sense, though their blocks are whole.
    Piece,
    /// What was read is not what the end says was written.
    Sum,
    /// It ends before its last block.
    Short,
    /// Something lies behind its last block.
    Long,
}

impl std::fmt::Display for SnapshotFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SnapshotFault::Preface => f.write_str("the first block is not that of a snapshot"),
            SnapshotFault::Version(version) => write!(f, "format version {version} is unknown"),
            SnapshotFault::Number => f.write_str("its index or term is impossible, though the crc is right"),
            SnapshotFault::Block => f.write_str("a block is damaged"),
            SnapshotFault::Astray => f.write_str("a block belongs to another place or another snapshot"),
            SnapshotFault::Piece => f.write_str("a record is malformed inside whole blocks"),
            SnapshotFault::Sum => f.write_str("the contents are not what the end of the snapshot says"),
            SnapshotFault::Short => f.write_str("the snapshot ends before its last block"),
            SnapshotFault::Long => f.write_str("something lies behind the last block of the snapshot"),
        }
    }
}

/// What is wrong with a snapshot's file, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotDamage {
    /// Byte offset in the file of the block in question.
    pub offset: u64,
    /// What is wrong.
    pub fault: SnapshotFault,
}

impl std::fmt::Display for SnapshotDamage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "byte {}: {}", self.offset, self.fault)
    }
}

impl std::error::Error for SnapshotDamage {}

/// A part of a snapshot, as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The first piece.
    Meta {
        /// Raft index of the snapshot.
        index: u64,
        /// Term of the entry at that index.
        term: u64,
        /// What the writer was given as meta.
        meta: &'a [u8],
    },
    /// A record, in the order in which they were pushed.
    Record(&'a [u8]),
}

/// What a whole snapshot was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Raft index.
    pub index: u64,
    /// Term of the entry at that index.
    pub term: u64,
    /// Count of records.
    pub records: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Reads a snapshot from its bytes, fed in order in pieces of any size.
///
/// Nothing that it hands out is to be relied on before [`SnapshotReader::finish`] said that the snapshot is whole.
pub struct SnapshotReader {
    /// The part of a block that came so far.
    partial: Vec<u8>,
    /// Offset of the next block.
    offset: u64,
    index: u64,
    term: u64,
    /// Stream bytes that are not yet a whole piece.
    stream: Vec<u8>,
    records: u64,
    bytes: u64,
    crc: crc32fast::Hasher,
    /// What the next block must be.
    next_block: Next,
    /// What the next piece must be.
    next_piece: Next,
}

/// What comes next, of the blocks and of the pieces.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    First,
    Another,
    Nothing,
}

impl Default for SnapshotReader {
    fn default() -> SnapshotReader {
        SnapshotReader::new()
    }
}

impl SnapshotReader {
    /// A reader at the start of a file.
    #[must_use]
    pub fn new() -> SnapshotReader {
        SnapshotReader {
            partial: Vec::with_capacity(BLOCK),
            offset: 0,
            index: 0,
            term: 0,
            stream: Vec::new(),
            records: 0,
            bytes: 0,
            crc: crc32fast::Hasher::new(),
            next_block: Next::First,
            next_piece: Next::First,
        }
    }

    /// Reads on, and hands each piece that is complete to `visit`.
    ///
    /// # Errors
    /// If the bytes are not those of a whole snapshot. The reader is then of no more use.
    pub fn feed(&mut self, mut bytes: &[u8], visit: &mut dyn FnMut(Piece<'_>)) -> Result<(), SnapshotDamage> {
        if !self.partial.is_empty() {
            let missing = BLOCK - self.partial.len();
            let (now, rest) = bytes.split_at(bytes.len().min(missing));
            self.partial.extend_from_slice(now);
            bytes = rest;
            if self.partial.len() == BLOCK {
                let partial = std::mem::take(&mut self.partial);
                self.blocks(&partial)?;
                self.partial = partial;
                self.partial.clear();
            }
        }
        let (blocks, rest) = bytes.split_at(bytes.len() - bytes.len() % BLOCK);
        self.blocks(blocks)?;
        self.partial.extend_from_slice(rest);
        self.pieces(visit)
    }

    /// Says that the file has ended.
    ///
    /// # Errors
    /// If that is too early.
    pub fn finish(self) -> Result<Summary, SnapshotDamage> {
        let fault = match self.next_block {
            Next::First | Next::Another => Some(SnapshotFault::Short),
            Next::Nothing if !self.partial.is_empty() => Some(SnapshotFault::Long),
            Next::Nothing => None,
        };
        if let Some(fault) = fault {
            return Err(SnapshotDamage { offset: self.offset, fault });
        }
        Ok(Summary { index: self.index, term: self.term, records: self.records, bytes: self.offset })
    }

    /// Checks whole blocks and appends their payload to the stream.
    fn blocks(&mut self, bytes: &[u8]) -> Result<(), SnapshotDamage> {
        for block in bytes.as_chunks::<BLOCK>().0 {
            self.block(block).map_err(|fault| SnapshotDamage { offset: self.offset, fault })?;
            self.offset += BLOCK as u64;
        }
        Ok(())
    }

    fn block(&mut self, block: &[u8; BLOCK]) -> Result<(), SnapshotFault> {
        match self.next_block {
            Next::First => {
                preface::check(Kind::Snapshot, block).map_err(|unfit| match unfit {
                    Unfit::Bad => SnapshotFault::Preface,
                    Unfit::Version(version) => SnapshotFault::Version(version),
                })?;
                (self.index, self.term) = (get_u64(block, INDEX), get_u64(block, TERM));
                if !(1..=COUNT_MAX).contains(&self.index) || self.term > COUNT_MAX {
                    return Err(SnapshotFault::Number);
                }
                self.next_block = Next::Another;
            }
            Next::Another => {
                let head = Head::decode(block).map_err(|_| SnapshotFault::Block)?;
                let in_place = head.generation == self.index && head.write == self.offset / BLOCK as u64;
                let fills = usize::from(head.length) == PAYLOAD || head.flags == LAST;
                if !in_place || head.count != 1 || !fills {
                    return Err(SnapshotFault::Astray);
                }
                self.stream.extend_from_slice(head.payload(block));
                if head.flags == LAST {
                    self.next_block = Next::Nothing;
                }
            }
            Next::Nothing => return Err(SnapshotFault::Long),
        }
        Ok(())
    }

    /// Takes whole pieces off the stream.
    fn pieces(&mut self, visit: &mut dyn FnMut(Piece<'_>)) -> Result<(), SnapshotDamage> {
        let stream = std::mem::take(&mut self.stream);
        let result = self.take_pieces(&stream, visit);
        self.stream = stream;
        match result {
            Ok(taken) => {
                self.stream.drain(..taken);
                Ok(())
            }
            Err(fault) => Err(SnapshotDamage { offset: self.offset.saturating_sub(BLOCK as u64), fault }),
        }
    }

    /// Hands out the whole pieces at the head of `stream`; says how many bytes they took.
    fn take_pieces(&mut self, stream: &[u8], visit: &mut dyn FnMut(Piece<'_>)) -> Result<usize, SnapshotFault> {
        let mut taken = 0;
        while let Some(head) = stream[taken..].get(..PIECE_HEAD) {
            let length = widen(u64::from(get_u32(head, 1)));
            if length > SNAPSHOT_RECORD_MAX {
                return Err(SnapshotFault::Piece);
            }
            let size = PIECE_HEAD + length;
            let Some(piece) = stream[taken..].get(..size) else {
                break;
            };
            let data = &piece[PIECE_HEAD..];
            match (head[0], self.next_piece) {
                (META, Next::First) => {
                    self.next_piece = Next::Another;
                    visit(Piece::Meta { index: self.index, term: self.term, meta: data });
                }
                (RECORD, Next::Another) => {
                    self.records += 1;
                    visit(Piece::Record(data));
                }
                (END, Next::Another) if length == END_LENGTH => {
                    self.next_piece = Next::Nothing;
                    let sums = (get_u64(data, 0), get_u64(data, 8), get_u32(data, 16));
                    let sound = sums == (self.records, self.bytes, self.crc.clone().finalize());
                    if !sound && !faults::is_armed(faults::Fault::SumsUnchecked) {
                        return Err(SnapshotFault::Sum);
                    }
                }
                _ => return Err(SnapshotFault::Piece),
            }
            self.bytes += size as u64;
            self.crc.update(piece);
            taken += size;
        }
        // The last piece ends with the last block, and the other way round.
        let (last_block, last_piece) = (self.next_block == Next::Nothing, self.next_piece == Next::Nothing);
        if last_block == last_piece && (!last_piece || taken == stream.len()) {
            Ok(taken)
        } else {
            Err(SnapshotFault::Piece)
        }
    }
}
