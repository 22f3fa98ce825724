//! Work that may take long, cut into slices: WALK, GETDIR, and WAIT's look into the history.
//!
//! Each takes a budget, the number of entries that it may look at, and takes off what it used: more for an entry whose path is
//! long when the pattern is, since that is what looking at it costs. A slice that needs much preparation (a deep path to go down
//! again, a cursor to correct) takes off more than there was: the budget is below zero then, and the caller takes the difference
//! from the next. When the budget is used up the answer is `More` with a state that owns all it needs; in between anything may be
//! applied, also trimmed. A listing whose revision has left the history meanwhile ends with `TooLate`.

use super::cursor::{Listing, Start, is_mark};
use super::glob::Glob;
use super::path::Path;
use super::tree::Tree;
use super::waiters::WaiterId;
use super::walk::{Step, Walker, charge, climbed, end_of_slice};
use super::{Kind, Lookup, Store};
use crate::faults::{self, Fault};
use std::ops::Bound;

/// The outcome of [`Store::walk`].
#[derive(Debug)]
pub enum Walk<'a> {
    /// The file, whose path was written to the caller's buffer.
    Found {
        /// Its revision.
        rev: i64,
        /// Its bytes.
        value: &'a [u8],
    },
    /// No match has this number.
    Range,
    /// The revision is no longer in the history.
    TooLate,
    /// The budget is used up: go on with [`Store::resume_walk`].
    More(WalkState),
}

/// A walk that is to be continued.
#[derive(Clone, Debug)]
pub struct WalkState {
    pattern: Box<[u8]>,
    rev: i64,
    target: u64,
    /// Matches up to `after`.
    count: u64,
    after: Box<[u8]>,
}

// Thousands of them may be put aside, and patterns are paid for by their length: so they hold the text and nothing made of it.
const _: () = assert!(size_of::<WalkState>() <= 64 && size_of::<GetdirState>() <= 64 && size_of::<WaitState>() <= 64);

/// The outcome of [`Store::getdir`].
#[derive(Debug)]
pub enum Getdir {
    /// The entry, whose name was written to the caller's buffer.
    Found,
    /// There is nothing at this path.
    NoEnt,
    /// There is a file at this path.
    NotDir,
    /// No entry has this number.
    Range,
    /// The revision is no longer in the history.
    TooLate,
    /// The budget is used up: go on with [`Store::resume_getdir`].
    More(GetdirState),
}

/// A search in a directory that is to be continued.
#[derive(Clone, Debug)]
pub struct GetdirState {
    path: Box<[u8]>,
    rev: i64,
    target: u64,
    /// Entries up to `after`.
    count: u64,
    after: Box<str>,
}

/// The outcome of [`Store::wait`].
#[derive(Debug)]
pub enum Wait {
    /// The first event that matches is that of revision `rev`: see [`Store::event`].
    Event {
        /// The event's revision.
        rev: i64,
    },
    /// Events that were asked for are no longer in the history.
    TooLate,
    /// There is none yet. The waiter will be among those of [`Store::take_woken`], or can be cancelled.
    Waiting(WaiterId),
    /// The budget is used up: go on with [`Store::resume_wait`].
    More(WaitState),
}

/// A search in the history that is to be continued.
#[derive(Clone, Debug)]
pub struct WaitState {
    pattern: Box<[u8]>,
    /// The next revision to look at.
    next: i64,
    token: u64,
}

