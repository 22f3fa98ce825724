//! Reads files in pieces of 1 MiB, and checks what can be checked of a file alone.

use super::block::{Block, bytes_of_mut};
use super::damage::{Damage, Refusal};
use super::directory::FileInfo;
use super::name;
use super::preface::Unfit;
use super::recovery::{Event, Read, Visit};
use super::segment::{self, Header, NodeId};
use super::snapshot::{Piece, SnapshotDamage, SnapshotFault, SnapshotReader, Summary};
use super::table::Fault;
use crate::limits::BLOCK;

/// Blocks that are read at once: 1 MiB.
const READ: usize = (1 << 20) / BLOCK;

/// Reads files.
pub(super) struct Reader<'r, 'f, E> {
    node: NodeId,
    read: &'r mut Read<'f, E>,
    buffer: Vec<Block>,
}

impl<'r, 'f, E> Reader<'r, 'f, E> {
    pub(super) fn new(node: &NodeId, listing: &[FileInfo], read: &'r mut Read<'f, E>) -> Self {
        let longest = listing.iter().map(|file| file.length).max().unwrap_or(0);
        let blocks = segment::blocks(longest).clamp(1, READ);
        Reader { node: *node, read, buffer: vec![Block::ZERO; blocks] }
    }

    pub(super) fn read(&mut self, file: &str, offset: u64, into: &mut [Block]) -> Result<(), Refusal<E>> {
        let read = (self.read)(file, offset, bytes_of_mut(into));
        read.map_err(|error| Refusal::Read { file: file.to_owned(), offset, error })
    }

    /// Checks a segment's preface against its name and its length.
    pub(super) fn preface(
        &mut self,
        generation: u64,
        length: u64,
        damage: impl Fn(usize, Fault) -> Box<Damage>,
    ) -> Result<(), Refusal<E>> {
        let file = name::segment(generation);
        if length < BLOCK as u64 {
            return Err(damage(0, Fault::Length).into());
        }
        let mut block = [Block::ZERO];
        self.read(&file, 0, &mut block)?;
        let header = match Header::decode(&block[0].0) {
            Ok(header) => header,
            Err(Unfit::Bad) => return Err(damage(0, Fault::Preface).into()),
            Err(Unfit::Version(version)) => return Err(Refusal::UnknownVersion { file, version }),
        };
        if header.node != self.node {
            return Err(Refusal::Foreign { file, owner: header.node, node: self.node });
        }
        if header.generation != generation {
            return Err(damage(0, Fault::Misnamed).into());
        }
        if header.size != length {
            return Err(damage(segment::blocks(length.min(header.size)), Fault::Length).into());
        }
        Ok(())
    }

    /// Hands all blocks of a segment but its preface to `look`, in order.
    pub(super) fn blocks(
        &mut self,
        generation: u64,
        length: u64,
        mut look: impl FnMut(usize, &[u8; BLOCK]) -> Result<(), Box<Damage>>,
    ) -> Result<(), Refusal<E>> {
        let file = name::segment(generation);
        let (mut at, blocks) = (1, segment::blocks(length));
        let mut buffer = std::mem::take(&mut self.buffer);
        while at < blocks {
            let count = buffer.len().min(blocks - at);
            self.read(&file, segment::offset(at), &mut buffer[..count])?;
            for (i, block) in buffer[..count].iter().enumerate() {
                look(at + i, &block.0)?;
            }
            at += count;
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Reads a whole snapshot.
    pub(super) fn snapshot(
        &mut self,
        index: u64,
        length: u64,
        visit: &mut Visit<'_>,
    ) -> Result<Result<Summary, SnapshotDamage>, Refusal<E>> {
        let file = name::snapshot(index);
        let mut snapshot = SnapshotReader::new();
        let mut give = |piece: Piece<'_>| match piece {
            Piece::Meta { index, term, meta } => visit(Event::Snapshot { index, term, meta }),
            Piece::Record(record) => visit(Event::SnapshotRecord(record)),
        };
        let mut offset = 0;
        while offset < length {
            let buffer = bytes_of_mut(&mut self.buffer);
            let count = super::block::widen((length - offset).min(buffer.len() as u64));
            let bytes = &mut buffer[..count];
            let read = (self.read)(&file, offset, bytes);
            read.map_err(|error| Refusal::Read { file: file.clone(), offset, error })?;
            if let Err(damage) = snapshot.feed(bytes, &mut give) {
                return Ok(Err(damage));
            }
            offset += count as u64;
        }
        let summary = snapshot.finish();
        Ok(summary.and_then(|summary| {
            let astray = SnapshotDamage { offset: 0, fault: SnapshotFault::Astray };
            if summary.index == index { Ok(summary) } else { Err(astray) }
        }))
    }
}
