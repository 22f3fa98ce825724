//! What is left to chance, all from one seed; and the queue of what is to happen, in an order that depends on nothing else.

use std::collections::BTreeMap;

/// A small generator (SplitMix64; Steele, Lea, Flood, 2014).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// An index of something that has `n` elements.
    pub fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).expect("below a usize")
    }

    /// A number of a range that has both its ends.
    pub fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        low + self.below(high - low + 1)
    }

    /// Whether what happens once in `n` times does.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }
}

/// What is to happen, by its time in microseconds and then by when it was planned.
#[derive(Debug)]
pub struct Queue<E> {
    now: u64,
    planned: u64,
    events: BTreeMap<(u64, u64), E>,
}

impl<E> Default for Queue<E> {
    fn default() -> Queue<E> {
        Queue { now: 0, planned: 0, events: BTreeMap::new() }
    }
}

impl<E> Queue<E> {
    /// The time in microseconds.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Plans an event in so many microseconds.
    pub fn after(&mut self, us: u64, event: E) {
        self.at(self.now + us, event);
    }

    /// Plans an event at a time, or now if that has passed.
    pub fn at(&mut self, us: u64, event: E) {
        self.planned += 1;
        self.events.insert((us.max(self.now), self.planned), event);
    }

    /// The next event, if it comes no later than `until`; the clock is then its time, else `until`.
    pub fn next(&mut self, until: u64) -> Option<E> {
        match self.events.first_entry() {
            Some(first) if first.key().0 <= until => {
                self.now = first.key().0;
                Some(first.remove())
            }
            _ => {
                self.now = self.now.max(until);
                None
            }
        }
    }
}
