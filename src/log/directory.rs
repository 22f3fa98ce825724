//! The files of a data directory by their names: what kind of directory it is, and which segments follow one another.
//!
//! Invariant: segments are given up from the oldest on, so those that are there are a run without gaps up to the newest; what lies
//! before a gap is left from a removal that a crash interrupted, or the gap is damage. The log's first write tells which.

use super::damage::{Damage, Erase, Salvage, Wrong};
use super::name::{self, Name};
use super::segment;
use super::table::Fault;
use std::collections::{BTreeMap, VecDeque};

/// A file of the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its name in the directory.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
}

/// What a data directory is, by its names alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survey {
    /// There is nothing of ours but files in the making, which may be removed: found a new node here.
    ///
    /// In this order, each step durable before the next: the identity with boot epoch 0, the first segment, the identity with boot
    /// epoch 1.
    Empty,
    /// There is an identity, and no segment. With boot epoch 0, its founding was interrupted: go on with it. Else the log is lost,
    /// and [`super::recover`] says so.
    IdentityOnly,
    /// There are an identity and segments: read the identity, then [`super::recover`].
    Founded,
}

/// Tells what a data directory is.
///
/// # Errors
/// If there are segments or snapshots and no identity.
pub fn survey(listing: &[FileInfo]) -> Result<Survey, Box<Damage>> {
    let directory = Directory::sort(listing);
    let data = directory.segments.keys().copied().map(name::segment).next();
    let data = data.or_else(|| directory.snapshots.keys().copied().map(name::snapshot).next());
    match (directory.identity, data) {
        (false, None) => Ok(Survey::Empty),
        (true, _) if directory.segments.is_empty() => Ok(Survey::IdentityOnly),
        (true, _) => Ok(Survey::Founded),
        (false, Some(_)) => Err(Box::new(Damage {
            file: name::IDENTITY.to_owned(),
            offset: 0,
            wrong: Wrong::Log(Fault::NoIdentity),
            last: None,
            salvage: None,
        })),
    }
}

/// The files of a data directory, by kind, in order.
#[derive(Default)]
pub(super) struct Directory {
    identity: bool,
    pub segments: BTreeMap<u64, u64>,
    pub snapshots: BTreeMap<u64, u64>,
    pub temporary: Vec<String>,
}

impl Directory {
    pub(super) fn sort(listing: &[FileInfo]) -> Directory {
        let mut directory = Directory::default();
        for FileInfo { name, length } in listing {
            match name::parse(name) {
                Name::Segment(generation) => _ = directory.segments.insert(generation, *length),
                Name::Snapshot(index) => _ = directory.snapshots.insert(index, *length),
                Name::Identity => directory.identity = true,
                Name::Temporary => directory.temporary.push(name.clone()),
                Name::Other => {}
            }
        }
        directory.temporary.sort();
        directory
    }

    /// The newest segments without a gap. What lies before a gap is left from an interrupted removal, if the snapshot covers it.
    pub(super) fn run(&self) -> Result<Run, Box<Damage>> {
        let mut segments: VecDeque<(u64, u64)> = VecDeque::new();
        for (&generation, &length) in self.segments.iter().rev() {
            if segments.front().is_some_and(|&(next, _)| next - 1 != generation) {
                break;
            }
            segments.push_front((generation, length));
        }
        if segments.is_empty() {
            let salvage = Salvage { new_log: true, ..Salvage::default() };
            let salvage = (!self.snapshots.is_empty()).then_some(salvage);
            let wrong = Wrong::Log(Fault::NoLog);
            return Err(Box::new(Damage { file: name::segment(1), offset: 0, wrong, last: None, salvage }));
        }
        let before = self.segments.keys().copied().take(self.segments.len() - segments.len()).collect();
        Ok(Run { segments: segments.into(), before, snapshots: !self.snapshots.is_empty() })
    }
}

/// Segments without a gap, up to the newest.
pub(super) struct Run {
    /// Generation and length of each file.
    pub segments: Vec<(u64, u64)>,
    /// Generations before the gap.
    pub before: Vec<u64>,
    /// Whether there is any snapshot.
    pub snapshots: bool,
}

impl Run {
    /// Damage in the `at`-th segment, of whose writes `good` blocks are good.
    pub(super) fn damage(&self, at: usize, block: usize, fault: Fault, good: usize, last: Option<u64>) -> Box<Damage> {
        Box::new(Damage {
            file: name::segment(self.segments[at].0),
            offset: segment::offset(block),
            wrong: Wrong::Log(fault),
            last,
            salvage: self.salvage(at, good),
        })
    }

    /// Goes on with what precedes the damage: the first `good` blocks of the `at`-th segment, or the segments before it, or what
    /// lies before the run, or a snapshot; `None` if there is nothing of that.
    fn salvage(&self, at: usize, good: usize) -> Option<Salvage> {
        let mut salvage = Salvage::default();
        let mut aside = at;
        // The preface alone is nothing good.
        if good > 1 {
            aside += 1;
            let (generation, length) = self.segments[at];
            let file = name::segment(generation);
            let offset = segment::offset(good);
            let length = length.saturating_sub(offset);
            salvage.copy.push(file.clone());
            salvage.erase.push(Erase { file, offset, length });
        }
        let aside = self.segments.split_at(aside);
        salvage.set_aside = aside.1.iter().map(|&(generation, _)| name::segment(generation)).collect();
        salvage.new_log = aside.0.is_empty() && self.before.is_empty();
        (!salvage.new_log || self.snapshots).then_some(salvage)
    }

    /// Damage that leaves nothing of the run to go on from.
    pub(super) fn useless(&self, fault: Fault, last: Option<u64>) -> Box<Damage> {
        self.damage(0, 0, fault, 0, last)
    }
}
