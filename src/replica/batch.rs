//! The batch: the mutations of one turn, encoded once. Its bytes are the raft entry's data, what peers are sent, and
//! what the log record holds.
//!
//! ```text
//! batch    crc32 u32 | format u8 | 3 zero bytes | parcel*            the crc is of everything behind it
//! parcel   origin u64 | epoch u64 | first u64 | count u32 | bytes u32 | command*
//! command  kind u8 | rev i64 | path length u16 | value length u32 | path | value
//! ```
//! What a server gathers is a batch with one parcel. A follower sends it to the leader as it is; the leader joins those that
//! came into one ([`merge`]), or proposes its own as it is. In a registration `rev` is the raft id that the node has (0 for none
//! yet), the path its address, and the value its id and its incarnation.
//!
//! Integers are little-endian. A parcel is what one server took from its clients: `origin` is its raft id, `epoch` the
//! number of its boot, `first` the sequence number of its first command; the others follow without a gap. The state
//! machine drops what it has seen of an origin, so a parcel may be sent again.
//!
//! Invariant: a batch is never larger than [`limits::BATCH_MAX`], and [`Gather::fits`] is asked before each push.

use bytes::Bytes;

use super::mesh::is_address;
use crate::faults::{self, Fault};
use crate::limits;
use crate::log::NodeId;
use crate::store::{Mutation, Path};

/// Version of this layout; a batch of another version is refused.
const FORMAT: u8 = 1;
const CRC: usize = 4;
const HEADER: usize = CRC + 4;
const PARCEL: usize = 8 + 8 + 8 + 4 + 4;
const PARCEL_COUNT: usize = 24;
const PARCEL_BYTES: usize = 28;
const COMMAND: usize = 1 + 8 + 2 + 4;
/// A node's id and its incarnation.
const WHO: usize = 16 + 8;

const KIND_NOP: u8 = 0;
const KIND_SET: u8 = 1;
const KIND_DEL: u8 = 2;
const KIND_REGISTER: u8 = 3;

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

/// What a parcel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// A change of the store.
    Store(Mutation<'a>),
    /// A node makes itself known, or asks for a raft id.
    Register(Registration<'a>),
}

impl<'a> From<Mutation<'a>> for Command<'a> {
    fn from(mutation: Mutation<'a>) -> Command<'a> {
        Command::Store(mutation)
    }
}

impl Command<'_> {
    /// Returns the work of applying it: see [`limits::BATCH_WORK`].
    pub fn work(&self) -> usize {
        match self {
            Command::Store(Mutation::Set { path, .. } | Mutation::Del { path, .. }) => work(path.len()),
            Command::Store(Mutation::Nop) => work(0),
            Command::Register(registration) => work(registration.addr.len()),
        }
    }
}

/// See [`Command::Register`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration<'a> {
    /// The raft id that the node has, or 0.
    pub raft_id: u64,
    /// Its own id.
    pub node: NodeId,
    /// How often it has set its data aside. With another one it gets another raft id.
    pub incarnation: u64,
    /// Where it listens.
    pub addr: &'a [u8],
}

/// The batch that is being gathered from this server's own clients.
#[derive(Debug)]
pub struct Gather {
    origin: Origin,
    /// Sequence number of the next command.
    next: u64,
    count: u32,
    /// The work of applying the commands: see [`limits::BATCH_WORK`].
    work: usize,
    bytes: Vec<u8>,
}

/// Returns the work of a command whose path has this many bytes: see [`limits::BATCH_WORK`].
fn work(path: usize) -> usize {
    1 + path / limits::WORK_PATH
}

impl Gather {
    /// An empty batch; the first command's sequence number is 1.
    pub fn new(origin: Origin) -> Gather {
        Gather { origin, next: 1, count: 0, work: 0, bytes: Vec::new() }
    }

