//! The store: a tree of files. Every mutation makes a revision, every retained revision is readable, and clients can wait for every
//! change.
//!
//! The store is a state machine: its contents follow from the applied mutations, in their order, and from nothing else. Two stores
//! that applied the same mutations have the same files at the same revisions. Only the lengths of their histories may differ,
//! because pins can delay trimming.
//!
//! Read in this order: `path` and [`glob`] (names), `versions`, `queue`, `chunks`, `arena`, `children`, `hints` (data structures), `tree`
//! (mutations, history, trimming), `pins`, `walk`, `cursor`, `scan` (listings in bounded slices), `trie` and `waiters` (whom to
//! wake), `load` (from a snapshot).
//!
//! # Invariants
//! * A refused mutation changes nothing. An applied one makes exactly one revision and one event.
//! * The revisions [`Store::first_revision`] `..=` [`Store::revision`] are readable: the last `hist`, including the current one;
//!   fewer if values overwritten or deleted since would exceed [`HISTORY_BYTES`](crate::limits::HISTORY_BYTES), or directories emptied
//!   since [`HISTORY_DIRS`](crate::limits::HISTORY_DIRS). A new store has just revision 0, the empty tree. Revision 0 is readable
//!   until revision 1 exists.
//! * Applying costs as much as the path and the woken waiters; the size of the tree, of the history, and the number of other
//!   waiters do not matter. Beyond a bound, the search for waiters to wake is put off: [`Store::match_more`].
//! * Deliberately absent: any clock, randomness, I/O, recursion over paths, and any iteration in the order of a hash.

mod arena;
mod children;
mod chunks;
mod cursor;
pub mod glob;
mod hints;
mod load;
pub mod path;
mod pins;
mod queue;
mod scan;
#[cfg(test)]
mod tests;
mod tree;
mod trie;
mod versions;
mod waiters;
mod walk;

pub use glob::{BadGlob, Glob};
pub use load::{LoadError, Loader};
pub use path::Path;
pub use pins::PinId;
#[cfg(feature = "server")]
pub(crate) use queue::Queue;
pub use scan::{Getdir, GetdirState, Wait, WaitState, Walk, WalkState};
pub use waiters::WaiterId;

use cursor::Cursors;
use tree::Tree;
use waiters::Waiters;
use walk::{Step, Walker};

use crate::faults::{self, Fault};

/// A change to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation<'a> {
    /// Writes a file.
    Set {
        /// The file.
        path: &'a [u8],
        /// The greatest revision that the file may have now; -1 for any.
        rev: i64,
        /// What it is to hold.
        value: &'a [u8],
    },
    /// Deletes a file.
    Del {
        /// The file.
        path: &'a [u8],
        /// The greatest revision that the file may have now; -1 for any.
        rev: i64,
    },
    /// Makes a revision and changes nothing.
    Nop,
}

/// Why a mutation was not applied. The first in this order that holds, but that a directory's -2 is compared before `IsDir`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The path is not one.
    BadPath,
    /// Some parent of the path is a file (SET only).
    NotDir,
    /// The path has a greater revision than was given: its file's, 0 if it is missing, -2 if it is a directory.
    RevMismatch,
    /// The path is a directory; the root is one.
    IsDir,
}

/// What an event did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A file was written.
    Set,
    /// A file was deleted, which may have been missing.
    Del,
    /// Nothing; the path is `/`.
    Nop,
}

/// One revision of the history. Its path is in the buffer that was passed to [`Store::event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The revision that it made.
    pub rev: i64,
    /// What it did.
    pub kind: Kind,
    /// What was written; empty unless `kind` is [`Kind::Set`].
    pub value: &'a [u8],
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// Nothing.
    Missing,
    /// A file.
    File {
        /// The revision that wrote it.
        rev: i64,
        /// Its bytes.
        value: &'a [u8],
    },
    /// A directory.
    Dir {
        /// The number of its entries; 0 only for the root.
        entries: u32,
    },
}

