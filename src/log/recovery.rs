//! Recovery: from the files that are there to the end of the log, or to a refusal.
//!
//! ```text
//! names ──> run of segments without gaps ──> its first opening: how far back the log goes
//!   └─────> newest whole snapshot that the log goes on from            (table SNAPSHOTS)
//! each segment: preface, blocks (BLOCKS) ──> whole writes ──> records ──> visitor
//!               its end, with what is behind it (ENDS)
//! the log's end and the snapshot (JOINS) ──> steps to carry out, state to go on from
//! ```
//! Nothing is changed here: what has to be changed is handed out as steps. Every file is read once, in pieces of 1 MiB; what is
//! held in memory is one write.
//!
//! Invariants:
//! * The answer depends on nothing but the bytes, and carrying out its steps, in whole or in part, does not change it.
//! * What recovery has read is made durable before it is relied on: after a mere crash of the process, a whole write may still be
//!   in a cache only.

use super::damage::{Damage, Erase, Refusal, Salvage, Wrong};
use super::directory::{Directory, FileInfo, Run};
use super::inspect::inspect;
use super::name;
use super::read::Reader;
use super::record::{HardState, Record};
use super::replay::{Base, Ending, Replay};
use super::segment::NodeId;
use super::snapshot::{SnapshotDamage, SnapshotFault, Summary};
use super::table::{self, Choice, Content, Fault, Rank, Reach};
use super::writer::{Durable, Position, Tail};
use crate::faults;

/// What recovery hands out, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// All that was handed out before is void: start from the empty state.
    Void,
    /// Start from this snapshot; its records follow.
    Snapshot {
        /// Raft index.
        index: u64,
        /// Term of the entry at that index.
        term: u64,
        /// What the snapshot's writer was given as meta.
        meta: &'a [u8],
    },
    /// A record of the snapshot.
    SnapshotRecord(&'a [u8]),
    /// A record of the log; some entries may lie before the snapshot. An entry replaces all from its index on; a restart, all.
    Record {
        /// Its place in the log.
        position: Position,
        /// The record.
        record: Record<'a>,
    },
}

/// What has to be done before the log may be used. In order; each is durable before the next is begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write zeros, and sync.
    Erase(Erase),
    /// Sync the file of this name.
    Sync(String),
    /// Move the file of this name out of the directory, and keep it.
    SetAside(String),
    /// Remove the file of this name.
    Remove(String),
    /// Sync the directory.
    SyncDirectory,
}

/// A write that was in flight when the node stopped; nothing in it was ever acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Name of its file.
    pub file: String,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Segments with writes, or for them.
    pub segments: u64,
    /// Whole writes.
    pub writes: u64,
    /// Records of the log.
    pub records: u64,
    /// Entries among them.
    pub entries: u64,
    /// Bytes of the whole writes.
    pub bytes: u64,
    /// Records of the snapshot.
    pub snapshot_records: u64,
    /// Bytes of the snapshot.
    pub snapshot_bytes: u64,
}

/// A log that was read to its end.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Index and term of the snapshot; `None` if there is none.
    pub snapshot: Option<(u64, u64)>,
    /// Raft's hard state. Its commit index is at least the snapshot's and at most `last_index`.
    pub hard_state: HardState,
    /// Index of the last entry; the snapshot's if there is none behind it.
    pub last_index: u64,
    /// Term of the entry at that index.
    pub last_term: u64,
    /// Index and term behind which the log has to begin anew: [`super::Log::resume`] stages it, and the visitor has seen it.
    pub restart: Option<(u64, u64)>,
    /// Proof that what was read is durable, once `steps` are carried out.
    pub durable: Durable,
    /// What has to be done before [`super::Log::resume`].
    pub steps: Vec<Step>,
    /// The write that was cut.
    pub torn: Option<Torn>,
    /// A damaged snapshot that an older one, and the log, stand in for: its file and what is wrong with it. Say so.
    pub fell_back: Option<(String, SnapshotDamage)>,
    /// What was read.
    pub statistics: Statistics,
    pub(super) tail: Tail,
}

/// Reads `length` bytes of a file at an offset, all of them; the buffer is aligned for O_DIRECT.
pub type Read<'a, E> = dyn FnMut(&str, u64, &mut [u8]) -> Result<(), E> + 'a;
/// Takes what is recovered.
pub type Visit<'a> = dyn FnMut(Event<'_>) + 'a;

/// Reads a node's snapshot and log.
///
/// `listing` is the whole data directory. What `visit` was given is void if this fails.
///
/// # Errors
/// If a crash cannot have left the directory so, if it is of an unknown version or another node's, or if `read` fails.
pub fn recover<E>(
    node: &NodeId,
    listing: &[FileInfo],
    read: &mut Read<'_, E>,
    visit: &mut Visit<'_>,
) -> Result<Recovered, Refusal<E>> {
    inspect(Some(node), listing, read)?;
    let directory = Directory::sort(listing);
    let mut reader = Reader::new(node, listing, read);
    let run = directory.run()?;
    let base = Base::find(&run, &mut reader)?;
    let chosen = choose_snapshot(&directory, &run, &base, &mut reader, visit)?;
    let mut replay = Replay::new(&base, &chosen, visit);
    let ending = replay.segments(&run, &mut reader)?;
    let (restart, mut hard_state) = replay.join(&run, &chosen)?;
    if ending.torn.is_some() && faults::is_armed(faults::Fault::TornTailForgetsVote) {
        hard_state.vote = 0;
    }
    let Replay { state, statistics, meter, .. } = replay;
    let (last_index, last_term) = restart.unwrap_or((state.last_index, state.last_term));
    Ok(Recovered {
        snapshot: (chosen.index > 0).then_some((chosen.index, chosen.term)),
        hard_state,
        last_index,
        last_term,
        restart,
        durable: Durable::new(ending.due - 1, state.position - 1),
        steps: steps(&directory, &run, &chosen, &ending),
        torn: ending.torn,
        fell_back: chosen.damaged.into_iter().next(),
        statistics: Statistics { snapshot_records: chosen.records, snapshot_bytes: chosen.bytes, ..statistics },
        tail: Tail {
            current: ending.current,
            ahead: ending.ahead,
            old: ending.old,
            anchor: ending.anchor,
            next_write: ending.due,
            state,
            meter,
        },
    })
}

