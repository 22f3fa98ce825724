//! What is left to chance, all from one seed; and the queue of what is to happen, in an order that depends on nothing else.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::random::Random;

/// See the module. It counts in 64 bits, as times and sizes do, on any machine.
#[derive(Clone, Debug)]
pub struct Chance(Random);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(Random(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0.next()
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// An index of something that has `n` elements.
    pub fn index(&mut self, n: usize) -> usize {
        self.0.below(n)
    }

    /// A number of a range that has both its ends.
    pub fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        low + self.below(high - low + 1)
    }

    /// Whether what happens once in `n` times does.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// A time until the next of events that come every so often on average, none sooner because one has just come.
    pub fn wait(&mut self, mean: u64) -> u64 {
        // The logarithm of a number below 1, to an accuracy that is the same everywhere.
        let bits = self.next() | 1;
        let whole = u64::from(bits.leading_zeros());
        let rest = (bits << whole << 1) >> 56;
        mean * (whole * 256 + (256 - rest)) / 256 * 693 / 1_000
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        self.0.pick(of)
    }
}

/// What is to happen, by its time in microseconds and then by when it was planned.
#[derive(Debug)]
pub struct Queue<E> {
    now: u64,
    planned: u64,
    order: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<E>>,
    free: Vec<usize>,
}

impl<E> Default for Queue<E> {
    fn default() -> Queue<E> {
        Queue { now: 0, planned: 0, order: BinaryHeap::new(), events: Vec::new(), free: Vec::new() }
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
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.order.push(Reverse((us.max(self.now), self.planned, place)));
    }

    /// The next event, if it comes no later than `until`; the clock is then its time, else `until`.
    pub fn next(&mut self, until: u64) -> Option<E> {
        match self.order.peek() {
            Some(&Reverse((at, _, place))) if at <= until => {
                self.order.pop();
                self.now = at;
                self.free.push(place);
                self.events[place].take()
            }
            _ => {
                self.now = self.now.max(until);
                None
            }
        }
    }
}
