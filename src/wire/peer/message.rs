//! raft's messages in a frame.
//!
//! ```text
//!  0   1  type
//!  1   1  flags: 1 = reject, 2 = a snapshot is behind the context
//!  2   2  zero
//!  4  80  to, from, term, log term, index, commit, commit term, reject hint, request snapshot, priority: u64 each
//! 84   4  number of entries
//! 88   4  length of the context
//! 92   …  context
//!      …  snapshot: index u64, term u64, voters, learners, outgoing voters, next learners (count u32, u64 each), auto leave u8
//!      …  entries, each: type u8, term u64, index u64, length of the context u32, length of the data u32, context, data
//! ```
//! raft's own encoding is not used: an entry's data is copied once, from the log into the frame, and its decoder trusts
//! who sends (RUSTSEC-2024-0437). Left out is what raft reads only of versions before 0.7 (the deprecated priority and
//! `sync_log`), and the data of a snapshot, which is always empty: the state goes in chunks.

use bytes::Bytes;
use protobuf::{ProtobufEnum, RepeatedField, SingularPtrField};
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata};

use super::BadFrame;
use super::reader::{Reader, put_bytes, put_list_u64, put_u32, put_u64};
use crate::faults::{self, Fault};

const FIXED: usize = 92;
const ENTRY: usize = 1 + 8 + 8 + 4 + 4;
const REJECT: u8 = 1;
const SNAPSHOT: u8 = 2;

/// About the size of the message's body, to set memory aside once: its entries and context, and what is fixed.
pub fn size(message: &Message) -> usize {
    let entries: usize = message.entries.iter().map(|e| ENTRY + e.context.len() + e.data.len()).sum();
    FIXED + message.context.len() + entries
}

/// Appends the body.
///
/// # Panics
/// If the message has a snapshot with data.
pub fn encode(message: &Message, out: &mut Vec<u8>) {
    let snapshot = message.snapshot.as_ref();
    let reject = if message.reject { REJECT } else { 0 };
    let has_snapshot = if snapshot.is_some() { SNAPSHOT } else { 0 };
    out.extend_from_slice(&[code(message.msg_type), reject | has_snapshot, 0, 0]);
    let Message { to, from, term, log_term, index, commit, commit_term, reject_hint, request_snapshot, .. } = *message;
    for number in [to, from, term, log_term, index, commit, commit_term, reject_hint, request_snapshot] {
        put_u64(out, number);
    }
    out.extend_from_slice(&message.priority.to_le_bytes());
    put_u32(out, message.entries.len());
    let silent = faults::is_armed(Fault::ContextLeftOut) && message.msg_type == MessageType::MsgHeartbeatResponse;
    put_bytes(out, if silent { &[] } else { &message.context });
    if let Some(snapshot) = snapshot {
        assert!(snapshot.data.is_empty(), "the state goes in chunks, not in raft's message");
        let metadata = snapshot.get_metadata();
        let conf = metadata.get_conf_state();
        put_u64(out, metadata.index);
        put_u64(out, metadata.term);
        for list in [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next] {
            put_list_u64(out, list);
        }
        out.push(u8::from(conf.auto_leave));
    }
    for entry in message.entries.iter() {
        out.push(code(entry.entry_type));
        put_u64(out, entry.term);
        put_u64(out, entry.index);
        put_u32(out, entry.context.len());
        put_u32(out, entry.data.len());
        out.extend_from_slice(&entry.context);
        out.extend_from_slice(&entry.data);
    }
}

/// Reads the body. Its data is copied, once.
pub fn decode(body: &[u8]) -> Result<Message, BadFrame> {
    let mut reader = Reader::new(body);
    let mut message = Message { msg_type: kind::<MessageType>(reader.u8()?)?, ..Message::default() };
    let flags = reader.u8()?;
    if flags & !(REJECT | SNAPSHOT) != 0 || reader.u16()? != 0 {
        return Err(BadFrame::Body);
    }
    message.reject = flags & REJECT != 0;
    message.to = reader.u64()?;
    message.from = reader.u64()?;
    message.term = reader.u64()?;
    message.log_term = reader.u64()?;
    message.index = reader.u64()?;
    message.commit = reader.u64()?;
    message.commit_term = reader.u64()?;
    message.reject_hint = reader.u64()?;
    message.request_snapshot = reader.u64()?;
    message.priority = i64::from_le_bytes(reader.array()?);
    let count = reader.u32()?;
    message.context = Bytes::copy_from_slice(reader.bytes()?);
    if flags & SNAPSHOT != 0 {
        message.snapshot = SingularPtrField::some(snapshot(&mut reader)?);
    }
    if count > reader.len() / ENTRY {
        return Err(BadFrame::Body);
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(entry(&mut reader)?);
    }
    message.entries = RepeatedField::from_vec(entries);
    reader.end()?;
    Ok(message)
}

fn snapshot(reader: &mut Reader<'_>) -> Result<Snapshot, BadFrame> {
    let (index, term) = (reader.u64()?, reader.u64()?);
    let conf = ConfState {
        voters: reader.list_u64()?,
        learners: reader.list_u64()?,
        voters_outgoing: reader.list_u64()?,
        learners_next: reader.list_u64()?,
        auto_leave: reader.flag()?,
        ..ConfState::default()
    };
    let conf_state = SingularPtrField::some(conf);
    let metadata = SnapshotMetadata { conf_state, index, term, ..SnapshotMetadata::default() };
    Ok(Snapshot { metadata: SingularPtrField::some(metadata), ..Snapshot::default() })
}

fn entry(reader: &mut Reader<'_>) -> Result<Entry, BadFrame> {
    let entry_type = kind::<EntryType>(reader.u8()?)?;
    let (term, index) = (reader.u64()?, reader.u64()?);
    let (context, data) = (reader.u32()?, reader.u32()?);
    let context = Bytes::copy_from_slice(reader.take(context)?);
    let data = Bytes::copy_from_slice(reader.take(data)?);
    Ok(Entry { entry_type, term, index, data, context, ..Entry::default() })
}

fn code(kind: impl ProtobufEnum) -> u8 {
    u8::try_from(kind.value()).expect("raft numbers its kinds from 0 to 18")
}

fn kind<E: ProtobufEnum>(code: u8) -> Result<E, BadFrame> {
    E::from_i32(i32::from(code)).ok_or(BadFrame::Body)
}
