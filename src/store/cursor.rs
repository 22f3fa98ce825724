//! Remembers positions in listings, so that n calls with the offsets 0, 1, 2, … cost as much as one listing.
//!
//! A client lists by asking for one entry after the other, by number, each time with the whole pattern, perhaps at the latest
//! revision, perhaps on another connection. The cache remembers where the last answers were found: at this revision, this pattern
//! has `count` matches up to and including `position`, which is the last of them. An answer moves the cursor with which it was
//! found, so each of many concurrent walks has one. Every [`KEEP`]th position is left behind for clients that go back a little.
//!
//! Listing backwards needs more. A search that passes many matches leaves marks before the entry that it looks for: at half the
//! way, at half of the rest, and so on down to [`NEAR`]. The search for the entry before that one starts from the last mark before
//! it, and leaves marks in turn. So n calls backwards pass n * log n / 2 matches, with log n marks at a time. Marks have a table of
//! their own, so they do not replace other clients' cursors.
//!
//! At another revision the count is corrected by the events in between, if they are retained and not too many: +1 for each match
//! that began to exist at or before the position, -1 for each that ceased to.
//!
//! The cache is small and searched from end to end. Its contents affect only the time that an answer takes.

use super::glob::Glob;
use super::path::{Path, walk_order};
use super::tree::Tree;
use super::walk::{charge, climbed};
use crate::faults::{self, Fault};
use std::cmp::Ordering;

/// Listings that can go on at the same time.
const CURSORS: usize = 128;
/// The cursor whose count is a multiple of this is not moved but left behind.
const KEEP: u64 = 128;
/// The most marks that are kept, and the least distance of a mark from the entry that is looked for.
const MARKS: usize = 256;
const NEAR: u64 = 8;
/// Most events that counts are corrected by in one call, and most work on those of them that changed what exists: 1 for
/// each, and what matching its path costs beside. All of it is taken off the call's budget, which may end below zero: going
/// without the cursor would cost still more.
const REPLAY: i64 = 65_536;
const REPLAY_WORK: usize = 4096;
/// Composing or finding this many bytes of a path costs as much as looking at one entry.
const PATH: usize = 64;
/// A correction composes the paths of some of the events. This many bytes of them count as one unit of [`REPLAY_WORK`]: few enough
/// for a correction of a few hundred events with the longest paths.
const CORRECTED: usize = 1024;
/// So many events are passed over for what it costs to look at one entry.
const PASSED: i64 = 32;
/// Most cursors whose count is corrected for one call.
const TRIES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Walk,
    Getdir,
}

#[derive(Debug)]
struct Cursor {
    hash: u64,
    kind: Kind,
    rev: i64,
    count: u64,
    used: u64,
    pattern: Box<[u8]>,
    position: Vec<u8>,
}

/// From where to search.
#[derive(Clone, Debug)]
pub(super) struct Start {
    /// Matches up to `position`.
    pub(super) count: u64,
    /// The path, for a walk, or the name, for a directory.
    pub(super) position: Vec<u8>,
    /// The cursor to move once there is an answer.
    slot: Option<usize>,
}

impl Start {
    /// A place that no cursor led to.
    pub(super) fn new(count: u64, position: Vec<u8>) -> Start {
        Start { count, position, slot: None }
    }
}

#[derive(Debug, Default)]
pub(super) struct Cursors {
    cursors: Vec<Cursor>,
    marks: Vec<Cursor>,
    clock: u64,
    scratch: Vec<u8>,
}