    /// No command is waiting.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes gathered so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns whether a command of this size fits into the batch without exceeding `limit` bytes, or the work of a batch. The
    /// first command always fits: the limits of paths and values bound its size.
    pub fn fits(&self, path: usize, value: usize, limit: usize) -> bool {
        self.count == 0
            || (self.bytes.len() + COMMAND + path + value <= limit && self.work + work(path) <= limits::BATCH_WORK)
    }

    /// Adds a command and returns its sequence number.
    ///
    /// # Panics
    /// When the path or the value exceeds its limit; the caller has refused those.
    pub fn push(&mut self, command: &Command<'_>) -> u64 {
        if self.count == 0 {
            self.bytes.extend_from_slice(&[0; CRC]);
            self.bytes.extend_from_slice(&[FORMAT, 0, 0, 0]);
            self.bytes.extend_from_slice(&self.origin.node.to_le_bytes());
            self.bytes.extend_from_slice(&self.origin.epoch.to_le_bytes());
            self.bytes.extend_from_slice(&self.next.to_le_bytes());
            self.bytes.extend_from_slice(&[0; PARCEL - PARCEL_COUNT]);
        }
        let mut who = [0; WHO];
        let (kind, rev, path, value): (u8, i64, &[u8], &[u8]) = match *command {
            Command::Store(Mutation::Set { path, rev, value }) => (KIND_SET, rev, path, value),
            Command::Store(Mutation::Del { path, rev }) => (KIND_DEL, rev, path, &[]),
            Command::Store(Mutation::Nop) => (KIND_NOP, 0, &[], &[]),
            Command::Register(Registration { raft_id, node, incarnation, addr }) => {
                who[..16].copy_from_slice(&node);
                who[16..].copy_from_slice(&incarnation.to_le_bytes());
                (KIND_REGISTER, raft_id.cast_signed(), addr, &who)
            }
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
        self.work += work(path.len());
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
        (self.count, self.work) = (0, 0);
        Some(bytes)
    }

    /// Takes back all that was gathered since the last [`Gather::take`], as if it had never been pushed, and gives how many
    /// commands that were.
    pub fn withdraw(&mut self) -> u32 {
        self.bytes.clear();
        self.next -= u64::from(self.count);
        self.work = 0;
        std::mem::take(&mut self.count)
    }

    /// Continues the numbers with `next`, because those before it are used up. Nothing is gathered.
    pub fn skip_to(&mut self, next: u64) {
        debug_assert!(self.is_empty(), "the gathered commands have their numbers");
        self.next = next;
    }

    /// Makes room for a batch of about the size of the last one, so that gathering does not grow step by step.
    pub fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }
}

/// What stands in front of a parcel's commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// Who has sent it.
    pub origin: Origin,
    /// Sequence number of its first command.
    pub first: u64,
    /// How many commands it holds.
    pub count: u32,
}

/// The head of a batch's only parcel.
///
/// # Errors
/// When the bytes are not a batch with one parcel. The commands are looked at when they are applied.
pub fn parcel(batch: &[u8]) -> Result<Parcel, BadBatch> {
    let mut rest = check(batch)?;
    let (parcel, _) = head(&mut rest)?;
    if rest.is_empty() { Ok(parcel) } else { Err(BadBatch::Count) }
}

/// Checks that every command of a batch from another server is one that this server would have taken from a client, and that the
/// batch has no more bytes and no more work than a server gathers: it becomes part of the log of all nodes. Returns its parcel, and
/// how many of the commands [`admit`] has to look at.
///
/// # Errors
/// What is wrong with the first command that is not, or with the batch.
pub fn verify(batch: &[u8]) -> Result<(Parcel, usize), BadBatch> {
    let (parcel, doubtful, work) = examine(batch)?;
    if work > limits::PARCEL_WORK {
        return Err(BadBatch::Work);
    }
    let fits = batch.len() <= limits::BATCH_SOFT + limits::PATH_MAX + limits::VALUE_MAX + 1024;
    if fits { Ok((parcel, doubtful)) } else { Err(BadBatch::Count) }
}

