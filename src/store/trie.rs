//! An index of patterns: finds those that match a path without looking at the others.
//!
//! A radix tree over the patterns' tokens (literal bytes, `?`, `*`, `**`). A path is led through it as through one automaton
//! of all patterns: a set of places (node, offset into its label), each of which a byte of the path moves on, keeps, or
//! removes. Patterns that do not fit the path's beginning have no place in the set, however many there are; patterns that begin
//! alike share their places. The set is kept without duplicates, so that no row of stars makes it grow beyond the index.
//!
//! A match may be cut into slices: [`Trie::begin`], then [`Trie::go_on`] until it is done. The set of places is kept between
//! them, so nothing may be inserted or pruned meanwhile (`waiters` sees to it); taking waiters off a node is allowed.
//!
//! Invariants: a node other than the root has a label, and at least two children or a waiter; labels of siblings differ in
//! their first token.

use super::chunks::Chunks;
use super::glob::{ONE, STAR, STARS};
use crate::faults::{self, Fault};
use compact_str::CompactString;
use std::collections::BTreeSet;

/// A node's place; used again once the node is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TrieId(u32);

pub(super) const ROOT: TrieId = TrieId(0);

#[derive(Debug)]
struct Node {
    label: CompactString,
    /// First token of the child's label, and the child; in order.
    kids: Vec<(u8, TrieId)>,
    /// Of a free node: the next free one.
    parent: TrieId,
    /// The list of waiters for the pattern that ends here.
    list: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Trie {
    nodes: Chunks<Node>,
    free: Option<TrieId>,
    /// Nodes in use, the root among them.
    live: usize,
    /// Nodes of patterns that are gone, dropped one chunk at a time.
    dropped: Vec<Vec<Node>>,
    /// The places reached, those among them that the next byte has been led through, and where it led to.
    now: Places,
    led: usize,
    next: Places,
    /// See [`FEW`].
    few: usize,
    /// Places that the latest path has been at.
    #[cfg(test)]
    pub(super) steps: usize,
}

/// A set of more places than this is a tree: to grow it, to sort it, and to look through it, no step takes longer than for a small
/// one.
const FEW: usize = 4 << 10;
/// To lead a place of such a set on costs as much as so many of a small one.
const MANY_COST: usize = 4;

/// So many tokens of a node's label are matched.
type Place = (TrieId, u32);

/// A set of places.
#[derive(Debug, Default)]
struct Places {
    /// A small set: in order, and each once, but for the set that is being filled. Empty if there are more.
    few: Vec<Place>,
    many: BTreeSet<Place>,
}

impl Places {
    fn is_empty(&self) -> bool {
        self.few.is_empty() && self.many.is_empty()
    }

    fn clear(&mut self) {
        self.few.clear();
        self.many.clear();
    }

    /// Adds a place to the set that is being filled.
    fn add(&mut self, place: Place, few: usize) {
        if !self.many.is_empty() {
            self.many.insert(place);
            return;
        }
        self.few.push(place);
        if self.few.len() > few {
            self.many.extend(self.few.drain(..));
        }
    }
}

impl Trie {
    pub(super) fn new() -> Trie {
        let root = Node { label: CompactString::const_new(""), kids: Vec::new(), parent: ROOT, list: None };
        let mut nodes = Chunks::new();
        nodes.push(root);
        Trie {
            nodes,
            free: None,
            live: 1,
            dropped: Vec::new(),
            now: Places::default(),
            led: 0,
            next: Places::default(),
            few: FEW,
            #[cfg(test)]
            steps: 0,
        }
    }

    /// Whether there is no pattern.
    pub(super) fn is_empty(&self) -> bool {
        self.node(ROOT).kids.is_empty()
    }

    /// Returns the list of waiters for the pattern that ends at `id`.
    pub(super) fn list(&mut self, id: TrieId) -> &mut Option<u32> {
        &mut self.node_mut(id).list
    }

    /// The node of this pattern, made if it is missing. It has to be given a waiter, or pruned.
    pub(super) fn insert(&mut self, tokens: &str) -> TrieId {
        let mut at = ROOT;
        let mut rest = tokens;
        while let Some(&first) = rest.as_bytes().first() {
            let kid = match self.kid(at, first) {
                Some(kid) => kid,
                None => return self.add(at, rest),
            };
            let label = &self.node(kid).label;
            let common = label.bytes().zip(rest.bytes()).take_while(|(a, b)| a == b).count();
            rest = &rest[common..];
            at = if common == label.len() { kid } else { self.split(kid, common) };
        }
        at
    }

