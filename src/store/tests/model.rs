//! The model.

use crate::store::{Kind, Path, Refused};
use std::collections::{BTreeMap, BTreeSet};

/// A path by its components: their order is walk order.
pub(super) type Names = Vec<String>;

pub(super) type Files = BTreeMap<Names, (i64, Vec<u8>)>;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    Missing,
    File(i64, Vec<u8>),
    Dir(usize),
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    /// By revision.
    pub(super) files: Vec<Files>,
    /// By revision, from 1.
    pub(super) events: Vec<(Kind, String, Vec<u8>)>,
    pub(super) first: i64,
    pub(super) hist: i64,
    /// How many bytes of values written over or deleted may be readable.
    pub(super) bytes: usize,
    pub(super) pins: Vec<i64>,
}

pub(super) fn names(path: &str) -> Names {
    path.split('/').skip(1).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

pub(super) fn text(names: &[String]) -> String {
    format!("/{}", names.join("/"))
}

/// The definition of a glob, taken literally.
pub(super) fn naive_match(pattern: &[u8], path: &[u8]) -> bool {
    match (pattern, path) {
        ([b'*', b'*', rest @ ..], _) => naive_match(rest, path) || !path.is_empty() && naive_match(pattern, &path[1..]),
        ([b'*', rest @ ..], _) => {
            naive_match(rest, path) || !path.is_empty() && path[0] != b'/' && naive_match(pattern, &path[1..])
        }
        ([b'?', rest @ ..], [byte, left @ ..]) => *byte != b'/' && naive_match(rest, left),
        ([token, rest @ ..], [byte, left @ ..]) => token == byte && naive_match(rest, left),
        ([], _) => path.is_empty(),
        (_, []) => false,
    }
}

impl Model {
    pub(super) fn new(hist: i64) -> Model {
        Model { files: vec![Files::new()], events: Vec::new(), first: 0, hist, bytes: usize::MAX, pins: Vec::new() }
    }

    pub(super) fn revision(&self) -> i64 {
        i64::try_from(self.events.len()).unwrap()
    }

    pub(super) fn at(&self, rev: i64) -> &Files {
        &self.files[usize::try_from(rev).unwrap()]
    }

    pub(super) fn event(&self, rev: i64) -> &(Kind, String, Vec<u8>) {
        &self.events[usize::try_from(rev - 1).unwrap()]
    }

    pub(super) fn look(&self, path: &str, rev: i64) -> Found {
        if Path::parse(path.as_bytes()).is_none() {
            return Found::Missing;
        }
        let names = names(path);
        if let Some((rev, value)) = self.at(rev).get(&names) {
            return Found::File(*rev, value.clone());
        }
        match self.entries(&names, rev).len() {
            0 if !names.is_empty() => Found::Missing,
            entries => Found::Dir(entries),
        }
    }

    pub(super) fn entries(&self, dir: &[String], rev: i64) -> Vec<String> {
        let below = self.at(rev).keys().filter(|path| path.len() > dir.len() && path.starts_with(dir));
        below.map(|path| path[dir.len()].clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub(super) fn walk(&self, glob: &str, rev: i64) -> Vec<String> {
        let paths = self.at(rev).keys().map(|names| text(names));
        paths.filter(|path| naive_match(glob.as_bytes(), path.as_bytes())).collect()
    }

    pub(super) fn wait(&self, glob: &str, from: i64) -> Option<i64> {
        (from.max(1)..=self.revision()).find(|rev| naive_match(glob.as_bytes(), self.event(*rev).1.as_bytes()))
    }

    pub(super) fn apply(&mut self, kind: Kind, path: &str, expected: i64, value: &[u8]) -> Result<i64, Refused> {
        let rev = self.revision() + 1;
        let mut files = self.at(rev - 1).clone();
        if kind != Kind::Nop {
            if Path::parse(path.as_bytes()).is_none() {
                return Err(Refused::BadPath);
            }
            let names = names(path);
            if kind == Kind::Set && (0..names.len()).any(|length| files.contains_key(&names[..length])) {
                return Err(Refused::NotDir);
            }
            let current = match self.look(path, rev - 1) {
                Found::Missing => 0,
                Found::File(rev, _) => rev,
                Found::Dir(_) => -2,
            };
            if expected != -1 && expected < current {
                return Err(Refused::RevMismatch);
            }
            if current == -2 {
                return Err(Refused::IsDir);
            }
            match kind {
                Kind::Set => files.insert(names, (rev, value.to_vec())),
                _ => files.remove(&names),
            };
        }
        let value = if kind == Kind::Set { value.to_vec() } else { Vec::new() };
        self.events.push((kind, path.to_owned(), value));
        self.files.push(files);
        for _ in 0..3 {
            let over = self.first == 0 || rev - self.first + 1 > self.hist;
            let over = over || self.first < rev && self.past() > self.bytes;
            if over && self.pins.iter().all(|pin| self.first < *pin) {
                self.first += 1;
            }
        }
        Ok(rev)
    }

    /// Bytes that only the past holds: what each readable event but the first wrote over or deleted.
    pub(super) fn past(&self) -> usize {
        let gone = |rev: i64| match self.at(rev - 1).get(&names(&self.event(rev).1)) {
            Some((_, value)) if self.event(rev).0 != Kind::Nop => value.len(),
            _ => 0,
        };
        (self.first + 1..=self.revision()).map(gone).sum()
    }

    /// How many nodes the tree has to have: for what lives at a retained revision, and for what retained events name.
    pub(super) fn nodes(&self) -> usize {
        let mut all: BTreeSet<Names> = BTreeSet::from([Names::new()]);
        let mut add = |path: &[String]| all.extend((1..=path.len()).map(|length| path[..length].to_vec()));
        for rev in self.first..=self.revision() {
            self.at(rev).keys().for_each(|path| add(path));
            if rev > 0 {
                add(&names(&self.event(rev).1));
            }
        }
        all.len()
    }
}