/// A waiter that has fired, and is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The event of revision `rev` matches what [`Store::wait`] was asked for; or it may have done so, if it has left the history
    /// before it was matched: [`Store::event`] gives `None` then, and the waiter is too late.
    Event {
        /// What the caller calls the waiter.
        token: u64,
        /// The event's revision.
        rev: i64,
    },
    /// The revision that [`Store::await_revision`] was asked for exists.
    Revision {
        /// What the caller calls the waiter.
        token: u64,
        /// The revision that was awaited.
        rev: i64,
    },
}

/// The versioned tree, its history, and the requests that wait for changes.
#[derive(Debug)]
pub struct Store {
    tree: Tree,
    waiters: Waiters,
    cursors: Cursors,
    /// Nodes of an earlier tree, dropped one chunk at a time.
    dropped: Vec<Vec<arena::Node>>,
}

impl Store {
    /// An empty store at revision 0 that keeps the last `hist` revisions readable (at least one, the current).
    pub fn new(hist: u64) -> Store {
        Store::with(Tree::new(hist))
    }

    /// The same with another bound than [`HISTORY_BYTES`](crate::limits::HISTORY_BYTES).
    #[cfg(test)]
    pub(crate) fn bounded(hist: u64, bytes: u64) -> Store {
        Store::with(Tree::new(hist).with_past_max(bytes))
    }

    fn with(tree: Tree) -> Store {
        Store { tree, waiters: Waiters::new(), cursors: Cursors::default(), dropped: Vec::new() }
    }

    /// Takes over a later state of the same history. Waiters stay, and the events in between wake them. If the later state's
    /// history lacks those events, every waiter for an event is woken by one that can no longer be read.
    ///
    /// # Panics
    /// If `later` is older than this state.
    pub fn succeed(&mut self, later: Store) {
        assert!(later.revision() >= self.revision(), "a later state");
        let from = self.revision() + 1;
        let before = std::mem::replace(&mut self.tree, later.tree);
        self.dropped.append(&mut before.arena.into_chunks());
        self.cursors = Cursors::default();
        let first = self.first_revision();
        if faults::is_armed(Fault::WaitersMissSnapshot) {
            return;
        }
        if from < first {
            self.waiters.lost(from, first);
        }
        let mut path = Vec::new();
        for rev in from.max(first)..=self.revision() {
            let found = self.tree.event(rev, &mut path).is_some();
            debug_assert!(found, "events from the first on are in the history");
            self.waiters.applied(rev, &path);
        }
    }

    /// Drops another small part of what is gone: of the state that [`Store::succeed`] replaced, and of the patterns of waiters.
    pub fn drop_more(&mut self) {
        self.dropped.pop();
        self.waiters.drop_more();
    }

    /// Returns whether there is more to drop.
    pub fn has_dropped(&self) -> bool {
        !self.dropped.is_empty() || self.waiters.has_dropped()
    }

    /// Applies a mutation and returns the revision that it made. The waiters that it wakes are queued for [`Store::take_woken`],
    /// and the history keeps their events until then. The store copies the value, to its exact size; the caller checks its length.
    ///
    /// # Errors
    /// [`Refused`]; the store is unchanged then.
    pub fn apply(&mut self, mutation: Mutation<'_>) -> Result<i64, Refused> {
        let path = match mutation {
            Mutation::Set { path, .. } | Mutation::Del { path, .. } => path,
            Mutation::Nop => b"/",
        };
        let rev = self.tree.apply(mutation, self.waiters.due_from())?;
        self.waiters.applied(rev, path);
        Ok(rev)
    }

    /// The number of mutations applied in the store's life: the revision of the latest.
    pub fn revision(&self) -> i64 {
        self.tree.revision()
    }

    /// The oldest readable revision: 0 of a store at revision 0 (or pinned there), else at least 1.
    pub fn first_revision(&self) -> i64 {
        self.tree.first()
    }

