//! A value and its past: what it became at which revision.
//!
//! The latest version lies inline, for nearly all nodes have no other. One older version takes one small allocation, more
//! take a deque. A file that was written a hundred thousand times is searched from where a revision should be if it was written
//! evenly: that is near, mostly, and each place that need not be looked at is a miss of the caches less. A snapshot, which
//! reads the whole history, looks for every one of its revisions.
//!
//! Invariant: revisions ascend from the oldest to the latest; revision 0 as the latest means that there is no version.

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
    Many(VecDeque<(i64, T)>),
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
                Older::Many(many) => many.push_back(before),
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
            Older::Many(many) => {
                let rev = if faults::is_armed(Fault::PastOffByOne) { rev - 1 } else { rev };
                many.get(up_to(many, rev).checked_sub(1)?).map(|(r, value)| (*r, value))
            }
        }
    }

    /// The revision of the first version at or after `rev`.
    pub(super) fn first_from(&self, rev: i64) -> Option<i64> {
        let older = match self.older.as_deref() {
            None => None,
            Some(Older::One((r, _))) => Some(*r).filter(|r| *r >= rev),
            Some(Older::Many(many)) => {
                let before = rev.checked_sub(1).map_or(0, |before| up_to(many, before));
                many.get(before).map(|(r, _)| *r)
            }
        };
        older.or(Some(self.rev).filter(|r| *r != 0 && *r >= rev))
    }

    /// The versions after revision `after`, up to `until`, oldest first: their revisions.
    pub(super) fn between(&self, after: i64, until: i64) -> impl Iterator<Item = i64> {
        let (one, many) = match self.older.as_deref() {
            None => (None, None),
            Some(Older::One((r, _))) => (Some(*r), None),
            Some(Older::Many(many)) => (None, Some(many)),
        };
        let many = many.into_iter().flat_map(move |many| many.range(up_to(many, after)..).map(|(r, _)| *r));
        let latest = Some(self.rev).filter(|r| *r != 0);
        one.into_iter().chain(many).chain(latest).skip_while(move |r| *r <= after).take_while(move |r| *r <= until)
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

/// With so few versions there is nothing to be gained by a guess.
const FEW: usize = 8;

/// How many versions are of `rev` or before it.
fn up_to<T>(many: &VecDeque<(i64, T)>, rev: i64) -> usize {
    if many.len() <= FEW {
        return many.partition_point(|(r, _)| *r <= rev);
    }
    let (first, last) = (many[0].0, many[many.len() - 1].0);
    if rev < first {
        return 0;
    }
    if rev >= last {
        return many.len();
    }
    let is_past = |at: usize| many[at].0 > rev;
    // From here on the version at `low` is of `rev` or before it, and the one at `high` is past it.
    let (mut low, mut high) = (0, many.len() - 1);
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
                let many: VecDeque<(i64, ())> = (0..count)
                    .map(|i| {
                        rev += gap(i);
                        (rev, ())
                    })
                    .collect();
                for (found, (rev, ())) in many.iter().enumerate() {
                    assert_eq!((up_to(&many, rev - 1), up_to(&many, *rev)), (found, found + 1), "{rev} of {many:?}");
                }
                assert_eq!((up_to(&many, i64::MIN), up_to(&many, 0), up_to(&many, i64::MAX)), (0, 0, many.len()));
                let middle = many[many.len() / 2].0.midpoint(many[many.len() / 2 - 1].0);
                assert_eq!(up_to(&many, middle), many.iter().filter(|(rev, ())| *rev <= middle).count());
            }
        }
        assert_eq!(up_to::<()>(&VecDeque::new(), 5), 0);
        // What a snapshot has loaded may be from before all revisions.
        let many: VecDeque<_> = [i64::MIN].into_iter().chain(1..=9).chain([i64::MAX]).map(|rev| (rev, ())).collect();
        assert_eq!([i64::MIN, 0, 3, 9, 10, i64::MAX].map(|rev| up_to(&many, rev)), [1, 1, 4, 10, 10, 11]);
    }
}
