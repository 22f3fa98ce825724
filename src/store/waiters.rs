//! Who waits for an event or for a revision.
//!
//! A waiter is one entry of a slab. One for events stands in the doubly linked list of its pattern's node in the
//! [`Trie`], so that it can be cancelled without a search; one that waits from a revision that is still to come is parked under
//! this revision until then and costs nothing before; one for a revision itself is parked likewise.
//!
//! Each waiter fires once. Those that one event wakes do so in the order in which they came, and before those that wait for its
//! revision, so what is woken is the same on every run.

use super::Woken;
use super::chunks::Chunks;
use super::trie::{Trie, TrieId};
use std::collections::BTreeMap;

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
    /// By revision, then order of arrival.
    parked: BTreeMap<(i64, u64), u32>,
    woken: Vec<Woken>,
    hits: Vec<TrieId>,
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
            woken: Vec::new(),
            hits: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Waits for an event that `tokens` match, from the next one on.
    pub(super) fn listen(&mut self, tokens: &str, token: u64) -> WaiterId {
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
            self.wake_parked(current);
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
                self.trie.prune(node);
            }
            Place::Parked { rev, .. } => {
                let key = (rev, waiter.order);
                self.parked.remove(&key);
            }
        }
        self.remove(id.slot);
        true
    }

    /// Wakes whom the event of revision `rev`, on `path`, concerns.
    pub(super) fn applied(&mut self, rev: i64, path: &[u8]) {
        let reached = self.parked.first_key_value().is_some_and(|((at, _), _)| *at <= rev);
        if reached {
            self.unpark(rev);
        }
        if !self.trie.is_empty() {
            self.fire(rev, path);
        }
        if reached {
            self.wake_parked(rev);
        }
    }

    pub(super) fn take_woken(&mut self, out: &mut Vec<Woken>) {
        out.append(&mut self.woken);
    }

    /// Lists the parked whose revision is `rev` and who wait for events.
    fn unpark(&mut self, rev: i64) {
        let due: Vec<(i64, u64)> = self.parked.range(..=(rev, u64::MAX)).map(|(key, _)| *key).collect();
        for key in due {
            let Some(&slot) = self.parked.get(&key) else { continue };
            if let Place::Parked { tokens, .. } = &mut self.slab[slot].place
                && let Some(tokens) = tokens.take()
            {
                self.parked.remove(&key);
                self.list(slot, &tokens);
            }
        }
    }

    fn wake_parked(&mut self, rev: i64) {
        while let Some(entry) = self.parked.first_entry()
            && entry.key().0 <= rev
        {
            let (key, slot) = entry.remove_entry();
            let token = self.remove(slot);
            self.woken.push(Woken::Revision { token, rev: key.0 });
        }
    }

    fn fire(&mut self, rev: i64, path: &[u8]) {
        let mut hits = std::mem::take(&mut self.hits);
        self.trie.matches(path, &mut hits);
        if !hits.is_empty() {
            let mut fired: Vec<(u64, u32)> = Vec::new();
            for &node in &hits {
                let mut at = self.trie.ends(node).take().map(|(first, _)| first);
                while let Some(slot) = at {
                    let waiter = &self.slab[slot];
                    fired.push((waiter.order, slot));
                    at = match waiter.place {
                        Place::Listed { after, .. } => after,
                        Place::Free { .. } | Place::Parked { .. } => None,
                    };
                }
                // Hits that are still to be dealt with have waiters, and so are not removed along with this one.
                self.trie.prune(node);
            }
            fired.sort_unstable();
            for (_, slot) in fired {
                let token = self.remove(slot);
                self.woken.push(Woken::Event { token, rev });
            }
            hits.clear();
        }
        self.hits = hits;
    }

    fn park(&mut self, rev: i64, tokens: Option<Box<str>>, token: u64) -> WaiterId {
        let id = self.add(token);
        let waiter = &mut self.slab[id.slot];
        waiter.place = Place::Parked { rev, tokens };
        self.parked.insert((rev, waiter.order), id.slot);
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
