//! Who waits for an event or for a revision.
//!
//! A waiter is one entry of a slab. One for events stands in the doubly linked list of its pattern's node in the
//! [`Trie`], so that it can be cancelled without a search; one that waits from a revision that is still to come is parked under
//! this revision until then and costs nothing before; one for a revision itself is parked likewise.
//!
//! An event is led through the index as soon as it is applied, but only for so long: a great number of hostile patterns can make
//! it take seconds. What is left is [`Pending`], and gone on with in slices. Until it is done, the index is not touched:
//! later events wait for their turn, their paths in the history; new waiters are parked under the revision from which they wait
//! and enter the index when that one's turn comes; and of those that are cancelled, the nodes are removed when the match is
//! done. So each waiter still fires by the first event that concerns it. If the history is trimmed beyond an event that
//! waits for its turn, nobody can tell any more whom it concerned: all that waited for it fire by it.
//!
//! Each waiter fires once. Those that one event wakes do so in the order in which they came, and before those that wait for its
//! revision (which do not wait for a match that is pending), so what is woken is the same on every run.

use super::Woken;
use super::chunks::Chunks;
use super::trie::{Trie, TrieId};
use crate::faults::{self, Fault};
use std::collections::BTreeMap;

/// How many places in the index an event may be led through while it is applied.
const AT_ONCE: usize = 20_000;
/// Entering so many tokens into the index costs what leading a byte through a place does.
const TOKENS: usize = 16;

/// A waiter's name, for [`cancel`](super::Store::cancel). Never names another waiter once this one is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaiterId {
    slot: u32,
    generation: u32,
}

#[derive(Debug)]
struct Waiter {
    generation: u32,
    place: Place,
    token: u64,
    /// Order of arrival.
    order: u64,
}

// Kept small for the sake of those who wait on a hundred thousand paths.
const _: () = assert!(size_of::<Waiter>() <= 56);

#[derive(Debug)]
enum Place {
    Free {
        next: Option<u32>,
    },
    /// In the list of a pattern's node.
    Listed {
        node: TrieId,
        before: Option<u32>,
        after: Option<u32>,
    },
    /// Under a revision to come; with a pattern if it then waits for events.
    Parked {
        rev: i64,
        tokens: Option<Box<str>>,
    },
}

#[derive(Debug)]
pub(super) struct Waiters {
    slab: Chunks<Waiter>,
    free: Option<u32>,
    count: usize,
    order: u64,
    trie: Trie,
    /// Those that wait for events from a revision on: by that, then order of arrival.
    parked: BTreeMap<(i64, u64), u32>,
    /// Those that wait for a revision, likewise.
    awaiting: BTreeMap<(i64, u64), u32>,
    pending: Option<Box<Pending>>,
    /// Nodes to be pruned when the match that is pending is done.
    pruned: Vec<TrieId>,
    at_once: usize,
    woken: Vec<Woken>,
    hits: Vec<TrieId>,
}

/// Events that are to be matched.
#[derive(Debug)]
struct Pending {
    /// The first of them, and its path.
    rev: i64,
    path: Vec<u8>,
    /// How much of the path was led through the index; `None` if its match has not begun.
    at: Option<usize>,
    /// The last of them.
    latest: i64,
}

