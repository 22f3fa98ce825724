//! The batch: the mutations of one turn, encoded once. Its bytes are the raft entry's data, what peers are sent, and
//! what the log record holds.
//!
//! ```text
//! batch    crc32 u32 | format u8 | 3 zero bytes | parcel*            the crc is of everything behind it
//! parcel   origin u64 | epoch u64 | first u64 | count u32 | bytes u32 | command*
//! command  kind u8 | rev i64 | path length u16 | value length u32 | path | value
//! ```
//! Integers are little-endian. A parcel is what one server took from its clients: `origin` is its raft id, `epoch` the
//! number of its boot, `first` the sequence number of its first command; the others follow without a gap. The state
//! machine drops what it has seen of an origin, so a parcel may be sent again.
//!
//! Invariant: a batch is never larger than [`limits::BATCH_MAX`], and [`Gather::fits`] is asked before each push.

use crate::limits;
use crate::store::Mutation;

/// Version of this layout; a batch of another version is refused.
const FORMAT: u8 = 1;
const CRC: usize = 4;
const HEADER: usize = CRC + 4;
const PARCEL: usize = 8 + 8 + 8 + 4 + 4;
const PARCEL_COUNT: usize = 24;
const PARCEL_BYTES: usize = 28;
const COMMAND: usize = 1 + 8 + 2 + 4;

const KIND_NOP: u8 = 0;
const KIND_SET: u8 = 1;
const KIND_DEL: u8 = 2;

const _: () = assert!(limits::PATH_MAX <= u16::MAX as usize);
const _: () = assert!(limits::VALUE_MAX <= u32::MAX as usize);
const _: () = assert!(HEADER + PARCEL + COMMAND + limits::PATH_MAX + limits::VALUE_MAX <= limits::BATCH_MAX);

/// Who took a parcel from its clients, and in which of its boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// Raft id of the server.
    pub node: u64,
    /// Number of its boot, raised at every start.
    pub epoch: u64,
}

/// The batch that is being gathered from this server's own clients.
#[derive(Debug)]
pub struct Gather {
    origin: Origin,
    /// Sequence number of the next command.
    next: u64,
    count: u32,
    bytes: Vec<u8>,
}

impl Gather {
    /// An empty batch; the first command's sequence number is 1.
    pub fn new(origin: Origin) -> Gather {
        Gather { origin, next: 1, count: 0, bytes: Vec::new() }
    }

    /// No command is waiting.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes gathered so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether a command of that size still fits into this batch without exceeding `limit` bytes. A first command
    /// always does: its size is bounded by the limits of paths and values.
    pub fn fits(&self, path: usize, value: usize, limit: usize) -> bool {
        self.count == 0 || self.bytes.len() + COMMAND + path + value <= limit
    }

    /// Adds a command and returns its sequence number.
    ///
    /// # Panics
    /// When the path or the value exceeds its limit; the caller has refused those.
    pub fn push(&mut self, command: &Mutation<'_>) -> u64 {
        if self.count == 0 {
            self.bytes.extend_from_slice(&[0; CRC]);
            self.bytes.extend_from_slice(&[FORMAT, 0, 0, 0]);
            self.bytes.extend_from_slice(&self.origin.node.to_le_bytes());
            self.bytes.extend_from_slice(&self.origin.epoch.to_le_bytes());
            self.bytes.extend_from_slice(&self.next.to_le_bytes());
            self.bytes.extend_from_slice(&[0; PARCEL - PARCEL_COUNT]);
        }
        let (kind, rev, path, value): (u8, i64, &[u8], &[u8]) = match *command {
            Mutation::Set { path, rev, value } => (KIND_SET, rev, path, value),
            Mutation::Del { path, rev } => (KIND_DEL, rev, path, &[]),
            Mutation::Nop => (KIND_NOP, 0, &[], &[]),
        };
        let path_len = u16::try_from(path.len()).expect("a path within its limit");
        let value_len = u32::try_from(value.len()).expect("a value within its limit");
        let mut head = [0u8; COMMAND];
        head[0] = kind;
        head[1..9].copy_from_slice(&rev.to_le_bytes());
        head[9..11].copy_from_slice(&path_len.to_le_bytes());
        head[11..15].copy_from_slice(&value_len.to_le_bytes());
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(path);
        self.bytes.extend_from_slice(value);
        self.count += 1;
        let seq = self.next;
        self.next += 1;
        seq
    }