/// Checks that every node can apply a batch of any number of parcels, before it is stored. All nodes alike refuse
/// a malformed path when they apply the batch. The work is not checked: leaders of earlier versions made entries of more work.
///
/// # Errors
/// What is wrong with the first parcel or command that cannot be applied.
pub fn verify_entry(batch: &[u8]) -> Result<(), BadBatch> {
    let mut rest = check(batch)?;
    let mut sane = batch.len() <= limits::BATCH_MAX && !rest.is_empty();
    while sane && !rest.is_empty() {
        let (parcel, commands) = head(&mut rest)?;
        sane = is_numbered(&parcel) && are_whole(commands, parcel.count);
    }
    if sane { Ok(()) } else { Err(BadBatch::Count) }
}

/// Returns whether a node can have numbered a parcel so.
fn is_numbered(parcel: &Parcel) -> bool {
    let Parcel { origin, first, count } = *parcel;
    let end = first.checked_add(u64::from(count));
    count > 0 && first > 0 && end.is_some() && origin.node != 0 && origin.epoch <= limits::EPOCH_MAX
}

/// Returns whether these bytes are so many commands of known kinds. This is all that a follower does with each command before it
/// stores it, so it looks at their heads only.
fn are_whole(mut rest: &[u8], count: u32) -> bool {
    for _ in 0..count {
        let Some((head, behind)) = rest.split_first_chunk::<COMMAND>() else { return false };
        let path_len = usize::from(u16::from_le_bytes([head[9], head[10]]));
        let value_len = u32::from_le_bytes([head[11], head[12], head[13], head[14]]) as usize;
        let Some((body, behind)) = behind.split_at_checked(path_len + value_len) else { return false };
        let fits = path_len <= limits::PATH_MAX && value_len <= limits::VALUE_MAX;
        let is_sane = match head[0] {
            KIND_NOP | KIND_SET | KIND_DEL => fits,
            KIND_REGISTER => value_len >= WHO && is_address(&body[..path_len]),
            _ => false,
        };
        if !is_sane {
            return false;
        }
        rest = behind;
    }
    rest.is_empty()
}

/// Checks all commands of a batch with one parcel as this server checks those of its clients. Returns the parcel, how many of the
/// commands [`admit`] has to look at, and their work.
fn examine(batch: &[u8]) -> Result<(Parcel, usize, usize), BadBatch> {
    let mut rest = check(batch)?;
    let (parcel, mut commands) = head(&mut rest)?;
    let mut sane = is_numbered(&parcel) && rest.is_empty();
    let (mut doubtful, mut work) = (0, 0);
    for _ in 0..parcel.count {
        let command = command(&mut commands)?;
        work += command.work();
        sane &= match command {
            Command::Store(Mutation::Set { path, value, .. }) => {
                let path = Path::parse(path);
                doubtful += usize::from(path.is_some_and(Path::is_too_deep));
                path.is_some() && value.len() <= limits::VALUE_MAX
            }
            Command::Store(Mutation::Del { path, .. }) => Path::parse(path).is_some(),
            Command::Store(Mutation::Nop) => true,
            Command::Register(r) => {
                doubtful += 1;
                is_address(r.addr)
            }
        };
    }
    if sane && commands.is_empty() { Ok((parcel, doubtful, work)) } else { Err(BadBatch::Count) }
}

