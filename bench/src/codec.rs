//! What is said to the servers that are compared, as bytes: one codec a system, without a socket and without a clock.
//!
//! Each speaks the few messages that are measured and no more, so that the client costs about the same for all. An
//! operation has a slot, a number of the caller's; its answer comes with that slot. What a server answers is judged as
//! far as a codec can: an answer that is an error, that nothing was asked for, or that lacks something, ends the run.
//!
//! * [`doozer`]: frames of proto2 protobuf, answers by tag.
//! * [`zookeeper`]: jute records, answers in order.
//! * [`etcd`]: protobuf over gRPC, answers by stream; [`grpc`] is the HTTP/2 below it.

pub mod doozer;
pub mod etcd;
pub mod grpc;
#[cfg(test)]
mod replay;
pub mod zookeeper;

use crate::failure::Failure;

/// What is asked of a server. Paths are absolute, with components of letters, digits and dashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Makes a file that is not there. Where files have parents that have to be made, they are files, too.
    Create {
        /// Its path.
        path: &'a [u8],
        /// What it is to hold.
        value: &'a [u8],
    },
    /// Overwrites a file that is there.
    Set {
        /// Its path.
        path: &'a [u8],
        /// What it is to hold.
        value: &'a [u8],
    },
    /// Overwrites a file if it is as it was when `token` was learned.
    CompareAndSet {
        /// Its path.
        path: &'a [u8],
        /// What it is to hold.
        value: &'a [u8],
        /// From the answer that told of it last.
        token: i64,
    },
    /// Reads a file, from the server that is asked: the others may know more.
    Get {
        /// Its path.
        path: &'a [u8],
    },
    /// Removes a file that is there.
    Delete {
        /// Its path.
        path: &'a [u8],
    },
    /// Asks to be told of the next change to a file, which need not be there. The slot is in use until then.
    Watch {
        /// Its path.
        path: &'a [u8],
    },
}

/// What a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// To Create, Set and CompareAndSet.
    Written {
        /// Number of the write among all writes of the store; each takes the next one.
        revision: i64,
        /// For the next CompareAndSet of that file.
        token: i64,
    },
    /// To Get.
    Value {
        /// For the next CompareAndSet of that file.
        token: i64,
        /// What it holds.
        value: &'a [u8],
    },
    /// To Delete.
    Deleted,
    /// To CompareAndSet: the file has changed since; to Create: it is there.
    Mismatch,
}

/// What a server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// It has taken the connection.
    Open,
    /// It answers.
    Answer {
        /// Of the operation.
        slot: u16,
        /// What.
        answer: Answer<'a>,
    },
    /// From now on a change will be told.
    Watching {
        /// Of the watch.
        slot: u16,
    },
    /// There was a change.
    Woken {
        /// Of the watch.
        slot: u16,
        /// Its number, where that is told.
        revision: Option<i64>,
        /// The file is gone.
        deleted: bool,
    },
}

/// What was at the front of the bytes that were received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken<'a> {
    /// Its bytes.
    pub consumed: usize,
    /// What it says to the caller, if anything.
    pub event: Option<Event<'a>>,
}

/// One end of one connection.
pub trait Codec {
    /// Appends what opens the connection. [`Event::Open`] follows.
    fn open(&mut self, output: &mut Vec<u8>);

    /// Appends an operation. Its slot must not be in use.
    fn encode(&mut self, slot: u16, operation: Operation<'_>, output: &mut Vec<u8>);

    /// Takes what is at the front of `input`; none if it is not whole yet. May append what has to be said in return.
    ///
    /// # Errors
    /// The server says what it must not, or an error.
    fn decode<'a>(&'a mut self, input: &'a [u8], output: &mut Vec<u8>) -> Result<Option<Taken<'a>>, Failure>;

    /// Appends what keeps an idle connection alive. To be called every ten seconds.
    fn keep_alive(&mut self, _output: &mut Vec<u8>) {}

    /// Appends the last message of the connection. True if the server closes it then.
    fn close(&mut self, _output: &mut Vec<u8>) -> bool {
        false
    }

    /// Whether a watch goes on after it was woken, in its slot.
    fn watch_stays(&self) -> bool {
        false
    }
}

/// Operations that are outstanding, by slot.
#[derive(Debug)]
struct Slots<T>(Vec<Option<T>>);

impl<T> Slots<T> {
    fn new() -> Slots<T> {
        Slots(Vec::new())
    }

    /// # Panics
    /// The slot is in use.
    fn put(&mut self, slot: u16, pending: T) {
        let at = usize::from(slot);
        if self.0.len() <= at {
            self.0.resize_with(at + 1, || None);
        }
        let before = self.0[at].replace(pending);
        assert!(before.is_none(), "slot {slot} is in use");
    }

    fn get(&mut self, slot: u16) -> Option<&mut T> {
        self.0.get_mut(usize::from(slot))?.as_mut()
    }

    fn take(&mut self, slot: u16) -> Option<T> {
        self.0.get_mut(usize::from(slot))?.take()
    }
}
