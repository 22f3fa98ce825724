//! etcd's protocol, version 3: protobuf messages over [`grpc`](super::grpc). A call is a stream; the watches of a
//! connection share one.
//!
//! From etcd's `rpc.proto` and `kv.proto`, and from what a server of 3.4.23 says. Reads are serializable: answered by the
//! server that is asked, as the other systems answer theirs.

use std::collections::VecDeque;

use doozer::wire::fields::{Payload, Reader, put_bytes, put_int64};

use super::grpc::hpack::block;
use super::grpc::{Body, Grpc, Incoming};
use super::{Answer, Codec, Event, Operation, Slots, Taken};
use crate::failure::{Context, Failure};

/// What an operation is, and what was answered so far.
#[derive(Debug)]
enum Pending {
    Put,
    Compare,
    Get,
    Delete,
    /// The message has come; the end of the stream has not.
    Told(Told),
}

#[derive(Debug)]
enum Told {
    Written(i64),
    Mismatch,
    /// The file's revision; what it holds is in [`Etcd::values`].
    Value(i64),
    Deleted,
}

/// Header blocks of the methods.
#[derive(Debug)]
struct Methods {
    put: Vec<u8>,
    range: Vec<u8>,
    txn: Vec<u8>,
    delete: Vec<u8>,
    watch: Vec<u8>,
}

/// One connection.
#[derive(Debug)]
pub struct Etcd {
    grpc: Grpc,
    methods: Methods,
    pending: Slots<Pending>,
    /// What the Gets of the slots have found.
    values: Vec<Vec<u8>>,
    /// Slots of the outstanding calls, from that with the stream `first` on; streams are odd.
    calls: VecDeque<Option<u16>>,
    first: u32,
    /// The stream of the watches.
    watches: Option<u32>,
    message: Vec<u8>,
    scratch: Vec<u8>,
}

