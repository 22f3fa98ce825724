//! Snapshots: the state, read off in slices while commits go on, and read back.
//!
//! A snapshot covers the log up to one applied index. It holds the tree at the oldest retained revision and, behind it,
//! the events of every later one up to that index: from these, all retained revisions come back, and nothing is in it
//! twice. While it is read off the store keeps its history from there on (a pin); each slice visits a bounded number
//! of files or events, so a commit waits for a slice at most.
//!
//! ```text
//! meta    format u8 | node id, 16 bytes | state
//! state   first revision i64 | last revision i64 | n u32 | n * (raft id u64 | epoch u64 | seq u64)
//!         | next raft id u64 | n u32 | n * (raft id u64 | node id, 16 bytes | incarnation u64 | addr length u16 | addr) | ConfState
//! record  1 | rev i64 | path length u16 | path | value        a file of the tree at the first revision, in walk order
//!         2 | kind u8 | path                                  the event of the first revision; its value is in the tree
//!         3 | kind u8 | path length u16 | path | value        the events of the later revisions, in order
//! ```
//! Integers are little-endian; ConfState is raft's, in its own encoding. A [`Source`] reads the records off a store, for a file of
//! this server's ([`Snapshots`]) or for a peer (`transfer`); a [`Restore`] makes a state of them.

use std::collections::BTreeMap;

use protobuf::Message as _;
use raft::eraftpb::ConfState;

use super::group::is_flat;
use super::machine::{Machine, Seen};
use super::members::{Member, Members};
use super::transfer::Receiving;
use super::vetting;
use crate::faults::{self, Fault};
use crate::limits;
use crate::log::{NodeId, SnapshotWrite, SnapshotWriter, name};
use crate::store::{Kind, LoadError, Loader, Lookup, PinId, Store};

const FORMAT: u8 = 1;
const FILE: u8 = 1;
const FIRST: u8 = 2;
const EVENT: u8 = 3;

/// Files or events that are visited in one slice.
const SLICE: isize = 250;

/// Reads a state off a store, in slices, while the store goes on.
#[derive(Debug)]
pub struct Source {
    pin: PinId,
    phase: Phase,
    first: i64,
    last: i64,
}

#[derive(Debug)]
enum Phase {
    /// The tree, behind this path.
    Files(Option<Vec<u8>>),
    /// The events, from this revision on.
    Events(i64),
    Finished,
}

impl Source {
    /// Begins with the state as it is now, which is kept until [`Source::end`]. Also gives the description with which a
    /// [`Restore`] begins.
    pub fn begin(machine: &mut Machine) -> (Source, Vec<u8>) {
        let last = machine.store.revision();
        let (pin, first) = machine.store.pin();
        let state = encode_state(first, last, machine);
        (Source { pin, phase: Phase::Files(None), first, last }, state)
    }

    /// Whether all was read off.
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Finished)
    }

    /// Gives the next records to `sink`, no more than a slice, and until it says that it is full.
    pub fn slice(&mut self, store: &mut Store, mut sink: impl FnMut(&[u8]) -> bool) {
        let mut record = Vec::new();
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
                    !sink(&record)
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
                sink(&record);
                self.events(store, self.first + 1);
            }
            Phase::Events(next) => {
                let mut next = *next;
                let mut path = Vec::new();
                for _ in 0..SLICE {
                    if next > self.last {
                        break;
                    }
                    let event = store.event(next, &mut path).expect("later events are pinned");
                    record.clear();
                    record.extend_from_slice(&[EVENT, kind_code(event.kind)]);
                    put_path(&mut record, &path);
                    let latest = || matches!(store.lookup(&path, self.last), Lookup::File { rev, .. } if rev == next);
                    if !faults::is_armed(Fault::SnapshotOfLatestValues) || latest() {
                        record.extend_from_slice(event.value);
                    }
                    next += 1;
                    if sink(&record) {
                        break;
                    }
                }
                self.events(store, next);
            }
        }
    }

    /// Goes on with the events from `next` on. What has been read off need not be kept.
    fn events(&mut self, store: &mut Store, next: i64) {
        store.pin_to(self.pin, next);
        self.phase = if next > self.last { Phase::Finished } else { Phase::Events(next) };
    }

    /// Lets the store forget.
    pub fn end(self, store: &mut Store) {
        store.unpin(self.pin);
    }
}