impl Waiters {
    pub(super) fn new() -> Waiters {
        Waiters {
            slab: Chunks::new(),
            free: None,
            count: 0,
            order: 0,
            trie: Trie::new(),
            parked: BTreeMap::new(),
            awaiting: BTreeMap::new(),
            pending: None,
            pruned: Vec::new(),
            at_once: AT_ONCE,
            woken: Vec::new(),
            hits: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Waits for an event that `tokens` match, from the next one on. No match may be pending.
    pub(super) fn listen(&mut self, tokens: &str, token: u64) -> WaiterId {
        debug_assert!(self.pending.is_none(), "the index must not be touched");
        let id = self.add(token);
        self.list(id.slot, tokens);
        id
    }

    /// Waits for an event that `tokens` match, from revision `rev` on, which is to come.
    pub(super) fn listen_from(&mut self, rev: i64, tokens: &str, token: u64) -> WaiterId {
        self.park(rev, Some(tokens.into()), token)
    }

    /// Waits for revision `rev`; fires at once if that is not above `current`.
    pub(super) fn await_revision(&mut self, rev: i64, current: i64, token: u64) -> WaiterId {
        let id = self.park(rev, None, token);
        if rev <= current {
            self.wake_awaiting(current);
        }
        id
    }

    /// Removes a waiter; false if it is gone already.
    pub(super) fn cancel(&mut self, id: WaiterId) -> bool {
        let Some(waiter) = self.slab.get(id.slot) else { return false };
        if waiter.generation != id.generation {
            return false;
        }
        match waiter.place {
            Place::Free { .. } => return false,
            Place::Listed { node, before, after } => {
                self.unlist(node, before, after);
                if self.pending.as_ref().is_some_and(|pending| pending.at.is_some()) {
                    self.pruned.push(node);
                } else {
                    self.trie.prune(node);
                }
            }
            Place::Parked { rev, ref tokens } => {
                let key = (rev, waiter.order);
                if tokens.is_some() {
                    self.parked.remove(&key)
                } else {
                    self.awaiting.remove(&key)
                };
            }
        }
        self.remove(id.slot);
        true
    }

    /// Wakes whom the event of revision `rev`, on `path`, concerns; at once, or by [`Waiters::match_more`].
    pub(super) fn applied(&mut self, rev: i64, path: &[u8]) {
        if let Some(pending) = &mut self.pending {
            pending.latest = rev;
        } else if !self.trie.is_empty() || self.parked.first_key_value().is_some_and(|((at, _), _)| *at <= rev) {
            let (mut budget, mut at) = (self.at_once, None);
            if !self.match_event(rev, path, &mut at, &mut budget) {
                self.pending = Some(Box::new(Pending { rev, path: path.to_vec(), at, latest: rev }));
            }
        }
        self.wake_awaiting(rev);
    }

    /// Fires all who wait for an event before `first`, by that of `rev`: it and those behind it, up to there, cannot be told any more.
    pub(super) fn lost(&mut self, rev: i64, first: i64) {
        self.fire_all(rev, first);
        self.wake_awaiting(first - 1);
    }

    /// Whether there are events whose match is not done.
    pub(super) fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Goes on with what [`Waiters::applied`] left undone. `path_of` writes the path of an event of the history, the first of
    /// which is that of `first`; false if there is none.
    pub(super) fn match_more(
        &mut self,
        first: i64,
        budget: &mut usize,
        mut path_of: impl FnMut(i64, &mut Vec<u8>) -> bool,
    ) {
        // What is pending stays there while its match goes on: `cancel` and `applied` cannot come between.
        let Some(mut pending) = self.pending.take() else { return };
        loop {
            if !self.match_event(pending.rev, &pending.path, &mut pending.at, budget) {
                self.pending = Some(pending);
                return;
            }
            if pending.rev == pending.latest {
                return;
            }
            pending.rev += 1;
            pending.at = None;
            if pending.rev < first {
                self.fire_all(pending.rev, first);
                pending.rev = first;
            }
            let found = path_of(pending.rev, &mut pending.path);
            debug_assert!(found, "events from the first to the latest are in the history");
            *budget = budget.saturating_sub(1);
        }
    }

    /// Goes on with the match of an event, from `at`, until it is done (and true is given) or the budget is used up.
    fn match_event(&mut self, rev: i64, path: &[u8], at: &mut Option<usize>, budget: &mut usize) -> bool {
        let begun = match *at {
            Some(begun) => begun,
            None => {
                if !self.unpark(rev, budget) {
                    return false;
                }
                self.trie.begin();
                0
            }
        };
        let mut hits = std::mem::take(&mut self.hits);
        let done = self.trie.go_on(&path[begun..], budget, &mut hits);
        *at = done.map(|more| begun + more);
        if done.is_none() {
            self.fire(rev, &hits);
            for node in std::mem::take(&mut self.pruned) {
                self.trie.prune(node);
            }
        }
        hits.clear();
        self.hits = hits;
        done.is_none()
    }

    pub(super) fn take_woken(&mut self, out: &mut Vec<Woken>) {
        out.append(&mut self.woken);
    }

    /// Lists those parked who wait for events from `rev` or before. False if the budget is used up before.
    fn unpark(&mut self, rev: i64, budget: &mut usize) -> bool {
        while let Some(entry) = self.parked.first_entry()
            && entry.key().0 <= rev
        {
            if *budget == 0 {
                return false;
            }
            let slot = entry.remove();
            let Place::Parked { tokens: Some(tokens), .. } = &mut self.slab[slot].place else {
                unreachable!("parked without a pattern")
            };
            let tokens = std::mem::take(tokens);
            *budget = budget.saturating_sub(1 + tokens.len() / TOKENS);
            self.list(slot, &tokens);
        }
        true
    }

    fn wake_awaiting(&mut self, rev: i64) {
        let rev = rev - i64::from(faults::is_armed(Fault::RevisionWokenLate));
        while let Some(entry) = self.awaiting.first_entry()
            && entry.key().0 <= rev
        {
            let (key, slot) = entry.remove_entry();
            let token = self.remove(slot);
            self.woken.push(Woken::Revision { token, rev: key.0 });
        }
    }

    /// Fires those who wait at `hits` by the event of `rev`.
    fn fire(&mut self, rev: i64, hits: &[TrieId]) {
        let mut fired: Vec<(u64, u32)> = Vec::new();
        for &node in hits {
            let mut at = self.trie.ends(node).take().map(|(first, _)| first);
            while let Some(slot) = at {
                let waiter = &self.slab[slot];
                fired.push((waiter.order, slot));
                at = match waiter.place {
                    Place::Listed { .. } if faults::is_armed(Fault::FirstWaiterWoken) => None,
                    Place::Listed { after, .. } => after,
                    Place::Free { .. } | Place::Parked { .. } => None,
                };
            }
            // Hits that are still to be dealt with have waiters, and so are not removed along with this one.
            self.trie.prune(node);
        }
        self.wake(rev, fired);
    }

    /// Fires all who wait for events before `first`: those of `rev` to there can no longer be told.
    fn fire_all(&mut self, rev: i64, first: i64) {
        let mut fired: Vec<(u64, u32)> = Vec::new();
        for slot in 0..u32::try_from(self.slab.len()).unwrap_or(u32::MAX) {
            let waiter = &self.slab[slot];
            if matches!(waiter.place, Place::Listed { .. }) {
                fired.push((waiter.order, slot));
            }
        }
        // All that were listed are gone.
        self.trie = Trie::new();
        while let Some(entry) = self.parked.first_entry()
            && entry.key().0 < first
        {
            let ((_, order), slot) = entry.remove_entry();
            fired.push((order, slot));
        }
        self.wake(rev, fired);
    }

    fn wake(&mut self, rev: i64, mut fired: Vec<(u64, u32)>) {
        fired.sort_unstable();
        for (_, slot) in fired {
            let token = self.remove(slot);
            self.woken.push(Woken::Event { token, rev });
        }
    }

    fn park(&mut self, rev: i64, tokens: Option<Box<str>>, token: u64) -> WaiterId {
        let id = self.add(token);
        let waiter = &mut self.slab[id.slot];
        let map = if tokens.is_some() { &mut self.parked } else { &mut self.awaiting };
        map.insert((rev, waiter.order), id.slot);
        waiter.place = Place::Parked { rev, tokens };
        id
    }

    /// Appends the waiter to its pattern's list.
    fn list(&mut self, slot: u32, tokens: &str) {
        let node = self.trie.insert(tokens);
        let ends = self.trie.ends(node);
        let before = ends.map(|(_, last)| last);
        *ends = Some((ends.map_or(slot, |(first, _)| first), slot));
        self.slab[slot].place = Place::Listed { node, before, after: None };
        if let Some(before) = before
            && let Place::Listed { after, .. } = &mut self.slab[before].place
        {
            *after = Some(slot);
        }
    }

    /// Takes a waiter out of the list it is in, between these two.
    fn unlist(&mut self, node: TrieId, before: Option<u32>, after: Option<u32>) {
        if let Some(slot) = before
            && let Place::Listed { after: link, .. } = &mut self.slab[slot].place
        {
            *link = after;
        }
        if let Some(slot) = after
            && let Place::Listed { before: link, .. } = &mut self.slab[slot].place
        {
            *link = before;
        }
        let ends = self.trie.ends(node);
        *ends = match (before, after, *ends) {
            (None, Some(next), Some((_, last))) => Some((next, last)),
            (Some(previous), None, Some((first, _))) => Some((first, previous)),
            (Some(_), Some(_), ends) => ends,
            _ => None,
        };
    }

    fn add(&mut self, token: u64) -> WaiterId {
        self.count += 1;
        self.order += 1;
        let order = self.order;
        let place = Place::Free { next: None };
        let Some(slot) = self.free else {
            let slot = self.slab.push(Waiter { generation: 0, place, token, order });
            return WaiterId { slot, generation: 0 };
        };
        let waiter = &mut self.slab[slot];
        if let Place::Free { next } = waiter.place {
            self.free = next;
        }
        *waiter = Waiter { generation: waiter.generation, place, token, order };
        WaiterId { slot, generation: waiter.generation }
    }

    fn remove(&mut self, slot: u32) -> u64 {
        self.count -= 1;
        let waiter = &mut self.slab[slot];
        waiter.generation = waiter.generation.wrapping_add(1);
        waiter.place = Place::Free { next: self.free };
        self.free = Some(slot);
        waiter.token
    }

    /// How much of a match is done at once.
    #[cfg(test)]
    pub(super) fn set_at_once(&mut self, places: usize) {
        self.at_once = places;
    }

    /// Places that the latest event has been at in the index.
    #[cfg(test)]
    pub(super) fn steps(&self) -> usize {
        self.trie.steps
    }

    /// Nodes of the index.
    #[cfg(test)]
    pub(super) fn nodes(&self) -> usize {
        self.trie.len()
    }
}