impl Etcd {
    /// A new connection.
    pub fn new() -> Etcd {
        let methods = Methods {
            put: block("/etcdserverpb.KV/Put"),
            range: block("/etcdserverpb.KV/Range"),
            txn: block("/etcdserverpb.KV/Txn"),
            delete: block("/etcdserverpb.KV/DeleteRange"),
            watch: block("/etcdserverpb.Watch/Watch"),
        };
        Etcd {
            grpc: Grpc::new(),
            methods,
            pending: Slots::new(),
            values: Vec::new(),
            calls: VecDeque::new(),
            first: 1,
            watches: None,
            message: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Puts a Txn into `message`: a Put if the file was changed last at `revision`, 0 if it is not there.
    fn compare(&mut self, path: &[u8], value: &[u8], revision: i64) {
        const MOD: i64 = 2;
        let part = &mut self.scratch;
        part.clear();
        put_int64(part, 2, Some(MOD));
        put_bytes(part, 3, Some(path));
        put_int64(part, 6, Some(revision));
        put_bytes(&mut self.message, 1, Some(part));
        part.clear();
        put(part, path, value);
        let mut success = Vec::with_capacity(part.len() + 4);
        put_bytes(&mut success, 2, Some(part));
        put_bytes(&mut self.message, 2, Some(&success));
    }

    fn watch(&mut self, slot: u16, path: &[u8], output: &mut Vec<u8>) {
        let part = &mut self.scratch;
        part.clear();
        put_bytes(part, 1, Some(path));
        put_int64(part, 7, Some(i64::from(slot) + 1));
        put_bytes(&mut self.message, 1, Some(part));
        match self.watches {
            Some(stream) => self.grpc.send(stream, &self.message, false, output),
            None => {
                let stream = self.grpc.call(&self.methods.watch, &self.message, true, output);
                self.watches = Some(stream);
                self.note(stream, None);
            }
        }
    }

    /// Takes down whose call a stream is.
    fn note(&mut self, stream: u32, slot: Option<u16>) {
        if self.calls.is_empty() {
            self.first = stream;
        }
        self.calls.push_back(slot);
    }

    /// Whose call a stream is.
    fn slot(&self, stream: u32) -> Option<u16> {
        let at = usize::try_from(stream.checked_sub(self.first)? / 2).ok()?;
        *self.calls.get(at)?
    }
}

/// Appends the fields of a PutRequest.
fn put(message: &mut Vec<u8>, path: &[u8], value: &[u8]) {
    put_bytes(message, 1, Some(path));
    put_bytes(message, 2, Some(value));
}

impl Codec for Etcd {
    fn open(&mut self, output: &mut Vec<u8>) {
        self.grpc.open(output);
    }

    fn encode(&mut self, slot: u16, operation: Operation<'_>, output: &mut Vec<u8>) {
        self.message.clear();
        let (method, pending) = match operation {
            Operation::Set { path, value } => {
                put(&mut self.message, path, value);
                (&self.methods.put, Pending::Put)
            }
            Operation::Create { path, value } => {
                self.compare(path, value, 0);
                (&self.methods.txn, Pending::Compare)
            }
            Operation::CompareAndSet { path, value, token } => {
                self.compare(path, value, token);
                (&self.methods.txn, Pending::Compare)
            }
            Operation::Get { path } => {
                put_bytes(&mut self.message, 1, Some(path));
                put_int64(&mut self.message, 7, Some(1)); // serializable
                (&self.methods.range, Pending::Get)
            }
            Operation::Delete { path } => {
                put_bytes(&mut self.message, 1, Some(path));
                (&self.methods.delete, Pending::Delete)
            }
            Operation::Watch { path } => return self.watch(slot, path, output),
        };
        self.pending.put(slot, pending);
        let stream = self.grpc.call(method, &self.message, false, output);
        self.note(stream, Some(slot));
    }

    fn decode<'a>(&'a mut self, input: &'a [u8], output: &mut Vec<u8>) -> Result<Option<Taken<'a>>, Failure> {
        let within = |e: Failure| e.within("etcd");
        let Some((consumed, incoming)) = self.grpc.take(input, output).map_err(within)? else { return Ok(None) };
        let event = match incoming {
            None => None,
            Some(Incoming::Open) => Some(Event::Open),
            Some(Incoming::Message { stream, body }) => self.told(stream, &body).map_err(within)?,
            Some(Incoming::End { stream }) => Some(self.ended(stream).map_err(within)?),
        };
        Ok(Some(Taken { consumed, event }))
    }

    fn watch_stays(&self) -> bool {
        true
    }
}

impl Etcd {
    fn told(&mut self, stream: u32, body: &Body<'_>) -> Result<Option<Event<'static>>, Failure> {
        if self.watches == Some(stream) {
            return watched(body.bytes()).map(Some);
        }
        let slot = self.slot(stream).ok_or_else(|| Failure::new("a message to nothing that was asked"))?;
        let pending = self.pending.get(slot).ok_or_else(|| Failure::new("a message to nothing that was asked"))?;
        let response = KvResponse::decode(body.bytes()).context("a message")?;
        let revision = response.revision.ok_or_else(|| Failure::new("an answer without a revision"))?;
        let told = match (&pending, response.number) {
            (Pending::Put, _) | (Pending::Compare, Some(1)) => Told::Written(revision),
            (Pending::Compare, None | Some(0)) => Told::Mismatch,
            (Pending::Delete, Some(1)) => Told::Deleted,
            (Pending::Get, _) => {
                let file = response.file.ok_or_else(|| Failure::new("there is no such file"))?;
                let file = KeyValue::decode(file).context("a file")?;
                let at = usize::from(slot);
                if self.values.len() <= at {
                    self.values.resize(at + 1, Vec::new());
                }
                self.values[at].clear();
                self.values[at].extend_from_slice(file.value);
                Told::Value(file.mod_revision)
            }
            (pending, number) => return Err(Failure::new(format!("the answer {number:?} to {pending:?}"))),
        };
        *pending = Pending::Told(told);
        Ok(None)
    }

    fn ended(&mut self, stream: u32) -> Result<Event<'_>, Failure> {
        let slot = self.slot(stream).ok_or_else(|| Failure::new("the watches have ended"))?;
        if let Some(call) = self.calls.get_mut(usize::try_from((stream - self.first) / 2).unwrap_or(usize::MAX)) {
            *call = None;
        }
        while self.calls.front() == Some(&None) {
            self.calls.pop_front();
            self.first += 2;
        }
        let Some(Pending::Told(told)) = self.pending.take(slot) else {
            return Err(Failure::new("a call has ended without a message"));
        };
        let answer = match told {
            Told::Written(revision) => Answer::Written { revision, token: revision },
            Told::Mismatch => Answer::Mismatch,
            Told::Deleted => Answer::Deleted,
            Told::Value(token) => Answer::Value { token, value: &self.values[usize::from(slot)] },
        };
        Ok(Event::Answer { slot, answer })
    }
}

/// What is looked at of PutResponse, RangeResponse, TxnResponse and DeleteRangeResponse.
#[derive(Debug, Default)]
struct KvResponse<'a> {
    /// Of the store, from the header.
    revision: Option<i64>,
    /// Field 2 as a number: whether a Txn succeeded, how many a DeleteRange has removed.
    number: Option<u64>,
    /// Field 2 as a message: what a Range has found.
    file: Option<&'a [u8]>,
}

impl<'a> KvResponse<'a> {
    fn decode(message: &'a [u8]) -> Result<KvResponse<'a>, doozer::wire::Malformed> {
        let mut response = KvResponse::default();
        let mut fields = Reader::new(message);
        while let Some((number, payload)) = fields.next_field()? {
            match (number, payload) {
                (1, Payload::Bytes(header)) => response.revision = header_revision(header)?,
                (2, Payload::Varint(number)) => response.number = Some(number),
                (2, Payload::Bytes(file)) => response.file = Some(file),
                _ => {}
            }
        }
        Ok(response)
    }
}

fn header_revision(header: &[u8]) -> Result<Option<i64>, doozer::wire::Malformed> {
    let mut fields = Reader::new(header);
    while let Some((number, payload)) = fields.next_field()? {
        if let (3, Payload::Varint(revision)) = (number, payload) {
            return Ok(Some(revision.cast_signed()));
        }
    }
    Ok(None)
}

#[derive(Debug, Default)]
struct KeyValue<'a> {
    mod_revision: i64,
    value: &'a [u8],
}

impl<'a> KeyValue<'a> {
    fn decode(message: &'a [u8]) -> Result<KeyValue<'a>, doozer::wire::Malformed> {
        let mut file = KeyValue::default();
        let mut fields = Reader::new(message);
        while let Some((number, payload)) = fields.next_field()? {
            match (number, payload) {
                (3, Payload::Varint(revision)) => file.mod_revision = revision.cast_signed(),
                (5, Payload::Bytes(value)) => file.value = value,
                _ => {}
            }
        }
        Ok(file)
    }
}

/// What a WatchResponse says. Several changes in one are told as the last of them.
fn watched(message: &[u8]) -> Result<Event<'static>, Failure> {
    let (mut id, mut created, mut canceled, mut change) = (None, false, false, None);
    let mut fields = Reader::new(message);
    while let Some((number, payload)) = fields.next_field().context("a watch")? {
        match (number, payload) {
            (2, Payload::Varint(number)) => id = Some(number),
            (3, Payload::Varint(number)) => created = number != 0,
            (4, Payload::Varint(number)) => canceled = number != 0,
            (11, Payload::Bytes(event)) => change = Some(event),
            _ => {}
        }
    }
    let slot = id.and_then(|id| u16::try_from(id.checked_sub(1)?).ok());
    let slot = slot.filter(|_| !canceled).ok_or_else(|| Failure::new(format!("the watch {id:?} is refused")))?;
    if created {
        return Ok(Event::Watching { slot });
    }
    let change = change.ok_or_else(|| Failure::new("a watch tells of no change"))?;
    let (mut deleted, mut revision) = (false, None);
    let mut fields = Reader::new(change);
    while let Some((number, payload)) = fields.next_field().context("a change")? {
        match (number, payload) {
            (1, Payload::Varint(kind)) => deleted = kind == 1,
            (2, Payload::Bytes(file)) => revision = Some(KeyValue::decode(file).context("a change")?.mod_revision),
            _ => {}
        }
    }
    Ok(Event::Woken { slot, revision, deleted })
}
