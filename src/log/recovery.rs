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

use super::block::{Block, bytes_of_mut};
use super::damage::{Damage, Erase, Refusal, Salvage, Wrong};
use super::name::{self, Name};
use super::preface::Unfit;
use super::record::{self, HardState, OPENING, Record, State};
use super::scan::{self, Scan, Whole};
use super::segment::{self, Header, NodeId};
use super::snapshot::{Piece, SnapshotDamage, SnapshotFault, SnapshotReader, Summary};
use super::table::{self, AtSnapshot, Choice, Content, End, Fault, Join, Next, Rank, Reach, Verdict};
use super::writer::{Ahead, Current, Durable, Meter, Old, Position, Tail};
use crate::limits::BLOCK;
use std::collections::{BTreeMap, VecDeque};

/// Blocks that are read at once: 1 MiB.
const READ: usize = (1 << 20) / BLOCK;

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
    /// and [`recover`] says so.
    IdentityOnly,
    /// There are an identity and segments: read the identity, then [`recover`].
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
    let directory = Directory::sort(listing);
    let longest = listing.iter().map(|file| file.length).max().unwrap_or(0);
    let pieces = segment::blocks(longest).clamp(1, READ);
    let mut reader = Reader { node: *node, read, buffer: vec![Block::ZERO; pieces] };
    let run = directory.run()?;
    let base = run.base(&mut reader)?;
    let chosen = choose_snapshot(&directory, &run, &base, &mut reader, visit)?;
    let mut replay = Replay::new(&base, &chosen, visit);
    let ending = replay.segments(&run, &mut reader)?;
    let (restart, hard_state) = replay.join(&run, &chosen)?;
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

/// The files of a data directory, by kind, in order.
#[derive(Default)]
struct Directory {
    identity: bool,
    segments: BTreeMap<u64, u64>,
    snapshots: BTreeMap<u64, u64>,
    temporary: Vec<String>,
}

impl Directory {
    fn sort(listing: &[FileInfo]) -> Directory {
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
    fn run(&self) -> Result<Run, Box<Damage>> {
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
        Ok(Run { segments: segments.into(), before })
    }
}

/// Segments without a gap, up to the newest.
struct Run {
    /// Generation and length of each file.
    segments: Vec<(u64, u64)>,
    /// Generations before the gap.
    before: Vec<u64>,
}

/// Where the run begins.
struct Base {
    state: State,
    due: u64,
}

impl Run {
    /// Damage in the `at`-th segment, of whose writes `good` blocks are good.
    fn damage(&self, at: usize, block: usize, fault: Fault, good: usize, last: Option<u64>) -> Box<Damage> {
        let (generation, length) = self.segments[at];
        let file = name::segment(generation);
        let (from, mut salvage) = if good > 1 {
            let offset = segment::offset(good);
            let erase = Erase { file: file.clone(), offset, length: length.saturating_sub(offset) };
            (at + 1, Salvage { copy: vec![file.clone()], erase: vec![erase], ..Salvage::default() })
        } else {
            (at, Salvage::default())
        };
        salvage.set_aside = self.segments[from..].iter().map(|&(generation, _)| name::segment(generation)).collect();
        salvage.new_log = from == 0 && self.before.is_empty();
        let (wrong, salvage) = (Wrong::Log(fault), Some(salvage));
        Box::new(Damage { file, offset: segment::offset(block), wrong, last, salvage })
    }

    /// Damage that leaves nothing of the run to go on from.
    fn useless(&self, fault: Fault, last: Option<u64>) -> Box<Damage> {
        self.damage(0, 0, fault, 0, last)
    }

    /// The log before the run, as the run's first write tells it.
    fn base<E>(&self, reader: &mut Reader<'_, '_, E>) -> Result<Base, Refusal<E>> {
        let (generation, length) = self.segments[0];
        reader.preface(generation, length, |block, fault| self.damage(0, block, fault, 0, None))?;
        if generation == 1 {
            return Ok(Base { state: State::EMPTY, due: 1 });
        }
        let file = name::segment(generation);
        let mut block = [Block::ZERO];
        reader.read(&file, segment::offset(1), &mut block)?;
        match scan::first_write(generation, &block[0]) {
            Some((due, state)) => Ok(Base { state, due }),
            None => Err(self.useless(Fault::Gap, None).into()),
        }
    }
}

/// Reads files.
struct Reader<'r, 'f, E> {
    node: NodeId,
    read: &'r mut Read<'f, E>,
    buffer: Vec<Block>,
}

impl<E> Reader<'_, '_, E> {
    fn read(&mut self, file: &str, offset: u64, into: &mut [Block]) -> Result<(), Refusal<E>> {
        let read = (self.read)(file, offset, bytes_of_mut(into));
        read.map_err(|error| Refusal::Read { file: file.to_owned(), offset, error })
    }