impl Store {
    /// Finds the file that is number `offset` (from 0) of those that `glob` matches at `rev`, in walk order, and writes its
    /// path in the place of `path`'s content. A negative `offset` is `Range`, whatever `rev` is.
    ///
    /// `rev` must not be above [`Store::revision`]. `budget` is the number of entries to look at; what was used is taken off.
    pub fn walk(&mut self, glob: &Glob, rev: i64, offset: i32, budget: &mut isize, path: &mut Vec<u8>) -> Walk<'_> {
        let Ok(target) = u64::try_from(offset) else { return Walk::Range };
        if rev < self.first_revision() {
            return Walk::TooLate;
        }
        let rev = if faults::is_armed(Fault::WalkOfPastIsOfPresent) { self.revision() } else { rev };
        if let Some(exact) = glob.exact() {
            charge(budget, 1);
            return match self.tree.lookup(exact.as_bytes(), rev) {
                Lookup::File { rev, value } if offset == 0 => {
                    path.clear();
                    path.extend_from_slice(exact.as_bytes());
                    Walk::Found { rev, value }
                }
                _ => Walk::Range,
            };
        }
        let listing = Listing::Walk(glob);
        let start = self.cursors.find(&self.tree, listing, rev, target, budget);
        if let Some(start) = &start
            && start.count == target + 1
            && let Some(id) = Path::parse(&start.position).and_then(|path| self.tree.find(path))
            && self.tree.arena[id].file_at(rev).is_some()
        {
            charge(budget, 1);
            path.clear();
            path.extend_from_slice(&start.position);
            let count = start.count;
            self.cursors.found(listing, rev, count, path, Some(start.clone()));
            return match self.tree.look_at(id, rev) {
                Lookup::File { rev, value } => Walk::Found { rev, value },
                _ => Walk::Range,
            };
        }
        self.walk_on(glob, rev, target, start, budget, path)
    }

    /// Continues a walk.
    pub fn resume_walk(&mut self, state: WalkState, budget: &mut isize, path: &mut Vec<u8>) -> Walk<'_> {
        if state.rev < self.first_revision() {
            return Walk::TooLate;
        }
        let WalkState { pattern, rev, target, count, after } = state;
        let glob = recompile(&pattern, budget);
        let count = count + u64::from(faults::is_armed(Fault::SliceCountsTwice));
        self.walk_on(&glob, rev, target, Some(Start::new(count, after.into_vec())), budget, path)
    }

    fn walk_on(
        &mut self,
        glob: &Glob,
        rev: i64,
        target: u64,
        start: Option<Start>,
        budget: &mut isize,
        path: &mut Vec<u8>,
    ) -> Walk<'_> {
        let mut count = start.as_ref().map_or(0, |start| start.count);
        let after = start.as_ref().map(|start| start.position.as_slice()).filter(|after| !after.is_empty());
        let mut walker = Walker::new(&self.tree, Some(glob), rev, after, budget);
        let found = loop {
            match walker.next(budget) {
                Step::File(id) if count == target => break id,
                Step::File(_) => {
                    count += 1;
                    if is_mark(target - count) {
                        self.cursors.mark(Listing::Walk(glob), rev, count, walker.path());
                    }
                }
                Step::Done => return Walk::Range,
                Step::Paused => {
                    let after = walker.into_path().into_boxed_slice();
                    return Walk::More(WalkState { pattern: glob.as_bytes().into(), rev, target, count, after });
                }
            }
        };
        path.clear();
        path.extend_from_slice(walker.path());
        self.cursors.found(Listing::Walk(glob), rev, target + 1, path, start);
        match self.tree.look_at(found, rev) {
            Lookup::File { rev, value } => Walk::Found { rev, value },
            Lookup::Dir { .. } | Lookup::Missing => Walk::Range,
        }
    }

    /// Finds the entry that is number `offset` (from 0) of the directory `path` at `rev`, in byte order, and writes its name
    /// in the place of `name`'s content. Anything that is not a path is `NoEnt`.
    ///
    /// `rev` must not be above [`Store::revision`]. `budget` is the number of entries to look at; what was used is taken off.
    pub fn getdir(&mut self, path: &[u8], rev: i64, offset: i32, budget: &mut isize, name: &mut Vec<u8>) -> Getdir {
        if rev < self.first_revision() {
            return Getdir::TooLate;
        }
        let Some(path) = Path::parse(path) else { return Getdir::NoEnt };
        let Some(dir) = self.tree.find(path) else { return Getdir::NoEnt };
        let target = match (self.tree.look_at(dir, rev), u64::try_from(offset)) {
            (Lookup::Missing, _) => return Getdir::NoEnt,
            (Lookup::File { .. }, _) => return Getdir::NotDir,
            (Lookup::Dir { entries }, Ok(target)) if target < u64::from(entries) => target,
            (Lookup::Dir { .. }, _) => return Getdir::Range,
        };
        let start = self.cursors.find(&self.tree, Listing::Getdir(path), rev, target, budget);
        if let Some(start) = &start
            && start.count == target + 1
        {
            charge(budget, 1);
            name.clear();
            name.extend_from_slice(&start.position);
            let count = start.count;
            self.cursors.found(Listing::Getdir(path), rev, count, name, Some(start.clone()));
            return Getdir::Found;
        }
        self.getdir_on(path, rev, target, start, budget, name)
    }

    /// Continues a search in a directory.
    pub fn resume_getdir(&mut self, state: GetdirState, budget: &mut isize, name: &mut Vec<u8>) -> Getdir {
        if state.rev < self.first_revision() {
            return Getdir::TooLate;
        }
        let Some(path) = Path::parse(&state.path) else { return Getdir::NoEnt };
        let start = Start::new(state.count, state.after.into_string().into_bytes());
        self.getdir_on(path, state.rev, state.target, Some(start), budget, name)
    }

    fn getdir_on(
        &mut self,
        path: Path<'_>,
        rev: i64,
        target: u64,
        start: Option<Start>,
        budget: &mut isize,
        name: &mut Vec<u8>,
    ) -> Getdir {
        let mut count = start.as_ref().map_or(0, |start| start.count);
        let after = start.as_ref().and_then(|start| std::str::from_utf8(&start.position).ok()).unwrap_or("");
        let before = *budget;
        charge(budget, path.components().count());
        let until = end_of_slice(before, *budget);
        let Some(dir) = self.tree.find(path) else { return Getdir::NoEnt };
        // No name is empty: nothing lies at or before "".
        let Some(children) = self.tree.children(dir, Bound::Excluded(after)) else { return Getdir::Range };
        let mut last = None;
        for id in children {
            if *budget <= until {
                let after = last.map_or(after, |id| self.tree.arena[id].name.as_str()).into();
                return Getdir::More(GetdirState { path: path.as_bytes().into(), rev, target, count, after });
            }
            charge(budget, 1);
            last = Some(id);
            let node = &self.tree.arena[id];
            if !node.alive_at(rev) && !faults::is_armed(Fault::DeletedListed) {
                continue;
            }
            if count == target {
                name.clear();
                name.extend_from_slice(node.name.as_bytes());
                self.cursors.found(Listing::Getdir(path), rev, target + 1, name, start);
                return Getdir::Found;
            }
            count += 1;
            if is_mark(target - count) {
                self.cursors.mark(Listing::Getdir(path), rev, count, node.name.as_bytes());
            }
        }
        Getdir::Range
    }

    /// Finds the first event at or after revision `from` (below 1 counts as 1) whose path `glob` matches; if there is none yet,
    /// registers a waiter, which fires once and is known to the caller as `token`. `from` may be any revision to come.
    ///
    /// `budget` is the number of events to look at; what was used is taken off.
    pub fn wait(&mut self, glob: &Glob, from: i64, token: u64, budget: &mut isize) -> Wait {
        let from = from.max(1);
        if from < self.first_revision() {
            return Wait::TooLate;
        }
        let skips = faults::is_armed(Fault::FirstPastEventSkipped) && from < self.revision();
        match search(&self.tree, glob, from + i64::from(skips), budget) {
            Search::Event(rev) => Wait::Event { rev },
            Search::None => Wait::Waiting(self.listen(glob, from, token)),
            Search::More(next) => Wait::More(WaitState { pattern: glob.as_bytes().into(), next, token }),
        }
    }

    /// Continues a search in the history.
    pub fn resume_wait(&mut self, mut state: WaitState, budget: &mut isize) -> Wait {
        if state.next < self.first_revision() {
            return Wait::TooLate;
        }
        let glob = recompile(&state.pattern, budget);
        match search(&self.tree, &glob, state.next, budget) {
            Search::Event(rev) => Wait::Event { rev },
            Search::None => Wait::Waiting(self.listen(&glob, state.next, state.token)),
            Search::More(next) => {
                state.next = next;
                Wait::More(state)
            }
        }
    }

    fn listen(&mut self, glob: &Glob, from: i64, token: u64) -> WaiterId {
        let next = self.revision() + 1;
        if faults::is_armed(Fault::WaiterRegisteredLate) {
            return self.waiters.listen_from(from.max(next) + 1, glob.tokens(), token);
        }
        // While events are to be matched none of which concerns it, it does not enter the index.
        if from > next || self.waiters.has_pending() {
            self.waiters.listen_from(from.max(next), glob.tokens(), token)
        } else {
            self.waiters.listen(glob.tokens(), token)
        }
    }
}