    /// Removes `id` if it has neither waiters nor children, and what is left without purpose by that. It may be gone already.
    pub(super) fn prune(&mut self, id: TrieId) {
        // Only the root and free nodes have no label.
        if self.nodes.get(id.0).is_none_or(|node| node.label.is_empty()) {
            return;
        }
        let mut at = id;
        while at != ROOT && self.node(at).list.is_none() {
            let parent = self.node(at).parent;
            match *self.node(at).kids {
                [] => {
                    let first = self.first(at);
                    self.node_mut(parent).kids.retain(|(token, _)| *token != first);
                    self.release(at);
                    at = parent;
                }
                [(_, kid)] => {
                    let first = self.first(at);
                    let mut label = std::mem::take(&mut self.node_mut(at).label);
                    label.push_str(&self.node(kid).label);
                    label.shrink_to_fit();
                    let node = self.node_mut(kid);
                    (node.label, node.parent) = (label, parent);
                    for entry in &mut self.node_mut(parent).kids {
                        if entry.0 == first {
                            entry.1 = kid;
                        }
                    }
                    self.release(at);
                    return;
                }
                _ => return,
            }
        }
    }

    /// Begins a match: at the start of a path.
    pub(super) fn begin(&mut self) {
        #[cfg(test)]
        {
            self.steps = 0;
        }
        let mut now = std::mem::take(&mut self.now);
        now.clear();
        self.reach((ROOT, 0), &mut now);
        self.now = now;
        self.next.clear();
        self.led = 0;
    }

    /// Leads what is left of the path through the index. When that is done, adds the nodes of all patterns that match the path
    /// to `out`, each once, and gives `None`; when the budget, a number of places, is used up before, gives how many
    /// bytes are done with.
    pub(super) fn go_on(&mut self, rest: &[u8], budget: &mut usize, out: &mut Vec<TrieId>) -> Option<usize> {
        let mut now = std::mem::take(&mut self.now);
        let mut next = std::mem::take(&mut self.next);
        let mut at = 0;
        while let Some(&byte) = rest.get(at)
            && !now.is_empty()
        {
            let until = now.few.len().min(self.led.saturating_add(*budget));
            for &place in &now.few[self.led..until] {
                self.step(place, byte, &mut next);
            }
            *budget -= until - self.led;
            #[cfg(test)]
            {
                self.steps += until - self.led;
            }
            self.led = until;
            while *budget > 0
                && let Some(place) = now.many.pop_first()
            {
                self.step(place, byte, &mut next);
                *budget = budget.saturating_sub(MANY_COST);
                #[cfg(test)]
                {
                    self.steps += 1;
                }
            }
            if until < now.few.len() || !now.many.is_empty() {
                (self.now, self.next) = (now, next);
                return Some(at);
            }
            at += 1;
            self.led = 0;
            if next.few.len() > 1 {
                *budget = budget.saturating_sub(next.few.len());
                next.few.sort_unstable();
                next.few.dedup();
            }
            now.clear();
            std::mem::swap(&mut now, &mut next);
            // The usual case: one place, amid literal text.
            if let [(id, offset)] = *now.few {
                let label = &self.node(id).label.as_bytes()[offset as usize..];
                let common = label.iter().zip(&rest[at..]).take_while(|(a, b)| a == b).count();
                if common > 0 {
                    at += common;
                    now.clear();
                    self.reach((id, offset + length(common)), &mut now);
                }
            }
        }
        let ended = |(id, offset): &Place| {
            let node = self.node(*id);
            node.list.is_some() && *offset as usize == node.label.len()
        };
        out.extend(now.few.iter().filter(|place| ended(place)).map(|(id, _)| *id));
        while *budget > 0
            && let Some(place) = now.many.pop_first()
        {
            out.extend(Some(place.0).filter(|_| ended(&place)));
            *budget = budget.saturating_sub(MANY_COST);
        }
        let is_done = now.many.is_empty();
        (self.now, self.next) = (now, next);
        if is_done { None } else { Some(at) }
    }

    /// Adds `place` to the set, and the places that are reached from it without a byte.
    fn reach(&self, place: Place, set: &mut Places) {
        set.add(place, self.few);
        let (id, offset) = place;
        let node = self.node(id);
        match node.label.as_bytes().get(offset as usize) {
            Some(&STARS) if faults::is_armed(Fault::StarsMatchSomething) => {}
            // A star may match nothing.
            Some(&(STAR | STARS)) => self.reach((id, offset + 1), set),
            Some(_) => {}
            None => {
                for &(token, kid) in &node.kids {
                    if token == STAR || token == STARS {
                        self.reach((kid, 0), set);
                    }
                }
            }
        }
    }