/// The snapshot that is used: index 0 stands for the empty state.
pub(super) struct Chosen {
    pub index: u64,
    pub term: u64,
    pub records: u64,
    pub bytes: u64,
    /// Those that are newer and damaged, the newest first.
    pub damaged: Vec<(String, SnapshotDamage)>,
}

fn choose_snapshot<E>(
    directory: &Directory,
    run: &Run,
    base: &Base,
    reader: &mut Reader<'_, '_, E>,
    visit: &mut Visit<'_>,
) -> Result<Chosen, Refusal<E>> {
    let mut damaged = Vec::new();
    let candidates = directory.snapshots.iter().rev().map(|(&index, &length)| (index, length));
    for (index, length) in candidates.chain([(0, 0)]) {
        let rank = if damaged.is_empty() { Rank::Newest } else { Rank::Older };
        let reach = if base.state.last_index <= index { Reach::Reaches } else { Reach::Short };
        let found = if index == 0 {
            Ok(Summary { index: 0, term: 0, records: 0, bytes: 0 })
        } else {
            reader.snapshot(index, length, visit)?
        };
        if let Err(SnapshotDamage { fault: SnapshotFault::Version(version), .. }) = found {
            return Err(Refusal::UnknownVersion { file: name::snapshot(index), version });
        }
        let content = if found.is_ok() { Content::Whole } else { Content::Damaged };
        if let Err(damage) = found {
            damaged.push((name::snapshot(index), damage));
            visit(Event::Void);
        }
        match (table::snapshot(rank, content, reach), found) {
            (Choice::Use | Choice::FallBack, Ok(Summary { index, term, records, bytes })) => {
                return Ok(Chosen { index, term, records, bytes, damaged });
            }
            (Choice::Older, _) => {}
            (Choice::Gap, _) => return Err(run.useless(Fault::Gap, Some(index)).into()),
            (Choice::Damage | Choice::Use | Choice::FallBack, found) => {
                return Err(lost_snapshot(run, &damaged, index, found.is_ok()).into());
            }
        }
    }
    unreachable!("the empty state is whole, and is used or refused")
}

/// The newest snapshot is damaged, and the log does not go back to an older one.
fn lost_snapshot(run: &Run, damaged: &[(String, SnapshotDamage)], older: u64, whole: bool) -> Box<Damage> {
    let (file, damage) = damaged.first().expect("only a damaged one makes another the older");
    let mut lost = run.useless(Fault::Gap, (whole && older > 0).then_some(older));
    lost.file.clone_from(file);
    lost.offset = damage.offset;
    lost.wrong = Wrong::Snapshot(*damage);
    lost.salvage = lost.salvage.filter(|_| whole && older > 0);
    if let Some(salvage) = &mut lost.salvage {
        salvage.set_aside.extend(damaged.iter().map(|(file, _)| file.clone()));
    }
    lost
}

impl Chosen {
    /// Index of the newest snapshot, if it is damaged; else 0.
    pub(super) fn newest_damaged(&self) -> u64 {
        let newest = self.damaged.first().map(|(file, _)| name::parse(file));
        if let Some(name::Name::Snapshot(index)) = newest { index } else { 0 }
    }

    /// The newest snapshot is damaged, and the log, which ends at `last`, does not stand in for it.
    pub(super) fn lost(&self, last: u64) -> Box<Damage> {
        let (file, damage) = self.damaged.first().expect("only a damaged one is missed");
        let salvage =
            Salvage { set_aside: self.damaged.iter().map(|(file, _)| file.clone()).collect(), ..Salvage::default() };
        Box::new(Damage {
            file: file.clone(),
            offset: damage.offset,
            wrong: Wrong::Snapshot(*damage),
            last: Some(last),
            salvage: Some(salvage),
        })
    }
}

/// What has to be done before the log may be used.
fn steps(directory: &Directory, run: &Run, chosen: &Chosen, ending: &Ending) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(Torn { file, offset, length }) = ending.torn.clone() {
        steps.push(Step::Erase(Erase { file, offset, length }));
    }
    // The last write is in the current segment, or it is the seal of the one before.
    if let Some(sealed) = ending.old.back() {
        steps.push(Step::Sync(name::segment(sealed.generation)));
    }
    steps.push(Step::Sync(name::segment(ending.current.generation)));
    // What is relied on has its name for good before anything else goes.
    steps.push(Step::SyncDirectory);
    steps.extend(chosen.damaged.iter().map(|(file, _)| Step::SetAside(file.clone())));
    steps.extend(directory.temporary.iter().cloned().map(Step::Remove));
    let older = directory.snapshots.range(..chosen.index).map(|(&index, _)| Step::Remove(name::snapshot(index)));
    steps.extend(older);
    steps.extend(run.before.iter().map(|&generation| Step::Remove(name::segment(generation))));
    steps.push(Step::SyncDirectory);
    if faults::is_armed(faults::Fault::RecoveredNotSynced) {
        steps.retain(|step| !matches!(step, Step::Sync(_)));
    }
    steps
}
