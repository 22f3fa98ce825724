//! A table of numbered values that grows without copying: a million requests may be parked, and none may wait until all the others
//! have moved to a larger table.

use std::ops::{Index, IndexMut};

const CHUNK: usize = 1 << 10;

#[derive(Debug)]
enum Slot<T> {
    Taken(T),
    /// Free, with the number of the next free slot.
    Free(Option<usize>),
}

/// A table of numbered values. A number is reused once its value was removed.
#[derive(Debug)]
pub struct Slots<T> {
    /// All chunks except the last are full, and each has room for `CHUNK` slots from the start.
    chunks: Vec<Vec<Slot<T>>>,
    free: Option<usize>,
    slots: usize,
    len: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots { chunks: Vec::new(), free: None, slots: 0, len: 0 }
    }
}

impl<T> Slots<T> {
    /// Returns how many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the number that the next value gets.
    pub fn vacant(&self) -> usize {
        self.free.unwrap_or(self.slots)
    }

    /// Adds a value, and returns its number.
    pub fn insert(&mut self, value: T) -> usize {
        self.len += 1;
        let key = self.vacant();
        match self.slot_mut(key) {
            Some(slot) => {
                let Slot::Free(next) = std::mem::replace(slot, Slot::Taken(value)) else {
                    unreachable!("slot {key} is free")
                };
                self.free = next;
            }
            None => {
                if self.slots.is_multiple_of(CHUNK) {
                    self.chunks.push(Vec::with_capacity(CHUNK));
                }
                let last = self.chunks.last_mut().expect("a chunk with room");
                last.push(Slot::Taken(value));
                self.slots += 1;
            }
        }
        key
    }

    /// Removes a value.
    ///
    /// # Panics
    /// If no value has this number.
    pub fn remove(&mut self, key: usize) -> T {
        let free = self.free;
        let slot = self.slot_mut(key).expect("a value of this number");
        let Slot::Taken(value) = std::mem::replace(slot, Slot::Free(free)) else {
            panic!("there is no value {key}");
        };
        self.free = Some(key);
        self.len -= 1;
        value
    }

    /// Returns the value with this number, if there is one.
    pub fn get(&self, key: usize) -> Option<&T> {
        match self.chunks.get(key / CHUNK)?.get(key % CHUNK)? {
            Slot::Taken(value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    fn slot_mut(&mut self, key: usize) -> Option<&mut Slot<T>> {
        self.chunks.get_mut(key / CHUNK)?.get_mut(key % CHUNK)
    }
}

impl<T> Index<usize> for Slots<T> {
    type Output = T;

    fn index(&self, key: usize) -> &T {
        self.get(key).expect("a value of this number")
    }
}

impl<T> IndexMut<usize> for Slots<T> {
    fn index_mut(&mut self, key: usize) -> &mut T {
        match self.slot_mut(key) {
            Some(Slot::Taken(value)) => value,
            _ => panic!("there is no value {key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token names one request: two requests must never share a token, and no request may get another's.
    #[test]
    fn numbers_are_used_again_and_never_twice_at_a_time() {
        let mut slots = Slots::default();
        for value in 0..3 * CHUNK {
            assert_eq!((slots.vacant(), slots.insert(value)), (value, value));
        }
        for key in (0..3 * CHUNK).step_by(3) {
            assert_eq!(slots.remove(key), key);
            assert_eq!(slots.get(key), None);
        }
        for _ in 0..CHUNK {
            let key = slots.vacant();
            assert_eq!((slots.insert(7), slots[key], key % 3), (key, 7, 0));
        }
        assert_eq!((slots.len(), slots.vacant(), slots[1]), (3 * CHUNK, 3 * CHUNK, 1));
        slots[1] = 5;
        assert_eq!(slots.get(1), Some(&5));
    }
}