/// Decides when to take a snapshot, and has one written: of this server's state, or the one that the leader sends.
#[derive(Debug)]
pub struct Snapshots {
    /// A snapshot is due when the log since the last one has this size, in bytes.
    after: u64,
    /// The last entry that a durable snapshot covers, and the size of that snapshot.
    last: u64,
    last_bytes: u64,
    taking: Option<Taking>,
    /// A file is being written.
    in_hand: bool,
    /// The one in the making was given up.
    abandoned: bool,
    /// One that was received is durable under its name.
    received: Option<Received>,
    /// Size of the log's new segments, in bytes.
    segment: u64,
}

#[derive(Debug)]
struct Taking {
    index: u64,
    writer: Writer,
    from: From,
    bytes: u64,
}

#[derive(Debug)]
enum From {
    Own(Source),
    Leader(Box<Receiving>),
}

struct Writer(SnapshotWriter);

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SnapshotWriter")
    }
}

/// A snapshot from the leader that is durable.
#[derive(Debug)]
pub struct Received {
    /// The last entry that it covers.
    pub index: u64,
    /// Where it came from.
    pub receiving: Box<Receiving>,
}

impl Snapshots {
    /// Goes on from a snapshot that covers the entries up to `last`, 0 without one. `segment` is the size of the log's new
    /// segments, in bytes.
    pub fn new(last: u64, last_bytes: u64, segment: u64) -> Snapshots {
        Snapshots {
            after: limits::SNAPSHOT_AFTER * segment,
            last,
            last_bytes,
            taking: None,
            in_hand: false,
            abandoned: false,
            received: None,
            segment,
        }
    }

    /// Takes one when the log has this size, in bytes.
    pub fn hurry(&mut self, after: u64) {
        self.after = after.min(limits::SNAPSHOT_AFTER * self.segment);
    }

    /// The last entry that a durable snapshot covers.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// None is being taken or received.
    pub fn is_idle(&self) -> bool {
        self.taking.is_none() && self.received.is_none() && !self.in_hand
    }

    /// Whether the one that is being received has something for the file, or a file is to be given up.
    pub fn wants_writing(&self) -> bool {
        let received = match self.taking.as_ref().map(|taking| &taking.from) {
            Some(From::Leader(receiving)) => receiving.has_records() || receiving.is_written(),
            _ => false,
        };
        received || (self.in_hand && self.abandoned)
    }

    /// A file is begun, if there is one to be written.
    pub fn take_in_hand(&mut self) -> bool {
        let begins = self.taking.is_some() && !self.in_hand;
        self.in_hand |= begins;
        begins
    }

    /// Whether the log since the last snapshot is long enough, against the snapshot's size, to be worth another; if the
    /// log is `pressed` for space, whether there is anything to gain.
    pub fn is_due(&self, log_bytes: u64, pressed: bool) -> bool {
        let enough = if pressed { self.segment / 2 } else { self.after.max(self.last_bytes) };
        self.is_idle() && log_bytes > enough
    }

    /// Whether the log has grown by a segment more than makes a snapshot due.
    pub fn is_overdue(&self, log_bytes: u64) -> bool {
        log_bytes > self.after.max(self.last_bytes) + self.segment
    }

    /// Size that the next snapshot may have, by the last one, in bytes.
    pub fn estimate(&self) -> u64 {
        self.last_bytes + self.last_bytes / 4 + limits::SNAPSHOT_RESERVE
    }

    /// Begins a snapshot of the applied state.
    pub fn begin(&mut self, machine: &mut Machine, node: &NodeId, index: u64, term: u64) {
        let (source, state) = Source::begin(machine);
        self.start(node, index, term, &state, From::Own(source));
    }

    /// Begins to write down the snapshot that is being received.
    pub fn begin_received(&mut self, receiving: Box<Receiving>, node: &NodeId) {
        let (index, term, state) = receiving.describe();
        self.start(node, index, term, &state, From::Leader(receiving));
    }

    fn start(&mut self, node: &NodeId, index: u64, term: u64, state: &[u8], from: From) {
        let meta = [&[FORMAT][..], node, state].concat();
        let writer = Writer(SnapshotWriter::new(index, term, &meta));
        self.taking = Some(Taking { index, writer, from, bytes: 0 });
    }