/// What is listed.
#[derive(Clone, Copy)]
pub(super) enum Listing<'a> {
    Walk(&'a Glob),
    Getdir(Path<'a>),
}

impl<'a> Listing<'a> {
    fn key(self) -> (Kind, &'a [u8]) {
        match self {
            Listing::Walk(glob) => (Kind::Walk, glob.as_bytes()),
            Listing::Getdir(path) => (Kind::Getdir, path.as_bytes()),
        }
    }
}

/// Returns whether a search leaves a mark when this many matches are left to its entry.
pub(super) fn is_mark(left: u64) -> bool {
    left >= NEAR && left.is_power_of_two()
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Cursors {
    /// The nearest known position from which entry number `target` (from 0) at `rev` can be reached going forward; or
    /// the position of that entry itself, if `count` is `target + 1`.
    pub(super) fn find(
        &mut self,
        tree: &Tree,
        listing: Listing<'_>,
        rev: i64,
        target: u64,
        budget: &mut isize,
    ) -> Option<Start> {
        let mut left = Replay { events: REPLAY, work: REPLAY_WORK, composed: 0 };
        let start = self.nearest(tree, listing, rev, target, &mut left);
        let passed = usize::try_from((REPLAY - left.events) / PASSED).unwrap_or(0);
        let position = start.as_ref().map_or(0, |start| start.position.len() / PATH);
        charge(budget, REPLAY_WORK - left.work + left.composed + passed + position);
        start
    }

    fn nearest(
        &mut self,
        tree: &Tree,
        listing: Listing<'_>,
        rev: i64,
        target: u64,
        left: &mut Replay,
    ) -> Option<Start> {
        let (kind, pattern) = listing.key();
        let hash = hash(pattern);
        self.clock += 1;
        let fits = |(_, cursor): &(Slot, &Cursor)| {
            cursor.hash == hash && cursor.kind == kind && cursor.count <= target + 1 && *cursor.pattern == *pattern
        };
        let all = || {
            let cursors = self.cursors.iter().enumerate().map(|(slot, cursor)| (Slot::Cursor(slot), cursor));
            cursors.chain(self.marks.iter().enumerate().map(|(slot, cursor)| (Slot::Mark(slot), cursor)))
        };
        let any = faults::is_armed(Fault::CursorOfAnyRevision);
        if let Some((slot, _)) = all().filter(|(_, c)| c.rev == rev || any).filter(fits).max_by_key(|(_, c)| c.count) {
            return Some(self.start(slot));
        }
        let mut candidates: Vec<(u64, i64, Slot)> =
            all().filter(fits).map(|(slot, c)| (c.count, c.rev, slot)).collect();
        candidates.sort_unstable_by(|a, b| b.cmp(a));
        for (_, _, slot) in candidates.into_iter().take(TRIES) {
            let cursor = match slot {
                Slot::Cursor(slot) => &self.cursors[slot],
                Slot::Mark(slot) => &self.marks[slot],
            };
            let Some(count) = recount(tree, listing, cursor, rev, left, &mut self.scratch) else { continue };
            let there = || match listing {
                Listing::Walk(_) => Path::parse(&cursor.position).and_then(|path| tree.find(path)),
                Listing::Getdir(path) => {
                    let name = std::str::from_utf8(&cursor.position).ok()?;
                    tree.find(path).and_then(|dir| tree.child(dir, name))
                }
            };
            let alive = match kind {
                Kind::Walk => there().is_some_and(|id| tree.arena[id].file_at(rev).is_some()),
                Kind::Getdir => there().is_some_and(|id| tree.arena[id].alive_at(rev)),
            };
            if let Slot::Mark(slot) = slot
                && alive
            {
                // The next search need not correct the mark again.
                let mark = &mut self.marks[slot];
                (mark.rev, mark.count) = (rev, count);
            }
            if count <= target || count == target + 1 && alive {
                return Some(Start { count, ..self.start(slot) });
            }
        }
        None
    }

    /// Starts a search at a cursor or a mark.
    fn start(&mut self, slot: Slot) -> Start {
        match slot {
            Slot::Cursor(slot) => {
                let cursor = &self.cursors[slot];
                Start { count: cursor.count, position: cursor.position.clone(), slot: Some(slot) }
            }
            Slot::Mark(slot) => {
                let mark = &mut self.marks[slot];
                mark.used = self.clock;
                Start::new(mark.count, mark.position.clone())
            }
        }
    }

    /// Leaves a mark: at `rev`, the match number `count` is at `position`.
    pub(super) fn mark(&mut self, listing: Listing<'_>, rev: i64, count: u64, position: &[u8]) {
        let (kind, pattern) = listing.key();
        let hash = hash(pattern);
        self.clock += 1;
        let (pattern, position) = (pattern.into(), position.into());
        let mark = Cursor { hash, kind, rev, count, used: self.clock, pattern, position };
        let same = |m: &Cursor| m.hash == hash && m.count == count && m.kind == kind && *m.pattern == *mark.pattern;
        if let Some(slot) = self.marks.iter().position(same) {
            self.marks[slot] = mark;
        } else if self.marks.len() < MARKS {
            self.marks.push(mark);
        } else if let Some(oldest) = self.marks.iter_mut().min_by_key(|mark| mark.used) {
            *oldest = mark;
        }
    }

    /// Remembers that `position` is the match that makes `count` at `rev`, which was found from `start`.
    pub(super) fn found(&mut self, listing: Listing<'_>, rev: i64, count: u64, position: &[u8], start: Option<Start>) {
        let (kind, pattern) = listing.key();
        self.clock += 1;
        // Who was interrupted on the way comes without a slot: the cursor of the match before this one was its own.
        let at =
            |count: u64| self.cursors.iter().position(|c| c.count == count && c.kind == kind && *c.pattern == *pattern);
        let slot = start.and_then(|start| start.slot);
        let is_next = slot.is_some_and(|slot| self.cursors[slot].count + 1 == count);
        // A client that goes backwards has the cursor of the match after this one.
        let behind = if is_next { None } else { at(count + 1) };
        if let Some(slot) = behind.or(slot).or_else(|| at(count.checked_sub(1)?)) {
            let at = self.cursors[slot].count;
            // One cursor at each such count is enough, however many walks come by.
            let same = |c: &&Cursor| c.count == at && c.kind == kind && *c.pattern == *pattern;
            let stays = at.is_multiple_of(KEEP) && at < count && self.cursors.iter().filter(same).count() == 1;
            let cursor = &mut self.cursors[slot];
            cursor.used = self.clock;
            if !stays {
                (cursor.rev, cursor.count) = (rev, count);
                cursor.position.clear();
                cursor.position.extend_from_slice(position);
                return;
            }
        }
        let cursor = Cursor {
            hash: hash(pattern),
            kind,
            rev,
            count,
            used: self.clock,
            pattern: pattern.into(),
            position: position.into(),
        };
        if self.cursors.len() < CURSORS {
            self.cursors.push(cursor);
        } else if let Some(oldest) = self.cursors.iter_mut().min_by_key(|cursor| cursor.used) {
            *oldest = cursor;
        }
    }
}

/// A place in one of the two tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Cursor(usize),
    Mark(usize),
}

/// How many more events may be passed over, and how much work may be done on them.
struct Replay {
    events: i64,
    work: usize,
    /// What composing paths has cost.
    composed: usize,
}

/// A cursor's count at another revision; `None` if the events between are gone or too many.
fn recount(
    tree: &Tree,
    listing: Listing<'_>,
    cursor: &Cursor,
    rev: i64,
    left: &mut Replay,
    path: &mut Vec<u8>,
) -> Option<u64> {
    let (after, until) = (cursor.rev.min(rev), cursor.rev.max(rev));
    if until - after > left.events || after + 1 < tree.first() {
        return None;
    }
    left.events -= until - after;
    let mut delta: i64 = 0;
    let change = |entry: super::tree::Entry| if entry.kind == super::Kind::Set { 1 } else { -1 };
    match listing {
        Listing::Walk(glob) => {
            for r in after + 1..=until {
                let entry = tree.entry(r)?;
                if !entry.structural {
                    continue;
                }
                left.work = left.work.checked_sub(1)?;
                tree.arena.path(entry.node, path);
                left.composed += climbed(path);
                left.work = left.work.checked_sub(path.len() / CORRECTED)?;
                let in_bytes = faults::is_armed(Fault::CursorInByteOrder);
                let order =
                    if in_bytes { (**path).cmp(&cursor.position[..]) } else { walk_order(path, &cursor.position) };
                if order == Ordering::Greater {
                    continue;
                }
                left.work = left.work.checked_sub(glob.cost(path))?;
                if glob.matches(path) {
                    delta += change(entry);
                }
            }
        }
        Listing::Getdir(dir) => {
            let id = tree.find(dir)?;
            let base = if dir.is_root() { 0 } else { dir.as_bytes().len() };
            let count = &tree.arena[id].dir.as_ref()?.count;
            // The directory's own past names the events that changed its entries.
            for r in count.between(after, until) {
                left.work = left.work.checked_sub(1)?;
                let entry = tree.entry(r)?;
                tree.arena.path(entry.node, path);
                left.composed += climbed(path);
                left.work = left.work.checked_sub(path.len() / CORRECTED)?;
                let name = path.get(base + 1..)?.split(|b| *b == b'/').next()?;
                if *name <= *cursor.position {
                    delta += change(entry);
                }
            }
        }
    }
    let delta = if rev > cursor.rev { delta } else { -delta };
    cursor.count.checked_add_signed(delta)
}
