//! Snapshots: the state, read off in slices while commits go on, and read back.
//!
//! A snapshot covers the log up to one applied index. It holds the tree at the oldest retained revision and, behind it,
//! the events of every later one up to that index: from these, all retained revisions come back, and nothing is in it
//! twice. While it is read off the store keeps its history from there on (a pin); each slice visits a bounded number
//! of files or events, so a commit waits for a slice at most.
//!
//! ```text
//! meta    format u8 | node id, 16 bytes | first revision i64 | last revision i64 | n u32 | n * (raft id u64 | epoch u64 | seq u64) | ConfState
//! record  1 | rev i64 | path length u16 | path | value        a file of the tree at the first revision, in walk order
//!         2 | kind u8 | path                                  the event of the first revision; its value is in the tree
//!         3 | kind u8 | path length u16 | path | value        the events of the later revisions, in order
//! ```
//! Integers are little-endian; ConfState is raft's, in its own encoding.

use std::collections::BTreeMap;

use protobuf::Message as _;
use raft::eraftpb::ConfState;

use super::machine::{Machine, Seen};
use crate::limits;
use crate::log::{NodeId, SnapshotWrite, SnapshotWriter, name};
use crate::store::{Kind, LoadError, Loader, PinId, Store};

const FORMAT: u8 = 1;
const FILE: u8 = 1;
const FIRST: u8 = 2;
const EVENT: u8 = 3;

/// Files or events that are visited in one slice.
const SLICE: usize = 250;

/// Decides when to take a snapshot, and takes it.
#[derive(Debug)]
pub struct Snapshots {
    /// The last entry that a durable snapshot covers, and the size of that snapshot.
    last: u64,
    last_bytes: u64,
    taking: Option<Taking>,
}

#[derive(Debug)]
struct Taking {
    index: u64,
    writer: Writer,
    phase: Phase,
    pin: PinId,
    first: i64,
    last: i64,
    bytes: u64,
}

struct Writer(SnapshotWriter);

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SnapshotWriter")
    }
}

#[derive(Debug)]
enum Phase {
    /// The tree, behind this path.
    Files(Option<Vec<u8>>),
    /// The events, from this revision on.
    Events(i64),
    Finished,
}

impl Snapshots {
    /// Goes on from a snapshot that covers the entries up to `last`, 0 without one.
    pub fn new(last: u64, last_bytes: u64) -> Snapshots {
        Snapshots { last, last_bytes, taking: None }
    }

    /// The last entry that a durable snapshot covers.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Whether the log since the last snapshot is long enough, against the snapshot's size, to be worth another; if the
    /// log is `pressed` for space, whether there is anything to gain.
    pub fn is_due(&self, log_bytes: u64, pressed: bool) -> bool {
        let enough = if pressed { limits::SEGMENT / 2 } else { limits::SNAPSHOT_AFTER.max(self.last_bytes) };
        self.taking.is_none() && log_bytes > enough
    }

    /// Whether the log has grown by a segment more than makes a snapshot due.
    pub fn is_overdue(&self, log_bytes: u64) -> bool {
        log_bytes > limits::SNAPSHOT_AFTER.max(self.last_bytes) + limits::SEGMENT
    }

    /// Size that the next snapshot may have, by the last one, in bytes.
    pub fn estimate(&self) -> u64 {
        self.last_bytes + self.last_bytes / 4 + limits::SNAPSHOT_RESERVE
    }

    /// Begins a snapshot of the applied state.
    pub fn begin(&mut self, machine: &mut Machine, node: &NodeId, index: u64, term: u64, conf: &ConfState) {
        let last = machine.store.revision();
        let (pin, first) = machine.store.pin();
        let meta = encode_meta(node, first, last, machine.seen(), conf);
        let writer = Writer(SnapshotWriter::new(index, term, &meta));
        let phase = Phase::Files(None);
        self.taking = Some(Taking { index, writer, phase, pin, first, last, bytes: 0 });
    }

    /// Name of the file of the snapshot that is being taken.
    ///
    /// # Panics
    /// When none is.
    pub fn name(&self) -> String {
        self.taking.as_ref().expect("a snapshot is being taken").writer.0.file()
    }

    /// The next part of the file, or `None` when all of it has been handed out. Visits no more than a slice: an empty
    /// part says that there is more to come.
    pub fn next_part(&mut self, store: &mut Store) -> Part {
        let taking = self.taking.as_mut().expect("a snapshot is being taken");
        if let Some(write) = taking.writer.0.next_write() {
            taking.bytes = write.offset + write.bytes().len() as u64;
            return Part::Write(write);
        }
        if matches!(taking.phase, Phase::Finished) {
            return Part::Nothing;
        }
        taking.slice(store);
        Part::Later
    }