    fn step(&self, (id, offset): Place, byte: u8, next: &mut Places) {
        let node = self.node(id);
        match node.label.as_bytes().get(offset as usize) {
            Some(&STARS) => {
                self.reach((id, offset), next);
                if faults::is_armed(Fault::StarsMatchSomething) {
                    self.reach((id, offset + 1), next);
                }
            }
            Some(&STAR) if byte != b'/' => self.reach((id, offset), next),
            Some(&ONE) if byte != b'/' => self.reach((id, offset + 1), next),
            Some(&token) if token == byte => self.reach((id, offset + 1), next),
            Some(_) => {}
            None => {
                if let Some(kid) = self.kid(id, byte) {
                    self.reach((kid, 1), next);
                }
                if byte != b'/'
                    && let Some(kid) = self.kid(id, ONE)
                {
                    self.reach((kid, 1), next);
                }
            }
        }
    }

    fn node(&self, id: TrieId) -> &Node {
        &self.nodes[id.0]
    }

    fn node_mut(&mut self, id: TrieId) -> &mut Node {
        &mut self.nodes[id.0]
    }

    fn first(&self, id: TrieId) -> u8 {
        self.node(id).label.as_bytes()[0]
    }

    fn kid(&self, id: TrieId, first: u8) -> Option<TrieId> {
        let kids = &self.node(id).kids;
        kids.binary_search_by_key(&first, |(token, _)| *token).ok().map(|at| kids[at].1)
    }

    fn add(&mut self, parent: TrieId, label: &str) -> TrieId {
        let id = self.alloc(Node { label: label.into(), kids: Vec::new(), parent, list: None });
        let first = self.first(id);
        let kids = &mut self.node_mut(parent).kids;
        let at = kids.partition_point(|(token, _)| *token < first);
        kids.insert(at, (first, id));
        id
    }

    /// Puts a node above `id` that takes the first `at` tokens of its label.
    fn split(&mut self, id: TrieId, at: usize) -> TrieId {
        let label = std::mem::take(&mut self.node_mut(id).label);
        let (upper, lower) = label.split_at(at);
        let parent = self.node(id).parent;
        let kids = vec![(lower.as_bytes()[0], id)];
        let above = self.alloc(Node { label: upper.into(), kids, parent, list: None });
        let node = self.node_mut(id);
        (node.label, node.parent) = (lower.into(), above);
        for entry in &mut self.node_mut(parent).kids {
            if entry.1 == id {
                entry.1 = above;
            }
        }
        above
    }

    fn alloc(&mut self, node: Node) -> TrieId {
        self.live += 1;
        if let Some(id) = self.free {
            let next = self.node(id).parent;
            // The end of the list is a node whose next is itself.
            self.free = (next != id).then_some(next);
            *self.node_mut(id) = node;
            return id;
        }
        TrieId(self.nodes.push(node))
    }

    fn release(&mut self, id: TrieId) {
        let next = self.free.unwrap_or(id);
        *self.node_mut(id) = Node { label: CompactString::const_new(""), kids: Vec::new(), parent: next, list: None };
        self.free = Some(id);
        self.live -= 1;
        if self.live == 1 {
            // Only the root is left.
            self.free = None;
            self.dropped.append(&mut self.nodes.keep_first());
        }
    }

    /// Removes all patterns, even those with waiters.
    pub(super) fn clear(&mut self) {
        let before = std::mem::replace(self, Trie { few: self.few, ..Trie::new() });
        self.dropped = before.dropped;
        self.dropped.append(&mut before.nodes.into_chunks());
    }

    /// Drops another small part of the patterns that are gone.
    pub(super) fn drop_more(&mut self) {
        self.dropped.pop();
    }

    /// Returns whether there is more to drop.
    pub(super) fn has_dropped(&self) -> bool {
        !self.dropped.is_empty()
    }

    /// Returns how many places are sorted, or looked through, in one step.
    #[cfg(test)]
    pub(super) fn at_a_time(&self) -> usize {
        self.now.few.len().max(self.next.few.len())
    }

    /// Sets how many places a small set has at most.
    #[cfg(test)]
    pub(super) fn set_few(&mut self, few: usize) {
        self.few = few;
    }

    /// Nodes in use, the root among them.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.live
    }
}

fn length(n: usize) -> u32 {
    u32::try_from(n).expect("labels are shorter than paths can be")
}