    /// The finished batch, sealed with its crc; the next one begins empty. `None` when nothing was gathered.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        if self.count == 0 {
            return None;
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        let parcel = HEADER;
        let size = u32::try_from(bytes.len() - HEADER - PARCEL).expect("a batch within its limit");
        bytes[parcel + PARCEL_COUNT..parcel + PARCEL_BYTES].copy_from_slice(&self.count.to_le_bytes());
        bytes[parcel + PARCEL_BYTES..parcel + PARCEL].copy_from_slice(&size.to_le_bytes());
        let crc = crc32fast::hash(&bytes[CRC..]);
        bytes[..CRC].copy_from_slice(&crc.to_le_bytes());
        self.count = 0;
        Some(bytes)
    }

    /// Makes room for a batch of about the size of the last one, so that gathering does not grow step by step.
    pub fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }
}

/// What is wrong with the bytes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadBatch {
    /// The bytes end inside a header or a command.
    Short,
    /// The checksum does not match.
    Crc,
    /// A layout that this version does not know.
    Format(u8),
    /// A command of an unknown kind.
    Kind(u8),
    /// A parcel's count and bytes contradict each other.
    Count,
}

impl std::fmt::Display for BadBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BadBatch::Short => write!(f, "the batch ends inside a command"),
            BadBatch::Crc => write!(f, "the batch does not match its checksum"),
            BadBatch::Format(v) => write!(f, "the batch has format {v}, this version knows {FORMAT}"),
            BadBatch::Kind(k) => write!(f, "the batch holds a command of the unknown kind {k}"),
            BadBatch::Count => write!(f, "a parcel's count contradicts its bytes"),
        }
    }
}

/// Calls `each` for every command of a batch, in order, with its origin and sequence number.
///
/// # Errors
/// The first thing wrong. The checksum is verified before the first call, so after it an error is a fault of the
/// writer, not of the medium.
pub fn decode<'a>(batch: &'a [u8], mut each: impl FnMut(Origin, u64, Mutation<'a>)) -> Result<(), BadBatch> {
    let (&crc, rest) = batch.split_first_chunk::<CRC>().ok_or(BadBatch::Short)?;
    if u32::from_le_bytes(crc) != crc32fast::hash(rest) {
        return Err(BadBatch::Crc);
    }
    let (&[format, ..], mut rest) = rest.split_first_chunk::<4>().ok_or(BadBatch::Short)?;
    if format != FORMAT {
        return Err(BadBatch::Format(format));
    }
    while !rest.is_empty() {
        let node = u64::from_le_bytes(take(&mut rest)?);
        let epoch = u64::from_le_bytes(take(&mut rest)?);
        let first = u64::from_le_bytes(take(&mut rest)?);
        let count = u32::from_le_bytes(take(&mut rest)?);
        let bytes = u32::from_le_bytes(take(&mut rest)?);
        let mut commands = slice(&mut rest, bytes as usize)?;
        let origin = Origin { node, epoch };
        for i in 0..u64::from(count) {
            each(origin, first + i, command(&mut commands)?);
        }
        if !commands.is_empty() {
            return Err(BadBatch::Count);
        }
    }
    Ok(())
}

