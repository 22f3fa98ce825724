//! A file in memory, in pieces of one size: it grows without being copied.

use doozer::limits::BLOCK;

/// Bytes of a piece.
const PIECE: usize = 16 * BLOCK;

/// A file: its length, and what was written of it. Zeros come behind that.
#[derive(Clone, Debug, Default)]
pub struct File {
    length: usize,
    /// Where what was written ends.
    written: usize,
    pieces: Vec<Box<[u8]>>,
}

impl File {
    /// Of so many bytes, none of which was written.
    pub fn of(length: usize) -> File {
        File { length, ..File::default() }
    }

    /// Bytes that can be read.
    pub fn length(&self) -> usize {
        self.length
    }

    /// How much of it was written, up to the last byte that was.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Takes away what is behind.
    pub fn truncate(&mut self, length: usize) {
        if length < self.written {
            self.fill(length, self.written - length);
            self.written = length;
        }
        self.length = length;
    }

    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.length = self.length.max(end);
        self.written = self.written.max(end);
        while self.pieces.len() * PIECE < end {
            self.pieces.push(vec![0; PIECE].into_boxed_slice());
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, at) = place(end - rest.len());
            let (now, later) = rest.split_at(rest.len().min(PIECE - at));
            self.pieces[piece][at..at + now.len()].copy_from_slice(now);
            rest = later;
        }
    }

    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), String> {
        let end = offset + into.len();
        if end > self.length {
            return Err("the end of the file".into());
        }
        let mut rest = into;
        while !rest.is_empty() {
            let (piece, at) = place(end - rest.len());
            let (now, later) = rest.split_at_mut(rest.len().min(PIECE - at));
            match self.pieces.get(piece) {
                Some(piece) => now.copy_from_slice(&piece[at..at + now.len()]),
                None => now.fill(0),
            }
            rest = later;
        }
        Ok(())
    }

    /// So many bytes become zeros, of what was written.
    pub fn fill(&mut self, offset: usize, length: usize) {
        let end = (offset + length).min(self.written);
        self.write(offset, &vec![0; end.saturating_sub(offset)]);
    }

    /// Flips a bit of what was written.
    pub fn flip(&mut self, at: usize, bit: u64) {
        let (piece, at) = place(at);
        self.pieces[piece][at] ^= 1 << bit;
    }
}

/// Number of the piece, and the place in it.
fn place(offset: usize) -> (usize, usize) {
    (offset / PIECE, offset % PIECE)
}
