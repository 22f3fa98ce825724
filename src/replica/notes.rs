//! The answers that a session is owed, in order. A write can wake a million requests of one session, so the queue grows without
//! copying, and can be dropped piece by piece.

use std::collections::VecDeque;

/// Notes that are allocated together.
const CHUNK: usize = 512;

/// A first-in, first-out queue in chunks.
#[derive(Debug)]
pub struct Notes<T> {
    /// No chunk is empty, and each except the first and the last holds `CHUNK` notes.
    chunks: VecDeque<VecDeque<T>>,
}

impl<T> Default for Notes<T> {
    fn default() -> Notes<T> {
        Notes { chunks: VecDeque::new() }
    }
}

impl<T> Notes<T> {
    /// Returns whether there is no note.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Returns the oldest note.
    pub fn front(&self) -> Option<&T> {
        self.chunks.front()?.front()
    }

    /// Adds a note.
    pub fn push_back(&mut self, note: T) {
        match self.chunks.back_mut() {
            Some(last) if last.len() < CHUNK => last.push_back(note),
            _ => self.chunks.push_back(VecDeque::from([note])),
        }
    }

    /// Takes the oldest note.
    pub fn pop_front(&mut self) -> Option<T> {
        let first = self.chunks.front_mut()?;
        let note = first.pop_front();
        if first.is_empty() {
            self.chunks.pop_front();
        }
        note
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session must get its answers in the order of its requests, however many wait and however they come and go.
    #[test]
    fn notes_are_lost_or_change_their_order() {
        let mut notes = Notes::default();
        let (mut pushed, mut popped) = (0_usize, 0);
        for round in 1..40 {
            for _ in 0..round * 97 {
                notes.push_back(pushed);
                pushed += 1;
            }
            for _ in 0..round * 95 {
                assert_eq!(notes.front(), Some(&popped));
                assert_eq!(notes.pop_front(), Some(popped));
                popped += 1;
            }
            assert!(
                notes.chunks.iter().all(|chunk| (1..=CHUNK).contains(&chunk.len()) && chunk.capacity() <= 2 * CHUNK)
            );
        }
        while let Some(note) = notes.pop_front() {
            assert_eq!(note, popped);
            popped += 1;
        }
        assert_eq!((popped, notes.is_empty(), notes.front()), (pushed, true, None));
    }
}