    /// The snapshot that is being received.
    pub fn receiving(&mut self) -> Option<&mut Receiving> {
        match &mut self.taking.as_mut()?.from {
            From::Leader(receiving) => Some(receiving),
            From::Own(_) => None,
        }
    }

    /// Gives up what is being taken or received; what was written of it goes. A durable one that was received stays as a
    /// file, for it is a true state, but is not gone on from.
    pub fn abandon(&mut self, store: &mut Store) {
        self.received = None;
        if let Some(taking) = self.taking.take() {
            self.abandoned = self.in_hand;
            if let From::Own(source) = taking.from {
                source.end(store);
            }
        }
    }

    /// The durable snapshot from the leader, to go on from.
    pub fn received(&self) -> Option<&Received> {
        self.received.as_ref()
    }

    /// Takes it out.
    pub fn take_received(&mut self) -> Option<Received> {
        self.received.take()
    }

    /// Name of the file of the snapshot that is being taken.
    ///
    /// # Panics
    /// When none is.
    pub fn name(&self) -> String {
        self.taking.as_ref().expect("a snapshot is being taken").writer.0.file()
    }

    /// The next part of the file. Visits no more than a slice.
    pub fn next_part(&mut self, store: &mut Store) -> Part {
        if std::mem::take(&mut self.abandoned) {
            self.in_hand = false;
            return Part::Abandon;
        }
        let taking = self.taking.as_mut().expect("a snapshot is being taken");
        let writer = &mut taking.writer.0;
        if let Some(write) = writer.next_write() {
            taking.bytes = write.offset + write.bytes().len() as u64;
            return Part::Write(write);
        }
        match &mut taking.from {
            From::Own(source) if source.is_finished() => return Part::Nothing,
            From::Own(source) => {
                source.slice(store, |record| {
                    writer.push(record);
                    writer.pending() > 0
                });
                if source.is_finished() {
                    writer.finish();
                }
            }
            From::Leader(receiving) => {
                if receiving.is_written() {
                    return Part::Nothing;
                }
                if !receiving.write(|record| {
                    writer.push(record);
                    writer.pending() > 0
                }) {
                    return Part::Wait;
                }
                if receiving.is_written() {
                    writer.finish();
                }
            }
        }
        Part::Later
    }

    /// A part is written: its buffer is used again.
    pub fn written(&mut self, part: SnapshotWrite) {
        if let Some(taking) = &mut self.taking {
            taking.writer.0.give_back(part);
        }
    }

    /// The snapshot is durable under its name. Returns the name of the one before, which is of no use any more, unless this one
    /// was received: it is not gone on from yet.
    pub fn done(&mut self, store: &mut Store) -> Option<String> {
        self.in_hand = false;
        if std::mem::take(&mut self.abandoned) {
            return None;
        }
        let taking = self.taking.take()?;
        match taking.from {
            From::Own(source) => {
                source.end(store);
                self.adopt(taking.index, taking.bytes)
            }
            From::Leader(receiving) => {
                self.last_bytes = taking.bytes;
                self.received = Some(Received { index: taking.index, receiving });
                None
            }
        }
    }

    /// The durable snapshot up to `index` is the one to go on from. Returns the name of the one before.
    pub fn adopt(&mut self, index: u64, bytes: u64) -> Option<String> {
        let old = (self.last > 0 && self.last != index && !faults::is_armed(Fault::SnapshotsKept))
            .then(|| name::snapshot(self.last));
        self.last = index;
        self.last_bytes = bytes;
        old
    }

    /// Size of the last snapshot that was written, in bytes.
    pub fn last_bytes(&self) -> u64 {
        self.last_bytes
    }

    /// Gives up writing the snapshot, and returns how many of its bytes were written.
    pub fn failed(&mut self, store: &mut Store) -> u64 {
        let written = self.taking.as_ref().map_or(0, |taking| taking.bytes);
        self.abandon(store);
        self.abandoned = false;
        self.in_hand = false;
        written
    }
}