    /// A part is written: its buffer is used again.
    pub fn written(&mut self, part: SnapshotWrite) {
        if let Some(taking) = &mut self.taking {
            taking.writer.0.give_back(part);
        }
    }

    /// The snapshot is durable under its name. Returns the name of the one before, which is of no use any more.
    pub fn done(&mut self, store: &mut Store) -> Option<String> {
        let taking = self.taking.take()?;
        store.unpin(taking.pin);
        let old = (self.last > 0).then(|| name::snapshot(self.last));
        self.last = taking.index;
        self.last_bytes = taking.bytes;
        old
    }

    /// The snapshot could not be written.
    pub fn failed(&mut self, store: &mut Store) {
        if let Some(taking) = self.taking.take() {
            store.unpin(taking.pin);
        }
    }
}

/// See [`Snapshots::next_part`].
#[derive(Debug)]
pub enum Part {
    /// To be written.
    Write(SnapshotWrite),
    /// A slice was read off, but there is nothing to write yet.
    Later,
    /// All of it has been handed out.
    Nothing,
}

impl Taking {
    fn slice(&mut self, store: &mut Store) {
        let mut record = Vec::new();
        let writer = &mut self.writer.0;
        match &mut self.phase {
            Phase::Finished => {}
            Phase::Files(after) => {
                let mut budget = SLICE;
                let rest = store.files_at(self.first, after.as_deref(), &mut budget, |path, rev, value| {
                    record.clear();
                    record.push(FILE);
                    record.extend_from_slice(&rev.to_le_bytes());
                    put_path(&mut record, path);
                    record.extend_from_slice(value);
                    writer.push(&record);
                    writer.pending() == 0
                });
                if rest.is_some() {
                    *after = rest;
                    return;
                }
                let mut path = b"/".to_vec();
                // Revision 0, the empty tree, has no event.
                let kind = store.event(self.first, &mut path).map_or(Kind::Nop, |event| event.kind);
                record.clear();
                record.extend_from_slice(&[FIRST, kind_code(kind)]);
                record.extend_from_slice(&path);
                writer.push(&record);
                self.phase = Phase::Events(self.first + 1);
            }
            Phase::Events(next) => {
                let mut path = Vec::new();
                for _ in 0..SLICE {
                    if *next > self.last || writer.pending() > 0 {
                        break;
                    }
                    let event = store.event(*next, &mut path).expect("later events are pinned");
                    record.clear();
                    record.extend_from_slice(&[EVENT, kind_code(event.kind)]);
                    put_path(&mut record, &path);
                    record.extend_from_slice(event.value);
                    writer.push(&record);
                    *next += 1;
                }
                // What has been read off need not be kept for the snapshot's sake.
                store.pin_to(self.pin, *next);
                if *next > self.last {
                    writer.finish();
                    self.phase = Phase::Finished;
                }
            }
        }
    }
}

fn put_path(record: &mut Vec<u8>, path: &[u8]) {
    let len = u16::try_from(path.len()).expect("a path within its limit");
    record.extend_from_slice(&len.to_le_bytes());
    record.extend_from_slice(path);
}

fn kind_code(kind: Kind) -> u8 {
    match kind {
        Kind::Nop => 0,
        Kind::Set => 1,
        Kind::Del => 2,
    }
}

fn encode_meta(node: &NodeId, first: i64, last: i64, seen: &BTreeMap<u64, Seen>, conf: &ConfState) -> Vec<u8> {
    let mut meta = vec![FORMAT];
    meta.extend_from_slice(node);
    meta.extend_from_slice(&first.to_le_bytes());
    meta.extend_from_slice(&last.to_le_bytes());
    let count = u32::try_from(seen.len()).expect("fewer servers than 2^32");
    meta.extend_from_slice(&count.to_le_bytes());
    for (node, seen) in seen {
        for number in [*node, seen.epoch, seen.seq] {
            meta.extend_from_slice(&number.to_le_bytes());
        }
    }
    meta.extend_from_slice(&conf.write_to_bytes().expect("a configuration has an encoding"));
    meta
}

/// What is wrong with a snapshot's contents, although all its blocks are whole: a fault of the writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadSnapshot {
    /// A layout that this version does not know.
    Format(u8),
    /// Another node has written it.
    Foreign(NodeId),
    /// A record or the meta is cut short or of an unknown kind.
    Record,
    /// The store refuses what it says.
    Load(LoadError),
    /// It ends at another revision than it says.
    Revision {
        /// What its meta says.
        says: i64,
        /// Where its events end.
        has: i64,
    },
}