    /// Checks a segment's preface against its name and its length.
    fn preface(
        &mut self,
        generation: u64,
        length: u64,
        damage: impl Fn(usize, Fault) -> Box<Damage>,
    ) -> Result<(), Refusal<E>> {
        let file = name::segment(generation);
        if length < BLOCK as u64 {
            return Err(damage(0, Fault::Length).into());
        }
        let mut block = [Block::ZERO];
        self.read(&file, 0, &mut block)?;
        let header = match Header::decode(&block[0].0) {
            Ok(header) => header,
            Err(Unfit::Bad) => return Err(damage(0, Fault::Preface).into()),
            Err(Unfit::Version(version)) => return Err(Refusal::UnknownVersion { file, version }),
        };
        if header.node != self.node {
            return Err(Refusal::Foreign { file, owner: header.node, node: self.node });
        }
        if header.generation != generation {
            return Err(damage(0, Fault::Misnamed).into());
        }
        if header.size != length {
            return Err(damage(segment::blocks(length.min(header.size)), Fault::Length).into());
        }
        Ok(())
    }

    /// Hands all blocks of a segment but its preface to `look`, in order.
    fn blocks(
        &mut self,
        generation: u64,
        length: u64,
        mut look: impl FnMut(usize, &[u8; BLOCK]) -> Result<(), Box<Damage>>,
    ) -> Result<(), Refusal<E>> {
        let file = name::segment(generation);
        let (mut at, blocks) = (1, segment::blocks(length));
        let mut buffer = std::mem::take(&mut self.buffer);
        while at < blocks {
            let count = buffer.len().min(blocks - at);
            self.read(&file, segment::offset(at), &mut buffer[..count])?;
            for (i, block) in buffer[..count].iter().enumerate() {
                look(at + i, &block.0)?;
            }
            at += count;
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Reads a whole snapshot.
    fn snapshot(
        &mut self,
        index: u64,
        length: u64,
        visit: &mut Visit<'_>,
    ) -> Result<Result<Summary, SnapshotDamage>, Refusal<E>> {
        let file = name::snapshot(index);
        let mut snapshot = SnapshotReader::new();
        let mut give = |piece: Piece<'_>| match piece {
            Piece::Meta { index, term, meta } => visit(Event::Snapshot { index, term, meta }),
            Piece::Record(record) => visit(Event::SnapshotRecord(record)),
        };
        let mut offset = 0;
        while offset < length {
            let buffer = bytes_of_mut(&mut self.buffer);
            let count = super::block::widen((length - offset).min(buffer.len() as u64));
            let bytes = &mut buffer[..count];
            let read = (self.read)(&file, offset, bytes);
            read.map_err(|error| Refusal::Read { file: file.clone(), offset, error })?;
            if let Err(damage) = snapshot.feed(bytes, &mut give) {
                return Ok(Err(damage));
            }
            offset += count as u64;
        }
        let summary = snapshot.finish();
        Ok(summary.and_then(|summary| {
            let astray = SnapshotDamage { offset: 0, fault: SnapshotFault::Astray };
            if summary.index == index { Ok(summary) } else { Err(astray) }
        }))
    }
}

/// The snapshot that is used: index 0 stands for the empty state.
struct Chosen {
    index: u64,
    term: u64,
    records: u64,
    bytes: u64,
    /// Those that are newer and damaged, the newest first.
    damaged: Vec<(String, SnapshotDamage)>,
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
            (Choice::Gap, _) => {
                let mut damage = run.useless(Fault::Gap, Some(index));
                damage.salvage = damage.salvage.filter(|_| index > 0 || !run.before.is_empty());
                return Err(damage.into());
            }
            (Choice::Damage | Choice::Use | Choice::FallBack, found) => {
                return Err(lost_snapshot(run, &damaged, index, found.is_ok()).into());
            }
        }
    }
    unreachable!("the empty state is whole, and is used or refused")
}

/// The newest snapshot is damaged, and nothing stands in for it.
fn lost_snapshot(run: &Run, damaged: &[(String, SnapshotDamage)], older: u64, whole: bool) -> Box<Damage> {
    let (file, damage) = damaged.first().expect("only a damaged one makes another the older");
    let salvage = (whole && older > 0).then(|| Salvage {
        set_aside: damaged
            .iter()
            .map(|(file, _)| file.clone())
            .chain(run.segments.iter().map(|&(generation, _)| name::segment(generation)))
            .collect(),
        new_log: run.before.is_empty(),
        ..Salvage::default()
    });
    let last = (whole && older > 0).then_some(older);
    Box::new(Damage { file: file.clone(), offset: damage.offset, wrong: Wrong::Snapshot(*damage), last, salvage })
}

