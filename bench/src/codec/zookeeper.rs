//! ZooKeeper's protocol: jute records behind a length of 4 bytes, all numbers big-endian.
//!
//! ```text
//! request   len:4  xid:4  type:4  record          answer   len:4  xid:4  zxid:8  err:4  record (none if err)
//! string    len:4  bytes                          buffer   len:4  bytes
//! ```
//! Answers come in the order of the requests, with their xid; a watch's event has the xid -1, an answer to a ping -2. A
//! write's number is its zxid: a counter below the number of the leader's epoch. A session is opened and closed by a
//! write of the server's own.
//!
//! From ZooKeeper's `zookeeper.jute` and `ZooDefs.java`, and from what a server of 3.8.0 says.

use std::collections::{BTreeMap, VecDeque};

use super::{Answer, Codec, Event, Operation, Taken};
use crate::failure::Failure;

const CREATE2: i32 = 15;
const DELETE: i32 = 2;
const EXISTS: i32 = 3;
const GET_DATA: i32 = 4;
const SET_DATA: i32 = 5;
const PING: i32 = 11;
const CLOSE_SESSION: i32 = -11;

const XID_EVENT: i32 = -1;
const XID_PING: i32 = -2;

const NO_NODE: i32 = -101;
const BAD_VERSION: i32 = -103;
const NODE_EXISTS: i32 = -110;

/// Of an event: the node is gone.
const NODE_DELETED: i32 = 2;
/// Of an event: the session is well.
const SYNC_CONNECTED: i32 = 3;
/// How long a session lives without a word, in ms; the server may grant less.
const SESSION_TIMEOUT: i32 = 40_000;
/// A longer answer is none.
const LENGTH_MAX: usize = 4 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    Create,
    Write,
    Get,
    Delete,
    Watch,
    Close,
}

/// One connection, which is a session.
#[derive(Debug)]
pub struct ZooKeeper {
    open: bool,
    /// Xid of the oldest outstanding request.
    first: i32,
    pending: VecDeque<(u16, Pending)>,
    watches: BTreeMap<Vec<u8>, u16>,
}

impl ZooKeeper {
    /// A new connection.
    pub fn new() -> ZooKeeper {
        ZooKeeper { open: false, first: 1, pending: VecDeque::new(), watches: BTreeMap::new() }
    }

    /// Appends a request's header, and returns where it begins.
    fn begin(&mut self, slot: u16, pending: Pending, code: i32, output: &mut Vec<u8>) -> usize {
        // One a request for as long as a connection is used: far from the sign.
        let xid = self.first + i32::try_from(self.pending.len()).unwrap_or(0);
        self.pending.push_back((slot, pending));
        header(xid, code, output)
    }
}

/// Appends the header of a request whose length is yet unknown, and returns where it begins.
fn header(xid: i32, code: i32, output: &mut Vec<u8>) -> usize {
    let at = output.len();
    output.extend_from_slice(&[0; 4]);
    put(output, xid);
    put(output, code);
    at
}

