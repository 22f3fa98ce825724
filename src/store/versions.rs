//! A value and its past: what it became at which revision.
//!
//! The latest version lies inline, for nearly all nodes have no other. One older version takes one small allocation, more
//! take a deque, and very many a queue that grows without copying. A file that was written a hundred thousand times is searched from where a revision should be if it was written
//! evenly: that is near, mostly, and each place that need not be looked at is a miss of the caches less. A snapshot, which
//! reads the whole history, looks for every one of its revisions.
//!
//! Invariant: revisions ascend from the oldest to the latest; revision 0 as the latest means that there is no version.

use super::queue::{CHUNK, Queue};
use crate::faults::{self, Fault};
use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct Versions<T> {
    rev: i64,
    latest: T,
    older: Option<Box<Older<T>>>,
}

#[derive(Debug)]
enum Older<T> {
    One((i64, T)),
    /// At most [`CHUNK`].
    Many(VecDeque<(i64, T)>),
    Long(Queue<(i64, T)>),
}

impl<T: Default> Default for Versions<T> {
    fn default() -> Self {
        Versions { rev: 0, latest: T::default(), older: None }
    }
}

impl<T: Default> Versions<T> {
    /// The revision of the latest version; 0 when there is none.
    pub(super) fn rev(&self) -> i64 {
        self.rev
    }

    /// The latest version; the default when there is none.
    pub(super) fn latest(&self) -> &T {
        &self.latest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rev == 0
    }

    /// Adds a version, newer than all others.
    pub(super) fn set(&mut self, rev: i64, value: T) {
        debug_assert!(rev > self.rev, "revisions ascend");
        let before = (std::mem::replace(&mut self.rev, rev), std::mem::replace(&mut self.latest, value));
        if before.0 == 0 {
            return;
        }
        match &mut self.older {
            None => self.older = Some(Box::new(Older::One(before))),
            Some(older) => match &mut **older {
                Older::Many(many) if many.len() < CHUNK => many.push_back(before),
                Older::Many(many) => {
                    let mut long = Queue::of(std::mem::take(many));
                    long.push_back(before);
                    **older = Older::Long(long);
                }
                Older::Long(long) => long.push_back(before),
                Older::One(one) => {
                    let mut many = VecDeque::with_capacity(2);
                    many.push_back(std::mem::take(one));
                    many.push_back(before);
                    **older = Older::Many(many);
                }
            },
        }
    }

    /// Changes the only version in place: for loading, when there is no past yet.
    pub(super) fn reset(&mut self, rev: i64, value: T) {
        debug_assert!(self.older.is_none(), "a past would be lost");
        (self.rev, self.latest) = (rev, value);
    }

    /// The version in force at `rev`.
    pub(super) fn at(&self, rev: i64) -> Option<(i64, &T)> {
        if self.rev <= rev {
            return (self.rev != 0).then_some((self.rev, &self.latest));
        }
        match self.older.as_deref()? {
            Older::One((r, value)) => (*r <= rev).then_some((*r, value)),
            older => {
                let rev = if faults::is_armed(Fault::PastOffByOne) { rev - 1 } else { rev };
                let before = older.up_to(rev).checked_sub(1)?;
                older.get(before).map(|(r, value)| (*r, value))
            }
        }
    }

    /// The revision of the first version at or after `rev`.
    pub(super) fn first_from(&self, rev: i64) -> Option<i64> {
        let older = match self.older.as_deref() {
            None => None,
            Some(Older::One((r, _))) => Some(*r).filter(|r| *r >= rev),
            Some(older) => {
                let before = rev.checked_sub(1).map_or(0, |before| older.up_to(before));
                older.get(before).map(|(r, _)| *r)
            }
        };
        older.or(Some(self.rev).filter(|r| *r != 0 && *r >= rev))
    }

    /// The versions after revision `after`, up to `until`, oldest first: their revisions.
    pub(super) fn between(&self, after: i64, until: i64) -> impl Iterator<Item = i64> {
        let older = self.older.as_deref().into_iter();
        let older = older.flat_map(move |older| (older.up_to(after)..).map_while(|at| older.get(at)).map(|(r, _)| *r));
        let latest = Some(self.rev).filter(|r| *r != 0);
        older.chain(latest).skip_while(move |r| *r <= after).take_while(move |r| *r <= until)
    }

    /// Drops what is older than `rev`, at which there is a version; `each` is shown it before.
    pub(super) fn prune(&mut self, rev: i64, mut each: impl FnMut(&T)) {
        let Some(older) = &mut self.older else { return };
        let empty = match &mut **older {
            Older::One((r, value)) => {
                let gone = *r < rev;
                if gone {
                    each(value);
                }
                gone
            }
            Older::Many(many) => {
                while let Some((_, value)) = many.pop_front_if(|(r, _)| *r < rev) {
                    each(&value);
                }
                if many.capacity() >= 32 && many.len() < many.capacity() / 4 {
                    many.shrink_to(many.len() * 2);
                }
                many.is_empty()
            }
            Older::Long(long) => {
                while long.front().is_some_and(|(r, _)| *r < rev)
                    && let Some((_, value)) = long.pop_front()
                {
                    each(&value);
                }
                match long.take_few() {
                    Some(few) => {
                        let empty = few.is_empty();
                        **older = Older::Many(few);
                        empty
                    }
                    None => false,
                }
            }
        };
        if empty {
            self.older = None;
        }
    }

    /// Drops the oldest version if it is the one of `rev`.
    pub(super) fn drop_oldest(&mut self, rev: i64) {
        if self.older.is_some() {
            self.prune(rev + 1, |_| {});
        } else if self.rev == rev {
            (self.rev, self.latest) = (0, T::default());
        }
    }
}

