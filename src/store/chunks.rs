//! A growing row whose elements never move: growing copies nothing, and leaves no outgrown copies behind for the
//! allocator to sit on.

use std::ops::{Index, IndexMut};

const BITS: u32 = 10;
const CHUNK: usize = 1 << BITS;

#[derive(Debug)]
pub(super) struct Chunks<T> {
    /// All full but the last, and each with room for `CHUNK` elements from the start.
    chunks: Vec<Vec<T>>,
}

impl<T> Chunks<T> {
    pub(super) fn new() -> Chunks<T> {
        Chunks { chunks: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// Adds an element and gives its index.
    ///
    /// # Panics
    /// If there are 2^32 elements: none of ours is so small that memory would not have ended long before.
    pub(super) fn push(&mut self, element: T) -> u32 {
        let index = u32::try_from(self.len()).expect("fewer than 2^32 elements");
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(element),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(element);
                self.chunks.push(chunk);
            }
        }
        index
    }

    pub(super) fn get(&self, index: u32) -> Option<&T> {
        self.chunks.get((index >> BITS) as usize)?.get(index as usize % CHUNK)
    }

    /// Returns the elements in chunks, so that the caller can drop one chunk at a time.
    pub(super) fn into_chunks(self) -> Vec<Vec<T>> {
        self.chunks
    }

    /// Keeps only the first element. Returns most of the others in chunks, so that the caller can drop one chunk at a time.
    pub(super) fn keep_first(&mut self) -> Vec<Vec<T>> {
        let rest = self.chunks.split_off(self.chunks.len().min(1));
        if let Some(first) = self.chunks.first_mut() {
            first.truncate(1);
        }
        rest
    }
}

impl<T> Index<u32> for Chunks<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        &self.chunks[(index >> BITS) as usize][index as usize % CHUNK]
    }
}

impl<T> IndexMut<u32> for Chunks<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.chunks[(index >> BITS) as usize][index as usize % CHUNK]
    }
}
