//! The waiters for events and revisions.
//!
//! A waiter is one entry of a slab. A waiter for events is in the doubly linked [`List`] of its pattern, which the pattern's node
//! in the [`Trie`] names, so cancelling it needs no search. A waiter from a future revision is parked under that revision until it
//! comes, and costs nothing before. A waiter for a revision itself is parked likewise.
//!
//! An event is matched against the index as soon as it is applied, but only within a budget for each event and one for all events
//! of a turn, because very many hostile patterns can make a match take seconds, and a turn may apply thousands of events. The rest of the match is [`Pending`], and continues in slices. The index stays unchanged until the
//! match is done: later events wait for their turn, with their paths in the history; new waiters are parked under the revision from
//! which they wait, and enter the index when that revision's turn comes; the nodes of cancelled waiters are removed after the
//! match. So each waiter still fires by the first event that concerns it. If the history is trimmed beyond an event that waits for
//! its turn, the waiters that it concerned are unknown, so all that waited for it fire.
//!
//! Firing costs as much as matching the patterns, however many waiters they have: an event takes the lists of these patterns out of
//! the index and queues them as [`Due`]. [`Waiters::take_woken`] takes the waiters off the lists, as many at a time as the caller
//! wants. Until then they can still be cancelled.
//!
//! Each waiter fires once. The waiters that one event wakes fire in the order in which they entered the index: in order of arrival,
//! or of the revisions from which they wait. They fire before those that wait for the event's revision (which do not wait for a
//! pending match). So the order is the same on every run.

use super::Woken;
use super::chunks::Chunks;
use super::trie::{Trie, TrieId};
use crate::faults::{self, Fault};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How many places of the index the match of an event may visit while the event is applied.
const AT_ONCE: usize = 20_000;
/// Entering a waiter into the index costs as much as matching a byte at this many places.
const ENTRY: usize = 4;
/// Entering this many tokens into the index costs as much as matching a byte at a place.
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
    /// Order of arrival; for a listed waiter, of its arrival in the index.
    order: u64,
}

// Kept small, because clients may wait on a hundred thousand paths.
const _: () = assert!(size_of::<Waiter>() <= 56);

#[derive(Debug)]
enum Place {
    Free {
        next: Option<u32>,
    },
    /// In a list.
    Listed {
        list: u32,
        before: Option<u32>,
        after: Option<u32>,
    },
    /// Parked under a future revision; with a pattern if it then waits for events.
    Parked {
        rev: i64,
        tokens: Option<Box<str>>,
    },
}

/// The waiters for one pattern, in order.
#[derive(Clone, Copy, Debug)]
struct List {
    /// The first and the last waiter, if there are any.
    ends: Option<(u32, u32)>,
    owner: Owner,
}

/// What a list belongs to.
#[derive(Clone, Copy, Debug)]
enum Owner {
    /// Nothing: the place is free. With the next free one.
    Nobody(Option<u32>),
    /// The node of its pattern.
    Node(TrieId),
    /// An event that has fired the list.
    Fired,
}

/// Fired lists, each under the order of its first waiter. There may be millions, and a heap would copy them all to grow.
#[derive(Debug, Default)]
struct Fired {
    /// The earliest, if there are any.
    first: Option<(u64, u32)>,
    rest: BTreeSet<(u64, u32)>,
}

impl Fired {
    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    fn push(&mut self, list: (u64, u32)) {
        match self.first {
            Some(first) if first < list => drop(self.rest.insert(list)),
            first => {
                self.rest.extend(first);
                self.first = Some(list);
            }
        }
    }

    /// Takes the earliest.
    fn pop(&mut self) -> Option<(u64, u32)> {
        let first = self.first.take()?;
        self.first = self.rest.pop_first();
        Some(first)
    }
}

/// Waiters that have fired and were not taken yet.
#[derive(Debug)]
enum Due {
    /// Those in these lists, woken by the event of this revision.
    Events(i64, Fired),
    /// The waiters for revisions up to this one.
    Revisions(i64),
}

