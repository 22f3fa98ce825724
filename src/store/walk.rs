//! The files of one revision in walk order: depth first, the entries of each directory in byte order.
//!
//! A walk borrows the tree and therefore lasts no longer than one slice of work. Between slices it is a path: the last
//! one it looked at. That stays a position whatever happens to the tree meanwhile, and a walk is taken up again from
//! it by going down its components once. The stack is a vector, so that no depth can overflow it.
//!
//! Going down costs as much as the path has components, in each slice. It is charged like everything else, and a slice then goes on
//! for at least as long, so that a walk below the deepest path costs at most twice as much as one that is never interrupted.
//!
//! With a glob, the automaton's states are kept for each level, and a subtree is left out when none is left. The entries
//! that are looked at at all are those that begin as the glob's literal text does.

use super::arena::{NodeId, ROOT};
use super::children::ChildIter;
use super::glob::{Glob, WORD_STEPS};
use super::path::Path;
use super::tree::Tree;
use std::ops::Bound;

pub(super) struct Walker<'a> {
    tree: &'a Tree,
    glob: Option<&'a Glob>,
    rev: i64,
    frames: Vec<Frame<'a>>,
    path: Vec<u8>,
    /// A set of states for each frame: those after its directory's path. And room for one more.
    states: Vec<u64>,
    words: usize,
    /// The slice ends when this much of the budget is left.
    until: isize,
}

struct Frame<'a> {
    children: ChildIter<'a>,
    /// Length of the directory's path; 0 for the root.
    base: usize,
    /// What its entries' names begin with, and whether that is all of the name.
    head: (&'a str, bool),
}

pub(super) enum Step {
    File(NodeId),
    Done,
    /// The budget is used up.
    Paused,
}

/// Takes `cost` off a budget. The budget falls below zero if the work has cost more than was left of it.
pub(super) fn charge(budget: &mut isize, cost: usize) {
    *budget = budget.saturating_sub_unsigned(cost);
}

/// Returns what composing the path of a node costs, in entries that could be looked at instead: one for each node on the way up.
pub(super) fn climbed(path: &[u8]) -> usize {
    path.iter().filter(|byte| **byte == b'/').count() + path.len() / COPIED
}

/// Copying so many bytes of a path costs what looking at one entry does.
const COPIED: usize = 1024;

/// Returns what is left of a budget when a slice ends that had `before` to begin with: nothing, unless preparing the slice has
/// used up most of it. Then the slice does as much work as the preparation has cost, or looks at one entry: however small the
/// budget is, each slice makes progress.
pub(super) fn end_of_slice(before: isize, budget: isize) -> isize {
    let preparation = before.saturating_sub(budget).max(1);
    budget.saturating_sub(preparation).min(0)
}

impl<'a> Walker<'a> {
    /// A walk of `rev`, of what comes after the path `after` (which need not exist), if one is given.
    pub(super) fn new(
        tree: &'a Tree,
        glob: Option<&'a Glob>,
        rev: i64,
        after: Option<&[u8]>,
        budget: &mut isize,
    ) -> Walker<'a> {
        let before = *budget;
        let words = glob.map_or(0, Glob::words);
        let mut states = vec![0; words];
        if let Some(glob) = glob {
            glob.start(&mut states);
        }
        let mut walker = Walker { tree, glob, rev, frames: Vec::new(), path: Vec::new(), states, words, until: 0 };
        match after.and_then(Path::parse) {
            Some(after) => walker.resume(after, budget),
            None => walker.enter(ROOT, None),
        }
        walker.until = end_of_slice(before, *budget);
        walker
    }

    /// The path that was looked at last: of the file found, or where to go on after a pause. Empty at the start.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    pub(super) fn into_path(self) -> Vec<u8> {
        self.path
    }

    fn resume(&mut self, after: Path<'_>, budget: &mut isize) {
        let mut id = ROOT;
        for name in after.components() {
            charge(budget, 1 + self.words * name.len() / WORD_STEPS);
            let (head, exact) = self.head();
            self.enter(id, Some(name));
            self.path.push(b'/');
            self.path.extend_from_slice(name.as_bytes());
            let fits = if exact { name == head } else { name.starts_with(head) };
            let child = self.tree.child(id, name).filter(|child| self.tree.arena[*child].entries_at(self.rev) > 0);
            match child {
                Some(child) if fits && self.advance(name) => id = child,
                _ => {
                    // There is nothing below it; but it is the position still.
                    self.path.clear();
                    self.path.extend_from_slice(after.as_bytes());
                    return;
                }
            }
        }
        self.enter(id, None);
    }

    fn head(&self) -> (&'a str, bool) {
        self.glob.map_or(("", false), |glob| glob.head(self.frames.len()))
    }

    /// Begins with the entries of `id`, whose path is in `path`; after the one named, if one is.
    fn enter(&mut self, id: NodeId, after: Option<&str>) {
        let head = self.head();
        let lower = match after {
            Some(name) if name >= head.0 => Bound::Excluded(name),
            _ if head.0.is_empty() => Bound::Unbounded,
            _ => Bound::Included(head.0),
        };
        if let Some(children) = self.tree.children(id, lower) {
            self.frames.push(Frame { children, base: self.path.len(), head });
            self.states.resize((self.frames.len() + 1) * self.words, 0);
        }
    }

    /// Puts the states after the entry `name` of the last frame behind those of the frames. False if none is left.
    fn advance(&mut self, name: &str) -> bool {
        let Some(glob) = self.glob else { return true };
        let here = self.states.len() - self.words;
        self.states.copy_within(here - self.words..here, here);
        let states = &mut self.states[here..];
        glob.advance(states, b"/") && glob.advance(states, name.as_bytes())
    }

    pub(super) fn next(&mut self, budget: &mut isize) -> Step {
        loop {
            let Some(frame) = self.frames.last_mut() else { return Step::Done };
            if *budget <= self.until {
                return Step::Paused;
            }
            let child = frame.children.next().filter(|child| {
                let name = self.tree.arena[*child].name.as_str();
                if frame.head.1 { name == frame.head.0 } else { name.starts_with(frame.head.0) }
            });
            let Some(id) = child else {
                self.frames.pop();
                self.states.truncate((self.frames.len() + 1) * self.words);
                continue;
            };
            let node = &self.tree.arena[id];
            // Long patterns cost more at each byte.
            charge(budget, 1 + self.words * node.name.len() / WORD_STEPS);
            self.path.truncate(frame.base);
            self.path.push(b'/');
            self.path.extend_from_slice(node.name.as_bytes());
            let is_file = node.file_at(self.rev).is_some();
            if !is_file && node.entries_at(self.rev) == 0 || !self.advance(&node.name) {
                continue;
            }
            if !is_file {
                self.enter(id, None);
            } else if self.glob.is_none_or(|glob| glob.accepts(&self.states[self.states.len() - self.words..])) {
                return Step::File(id);
            }
        }
    }
}
