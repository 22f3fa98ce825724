//! The versioned tree and its history: mutations in, revisions and events out, any retained revision readable.
//!
//! Retained are the revisions `first ..= current`. The history is a ring with one small entry for each of them, which names
//! the node that was written; what was written is that node's version of this very revision, and its path is found by
//! climbing. So an event holds no copy of anything.
//!
//! A deleted file's node stays as long as an event names it. Deleting a missing file makes such a node too, dead from
//! the start, so that every event but a NOP has a node with a version of its revision.
//!
//! # What exists
//! A file exists at r if its version in force at r has bytes, a directory if its count of living children at r is above 0.
//! A file never has a child that lives at the same revision: SET refuses to make one, in either order.
//!
//! # Trimming
//! When `first` moves from e to e + 1, the event e goes: a deletion's version goes with it, for nothing before it is left to
//! be hidden, and nodes that hold nothing more are freed, up the tree. Then what is older than e + 1 goes where the event e + 1 wrote:
//! in its node, and in the counts of the directories above that it changed. Hence everything that is kept for
//! the past belongs to one retained event. Each mutation moves `first` by [`TRIM`] at most, so that a long past, kept for
//! a while by a pin, is caught up with little by little.
//!
//! The past is bounded in bytes too: an event that writes over a value, or deletes it, keeps it readable until `first` comes to
//! that event. While all such values are more than the bound, `first` moves on, and by one more for each [`TRIM_BYTES`] that
//! the mutation has added: however small the oldest values are, the bound is exceeded by less than that for each revision that
//! was retained when it was reached.
//!
//! The directories that a deletion leaves without a file stay with its event, like those that the deletion of a missing file makes.
//! They are counted and bounded in the same way.

use super::arena::{Arena, Dir, Node, NodeId, ROOT};
use super::hints::Hints;
use super::path::{Components, Path};
use super::pins::{PinId, Pins};
use super::queue::Queue;
use super::{Event, Kind, Lookup, Mutation, Refused};
use crate::faults::{self, Fault};
use crate::limits::{DIR_BYTES, HISTORY_BYTES, HISTORY_DIRS};
use std::ops::Bound;

/// Most steps of `first` in one mutation, of those that are due to the number of revisions.
const TRIM: usize = 3;
/// One more step for so many bytes that the mutation added to the past, if it is too large.
const TRIM_BYTES: usize = 256;

#[derive(Debug)]
pub(super) struct Tree {
    pub(super) arena: Arena,
    /// The events of revisions `max(first, 1) ..= current`.
    ring: Queue<Entry>,
    hints: Hints,
    current: i64,
    first: i64,
    /// How many revisions stay readable.
    keep: i64,
    /// Bytes of the values that only the past holds, and how many they may be.
    past: u64,
    past_max: u64,
    /// Bytes of the directories that deletions have left to the past, and how many they may be.
    dirs: u64,
    dirs_max: u64,
    pins: Pins,
}

/// One revision of the history.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The root for a NOP.
    pub(super) node: NodeId,
    pub(super) kind: Kind,
    /// Whether a file began or ceased to exist.
    pub(super) structural: bool,
    /// How many directories a deletion has left to the past.
    pub(super) dirs: u16,
}

// 360,000 of them by default.
const _: () = assert!(size_of::<Entry>() == 8);

/// The size of a version of a file.
fn bytes(value: &Option<Box<[u8]>>) -> u64 {
    value.as_ref().map_or(0, |value| value.len() as u64)
}

/// How far a path leads into the tree.
struct Located<'a> {
    /// The deepest node on the path.
    node: NodeId,
    /// The components for which there is no node.
    missing: Components<'a>,
    /// Whether some parent is a file now.
    through_file: bool,
}

impl Tree {
    pub(super) fn new(hist: u64) -> Tree {
        let keep = i64::try_from(hist.max(1)).unwrap_or(i64::MAX);
        Tree {
            arena: Arena::new(),
            ring: Queue::default(),
            hints: Hints::new(),
            current: 0,
            first: 0,
            keep,
            past: 0,
            past_max: HISTORY_BYTES,
            dirs: 0,
            dirs_max: HISTORY_DIRS,
            pins: Pins::default(),
        }
    }