/// Returns a verified batch with one parcel in which the registrations that `admit` refuses take no effect, nor the SETs of paths with
/// too many levels. Their places stay, so the numbers of the commands after them do not change.
pub fn admit(batch: &[u8], mut admit: impl FnMut(&Registration<'_>) -> bool) -> Bytes {
    let mut bytes = batch.to_vec();
    let mut rest = batch.get(HEADER + PARCEL..).unwrap_or_default();
    while !rest.is_empty() {
        let at = batch.len() - rest.len();
        let Ok(command) = command(&mut rest) else { break };
        match &command {
            // No node has this raft id, so the state machine refuses the registration.
            Command::Register(registration) if !admit(registration) => {
                bytes[at + 1..at + 9].copy_from_slice(&u64::MAX.to_le_bytes());
            }
            // A node of an earlier version takes such paths from its clients. Without its first slash it is a bad path, which the state
            // machine refuses.
            Command::Store(Mutation::Set { path, .. }) if Path::parse(path).is_some_and(Path::is_too_deep) => {
                bytes[at + COMMAND] = b'-';
            }
            _ => {}
        }
    }
    let crc = crc32fast::hash(&bytes[CRC..]);
    bytes[..CRC].copy_from_slice(&crc.to_le_bytes());
    bytes.into()
}

/// Returns the parcel of a batch with only one, and the work of its commands.
///
/// # Errors
/// If the bytes are not such a batch.
pub fn parcel_and_work(batch: &[u8]) -> Result<(Parcel, usize), BadBatch> {
    let mut rest = check(batch)?;
    let (parcel, mut commands) = head(&mut rest)?;
    let mut work = 0;
    while !commands.is_empty() {
        work += command(&mut commands)?.work();
    }
    if rest.is_empty() { Ok((parcel, work)) } else { Err(BadBatch::Count) }
}

/// One batch of all parcels of these.
pub fn merge(batches: &[Bytes]) -> Bytes {
    if let [only] = batches {
        return only.clone();
    }
    let batches = match batches {
        [others @ .., _] if faults::is_armed(Fault::LastParcelLeftOut) => others,
        all => all,
    };
    let size = HEADER + batches.iter().map(|b| b.len() - HEADER).sum::<usize>();
    let mut bytes = Vec::with_capacity(size);
    bytes.extend_from_slice(&[0; CRC]);
    bytes.extend_from_slice(&[FORMAT, 0, 0, 0]);
    for batch in batches {
        bytes.extend_from_slice(&batch[HEADER..]);
    }
    let crc = crc32fast::hash(&bytes[CRC..]);
    bytes[..CRC].copy_from_slice(&crc.to_le_bytes());
    bytes.into()
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
    /// A parcel has more work than a node gathers.
    Work,
}

impl std::fmt::Display for BadBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BadBatch::Short => write!(f, "the batch ends inside a command"),
            BadBatch::Crc => write!(f, "the batch does not match its checksum"),
            BadBatch::Format(v) => write!(f, "the batch has format {v}, this version knows {FORMAT}"),
            BadBatch::Kind(k) => write!(f, "the batch holds a command of the unknown kind {k}"),
            BadBatch::Count => write!(f, "a parcel's count contradicts its bytes"),
            BadBatch::Work => write!(f, "a parcel has more work than a node gathers"),
        }
    }
}

/// Calls `each` for every command of a batch, in order, with its origin and sequence number.
///
/// # Errors
/// The first thing wrong. The checksum is verified before the first call, so after it an error is a fault of the
/// writer, not of the medium.
pub fn decode<'a>(batch: &'a [u8], mut each: impl FnMut(Origin, u64, Command<'a>)) -> Result<(), BadBatch> {
    let mut rest = check(batch)?;
    while !rest.is_empty() {
        let (parcel, mut commands) = head(&mut rest)?;
        for i in 0..u64::from(parcel.count) {
            each(parcel.origin, parcel.first.wrapping_add(i), command(&mut commands)?);
        }
        if !commands.is_empty() {
            return Err(BadBatch::Count);
        }
    }
    Ok(())
}