/// See [`Snapshots::next_part`].
#[derive(Debug)]
pub enum Part {
    /// To be written.
    Write(SnapshotWrite),
    /// A slice was read off, but there is nothing to write yet.
    Later,
    /// More is to come from the leader.
    Wait,
    /// It was given up: remove what was written.
    Abandon,
    /// All of it has been handed out.
    Nothing,
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

fn encode_state(first: i64, last: i64, machine: &Machine) -> Vec<u8> {
    let count = |n: usize| u32::try_from(n).expect("fewer servers than 2^32").to_le_bytes();
    let mut state = Vec::new();
    state.extend_from_slice(&first.to_le_bytes());
    state.extend_from_slice(&last.to_le_bytes());
    let nothing = BTreeMap::new();
    let seen = if faults::is_armed(Fault::SeenLeftOut) { &nothing } else { machine.seen() };
    state.extend_from_slice(&count(seen.len()));
    for (node, seen) in seen {
        for number in [*node, seen.epoch, seen.seq] {
            state.extend_from_slice(&number.to_le_bytes());
        }
    }
    let members = &machine.members;
    state.extend_from_slice(&members.next().to_le_bytes());
    state.extend_from_slice(&count(members.nodes().len()));
    for (id, member) in members.nodes() {
        state.extend_from_slice(&id.to_le_bytes());
        state.extend_from_slice(&member.node);
        let incarnation = if faults::is_armed(Fault::IncarnationsLeftOut) { 0 } else { member.incarnation };
        state.extend_from_slice(&incarnation.to_le_bytes());
        put_path(&mut state, member.addr.as_bytes());
    }
    state.extend_from_slice(&members.conf().write_to_bytes().expect("a configuration has an encoding"));
    state
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
    /// The meta holds a number that no server counts to.
    Number,
    /// The members make no sense: there is no voter, or a node is a member twice, or has a raft id that was never given.
    Members,
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
            BadSnapshot::Number => write!(f, "it holds a number that no server counts to"),
            BadSnapshot::Members => write!(f, "its members make no sense"),
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
    members: Members,
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
        Restore::of_state(meta, history)
    }

    /// Begins with what [`Source::begin`] gave.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_state(mut state: &[u8], history: u64) -> Result<Restore, BadSnapshot> {
        let state = &mut state;
        let (first, last) = (take_counted(state)?.cast_signed(), take_counted(state)?.cast_signed());
        let mut seen = BTreeMap::new();
        for _ in 0..u32::from_le_bytes(take(state)?) {
            let node = take_u64(state)?;
            seen.insert(node, Seen { epoch: take_u64(state)?, seq: take_counted(state)? });
        }
        let next = take_counted(state)?;
        let mut nodes = BTreeMap::new();
        for _ in 0..u32::from_le_bytes(take(state)?) {
            let id = take_u64(state)?;
            let (node, incarnation) = (take(state)?, take_u64(state)?);
            let addr = String::from_utf8_lossy(take_path(state)?).into_owned();
            nodes.insert(id, Member { node, incarnation, addr });
        }
        let mut conf = ConfState::default();
        if !is_flat(state, None) {
            return Err(BadSnapshot::Record);
        }
        conf.merge_from_bytes(state).map_err(|_| BadSnapshot::Record)?;
        // A node with raft id 0 would be admitted as a standby, and raft has none of that id.
        if !vetting::members(&conf, next) || nodes.keys().any(|id| *id == 0 || *id >= next) {
            return Err(BadSnapshot::Members);
        }
        let members = Members::with(conf, nodes, next);
        Ok(Restore { loading: Loading::Files(Box::new(Loader::new(history))), first, last, seen, members })
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

    /// The state.
    ///
    /// # Errors
    /// When something is missing.
    pub fn finish(self) -> Result<Machine, BadSnapshot> {
        let Loading::Events(store) = self.loading else { return Err(BadSnapshot::Record) };
        if store.revision() != self.last {
            return Err(BadSnapshot::Revision { says: self.last, has: store.revision() });
        }
        Ok(Machine::new(*store, self.members, self.seen))
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], BadSnapshot> {
    let (&head, tail) = rest.split_first_chunk::<N>().ok_or(BadSnapshot::Record)?;
    *rest = tail;
    Ok(head)
}

fn take_u64(rest: &mut &[u8]) -> Result<u64, BadSnapshot> {
    take(rest).map(u64::from_le_bytes)
}

/// Takes a number that the server counts on from.
fn take_counted(rest: &mut &[u8]) -> Result<u64, BadSnapshot> {
    take_u64(rest).and_then(|number| if number <= limits::COUNT_MAX { Ok(number) } else { Err(BadSnapshot::Number) })
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