    /// What was at `path` at `rev`, which has to be readable. A bad path, and one that leads through a file, is `Missing`.
    pub fn lookup(&self, path: &[u8], rev: i64) -> Lookup<'_> {
        self.tree.lookup(path, rev)
    }

    /// The event of `rev`; its path is put in the place of `path`'s content. `None` if `rev` is not readable, or 0.
    pub fn event(&self, rev: i64, path: &mut Vec<u8>) -> Option<Event<'_>> {
        self.tree.event(rev, path)
    }

    /// Whether events are still to be matched against the waiters, for it would have taken too long to do so as they were
    /// applied. Those who wait for revisions are not held up by that.
    pub fn has_pending_matches(&self) -> bool {
        self.waiters.has_pending()
    }

    /// Goes on matching, until nothing is pending or the budget is used up: one for each byte of a path and place in the index of
    /// patterns that it reaches; what was used is taken off. To be called, with a budget above 0, before
    /// [`Store::take_woken`] as long as [`Store::has_pending_matches`].
    pub fn match_more(&mut self, budget: &mut usize) {
        let tree = &self.tree;
        self.waiters.match_more(tree.first().max(1), budget, |rev, path| tree.event(rev, path).is_some());
    }

    /// Limits the work of matching the events that are applied from now on, until the next call: this many places for all of them
    /// together. What exceeds it is left for [`Store::match_more`].
    pub fn limit_matches(&mut self, places: usize) {
        self.waiters.limit(places);
    }

    /// Moves up to `most` woken waiters to the end of `out`, in the order in which they fired.
    pub fn take_woken(&mut self, most: usize, out: &mut Vec<Woken>) {
        self.waiters.take_woken(most, out);
    }

    /// Returns whether a waiter has fired and was not taken yet.
    pub fn has_woken(&self) -> bool {
        self.waiters.has_woken()
    }

    /// Removes a waiter, even if it has fired and was not taken yet. Returns false if there is no such waiter.
    pub fn cancel(&mut self, id: WaiterId) -> bool {
        self.waiters.cancel(id)
    }

    /// Waits for revision `rev` to exist. If it does already, the waiter fires at once.
    pub fn await_revision(&mut self, rev: i64, token: u64) -> WaiterId {
        self.waiters.await_revision(rev, self.revision(), token)
    }

    /// Returns how many waiters there are, for events or revisions, including those that have fired and were not taken yet.
    pub fn waiters(&self) -> usize {
        self.waiters.len()
    }

    /// Holds trimming: from now on [`Store::first_revision`], which is given, stays as it is. There may be any number of pins;
    /// the lowest one counts.
    pub fn pin(&mut self) -> (PinId, i64) {
        self.tree.pin()
    }

    /// Moves a pin to `rev`: trimming may go on up to there, as far as no other pin holds it. A pin does not go back, nor
    /// beyond the current revision; one that is gone stays so.
    pub fn pin_to(&mut self, id: PinId, rev: i64) {
        self.tree.pin_to(id, rev);
    }

    /// Lets go of a pin. After the last one trimming goes on: a few revisions with each mutation, until `hist` are left, and
    /// few enough bytes.
    pub fn unpin(&mut self, id: PinId) {
        self.tree.unpin(id);
    }

    /// Gives the files of `rev` to `each`, in walk order, until it returns false or `budget` entries were looked at; what was used
    /// is taken off. Begins after the path `after`, if there is one. `rev` has to be readable: pin it.
    ///
    /// Gives the path after which to go on, or `None` when all were given.
    pub fn files_at(
        &self,
        rev: i64,
        after: Option<&[u8]>,
        budget: &mut isize,
        mut each: impl FnMut(&[u8], i64, &[u8]) -> bool,
    ) -> Option<Vec<u8>> {
        let mut walker = Walker::new(&self.tree, None, rev, after, budget);
        loop {
            match walker.next(budget) {
                Step::Done => return None,
                Step::Paused => return Some(walker.into_path()),
                Step::File(id) => {
                    let Some((written, value)) = self.tree.arena[id].file_at(rev) else { continue };
                    if !each(walker.path(), written, value) {
                        return Some(walker.into_path());
                    }
                }
            }
        }
    }
}
