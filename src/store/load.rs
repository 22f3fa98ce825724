//! A store from a snapshot: the files of its first retained revision in walk order, the event of that revision, and then the
//! events after it, one by one.
//!
//! What is read may be damaged, or written by someone else: whatever cannot be is a [`LoadError`], never a panic.

use super::arena::{NodeId, ROOT};
use super::path::{Path, walk_order};
use super::tree::{Entry, Tree};
use super::{Kind, Mutation, Store};
use std::cmp::Ordering;

/// Why what was read cannot be a store's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// Not a path, or the root where a file has to be.
    BadPath,
    /// A file comes before its predecessor in walk order, or twice.
    Order,
    /// A file lies below a file, or an event would put it there.
    NotDir,
    /// A file's revision is below 1, above the snapshot's, or not its own.
    Revision,
    /// The event of the first revision is not in keeping with the files.
    FirstEvent,
    /// An event writes a file where there is a directory, or deletes one.
    IsDir,
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LoadError::BadPath => "not the path of a file",
            LoadError::Order => "files are not in walk order",
            LoadError::NotDir => "a file below a file",
            LoadError::Revision => "a file with an impossible revision",
            LoadError::FirstEvent => "the first event contradicts the files",
            LoadError::IsDir => "an event on a directory",
        })
    }
}

impl std::error::Error for LoadError {}

/// Takes the files of a snapshot's first revision.
#[derive(Debug)]
pub struct Loader {
    tree: Tree,
    last: Vec<u8>,
    /// The nodes of the last path's directories, from the root's entries down, and where their paths end.
    dirs: Vec<(NodeId, usize)>,
    /// The greatest revision, and whether two files had it.
    newest: i64,
    twice: bool,
}

impl Loader {
    /// A loader of a store that keeps `hist` revisions readable (at least one).
    pub fn new(hist: u64) -> Loader {
        Loader { tree: Tree::new(hist), last: Vec::new(), dirs: Vec::new(), newest: 0, twice: false }
    }

    /// The same with another bound than [`HISTORY_BYTES`](crate::limits::HISTORY_BYTES).
    #[cfg(test)]
    pub(crate) fn bounded(hist: u64, bytes: u64) -> Loader {
        Loader { tree: Tree::new(hist).with_past_max(bytes), ..Loader::new(hist) }
    }

    /// Takes the next file in walk order, as [`Store::files_at`] gives them.
    ///
    /// # Errors
    /// If it cannot be the next file of a snapshot. The loader is of no use then.
    pub fn file(&mut self, path: &[u8], rev: i64, value: &[u8]) -> Result<(), LoadError> {
        let path = Path::parse(path).filter(|path| !path.is_root()).ok_or(LoadError::BadPath)?;
        if walk_order(&self.last, path.as_bytes()) != Ordering::Less {
            return Err(LoadError::Order);
        }
        if rev < 1 {
            return Err(LoadError::Revision);
        }
        match rev.cmp(&self.newest) {
            Ordering::Greater => (self.newest, self.twice) = (rev, false),
            Ordering::Equal => self.twice = true,
            Ordering::Less => {}
        }
        // The directories that this path shares with the last one.
        let text = path.as_str();
        let shared = self.last.iter().zip(text.as_bytes()).take_while(|(a, b)| a == b).count();
        let below = text.as_bytes().get(shared) == Some(&b'/');
        // What lies below a file would follow it at once.
        if below && shared > 0 && shared == self.last.len() {
            return Err(LoadError::NotDir);
        }
        while let Some(&(_, end)) = self.dirs.last()
            && !(end <= shared && text.as_bytes().get(end) == Some(&b'/'))
        {
            self.dirs.pop();
        }
        let (mut at, mut end) = self.dirs.last().copied().unwrap_or((ROOT, 0));
        loop {
            let rest = &text[end + 1..];
            let name = rest.split('/').next().unwrap_or(rest);
            end += 1 + name.len();
            // In walk order everything past the shared directories is new.
            at = self.tree.add_child(at, name);
            self.count(at);
            if end == text.len() {
                break;
            }
            self.dirs.push((at, end));
        }
        self.tree.arena[at].file.reset(rev, Some(value.into()));
        self.last.clear();
        self.last.extend_from_slice(path.as_bytes());
        Ok(())
    }

    fn count(&mut self, child: NodeId) {
        let parent = self.tree.arena[child].parent;
        let count = &mut self.tree.dir_mut(parent).count;
        let entries = *count.latest() + 1;
        // Before all revisions that will be readable.
        count.reset(i64::MIN, entries);
    }

    /// The store at revision `first`, with all files taken; `kind` and `path` are those of the event of `first`. For revision 0,
    /// the empty store, they are ignored.
    ///
    /// # Errors
    /// If the files or the event cannot be those of this revision.
    pub fn finish(mut self, first: i64, kind: Kind, path: &[u8]) -> Result<Store, LoadError> {
        if first < self.newest || first < 0 {
            return Err(LoadError::Revision);
        }
        let path = Path::parse(path).ok_or(LoadError::BadPath);
        let event = if first == 0 { None } else { Some(self.first_event(first, kind, path?)?) };
        // Only the event's own file was written by it.
        if first > 0 && self.newest == first && (self.twice || kind != Kind::Set) {
            return Err(LoadError::Revision);
        }
        self.tree.begin_at(first, event);
        Ok(Store::with(self.tree))
    }

    fn first_event(&mut self, first: i64, kind: Kind, path: Path<'_>) -> Result<Entry, LoadError> {
        let node = match kind {
            Kind::Nop => ROOT,
            Kind::Set => {
                let node = self.tree.find(path).ok_or(LoadError::FirstEvent)?;
                let file = &self.tree.arena[node].file;
                if file.rev() != first || file.latest().is_none() {
                    return Err(LoadError::FirstEvent);
                }
                node
            }
            Kind::Del => {
                let (node, _) = self.tree.place(path);
                let found = &mut self.tree.arena[node];
                if node == ROOT || found.file.latest().is_some() || found.dir.is_some() {
                    return Err(LoadError::FirstEvent);
                }
                found.file.reset(first, None);
                node
            }
        };
        Ok(Entry { node, kind, structural: false, dirs: 0 })
    }
}

impl Store {
    /// Applies an event that was read from a snapshot, and gives its revision, the next. Wakes nobody that has not registered.
    ///
    /// # Errors
    /// If the event could not have happened to this store; the store is unchanged then.
    pub fn replay(&mut self, kind: Kind, path: &[u8], value: &[u8]) -> Result<i64, LoadError> {
        let mutation = match kind {
            Kind::Set => Mutation::Set { path, rev: -1, value },
            Kind::Del => Mutation::Del { path, rev: -1 },
            Kind::Nop => Mutation::Nop,
        };
        self.apply(mutation).map_err(|refused| match refused {
            super::Refused::BadPath => LoadError::BadPath,
            super::Refused::NotDir => LoadError::NotDir,
            super::Refused::RevMismatch | super::Refused::IsDir => LoadError::IsDir,
        })
    }
}
