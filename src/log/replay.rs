//! Replays the log: segment by segment, write by write, record by record, up to its end, and joins it to the snapshot.
//!
//! Invariants:
//! * Each write's opening must be the state that the writes before it have led to: two accounts of the same history.
//! * The state moves on at the end of a write, never inside one.

use super::block::Block;
use super::damage::{Damage, Refusal};
use super::directory::Run;
use super::name;
use super::read::Reader;
use super::record::{self, HardState, OPENING, Record, State};
use super::recovery::{Chosen, Event, Statistics, Torn, Visit};
use super::scan::{self, Scan, Whole};
use super::segment;
use super::table::{self, AtSnapshot, End, Fault, Join, Next, Verdict};
use super::writer::{Ahead, Current, Meter, Old, Position};
use crate::faults;
use crate::limits::COUNT_MAX;
use std::collections::VecDeque;

/// Where the run begins.
pub(super) struct Base {
    pub state: State,
    pub due: u64,
}

impl Base {
    /// The log before the run, as the run's first write tells it.
    pub(super) fn find<E>(run: &Run, reader: &mut Reader<'_, '_, E>) -> Result<Base, Refusal<E>> {
        let (generation, length) = run.segments[0];
        reader.preface(generation, length, |block, fault| run.damage(0, block, fault, 0, None))?;
        if generation == 1 {
            return Ok(Base { state: State::EMPTY, due: 1 });
        }
        let file = name::segment(generation);
        let mut block = [Block::ZERO];
        reader.read(&file, segment::offset(1), &mut block)?;
        match scan::first_write(generation, &block[0]) {
            Some((due, state)) if due <= COUNT_MAX && state.is_possible() => Ok(Base { state, due }),
            Some(_) => Err(run.damage(0, 1, Fault::Number, 0, None).into()),
            None => Err(run.useless(Fault::Gap, None).into()),
        }
    }
}

/// Index and term behind which the log begins anew.
pub(super) type Restart = Option<(u64, u64)>;

/// The log as it is read.
pub(super) struct Replay<'v, 'f> {
    visit: &'v mut Visit<'f>,
    pub state: State,
    due: u64,
    /// Index of the snapshot.
    snapshot: u64,
    /// Term of the log's entry at that index.
    term_there: Option<u64>,
    /// Whether the log goes on behind a later snapshot.
    skips: bool,
    pub meter: Meter,
    pub statistics: Statistics,
    /// Highest index named in the segment that is read.
    highest: u64,
    /// Newest generation with a write that is not a seal.
    anchor: u64,
}

/// How the log ends.
pub(super) struct Ending {
    pub current: Current,
    pub ahead: Ahead,
    pub old: VecDeque<Old>,
    pub anchor: u64,
    pub due: u64,
    pub torn: Option<Torn>,
}

impl<'v, 'f> Replay<'v, 'f> {
    pub(super) fn new(base: &Base, chosen: &Chosen, visit: &'v mut Visit<'f>) -> Replay<'v, 'f> {
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
    pub(super) fn segments<E>(&mut self, run: &Run, reader: &mut Reader<'_, '_, E>) -> Result<Ending, Refusal<E>> {
        let mut old = VecDeque::new();
        let mut buffer = Vec::new();
        for (at, &(generation, size)) in run.segments.iter().enumerate() {
            self.highest = 0;
            let scan = self.segment(run, at, reader, buffer)?;
            if at == 0 && generation > 1 && scan.start() == 1 {
                // The segments before it are given up only when a later one holds a durable write.
                return Err(run.useless(Fault::Gap, None).into());
            }
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
            let erases = matches!(verdict, Verdict::Erase | Verdict::ErasePrepared)
                && !faults::is_armed(faults::Fault::TornTailNotErased);
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
            let Some((position, record, size)) = record::decode(rest) else {
                if faults::is_armed(faults::Fault::TornTailAccepted) {
                    break;
                }
                return Err(Fault::Record);
            };
            let after = state.after(&record).map_err(|_| Fault::Sequence)?;
            if position != state.position {
                return Err(Fault::Sequence);
            }
            if !after.is_possible() {
                return Err(Fault::Number);
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
    pub(super) fn join(&mut self, run: &Run, chosen: &Chosen) -> Result<(Restart, HardState), Box<Damage>> {
        let State { position, last_index, last_term, mut hard } = self.state;
        let at = match self.term_there {
            _ if self.skips => AtSnapshot::Skipped,
            _ if last_index < chosen.newest_damaged() => AtSnapshot::Lacks,
            _ if last_index < chosen.index => AtSnapshot::Before,
            Some(term) if term == chosen.term => AtSnapshot::Same,
            _ => AtSnapshot::Other,
        };
        let restart = match table::join(at, hard.commit >= chosen.index) {
            Join::Keep => None,
            Join::Restart => Some((chosen.index, chosen.term)),
            Join::Damage(fault) => {
                let mut damage = run.useless(fault, Some(chosen.index));
                damage.salvage = damage.salvage.filter(|_| fault == Fault::NoSnapshot);
                return Err(damage);
            }
            Join::DamagedSnapshot => return Err(chosen.lost(last_index)),
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