fn command<'a>(rest: &mut &'a [u8]) -> Result<Mutation<'a>, BadBatch> {
    let [kind] = take(rest)?;
    let rev = i64::from_le_bytes(take(rest)?);
    let path_len = u16::from_le_bytes(take(rest)?);
    let value_len = u32::from_le_bytes(take(rest)?);
    let path = slice(rest, usize::from(path_len))?;
    let value = slice(rest, value_len as usize)?;
    match kind {
        KIND_NOP => Ok(Mutation::Nop),
        KIND_SET => Ok(Mutation::Set { path, rev, value }),
        KIND_DEL => Ok(Mutation::Del { path, rev }),
        other => Err(BadBatch::Kind(other)),
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], BadBatch> {
    let (&head, tail) = rest.split_first_chunk::<N>().ok_or(BadBatch::Short)?;
    *rest = tail;
    Ok(head)
}

fn slice<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], BadBatch> {
    let (head, tail) = rest.split_at_checked(len).ok_or(BadBatch::Short)?;
    *rest = tail;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ORIGIN: Origin = Origin { node: 7, epoch: 3 };

    #[derive(Clone, Debug, PartialEq)]
    enum Owned {
        Set(Vec<u8>, i64, Vec<u8>),
        Del(Vec<u8>, i64),
        Nop,
    }

    impl Owned {
        fn borrow(&self) -> Mutation<'_> {
            match self {
                Owned::Set(path, rev, value) => Mutation::Set { path, rev: *rev, value },
                Owned::Del(path, rev) => Mutation::Del { path, rev: *rev },
                Owned::Nop => Mutation::Nop,
            }
        }

        fn of(m: Mutation<'_>) -> Owned {
            match m {
                Mutation::Set { path, rev, value } => Owned::Set(path.to_vec(), rev, value.to_vec()),
                Mutation::Del { path, rev } => Owned::Del(path.to_vec(), rev),
                Mutation::Nop => Owned::Nop,
            }
        }
    }

    fn owned() -> impl Strategy<Value = Owned> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40);
        prop_oneof![
            (bytes(), any::<i64>(), bytes()).prop_map(|(p, r, v)| Owned::Set(p, r, v)),
            (bytes(), any::<i64>()).prop_map(|(p, r)| Owned::Del(p, r)),
            Just(Owned::Nop),
        ]
    }

    proptest! {
        /// What was gathered must come out of the log as it went in, numbered without a gap over all batches:
        /// exactly-once rests on those numbers.
        #[test]
        fn batches_return_their_commands_numbered_without_a_gap(
            batches in prop::collection::vec(prop::collection::vec(owned(), 1..20), 1..4),
        ) {
            let mut gather = Gather::new(ORIGIN);
            let mut next = 1;
            for commands in &batches {
                for c in commands {
                    gather.push(&c.borrow());
                }
                let bytes = gather.take().unwrap();
                let mut got = Vec::new();
                decode(&bytes, |origin, seq, m| {
                    assert_eq!(origin, ORIGIN);
                    assert_eq!(seq, next);
                    next += 1;
                    got.push(Owned::of(m));
                }).unwrap();
                prop_assert_eq!(&got, commands);
            }
            prop_assert!(gather.take().is_none());
        }

        /// Whatever a damaged disk or a hostile peer hands in is an error, not a panic.
        #[test]
        fn arbitrary_bytes_are_an_error_not_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(&bytes, |_, _, _| ()).is_err());
            // Also behind a checksum that fits, where only the structure can be wrong.
            if bytes.len() >= HEADER {
                bytes[CRC] = FORMAT;
                let crc = crc32fast::hash(&bytes[CRC..]);
                bytes[..CRC].copy_from_slice(&crc.to_le_bytes());
                let _outcome = decode(&bytes, |_, _, _| ());
            }
        }
    }

    /// A single flipped bit anywhere must not be applied.
    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut gather = Gather::new(ORIGIN);
        gather.push(&Mutation::Set { path: b"/a", rev: -1, value: b"body" });
        let bytes = gather.take().unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad, |_, _, _| ()), Err(BadBatch::Crc), "bit {bit}");
        }
    }
}
