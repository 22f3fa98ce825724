//! Records: what a write's payload is made of.
//!
//! The payload of a write is its opening, then whole records; both may cross from one block into the next.
//!
//! ```text
//! opening: the state of the log before this write           record
//!  0  8  position of the first record                         0  4  crc32 of bytes 4..36 and of the data
//!  8  8  index of the last entry                              4  4  length of the data
//! 16  8  term of the last entry                               8  8  position: 1, 2, 3… over all segments
//! 24  8  hard state: term                                    16  8  entry: index   hard state: term   restart: index
//! 32  8  hard state: vote                                    24  8  entry: term    hard state: vote   restart: term
//! 40  8  hard state: commit                                  32  1  kind: 1 = entry, 2 = hard state, 3 = restart
//!                                                            33  1  entry: its type
//!                                                            34  2  zero
//!                                                            36  …  entry: its data   hard state: commit (8)
//! ```
//! Invariants, asserted when a record is staged and checked when it is read:
//! * positions are consecutive over all segments;
//! * an entry's index is at most the last one's plus 1, and above the commit index. At or below the last one it replaces
//!   the log from there on: raft overwrites what was not committed;
//! * a restart voids all entries: the log goes on behind a snapshot that came from the leader. Its index is not below commit;
//! * terms of hard states do not fall, nor does commit, which is never above the last entry.
//!
//! The opening makes every segment readable without those before it, and is a second account of the first.

use super::block::{get_u16, get_u32, get_u64, narrow, put_u32, put_u64, widen};
use crate::limits::COUNT_MAX;

/// Bytes of a write's opening.
pub(super) const OPENING: usize = 48;

const CRC: usize = 0;
const LENGTH: usize = CRC + 4;
const POSITION: usize = LENGTH + 4;
const FIRST: usize = POSITION + 8;
const SECOND: usize = FIRST + 8;
const KIND: usize = SECOND + 8;
const TYPE: usize = KIND + 1;
const ZERO: usize = TYPE + 1;
/// Bytes that a record takes beside its data.
pub const RECORD_HEAD: usize = ZERO + 2;
const _: () = assert!(RECORD_HEAD == 36);

const ENTRY: u8 = 1;
const HARD_STATE: u8 = 2;
const RESTART: u8 = 3;

/// Raft's own durable state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Latest term that the node has seen.
    pub term: u64,
    /// Raft id that it voted for in that term; 0 for none.
    pub vote: u64,
    /// Index of the last entry known to be committed.
    pub commit: u64,
}

/// One record of the log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// An entry of raft. It replaces all entries from its index on.
    Entry {
        /// Its index, from 1.
        index: u64,
        /// Term of the leader that made it.
        term: u64,
        /// Raft's type of entry.
        entry_type: u8,
        /// What the replica put into it.
        data: &'a [u8],
    },
    /// The hard state from here on.
    HardState(HardState),
    /// All entries before are void: the log goes on behind the snapshot at this index.
    Restart {
        /// Index of the snapshot.
        index: u64,
        /// Term of the entry at that index.
        term: u64,
    },
}

impl std::fmt::Debug for Record<'_> {
    /// Without an entry's data, which may be megabytes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Record::Entry { index, term, data, .. } => {
                write!(f, "entry {index} of term {term}, {} bytes", data.len())
            }
            Record::HardState(hard) => hard.fmt(f),
            Record::Restart { index, term } => write!(f, "restart behind {index} of term {term}"),
        }
    }
}

/// What the log amounts to at some point of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// Position of the next record.
    pub position: u64,
    pub last_index: u64,
    pub last_term: u64,
    pub hard: HardState,
}

impl State {
    /// The state of a log without records.
    pub(super) const EMPTY: State =
        State { position: 1, last_index: 0, last_term: 0, hard: HardState { term: 0, vote: 0, commit: 0 } };

    pub(super) fn encode(&self) -> [u8; OPENING] {
        let mut at = [0; OPENING];
        let fields = [self.position, self.last_index, self.last_term, self.hard.term, self.hard.vote, self.hard.commit];
        for (slot, field) in at.as_chunks_mut::<8>().0.iter_mut().zip(fields) {
            *slot = field.to_le_bytes();
        }
        at
    }

    /// Reads an opening; `None` if the payload is too short for one.
    pub(super) fn decode(payload: &[u8]) -> Option<State> {
        let at = payload.get(..OPENING)?;
        let hard = HardState { term: get_u64(at, 24), vote: get_u64(at, 32), commit: get_u64(at, 40) };
        Some(State { position: get_u64(at, 0), last_index: get_u64(at, 8), last_term: get_u64(at, 16), hard })
    }