    pub(super) fn revision(&self) -> i64 {
        self.current
    }

    pub(super) fn first(&self) -> i64 {
        self.first
    }

    /// Applies a mutation. Revisions from `held` on stay readable, and so do those that pins keep.
    pub(super) fn apply(&mut self, mutation: Mutation<'_>, held: Option<i64>) -> Result<i64, Refused> {
        let rev = self.current + 1;
        let before = self.past + self.dirs;
        let entry = match mutation {
            Mutation::Set { path, rev: expected, value } => self.set(rev, path, expected, value)?,
            Mutation::Del { path, rev: expected } => self.del(rev, path, expected)?,
            Mutation::Nop => Entry { node: ROOT, kind: Kind::Nop, structural: false, dirs: 0 },
        };
        self.current = rev;
        self.ring.push_back(entry);
        self.trim(self.past + self.dirs - before, held.unwrap_or(i64::MAX));
        Ok(rev)
    }

    fn set(&mut self, rev: i64, path: &[u8], expected: i64, value: &[u8]) -> Result<Entry, Refused> {
        let path = Path::parse(path).ok_or(Refused::BadPath)?;
        let at = self.locate(path);
        if at.through_file && !faults::is_armed(Fault::FileBelowFile) {
            return Err(Refused::NotDir);
        }
        self.compare(&at, expected)?;
        let (node, _) = self.create(at);
        self.hints.set(path, node);
        let file = &mut self.arena[node].file;
        let structural = file.latest().is_none();
        self.past += bytes(file.latest());
        file.set(rev, Some(value.into()));
        if structural {
            self.count(node, rev, true);
        }
        Ok(Entry { node, kind: Kind::Set, structural, dirs: 0 })
    }

    fn del(&mut self, rev: i64, path: &[u8], expected: i64) -> Result<Entry, Refused> {
        let path = Path::parse(path).ok_or(Refused::BadPath)?;
        let at = self.locate(path);
        match self.compare(&at, expected) {
            Err(Refused::IsDir) if faults::is_armed(Fault::DirectoryDeleted) => {}
            compared => compared?,
        }
        let (node, made) = self.create(at);
        self.hints.set(path, node);
        let file = &mut self.arena[node].file;
        let structural = file.latest().is_some();
        self.past += bytes(file.latest());
        file.set(rev, None);
        let dirs = if structural { self.count(node, rev, false) } else { made.saturating_sub(1) };
        self.dirs += u64::from(dirs) * DIR_BYTES;
        Ok(Entry { node, kind: Kind::Del, structural, dirs })
    }

    /// The checks that SET and DEL share, against what the path is now.
    fn compare(&self, at: &Located<'_>, expected: i64) -> Result<(), Refused> {
        let node = &self.arena[at.node];
        let missing = at.missing.clone().next().is_some();
        let is_dir = !missing && (at.node == ROOT || node.dir.as_ref().is_some_and(|dir| *dir.count.latest() > 0));
        let current = match node.file.latest() {
            _ if is_dir => -2,
            Some(_) if !missing => node.file.rev(),
            None if !missing && faults::is_armed(Fault::TombstoneCompared) => node.file.rev(),
            _ => 0,
        };
        if expected != -1 && expected < current {
            return Err(Refused::RevMismatch);
        }
        if is_dir { Err(Refused::IsDir) } else { Ok(()) }
    }