#[derive(Debug)]
pub(super) struct Waiters {
    slab: Chunks<Waiter>,
    free: Option<u32>,
    count: usize,
    order: u64,
    trie: Trie,
    /// Waiters for events from a revision on: by that revision, then by order of arrival.
    parked: BTreeMap<(i64, u64), u32>,
    /// Waiters for a revision, in the same order.
    awaiting: BTreeMap<(i64, u64), u32>,
    pending: Option<Box<Pending>>,
    /// Nodes to prune when the pending match is done.
    pruned: Vec<TrieId>,
    at_once: usize,
    /// How many places the events that are applied may still visit, together.
    turn: usize,
    lists: Chunks<List>,
    free_list: Option<u32>,
    /// Waiters that have fired, in the order in which they fired.
    due: VecDeque<Due>,
    /// Nodes that the current event matches and that were not fired yet, and the lists of those that were.
    hits: Vec<TrieId>,
    fired: Fired,
}

/// Events still to be matched.
#[derive(Debug)]
struct Pending {
    /// The first of them, and its path.
    rev: i64,
    path: Vec<u8>,
    stage: Stage,
    /// The last of them.
    latest: i64,
}

/// The progress of an event's match.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Not begun: the waiters from its revision on must be listed first.
    Unpark,
    /// This much of the event's path was matched against the index.
    Path(usize),
    /// The matching nodes are known, and their waiters fire.
    Fire,
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
            turn: usize::MAX,
            lists: Chunks::new(),
            free_list: None,
            due: VecDeque::new(),
            hits: Vec::new(),
            fired: Fired::default(),
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
            self.fire_awaiting(current);
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
            Place::Listed { list, before, after } => self.unlist(list, before, after),
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

    /// Wakes the waiters that the event of revision `rev`, on `path`, concerns: at once, or by [`Waiters::match_more`].
    pub(super) fn applied(&mut self, rev: i64, path: &[u8]) {
        if let Some(pending) = &mut self.pending {
            pending.latest = rev;
        } else if !self.trie.is_empty() || self.parked.first_key_value().is_some_and(|((at, _), _)| *at <= rev) {
            let most = self.at_once.min(self.turn);
            let (mut budget, mut stage) = (most, Stage::Unpark);
            let is_done = self.match_event(rev, path, &mut stage, &mut budget);
            self.turn -= most - budget;
            if !is_done {
                self.pending = Some(Box::new(Pending { rev, path: path.to_vec(), stage, latest: rev }));
            }
        }
        self.fire_awaiting(rev);
    }

    /// Fires all waiters for an event before `first`, by the event of `rev`: that event and the ones after it, up to `first`, are
    /// lost.
    pub(super) fn lost(&mut self, rev: i64, first: i64) {
        // All waiters fire, so the ones that earlier events concern need no search.
        self.pending = None;
        self.hits.clear();
        self.pruned.clear();
        self.fire_all(rev, first);
        self.fire_awaiting(first - 1);
    }

    /// Returns whether there are events whose match is not done.
    pub(super) fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Limits the places that the matches of events applied from now on visit, until the next call.
    pub(super) fn limit(&mut self, places: usize) {
        self.turn = places;
    }

    /// Continues what [`Waiters::applied`] left undone. `path_of` writes the path of an event in the history, which
    /// begins at `first`; it returns false if there is no such event.
    pub(super) fn match_more(
        &mut self,
        first: i64,
        budget: &mut usize,
        mut path_of: impl FnMut(i64, &mut Vec<u8>) -> bool,
    ) {
        // Take the pending match out: `cancel` and `applied` cannot come between.
        let Some(mut pending) = self.pending.take() else { return };
        loop {
            if !self.match_event(pending.rev, &pending.path, &mut pending.stage, budget) {
                self.pending = Some(pending);
                return;
            }
            if pending.rev == pending.latest {
                return;
            }
            pending.rev += 1;
            pending.stage = Stage::Unpark;
            if pending.rev < first {
                self.fire_all(pending.rev, first);
                pending.rev = first;
            }
            let found = path_of(pending.rev, &mut pending.path);
            debug_assert!(found, "events from the first to the latest are in the history");
            *budget = budget.saturating_sub(1);
        }
    }

    /// Continues an event's match. Returns true when the match is done, false if the budget is used up first.
    fn match_event(&mut self, rev: i64, path: &[u8], stage: &mut Stage, budget: &mut usize) -> bool {
        if let Stage::Unpark = *stage {
            if !self.unpark(rev, budget) {
                return false;
            }
            self.trie.begin();
            *stage = Stage::Path(0);
        }
        if let Stage::Path(begun) = *stage {
            let mut hits = std::mem::take(&mut self.hits);
            let more = self.trie.go_on(&path[begun..], budget, &mut hits);
            self.hits = hits;
            if let Some(more) = more {
                *stage = Stage::Path(begun + more);
                return false;
            }
            *stage = Stage::Fire;
        }
        // The last nodes fire regardless of the budget: nearly always there are only one or two.
        while let Some(node) = self.hits.pop() {
            self.fire(node);
            *budget = budget.saturating_sub(1);
            if *budget == 0 && !self.hits.is_empty() {
                return false;
            }
        }
        if !self.fired.is_empty() {
            self.due.push_back(Due::Events(rev, std::mem::take(&mut self.fired)));
        }
        while let Some(node) = self.pruned.pop() {
            self.trie.prune(node);
        }
        true
    }

    /// Moves up to `most` fired waiters to the end of `out`, in the order in which they fired.
    pub(super) fn take_woken(&mut self, most: usize, out: &mut Vec<Woken>) {
        let until = out.len().saturating_add(most);
        while out.len() < until {
            match self.due.front_mut() {
                None => return,
                Some(Due::Revisions(rev)) => match self.awaiting.first_entry().filter(|first| first.key().0 <= *rev) {
                    Some(entry) => {
                        let (key, slot) = entry.remove_entry();
                        let token = self.remove(slot);
                        out.push(Woken::Revision { token, rev: key.0 });
                    }
                    None => drop(self.due.pop_front()),
                },
                Some(Due::Events(rev, fired)) => {
                    let rev = *rev;
                    match fired.pop() {
                        None => drop(self.due.pop_front()),
                        Some((order, list)) => {
                            if let Some(token) = self.take_first(order, list) {
                                out.push(Woken::Event { token, rev });
                            }
                        }
                    }
                }
            }
        }
    }

    /// Takes the first waiter off a fired list, and queues the list again under the next one. `None` if the waiter with this order
    /// was cancelled meanwhile.
    fn take_first(&mut self, order: u64, list: u32) -> Option<u64> {
        let Some((first, last)) = self.lists[list].ends else {
            self.free_list(list);
            return None;
        };
        let waiter = &self.slab[first];
        let next = match waiter.place {
            _ if waiter.order != order => Some(first),
            Place::Listed { .. } if faults::is_armed(Fault::FirstWaiterWoken) => None,
            Place::Listed { after, .. } => after,
            Place::Free { .. } | Place::Parked { .. } => None,
        };
        let token = (waiter.order == order).then(|| self.remove(first));
        match next {
            Some(next) => {
                if let Place::Listed { before, .. } = &mut self.slab[next].place {
                    *before = None;
                }
                self.lists[list].ends = Some((next, last));
                let order = self.slab[next].order;
                if let Some(Due::Events(_, fired)) = self.due.front_mut() {
                    fired.push((order, list));
                }
            }
            None => self.free_list(list),
        }
        token
    }

    /// Drops another small part of the patterns that are gone.
    pub(super) fn drop_more(&mut self) {
        self.trie.drop_more();
    }

    /// Returns whether there is more to drop.
    pub(super) fn has_dropped(&self) -> bool {
        self.trie.has_dropped()
    }

    /// Returns whether a fired waiter was not taken yet.
    pub(super) fn has_woken(&self) -> bool {
        !self.due.is_empty()
    }

    /// Returns the earliest revision that a fired waiter, not taken yet, needs.
    pub(super) fn due_from(&self) -> Option<i64> {
        let event = match self.due.front()? {
            Due::Events(rev, _) | Due::Revisions(rev) => *rev,
        };
        let awaited = self.awaiting.first_key_value().map_or(event, |((rev, _), _)| *rev);
        Some(event.min(awaited))
    }

    /// Lists the parked waiters for events from `rev` or before. Returns false if the budget is used up first.
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
            *budget = budget.saturating_sub(ENTRY + tokens.len() / TOKENS);
            self.list(slot, &tokens);
        }
        true
    }

    /// Fires the waiters for revisions up to `rev`.
    fn fire_awaiting(&mut self, rev: i64) {
        let rev = rev - i64::from(faults::is_armed(Fault::RevisionWokenLate));
        if self.awaiting.first_key_value().is_some_and(|((first, _), _)| *first <= rev) {
            match self.due.back_mut() {
                Some(Due::Revisions(last)) => *last = rev.max(*last),
                _ => self.due.push_back(Due::Revisions(rev)),
            }
        }
    }

    /// Fires the waiters of a node by the current event.
    fn fire(&mut self, node: TrieId) {
        if let Some(list) = self.trie.list(node).take() {
            self.fire_list(list);
        }
        // Pruning does not remove hits that are still to fire, since they have waiters. Only a hit whose last waiter was cancelled
        // meanwhile can go, which does no harm: nothing is inserted before all hits have fired.
        self.trie.prune(node);
    }

    fn fire_list(&mut self, list: u32) {
        self.lists[list].owner = Owner::Fired;
        if let Some((first, _)) = self.lists[list].ends {
            self.fired.push((self.slab[first].order, list));
        }
    }

    /// Fires all waiters for events before `first`: the events from `rev` to there are lost.
    fn fire_all(&mut self, rev: i64, first: i64) {
        for list in 0..u32::try_from(self.lists.len()).unwrap_or(u32::MAX) {
            if matches!(self.lists[list].owner, Owner::Node(_)) {
                self.fire_list(list);
            }
        }
        // All that were listed are gone.
        self.trie.clear();
        let mut parked: Vec<(u64, u32)> = Vec::new();
        while let Some(entry) = self.parked.first_entry()
            && entry.key().0 < first
        {
            let ((_, order), slot) = entry.remove_entry();
            parked.push((order, slot));
        }
        parked.sort_unstable();
        if !parked.is_empty() {
            let list = self.new_list(Owner::Fired);
            for (_, slot) in parked {
                self.append(list, slot);
            }
            self.fire_list(list);
        }
        if !self.fired.is_empty() {
            self.due.push_back(Due::Events(rev, std::mem::take(&mut self.fired)));
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
        self.order += 1;
        self.slab[slot].order = self.order;
        let node = self.trie.insert(tokens);
        let list = match *self.trie.list(node) {
            Some(list) => list,
            None => {
                let list = self.new_list(Owner::Node(node));
                *self.trie.list(node) = Some(list);
                list
            }
        };
        self.append(list, slot);
    }

    fn append(&mut self, list: u32, slot: u32) {
        let ends = &mut self.lists[list].ends;
        let before = ends.map(|(_, last)| last);
        *ends = Some((ends.map_or(slot, |(first, _)| first), slot));
        self.slab[slot].place = Place::Listed { list, before, after: None };
        if let Some(before) = before
            && let Place::Listed { after, .. } = &mut self.slab[before].place
        {
            *after = Some(slot);
        }
    }

    /// Takes a waiter out of its list, from between these two.
    fn unlist(&mut self, list: u32, before: Option<u32>, after: Option<u32>) {
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
        let List { ends, owner } = &mut self.lists[list];
        *ends = match (before, after, *ends) {
            (None, Some(next), Some((_, last))) => Some((next, last)),
            (Some(previous), None, Some((first, _))) => Some((first, previous)),
            (Some(_), Some(_), ends) => ends,
            _ => None,
        };
        // A fired list is freed when its turn comes, because it is queued.
        if let (None, Owner::Node(node)) = (*ends, *owner) {
            *self.trie.list(node) = None;
            self.free_list(list);
            if self.pending.as_ref().is_some_and(|pending| !matches!(pending.stage, Stage::Unpark)) {
                self.pruned.push(node);
            } else {
                self.trie.prune(node);
            }
        }
    }

    fn new_list(&mut self, owner: Owner) -> u32 {
        let list = List { ends: None, owner };
        let Some(free) = self.free_list else { return self.lists.push(list) };
        if let Owner::Nobody(next) = self.lists[free].owner {
            self.free_list = next;
        }
        self.lists[free] = list;
        free
    }

    fn free_list(&mut self, list: u32) {
        self.lists[list] = List { ends: None, owner: Owner::Nobody(self.free_list) };
        self.free_list = Some(list);
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

    /// Sets how many places a match visits at once, and how many a small set holds.
    #[cfg(test)]
    pub(super) fn set_at_once(&mut self, places: usize) {
        self.at_once = places;
        self.trie.set_few(places);
    }

    /// Places that are sorted, or looked through, in one step; and matches that were found and have not fired yet.
    #[cfg(test)]
    pub(super) fn at_a_time(&self) -> (usize, usize) {
        (self.trie.at_a_time(), self.hits.len())
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