/// Verifies the checksum and gives the parcels.
fn check(batch: &[u8]) -> Result<&[u8], BadBatch> {
    let (&crc, rest) = batch.split_first_chunk::<CRC>().ok_or(BadBatch::Short)?;
    if u32::from_le_bytes(crc) != crc32fast::hash(rest) {
        return Err(BadBatch::Crc);
    }
    let (&[format, ..], rest) = rest.split_first_chunk::<4>().ok_or(BadBatch::Short)?;
    if format == FORMAT { Ok(rest) } else { Err(BadBatch::Format(format)) }
}

/// Takes a parcel off the front: its head, and its commands.
fn head<'a>(rest: &mut &'a [u8]) -> Result<(Parcel, &'a [u8]), BadBatch> {
    let node = u64::from_le_bytes(take(rest)?);
    let epoch = u64::from_le_bytes(take(rest)?);
    let first = u64::from_le_bytes(take(rest)?);
    let count = u32::from_le_bytes(take(rest)?);
    let bytes = u32::from_le_bytes(take(rest)?);
    let commands = slice(rest, bytes as usize)?;
    Ok((Parcel { origin: Origin { node, epoch }, first, count }, commands))
}

fn command<'a>(rest: &mut &'a [u8]) -> Result<Command<'a>, BadBatch> {
    let [kind] = take(rest)?;
    let rev = i64::from_le_bytes(take(rest)?);
    let path_len = u16::from_le_bytes(take(rest)?);
    let value_len = u32::from_le_bytes(take(rest)?);
    let path = slice(rest, usize::from(path_len))?;
    let value = slice(rest, value_len as usize)?;
    match kind {
        KIND_NOP => Ok(Mutation::Nop.into()),
        KIND_SET => Ok(Mutation::Set { path, rev, value }.into()),
        KIND_DEL => Ok(Mutation::Del { path, rev }.into()),
        KIND_REGISTER => {
            let mut who = value;
            let node = take(&mut who)?;
            let incarnation = u64::from_le_bytes(take(&mut who)?);
            Ok(Command::Register(Registration { raft_id: rev.cast_unsigned(), node, incarnation, addr: path }))
        }
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
        Register(u64, NodeId, u64, Vec<u8>),
    }

    impl Owned {
        fn borrow(&self) -> Command<'_> {
            match self {
                Owned::Set(path, rev, value) => Mutation::Set { path, rev: *rev, value }.into(),
                Owned::Del(path, rev) => Mutation::Del { path, rev: *rev }.into(),
                Owned::Nop => Mutation::Nop.into(),
                Owned::Register(raft_id, node, incarnation, addr) => {
                    Command::Register(Registration { raft_id: *raft_id, node: *node, incarnation: *incarnation, addr })
                }
            }
        }

        fn of(m: Command<'_>) -> Owned {
            match m {
                Command::Store(Mutation::Set { path, rev, value }) => Owned::Set(path.to_vec(), rev, value.to_vec()),
                Command::Store(Mutation::Del { path, rev }) => Owned::Del(path.to_vec(), rev),
                Command::Store(Mutation::Nop) => Owned::Nop,
                Command::Register(r) => Owned::Register(r.raft_id, r.node, r.incarnation, r.addr.to_vec()),
            }
        }
    }

    fn owned() -> impl Strategy<Value = Owned> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..40);
        prop_oneof![
            (bytes(), any::<i64>(), bytes()).prop_map(|(p, r, v)| Owned::Set(p, r, v)),
            (bytes(), any::<i64>()).prop_map(|(p, r)| Owned::Del(p, r)),
            Just(Owned::Nop),
            (any::<u64>(), any::<NodeId>(), any::<u64>(), bytes()).prop_map(|(r, n, i, a)| Owned::Register(r, n, i, a)),
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

    /// The leader writes what several servers sent as one entry: each command must keep its origin and number.
    #[test]
    fn merged_batches_hold_all_parcels_in_order() {
        let of = |node: u64, commands: usize| {
            let mut gather = Gather::new(Origin { node, epoch: 1 });
            for _ in 0..commands {
                gather.push(&Mutation::Nop.into());
            }
            Bytes::from(gather.take().unwrap())
        };
        let (a, b) = (of(1, 2), of(2, 1));
        assert_eq!(parcel(&a).unwrap(), Parcel { origin: Origin { node: 1, epoch: 1 }, first: 1, count: 2 });
        let mut got = Vec::new();
        let merged = merge(&[a.clone(), b]);
        decode(&merged, |origin, seq, _| got.push((origin.node, seq))).unwrap();
        assert_eq!(got, [(1, 1), (1, 2), (2, 1)]);
        assert_eq!(merge(std::slice::from_ref(&a)), a);
        assert_eq!(parcel(&merged), Err(BadBatch::Count));
    }

    /// A mutation that is refused for want of a quorum must leave no gap in the numbers: the next would never be applied.
    #[test]
    fn what_is_withdrawn_leaves_no_gap() {
        let mut gather = Gather::new(ORIGIN);
        gather.push(&Mutation::Nop.into());
        let _sent = gather.take();
        assert_eq!(gather.push(&Mutation::Nop.into()), 2);
        assert_eq!(gather.withdraw(), 1);
        assert!(gather.take().is_none());
        assert_eq!(gather.push(&Mutation::Nop.into()), 2);
    }

    /// A batch that is stored and cannot be applied ends this start of the node, and every later one.
    #[test]
    fn a_batch_that_is_stored_can_be_applied() {
        let sealed = |mut bytes: Vec<u8>| {
            let crc = crc32fast::hash(&bytes[CRC..]);
            bytes[..CRC].copy_from_slice(&crc.to_le_bytes());
            bytes
        };
        let mut gather = Gather::new(ORIGIN);
        gather.push(&Mutation::Set { path: b"/a", rev: -1, value: b"body" }.into());
        gather.push(&Mutation::Nop.into());
        let registration = Registration { raft_id: 0, node: [b'A'; 16], incarnation: 0, addr: b"10.0.0.1:1" };
        gather.push(&Command::Register(registration));
        let bytes = gather.take().unwrap();
        assert_eq!(verify_entry(&bytes), Ok(()));
        assert_eq!(verify(&bytes).map(|(_, doubtful)| doubtful), Ok(1));
        // Whatever single byte is another, with a checksum that fits: what passes can be applied.
        for at in CRC..bytes.len() {
            for byte in [0, 1, 3, 4, 0x7f, 0xff] {
                let mut other = bytes.clone();
                other[at] = byte;
                let other = sealed(other);
                if verify_entry(&other).is_ok() {
                    let mut machine = crate::replica::machine::Machine::founding(10);
                    assert!(machine.apply(&other, |_, _, _, _| ()).is_ok(), "byte {at} is {byte}");
                }
                assert!(verify(&other).is_err() || verify_entry(&other).is_ok(), "byte {at} is {byte}");
            }
        }
        for cut in CRC + 4..bytes.len() {
            assert!(verify_entry(&sealed(bytes[..cut].to_vec())).is_err(), "cut at {cut}");
        }
    }

    /// A member put 140,000 commands, or 500 paths of 2,000 levels, into one parcel, and applying it held up all nodes. What a node
    /// gathers is accepted, its own entries on top of a full batch included. Earlier versions stored larger entries.
    #[test]
    fn a_parcel_of_more_work_than_a_node_gathers_is_refused() {
        let deep = "/a".repeat(limits::PATH_MAX / 2);
        for path in ["", "/a", &deep[..1000], &deep] {
            let command = match path {
                "" => Mutation::Nop,
                path => Mutation::Set { path: path.as_bytes(), rev: -1, value: b"" },
            };
            let mut gather = Gather::new(ORIGIN);
            while gather.fits(path.len(), 0, limits::BATCH_SOFT) {
                gather.push(&command.into());
            }
            let own = [b'n'; 500];
            for _ in 0..10 {
                gather.push(&Mutation::Set { path: &[b"/", &own[..]].concat(), rev: -1, value: b"" }.into());
            }
            let full = gather.take().unwrap();
            assert!(verify(&full).is_ok(), "{path}");
            let too_many = limits::PARCEL_WORK / work(path.len()) + 1;
            (0..too_many).for_each(|_| _ = gather.push(&command.into()));
            let batch = gather.take().unwrap();
            assert_eq!(verify(&batch), Err(BadBatch::Work), "{path}");
            assert_eq!(verify_entry(&batch), Ok(()), "{path}");
        }
    }

    /// A registration of another node would lead its peers to a wrong address, or make it give up its data. The other commands of the
    /// parcel keep their numbers.
    #[test]
    fn a_registration_that_is_refused_leaves_no_gap() {
        let mut gather = Gather::new(ORIGIN);
        let registration = |raft_id| Registration { raft_id, node: [b'A'; 16], incarnation: 0, addr: b"10.0.0.1:1" };
        gather.push(&Mutation::Set { path: b"/a", rev: -1, value: b"" }.into());
        gather.push(&Command::Register(registration(5)));
        gather.push(&Command::Register(registration(0)));
        gather.push(&Mutation::Nop.into());
        let batch = admit(&gather.take().unwrap(), |r| r.raft_id == 0);
        let mut found = Vec::new();
        decode(&batch, |_, seq, command| found.push((seq, Owned::of(command)))).unwrap();
        let register = |raft_id| Owned::Register(raft_id, [b'A'; 16], 0, b"10.0.0.1:1".to_vec());
        let set = Owned::Set(b"/a".to_vec(), -1, Vec::new());
        assert_eq!(found, [(1, set), (2, register(u64::MAX)), (3, register(0)), (4, Owned::Nop)]);
    }

    /// A member made files of two thousand levels, each of which takes 360 kB of memory. Its other commands count, and so do deletions
    /// of the files that an earlier version made.
    #[test]
    fn a_member_makes_no_deeper_paths_than_a_client() {
        let deepest = "/a".repeat(limits::LEVELS_MAX);
        let deeper = format!("{deepest}/a");
        let mut gather = Gather::new(ORIGIN);
        for path in [&deepest, &deeper] {
            gather.push(&Mutation::Set { path: path.as_bytes(), rev: -1, value: b"" }.into());
        }
        gather.push(&Mutation::Del { path: deeper.as_bytes(), rev: -1 }.into());
        let bytes = gather.take().unwrap();
        assert_eq!(verify(&bytes).map(|(_, doubtful)| doubtful), Ok(1));
        let mut machine = crate::replica::machine::Machine::founding(10);
        let mut outcomes = Vec::new();
        let mut gather = Gather::new(Origin { node: 1, epoch: 1 });
        gather.push(&Mutation::Set { path: deeper.as_bytes(), rev: -1, value: b"" }.into());
        machine.apply(&gather.take().unwrap(), |_, _, _, outcome| outcomes.push(outcome.is_ok())).unwrap();
        gather.push(&Mutation::Del { path: deeper.as_bytes(), rev: -1 }.into());
        machine.apply(&gather.take().unwrap(), |_, _, _, outcome| outcomes.push(outcome.is_ok())).unwrap();
        machine.apply(&admit(&bytes, |_| true), |_, _, _, outcome| outcomes.push(outcome.is_ok())).unwrap();
        assert_eq!(outcomes, [true, true, true, false, true], "what is stored is applied; what comes is checked");
    }

    /// A single flipped bit anywhere must not be applied.
    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut gather = Gather::new(ORIGIN);
        gather.push(&Mutation::Set { path: b"/a", rev: -1, value: b"body" }.into());
        let bytes = gather.take().unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad, |_, _, _| ()), Err(BadBatch::Crc), "bit {bit}");
        }
    }
}
