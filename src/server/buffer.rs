//! A connection's receive buffer.
//!
//! It begins small, for ten thousand idle connections must cost little; it becomes larger while the client fills it, and
//! small again when the client is quiet. For a frame that is larger still it grows as the frame's bytes come, never on
//! the word of a length alone. What all buffers have beyond their first size is counted against one budget: a buffer
//! that merely would like to be larger does without when it is used up, one that has to be is refused.

use std::cell::Cell;

/// Size of a connection's first receive buffer.
pub const FIRST: usize = 4 << 10;
/// What it grows to when a client keeps filling it; larger only for a larger frame.
pub const BUSY: usize = 64 << 10;

/// Bytes that all buffers together may have beyond their first size.
#[derive(Debug)]
pub struct Budget {
    left: Cell<usize>,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Budget {
        Budget { left: Cell::new(bytes) }
    }

    fn take(&self, bytes: usize) -> bool {
        let enough = self.left.get() >= bytes;
        if enough {
            self.left.set(self.left.get() - bytes);
        }
        enough
    }

    fn give(&self, bytes: usize) {
        self.left.set(self.left.get() + bytes);
    }
}

/// The budget is used up, and a frame has come that needs more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// A connection's receive buffer, which grows and shrinks with its traffic.
#[derive(Debug)]
pub struct Buffer<'a> {
    budget: &'a Budget,
    taken: usize,
    bytes: Vec<u8>,
}

impl<'a> Buffer<'a> {
    /// An empty buffer of the first size.
    pub fn new(budget: &'a Budget) -> Buffer<'a> {
        Buffer { budget, taken: 0, bytes: Vec::with_capacity(FIRST) }
    }

    /// What has been received and not used up.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What it has of the budget, in bytes.
    pub fn held(&self) -> usize {
        self.taken
    }

    /// Lends the memory for a receive, which appends to what is there; [`Buffer::received`] takes it back.
    pub fn lend(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Takes the memory back, with what was received.
    pub fn received(&mut self, bytes: Vec<u8>) {
        self.bytes = bytes;
    }

    /// Drops the first `used` bytes and makes the buffer ready for the next receive. `got` is what the last receive
    /// brought, `needed` the size of the frame that has begun, if it is known.
    ///
    /// # Errors
    /// When the buffer has to grow and the budget is used up. What was used is dropped all the same: ask again with 0.
    pub fn make_room(&mut self, used: usize, got: usize, needed: Option<usize>) -> Result<(), NoRoom> {
        let filled = self.bytes.len() == self.bytes.capacity();
        if used == self.bytes.len() {
            self.bytes.clear();
        } else if used > 0 {
            self.bytes.drain(..used);
        }
        let (len, capacity) = (self.bytes.len(), self.bytes.capacity());
        if len == capacity {
            let frame = needed.unwrap_or(BUSY).max(BUSY);
            return self.grow((2 * capacity).clamp(BUSY, frame.max(capacity + FIRST)));
        }
        if filled && capacity < BUSY {
            // It would be nice to have; without it, the client is served in smaller portions.
            let _refused = self.grow(BUSY);
        } else if len <= FIRST / 2 && got <= FIRST / 4 && capacity > FIRST {
            self.shrink(FIRST);
        } else if len <= BUSY / 2 && capacity > BUSY {
            self.shrink(BUSY);
        }
        Ok(())
    }

    fn grow(&mut self, capacity: usize) -> Result<(), NoRoom> {
        let more = capacity - FIRST - self.taken;
        if !self.budget.take(more) {
            return Err(NoRoom);
        }
        self.taken += more;
        self.bytes.reserve_exact(capacity - self.bytes.len());
        Ok(())
    }

    fn shrink(&mut self, capacity: usize) {
        let mut smaller = Vec::with_capacity(capacity);
        smaller.extend_from_slice(&self.bytes);
        self.bytes = smaller;
        let less = self.taken.saturating_sub(capacity - FIRST);
        self.taken -= less;
        self.budget.give(less);
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        self.budget.give(self.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Receives so many bytes, of which the replica uses up `used`.
    fn receive(buffer: &mut Buffer<'_>, got: usize, used: usize, needed: Option<usize>) -> Result<(), NoRoom> {
        let mut bytes = buffer.lend();
        assert!(bytes.len() + got <= bytes.capacity(), "a receive does not grow the buffer");
        bytes.resize(bytes.len() + got, 1);
        buffer.received(bytes);
        buffer.make_room(used, got, needed)
    }

    /// A client that announces a frame of 4 MiB and sends a few bytes must not be given 4 MiB.
    #[test]
    fn memory_follows_the_bytes_not_the_length() {
        let budget = Budget::new(64 << 20);
        let mut buffer = Buffer::new(&budget);
        let frame = 4 << 20;
        receive(&mut buffer, 100, 0, Some(frame)).unwrap();
        assert_eq!(buffer.bytes.capacity(), FIRST);
        let mut have = 100;
        while have < frame {
            let room = buffer.bytes.capacity() - have;
            let got = room.min(frame - have);
            receive(&mut buffer, got, if have + got == frame { frame } else { 0 }, Some(frame)).unwrap();
            have += got;
            assert!(buffer.bytes.capacity() <= (2 * have).max(BUSY));
        }
        assert_eq!(buffer.bytes.capacity(), BUSY, "and gives it back after the frame");
        drop(buffer);
        assert_eq!(budget.left.get(), 64 << 20);
    }

    /// Many connections that were busy once must not keep their large buffers.
    #[test]
    fn a_quiet_connection_has_a_small_buffer_again() {
        let budget = Budget::new(1 << 20);
        let mut buffer = Buffer::new(&budget);
        receive(&mut buffer, FIRST, FIRST, None).unwrap();
        assert_eq!(buffer.bytes.capacity(), BUSY);
        receive(&mut buffer, 30, 30, None).unwrap();
        assert_eq!((buffer.bytes.capacity(), budget.left.get()), (FIRST, 1 << 20));
    }

    /// With the budget used up, small requests go on; only a frame that cannot be held is refused.
    #[test]
    fn without_budget_only_large_frames_are_refused() {
        let budget = Budget::new(0);
        let mut buffer = Buffer::new(&budget);
        receive(&mut buffer, FIRST, FIRST, None).unwrap();
        receive(&mut buffer, FIRST, 10, None).unwrap();
        assert_eq!(receive(&mut buffer, 10, 0, Some(100_000)), Err(NoRoom));
    }
}