/// The glob of a search that is taken up again.
fn recompile(pattern: &[u8], budget: &mut isize) -> Glob {
    charge(budget, pattern.len() / COMPILED);
    Glob::new(pattern).expect("the text of a glob")
}

enum Search {
    Event(i64),
    /// Not up to the current revision.
    None,
    /// The budget was used up before this revision.
    More(i64),
}

/// So many bytes of a pattern are compiled for what it costs to look at one entry.
const COMPILED: usize = 64;

/// How many verdicts a search remembers: a history often names the same few nodes again and again.
const VERDICTS: usize = 64;

fn search(tree: &Tree, glob: &Glob, from: i64, budget: &mut isize) -> Search {
    if let Some(exact) = glob.exact()
        && !exact.is_root()
    {
        charge(budget, 1);
        let found = tree.find(exact).and_then(|id| tree.arena[id].file.first_from(from));
        return found.map_or(Search::None, Search::Event);
    }
    let nops = glob.matches(b"/");
    let mut path = Vec::new();
    let mut verdicts = [None; VERDICTS];
    let until = end_of_slice(*budget, *budget);
    for rev in from..=tree.revision() {
        if *budget <= until {
            return Search::More(rev);
        }
        charge(budget, 1);
        let Some(entry) = tree.entry(rev) else { continue };
        let matches = if entry.kind == Kind::Nop {
            nops
        } else {
            let verdict = &mut verdicts[entry.node.mix() % VERDICTS];
            match *verdict {
                Some((node, matches)) if node == entry.node => matches,
                _ => {
                    tree.arena.path(entry.node, &mut path);
                    charge(budget, climbed(&path) + glob.cost(&path));
                    let matches = glob.matches(&path);
                    *verdict = Some((entry.node, matches));
                    matches
                }
            }
        };
        if matches {
            return Search::Event(rev);
        }
    }
    Search::None
}