    /// Whether a log can have got there: no number is larger than a log can count to, and what is committed is in the log. Recovery
    /// asks, since a right crc does not prove that a server wrote the numbers.
    pub(super) fn is_possible(&self) -> bool {
        let HardState { term, vote, commit } = self.hard;
        let counted = [self.position, self.last_index, self.last_term, term, vote, commit];
        self.position > 0 && commit <= self.last_index && counted.into_iter().all(|number| number <= COUNT_MAX)
    }

    /// The state after `record`, or why it cannot follow.
    pub(super) fn after(&self, record: &Record<'_>) -> Result<State, &'static str> {
        let mut next = State { position: self.position.saturating_add(1), ..*self };
        match *record {
            Record::Entry { index, term, .. } => {
                if index <= self.hard.commit {
                    return Err("an entry replaces a committed one");
                }
                if index > self.last_index.saturating_add(1) {
                    return Err("an entry leaves a gap behind the last one");
                }
                (next.last_index, next.last_term) = (index, term);
            }
            Record::HardState(hard) => {
                if hard.term < self.hard.term {
                    return Err("the term falls");
                }
                if hard.commit < self.hard.commit {
                    return Err("the commit index falls");
                }
                if hard.commit > self.last_index {
                    return Err("the commit index lies behind the last entry");
                }
                next.hard = hard;
            }
            Record::Restart { index, term } => {
                if index < self.hard.commit {
                    return Err("a restart drops committed entries");
                }
                (next.last_index, next.last_term) = (index, term);
            }
        }
        Ok(next)
    }
}

/// A record's header, with the crc over it and its data.
pub(super) fn encode<'a>(record: &Record<'a>, position: u64) -> ([u8; RECORD_HEAD], Data<'a>) {
    let (first, second, kind, entry_type, data) = match *record {
        Record::Entry { index, term, entry_type, data } => (index, term, ENTRY, entry_type, Data::Entry(data)),
        Record::HardState(hard) => (hard.term, hard.vote, HARD_STATE, 0, Data::Commit(hard.commit.to_le_bytes())),
        Record::Restart { index, term } => (index, term, RESTART, 0, Data::Entry(&[])),
    };
    let bytes = data.bytes();
    let mut head = [0; RECORD_HEAD];
    put_u32(&mut head, LENGTH, narrow(bytes.len()));
    put_u64(&mut head, POSITION, position);
    put_u64(&mut head, FIRST, first);
    put_u64(&mut head, SECOND, second);
    head[KIND] = kind;
    head[TYPE] = entry_type;
    let crc = crc_of(&head, bytes);
    put_u32(&mut head, CRC, crc);
    (head, data)
}

/// A record's data: an entry's own bytes, or those of a commit index.
pub(super) enum Data<'a> {
    Entry(&'a [u8]),
    Commit([u8; 8]),
}

impl Data<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Data::Entry(data) => data,
            Data::Commit(commit) => commit,
        }
    }
}

/// Bytes that `record` takes in a write's payload.
pub(super) fn size(record: &Record<'_>) -> usize {
    RECORD_HEAD
        + match record {
            Record::Entry { data, .. } => data.len(),
            Record::HardState(_) => 8,
            Record::Restart { .. } => 0,
        }
}

fn crc_of(head: &[u8], data: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[LENGTH..RECORD_HEAD]);
    crc.update(data);
    crc.finalize()
}

/// Takes the first record off `payload`: its position, itself, and the bytes that it took. `None` if there is no whole one.
pub(super) fn decode(payload: &[u8]) -> Option<(u64, Record<'_>, usize)> {
    let head = payload.get(..RECORD_HEAD)?;
    let length = widen(u64::from(get_u32(head, LENGTH)));
    let data = payload[RECORD_HEAD..].get(..length)?;
    if get_u32(head, CRC) != crc_of(head, data) || get_u16(head, ZERO) != 0 {
        return None;
    }
    let (first, second) = (get_u64(head, FIRST), get_u64(head, SECOND));
    let record = match (head[KIND], head[TYPE], length) {
        (ENTRY, entry_type, _) => Record::Entry { index: first, term: second, entry_type, data },
        (HARD_STATE, 0, 8) => Record::HardState(HardState { term: first, vote: second, commit: get_u64(data, 0) }),
        (RESTART, 0, 0) => Record::Restart { index: first, term: second },
        _ => return None,
    };
    Some((get_u64(head, POSITION), record, RECORD_HEAD + length))
}