impl std::fmt::Display for BadSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BadSnapshot::Format(v) => {
                write!(f, "its contents have format {v}, this version knows {FORMAT}")
            }
            BadSnapshot::Foreign(node) => {
                write!(f, "it is that of node {}: the directory holds files of two nodes", node.escape_ascii())
            }
            BadSnapshot::Record => write!(f, "a record cannot be read"),
            BadSnapshot::Load(e) => write!(f, "a record makes no sense: {e}"),
            BadSnapshot::Revision { says, has } => {
                write!(f, "it ends at revision {has}, and says {says}")
            }
        }
    }
}

/// Builds the state from a snapshot's pieces.
#[derive(Debug)]
pub struct Restore {
    loading: Loading,
    first: i64,
    last: i64,
    seen: BTreeMap<u64, Seen>,
    conf: ConfState,
}

#[derive(Debug)]
enum Loading {
    /// Files of the tree at the first revision are to come, and then its event.
    Files(Box<Loader>),
    /// Later events are to come.
    Events(Box<Store>),
    /// What came makes no sense.
    Failed,
}

impl Restore {
    /// Begins with the meta piece of a snapshot that `node` has written; `history` is how many past revisions are to stay
    /// readable.
    ///
    /// # Errors
    /// When it cannot be read, or another node has written it.
    pub fn begin(mut meta: &[u8], node: &NodeId, history: u64) -> Result<Restore, BadSnapshot> {
        let [format] = take(&mut meta)?;
        if format != FORMAT {
            return Err(BadSnapshot::Format(format));
        }
        let owner: NodeId = take(&mut meta)?;
        if owner != *node {
            return Err(BadSnapshot::Foreign(owner));
        }
        let first = i64::from_le_bytes(take(&mut meta)?);
        let last = i64::from_le_bytes(take(&mut meta)?);
        let count = u32::from_le_bytes(take(&mut meta)?);
        let mut seen = BTreeMap::new();
        for _ in 0..count {
            let node = u64::from_le_bytes(take(&mut meta)?);
            let epoch = u64::from_le_bytes(take(&mut meta)?);
            let seq = u64::from_le_bytes(take(&mut meta)?);
            seen.insert(node, Seen { epoch, seq });
        }
        let mut conf = ConfState::default();
        conf.merge_from_bytes(meta).map_err(|_| BadSnapshot::Record)?;
        Ok(Restore { loading: Loading::Files(Box::new(Loader::new(history))), first, last, seen, conf })
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// When it cannot be read or makes no sense.
    pub fn record(&mut self, mut record: &[u8]) -> Result<(), BadSnapshot> {
        let [what] = take(&mut record)?;
        match (what, &mut self.loading) {
            (FILE, Loading::Files(loader)) => {
                let rev = i64::from_le_bytes(take(&mut record)?);
                let path = take_path(&mut record)?;
                loader.file(path, rev, record).map_err(BadSnapshot::Load)
            }
            (FIRST, Loading::Files(_)) => {
                let kind = take_kind(&mut record)?;
                self.begin_events(kind, record)
            }
            (EVENT, Loading::Events(store)) => {
                let kind = take_kind(&mut record)?;
                let path = take_path(&mut record)?;
                store.replay(kind, path, record).map(|_| ()).map_err(BadSnapshot::Load)
            }
            _ => Err(BadSnapshot::Record),
        }
    }

    fn begin_events(&mut self, kind: Kind, path: &[u8]) -> Result<(), BadSnapshot> {
        let Loading::Files(loader) = std::mem::replace(&mut self.loading, Loading::Failed) else {
            return Err(BadSnapshot::Record);
        };
        let store = loader.finish(self.first, kind, path).map_err(BadSnapshot::Load)?;
        self.loading = Loading::Events(Box::new(store));
        Ok(())
    }

    /// The state, and the members of the group at that point.
    ///
    /// # Errors
    /// When something is missing.
    pub fn finish(self) -> Result<(Machine, ConfState), BadSnapshot> {
        let Loading::Events(store) = self.loading else { return Err(BadSnapshot::Record) };
        if store.revision() != self.last {
            return Err(BadSnapshot::Revision { says: self.last, has: store.revision() });
        }
        Ok((Machine::new(*store, self.seen), self.conf))
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], BadSnapshot> {
    let (&head, tail) = rest.split_first_chunk::<N>().ok_or(BadSnapshot::Record)?;
    *rest = tail;
    Ok(head)
}

fn take_kind(rest: &mut &[u8]) -> Result<Kind, BadSnapshot> {
    match take(rest)? {
        [0] => Ok(Kind::Nop),
        [1] => Ok(Kind::Set),
        [2] => Ok(Kind::Del),
        _ => Err(BadSnapshot::Record),
    }
}

fn take_path<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], BadSnapshot> {
    let len = usize::from(u16::from_le_bytes(take(rest)?));
    let (path, tail) = rest.split_at_checked(len).ok_or(BadSnapshot::Record)?;
    *rest = tail;
    Ok(path)
}
