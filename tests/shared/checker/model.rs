//! The model: a list of events, and a map from each path to what became of it.
//!
//! Events may become known in any order; they count from the first revision on, as far as there is no gap. What holds at a revision
//! can be asked up to there: that a path is a file, a directory or nothing, what a directory holds, which files a glob matches, which
//! event comes first.

use std::collections::BTreeMap;

use super::names::{base, is_path, matches, parent, walk_order};

/// A path's number.
pub type PathId = usize;
/// A glob's number.
pub type GlobId = usize;
/// The path `/`.
pub const ROOT: PathId = 0;

/// What is remembered of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Body {
    len: u32,
    crc: u32,
    /// How it begins, to be read by people.
    front: [u8; 16],
}

impl Body {
    pub fn of(value: &[u8]) -> Body {
        let mut front = [0; 16];
        let shown = value.len().min(front.len());
        front[..shown].copy_from_slice(&value[..shown]);
        let len = u32::try_from(value.len()).expect("a value that fits into a frame");
        Body { len, crc: crc32fast::hash(value), front }
    }

    /// Bytes of the value.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// The value's beginning.
    pub fn front(&self) -> &[u8] {
        &self.front[..self.len().min(self.front.len())]
    }
}

/// What an event, or a mutation, does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Set,
    Del,
    Nop,
}

/// A revision.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub kind: Kind,
    pub path: PathId,
    pub body: Body,
    /// The mutation that made it, where that is told by its value or its answer.
    pub author: Option<u32>,
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Missing,
    /// The file that this revision wrote.
    File(i64),
    /// A directory with so many entries; none only in the root.
    Directory(usize),
}

impl State {
    /// What a compare-and-set compares with.
    pub fn rev(self) -> i64 {
        match self {
            State::Missing => 0,
            State::File(rev) => rev,
            State::Directory(_) => -2,
        }
    }
}

/// A directory's entry came or went.
struct Change {
    rev: i64,
    child: PathId,
    came: bool,
    /// How many entries there are since.
    count: usize,
}

struct Place {
    name: Box<[u8]>,
    parent: Option<PathId>,
    children: Vec<PathId>,
    /// The events of this path that wrote or deleted it: the revision, and whether it is a file since.
    versions: Vec<(i64, bool)>,
    /// What happened to the entries below it.
    entries: Vec<Change>,
}

struct Glob {
    pattern: Box<[u8]>,
    /// The events that it matches, of those that were looked at.
    events: Vec<i64>,
    looked_at: usize,
    /// By path: whether it matches, once that was asked.
    memo: Vec<Option<bool>>,
    /// Those that it matches of the paths that were ever a file, in walk order; and of how many.
    files: Vec<PathId>,
    considered: usize,
}

/// See the module.
pub struct Model {
    places: Vec<Place>,
    ids: BTreeMap<Box<[u8]>, PathId>,
    globs: Vec<Glob>,
    glob_ids: BTreeMap<Box<[u8]>, GlobId>,
    /// Without a gap, from revision 1 on.
    events: Vec<Event>,
    /// Those behind a gap.
    ahead: BTreeMap<i64, Event>,
    /// Paths that were ever a file.
    files: Vec<PathId>,
}

/// The place of a revision in the list of events.
fn index(rev: i64) -> Option<usize> {
    usize::try_from(rev.checked_sub(1)?).ok()
}

fn revision(index: usize) -> i64 {
    i64::try_from(index).expect("a place in memory") + 1
}

impl Model {
    pub fn new() -> Model {
        let mut model = Model {
            places: Vec::new(),
            ids: BTreeMap::new(),
            globs: Vec::new(),
            glob_ids: BTreeMap::new(),
            events: Vec::new(),
            ahead: BTreeMap::new(),
            files: Vec::new(),
        };
        assert_eq!(model.path(b"/"), ROOT);
        model
    }

    // ---- names ----

    /// The number of a path, which has to be one.
    pub fn path(&mut self, path: &[u8]) -> PathId {
        if let Some(id) = self.ids.get(path) {
            return *id;
        }
        debug_assert!(is_path(path));
        let parent = parent(path).map(|parent| self.path(parent));
        let id = self.places.len();
        let (children, versions, entries) = Default::default();
        self.places.push(Place { name: path.into(), parent, children, versions, entries });
        self.ids.insert(path.into(), id);
        if let Some(parent) = parent {
            self.places[parent].children.push(id);
        }
        id
    }

    pub fn name(&self, path: PathId) -> &[u8] {
        &self.places[path].name
    }

    /// The number of a glob.
    pub fn glob(&mut self, pattern: &[u8]) -> GlobId {
        if let Some(id) = self.glob_ids.get(pattern) {
            return *id;
        }
        let id = self.globs.len();
        let (events, memo, files) = Default::default();
        self.globs.push(Glob { pattern: pattern.into(), events, looked_at: 0, memo, files, considered: 0 });
        self.glob_ids.insert(pattern.into(), id);
        id
    }