    fn locate<'a>(&self, path: Path<'a>) -> Located<'a> {
        if let Some(node) = self.hints.get(&self.arena, path) {
            let through_file = self.below_file(node);
            return Located { node, missing: Components::default(), through_file };
        }
        let mut components = path.components();
        let mut at = ROOT;
        let mut through_file = false;
        loop {
            let missing = components.clone();
            let Some(name) = components.next() else {
                return Located { node: at, missing, through_file };
            };
            let node = &self.arena[at];
            through_file |= node.file.latest().is_some();
            match node.dir.as_ref().and_then(|dir| dir.children.get(&self.arena, name)) {
                Some(child) => at = child,
                None => return Located { node: at, missing, through_file },
            }
        }
    }

    fn below_file(&self, node: NodeId) -> bool {
        let mut at = node;
        while at != ROOT {
            at = self.arena[at].parent;
            if self.arena[at].file.latest().is_some() {
                return true;
            }
        }
        false
    }

    /// The node of the located path, made if it is missing, with its parents; and how many nodes were made.
    fn create(&mut self, at: Located<'_>) -> (NodeId, u16) {
        let (mut parent, mut made) = (at.node, 0);
        for name in at.missing {
            parent = self.add_child(parent, name);
            made += 1;
        }
        (parent, made)
    }

    pub(super) fn add_child(&mut self, parent: NodeId, name: &str) -> NodeId {
        let child = self.arena.add(parent, name);
        let mut dir = self.arena[parent].dir.take().unwrap_or_default();
        dir.children.insert(&self.arena, child);
        self.arena[parent].dir = Some(dir);
        child
    }

    /// Counts a file that began (or ceased) to exist in its directory, and up as far as directories do so with it. Returns how many
    /// directories do.
    fn count(&mut self, node: NodeId, rev: i64, begins: bool) -> u16 {
        let (mut at, mut dirs) = (node, 0);
        while at != ROOT {
            at = self.arena[at].parent;
            let dir = self.dir_mut(at);
            let before = *dir.count.latest();
            let after = if begins { before + 1 } else { before - 1 };
            dir.count.set(rev, after);
            if before.min(after) > 0 || (!begins && faults::is_armed(Fault::EmptyDirectoryCounted)) {
                break;
            }
            dirs += u16::from(at != ROOT);
        }
        dirs
    }

    pub(super) fn dir_mut(&mut self, node: NodeId) -> &mut Dir {
        self.arena[node].dir.as_deref_mut().expect("a node with a child has a directory")
    }

    // The history.

    /// The event of `rev`, if it is retained.
    pub(super) fn entry(&self, rev: i64) -> Option<Entry> {
        let at = rev.checked_sub(self.first.max(1))?;
        self.ring.get(usize::try_from(at).ok()?).copied()
    }

    pub(super) fn event(&self, rev: i64, path: &mut Vec<u8>) -> Option<Event<'_>> {
        let entry = self.entry(rev)?;
        self.arena.path(entry.node, path);
        let value = match entry.kind {
            Kind::Set => self.arena[entry.node].file_at(rev).map_or(&[][..], |(_, value)| value),
            Kind::Del | Kind::Nop => &[],
        };
        Some(Event { rev, kind: entry.kind, value })
    }

    pub(super) fn pin(&mut self) -> (PinId, i64) {
        (self.pins.add(self.first), self.first)
    }

    pub(super) fn pin_to(&mut self, id: PinId, rev: i64) {
        self.pins.advance(id, rev, self.current);
    }

    pub(super) fn unpin(&mut self, id: PinId) {
        self.pins.remove(id);
    }

    /// Moves `first` on, after a mutation that added so many bytes to the past.
    fn trim(&mut self, added: u64, held: i64) {
        let limit = self.pins.lowest().unwrap_or(i64::MAX).min(self.current).min(held);
        let more = usize::try_from(added).unwrap_or(usize::MAX) / TRIM_BYTES;
        for step in 0..TRIM.saturating_add(more) {
            // Revision 0, the empty tree, is no event and takes no room.
            let long = self.first == 0 || self.current - self.first + 1 > self.keep;
            let over = step < TRIM && long || self.past > self.past_max || self.dirs > self.dirs_max;
            if !over || self.first >= limit {
                break;
            }
            self.advance_first();
        }
    }

    /// How many bytes the past may hold.
    #[cfg(test)]
    pub(super) fn with_past_max(mut self, bytes: u64) -> Tree {
        self.past_max = bytes;
        self
    }

    /// How many bytes of directories the past may hold.
    #[cfg(test)]
    pub(super) fn set_dirs_max(&mut self, bytes: u64) {
        self.dirs_max = bytes;
    }

    /// Bytes of the directories that deletions have left to the past.
    #[cfg(test)]
    pub(super) fn dirs(&self) -> u64 {
        self.dirs
    }

    /// What the past holds, counted: the versions before each file's latest.
    #[cfg(test)]
    pub(super) fn past(&self) -> u64 {
        self.past
    }

    fn advance_first(&mut self) {
        let gone = self.first;
        if gone > 0
            && let Some(entry) = self.ring.pop_front()
            && entry.kind == Kind::Del
        {
            self.arena[entry.node].file.drop_oldest(gone);
            self.collect(entry.node);
        }
        self.first = gone + 1;
        let Some(entry) = self.entry(self.first) else { return };
        if entry.kind == Kind::Nop {
            return;
        }
        self.dirs -= u64::from(entry.dirs) * DIR_BYTES;
        let past = &mut self.past;
        self.arena[entry.node].file.prune(self.first, |value| *past -= bytes(value));
        if !entry.structural {
            return;
        }
        let mut at = entry.node;
        while at != ROOT {
            at = self.arena[at].parent;
            let first = self.first;
            let count = &mut self.dir_mut(at).count;
            // A directory whose count this event did not change ends the row of those that it did.
            if !matches!(count.at(first), Some((rev, _)) if rev == first) {
                break;
            }
            count.prune(first, |_| {});
        }
    }

    /// Frees `node` if it holds nothing, and then its parents likewise.
    fn collect(&mut self, node: NodeId) {
        let mut at = node;
        while at != ROOT {
            let node = &mut self.arena[at];
            if !node.file.is_empty() || node.dir.is_some() {
                return;
            }
            let parent = node.parent;
            let Some(mut dir) = self.arena[parent].dir.take() else { return };
            dir.children.remove(&self.arena, at);
            self.arena.free(at);
            if !dir.children.is_empty() || parent == ROOT {
                self.arena[parent].dir = Some(dir);
            }
            at = parent;
        }
    }

    // Reading.

    /// The node of `path`, dead or alive.
    pub(super) fn find(&self, path: Path<'_>) -> Option<NodeId> {
        if let Some(node) = self.hints.get(&self.arena, path) {
            return Some(node);
        }
        let mut at = ROOT;
        for name in path.components() {
            at = self.arena[at].dir.as_ref()?.children.get(&self.arena, name)?;
        }
        Some(at)
    }

    /// The child of `node` with this name, dead or alive.
    pub(super) fn child(&self, node: NodeId, name: &str) -> Option<NodeId> {
        self.arena[node].dir.as_ref()?.children.get(&self.arena, name)
    }

    /// The children of `node` from `lower` on, dead or alive.
    pub(super) fn children(&self, node: NodeId, lower: Bound<&str>) -> Option<super::children::ChildIter<'_>> {
        Some(self.arena[node].dir.as_ref()?.children.from(&self.arena, lower))
    }

    pub(super) fn lookup(&self, path: &[u8], rev: i64) -> Lookup<'_> {
        let Some(id) = Path::parse(path).and_then(|path| self.find(path)) else {
            return Lookup::Missing;
        };
        self.look_at(id, rev)
    }

    pub(super) fn look_at(&self, id: NodeId, rev: i64) -> Lookup<'_> {
        let node: &Node = &self.arena[id];
        if let Some((rev, value)) = node.file_at(rev) {
            return Lookup::File { rev, value };
        }
        match node.entries_at(rev) {
            0 if id != ROOT => Lookup::Missing,
            entries => Lookup::Dir { entries },
        }
    }

    // Loading: see `load`.

    /// Makes a tree without a past one that begins at `first`, with this event.
    pub(super) fn begin_at(&mut self, first: i64, event: Option<Entry>) {
        assert!(self.current == 0 && self.ring.is_empty());
        (self.first, self.current) = (first, first);
        event.into_iter().for_each(|event| self.ring.push_back(event));
    }

    /// The node of `path` and whether a file lies above it; the node is made if it is missing.
    pub(super) fn place(&mut self, path: Path<'_>) -> (NodeId, bool) {
        let at = self.locate(path);
        let through_file = at.through_file;
        (self.create(at).0, through_file)
    }
}
