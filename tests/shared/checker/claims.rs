//! What an answer claims of the history, and whether it is so.

use super::model::{GlobId, Model, PathId, State};

/// What an answer says.
#[derive(Clone, Debug)]
pub enum Claim {
    /// The path is the file of this revision, of so many bytes where that was told.
    File { path: PathId, rev: i64, len: Option<i32> },
    /// There is nothing at the path.
    Missing { path: PathId },
    /// The path is a directory, of so many entries where that was told.
    Directory { path: PathId, entries: Option<i32> },
    /// The path is some file.
    NotDirectory { path: PathId },
    /// The name is the entry of this number.
    Listed { dir: PathId, name: Box<[u8]>, offset: i32 },
    /// The directory is there, and has no entry of this number.
    NotListed { dir: PathId, offset: i32 },
    /// The file of this revision is number `offset` of those that the glob matches.
    Walked { glob: GlobId, offset: i32, path: PathId, rev: i64 },
    /// The glob matches no file of this number.
    NotWalked { glob: GlobId, offset: i32 },
    /// This event is the first one that the glob matches.
    First { glob: GlobId, from: i64, rev: i64 },
    /// The revision has left the history, if that is of this length.
    TooOld { rev: i64, history: i64 },
    /// What is at the path is newer than `rev`; no file is above it, if it was to be written.
    Newer { path: PathId, rev: i64, write: bool },
    /// A file is above the path.
    BelowFile { path: PathId },
}

impl Claim {
    /// Whether it was so at one of these revisions, all of which have to be known.
    pub fn holds(&self, model: &mut Model, (from, until): (i64, i64)) -> bool {
        let within = (from, until);
        match *self {
            Claim::File { path, rev, len } => {
                let length =
                    |len: i32| model.event(rev).is_some_and(|event| usize::try_from(len) == Ok(event.body.len()));
                model.span(path, rev).is_some_and(|(begin, end)| begin.max(from) <= end.min(until))
                    && len.is_none_or(length)
            }
            Claim::Missing { path } => model.ever(path, false, within, |m, at| m.state(path, at) == State::Missing),
            Claim::Directory { path, entries } => {
                let count = |n: usize| entries.is_none_or(|told| usize::try_from(told) == Ok(n));
                model.ever(path, false, within, |m, at| match m.state(path, at) {
                    State::Directory(n) => count(n),
                    _ => false,
                })
            }
            Claim::NotDirectory { path } => {
                model.ever(path, false, within, |m, at| matches!(m.state(path, at), State::File(_)))
            }
            Claim::Listed { dir, ref name, offset } => {
                usize::try_from(offset).is_ok_and(|number| model.is_listed(dir, name, number, within))
            }
            Claim::NotListed { dir, offset } => model.ever(dir, false, within, |m, at| match m.state(dir, at) {
                State::Directory(count) => usize::try_from(offset).is_ok_and(|n| n >= count) || offset < 0,
                _ => false,
            }),
            Claim::Walked { glob, offset, path, rev } => {
                let Some((begin, end)) = model.span(path, rev) else { return false };
                let within = (begin.max(from), end.min(until));
                let is_match = super::names::matches(model.pattern(glob), model.name(path));
                is_match && model.ever_walked(glob, Some(path), within, |count| usize::try_from(offset) == Ok(count))
            }
            Claim::NotWalked { glob, offset } => {
                model.ever_walked(glob, None, within, |count| usize::try_from(offset).is_ok_and(|n| n >= count))
            }
            Claim::First { glob, from, rev } => model.first_match(glob, from) == Some(rev),
            Claim::TooOld { rev, history } => rev <= until - history,
            Claim::Newer { path, rev, write } => model.ever(path, write, within, |m, at| {
                m.state(path, at).rev() > rev && !(write && m.is_below_file(path, at))
            }),
            Claim::BelowFile { path } => model.ever(path, true, within, |m, at| m.is_below_file(path, at)),
        }
    }
}