/// Index and term behind which the log begins anew.
type Restart = Option<(u64, u64)>;

/// The log as it is read.
struct Replay<'v, 'f> {
    visit: &'v mut Visit<'f>,
    state: State,
    due: u64,
    /// Index of the snapshot.
    snapshot: u64,
    /// Term of the log's entry at that index.
    term_there: Option<u64>,
    /// Whether the log goes on behind a later snapshot.
    skips: bool,
    meter: Meter,
    statistics: Statistics,
    /// Highest index named in the segment that is read.
    highest: u64,
    /// Newest generation with a write that is not a seal.
    anchor: u64,
}

/// How the log ends.
struct Ending {
    current: Current,
    ahead: Ahead,
    old: VecDeque<Old>,
    anchor: u64,
    due: u64,
    torn: Option<Torn>,
}

impl<'v, 'f> Replay<'v, 'f> {
    fn new(base: &Base, chosen: &Chosen, visit: &'v mut Visit<'f>) -> Replay<'v, 'f> {
        let State { last_index, last_term, .. } = base.state;
        Replay {
            visit,
            state: base.state,
            due: base.due,
            snapshot: chosen.index,
            term_there: (last_index == chosen.index).then_some(last_term),
            skips: false,
            meter: Meter::default(),
            statistics: Statistics::default(),
            highest: 0,
            anchor: 0,
        }
    }

    /// Reads all segments of the run.
    fn segments<E>(&mut self, run: &Run, reader: &mut Reader<'_, '_, E>) -> Result<Ending, Refusal<E>> {
        let mut old = VecDeque::new();
        let mut buffer = Vec::new();
        for (at, &(generation, size)) in run.segments.iter().enumerate() {
            self.highest = 0;
            let scan = self.segment(run, at, reader, buffer)?;
            let next = self.next(run, at, &scan, reader)?;
            let verdict = table::end(scan.end(), next, at + 2 < run.segments.len());
            let (start, count) = (scan.start(), scan.torn_blocks());
            let torn = Torn {
                file: name::segment(generation),
                offset: segment::offset(start),
                length: segment::offset(count),
            };
            let ahead = match verdict {
                Verdict::GoOn => Ahead::Missing,
                Verdict::EndPrepared | Verdict::ErasePrepared => Ahead::Ready { size: run.segments[at + 1].1 },
                Verdict::End | Verdict::Erase => Ahead::Missing,
                Verdict::Damage(fault) => return Err(self.bad_end(run, at, &scan, fault).into()),
            };
            let current = Current { generation, size, next: start, highest: self.highest };
            if verdict == Verdict::GoOn {
                old.push_back(Old { generation, size, highest: self.highest });
                buffer = scan.into_buffer();
                continue;
            }
            let erases = matches!(verdict, Verdict::Erase | Verdict::ErasePrepared);
            let (anchor, due, torn) = (self.anchor, self.due, erases.then_some(torn));
            return Ok(Ending { current, ahead, old, anchor, due, torn });
        }
        unreachable!("the last segment has no successor, so the table says that the log ends there, or refuses")
    }

    /// Damage at the end of the `at`-th segment.
    fn bad_end(&self, run: &Run, at: usize, scan: &Scan, fault: Fault) -> Box<Damage> {
        let last = Some(self.state.last_index);
        match fault {
            // Without its seal the segment can be written on.
            Fault::NoSuccessor => run.damage(at, scan.start() - 1, fault, scan.start() - 1, last),
            _ => {
                let mut damage = run.damage(at + 1, 0, fault, 0, last);
                damage.file = name::segment(run.segments[at].0);
                damage.offset = segment::offset(scan.start());
                damage
            }
        }
    }

    /// Reads one segment to its end.
    fn segment<E>(
        &mut self,
        run: &Run,
        at: usize,
        reader: &mut Reader<'_, '_, E>,
        buffer: Vec<u8>,
    ) -> Result<Scan, Refusal<E>> {
        let (generation, size) = run.segments[at];
        let last = Some(self.state.last_index);
        reader.preface(generation, size, |block, fault| run.damage(at, block, fault, 0, last))?;
        let mut scan = Scan::new(generation, segment::blocks(size), self.due, buffer);
        self.statistics.segments += 1;
        reader.blocks(generation, size, |block, bytes| {
            let result = scan.block(block, bytes, &mut |whole| self.write(generation, &whole));
            result.map_err(|fault| {
                let place = if fault == Fault::Hole { scan.start() } else { block };
                run.damage(at, place, fault, scan.start(), Some(self.state.last_index))
            })
        })?;
        self.due = scan.due();
        Ok(scan)
    }

