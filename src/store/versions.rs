//! A value and its past: what it became at which revision.
//!
//! The latest version lies inline, for nearly all nodes have no other. One older version takes one small allocation, more
//! take a deque, so that a file written a hundred thousand times is still searched by halves.
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
                let after = many.partition_point(|(r, _)| *r <= rev);
                many.get(after.checked_sub(1)?).map(|(r, value)| (*r, value))
            }
        }
    }

    /// The revision of the first version at or after `rev`.
    pub(super) fn first_from(&self, rev: i64) -> Option<i64> {
        let older = match self.older.as_deref() {
            None => None,
            Some(Older::One((r, _))) => Some(*r).filter(|r| *r >= rev),
            Some(Older::Many(many)) => many.get(many.partition_point(|(r, _)| *r < rev)).map(|(r, _)| *r),
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
        let many = many
            .into_iter()
            .flat_map(move |many| many.range(many.partition_point(|(r, _)| *r <= after)..).map(|(r, _)| *r));
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
