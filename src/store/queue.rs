//! A first-in, first-out queue whose growth copies a few megabytes at most: a hundred million revisions may be kept, or a million
//! answers be owed to a client, and no request may wait until all of them have moved to a larger table.
//!
//! The oldest elements lie in a deque, which grows up to [`FEW_BYTES`], because most queues stay short. What has no room there lies
//! in chunks, each of which becomes the deque when its turn comes.

use std::collections::VecDeque;

const BITS: u32 = 9;
/// Elements of a chunk.
pub(super) const CHUNK: usize = 1 << BITS;
/// To grow a deque of this size takes less than a millisecond.
const FEW_BYTES: usize = 4 << 20;

/// A first-in, first-out queue.
#[derive(Debug)]
pub struct Queue<T> {
    /// Empty only if there is no element.
    first: VecDeque<T>,
    /// No chunk is empty, and each except the last holds [`CHUNK`] elements.
    rest: VecDeque<VecDeque<T>>,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue { first: VecDeque::new(), rest: VecDeque::new() }
    }
}

impl<T> Queue<T> {
    /// Elements that may lie in the deque.
    const FEW: usize = FEW_BYTES / size_of::<T>();

    /// Makes a queue of a deque.
    pub(super) fn of(first: VecDeque<T>) -> Queue<T> {
        Queue { first, rest: VecDeque::new() }
    }

    /// Takes the elements out as a deque, if they lie in one.
    pub(super) fn take_few(&mut self) -> Option<VecDeque<T>> {
        self.rest.is_empty().then(|| std::mem::take(&mut self.first))
    }

    /// Returns whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.first.len() + self.rest.back().map_or(0, |last| (self.rest.len() - 1) * CHUNK + last.len())
    }

    /// Returns the oldest element.
    pub fn front(&self) -> Option<&T> {
        self.first.front()
    }

    /// Returns the newest element.
    #[cfg(any(feature = "server", test))]
    pub fn back(&self) -> Option<&T> {
        self.rest.back().unwrap_or(&self.first).back()
    }

    /// Returns the element with this number; the oldest is number 0.
    pub fn get(&self, index: usize) -> Option<&T> {
        match index.checked_sub(self.first.len()) {
            None => self.first.get(index),
            Some(rest) => self.rest.get(rest >> BITS)?.get(rest % CHUNK),
        }
    }

    /// Adds an element.
    pub fn push_back(&mut self, element: T) {
        if self.rest.is_empty() && self.first.len() < Self::FEW {
            self.first.push_back(element);
        } else {
            self.push_far(element);
        }
    }

    #[cold]
    fn push_far(&mut self, element: T) {
        match self.rest.back_mut() {
            Some(last) if last.len() < CHUNK => last.push_back(element),
            _ => {
                let mut chunk = VecDeque::with_capacity(CHUNK);
                chunk.push_back(element);
                self.rest.push_back(chunk);
            }
        }
    }

    /// Takes the newest element.
    #[cfg(any(feature = "server", test))]
    pub fn pop_back(&mut self) -> Option<T> {
        let Some(last) = self.rest.back_mut() else { return self.first.pop_back() };
        let element = last.pop_back();
        if last.is_empty() {
            self.rest.pop_back();
        }
        element
    }

    /// Takes the oldest element.
    pub fn pop_front(&mut self) -> Option<T> {
        let element = self.first.pop_front()?;
        if self.first.is_empty()
            && let Some(next) = self.rest.pop_front()
        {
            self.first = next;
        }
        Some(element)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So large that few of them lie in the deque.
    type Large = [usize; 512];
    const FEW: usize = Queue::<Large>::FEW;

    /// A session must get its answers in the order of its requests, and each revision its event, however many there are and however
    /// they come and go.
    #[test]
    fn elements_are_lost_or_change_their_order() {
        let large = |number: usize| -> Large { [number; 512] };
        let mut queue = Queue::default();
        let (mut pushed, mut popped, mut most) = (0_usize, 0, 0);
        for round in 1..60 {
            for _ in 0..round * 97 {
                queue.push_back(large(pushed));
                pushed += 1;
            }
            most = queue.len().max(most);
            // At last nearly all go, and the next rounds begin with few.
            let gone = if round % 20 == 0 { queue.len() - 3 } else { round * 60 };
            for _ in 0..gone {
                assert_eq!(queue.front().map(|element| element[0]), Some(popped));
                assert_eq!(queue.pop_front(), Some(large(popped)));
                popped += 1;
            }
            assert_eq!(queue.len(), pushed - popped);
            let at = |at: usize| queue.get(at).map(|element| element[0]);
            assert!((0..queue.len()).all(|index| at(index) == Some(popped + index)), "round {round}");
            assert_eq!((at(queue.len()), queue.back()), (None, Some(&large(pushed - 1))));
            for _ in 0..3 {
                pushed -= 1;
                assert_eq!(queue.pop_back(), Some(large(pushed)));
            }
        }
        assert!(most > 2 * (FEW + CHUNK), "{most}");
        while let Some(element) = queue.pop_front() {
            assert_eq!(element[0], popped);
            popped += 1;
        }
        assert_eq!((popped, queue.is_empty(), queue.len(), queue.pop_back()), (pushed, true, 0, None));
        assert_eq!((queue.front(), queue.back(), queue.get(0)), (None, None, None));
    }

    /// Growing must not move the elements: with a hundred million of them, others would wait for half a second.
    #[test]
    fn all_elements_move_when_there_are_more() {
        let mut queue: Queue<Large> = Queue::default();
        (0..FEW).for_each(|number| queue.push_back([number; 512]));
        let first = std::ptr::from_ref(&queue.first[0]);
        let mut places = Vec::new();
        for number in 0..8 * CHUNK {
            queue.push_back([number; 512]);
            if number.is_multiple_of(CHUNK) {
                places.push(std::ptr::from_ref(&queue.rest[number / CHUNK][0]));
            }
        }
        assert_eq!((first, FEW), (std::ptr::from_ref(&queue.first[0]), queue.first.len()));
        let now: Vec<_> = queue.rest.iter().map(|chunk| std::ptr::from_ref(&chunk[0])).collect();
        assert_eq!(now, places);
        // Few are a deque again.
        assert_eq!(queue.take_few(), None);
        while queue.len() > 7 {
            queue.pop_front();
        }
        assert!(queue.take_few().is_some_and(|few| few.len() == 7) && queue.is_empty());
    }
}