    pub fn pattern(&self, glob: GlobId) -> &[u8] {
        &self.globs[glob].pattern
    }

    /// The directories above a path, the nearest first.
    fn above(&self, path: PathId) -> impl Iterator<Item = PathId> {
        std::iter::successors(self.places[path].parent, |path| self.places[*path].parent)
    }

    // ---- events ----

    /// The last revision before the first gap.
    pub fn solid(&self) -> i64 {
        revision(self.events.len()) - 1
    }

    /// The last revision that is known.
    pub fn latest(&self) -> i64 {
        self.ahead.keys().next_back().copied().unwrap_or(self.solid())
    }

    pub fn event(&self, rev: i64) -> Option<&Event> {
        index(rev).and_then(|at| self.events.get(at)).or_else(|| self.ahead.get(&rev))
    }

    pub fn event_mut(&mut self, rev: i64) -> Option<&mut Event> {
        index(rev).and_then(|at| self.events.get_mut(at)).or_else(|| self.ahead.get_mut(&rev))
    }

    /// An event becomes known. It counts when it is its turn: [`Model::advance`].
    pub fn learn(&mut self, rev: i64, event: Event) {
        debug_assert!(self.event(rev).is_none());
        self.ahead.insert(rev, event);
    }

    /// The next event counts, if it is known: its revision, what it is, and what was at its path before.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn advance(&mut self) -> Result<Option<(i64, Event, State)>, &'static str> {
        let rev = self.solid() + 1;
        let Some(event) = self.ahead.remove(&rev) else { return Ok(None) };
        let before = self.state(event.path, rev - 1);
        self.events.push(event);
        if event.kind == Kind::Nop {
            return Ok(Some((rev, event, before)));
        }
        if let State::Directory(_) = before {
            return Err(if event.kind == Kind::Set { "it writes a directory" } else { "it deletes a directory" });
        }
        let was = before != State::Missing;
        let is = event.kind == Kind::Set;
        if is && self.is_below_file(event.path, rev - 1) {
            return Err("it writes a file below a file");
        }
        if is && !self.places[event.path].versions.iter().any(|(_, there)| *there) {
            self.files.push(event.path);
        }
        self.places[event.path].versions.push((rev, is));
        if is != was {
            self.entry(event.path, rev, is);
        }
        Ok(Some((rev, event, before)))
    }

    /// A path has come into its directory or left it, which may come or go by that.
    fn entry(&mut self, path: PathId, rev: i64, came: bool) {
        let Some(parent) = self.places[path].parent else { return };
        let entries = &mut self.places[parent].entries;
        let before = entries.last().map_or(0, |last| last.count);
        let count = if came { before + 1 } else { before - 1 };
        entries.push(Change { rev, child: path, came, count });
        if before == 0 || count == 0 {
            self.entry(parent, rev, came);
        }
    }

    // ---- states ----

    /// What is at a path at a revision.
    pub fn state(&self, path: PathId, rev: i64) -> State {
        let Place { versions, entries, .. } = &self.places[path];
        let after = versions.partition_point(|(at, _)| *at <= rev);
        if let Some((at, true)) = after.checked_sub(1).map(|last| versions[last]) {
            return State::File(at);
        }
        let after = entries.partition_point(|change| change.rev <= rev);
        match after.checked_sub(1).map_or(0, |last| entries[last].count) {
            0 if path != ROOT => State::Missing,
            count => State::Directory(count),
        }
    }

    /// Whether some directory above a path would be a file.
    pub fn is_below_file(&self, path: PathId, rev: i64) -> bool {
        self.above(path).any(|above| matches!(self.state(above, rev), State::File(_)))
    }

    /// Whether something holds at one of the revisions `from ..= until`, if it can only become so or cease to be so when something
    /// happens to this path (or also: to one above it).
    pub fn ever(
        &self,
        path: PathId,
        also_above: bool,
        (from, until): (i64, i64),
        mut is_so: impl FnMut(&Model, i64) -> bool,
    ) -> bool {
        if from > until {
            return false;
        }
        if is_so(self, from) {
            return true;
        }
        let above = self.above(path).filter(|_| also_above);
        std::iter::once(path).chain(above).any(|path| {
            let Place { versions, entries, .. } = &self.places[path];
            let versions = &versions[versions.partition_point(|(at, _)| *at <= from)..];
            let entries = &entries[entries.partition_point(|change| change.rev <= from)..];
            let of_file = versions.iter().map(|(at, _)| *at).take_while(|at| *at <= until);
            let mut all = of_file.chain(entries.iter().map(|change| change.rev).take_while(|at| *at <= until));
            all.any(|at| is_so(self, at))
        })
    }

    /// The revisions in which the file that revision `rev` wrote is there.
    pub fn span(&self, path: PathId, rev: i64) -> Option<(i64, i64)> {
        let versions = &self.places[path].versions;
        let at = versions.binary_search_by_key(&rev, |(at, _)| *at).ok().filter(|at| versions[*at].1)?;
        Some((rev, versions.get(at + 1).map_or(i64::MAX, |(next, _)| next - 1)))
    }

    /// Whether a name is the entry of this number in a directory, at one of the revisions `from ..= until`.
    pub fn is_listed(&self, dir: PathId, name: &[u8], number: usize, (from, until): (i64, i64)) -> bool {
        if from > until {
            return false;
        }
        let Place { children, entries, .. } = &self.places[dir];
        let named = |child: PathId| base(&self.places[child].name);
        let is_there = |child: PathId| self.state(child, from) != State::Missing;
        let mut there = children.iter().any(|child| named(*child) == name && is_there(*child));
        let mut before = children.iter().filter(|child| named(**child) < name && is_there(**child)).count();
        if there && before == number {
            return true;
        }
        let later = &entries[entries.partition_point(|change| change.rev <= from)..];
        later.iter().take_while(|change| change.rev <= until).any(|change| {
            match named(change.child).cmp(name) {
                std::cmp::Ordering::Less if change.came => before += 1,
                std::cmp::Ordering::Less => before -= 1,
                std::cmp::Ordering::Equal => there = change.came,
                std::cmp::Ordering::Greater => {}
            }
            there && before == number
        })
    }

    // ---- globs ----

    fn look(&mut self, glob: GlobId) {
        let Glob { pattern, events, looked_at, memo, files, considered } = &mut self.globs[glob];
        let places = &self.places;
        memo.resize(places.len(), None);
        let mut is_match = |path: PathId| *memo[path].get_or_insert_with(|| matches(pattern, &places[path].name));
        while let Some(event) = self.events.get(*looked_at) {
            *looked_at += 1;
            if is_match(event.path) {
                events.push(revision(*looked_at) - 1);
            }
        }
        if *considered < self.files.len() {
            let new = self.files[*considered..].iter().copied().filter(|path| is_match(*path));
            files.extend(new);
            files.sort_by(|a, b| walk_order(&places[*a].name, &places[*b].name));
            *considered = self.files.len();
        }
    }

    /// The first event that a glob matches from a revision on.
    pub fn first_match(&mut self, glob: GlobId, from: i64) -> Option<i64> {
        self.look(glob);
        let events = &self.globs[glob].events;
        events.get(events.partition_point(|rev| *rev < from)).copied()
    }

    fn is_file(&self, path: PathId, rev: i64) -> bool {
        let versions = &self.places[path].versions;
        let after = versions.partition_point(|(at, _)| *at <= rev);
        after > 0 && versions[after - 1].1
    }

    /// Whether, at one of the revisions `from ..= until`, `is_so` holds for the number of files that a glob matches: of those that
    /// come before `limit` in a walk, or of all.
    pub fn ever_walked(
        &mut self,
        glob: GlobId,
        limit: Option<PathId>,
        (from, until): (i64, i64),
        is_so: impl Fn(usize) -> bool,
    ) -> bool {
        if from > until {
            return false;
        }
        self.look(glob);
        let Glob { events, files, .. } = &self.globs[glob];
        let end = limit.map(|limit| self.name(limit));
        let counts = |path: PathId| end.is_none_or(|end| walk_order(self.name(path), end).is_lt());
        let within = match end {
            Some(end) => files.partition_point(|path| walk_order(self.name(*path), end).is_lt()),
            None => files.len(),
        };
        let mut count = files[..within].iter().filter(|path| self.is_file(**path, from)).count();
        if is_so(count) {
            return true;
        }
        let later = &events[events.partition_point(|rev| *rev <= from)..];
        later.iter().take_while(|rev| **rev <= until).any(|rev| {
            let event = &self.events[index(*rev).expect("from 1 on")];
            if event.kind == Kind::Nop || !counts(event.path) {
                return false;
            }
            match (self.is_file(event.path, rev - 1), self.is_file(event.path, *rev)) {
                (false, true) => count += 1,
                (true, false) => count -= 1,
                _ => return false,
            }
            is_so(count)
        })
    }

    /// The events of a path around a revision, for people to read.
    pub fn around(&self, path: PathId, rev: i64) -> Vec<i64> {
        let versions = &self.places[path].versions;
        let at = versions.partition_point(|(at, _)| *at <= rev);
        let end = versions.len().min(at + 3);
        versions[at.saturating_sub(4)..end].iter().map(|(at, _)| *at).collect()
    }
}