/// Puts the length in.
fn end(at: usize, output: &mut [u8]) {
    let length = u32::try_from(output.len() - at - 4).unwrap_or(0);
    output[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

fn put(output: &mut Vec<u8>, number: i32) {
    output.extend_from_slice(&number.to_be_bytes());
}

fn put_bytes(output: &mut Vec<u8>, bytes: &[u8]) {
    put(output, i32::try_from(bytes.len()).unwrap_or(0));
    output.extend_from_slice(bytes);
}

impl Codec for ZooKeeper {
    fn open(&mut self, output: &mut Vec<u8>) {
        let at = output.len();
        output.extend_from_slice(&[0; 4]);
        put(output, 0); // version of the protocol
        output.extend_from_slice(&[0; 8]); // last zxid that was seen
        put(output, SESSION_TIMEOUT);
        output.extend_from_slice(&[0; 8]); // no session yet
        put_bytes(output, &[0; 16]); // its password
        output.push(0); // not content with a server that only reads
        end(at, output);
    }

    fn encode(&mut self, slot: u16, operation: Operation<'_>, output: &mut Vec<u8>) {
        let at;
        match operation {
            Operation::Create { path, value } => {
                at = self.begin(slot, Pending::Create, CREATE2, output);
                put_bytes(output, path);
                put_bytes(output, value);
                put(output, 1); // an access list of one:
                put(output, 31); // everything
                put_bytes(output, b"world");
                put_bytes(output, b"anyone");
                put(output, 0); // persistent
            }
            Operation::Set { path, value } | Operation::CompareAndSet { path, value, .. } => {
                at = self.begin(slot, Pending::Write, SET_DATA, output);
                put_bytes(output, path);
                put_bytes(output, value);
                let Operation::CompareAndSet { token, .. } = operation else { return end_with(output, at, -1) };
                put(output, i32::try_from(token).unwrap_or(i32::MAX));
            }
            Operation::Get { path } => {
                at = self.begin(slot, Pending::Get, GET_DATA, output);
                put_bytes(output, path);
                output.push(0);
            }
            Operation::Delete { path } => {
                at = self.begin(slot, Pending::Delete, DELETE, output);
                put_bytes(output, path);
                put(output, -1);
            }
            Operation::Watch { path } => {
                at = self.begin(slot, Pending::Watch, EXISTS, output);
                put_bytes(output, path);
                output.push(1);
                let before = self.watches.insert(path.to_vec(), slot);
                assert!(before.is_none(), "a session watches a path once");
            }
        }
        end(at, output);
    }

    fn decode<'a>(&'a mut self, input: &'a [u8], _: &mut Vec<u8>) -> Result<Option<Taken<'a>>, Failure> {
        let mut length = Reader(input);
        let Ok(length) = length.int() else { return Ok(None) };
        let length = usize::try_from(length).ok().filter(|&length| length <= LENGTH_MAX);
        let length = length.ok_or_else(|| Failure::new("ZooKeeper: an answer of an absurd length"))?;
        let Some(record) = input.get(4..4 + length) else { return Ok(None) };
        let event = self.judge(Reader(record)).map_err(|e| e.within("ZooKeeper"))?;
        Ok(Some(Taken { consumed: 4 + length, event }))
    }

    fn keep_alive(&mut self, output: &mut Vec<u8>) {
        let at = header(XID_PING, PING, output);
        end(at, output);
    }

    fn close(&mut self, output: &mut Vec<u8>) -> bool {
        let at = self.begin(0, Pending::Close, CLOSE_SESSION, output);
        end(at, output);
        true
    }
}

fn end_with(output: &mut Vec<u8>, at: usize, last: i32) {
    put(output, last);
    end(at, output);
}

impl ZooKeeper {
    fn judge<'a>(&mut self, mut record: Reader<'a>) -> Result<Option<Event<'a>>, Failure> {
        if !self.open {
            let (_version, timeout, session) = (record.int()?, record.int()?, record.long()?);
            if timeout <= 0 || session == 0 {
                return Err(Failure::new("no session is granted"));
            }
            self.open = true;
            return Ok(Some(Event::Open));
        }
        let (xid, zxid, error) = (record.int()?, record.long()?, record.int()?);
        match xid {
            XID_EVENT => return self.woken(&mut record).map(Some),
            XID_PING => return Ok(None),
            _ => {}
        }
        let (slot, pending) =
            self.pending.pop_front().filter(|_| xid == self.first).ok_or_else(|| {
                Failure::new(format!("an answer with xid {xid}; the next one is to have {}", self.first))
            })?;
        self.first += 1;
        let answer = match (pending, error) {
            (Pending::Create, NODE_EXISTS) | (Pending::Write, BAD_VERSION) => Answer::Mismatch,
            (Pending::Watch, 0 | NO_NODE) => return Ok(Some(Event::Watching { slot })),
            (Pending::Close, 0) => return Ok(None),
            (_, 1..) | (_, ..=-1) => return Err(Failure::new(format!("error {error} to {pending:?}"))),
            (Pending::Create, 0) => {
                record.buffer()?;
                record.written()?
            }
            (Pending::Write, 0) => record.written()?,
            (Pending::Get, 0) => {
                let value = record.buffer()?;
                Answer::Value { token: record.stat()?.1, value }
            }
            (Pending::Delete, 0) => Answer::Deleted,
        };
        if let Answer::Written { revision, .. } = answer
            && revision != zxid
        {
            return Err(Failure::new(format!("a write has the zxid {revision}, and its answer {zxid}")));
        }
        Ok(Some(Event::Answer { slot, answer }))
    }

    fn woken<'a>(&mut self, record: &mut Reader<'a>) -> Result<Event<'a>, Failure> {
        let (kind, state, path) = (record.int()?, record.int()?, record.buffer()?);
        let slot = self.watches.remove(path).filter(|_| state == SYNC_CONNECTED);
        let slot = slot.ok_or_else(|| {
            let path = String::from_utf8_lossy(path);
            Failure::new(format!("an event of {path} in state {state}, which is not watched"))
        })?;
        Ok(Event::Woken { slot, revision: None, deleted: kind == NODE_DELETED })
    }
}