impl<T> Older<T> {
    fn get(&self, at: usize) -> Option<&(i64, T)> {
        match self {
            Older::One(one) => Some(one).filter(|_| at == 0),
            Older::Many(many) => many.get(at),
            Older::Long(long) => long.get(at),
        }
    }

    /// Returns how many versions are of `rev` or before it.
    fn up_to(&self, rev: i64) -> usize {
        match self {
            Older::One((r, _)) => usize::from(*r <= rev),
            Older::Many(many) => up_to(many.len(), |at| many[at].0, rev),
            Older::Long(long) => up_to(long.len(), |at| long.get(at).map_or(i64::MAX, |(r, _)| *r), rev),
        }
    }
}

/// With so few versions there is nothing to be gained by a guess.
const FEW: usize = 8;

/// How many of `len` versions are of `rev` or before it; `rev_of` gives the revision of each.
fn up_to(len: usize, rev_of: impl Fn(usize) -> i64, rev: i64) -> usize {
    if len <= FEW {
        return (0..len).take_while(|at| rev_of(*at) <= rev).count();
    }
    let (first, last) = (rev_of(0), rev_of(len - 1));
    if rev < first {
        return 0;
    }
    if rev >= last {
        return len;
    }
    let is_past = |at: usize| rev_of(at) > rev;
    // From here on the version at `low` is of `rev` or before it, and the one at `high` is past it.
    let (mut low, mut high) = (0, len - 1);
    let gap = last.abs_diff(first) / u64::try_from(high).unwrap_or(u64::MAX);
    let mut at = usize::try_from(rev.abs_diff(first) / gap.max(1)).unwrap_or(high).min(high);
    // Away from the guess in steps that double, until it lies between two.
    let up = !is_past(at);
    let mut step = 1;
    while is_past(at) != up {
        if up {
            low = at;
            at = (at + step).min(high);
        } else {
            high = at;
            at = at.saturating_sub(step);
        }
        step *= 2;
    }
    if up {
        high = at;
    } else {
        low = at;
    }
    while high - low > 1 {
        let middle = low.midpoint(high);
        if is_past(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written evenly, in bursts, ever more seldom, and ever more often: whatever the guess is, what is found is the same as by
    /// looking at all.
    #[test]
    fn the_guess_does_not_change_what_is_found() {
        let gaps: [fn(i64) -> i64; 5] =
            [|_| 1, |_| 360, |i| 1 + 10_000 * i64::from(i % 16 == 0), |i| 1 + i * i, |i| 1 + 90_000 / (i + 1)];
        for gap in gaps {
            for count in [2, 3, 9, 10, 100, 361] {
                let mut rev = 7;
                let many: Vec<i64> = (0..count)
                    .map(|i| {
                        rev += gap(i);
                        rev
                    })
                    .collect();
                let up_to = |rev| up_to(many.len(), |at| many[at], rev);
                for (found, rev) in many.iter().enumerate() {
                    assert_eq!((up_to(rev - 1), up_to(*rev)), (found, found + 1), "{rev} of {many:?}");
                }
                assert_eq!((up_to(i64::MIN), up_to(0), up_to(i64::MAX)), (0, 0, many.len()));
                let middle = many[many.len() / 2].midpoint(many[many.len() / 2 - 1]);
                assert_eq!(up_to(middle), many.iter().filter(|rev| **rev <= middle).count());
            }
        }
        assert_eq!(up_to(0, |_| 7, 5), 0);
        // What a snapshot has loaded may be from before all revisions.
        let many: Vec<i64> = [i64::MIN].into_iter().chain(1..=9).chain([i64::MAX]).collect();
        let up_to = |rev| up_to(many.len(), |at| many[at], rev);
        assert_eq!([i64::MIN, 0, 3, 9, 10, i64::MAX].map(up_to), [1, 1, 4, 10, 10, 11]);
    }

    /// A file that is written again and again passes from one form to the next, and back: each version must still be found.
    #[test]
    fn versions_are_lost_where_there_are_more_of_them() {
        let mut versions = Versions::default();
        let most = 4 * CHUNK as i64;
        let check = |versions: &Versions<i64>, first: i64, last: i64| {
            let revs = [first, first + 1, first.midpoint(last), last - 1, last].map(|rev| rev.clamp(first, last));
            for rev in revs {
                // Each odd revision wrote the file, from `first` on.
                let written = rev - i64::from(rev % 2 == 0);
                assert_eq!(versions.at(rev), Some((written, &-written)), "{first} to {last}");
                assert_eq!(versions.first_from(written), Some(written));
            }
            assert_eq!(versions.at(first - 1), None);
            assert!(versions.between(first - 1, last).eq((first..=last).step_by(2)), "{first} to {last}");
        };
        let mut long = 0;
        for rev in (1..most).step_by(2) {
            versions.set(rev, -rev);
            if rev % 64 == 1 || (rev / 2) % (CHUNK as i64) < 4 {
                check(&versions, 1, rev);
            }
            long += usize::from(matches!(versions.older.as_deref(), Some(Older::Long(_))));
        }
        assert!(long > CHUNK / 2, "{long}");
        for first in (3..most).step_by(2) {
            let mut gone = Vec::new();
            versions.prune(first, |value| gone.push(*value));
            assert_eq!(gone, [2 - first]);
            if first % 64 == 1 || (first / 2) % (CHUNK as i64) < 4 {
                check(&versions, first, most - 1);
            }
        }
        assert!(versions.older.is_none());
    }
}