    /// Looks at the segment behind one whose end was found.
    fn next<E>(&self, run: &Run, at: usize, scan: &Scan, reader: &mut Reader<'_, '_, E>) -> Result<Next, Refusal<E>> {
        let Some(&(generation, size)) = run.segments.get(at + 1) else {
            return Ok(Next::Missing);
        };
        if scan.end() == End::Sealed {
            // It is read in its turn; the table asks no more than that it is there.
            return Ok(Next::Used);
        }
        let last = Some(self.state.last_index);
        let damage = |block, fault| run.damage(at + 1, block, fault, 0, last);
        reader.preface(generation, size, damage)?;
        let mut ahead = Scan::ahead(generation, segment::blocks(size), scan.due());
        reader.blocks(generation, size, |block, bytes| {
            ahead.block(block, bytes, &mut |_| Ok(())).map_err(|fault| damage(block, fault))
        })?;
        Ok(if ahead.used() { Next::Used } else { Next::Empty })
    }

    /// Takes a whole write.
    fn write(&mut self, generation: u64, whole: &Whole<'_>) -> Result<(), Fault> {
        let mut state = State::decode(whole.payload).ok_or(Fault::Opening)?;
        if state != self.state {
            return Err(Fault::Opening);
        }
        let mut rest = &whole.payload[OPENING..];
        if whole.seal != rest.is_empty() {
            return Err(Fault::Record);
        }
        while !rest.is_empty() {
            let (position, record, size) = record::decode(rest).ok_or(Fault::Record)?;
            let after = state.after(&record).map_err(|_| Fault::Sequence)?;
            if position != state.position {
                return Err(Fault::Sequence);
            }
            self.record(position, &record);
            state = after;
            rest = &rest[size..];
        }
        self.state = state;
        if !whole.seal {
            self.anchor = generation;
        }
        self.statistics.writes += 1;
        self.statistics.bytes += segment::offset(whole.blocks);
        self.meter.add(state.last_index, segment::offset(whole.blocks));
        Ok(())
    }

    fn record(&mut self, position: u64, record: &Record<'_>) {
        self.statistics.records += 1;
        match *record {
            Record::Entry { index, term, .. } => {
                self.statistics.entries += 1;
                self.highest = self.highest.max(index);
                self.note_term(index, term);
            }
            Record::Restart { index, term } => {
                self.highest = self.highest.max(index);
                self.skips = index > self.snapshot;
                self.note_term(index, term);
            }
            Record::HardState(_) => {}
        }
        (self.visit)(Event::Record { position: Position(position), record: *record });
    }

    /// Keeps the term of the entry at the snapshot's index.
    fn note_term(&mut self, index: u64, term: u64) {
        match index.cmp(&self.snapshot) {
            std::cmp::Ordering::Less => self.term_there = None,
            std::cmp::Ordering::Equal => self.term_there = Some(term),
            std::cmp::Ordering::Greater => {}
        }
    }

    /// Joins the log to the snapshot: where it has to begin anew, and the hard state.
    fn join(&mut self, run: &Run, chosen: &Chosen) -> Result<(Restart, HardState), Box<Damage>> {
        let State { position, last_index, last_term, mut hard } = self.state;
        let at = match self.term_there {
            _ if self.skips => AtSnapshot::Skipped,
            _ if last_index < chosen.index => AtSnapshot::Before,
            Some(term) if term == chosen.term => AtSnapshot::Same,
            _ => AtSnapshot::Other,
        };
        let restart = match table::join(at, hard.commit >= chosen.index) {
            Join::Keep => None,
            Join::Restart => Some((chosen.index, chosen.term)),
            Join::Damage(fault) => {
                let mut damage = run.useless(fault, (chosen.index > 0).then_some(chosen.index));
                damage.salvage = damage.salvage.filter(|_| fault == Fault::NoSnapshot && chosen.index > 0);
                return Err(damage);
            }
        };
        if let Some((index, term)) = restart {
            let record = Record::Restart { index, term };
            (self.visit)(Event::Record { position: Position(position), record });
        }
        // An entry of a later term than the hard state's was staged before that hard state, and a write between them was cut:
        // nothing was voted in that term.
        let term = hard.term.max(chosen.term).max(restart.map_or(last_term, |(_, term)| term));
        if term > hard.term {
            hard = HardState { term, vote: 0, ..hard };
        }
        hard.commit = hard.commit.max(chosen.index);
        Ok((restart, hard))
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
    steps.extend(chosen.damaged.iter().map(|(file, _)| Step::SetAside(file.clone())));
    steps.extend(directory.temporary.iter().cloned().map(Step::Remove));
    let older = directory.snapshots.range(..chosen.index).map(|(&index, _)| Step::Remove(name::snapshot(index)));
    steps.extend(older);
    steps.extend(run.before.iter().map(|&generation| Step::Remove(name::segment(generation))));
    steps.push(Step::SyncDirectory);
    steps
}