/// Reads a record from its front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(|| Failure::new("a record is cut short"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn int(&mut self) -> Result<i32, Failure> {
        self.take().map(i32::from_be_bytes)
    }

    fn long(&mut self) -> Result<i64, Failure> {
        self.take().map(i64::from_be_bytes)
    }

    fn buffer(&mut self) -> Result<&'a [u8], Failure> {
        let length = usize::try_from(self.int()?).unwrap_or(0);
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| Failure::new("a record is cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// The zxid of a node's last change, and its version.
    fn stat(&mut self) -> Result<(i64, i64), Failure> {
        let (_created, changed) = (self.long()?, self.long()?);
        let (_ctime, _mtime) = (self.long()?, self.long()?);
        let version = self.int()?;
        // Versions of children and access list, owner, sizes, last change of the children.
        self.take::<32>()?;
        Ok((changed, i64::from(version)))
    }

    fn written(&mut self) -> Result<Answer<'a>, Failure> {
        let (revision, token) = self.stat()?;
        Ok(Answer::Written { revision, token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> ZooKeeper {
        ZooKeeper { open: true, ..ZooKeeper::new() }
    }

    fn answer(xid: i32, zxid: i64, error: i32, record: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let at = header(xid, 0, &mut bytes);
        bytes.truncate(bytes.len() - 4);
        bytes.extend_from_slice(&zxid.to_be_bytes());
        put(&mut bytes, error);
        bytes.extend_from_slice(record);
        end(at, &mut bytes);
        bytes
    }

    /// A benchmark that measured errors is no benchmark.
    #[test]
    fn an_answer_that_is_wrong_ends_the_run() {
        let set = Operation::Set { path: b"/a", value: b"b" };
        let stat = |zxid: i64| [&7_i64.to_be_bytes()[..], &zxid.to_be_bytes(), &[0; 52]].concat();
        for (wrong, why) in [
            (answer(1, 9, -101, b""), "error -101"),
            (answer(2, 9, 0, &stat(9)), "xid 2"),
            (answer(1, 9, 0, &stat(8)), "zxid 8"),
            (answer(1, 9, 0, b"short"), "cut short"),
            (answer(-1, -1, 0, &[0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 1, b'/']), "not watched"),
            (vec![0xff; 4], "absurd"),
        ] {
            let mut zookeeper = opened();
            zookeeper.encode(0, set, &mut Vec::new());
            let e = zookeeper.decode(&wrong, &mut Vec::new()).unwrap_err().to_string();
            assert!(e.contains(why), "{e}");
        }
        let mut zookeeper = opened();
        zookeeper.encode(4, set, &mut Vec::new());
        let right = answer(1, 9, 0, &stat(9));
        let event = zookeeper.decode(&right, &mut Vec::new()).unwrap().unwrap().event;
        assert_eq!(event, Some(Event::Answer { slot: 4, answer: Answer::Written { revision: 9, token: 0 } }));
    }

    /// A ping's answer comes between those of requests, and is none of them.
    #[test]
    fn pings_are_not_counted_as_requests() {
        let mut zookeeper = opened();
        let mut output = Vec::new();
        zookeeper.keep_alive(&mut output);
        assert_eq!(output, [0, 0, 0, 8, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 11]);
        zookeeper.encode(0, Operation::Watch { path: b"/a" }, &mut output);
        let pong = answer(-2, 3, 0, b"");
        let taken = zookeeper.decode(&pong, &mut output).unwrap().unwrap();
        assert_eq!((taken.consumed, taken.event), (20, None));
        // A file that is not there can be watched.
        let answer = answer(1, 3, NO_NODE, b"");
        let event = zookeeper.decode(&answer, &mut output).unwrap().unwrap().event;
        assert_eq!(event, Some(Event::Watching { slot: 0 }));
    }
}
